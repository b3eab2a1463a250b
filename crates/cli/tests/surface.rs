//! What every user meets: help, exit codes, pipes, colours, completions, the doctor.

mod common;

use common::{User, tokenizer_metadata, write_metadata};
use std::process::Stdio;

const COMMANDS: [&str; 20] = [
    "chat",
    "run",
    "bench",
    "perplexity",
    "logits",
    "pull",
    "list",
    "show",
    "rm",
    "convert",
    "quantize",
    "tokenize",
    "keys",
    "usage",
    "backup",
    "restore",
    "plan",
    "doctor",
    "completions",
    "man",
];

/// The help of the program and of each command, as a person sees it. `INSTA_UPDATE=always cargo test`
/// takes a changed text over.
#[test]
fn help_is_as_written() {
    let user = User::new();
    let program = user.run(&["--help"]);
    insta::assert_snapshot!("alti", program.stdout);
    for command in COMMANDS {
        let help = user.run(&[command, "--help"]);
        assert!(help.stdout.contains("Example"), "{command} has no examples");
        assert!(program.stdout.contains(&format!("\n  {command} ")), "{command} is not in the list");
        insta::assert_snapshot!(command, help.stdout);
    }
}

#[test]
fn exit_codes_and_variables_are_documented() {
    let user = User::new();
    let codes = user.run(&["help", "exit-codes"]).stdout;
    for code in ["   0  ", "   2  ", "   3  ", "   4  ", " 130  "] {
        assert!(codes.contains(code), "{codes}");
    }
    assert!(user.run(&["help", "environment"]).stdout.contains("ALTI_HOME"));
    assert_eq!(user.run(&["no-such-command"]).code, 2);
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let user = User::new();
    for arguments in [&["--help"][..], &["list"], &["show", "absent"], &["help", "environment"]] {
        for colors in [None, Some("1")] {
            let mut command = user.command(arguments);
            colors.map(|value| command.env("NO_COLOR", value));
            let output = command.output().expect("the binary runs");
            assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{arguments:?}");
        }
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let user = User::new();
    let model = user.path("tokenizer.gguf");
    write_metadata(&model, &tokenizer_metadata());
    // More than a pipe holds.
    user.write("text.txt", "hello ".repeat(100_000));
    for more in [&[][..], &["--json"]] {
        let arguments = [&["tokenize", "--model", "tokenizer.gguf", "--file", "text.txt"], more].concat();
        let mut command = user.command(&arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn completions_and_manual_pages() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.run(&["completions", shell]).stdout;
        assert!(script.contains("tokenize") && script.contains("imatrix-from"), "{shell}");
    }
    assert!(user.run(&["man"]).stdout.contains(".TH alti"));
    assert_eq!(user.run(&["man", "--out", "pages"]).code, 0);
    for command in COMMANDS {
        assert!(user.path("pages").join(format!("alti-{command}.1")).is_file(), "{command}");
    }
}

#[test]
fn the_doctor_measures() {
    let user = User::new();
    let found = user.json(&["doctor", "--json"]);
    assert!(found["cores"].as_u64().expect("cores") > 0);
    assert!(found["memory_total"].as_u64().expect("memory") > 0);
    let rates = found["bandwidth"].as_array().expect("bandwidth");
    assert!(rates.iter().all(|rate| rate["bytes_per_second"].as_f64().expect("a rate") > 1e6));
    assert_eq!(found["default_model_present"], false);
    assert!(found["hub"].is_null(), "the network is left alone");
    assert!(
        found["models"].as_array().expect("models").iter().any(|model| model["quantization"] == "Q4_K_M")
    );
    // An address where nobody listens.
    let output =
        user.command(&["doctor", "--json", "--network"]).env("HF_ENDPOINT", "http://127.0.0.1:9").output();
    let found: serde_json::Value =
        serde_json::from_slice(&output.expect("the binary runs").stdout).expect("JSON");
    assert_eq!(found["hub"]["reachable"], false);
}
