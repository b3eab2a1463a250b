//! The vocabulary: every token's bytes, its kind, and the way back from bytes to the token. All bytes lie in one
//! buffer and the index holds only ids, so that 200,000 tokens load in milliseconds and a few megabytes.

use std::hash::BuildHasher;

use alti_formats::tokenizer::TokenKind;
use alti_formats::tokenizer::json::MAX_TOKENS;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::error::{Result, TextError};

/// No token is longer, in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// No vocabulary is larger, in bytes.
const MAX_BYTES: usize = 256 << 20;

/// Whether merging may produce such a token out of ordinary text.
fn is_text(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Normal | TokenKind::UserDefined)
}

/// Tokens by id and by bytes.
#[derive(Clone)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    index: HashTable<u32>,
    hasher: RandomState,
    longest: usize,
}

impl Vocabulary {
    /// An empty vocabulary with room for `tokens` (a hint, which may come from a file).
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        let tokens = tokens.min(MAX_TOKENS);
        Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(tokens.min(1 << 18)),
            kinds: Vec::with_capacity(tokens.min(1 << 18)),
            index: HashTable::with_capacity(tokens.min(1 << 18)),
            hasher: RandomState::default(),
            longest: 0,
        }
    }

    /// Adds the next token; `write` appends its bytes. Of two tokens with the same bytes the first is found by
    /// them, unless only the second is text.
    pub(crate) fn push(&mut self, kind: TokenKind, write: impl FnOnce(&mut Vec<u8>)) -> Result<u32> {
        let id = self.ends.len();
        let start = self.bytes.len();
        write(&mut self.bytes);
        let length = self.bytes.len() - start;
        if id >= MAX_TOKENS || self.bytes.len() > MAX_BYTES {
            return Err(TextError::invalid(
                "vocabulary",
                format!("more than {MAX_TOKENS} tokens or {MAX_BYTES} bytes"),
            ));
        }
        if length > MAX_TOKEN_BYTES {
            return Err(TextError::invalid(
                format!("token {id}"),
                format!("{length} bytes long (limit {MAX_TOKEN_BYTES})"),
            ));
        }
        self.ends.push(self.bytes.len() as u32);
        self.kinds.push(kind);
        self.longest = self.longest.max(length);
        self.insert_into_index(id as u32);
        Ok(id as u32)
    }

    fn insert_into_index(&mut self, id: u32) {
        let Self { bytes, ends, index, hasher, kinds, .. } = self;
        let spelling = |id: u32| token_slice(bytes, ends, id);
        let wanted = spelling(id);
        if wanted.is_empty() {
            return;
        }
        let hash = hasher.hash_one(wanted);
        match index.find_mut(hash, |&other| spelling(other) == wanted) {
            Some(first) if is_text(kinds[id as usize]) && !is_text(kinds[*first as usize]) => *first = id,
            Some(_) => {}
            None => {
                index.insert_unique(hash, id, |&other| hasher.hash_one(spelling(other)));
            }
        }
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes token `id` stands for; none for an id outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        if (id as usize) < self.ends.len() { token_slice(&self.bytes, &self.ends, id) } else { &[] }
    }

    /// The kind of token `id`; ids outside the vocabulary (padding rows of the output head) are unused.
    pub(crate) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Unused)
    }

    /// The token with these bytes, of whatever kind.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            return None;
        }
        self.index.find(self.hasher.hash_one(bytes), |&id| self.bytes(id) == bytes).copied()
    }

    /// The token that ordinary text with these bytes may become.
    pub(crate) fn find_text(&self, bytes: &[u8]) -> Option<u32> {
        self.find(bytes).filter(|&id| is_text(self.kind(id)))
    }
}

fn token_slice<'a>(bytes: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] as usize };
    &bytes[start..ends[id] as usize]
}
