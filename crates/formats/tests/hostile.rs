//! Damaged and malicious files: every one is refused with a one-line error, or opens and can be
//! loaded; none panics, none takes long.

use alti_formats::{Checkpoint, ConvertOptions, Format, convert};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A small model in each format: a folder to open, and the file in it to damage.
struct Victim {
    _folder: tempfile::TempDir,
    open: PathBuf,
    file: PathBuf,
    /// Bytes of the file before the first tensor's data.
    header: u64,
}

fn victim(format: Format) -> Victim {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/meta/llama3-mp2");
    let source = Checkpoint::open(&source).unwrap_or_else(|e| panic!("{e}"));
    let folder = tempfile::tempdir().expect("temporary folder");
    let open = folder.path().join(if format == Format::Gguf { "m.gguf" } else { "m" });
    convert(&source, format, &open, &ConvertOptions::default(), &mut |_| {})
        .unwrap_or_else(|e| panic!("{e}"));
    let (file, header) = match format {
        Format::Gguf => (open.clone(), 3200),
        Format::HuggingFace => (open.join("model.safetensors"), 2600),
        Format::Meta => (open.join("consolidated.00.pth"), 4000),
    };
    Victim { _folder: folder, open, file, header }
}

/// Opens and, where that works, loads everything.
fn survive(path: &Path) -> Result<(), String> {
    let start = Instant::now();
    let outcome = Checkpoint::open(path).and_then(|model| {
        let mut loaded = model.weights().iter().map(|info| model.load(&info.name).map(drop));
        loaded.try_for_each(|result| result)
    });
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    outcome.map_err(|e| {
        let message = e.to_string();
        assert!(!message.contains('\n') && message.len() < 1000, "{message:?}");
        message
    })
}

fn write_at(path: &Path, bytes: &[u8], at: u64) {
    let file = File::options().write(true).open(path).expect("file is there");
    file.write_all_at(bytes, at).expect("file can be written");
}

const FORMATS: [Format; 3] = [Format::Gguf, Format::HuggingFace, Format::Meta];

#[test]
fn truncated_anywhere() {
    for format in FORMATS {
        let victim = victim(format);
        let whole = std::fs::metadata(&victim.file).expect("file").len();
        let lengths = (0..victim.header).chain((victim.header..whole).step_by(97));
        let file = File::options().write(true).open(&victim.file).expect("file");
        for length in lengths.collect::<Vec<_>>().into_iter().rev() {
            file.set_len(length).expect("file can be cut");
            survive(&victim.open).expect_err("a truncated file is refused");
        }
    }
}

/// A generator of the test's own, so that a failure can be repeated.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn flipped_bits() {
    for format in FORMATS {
        let victim = victim(format);
        let whole = std::fs::read(&victim.file).expect("file");
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for round in 0..3000 {
            // Headers are where it matters; archives have theirs at the end too.
            let (start, length) = match (format, round % 3) {
                (Format::Meta, 0) => (whole.len() as u64 - 2800, 2800),
                _ => (0, victim.header),
            };
            let at = start + random(&mut state) % length;
            let flipped = whole[at as usize] ^ (1 << (random(&mut state) % 8));
            write_at(&victim.file, &[flipped], at);
            let _ = survive(&victim.open);
            write_at(&victim.file, &whole[at as usize..][..1], at);
        }
    }
}

#[test]
fn absurd_numbers_in_headers() {
    for format in FORMATS {
        let victim = victim(format);
        let whole = std::fs::read(&victim.file).expect("file");
        for at in 0..victim.header - 8 {
            for number in [u64::MAX, 1 << 63, 1 << 40, 0x7fff_ffff_ffff_fff0] {
                write_at(&victim.file, &number.to_le_bytes(), at);
                let _ = survive(&victim.open);
            }
            write_at(&victim.file, &whole[at as usize..][..8], at);
        }
    }
}

#[track_caller]
fn check_config(name: &str, contents: &[u8], expected: &str) {
    let victim = victim(if name == "params.json" { Format::Meta } else { Format::HuggingFace });
    std::fs::write(victim.open.join(name), contents).expect("file can be written");
    let error = survive(&victim.open).expect_err("the configuration is refused");
    assert!(error.contains(name) && error.contains(expected), "{error}");
}

