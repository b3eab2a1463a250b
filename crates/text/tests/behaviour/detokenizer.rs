//! Streaming: characters come whole, and the stream is the text.

use crate::common::{llama2, meta, smollm2, soup};
use alti_text::{Specials, Tokenizer};
use proptest::prelude::*;

fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<String> {
    let mut detokenizer = tokenizer.detokenizer();
    let mut pieces: Vec<String> = tokens.iter().map(|&token| detokenizer.push(token)).collect();
    pieces.push(detokenizer.finish());
    pieces
}

#[test]
fn a_character_of_several_tokens_comes_at_once() {
    let tokenizer = smollm2("smollm");
    let tokens = tokenizer.encode("a🜁b", Specials::AsText);
    assert!(tokens.len() > 3, "the alchemist's air is no token of its own: {tokens:?}");
    let pieces = streamed(&tokenizer, &tokens);
    assert_eq!(pieces.concat(), "a🜁b");
    assert!(pieces.contains(&"🜁".to_owned()), "{pieces:?}");
}

#[test]
fn half_a_character_at_the_end_is_replaced() {
    let tokenizer = smollm2("smollm");
    let tokens = tokenizer.encode("🜁", Specials::AsText);
    let cut = &tokens[..tokens.len() - 1];
    assert_eq!(streamed(&tokenizer, cut).concat(), "\u{FFFD}");
    assert_eq!(tokenizer.decode(cut), "\u{FFFD}");
}

#[test]
fn sentence_pieces_leading_space_is_dropped_once() {
    let tokenizer = llama2();
    let tokens = tokenizer.encode("Hello world", Specials::AsText);
    assert_eq!(tokenizer.token_bytes(tokens[0])[0], b' ');
    assert_eq!(tokenizer.decode(&tokens), "Hello world");
    assert_eq!(tokenizer.decode(&[&[1][..], &tokens].concat()), "Hello world");
    let mut continuing = tokenizer.detokenizer().continuing();
    let text: String = tokens.iter().map(|&token| continuing.push(token)).collect();
    assert_eq!(text, " Hello world");
}

#[test]
fn control_tokens_are_shown_on_request_only() {
    let tokenizer = meta("llama3");
    let tokens = tokenizer.encode("<|begin_of_text|>hi<|eot_id|>", Specials::Parse);
    assert_eq!(tokenizer.decode(&tokens), "hi");
    assert_eq!(tokenizer.decode_spelling_specials(&tokens), "<|begin_of_text|>hi<|eot_id|>");
    assert_eq!(tokenizer.decode(&[u32::MAX, 5_000_000]), "");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of any text, and of any tokens at all.
    #[test]
    fn the_stream_is_the_text(text in soup(), noise in proptest::collection::vec(0u32..24_300, 0..40)) {
        for tokenizer in [meta("llama3"), llama2()] {
            let tokens = tokenizer.encode(&text, Specials::AsText);
            for tokens in [&tokens, &noise] {
                let pieces = streamed(&tokenizer, tokens);
                prop_assert_eq!(pieces.concat(), tokenizer.decode(tokens));
                let bytes: Vec<u8> = tokens
                    .iter()
                    .filter(|&&id| !tokenizer.is_special(id))
                    .flat_map(|&id| tokenizer.token_bytes(id).to_vec())
                    .collect();
                let whole = String::from_utf8_lossy(&bytes).into_owned();
                let prefixed = tokenizer.id_of("<s>").is_some();
                let expected = if prefixed { whole.strip_prefix(' ').unwrap_or(&whole) } else { &whole };
                prop_assert_eq!(tokenizer.decode(tokens), expected);
            }
        }
    }
}
