//! Drafts by a smaller model of the same vocabulary (Leviathan et al. 2023; here a draft counts where the larger model's
//! own draw is the same, so that answers do not change).
//!
//! Its keys and values lie in pages of the same numbers as the larger model's: whoever has a page there has it here. It
//! computes prompts when the larger model does, and catches up with an answer when it is asked to guess.

use crate::EngineError;
use crate::sampling::most_likely;
use alti_models::{Llama, Step, memory};
use alti_tensor::{Backend, KvDType, PAGE_TOKENS, RowPlan, Span};
use std::ops::Range;
use std::sync::Arc;

/// The smaller model.
pub(super) struct DraftModel<B: Backend> {
    model: Arc<Llama<B::Weight>>,
    cache: B::Cache,
    groups: usize,
    logits: Vec<B::Element>,
}

/// A sequence of which the next tokens are to be guessed.
pub(super) struct Guess<'a> {
    /// Its tokens.
    pub(super) tokens: &'a [u32],
    /// How many of them this model has computed.
    pub(super) computed: usize,
    /// Its pages; there are enough for its tokens and the guesses but the last.
    pub(super) pages: &'a [u32],
    /// Where the guesses go, as many as wanted: the last is not computed.
    pub(super) draft: &'a mut [u32],
}

impl<B: Backend<Element = f32>> DraftModel<B> {
    /// A draft model with as many pages as the model it guesses for.
    pub(super) fn new(
        backend: &B,
        model: Arc<Llama<B::Weight>>,
        tokens: usize,
        dtype: KvDType,
        vocabulary: usize,
    ) -> Result<Self, EngineError> {
        let found = model.config.vocabulary_size;
        if found != vocabulary {
            return Err(EngineError::DraftVocabulary { found, expected: vocabulary });
        }
        let layout = memory::cache_layout(&model.config, tokens, dtype);
        let cache = backend.cache(&layout)?;
        Ok(DraftModel { model, cache, groups: layout.groups.len(), logits: Vec::new() })
    }

    /// See [`Backend::grant_pages`].
    pub(super) fn grant_pages(&self, b: &mut B, pages: Range<u32>) {
        b.grant_pages(&self.cache, pages);
    }

    /// Computes parts of prompts: `(tokens, first position, pages)` for each.
    pub(super) fn follow(&mut self, b: &mut B, parts: &[(&[u32], usize, &[u32])]) -> Result<(), EngineError> {
        if parts.is_empty() {
            return Ok(());
        }
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.0).copied().collect();
        let spans = parts.iter().map(|&(tokens, first, pages)| self.span(first, tokens.len(), pages));
        let plan = RowPlan::new(spans.collect());
        let step = Step { tokens: &tokens, rows: &plan, cache: Some(&self.cache), adapters: &[] };
        drop(self.model.hidden(b, &step, |_, _| ()));
        Ok(b.submit()?)
    }

    /// Guesses: one step for each token, all sequences together.
    pub(super) fn guess(&mut self, b: &mut B, guesses: &mut [Guess<'_>]) -> Result<(), EngineError> {
        let most = guesses.iter().map(|guess| guess.draft.len()).max().unwrap_or(0);
        for round in 0..most {
            let asked = |guess: &&mut Guess<'_>| round < guess.draft.len();
            let (mut tokens, mut spans, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
            for guess in guesses.iter_mut().filter(asked) {
                let (first, new) = match round {
                    0 => (guess.computed, &guess.tokens[guess.computed..]),
                    _ => (guess.tokens.len() + round - 1, &guess.draft[round - 1..round]),
                };
                tokens.extend(new);
                spans.push(self.span(first, new.len(), guess.pages));
                wanted.push(tokens.len() - 1);
            }
            let plan = RowPlan::new(spans);
            let step = Step { tokens: &tokens, rows: &plan, cache: Some(&self.cache), adapters: &[] };
            let logits = self.model.logits(b, &step, &wanted);
            b.fetch(&logits, &mut self.logits)?;
            let rows = self.logits.chunks_exact(self.model.config.vocabulary_size);
            for (guess, row) in guesses.iter_mut().filter(asked).zip(rows) {
                guess.draft[round] = most_likely(row).unwrap_or(0);
            }
        }
        Ok(())
    }

    fn span(&self, first_position: usize, rows: usize, pages: &[u32]) -> Span {
        let table = pages[..(first_position + rows).div_ceil(PAGE_TOKENS)].to_vec();
        Span { first_position, rows, pages: vec![table; self.groups], adapter: None }
    }
}
