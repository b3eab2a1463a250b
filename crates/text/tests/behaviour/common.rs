//! The committed vocabularies and vectors (`fixtures/vectors.zip`; `fixtures/make_vectors.py` made them from the
//! official libraries), and a source of difficult text.

use std::io::{Cursor, Read};
use std::path::Path;

use alti_text::{GgufTokenizer, Tokenizer};
use base64::Engine as _;
use proptest::prelude::*;
use serde::de::DeserializeOwned;

static ARCHIVE: &[u8] = include_bytes!("../fixtures/vectors.zip");

/// A file of the archive.
pub fn file(name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(Cursor::new(ARCHIVE)).unwrap();
    let mut content = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut content).unwrap();
    content
}

pub fn text(name: &str) -> String {
    String::from_utf8(file(name)).unwrap()
}

pub fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&file(name)).unwrap()
}

/// SmolLM2's vocabulary as its GGUF file has it, with a pre-tokenizer of choice.
pub fn smollm2(pre_tokenizer: &str) -> Tokenizer {
    let (tokens, merges) = (text("smollm2.tokens"), text("smollm2.merges"));
    smollm2_fields(&tokens, &merges, pre_tokenizer).build().unwrap()
}

pub fn smollm2_fields<'a>(tokens: &'a str, merges: &'a str, pre_tokenizer: &'a str) -> GgufTokenizer<'a> {
    GgufTokenizer {
        model: "gpt2",
        pre_tokenizer: Some(pre_tokenizer),
        tokens: tokens.split('\n').map(str::as_bytes).collect(),
        kinds: json("smollm2.kinds.json"),
        merges: merges.split('\n').map(str::as_bytes).collect(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        padding: Some(2),
        add_bos: Some(false),
        add_space_prefix: Some(false),
        ..GgufTokenizer::default()
    }
}

/// The first ranks of Llama 3's or 4's `tokenizer.model`.
pub fn ranks(name: &str) -> Vec<Vec<u8>> {
    let lines = text(&format!("{name}.ranks"));
    let token = |line: &str| {
        base64::engine::general_purpose::STANDARD.decode(line.split(' ').next().unwrap()).unwrap()
    };
    lines.lines().map(token).collect()
}

pub fn specials(name: &str) -> Vec<String> {
    json(&format!("{name}.specials.json"))
}

/// `llama3` or `llama4`.
pub fn meta(name: &str) -> Tokenizer {
    Tokenizer::from_ranks(&ranks(name), &specials(name)).unwrap()
}

/// A small SentencePiece model like Llama 2's.
pub fn llama2() -> Tokenizer {
    Tokenizer::from_meta(Path::new("tokenizer.model"), &file("llama2.model")).unwrap()
}

/// Text that finds the corners of tokenizers: runs and mixtures of scripts, marks, white space, digits, quotes,
/// control characters, spellings of special tokens.
pub fn soup() -> impl Strategy<Value = String> {
    let pools = [
        "abcxyz",
        "ABCXYZ",
        "0123456789",
        "     ",
        "\n\r\t ",
        "'’\"",
        "stmdrevl",
        "STMDREVLſ",
        ".,!?/-_=+*&^%$#@()[]{}<>|\\~`",
        "éàüñçÉÀÜßİı",
        "日本語漢字你好",
        "안녕하세요",
        "สวัสดี",
        "नमस्ते",
        "مرحبا",
        "שלום",
        "Приветмир",
        "😀👩🏽\u{200d}🚀❤️",
        "\u{301}\u{302}\u{300}",
        "\u{a0}\u{2003}\u{3000}\u{200b}\u{2028}",
        "①½Ⅷ٣৪",
        "ǅʰªº",
        "𝕳𝖊𐐀𐐨𠀀",
        "\0\u{1}\u{1c}\u{7f}\u{85}",
        "▁Ġ",
        "\u{e000}\u{feff}\u{10ffff}",
    ];
    let from_pool = |pool: &'static str| {
        proptest::collection::vec(proptest::sample::select(pool.chars().collect::<Vec<_>>()), 1..7)
            .prop_map(|characters| characters.into_iter().collect::<String>())
    };
    let pooled = proptest::sample::select(pools.to_vec()).prop_flat_map(from_pool);
    let words = proptest::sample::select(vec![
        " the",
        "Hello",
        " World",
        "don't",
        " I'LL",
        "http://",
        "<|eot_id|>",
        "<|im_end|>",
        "</s>",
        "<s>",
        "  ",
        "\r\n",
        "x1y22",
    ]);
    let any = any::<char>().prop_map(String::from);
    let piece = prop_oneof![4 => pooled, 2 => words.prop_map(str::to_owned), 1 => any];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}
