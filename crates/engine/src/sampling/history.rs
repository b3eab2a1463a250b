//! The tokens of the sequence so far, as far back as any sampler of its chain looks: the penalties
//! and DRY share it, and a chain with neither keeps nothing.

use std::collections::VecDeque;

/// The latest tokens, up to a limit. It grows with the tokens it gets, not to its limit at once.
#[derive(Clone, Debug)]
pub(super) struct History {
    tokens: VecDeque<u32>,
    limit: usize,
}

impl History {
    pub(super) fn new(limit: usize) -> Self {
        Self { tokens: VecDeque::new(), limit }
    }

    pub(super) fn push(&mut self, token: u32) {
        if self.limit == 0 {
            return;
        }
        if self.tokens.len() == self.limit {
            self.tokens.pop_front();
        }
        self.tokens.push_back(token);
    }

    /// The token `age` places before the latest, which has age 0.
    pub(super) fn get(&self, age: usize) -> Option<u32> {
        let index = self.tokens.len().checked_sub(age)?.checked_sub(1)?;
        self.tokens.get(index).copied()
    }

    /// The tokens, latest first.
    pub(super) fn latest_first(&self) -> impl Iterator<Item = u32> {
        self.tokens.iter().rev().copied()
    }
}
