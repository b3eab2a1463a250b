//! Differential tests: on any text the engine gives the tokens the `tokenizers` crate gives, and its splitters the
//! pieces a regex engine gives. Zero differences are what allows an engine of our own.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::LazyLock;

use crate::common::{meta, ranks, smollm2, soup, specials, text};
use alti_text::{PreTokenizer, Specials, Tokenizer, pre_tokenize};
use proptest::prelude::*;
use serde_json::{Value, json};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA4: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The regexes of each pre-tokenizer, applied one after the other.
const PATTERNS: [(PreTokenizer, &[&str]); 5] = [
    (PreTokenizer::Gpt2, &[GPT2]),
    (PreTokenizer::Llama3, &[LLAMA3]),
    (PreTokenizer::Llama4, &[LLAMA4]),
    (PreTokenizer::SmolLm, &[r"\p{N}", GPT2]),
    (PreTokenizer::LlamaCppDefault, &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

/// The pieces of a text: what a regex matches, and what lies between.
fn regex_pieces(pattern: &fancy_regex::Regex, text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut done = 0;
    for found in pattern.find_iter(text) {
        let found = found.unwrap();
        pieces.extend([&text[done..found.start()], found.as_str()].map(str::to_owned));
        done = found.end();
    }
    pieces.push(text[done..].to_owned());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

type Compiled = (PreTokenizer, Vec<fancy_regex::Regex>);

static COMPILED: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
    let compile = |pattern: &&str| fancy_regex::Regex::new(pattern).unwrap();
    PATTERNS.iter().map(|(kind, patterns)| (*kind, patterns.iter().map(compile).collect())).collect()
});

#[track_caller]
fn check_pieces(text: &str) {
    for (kind, patterns) in COMPILED.iter() {
        let mut expected = vec![text.to_owned()];
        for pattern in patterns {
            expected = expected.iter().flat_map(|piece| regex_pieces(pattern, piece)).collect();
        }
        let mut pieces = Vec::new();
        pre_tokenize(*kind, text, |piece| pieces.push(piece.to_owned()));
        pieces.retain(|piece| !piece.is_empty());
        assert_eq!(pieces, expected, "{kind:?} on {text:?}");
    }
}

/// Every character at the start of a word, in it, after a space, after a quote, after a digit.
#[test]
fn splitters_agree_with_the_regexes_on_every_character() {
    let everything: Vec<char> =
        (0..=0x2_FFFFu32).chain(0xE_0000..0xE_0200).filter_map(char::from_u32).collect();
    for block in everything.chunks(64) {
        let text: String = block
            .iter()
            .flat_map(|c| [*c, 'a', *c, 'A', ' ', *c, *c, '\'', *c, '1', *c, '.', *c, '\n'])
            .collect();
        check_pieces(&text);
    }
}

/// `tokenizer.json` of a byte-level model.
fn byte_level_json(
    vocab: &HashMap<String, u32>,
    merges: &[String],
    added: &[String],
    pre: Value,
    whole: bool,
) -> String {
    let added: Vec<Value> = added
        .iter()
        .map(|text| {
            json!({"id": vocab[text], "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole,
            "vocab": vocab, "merges": merges},
    })
    .to_string()
}

fn smollm2_json() -> String {
    let tokens: HashMap<String, u32> =
        text("smollm2.tokens").split('\n').map(str::to_owned).zip(0..).collect();
    let merges: Vec<String> = text("smollm2.merges").split('\n').map(str::to_owned).collect();
    let kinds: Vec<i32> = crate::common::json("smollm2.kinds.json");
    let added: Vec<String> = text("smollm2.tokens")
        .split('\n')
        .zip(kinds)
        .filter(|(_, kind)| *kind == 3)
        .map(|(text, _)| text.to_owned())
        .collect();
    let pre = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]});
    byte_level_json(&tokens, &merges, &added, pre, false)
}

