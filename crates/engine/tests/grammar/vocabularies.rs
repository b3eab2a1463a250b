//! Vocabularies to write in: SmolLM2's, a SentencePiece model like Llama 2's, and one of bytes.

use alti_text::{GgufTokenizer, Tokenizer};
use std::io::{Cursor, Read};
use std::path::Path;

static ARCHIVE: &[u8] = include_bytes!("../../../text/tests/fixtures/vectors.zip");

fn file(name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(Cursor::new(ARCHIVE)).unwrap();
    let mut content = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut content).unwrap();
    content
}

pub fn smollm2() -> Tokenizer {
    let text = |name| String::from_utf8(file(name)).unwrap();
    let (tokens, merges) = (text("smollm2.tokens"), text("smollm2.merges"));
    GgufTokenizer {
        model: "gpt2",
        pre_tokenizer: Some("smollm"),
        tokens: tokens.split('\n').map(str::as_bytes).collect(),
        kinds: serde_json::from_slice(&file("smollm2.kinds.json")).unwrap(),
        merges: merges.split('\n').map(str::as_bytes).collect(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        padding: Some(2),
        add_bos: Some(false),
        add_space_prefix: Some(false),
        ..GgufTokenizer::default()
    }
    .build()
    .unwrap()
}

pub fn llama2() -> Tokenizer {
    Tokenizer::from_meta(Path::new("tokenizer.model"), &file("llama2.model")).unwrap()
}

/// A token for each byte, and Llama 3's control tokens: any text is a walk through it, one byte a step.
pub fn bytes() -> Tokenizer {
    let ranks: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|python_tag|>"];
    Tokenizer::from_ranks(&ranks, &specials.map(str::to_owned)).unwrap()
}
