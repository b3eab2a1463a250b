//! The comparing commands from end to end, with stand-ins for both engines that print what the real ones print: what
//! is tested is who is called with what, how the answers are read, and what comes out.
#![cfg(unix)]

use alti_formats::ModelConfig;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use xtask::peers::PEERS;
use xtask::random_model;

/// Stands in for `alti`: answers `bench`, `perplexity` and `run`.
const ALTI: &str = r#"case "$1" in
bench) case "$*" in *"-b 8"*) rate=800.0 ;; *"-p 512"*) rate=300.0 ;; *) rate=60.0 ;; esac
  profile='"profile":{"seconds":2,"operations":[{"product":true,"running_seconds":1.5}]}'
  echo "{\"results\":[{\"test\":\"t\",\"tokens_per_second\":[$rate],$profile}]}" ;;
perplexity) echo '{"perplexity":10.02,"tokens":1020,"chunks":4}' ;;
run) ;;
*) echo "unexpected: $*" >&2; exit 2 ;;
esac"#;

/// Stands in for `llama-bench`: faster prompts without flash attention, faster generation with it.
const LLAMA_BENCH: &str = r#"case "$*" in *"-fa on"*|*"-fa 1"*) pp=150.0 tg=80.0 ;; *) pp=200.0 tg=75.0 ;; esac
case "$*" in
*"-p 512"*) echo "[{\"n_prompt\":512,\"n_gen\":0,\"samples_ts\":[$pp]}]" ;;
*) echo "[{\"n_prompt\":0,\"n_gen\":128,\"n_depth\":0,\"samples_ts\":[$tg]}]" ;;
esac"#;

/// Stands in for `llama-batched-bench`, and aborts with flash attention.
const LLAMA_BATCHED_BENCH: &str = r#"case "$*" in *"-fa on"*) echo aborted >&2; exit 6 ;; esac
echo '|  B | S_TG t/s |'; echo '|----|----------|'; echo '|  8 |   400.00 |'"#;

const ANSWER: &str = ":";

const LLAMA_PERPLEXITY: &str = r#"echo "0.01 I Final estimate: PPL = 10.0000 +/- 0.25000" >&2"#;

/// A folder with the stand-ins and a small model.
fn programs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let programs = [
        ("alti", ALTI),
        ("llama-bench", LLAMA_BENCH),
        ("llama-batched-bench", LLAMA_BATCHED_BENCH),
        ("llama-perplexity", LLAMA_PERPLEXITY),
        ("llama-completion", ANSWER),
        ("llama-cli", ANSWER),
    ];
    for (name, script) in programs {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let shape = ModelConfig {
        embedding_length: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        feed_forward_length: 96,
        layers: 1,
        no_rope: vec![false],
        ..random_model::llama_3_2_1b()
    };
    random_model::write(&folder.path().join("m.gguf"), &shape).unwrap();
    folder
}

fn xtask(programs: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).arg("--json").arg(programs.join("report.json"));
    for peer in PEERS {
        command.arg("--peer-bin").arg(format!("{}={}", peer.name, programs.display()));
    }
    command.arg("--alti").arg(programs.join("alti")).output().unwrap()
}

fn bench(programs: &Path, arguments: &[&str]) -> Output {
    let model = programs.join("m.gguf");
    let common = ["bench-peers", "--threads", "2", "--models", model.to_str().unwrap()];
    xtask(programs, &[&common[..], arguments].concat())
}

#[test]
fn speed_is_reported_as_a_ratio_to_the_best_setting_of_the_best_peer() {
    let programs = programs();
    let output =
        bench(programs.path(), &["--rows", "prefill,decode,batch", "--batches", "8", "--rounds", "3"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for row in [
        "| m | 2 | prefill 512 | tokens/s | 300 | 200 (`clang: -fa off`) | 200 (`gcc: -fa 0 -rtr 1`) | 1.50 |",
        " | 75 % |",
        "| m | 2 | decode 128 | tokens/s | 60.0 | 80.0 (`clang: -fa on",
        "| m | 2 | decode 64 of 8 sequences | tokens/s | 800 | 400 (`clang: -fa off",
        "- llama.cpp `gcc: -fa on --kv-unified` on m, decode 64 of 8 sequences",
        "| memory, streamed | ",
    ] {
        assert!(printed.contains(row), "{row} in {printed}");
    }

    let report: Value =
        serde_json::from_slice(&fs::read(programs.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["rows"][0]["turns"][0]["samples"], serde_json::json!([300.0, 300.0, 300.0]));
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);

    // After the trials the engines took turns: alti, two settings of one peer, two of the other.
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let runs = log.lines().filter(|line| line.starts_with('$') && line.contains(" 512 "));
    let runs = runs.filter(|line| !line.contains("--profile"));
    let turns: Vec<bool> = runs.map(|line| line.contains("/alti bench")).skip_while(|ours| !ours).collect();
    assert_eq!(turns, [true, false, false, false, false].repeat(3));
}

#[test]
fn settings_can_be_tried_with_less_work_than_is_measured() {
    let programs = programs();
    let arguments = ["--rows", "prefill", "--prefill", "2048", "--rounds", "1", "--longest-trial", "512"];
    let output = bench(programs.path(), &arguments);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    // The stand-in of llama-bench answers no prompt of 2,048: its trials are of 512, and the rounds fail.
    assert!(log.contains("-p 512 -n 0") && log.contains("/alti bench"), "{log}");
    assert!(!output.status.success() && log.contains("not prefill 2048"), "{log}");
}

#[test]
fn a_cold_start_is_timed_and_weighed_and_a_measurement_shown_again() {
    let programs = programs();
    let output = bench(programs.path(), &["--rows", "cold", "--rounds", "1"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        printed.contains("first token of a new process | ms | ") && printed.contains(" MiB | "),
        "{printed}"
    );

    let report = programs.path().join("report.json");
    let again = xtask(programs.path(), &["bench-peers", "--render", report.to_str().unwrap()]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), printed);
}

#[test]
fn perplexity_is_reported_beside_the_peers() {
    let programs = programs();
    let output = xtask(programs.path(), &["compare-quality", "--only", "perplexity", "--model", "m.gguf"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("| 4 chunks | 10.0200 | 10.0000 ± 0.2500 | +0.200 % |"), "{printed}");
}

#[test]
fn a_missing_peer_is_explained() {
    let programs = programs();
    fs::remove_file(programs.path().join("llama-bench")).unwrap();
    let output = bench(programs.path(), &["--rows", "decode"]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("llama-bench is missing; `cargo xtask peers` builds it"), "{errors}");
}
