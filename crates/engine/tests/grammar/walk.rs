//! Walks through a grammar: at random, or along a given text.

use crate::{allows, tokens};
use alti_engine::grammar::Grammar;
use alti_text::Tokenizer;

/// Numbers without pattern.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// As [`continue_at_random`], of a text without control tokens.
pub fn at_random(
    grammar: &mut Grammar,
    tokenizer: &Tokenizer,
    random: &mut Random,
    free: usize,
) -> Option<String> {
    let text = continue_at_random(grammar, tokenizer, random, free)?;
    assert!(
        !tokenizer.control_spellings().any(|spelling| text.contains(spelling)),
        "a control token in {text}"
    );
    Some(text)
}

/// Draws from every mask, each token as likely as any other for the first `free` tokens; then what brings the text to an
/// end, where there is a choice. The text, unless it has none within reach.
pub fn continue_at_random(
    grammar: &mut Grammar,
    tokenizer: &Tokenizer,
    random: &mut Random,
    free: usize,
) -> Option<String> {
    const LONGEST: usize = 600;
    let closing: Vec<u32> = ["\"", "}", "]", "\n"].iter().filter_map(|text| tokenizer.id_of(text)).collect();
    let mut text = Vec::new();
    for step in 0..LONGEST {
        if grammar.is_finished() {
            return Some(String::from_utf8(text).expect("a finished text is UTF-8"));
        }
        let mask = grammar.mask().unwrap();
        let allowed = tokens(mask);
        let stop = tokenizer.stop_ids().iter().copied().find(|&stop| allows(mask, stop));
        let ends = step >= free || random.below(4) == 0;
        let token = match stop.filter(|_| ends) {
            Some(stop) => stop,
            None => {
                let close = closing.iter().copied().find(|&token| allows(mask, token));
                close.filter(|_| step >= free).unwrap_or_else(|| allowed[random.below(allowed.len())])
            }
        };
        grammar.accept(token).unwrap();
        if tokenizer.stop_ids().contains(&token) {
            return Some(String::from_utf8(text).expect("a finished text is UTF-8"));
        }
        text.extend_from_slice(tokenizer.token_bytes(token));
    }
    None
}

/// Whether `text` is one of the grammar's, spelled in single bytes.
pub fn accepts(grammar: &mut Grammar, text: &str) -> bool {
    for byte in text.bytes() {
        if grammar.is_finished() || !allows(grammar.mask().unwrap(), u32::from(byte)) {
            return false;
        }
        grammar.accept(u32::from(byte)).unwrap();
    }
    grammar.is_finished() || tokens(grammar.mask().unwrap()).iter().any(|token| *token > 255)
}
