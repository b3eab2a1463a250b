use super::scripted::Scripted;
use super::{Fixture, ids};
use alti_engine::EngineError;
use alti_engine::adapters::Lease as AdapterLease;
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::{EmbeddingJob, Job, Rejected, Sink, SlotAction, SlotName, Status};
use alti_server::ServerSettings;
use alti_server::mcp::McpServerSettings;
use alti_server::models::{Cancel, Inference};
use alti_store::{Group, UsageFilter};
use serde_json::{Value, json};
use std::sync::Arc;

fn line(id: &str, url: &str, body: Value) -> String {
    json!({ "custom_id": id, "method": "POST", "url": url, "body": body }).to_string() + "\n"
}

const CHAT: &str = "/v1/chat/completions";

fn chat(id: &str, text: &str) -> String {
    line(
        id,
        CHAT,
        json!({ "model": "tiny", "messages": [{ "role": "user", "content": text }], "max_tokens": 200 }),
    )
}

async fn make(fixture: &Fixture, endpoint: &str, lines: &str) -> String {
    let file = fixture.upload("in.jsonl", "batch", lines).await;
    let request = json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h", "metadata": { "job": "x" } });
    let made = fixture.post("/v1/batches", request).await;
    assert_eq!((&made["object"], &made["metadata"]["job"]), (&json!("batch"), &json!("x")));
    format!("/v1/batches/{}", made["id"].as_str().expect("an id"))
}

