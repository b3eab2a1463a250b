//! Token ids equal to those of the official libraries (`tokenizers`, `tiktoken` as Meta's code drives it,
//! `sentencepiece`), over multilingual text, code, white space, digits, contractions, marks, emoji, control
//! characters, long runs and spellings of special tokens.

use crate::common::{file, json, llama2, meta, smollm2, text};
use alti_text::{Specials, Tokenizer};

#[track_caller]
fn check(tokenizer: &Tokenizer, specials: Specials, texts: &[String], expected: &str) {
    let expected: Vec<Vec<u32>> = json(expected);
    assert!(expected.len() >= texts.len());
    for (text, expected) in texts.iter().zip(expected) {
        let tokens = tokenizer.encode(text, specials);
        let shown: String = text.chars().take(200).collect();
        assert!(tokens == expected, "{shown:?}\n ours      {tokens:?}\n reference {expected:?}");
    }
}

fn texts() -> Vec<String> {
    json("texts.json")
}

#[test]
fn smollm2_from_gguf() {
    let tokenizer = smollm2("smollm");
    check(&tokenizer, Specials::AsText, &texts(), "smollm2.text.json");
    check(&tokenizer, Specials::Parse, &texts(), "smollm2.parse.json");
}

#[test]
fn gpt2_pattern_from_gguf() {
    let tokenizer = smollm2("gpt-2");
    check(&tokenizer, Specials::AsText, &texts(), "gpt2.text.json");
    check(&tokenizer, Specials::Parse, &texts(), "gpt2.parse.json");
}

#[test]
fn llama3_and_4_from_tiktoken_ranks() {
    for name in ["llama3", "llama4"] {
        let tokenizer = meta(name);
        let with_long_ones: Vec<String> =
            texts().into_iter().chain(json::<Vec<String>>("long_texts.json")).collect();
        check(&tokenizer, Specials::AsText, &with_long_ones, &format!("{name}.text.json"));
        check(&tokenizer, Specials::Parse, &texts(), &format!("{name}.parse.json"));
    }
}

#[test]
fn llama2_from_a_sentence_piece_model() {
    check(&llama2(), Specials::AsText, &texts(), "llama2.text.json");
}

#[test]
fn llama2_from_gguf_fields() {
    let parsed =
        alti_formats::tokenizer::sentence_piece::parse("tokenizer.model".as_ref(), &file("llama2.model"))
            .unwrap();
    let fields = alti_text::GgufTokenizer {
        model: "llama",
        tokens: parsed.tokens.iter().map(|token| token.text.as_bytes()).collect(),
        kinds: parsed.tokens.iter().map(|token| token.kind as i32).collect(),
        scores: parsed.tokens.iter().map(|token| token.score).collect(),
        ..Default::default()
    };
    let tokenizer = fields.build().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos(), tokenizer.stop_ids()), (Some(1), true, &[2][..]));
    check(&tokenizer, Specials::AsText, &texts(), "llama2.text.json");
}

#[test]
fn llama2_from_tokenizer_json() {
    let config = r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true}"#;
    let tokenizer = Tokenizer::from_hugging_face(&text("llama2.tokenizer.json"), Some(config)).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos(), tokenizer.eos()), (Some(1), true, Some(2)));
    check(&tokenizer, Specials::AsText, &texts(), "llama2hf.text.json");
    check(&tokenizer, Specials::Parse, &texts(), "llama2hf.parse.json");
}

#[test]
fn decoding_gives_the_text_back() {
    for tokenizer in [meta("llama3"), meta("llama4"), llama2()] {
        for text in texts() {
            let expected =
                if tokenizer.id_of("<s>").is_some() { text.replace('▁', " ") } else { text.clone() };
            assert_eq!(tokenizer.decode(&tokenizer.encode(&text, Specials::AsText)), expected);
        }
    }
}
