//! `cargo xtask bench-serve` from end to end: a stand-in for `alti serve` that says where a server of this test listens,
//! and peers that do not start.
#![cfg(unix)]

use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use xtask::peers::PEERS;

/// Answers every request of a connection, and keeps the bodies.
fn answer(stream: TcpStream, bodies: &Mutex<Vec<Value>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest);
        let mut body = vec![0; length.lines().next().unwrap_or_default().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        let mut out = stream.get_ref();
        if head.starts_with("GET /health ") {
            out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            continue;
        }
        assert!(head.starts_with("POST /completion "), "{head}");
        let body: Value = serde_json::from_slice(&body).unwrap();
        let tokens = &body["n_predict"];
        out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        for event in [
            r#"{"content":"a","stop":false}"#.to_owned(),
            r#"{"content":"b","stop":false}"#.to_owned(),
            format!(r#"{{"content":"","stop":true,"tokens_predicted":{tokens}}}"#),
        ] {
            let event = format!("data: {event}\n\n");
            out.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).unwrap();
        }
        bodies.lock().unwrap().push(body);
        out.write_all(b"0\r\n\r\n").unwrap();
    }
}

fn server() -> (SocketAddr, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = bodies.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let kept = kept.clone();
            thread::spawn(move || answer(stream.unwrap(), &kept));
        }
    });
    (address, bodies)
}

/// A folder with an `alti` whose server is at `address`, and with a peers' server that fails.
fn programs(address: SocketAddr) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let alti = format!(
        r#"case "$1" in
bench) echo '{{"results":[{{"test":"t","tokens_per_second":[1000.0]}}]}}' ;;
serve) echo "listening on http://{address}"; exec sleep 600 ;;
esac"#
    );
    for (name, script) in [("alti", alti.as_str()), ("llama-server", "echo it crashed >&2; exit 6")] {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(folder.path().join("m.gguf"), "").unwrap();
    folder
}

fn bench_serve(programs: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(["bench-serve", "--rounds", "1", "--requests", "2", "--models"])
        .arg(programs.join("m.gguf"));
    command.args(arguments).arg("--alti").arg(programs.join("alti"));
    for peer in PEERS {
        command.arg("--peer-bin").arg(format!("{}={}", peer.name, programs.display()));
    }
    command.output().unwrap()
}

#[test]
fn clients_are_counted_and_peers_that_fail_are_named() {
    let (address, bodies) = server();
    let programs = programs(address);
    let report = programs.path().join("report.json");
    let report = report.to_str().unwrap();
    let arguments = ["--clients", "3", "--rows", "short", "--sampling", "greedy,schema", "--json", report];
    let output = bench_serve(programs.path(), &arguments);
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(printed.contains("| m | 3 | 128 in, 128 out, greedy | "), "{printed}");
    assert!(printed.contains("- llama.cpp `clang: -fa on` on m, 3 clients"), "{printed}");
    assert!(errors.contains("it crashed"), "the log of a server that fails is shown: {errors}");

    // Two rows of three clients with two answers each, and one answer before each row that does not count.
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 2 * (3 * 2 + 1));
    assert!(bodies.iter().all(|body| body["prompt"].as_array().unwrap().len() == 128));
    let measured: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let sample = &measured["rows"][0]["turns"][0]["samples"][0];
    assert_eq!((&sample["generated"], &sample["prompts"]), (&(6 * 128).into(), &(6 * 128).into()));

    let again = bench_serve(programs.path(), &["--render", report]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), printed);
}

#[test]
fn a_missing_server_is_explained_before_anything_is_measured() {
    let (address, bodies) = server();
    let programs = programs(address);
    fs::remove_file(programs.path().join("llama-server")).unwrap();
    let output = bench_serve(programs.path(), &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && bodies.lock().unwrap().is_empty());
    assert!(errors.contains("llama-server is missing; `cargo xtask peers --servers` builds it"), "{errors}");
}
