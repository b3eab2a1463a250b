//! A model's vocabulary in `llguidance`'s terms: a trie of the bytes of all tokens. Control tokens stand behind the
//! byte 0xFF, which is in no text, so that no text is ever mistaken for one.

use alti_text::{Specials, TokenKind, Tokenizer};
use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use std::collections::HashMap;
use std::sync::Arc;

/// Longer tokens than this the trie cannot hold; a grammar never allows them.
const MAX_TOKEN_BYTES: usize = 1000;

struct Vocabulary {
    tokenizer: Tokenizer,
    trie: TokTrie,
    /// Whether what the tokenizer makes of a text is what it makes of that text inside of another. It is not where
    /// the tokenizer puts a space in front: there, text that has to come is not forced into certain tokens.
    canonical: bool,
}

/// The vocabulary of a model whose output has `size` rows. May panic on vocabularies beyond what the trie can hold.
pub(super) fn environment(tokenizer: &Tokenizer, size: usize) -> TokEnv {
    let words = words(tokenizer, size);
    let stops: Vec<u32> =
        tokenizer.stop_ids().iter().copied().filter(|&token| (token as usize) < size).collect();
    let trie =
        TokTrie::from(&TokRxInfo::new(size as u32, stops.first().copied().unwrap_or(INVALID_TOKEN)), &words);
    let trie = if stops.is_empty() { trie } else { trie.with_eos_tokens(&stops) };
    let probe = tokenizer.encode("a", Specials::AsText);
    let canonical =
        probe.iter().map(|&token| tokenizer.token_bytes(token)).collect::<Vec<_>>().concat() == b"a";
    Arc::new(Vocabulary { tokenizer: tokenizer.clone(), trie, canonical })
}

/// The bytes of each token; none for rows without a token, and for all but one of the tokens with the same bytes.
fn words(tokenizer: &Tokenizer, size: usize) -> Vec<Vec<u8>> {
    let tokens = size.min(tokenizer.vocabulary_size()) as u32;
    let is_text = |token: u32| matches!(tokenizer.kind(token), TokenKind::Normal | TokenKind::UserDefined);
    let mut chosen: HashMap<&[u8], u32> = HashMap::new();
    // A byte token stands for text only where no other does: models do not write them otherwise.
    for wants_text in [true, false] {
        for token in (0..tokens).filter(|&token| is_text(token) == wants_text && !tokenizer.is_special(token))
        {
            chosen.entry(tokenizer.token_bytes(token)).or_insert(token);
        }
    }
    let mut words = vec![Vec::new(); size];
    for (bytes, token) in chosen {
        if bytes.len() <= MAX_TOKEN_BYTES {
            words[token as usize] = bytes.to_vec();
        }
    }
    for token in (0..tokens).filter(|&token| tokenizer.is_special(token)) {
        let bytes = tokenizer.token_bytes(token);
        if !bytes.is_empty() && bytes.len() < MAX_TOKEN_BYTES {
            words[token as usize] = [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
        }
    }
    words
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        if !self.canonical {
            return self.trie.greedy_tokenize(bytes);
        }
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.tokenizer.encode(text, Specials::AsText))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}
