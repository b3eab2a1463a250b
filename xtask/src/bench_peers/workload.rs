//! What is measured: the table of kinds of work, and each with its sizes.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Kinds of work, in the order in which they are measured and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A prompt in an empty context, computed at once
    Prefill,
    /// Token after token from an empty context
    Decode,
    /// Token after token behind a long context
    Depth,
    /// Several sequences together, token after token
    Batch,
    /// From the start of the process to the first token and out
    Cold,
}

/// Tokens in the context of each sequence before a batch is decoded.
pub const BATCH_PROMPT: usize = 128;

/// One kind of work with its sizes, in tokens and sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Which kind.
    pub kind: Kind,
    /// Tokens computed in each sequence.
    pub tokens: usize,
    /// Tokens in the context of each sequence before.
    pub depth: usize,
    /// Sequences.
    pub sequences: usize,
}

impl Workload {
    /// A prompt of `tokens`.
    pub fn prefill(tokens: usize) -> Self {
        Self { kind: Kind::Prefill, tokens, depth: 0, sequences: 1 }
    }

    /// `tokens` decoded behind `depth` others.
    pub fn decode(tokens: usize, depth: usize) -> Self {
        let kind = if depth == 0 { Kind::Decode } else { Kind::Depth };
        Self { kind, tokens, depth, sequences: 1 }
    }

    /// `sequences` decoded together.
    pub fn batch(tokens: usize, sequences: usize) -> Self {
        Self { kind: Kind::Batch, tokens, depth: BATCH_PROMPT, sequences }
    }

    /// A cold start.
    pub fn cold() -> Self {
        Self { kind: Kind::Cold, tokens: 1, depth: 0, sequences: 1 }
    }

    /// The same work with prompts, contexts and answers no longer than `most`: what decides between settings
    /// where the whole would take too long.
    pub fn at_most(self, most: usize) -> Self {
        let [tokens, depth] = [self.tokens, self.depth].map(|tokens| tokens.min(most));
        Self { tokens, depth, ..self }
    }

    /// Whether a sample is a time, of which less is better, and not a rate.
    pub fn is_time(&self) -> bool {
        self.kind == Kind::Cold
    }

    /// What a sample counts.
    pub fn unit(&self) -> &'static str {
        if self.is_time() { "ms" } else { "tokens/s" }
    }

    /// How many times as good `ours` is as `theirs`.
    pub fn advantage(&self, ours: f64, theirs: f64) -> f64 {
        if self.is_time() { theirs / ours } else { ours / theirs }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, depth, sequences, .. } = self;
        match self.kind {
            Kind::Prefill => write!(f, "prefill {tokens}"),
            Kind::Decode => write!(f, "decode {tokens}"),
            Kind::Depth => write!(f, "decode {tokens} behind {depth}"),
            Kind::Batch => write!(f, "decode {tokens} of {sequences} sequences"),
            Kind::Cold => write!(f, "first token of a new process"),
        }
    }
}
