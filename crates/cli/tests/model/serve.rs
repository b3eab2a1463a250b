//! `alti serve` as a process: it answers, ends when it is asked to, and loses nothing when it is killed.

use crate::common::User;
use crate::store::user;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; killed when it is dropped.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(user: &User, arguments: &[&str]) -> Server {
        Server::start_with_log(user, arguments, Stdio::null())
    }

    fn start_with_log(user: &User, arguments: &[&str], log: Stdio) -> Server {
        let mut command = user.command(&["serve", "--listen", "127.0.0.1:0", "-c", "1024"]);
        let mut process =
            command.args(arguments).stdout(Stdio::piped()).stderr(log).spawn().expect("the binary runs");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("listening on http://").expect("an address").to_owned();
        Server { process, address }
    }

    /// Status and body of the answer to a request; nothing when the connection broke.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        ask(&self.address, method, path, body)
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("there is kill").success());
    }

    /// Waits for its end; whether it was a good one.
    fn ended(mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().expect("a process of ours") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn ask(address: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn chat(tokens: u32) -> String {
    let messages = json!([{ "role": "user", "content": "Name three rivers." }]);
    json!({ "messages": messages, "max_tokens": tokens, "temperature": 0 }).to_string()
}

/// Requests that `alti usage` knows of.
fn metered(user: &User) -> u64 {
    user.json(&["usage", "--json"])["total"]["requests"].as_u64().expect("a number of requests")
}

#[test]
fn a_server_answers_meters_and_ends_when_asked() {
    let user = user();
    let server = Server::start(&user, &[]);
    let (status, body) = server.ask("POST", "/v1/chat/completions", &chat(8)).expect("an answer");
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    assert!(answer["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()));
    let (status, body) = server.ask("POST", "/v1/chat/completions", "{\"messages\": 5}").expect("an answer");
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("messages"), "it says which field: {body}");
    assert_eq!(server.ask("GET", "/health", "").expect("an answer").0, 200);
    assert_eq!(metered(&user), 1);
    server.signal("-TERM");
    assert!(server.ended(), "it ends well");
}

#[test]
fn the_log_has_what_is_said_where_the_owner_wants_it() {
    let user = user();
    for (asked, in_the_log) in [(&["--set", "server.log_text=true"][..], 1), (&[], 0)] {
        let log = std::fs::File::create(user.path("log")).expect("the file can be written");
        let server = Server::start_with_log(&user, &[&["--log", "info"], asked].concat(), log.into());
        let (status, answer) = server.ask("POST", "/v1/chat/completions", &chat(8)).expect("an answer");
        assert_eq!(status, 200, "{answer}");
        server.signal("-TERM");
        assert!(server.ended(), "it ends well");
        let log = std::fs::read_to_string(user.path("log")).expect("it is text");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let id = answer["id"].as_str().expect("an id");
        assert!(log.contains("answered"), "{log}");
        assert_eq!(log.matches("Name three rivers.").count(), in_the_log, "{log}");
        assert_eq!(log.matches(id).count(), in_the_log, "{log}");
    }
}

#[test]
fn what_is_in_the_works_at_the_end_is_kept_and_what_it_leaves_in_the_cache() {
    let user = user();
    let kept = format!("engine.prefix_folder={}", user.path("prefixes").display());
    let ask = |server: &Server, method: &str, path: &str, body: &Value| -> Value {
        let (status, body) = server.ask(method, path, &body.to_string()).expect("an answer");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    let server = Server::start(&user, &["--set", &kept]);
    // Nobody waits for it: it is in the works when the server is asked to end.
    let text = "The river and the mountain. ".repeat(20);
    let first = json!({ "input": text, "max_output_tokens": 130, "temperature": 0, "background": true });
    let first = ask(&server, "POST", "/v1/responses", &first);
    server.signal("-TERM");
    assert!(server.ended(), "it ends well");
    let server = Server::start(&user, &["--set", &kept]);
    let path = format!("/v1/responses/{}", first["id"].as_str().expect("an id"));
    let first = ask(&server, "GET", &path, &Value::Null);
    assert!(["completed", "incomplete"].contains(&first["status"].as_str().expect("a status")), "{first}");
    let next = json!({ "input": "And?", "max_output_tokens": 1, "previous_response_id": first["id"] });
    let next = ask(&server, "POST", "/v1/responses", &next);
    let cached = next["usage"]["input_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    let prompt = first["usage"]["input_tokens"].as_u64().expect("a number");
    assert!(cached > prompt, "{cached} cached tokens are more than the prompt's {prompt}: {}", next["usage"]);
}

#[test]
fn a_killed_server_has_lost_nothing_that_it_answered() {
    let user = user();
    let mut acknowledged = 0;
    for round in 0..3 {
        let server = Server::start(&user, &[]);
        let address = server.address.clone();
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || {
                    let answers =
                        std::iter::from_fn(|| ask(&address, "POST", "/v1/chat/completions", &chat(4)));
                    answers.filter(|(status, _)| *status == 200).count() as u64
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(400 + 170 * round));
        server.signal("-KILL");
        assert!(!server.ended());
        acknowledged += clients.into_iter().map(|client| client.join().expect("no panic")).sum::<u64>();
        assert!(metered(&user) >= acknowledged, "{} of {acknowledged} are metered", metered(&user));
    }
    assert!(acknowledged > 0);
}

#[test]
fn settings_that_are_none_are_refused_with_their_names() {
    let user = User::new();
    let wrong = |arguments: &[&str], says: &str| {
        let done = user.run(arguments);
        assert_eq!(done.code, 2, "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    };
    wrong(&["serve", "--set", "engine.contxt=1"], "contxt");
    wrong(&["config", "check", "--set", "engine.kv_type=f7"], "f32, bf16, q8_0");
    wrong(&["config", "check", "--set", "server.listen=nowhere"], "listen");
    wrong(&["config", "check", "--set", "server.machine_watts=-5"], "machine_watts");
    // What a server would not start with, or would break by.
    wrong(&["config", "check", "--set", "server.listen="], "listen is empty");
    wrong(&["config", "check", "--set", "server.drain_seconds=9223372036854775807"], "drain_seconds");
    wrong(&["config", "check", "--set", "server.idle_unload_seconds=9223372036854775807"], "never");
    wrong(&["config", "check", "--set", "server.idle_unload_seconds=soon"], "never");
    wrong(&["config", "check", "--set", "engine.threads=1025"], "threads");
    let tls = ["server.tls_certificate=absent.pem", "server.tls_private_key=absent.pem"];
    wrong(&["config", "check", "--set", tls[0], "--set", tls[1]], "tls_certificate is absent.pem");
    wrong(&["serve", "--listen", "127.0.0.1:0", "--set", tls[0], "--set", tls[1]], "absent.pem");
    user.write("alti.toml", "[server]\nmodel_prices = [{model = \"a\", prompt = -1, generated = 2}]\n");
    wrong(&["config", "check", "alti.toml"], "model_prices[0].prompt");
    let prices = "[[server.model_prices]]\nmodel = \"a\"\nprompt = 0.1\ngenerated = 2.5\n";
    let never = "idle_unload_seconds = \"never\"\n";
    user.write("alti.toml", format!("[server]\n{never}price_per_kwh = 0.3\nmachine_watts = 90.0\n{prices}"));
    let told = user.run(&["config", "check", "alti.toml"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stdout.contains(never), "{}", told.stdout);
    user.write("again.toml", &told.stdout);
    assert_eq!(user.run(&["config", "check", "again.toml"]).stdout, told.stdout, "it is a file of settings");
    user.write("alti.toml", "[engine]\nstep_tokens = 0\n");
    wrong(&["config", "check", "alti.toml"], "step_tokens");
    user.write("alti.toml", "[engine]\nstep_token = 10\n");
    wrong(&["config", "check", "alti.toml"], "step_token");
    let example = user.run(&["config", "example"]);
    user.write("alti.toml", &example.stdout);
    assert_eq!(user.run(&["config", "check", "alti.toml"]).code, 0);
}

#[test]
fn models_that_settings_name_and_that_cannot_be_read_are_told_before_a_request_is() {
    let user = User::new();
    user.write("broken.gguf", "this is no model");
    for (model, code) in [("absent.gguf", 3), ("no-such-model", 3), ("broken.gguf", 5)] {
        let draft = format!("engine.draft_model={model}");
        let says = ["engine.draft_model: ", model];
        user.fails(&["config", "check", "--set", &draft], code, &says);
        // Nothing else is loaded at the start.
        let serve = ["serve", "--listen", "127.0.0.1:0", "--set", "server.default_model=other"];
        user.fails(&[&serve[..], &["--set", &draft]].concat(), code, &says);
        let pinned = format!("server.pinned_models={model}");
        user.fails(&["config", "check", "--set", &pinned], code, &["server.pinned_models: ", model]);
    }
    // One of the catalogue is fetched when a server starts.
    assert_eq!(user.run(&["config", "check", "--set", "engine.draft_model=smollm2-135m-instruct"]).code, 0);
}

#[test]
fn a_collector_is_named_by_file_environment_or_flag() {
    let user = User::new();
    let standard = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318"), ("OTEL_SERVICE_NAME", "front")];
    let check = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = user.command(&[&["config", "check"], arguments].concat());
        let output = command.envs(variables.iter().copied()).output().expect("the binary runs");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    assert!(!check(&[], &[]).contains("otlp_endpoint"), "off by default");
    let told = check(&[], &standard);
    assert!(
        told.contains("otlp_endpoint = \"http://standard:4318\"") && told.contains("\"front\""),
        "{told}"
    );
    let own = ("ALTI_SERVER_OTLP_ENDPOINT", "http://own:4318");
    assert!(check(&[], &[standard[0], own]).contains("http://own:4318"));
    assert!(check(&["--set", "server.otlp_endpoint=http://flag:4318"], &[own]).contains("http://flag:4318"));
    assert!(!check(&[], &[standard[0], ("OTEL_SDK_DISABLED", "true")]).contains("otlp_endpoint"));
    assert!(check(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")]).contains("otlp_endpoint is"));
    let refused = user.run(&["serve", "--otlp-endpoint", "collector"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("http://127.0.0.1:4318"), "{}", refused.stderr);
}
