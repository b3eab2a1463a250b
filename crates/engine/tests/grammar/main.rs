//! What structured output promises: whatever is drawn, a finished text obeys; and nobody's grammar can harm the server.

mod gbnf;
mod hostile;
mod json;
mod state;
mod tools;
mod vocabularies;
mod walk;

use alti_engine::grammar::{Grammar, GrammarFactory, GrammarSource};
use alti_text::Tokenizer;

/// A grammar for a tokenizer whose model has as many logits as it has tokens.
#[track_caller]
fn compile(tokenizer: &Tokenizer, source: &GrammarSource) -> Grammar {
    factory(tokenizer).compile(source).unwrap()
}

fn factory(tokenizer: &Tokenizer) -> GrammarFactory {
    GrammarFactory::new(tokenizer, tokenizer.vocabulary_size()).unwrap()
}

/// The tokens that a mask allows.
fn tokens(mask: &[u32]) -> Vec<u32> {
    let words = mask.iter().enumerate();
    words
        .flat_map(|(at, word)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u32 * 32 + bit)
        })
        .collect()
}

fn allows(mask: &[u32], token: u32) -> bool {
    mask[token as usize / 32] >> (token % 32) & 1 == 1
}