/// GPT-2's alphabet, written down again: the characters that stand for the 256 bytes.
fn letters() -> Vec<char> {
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte as char,
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

/// Ranks as Hugging Face's converter writes them: for each token every split into two tokens, by their ranks.
fn ranks_json(name: &str, pattern: &str) -> String {
    let (ranks, letters) = (ranks(name), letters());
    let spell = |bytes: &[u8]| bytes.iter().map(|byte| letters[usize::from(*byte)]).collect::<String>();
    let ids: HashMap<&[u8], u32> = ranks.iter().map(Vec::as_slice).zip(0..).collect();
    let mut merges = Vec::new();
    for token in &ranks {
        let mut splits: Vec<(u32, u32)> = (1..token.len())
            .filter_map(|at| Some((*ids.get(&token[..at])?, *ids.get(&token[at..])?)))
            .collect();
        splits.sort_unstable();
        let spelled = |id: u32| spell(&ranks[id as usize]);
        merges
            .extend(splits.into_iter().map(|(left, right)| format!("{} {}", spelled(left), spelled(right))));
    }
    let mut vocab: HashMap<String, u32> = ranks.iter().map(|token| spell(token)).zip(0..).collect();
    let added = specials(name);
    vocab.extend(added.iter().cloned().zip(ranks.len() as u32..));
    let pre = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    byte_level_json(&vocab, &merges, &added, pre, true)
}

/// The reference and two of ours: from the same `tokenizer.json`, and from the model's other format.
struct Pair {
    /// Parsing special tokens, and not.
    references: [(Specials, tokenizers::Tokenizer); 2],
    ours: Vec<Tokenizer>,
}

impl Pair {
    fn new(json: &str, other: Option<Tokenizer>) -> Self {
        let mut as_text = tokenizers::Tokenizer::from_str(json).unwrap();
        let references = [
            (Specials::Parse, as_text.clone()),
            (Specials::AsText, {
                as_text.set_encode_special_tokens(true);
                as_text
            }),
        ];
        let ours = [Tokenizer::from_hugging_face(json, None).unwrap()].into_iter().chain(other).collect();
        Self { references, ours }
    }

    #[track_caller]
    fn check(&self, text: &str) {
        for (mode, reference) in &self.references {
            let expected = reference.encode_fast(text, false).unwrap();
            for ours in &self.ours {
                assert_eq!(ours.encode(text, *mode), expected.get_ids(), "{mode:?} {text:?}");
            }
        }
    }
}

#[track_caller]
fn check_against_reference(pair: &Pair, cases: u32) {
    for text in crate::common::json::<Vec<String>>("texts.json") {
        pair.check(&text);
    }
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(text in soup())| pair.check(&text));
}

#[test]
fn smollm2_agrees_with_the_reference() {
    check_against_reference(&Pair::new(&smollm2_json(), Some(smollm2("smollm"))), 400);
}

#[test]
fn llama3_agrees_with_the_reference() {
    check_against_reference(&Pair::new(&ranks_json("llama3", LLAMA3), Some(meta("llama3"))), 400);
}

#[test]
fn llama4_agrees_with_the_reference() {
    check_against_reference(&Pair::new(&ranks_json("llama4", LLAMA4), Some(meta("llama4"))), 400);
}

#[test]
fn llama2_agrees_with_the_reference_in_every_way_of_placing_its_space() {
    let json: Value = crate::common::json("llama2.tokenizer.json");
    check_against_reference(&Pair::new(&json.to_string(), None), 400);
    for scheme in ["first", "always", "never"] {
        let mut json = json.clone();
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        check_against_reference(&Pair::new(&json.to_string(), None), 150);
    }
}

#[test]
fn added_tokens_keep_their_rules() {
    let mut json: Value = serde_json::from_str(&smollm2_json()).unwrap();
    for (at, (content, rules)) in [
        ("<left>", ["lstrip"].as_slice()),
        ("<right>", &["rstrip"]),
        ("<both>", &["lstrip", "rstrip"]),
        ("zqword", &["single_word"]),
        ("<late>", &["normalized"]),
        ("<la", &[]),
        ("<special>", &["special", "lstrip"]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut token = json!({"id": 49152 + at, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false});
        for rule in rules {
            token[*rule] = Value::Bool(true);
        }
        json["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let pair = Pair::new(&json.to_string(), None);
    let piece = proptest::sample::select(vec![
        "<left>",
        "<right>",
        "<both>",
        "word",
        "<late>",
        "<la",
        "<special>",
        " ",
        "\n",
        "a",
        "-",
        "zqwords",
        "<im_end>",
        "<|im_end|>",
        "é",
    ]);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(pieces in proptest::collection::vec(piece, 0..16))| pair.check(&pieces.concat()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splitters_agree_with_the_regexes(text in soup()) {
        check_pieces(&text);
    }
}
