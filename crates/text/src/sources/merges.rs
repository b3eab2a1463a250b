//! Lists of merges, as GGUF metadata and `tokenizer.json` carry them: pairs of tokens, the earlier the stronger.

use std::collections::HashMap;

use alti_formats::tokenizer::TokenKind;
use alti_formats::tokenizer::json::MAX_MERGES;
use foldhash::fast::RandomState;

use crate::error::{Result, TextError};
use crate::tokenizer::merge::{Merge, MergeRules, pair_key};
use crate::tokenizer::vocabulary::Vocabulary;

/// Collects merges one by one and checks each against the vocabulary.
pub(crate) struct MergeList<'v> {
    vocabulary: &'v Vocabulary,
    pairs: HashMap<u64, Merge, RandomState>,
    count: u32,
    joined: Vec<u8>,
    /// What the merge before made: lists name all merges that make one token, then those of the next.
    last: u32,
}

impl<'v> MergeList<'v> {
    /// An empty list; `expected` is a hint.
    pub(crate) fn new(vocabulary: &'v Vocabulary, expected: usize) -> Self {
        let pairs = HashMap::with_capacity_and_hasher(expected.min(1 << 19), RandomState::default());
        Self { vocabulary, pairs, count: 0, joined: Vec::new(), last: 0 }
    }

    /// Adds the next merge. `left` and `right` append the bytes of its two tokens.
    ///
    /// # Errors
    /// When either token, or what they spell together, is not in the vocabulary.
    pub(crate) fn push(
        &mut self,
        left: impl FnOnce(&mut Vec<u8>),
        right: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        self.joined.clear();
        left(&mut self.joined);
        let middle = self.joined.len();
        right(&mut self.joined);
        let rank = self.count;
        self.count += 1;
        let find = |bytes: &[u8]| {
            self.vocabulary.find(bytes).ok_or_else(|| {
                let shown = String::from_utf8_lossy(bytes);
                TextError::invalid(
                    format!("merge {rank}"),
                    format!("token {shown:?} is not in the vocabulary"),
                )
            })
        };
        if rank as usize >= MAX_MERGES {
            return Err(TextError::invalid("merges", format!("more than {MAX_MERGES}")));
        }
        let (left, right) = (find(&self.joined[..middle])?, find(&self.joined[middle..])?);
        let near =
            [self.last, self.last + 1].into_iter().find(|&id| self.vocabulary.bytes(id) == self.joined);
        let id = near
            .filter(|&id| self.vocabulary.kind(id) == TokenKind::Normal)
            .map_or_else(|| find(&self.joined), Ok)?;
        self.last = id;
        self.pairs.entry(pair_key(left, right)).or_insert(Merge { rank, id });
        Ok(())
    }

    /// The finished rules.
    pub(crate) fn into_rules(self) -> MergeRules {
        MergeRules::Pairs(self.pairs)
    }
}