/// The lines of a file that a batch wrote.
fn lines(fixture: &Fixture, id: &Value) -> Vec<Value> {
    let id = id.as_str().expect("a file");
    let content = fixture.store.files().content("", id, 1 << 20).expect("its content");
    let text = String::from_utf8(content).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn every_line_is_answered_and_every_answer_is_counted() {
    let fixture = Fixture::scripted();
    let wrong = line("wrong", CHAT, json!({ "model": "tiny", "messages": 3 }));
    let path = make(&fixture, CHAT, &(chat("a", "say one") + &wrong + &chat("b", "say two"))).await;
    let done = fixture.until(&path, |batch| batch["status"] == "completed").await;
    assert_eq!(done["request_counts"], json!({ "total": 3, "completed": 2, "failed": 1 }));
    assert!(done["completed_at"].is_i64() && done["in_progress_at"].is_i64());
    let answers = lines(&fixture, &done["output_file_id"]);
    let said: Vec<(&str, &str)> = answers
        .iter()
        .map(|line| {
            assert_eq!((&line["response"]["status_code"], &line["error"]), (&json!(200), &Value::Null));
            let body = &line["response"]["body"];
            let text = body["choices"][0]["message"]["content"].as_str().expect("a text");
            (line["custom_id"].as_str().expect("an id"), text)
        })
        .collect();
    assert_eq!(said, [("a", "one"), ("b", "two")]);
    let errors = lines(&fixture, &done["error_file_id"]);
    assert_eq!(
        (&errors[0]["custom_id"], &errors[0]["response"]["status_code"]),
        (&json!("wrong"), &json!(400))
    );
    let usage = fixture.store.usage().summary(&UsageFilter::default(), Group::default()).expect("usage");
    assert_eq!(done["usage"]["input_tokens"], usage[0].totals.prompt_tokens);
    assert_eq!(done["usage"]["output_tokens"], 6);
    assert_eq!(usage[0].totals.requests, 2);
    assert_eq!(ids(&fixture.get("/v1/batches").await).len(), 1);
}

#[tokio::test]
async fn responses_and_embeddings_can_be_lines_too() {
    let fixture = Fixture::tiny();
    let embeddings = line("e", "/v1/embeddings", json!({ "model": "tiny", "input": "salt" }));
    let path = make(&fixture, "/v1/embeddings", &embeddings).await;
    let done = fixture.until(&path, |batch| batch["status"] == "completed").await;
    assert_eq!(done["request_counts"]["completed"], 1, "{:?}", lines(&fixture, &done["error_file_id"]));
    let responses = line(
        "r",
        "/v1/responses",
        json!({ "model": "tiny", "input": "hi", "max_output_tokens": 4, "stream": true, "background": true }),
    );
    let path = make(&fixture, "/v1/responses", &responses).await;
    let done = fixture.until(&path, |batch| batch["status"] == "completed").await;
    let answer = lines(&fixture, &done["output_file_id"]).remove(0);
    assert_eq!(answer["response"]["body"]["object"], "response");
}

#[tokio::test]
async fn a_file_that_is_no_batch_fails_with_all_that_is_wrong() {
    let fixture = Fixture::scripted();
    let path = make(&fixture, CHAT, &(chat("a", "x") + "nonsense\n" + &chat("a", "x"))).await;
    let failed = fixture.until(&path, |batch| batch["status"] == "failed").await;
    let errors = failed["errors"]["data"].as_array().expect("errors");
    let told: Vec<(&Value, &Value)> = errors.iter().map(|error| (&error["line"], &error["code"])).collect();
    assert_eq!(told, [(&json!(2), &json!("invalid_json_line")), (&json!(3), &json!("duplicate_custom_id"))]);
}

#[tokio::test]
async fn new_batches_are_read_and_given_up_while_another_one_of_the_key_answers() {
    let fixture = Fixture::scripted();
    let first = make(&fixture, CHAT, &chat("a", "forever")).await;
    fixture.until(&first, |batch| batch["status"] == "in_progress").await;
    let wrong = make(&fixture, CHAT, "nonsense\n").await;
    fixture.until(&wrong, |batch| batch["status"] == "failed").await;
    let second = make(&fixture, CHAT, &chat("a", "say two")).await;
    let read = fixture.until(&second, |batch| batch["status"] == "in_progress").await;
    assert_eq!(read["request_counts"], json!({ "total": 1, "completed": 0, "failed": 0 }));
    fixture.post(&format!("{second}/cancel"), Value::Null).await;
    let cancelled = fixture.until(&second, |batch| batch["status"] == "cancelled").await;
    assert_eq!(lines(&fixture, &cancelled["error_file_id"])[0]["error"]["code"], "batch_cancelled");
    assert_eq!(fixture.get(&first).await["status"], "in_progress");
}

#[tokio::test]
async fn lines_that_lack_something_for_good_are_told_what() {
    let gone = McpServerSettings {
        name: "gone".into(),
        command: Some("/nonexistent/program".into()),
        ..McpServerSettings::default()
    };
    let settings = ServerSettings { mcp_servers: vec![gone], ..ServerSettings::default() };
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = Fixture::with_settings(Arc::new(Scripted), folder, None, settings);
    let tools = json!([{ "type": "mcp", "server_label": "gone", "require_approval": "never" }]);
    let url = "/v1/responses";
    let good = line("good", url, json!({ "model": "tiny", "input": "say one" }));
    let body = json!({ "model": "tiny", "input": "say two", "tools": tools });
    // The first wait for the server, and tell the others that they did so in vain: more than are in the works at once.
    let bad: String = (0..200).map(|number| line(&format!("bad {number}"), url, body.clone())).collect();
    let path = make(&fixture, url, &(bad + &good)).await;
    let done = fixture.until(&path, |batch| batch["status"] == "completed").await;
    assert_eq!(done["request_counts"], json!({ "total": 201, "completed": 1, "failed": 200 }));
    for (number, error) in lines(&fixture, &done["error_file_id"]).into_iter().enumerate() {
        assert_eq!(error["custom_id"], format!("bad {number}"));
        assert_eq!(error["response"]["status_code"], 503);
        let message = error["response"]["body"]["error"]["message"].as_str().expect("a message");
        assert!(message.contains("MCP server `gone`"), "{message}");
    }
}

#[tokio::test]
async fn a_batch_that_is_cancelled_keeps_what_it_has() {
    let fixture = Fixture::scripted();
    // The first lines never end by themselves within a test: the rest waits behind them.
    let text: String = (0..40).map(|number| chat(&number.to_string(), "forever")).collect();
    let path = make(&fixture, CHAT, &(chat("first", "say one") + &text)).await;
    fixture.until(&path, |batch| batch["request_counts"]["completed"] == 1).await;
    let cancelling = fixture.post(&format!("{path}/cancel"), Value::Null).await;
    assert_eq!(cancelling["status"], "cancelling");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let fixture = Fixture::scripted();
    let file = fixture.upload("in.jsonl", "batch", "{}").await;
    let other = fixture.upload("in.jsonl", "assistants", &chat("a", "say one")).await;
    for (request, param) in [
        (json!({ "endpoint": CHAT, "completion_window": "24h" }), "input_file_id"),
        (
            json!({ "input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h" }),
            "input_file_id",
        ),
        (json!({ "input_file_id": other, "endpoint": CHAT, "completion_window": "24h" }), "input_file_id"),
        (json!({ "input_file_id": file, "endpoint": "/v1/files", "completion_window": "24h" }), "endpoint"),
        (
            json!({ "input_file_id": file, "endpoint": CHAT, "completion_window": "soon" }),
            "completion_window",
        ),
    ] {
        let (status, error) = fixture.call("POST", "/v1/batches", request.clone()).await;
        assert!((400..500).contains(&status), "{request}");
        assert_eq!(error["error"]["param"], param, "{request}: {error}");
    }
    assert_eq!(fixture.call("GET", "/v1/batches/batch_none", Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_batch_goes_on_where_it_was_when_the_next_server_starts() {
    let fixture = Fixture::scripted();
    let text: String = (0..20).map(|number| chat(&number.to_string(), "forever")).collect();
    let path = make(&fixture, CHAT, &(chat("first", "say one") + &text)).await;
    fixture.until(&path, |batch| batch["request_counts"]["completed"] == 1).await;
    // What a kill would leave: a line with its answer, and others that wait. The next server's model answers them.
    fixture.state.start_draining();
    let Fixture { folder, .. } = fixture;
    let next = Fixture::with(Arc::new(Obedient), folder, None);
    let done = next.until(&path, |batch| batch["status"] == "completed").await;
    assert_eq!(done["request_counts"], json!({ "total": 21, "completed": 21, "failed": 0 }));
    let usage = next.store.usage().summary(&UsageFilter::default(), Group::default()).expect("usage");
    assert_eq!(usage[0].totals.requests, 21, "no line is answered or billed twice");
}

/// As [`Scripted`], but it does not speak forever.
struct Obedient;

impl Inference for Obedient {
    fn slot(&self, name: SlotName, _: SlotAction<'_>) -> Result<usize, EngineError> {
        Err(EngineError::EmptySlot { slot: name.slot })
    }

    fn submit(&self, job: Job, sink: Sink) -> Result<Cancel, Rejected> {
        let prompt: Vec<u32> = "user: say two\nassistant:".bytes().map(u32::from).collect();
        Scripted.submit(Job { prompt, ..job }, sink)
    }

    fn embed(&self, job: EmbeddingJob, sink: Sink) -> Result<Cancel, Rejected> {
        Scripted.embed(job, sink)
    }

    fn check_grammar(&self, source: &GrammarSource) -> Result<(), EngineError> {
        Scripted.check_grammar(source)
    }

    fn status(&self) -> Status {
        Scripted.status()
    }

    fn context(&self) -> usize {
        Scripted.context()
    }

    fn max_running(&self) -> usize {
        Scripted.max_running()
    }

    fn embedding_length(&self) -> usize {
        Scripted.embedding_length()
    }

    fn load_adapter(&self, name: &str, path: &std::path::Path) -> Result<AdapterLease, EngineError> {
        Scripted.load_adapter(name, path)
    }

    fn drop_adapter(&self, name: &str) -> bool {
        Scripted.drop_adapter(name)
    }

    fn shutdown(&self, deadline: std::time::Duration) {
        Scripted.shutdown(deadline);
    }
}
