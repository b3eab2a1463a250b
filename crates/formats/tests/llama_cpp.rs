//! Agreement with llama.cpp: its converter's GGUF files open as the models they were made from, and
//! this crate's conversion of the same models has the same tensors and metadata.
//! `fixtures/make_llama_cpp.py` made both.

use alti_formats::gguf::{GgufFile, Value};
use alti_formats::tokenizer::{TokenKind, TokenizerFile, Vocabulary};
use alti_formats::{Checkpoint, ConvertOptions, Format, convert};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_cpp").join(name)
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn check(name: &str) {
    let source = open(&fixture(name));
    let theirs_path = fixture(&format!("{name}.gguf"));
    let theirs = open(&theirs_path);
    // A GGUF's tokens that are spelled like an end of text are ends of text, too.
    let mut config = theirs.config().clone();
    config.eos.truncate(1);
    assert_eq!(&config, source.config());
    let folder = tempfile::tempdir().expect("temporary folder");
    let ours_path = folder.path().join("ours.gguf");
    convert(&source, Format::Gguf, &ours_path, &ConvertOptions::default(), &mut |_| {})
        .unwrap_or_else(|e| panic!("{e}"));
    let ours = open(&ours_path);
    for info in theirs.weights() {
        let (a, b) = (ours.load(&info.name).expect("ours"), theirs.load(&info.name).expect("theirs"));
        assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{}", info.name);
        assert!(a.bytes == b.bytes, "{}", info.name);
    }
    let [ours, theirs] = [&ours_path, &theirs_path].map(|path| GgufFile::open(path).expect("a GGUF file"));
    assert_eq!(ours.tensors().len(), theirs.tensors().len());
    for key in theirs.metadata().keys().filter(|key| !key.starts_with("general.")) {
        let (a, b) = (ours.metadata().get(key), theirs.metadata().get(key));
        match (&a, &b) {
            // A nearest-even and an exact decimal may differ in the last bit.
            (Some(Value::F32(a)), Some(Value::F32(b))) => assert!((a - b).abs() <= 1e-6 * b.abs(), "{key}"),
            _ => assert!(a == b, "{key}: {a:?} is not {b:?}"),
        }
    }
    assert_eq!(ours.metadata().get("general.file_type"), theirs.metadata().get("general.file_type"));
}

#[test]
fn byte_level_models_convert_alike() {
    check("byte-level");
}

#[test]
fn sentence_piece_models_convert_alike() {
    check("sentence-piece");
}

/// A fine-tuned model's `tokenizer.json` decides; the original's `tokenizer.model` beside it lends its scores.
#[test]
fn of_two_tokenizers_in_a_folder_hugging_faces_counts() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("model");
    convert(
        &open(&fixture("sentence-piece.gguf")),
        Format::HuggingFace,
        &path,
        &ConvertOptions::default(),
        &mut |_| {},
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let json = path.join("tokenizer.json");
    assert_eq!(TokenizerFile::find(&path), Some(TokenizerFile::HuggingFace(json.clone())));
    let original = fixture("sentence-piece").join("tokenizer.model");
    std::fs::copy(&original, path.join("tokenizer.model")).expect("file can be copied");
    assert_eq!(TokenizerFile::find(&path), Some(TokenizerFile::HuggingFace(json)));
    let found = Vocabulary::of(&open(&path)).expect("readable").expect("it has one");
    let expected = Vocabulary::of(&open(&fixture("sentence-piece"))).expect("readable").expect("it has one");
    let scores = |v: &Vocabulary| -> Vec<(String, f32)> {
        let normal = v.tokens.iter().filter(|token| token.kind == TokenKind::Normal);
        normal.map(|token| (token.text.clone(), token.score)).collect()
    };
    assert_eq!(scores(&found), scores(&expected));
}

#[test]
fn vocabularies_survive_every_format() {
    for name in ["byte-level", "sentence-piece"] {
        let source = open(&fixture(&format!("{name}.gguf")));
        let expected = Vocabulary::of(&source).expect("readable").expect("it has one");
        let folder = tempfile::tempdir().expect("temporary folder");
        for format in [Format::HuggingFace, Format::Meta] {
            let path = folder.path().join(format.name());
            convert(&source, format, &path, &ConvertOptions::default(), &mut |_| {})
                .unwrap_or_else(|e| panic!("{e}"));
            let found = Vocabulary::of(&open(&path)).expect("readable").expect("it has one");
            let spelled =
                |v: &Vocabulary| v.tokens.iter().map(|t| (t.text.clone(), t.kind)).collect::<Vec<_>>();
            assert_eq!(spelled(&found), spelled(&expected), "{name} {format}");
            assert_eq!(found.merges, expected.merges, "{name} {format}");
            let ids = |v: &Vocabulary| (v.model, v.bos, v.eos, v.add_bos, v.chat_template.clone());
            assert_eq!(ids(&found), ids(&expected), "{name} {format}");
            let order = |v: &Vocabulary| {
                let mut order: Vec<usize> =
                    (0..v.tokens.len()).filter(|&id| v.tokens[id].text.chars().count() > 1).collect();
                order.sort_by(|&a, &b| v.tokens[b].score.total_cmp(&v.tokens[a].score));
                order.retain(|&id| v.tokens[id].kind == alti_formats::tokenizer::TokenKind::Normal);
                order
            };
            assert_eq!(order(&found), order(&expected), "{name} {format}");
        }
    }
}
