//! `alti run`: what scripts rely on.

use crate::store;
use serde_json::Value;

/// A few tokens, the likeliest each, of a short text: quick on every backend.
const SHORT: [&str; 6] = ["run", "--json", "--raw", "The capital of France is", "--preset", "greedy"];

/// [`SHORT`] with more flags: six tokens on one thread, unless they say otherwise.
fn short<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = [&SHORT[..], more].concat();
    for (flag, value) in [("--threads", "1"), ("--max-tokens", "6")] {
        if !more.contains(&flag) {
            arguments.extend([flag, value]);
        }
    }
    arguments
}

fn tokens(result: &Value) -> Vec<u64> {
    let array = result["tokens"].as_array().expect("an array of tokens");
    array.iter().map(|token| token.as_u64().expect("a token")).collect()
}

#[test]
fn json_has_the_answer_and_how_it_came_about() {
    let user = store::user();
    let result = user.json(&short(&[]));
    let keys: Vec<&String> = result.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["text", "finish_reason", "prompt_tokens", "tokens", "seed", "timings"]);
    assert_eq!(result["finish_reason"], "length");
    assert_eq!(result["prompt_tokens"], 5);
    assert_eq!(tokens(&result).len(), 6);
    let text = result["text"].as_str().expect("a text");
    assert!(text.contains("Paris"), "{text}");
    let timings = &result["timings"];
    assert_eq!(timings["prefill_tokens"], 5);
    assert_eq!(timings["cached_tokens"], 0);
    assert_eq!(timings["decode_tokens"], 5, "the first token comes of the prefill");
    for seconds in ["prefill_seconds", "decode_seconds"] {
        assert!(timings[seconds].as_f64().is_some_and(|seconds| seconds > 0.0), "{timings}");
    }
    // Without --json stdout has the same text and nothing else, and stderr is silent in a pipe.
    let arguments: Vec<&str> = short(&[]).into_iter().filter(|argument| *argument != "--json").collect();
    let plain = user.run(&arguments);
    assert_eq!((plain.code, plain.stdout.as_str()), (0, format!("{text}\n").as_str()));
    assert_eq!(plain.stderr, "");
}

