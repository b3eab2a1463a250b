//! Refusing a file takes no more memory than the file's size plus 64 MiB. One test, in a process of
//! its own, because it measures the process.

#![cfg(target_os = "linux")]

use alti_formats::Checkpoint;
use alti_formats::tokenizer::Vocabulary;
use alti_testkit::golden;
use std::path::Path;

/// The most memory this process has had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

fn check(what: &str, path: &Path, file_bytes: usize) {
    measure(what, file_bytes, || Checkpoint::open(path).is_err());
}

fn measure(what: &str, file_bytes: usize, refused: impl FnOnce() -> bool) {
    // Forgets the peak so far (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux has it");
    let before = peak();
    let start = std::time::Instant::now();
    assert!(refused(), "{what} is refused");
    let took = start.elapsed();
    let grown = peak() - before;
    assert!(grown <= file_bytes as u64 + (64 << 20), "{what}: {} MiB for {file_bytes} bytes", grown >> 20);
    assert!(took.as_secs() < 1, "{what}: took {took:?}");
}

fn gguf(pairs: u64, tensors: u64, body: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensors.to_le_bytes());
    file.extend(pairs.to_le_bytes());
    (0..pairs.max(tensors)).for_each(|i| file.extend(body(i)));
    file
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn refusing_is_cheap() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("m.gguf");
    let pairs = gguf(1 << 16, 0, |i| [text(&format!("{i:x}")), vec![0, 0, 0, 0, 7]].concat());
    let strings = gguf(1, 0, |_| {
        let head = [text("k"), vec![9, 0, 0, 0, 8, 0, 0, 0], (2u64 << 20).to_le_bytes().to_vec()].concat();
        [head, vec![0; 16 << 20]].concat()
    });
    let tensors = gguf(0, 1 << 16, |i| {
        let head = [text(&format!("{i:x}")), vec![4, 0, 0, 0]].concat();
        [head, [1u64.to_le_bytes(); 4].concat(), vec![0; 4], (i * 32).to_le_bytes().to_vec()].concat()
    });
    for (what, file) in [("pairs", pairs), ("strings", strings), ("tensors", tensors)] {
        std::fs::write(&path, &file).expect("file can be written");
        check(what, &path, file.len());
    }

    let config = r#"{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4,
        "num_hidden_layers": 4096, "intermediate_size": 48, "vocab_size": 40}"#;
    std::fs::write(folder.path().join("config.json"), config).expect("file can be written");
    let path = folder.path().join("m.safetensors");
    let body = (2 << 20) - 20;
    let entry = r#""aaaa":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"#;
    for (what, header) in [
        ("numbers", format!("{{\"a\":[{}0]}}", "0,".repeat(body / 2))),
        ("lists", format!("{{\"a\":[{}[]]}}", "[],".repeat(body / 3))),
        ("entries", format!("{{{}", entry.repeat(body / entry.len()))),
        ("notes", format!("{{\"__metadata__\":{{{}", "\"a\":\"\",".repeat(body / 8))),
    ] {
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        std::fs::write(&path, &file).expect("file can be written");
        check(what, &path, file.len());
    }
    let config = format!("{{\"model_type\":[{}0]}}", "0,".repeat((1 << 19) - 20));
    std::fs::write(folder.path().join("config.json"), &config).expect("file can be written");
    check("configuration", folder.path(), config.len());
    tokenizers();
}

/// Hostile tokenizer files beside a model that is sound.
fn tokenizers() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("llama3-gqa").join(name), folder.path().join(name)).expect("file can be copied");
    }
    let model = Checkpoint::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let size = 48 << 20;
    let fill = |before: &str, unit: &str, after: &str| {
        format!("{before}{}{after}", unit.repeat((size - 200) / unit.len()))
    };
    for (what, name, contents) in [
        ("a component", "tokenizer.json", fill(r#"{"normalizer":["#, "1,", r#"1],"model":{"vocab":{}}}"#)),
        ("merges", "tokenizer.json", fill(r#"{"model":{"vocab":{},"merges":["#, r#""a b","#, r#""a b"]}}"#)),
        (
            "escapes",
            "tokenizer.json",
            fill(r#"{"model":{"vocab":{},"merges":["#, r#"["\n","\n"],"#, r#""a b"]}}"#),
        ),
        ("tokens", "tokenizer.json", fill(r#"{"model":{"vocab":{"#, r#""a":0,"#, r#""a":0}}}"#)),
        ("added tokens", "tokenizer.json", fill(r#"{"added_tokens":["#, r#"{"id":0,"content":""},"#, "]}")),
        ("nothing", "tokenizer.json", " ".repeat(size)),
        ("too much", "tokenizer.json", " ".repeat((64 << 20) + 1)),
        ("settings", "tokenizer_config.json", fill(r#"{"a":["#, "1,", "1]}")),
    ] {
        std::fs::write(
            folder.path().join("tokenizer.json"),
            r#"{"model":{"vocab":{"a":0},"byte_fallback":true}}"#,
        )
        .expect("file can be written");
        std::fs::write(folder.path().join(name), &contents).expect("file can be written");
        measure(what, contents.len(), || Vocabulary::of(&model).is_err());
    }
    std::fs::remove_file(folder.path().join("tokenizer.json")).expect("file can be removed");
    let pieces = "\n\x02\n\0".repeat(3 << 20);
    std::fs::write(folder.path().join("tokenizer.model"), &pieces).expect("file can be written");
    measure("pieces", pieces.len(), || Vocabulary::of(&model).is_err());
}
