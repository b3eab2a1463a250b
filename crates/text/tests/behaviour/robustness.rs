//! Damaged files are refused in a line, and no text takes more than a moment.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{file, llama2, meta, smollm2, smollm2_fields, text};
use alti_text::{GgufTokenizer, Specials, Tokenizer};
use proptest::prelude::*;

#[track_caller]
fn check_refused(built: Result<Tokenizer, alti_text::TextError>, says: &str) {
    let message = built.expect_err("should be refused").to_string();
    assert!(message.contains(says) && !message.contains('\n'), "{message}");
}

fn from_meta(content: &[u8]) -> Result<Tokenizer, alti_text::TextError> {
    Tokenizer::from_meta(Path::new("tokenizer.model"), content)
}

#[test]
fn gguf_fields_that_contradict_each_other() {
    let (tokens, merges) = (text("smollm2.tokens"), text("smollm2.merges"));
    let fields = || smollm2_fields(&tokens, &merges, "smollm");
    check_refused(GgufTokenizer { model: "bert", ..fields() }.build(), "\"bert\" is not supported");
    check_refused(
        GgufTokenizer { pre_tokenizer: Some("tekken"), ..fields() }.build(),
        "\"tekken\" is not supported",
    );
    check_refused(
        GgufTokenizer { tokens: vec![], kinds: vec![], merges: vec![], ..fields() }.build(),
        "empty",
    );
    check_refused(GgufTokenizer { kinds: vec![1; 5], ..fields() }.build(), "5 entries for 49152 tokens");
    check_refused(
        GgufTokenizer { merges: vec![b"ab"], ..fields() }.build(),
        "tokenizer.ggml.merges[0]: no space",
    );
    check_refused(
        GgufTokenizer { merges: vec![b"qzx q"], ..fields() }.build(),
        "token \"qzx\" is not in the vocabulary",
    );
    check_refused(GgufTokenizer { model: "llama", ..fields() }.build(), "scores");
    check_refused(
        GgufTokenizer { model: "llama", scores: vec![f32::NAN; 49_152], ..fields() }.build(),
        "not a number",
    );
    let wild = GgufTokenizer { bos: Some(u32::MAX), eos: Some(99_999), stops: vec![u32::MAX], ..fields() }
        .build()
        .unwrap();
    assert_eq!((wild.bos(), wild.eos(), wild.stop_ids()), (None, None, &[0, 2][..]));
}

#[test]
fn files_that_are_not_tokenizers() {
    check_refused(from_meta(b""), "tokenizer.model");
    check_refused(from_meta(b"IQ== 0\nIQ== one\n"), "byte 7");
    check_refused(from_meta(b"IQ== 0\n"), "1 ranks");
    check_refused(from_meta(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "tokenizer.model");
    check_refused(Tokenizer::from_ranks(&[b"a".to_vec()], &[]), "no token for the byte 0x00");
    check_refused(Tokenizer::from_hugging_face("", None), "tokenizer.json: EOF");
    check_refused(
        Tokenizer::from_hugging_face(r#"{"model": {"type": "Unigram", "vocab": {}}}"#, None),
        "Unigram",
    );
    check_refused(
        Tokenizer::from_hugging_face(r#"{"model": {"vocab": {"a": 4294967295}}}"#, None),
        "token id 4294967295",
    );
    check_refused(
        Tokenizer::from_hugging_face(r#"{"model": {"vocab": {"a": 0}, "merges": ["a b"]}}"#, None),
        "\"b\" is not",
    );
    let deep = format!(
        r#"{{"normalizer": {}{}, "model": {{"vocab": {{}}}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let long = format!(r#"{{"normalizer": [{}1], "model": {{"vocab": {{}}}}}}"#, "1,".repeat(100_000));
    check_refused(Tokenizer::from_hugging_face(&long, None), "a component of 200003 bytes");
    check_refused(Tokenizer::from_hugging_face("{}", Some(&" ".repeat(2 << 20))), "tokenizer_config.json");
    check_refused(Tokenizer::from_hugging_face(&deep, None), "recursion limit");
    let strange = r#"{"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}, "model": {"vocab": {"a": 0}}}"#;
    check_refused(Tokenizer::from_hugging_face(strange, None), "pre_tokenizer");
}

/// The inputs that make tokenizers hang: a megabyte that is one piece, in every way of being one.
#[test]
fn a_megabyte_of_anything_takes_a_moment() {
    let of = |unit: &str| unit.repeat((1 << 20) / unit.len());
    let texts = [
        "a", " ", "\n", "😀", "\u{301}", "\0", "ab", "aA", "\r\n ", "1", "'", "<", "<|", "<|eot_id",
        "\u{FFFD}", "é", "日", "a ", "ʰA", "/\n", "\u{1c}",
    ];
    for tokenizer in [smollm2("smollm"), smollm2("default"), meta("llama3"), meta("llama4"), llama2()] {
        for unit in texts {
            let text = of(unit);
            let started = Instant::now();
            let tokens = tokenizer.encode(&text, Specials::Parse);
            assert!(started.elapsed() < Duration::from_secs(10), "{unit:?} took {:?}", started.elapsed());
            if !unit.contains(['\0', '\u{1c}']) || tokenizer.id_of("<|im_start|>").is_none() {
                assert_eq!(tokenizer.decode(&tokens).len(), text.len(), "{unit:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Cut short or with a flipped bit, a file is read or refused, and what was read works.
    #[test]
    fn damaged_files_do_no_harm(cut in 0usize..17_000, at in 0usize..17_000, bit in 0u8..8) {
        for name in ["llama2.model", "llama2.tokenizer.json"] {
            let mut content = file(name);
            let at = at % content.len();
            content[at] ^= 1 << bit;
            for content in [&content[..], &content[..cut.min(content.len())]] {
                let built = match std::str::from_utf8(content) {
                    Ok(json) if name.ends_with("json") => Tokenizer::from_hugging_face(json, None),
                    _ => from_meta(content),
                };
                match built {
                    Ok(tokenizer) => {
                        let tokens = tokenizer.encode("Hello, Wörld! 😀 <s>", Specials::Parse);
                        tokenizer.decode(&tokens);
                    }
                    Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
                }
            }
        }
    }
}