#[test]
fn absurd_configurations() {
    let nested = format!("{{\"a\":{}", "[".repeat(100_000));
    check_config("config.json", nested.as_bytes(), "recursion limit exceeded");
    check_config("config.json", b"{\"model_type\": \"llama\", \"hidden_size\": }", "byte 39");
    check_config("config.json", &vec![b' '; 2 << 20], "longer than");
    check_config(
        "config.json",
        br#"{"model_type": "mistral\u0007\n"}"#,
        r"field model_type: is mistral\u{7}\n;",
    );
    let sizes = r#""hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 40"#;
    for (fields, expected) in [
        (r#""num_hidden_layers": 1000000000000"#, "num_hidden_layers: is 1000000000000"),
        (r#""num_hidden_layers": 0"#, "num_hidden_layers: is 0"),
        (r#""num_hidden_layers": -1"#, "num_hidden_layers: is -1, must be a whole number"),
        (r#""num_hidden_layers": 2, "num_key_value_heads": 0"#, "kv_heads: is 0"),
        (r#""num_hidden_layers": 2, "num_key_value_heads": 3"#, "kv_heads: is 3, must divide the 4 heads"),
        (r#""num_hidden_layers": 2, "head_dim": 7"#, "head_dim: is 7, must be even"),
        (r#""num_hidden_layers": 2, "attention_bias": true"#, "biases are not supported"),
        (r#""num_hidden_layers": 2, "rope_scaling": {"type": "magic"}"#, "rope_type: is magic"),
        (r#""num_hidden_layers": 2, "quantization_config": {}"#, "quantization_config"),
    ] {
        let json = format!(r#"{{"model_type": "llama", {sizes}, {fields}}}"#);
        check_config("config.json", json.as_bytes(), expected);
    }
    check_config("params.json", br#"{"dim": 0, "n_layers": 2, "n_heads": 4}"#, "n_heads");
    check_config(
        "params.json",
        br#"{"dim": 32, "n_layers": 99999999, "n_heads": 4}"#,
        "n_layers: is 99999999",
    );
}

#[test]
fn an_index_cannot_point_outside_its_folder() {
    let victim = victim(Format::HuggingFace);
    std::fs::remove_file(&victim.file).expect("file");
    let index = br#"{"weight_map": {"lm_head.weight": "../secret.safetensors"}}"#;
    std::fs::write(victim.open.join("model.safetensors.index.json"), index).expect("file can be written");
    let error = survive(&victim.open).expect_err("refused");
    assert!(error.contains("no safetensors file beside it"), "{error}");
}

#[test]
fn other_files_are_refused_for_what_they_are() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("file can be written");
        let error = survive(&path).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    };
    check("empty.gguf", b"", "byte 0: is not a GGUF file");
    check("html.gguf", b"<!DOCTYPE html>", "byte 0: is not a GGUF file");
    check("old.gguf", b"GGUF\x01\0\0\0", "byte 4: GGUF version 1");
    check("big.gguf", b"GGUF\0\0\0\x03", "byte 4: is a big-endian GGUF file");
    check("new.gguf", b"GGUF\x09\0\0\0", "byte 4: GGUF version 9");
    check("model.bin", b"", "is not a model");
    let error = survive(folder.path()).expect_err("refused");
    assert!(error.contains("neither config.json"), "{error}");
    let error = survive(&folder.path().join("nowhere")).expect_err("refused");
    assert!(error.contains("cannot open"), "{error}");
}

#[test]
fn other_architectures_are_named() {
    let victim = victim(Format::Gguf);
    let whole = std::fs::read(&victim.file).expect("file");
    let value = whole.windows(5).position(|window| window == b"llama").expect("architecture");
    write_at(&victim.file, b"qwen2", value as u64);
    let error = survive(&victim.open).expect_err("refused");
    assert!(error.contains("general.architecture: is qwen2; llama and llama4 are supported"), "{error}");
}
