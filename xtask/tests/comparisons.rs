//! The comparing commands from end to end, with stand-ins for both engines that print what the real ones print: what
//! is tested is who is called with what, how the answers are read, and what comes out.
#![cfg(unix)]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// Stands in for `alti`: answers `bench` and `perplexity`.
const ALTI: &str = r#"case "$1" in
bench) echo '{"model":"m","backend":"cpu","isa":"avx2","threads":2,"batch":512,"results":[
  {"test":"pp512","tokens_per_second":[300.0]},{"test":"tg128","tokens_per_second":[60.0]}]}' ;;
perplexity) echo '{"perplexity":10.02,"tokens":1020,"chunks":4}' ;;
*) echo "unexpected: $*" >&2; exit 2 ;;
esac"#;

/// Stands in for `llama-bench`: faster prompts without flash attention, faster generation with it.
const LLAMA_BENCH: &str = r#"case "$*" in *"--flash-attn on"*) pp=150.0 tg=80.0 ;; *) pp=200.0 tg=75.0 ;; esac
echo "[{\"backends\":\"CPU\",\"n_ubatch\":512,\"type_k\":\"f16\",\"n_prompt\":512,\"n_gen\":0,\"samples_ts\":[$pp]},
  {\"backends\":\"CPU\",\"n_ubatch\":512,\"type_k\":\"f16\",\"n_prompt\":0,\"n_gen\":128,\"samples_ts\":[$tg]}]""#;

const LLAMA_PERPLEXITY: &str = r#"echo "0.01 I Final estimate: PPL = 10.0000 +/- 0.25000" >&2"#;

/// A folder with the stand-ins.
fn programs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in
        [("alti", ALTI), ("llama-bench", LLAMA_BENCH), ("llama-perplexity", LLAMA_PERPLEXITY)]
    {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

fn xtask(programs: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).args(["--model", "m.gguf"]).arg("--json").arg(programs.join("report.json"));
    command.arg("--alti").arg(programs.join("alti")).arg("--llama-bin").arg(programs).output().unwrap()
}

#[test]
fn speed_is_reported_as_a_ratio_to_the_peers_better_setting() {
    let programs = programs();
    let output = xtask(programs.path(), &["bench-peers", "--threads", "2", "--rounds", "3"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("| m.gguf | 2 | pp512 | 300.0 | 200.0 | off | 1.50 |"), "{printed}");
    assert!(printed.contains("| m.gguf | 2 | tg128 | 60.0 | 80.0 | on | 0.75 |"), "{printed}");

    let report: Value =
        serde_json::from_slice(&fs::read(programs.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["rows"][0]["alti"], serde_json::json!([300.0, 300.0, 300.0]));
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);

    // The engines took turns.
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let turns: Vec<bool> =
        log.lines().filter(|line| line.starts_with('$')).map(|line| line.contains("/alti bench")).collect();
    assert_eq!(turns, [true, false, false].repeat(3));
}

#[test]
fn perplexity_is_reported_beside_the_peers() {
    let programs = programs();
    let output = xtask(programs.path(), &["compare-quality", "--only", "perplexity"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("| 4 chunks | 10.0200 | 10.0000 ± 0.2500 | +0.200 % |"), "{printed}");
}

#[test]
fn a_missing_peer_is_explained() {
    let programs = programs();
    fs::remove_file(programs.path().join("llama-bench")).unwrap();
    let output = xtask(programs.path(), &["bench-peers", "--threads", "2"]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("llama-bench is missing; `cargo xtask peers` builds it"), "{errors}");
}