#[test]
fn one_seed_gives_one_answer() {
    let user = store::user();
    let draw = |more: &[&str]| {
        let arguments =
            ["run", "--json", "Tell me a story.", "--temperature", "1", "--max-tokens", "8", "-t", "1"];
        user.json(&[&arguments[..], more].concat())
    };
    let first = draw(&["--seed", "7"]);
    assert_eq!(first["seed"], 7);
    assert_eq!(tokens(&first), tokens(&draw(&["--seed", "7"])));
    assert_ne!(tokens(&first), tokens(&draw(&["--seed", "8"])));
    // A seed that was drawn is told, and brings the answer back.
    let unseeded = draw(&[]);
    assert_eq!(tokens(&unseeded), tokens(&draw(&["--seed", &unseeded["seed"].to_string()])));
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_token() {
    let user = store::user();
    let expected = tokens(&user.json(&short(&[])));
    assert_eq!(tokens(&user.json(&short(&["--threads", "2"]))), expected);
    // Tile registers add products of bf16 in an order of their own; with f32 keys and values this
    // model has none.
    for (arguments, sets) in [
        (&[][..], &["scalar", "avx2", "avx512", "neon", "neon-bf16"][..]),
        (&["--kv-type", "f32"], &["scalar", "avx2", "avx512", "amx", "neon", "neon-bf16"]),
    ] {
        let mut expected = None;
        for isa in sets {
            let output =
                user.command(&short(arguments)).env("ALTI_ISA", isa).output().expect("the binary runs");
            let stderr = String::from_utf8_lossy(&output.stderr);
            if stderr.contains("is not available on this machine") {
                continue;
            }
            assert!(output.status.success(), "{isa}: {stderr}");
            let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let expected = expected.get_or_insert_with(|| tokens(&result));
            assert_eq!(*expected, tokens(&result), "{isa} {arguments:?}");
        }
        assert!(expected.is_some(), "scalar runs everywhere");
    }
}

#[test]
fn the_reference_agrees_on_the_first_tokens() {
    let user = store::user();
    let reference = user.json(&short(&["--backend", "reference", "--max-tokens", "2"]));
    let cpu = user.json(&short(&["--max-tokens", "2"]));
    assert_eq!(tokens(&reference), tokens(&cpu));
}

#[test]
fn a_name_that_is_no_instruction_set_is_refused_with_those_that_are() {
    let user = store::user();
    let output = user.command(&short(&[])).env("ALTI_ISA", "sse9").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    for word in ["ALTI_ISA", "sse9", "scalar"] {
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[test]
fn a_stop_string_ends_the_answer_and_is_not_shown() {
    let user = store::user();
    let whole = user.json(&short(&[]));
    let text = whole["text"].as_str().expect("a text");
    let stop = text.split_whitespace().nth(1).expect("more than one word");
    let stopped = user.json(&short(&["--stop", stop]));
    assert_eq!(stopped["finish_reason"], "stop_string");
    let shown = stopped["text"].as_str().expect("a text");
    assert_eq!(Some(shown), text.split(stop).next());
    let none = user.json(&short(&["--max-tokens", "0"]));
    assert_eq!((none["text"].as_str(), none["finish_reason"].as_str()), (Some(""), Some("length")));
}

#[test]
fn stdin_is_the_prompt_or_its_end() {
    let user = store::user();
    let common = ["run", "--json", "--raw", "--preset", "greedy", "--max-tokens", "1", "-t", "1"];
    let count = |more: &[&str], input: &str| {
        let done = user.run_with(&[&common[..], more].concat(), input);
        assert_eq!(done.code, 0, "{}", done.stderr);
        serde_json::from_str::<Value>(&done.stdout).expect("JSON")["prompt_tokens"].clone()
    };
    let alone = count(&[], "one two");
    assert_eq!(count(&["one two"], ""), alone);
    assert_eq!(count(&["one"], "two"), count(&[], "one\n\ntwo"));
    user.fails(&common, 2, &["no prompt", "stdin"]);
    let binary = user.path("binary");
    std::fs::write(&binary, [0xff, 0xfe]).expect("the file can be written");
    let stdin = std::fs::File::open(binary).expect("the file is there");
    let output = user.command(&common).stdin(stdin).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("UTF-8"));
}

#[test]
fn raw_text_is_not_put_in_a_template() {
    let user = store::user();
    let common = ["run", "--json", "Hello", "--preset", "greedy", "--max-tokens", "1", "-t", "1"];
    let raw = user.json(&[&common[..], &["--raw"]].concat());
    let framed = user.json(&common);
    let told =
        user.json(&[&common[..], &["--system", "You are a pirate who sails the seven seas."]].concat());
    let count = |result: &Value| result["prompt_tokens"].as_u64().expect("a count");
    assert_eq!(count(&raw), 1);
    assert!(count(&framed) > 20, "the template has instructions of its own");
    assert_ne!(count(&framed), count(&told));
}

#[test]
fn a_full_context_ends_the_answer_or_is_shifted() {
    let user = store::user();
    let common = [
        "run",
        "--json",
        "--raw",
        "One two",
        "--ignore-end",
        "--preset",
        "greedy",
        "-t",
        "1",
        "--context",
        "64",
    ];
    let ended = user.json(&[&common[..], &["--max-tokens", "100"]].concat());
    assert_eq!(ended["finish_reason"], "context_full");
    let answer = tokens(&ended);
    assert!((62..=63).contains(&answer.len()), "{} tokens beside a prompt of two", answer.len());
    let shifted = user.json(&[&common[..], &["--max-tokens", "100", "--context-shift"]].concat());
    assert_eq!(shifted["finish_reason"], "length");
    let longer = tokens(&shifted);
    assert_eq!(longer.len(), 100);
    assert_eq!(longer[..answer.len()], answer, "the same until the context is full");
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_lengths() {
    let user = store::user();
    let prompt = "word ".repeat(100);
    let arguments = ["run", "--raw", prompt.as_str(), "--context", "64", "-t", "1"];
    user.fails(&arguments, 1, &["101 tokens", "context of 64", "enlarge the context"]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let user = store::user();
    for more in [&[][..], &["--json"]] {
        let arguments = [&["run", "Tell me a story.", "--max-tokens", "4", "-t", "1"], more].concat();
        let mut command = user.command(&arguments);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn an_absent_model_is_named() {
    let user = store::user();
    user.fails(&["run", "Hello", "--model", "no-such-model"], 3, &["no-such-model"]);
}
