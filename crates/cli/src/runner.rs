//! Steps of a model over tokens that mean nothing: what `alti bench` times, and a rehearsal.

use alti_models::{Llama, Step};
use alti_tensor::{Backend, CacheLayout, Profile, RowPlan, Span};
use std::hint::black_box;

/// Steps over random tokens.
pub struct Runner<'a, B: Backend> {
    backend: &'a mut B,
    model: &'a Llama<B::Weight>,
    cache: &'a B::Cache,
    /// Pages of each sequence.
    each: usize,
    layout: &'a CacheLayout,
    seed: u64,
}

impl<'a, B: Backend<Element = f32>> Runner<'a, B> {
    /// A runner over a cache of this layout, in which each sequence has `each` pages.
    pub fn new(
        backend: &'a mut B,
        model: &'a Llama<B::Weight>,
        cache: &'a B::Cache,
        layout: &'a CacheLayout,
        each: usize,
    ) -> Self {
        Runner { backend, model, cache, each, layout, seed: 1 }
    }

    /// Computes `count` tokens of a sequence, of which it has `first`, in chunks, as a prompt is computed.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn prefill(
        &mut self,
        sequence: usize,
        first: usize,
        count: usize,
        chunk: usize,
    ) -> anyhow::Result<()> {
        for begin in (first..first + count).step_by(chunk) {
            let rows = chunk.min(first + count - begin);
            let span = self.span(sequence, begin, rows);
            self.step(RowPlan::new(vec![span]), &[rows - 1])?;
        }
        Ok(())
    }

    /// Computes the token at `position` of each of the first `batch` sequences together.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn decode(&mut self, batch: usize, position: usize) -> anyhow::Result<()> {
        let spans = (0..batch).map(|sequence| self.span(sequence, position, 1)).collect();
        self.step(RowPlan::new(spans), &(0..batch).collect::<Vec<_>>())
    }

    /// Measures from now on where time goes, if the backend can.
    pub fn start_profile(&mut self) {
        self.backend.start_profile();
    }

    /// What was measured since then.
    pub fn end_profile(&mut self) -> Option<Profile> {
        self.backend.end_profile()
    }

    fn step(&mut self, rows: RowPlan, wanted: &[usize]) -> anyhow::Result<()> {
        let tokens: Vec<u32> = (0..rows.len()).map(|_| self.token()).collect();
        let step = Step { tokens: &tokens, rows: &rows, cache: Some(self.cache), adapters: &[] };
        let logits = self.model.logits(self.backend, &step, wanted);
        // Logits stay where they were computed: a server draws its tokens from them there.
        Ok(self.backend.for_each(&logits, 1, &|_, values| {
            black_box(values.first());
        })?)
    }

    fn span(&self, sequence: usize, first_position: usize, rows: usize) -> Span {
        Span::in_order(self.layout, sequence * self.each, first_position..first_position + rows)
    }

    /// A token at random (xorshift64, Marsaglia 2003).
    fn token(&mut self) -> u32 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % self.model.config.vocabulary_size as u64) as u32
    }
}
