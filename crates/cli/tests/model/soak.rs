//! What many clients at once can rely on, in seconds; `cargo xtask soak-serve` looks at the same for as long as one likes.

use crate::serve::{Server, ask};
use crate::store::user;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Streams that wait behind the others.
const IDLE: usize = 100;
/// Clients that get one answer after another.
const ACTIVE: usize = 6;

/// The body of a request for `tokens` tokens, as a stream.
fn completion(prompt: &str, tokens: usize, probabilities: usize) -> String {
    json!({
        "prompt": prompt, "n_predict": tokens, "stream": true, "ignore_eos": true, "temperature": 0,
        "n_probs": probabilities
    })
    .to_string()
}

fn is_whole(answer: &Option<(u16, String)>, end: &str) -> bool {
    answer.as_ref().is_some_and(|(status, body)| *status == 200 && body.contains(end))
}

/// One answer to each idle stream, while the active clients ask.
fn wave(address: &str) {
    let chat = json!({
        "messages": [{"role": "user", "content": "Wait."}],
        "max_tokens": 1, "stream": true, "service_tier": "flex"
    })
    .to_string();
    thread::scope(|scope| {
        for client in 0..ACTIVE {
            scope.spawn(move || {
                for round in 0..3 {
                    let body = completion(&format!("Letter {round} of friend {client}:"), 12, 0);
                    let answer = ask(address, "POST", "/completion", &body);
                    assert!(is_whole(&answer, "\"stop\":true"), "an active client got {answer:?}");
                }
            });
        }
        for _ in 0..IDLE {
            scope.spawn(|| {
                let answer = ask(address, "POST", "/v1/chat/completions", &chat);
                assert!(is_whole(&answer, "[DONE]"), "an idle stream got {answer:?}");
            });
        }
    });
}

/// Resident memory in KiB, where the system says.
fn memory(server: &Server) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
}

#[test]
fn many_streams_are_all_answered_beside_one_that_is_not_read() {
    let user = user();
    let places = format!("engine.max_running={ACTIVE}");
    // The unread answer is kept for as long as this takes.
    let patience = "server.body_timeout_seconds=600";
    let server =
        Server::start(&user, &["--set", &places, "--set", "engine.max_waiting=200", "--set", patience]);

    // An answer of more bytes than sockets hold for a client that reads none of them.
    let body = completion("The longest story is this:", 700, 100);
    let mut unread = TcpStream::connect(&server.address).expect("a connection");
    unread.set_read_timeout(Some(Duration::from_secs(120))).expect("a time limit");
    let head = format!(
        "POST /completion HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        server.address,
        body.len()
    );
    unread.write_all(head.as_bytes()).expect("the request is read");

    wave(&server.address);
    let before = memory(&server);
    wave(&server.address);
    wave(&server.address);
    if let (Some(before), Some(after)) = (before, memory(&server)) {
        // What the unread answer still gains is counted in.
        assert!(after < before + 64 * 1024, "memory grew from {before} to {after} KiB");
    }

    let mut answer = Vec::new();
    unread.read_to_end(&mut answer).expect("the unread answer is still there");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", answer.chars().take(300).collect::<String>());
    let last = answer.lines().rev().find_map(|line| line.strip_prefix("data: "));
    let last: Value = serde_json::from_str(last.expect("it has events")).expect("JSON");
    assert_eq!((&last["stop"], &last["tokens_predicted"]), (&json!(true), &json!(700)));
}
