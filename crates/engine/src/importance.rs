//! Which columns of a model's matrices matter: the mean squares of the inputs they meet on a text,
//! for quantisation to spend its precision where it counts.
//!
//! The model runs unchanged over a `Recorder`, a backend that forwards every operation to another and
//! looks at the inputs of matrices on the way. It knows which matrix is which by where it is in memory.

use crate::EngineError;
use alti_formats::Importance;
use alti_models::{Llama, Step};
use alti_tensor::{
    AttentionShape, Backend, BackendError, CacheLayer, CacheLayout, Experts, RowPlan, WeightData,
};
use std::collections::HashMap;

/// Runs the model over each chunk of tokens, by itself, and returns what its matrices met. As in
/// llama.cpp's tool, only those of the layers are looked at, neither embedding nor output. Of routed experts,
/// gate and up projections get what each expert met; down projections are inside the operation and get
/// nothing. `progress` is told how many chunks are done and may end the measuring by returning false.
///
/// # Errors
/// When a token is not the model's, or the backend fails.
pub fn measure_importance<'c, B: Backend<Element = f32>>(
    backend: B,
    model: &Llama<B::Weight>,
    chunks: impl IntoIterator<Item = &'c [u32]>,
    mut progress: impl FnMut(u32) -> bool,
) -> Result<Importance, EngineError> {
    let names = model.weights().into_iter().map(|(name, weight)| (std::ptr::from_ref(weight), name.gguf()));
    let mut recorder =
        Recorder { inner: backend, names: names.collect(), found: Importance::default(), failed: None };
    let vocabulary = model.config.vocabulary_size;
    for chunk in chunks {
        if chunk.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&token) = chunk.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        let rows = RowPlan::fresh(&[chunk.len()]);
        let step = Step { tokens: chunk, rows: &rows, cache: None, adapters: &[] };
        drop(model.hidden(&mut recorder, &step, |_, _| ()));
        recorder.submit()?;
        recorder.found.chunks += 1;
        recorder.found.chunk_size = recorder.found.chunk_size.max(chunk.len() as u32);
        if !progress(recorder.found.chunks) {
            break;
        }
    }
    Ok(recorder.found)
}

/// A backend that notes what matrices are multiplied with.
struct Recorder<B: Backend> {
    inner: B,
    /// GGUF names by address; the model outlives the recorder and does not move.
    names: HashMap<*const B::Weight, String>,
    found: Importance,
    /// Operations cannot fail; the step that they are in can.
    failed: Option<BackendError>,
}

impl<B: Backend<Element = f32>> Recorder<B> {
    /// Notes `x` as the input of each of the weights.
    fn record<const N: usize>(&mut self, x: &B::Tensor, weights: [&B::Weight; N], rows: usize) {
        let Some(values) = self.values(x) else { return };
        for weight in weights {
            if let Some(name) = self.names.get(&std::ptr::from_ref(weight)) {
                self.found.add(name, [0, 1], values.len() / rows, &values);
            }
        }
    }

    /// Notes the inputs of each expert, `sigmoid(score) x` of the rows that are sent to it.
    fn record_experts(&mut self, x: &B::Tensor, experts: &Experts<B::Weight>, rows: &RowPlan) {
        self.record(x, [&experts.router], rows.len());
        let scores = self.inner.linear(x, &experts.router, rows);
        let (Some(values), Some(scores)) = (self.values(x), self.values(&scores)) else { return };
        let columns = values.len() / rows.len();
        let count = scores.len() / rows.len();
        for (row, scores) in values.chunks_exact(columns).zip(scores.chunks_exact(count)) {
            let mut order: Vec<usize> = (0..count).collect();
            // Stable: the lower index wins a tie.
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            for &expert in &order[..experts.used] {
                let gate = 1.0 / (1.0 + (-scores[expert]).exp());
                let input: Vec<f32> = row.iter().map(|&x| gate * x).collect();
                for weight in [&experts.gate, &experts.up] {
                    if let Some(name) = self.names.get(&std::ptr::from_ref(weight)) {
                        self.found.add(name, [expert, count], columns, &input);
                    }
                }
            }
        }
    }

    /// The tensor's values; none when the step has failed, which the next submit says.
    fn values(&mut self, x: &B::Tensor) -> Option<Vec<f32>> {
        let mut values = Vec::new();
        match self.inner.fetch(x, &mut values) {
            Ok(()) => Some(values),
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }
}

impl<B: Backend<Element = f32>> Backend for Recorder<B> {
    type Tensor = B::Tensor;
    type Weight = B::Weight;
    type Cache = B::Cache;
    type Element = B::Element;

    fn load(&self, weight: WeightData<'_>) -> Result<B::Weight, BackendError> {
        self.inner.load(weight)
    }

    fn cache(&self, layout: &CacheLayout) -> Result<B::Cache, BackendError> {
        self.inner.cache(layout)
    }

    fn input(&mut self, values: &[f32], columns: usize) -> B::Tensor {
        self.inner.input(values, columns)
    }

    fn embed(&mut self, table: &B::Weight, tokens: &[u32]) -> B::Tensor {
        self.inner.embed(table, tokens)
    }

    fn linear(&mut self, x: &B::Tensor, weight: &B::Weight, rows: &RowPlan) -> B::Tensor {
        self.record(x, [weight], rows.len());
        self.inner.linear(x, weight, rows)
    }

    fn rms_norm(&mut self, x: &B::Tensor, gain: &B::Weight, epsilon: f32) -> B::Tensor {
        self.inner.rms_norm(x, gain, epsilon)
    }

    fn head_norm(&mut self, x: B::Tensor, head_dim: usize, epsilon: f32) -> B::Tensor {
        self.inner.head_norm(x, head_dim, epsilon)
    }

    fn rope(&mut self, x: B::Tensor, rotation: &B::Tensor) -> B::Tensor {
        self.inner.rope(x, rotation)
    }

    fn scale_rows(&mut self, x: B::Tensor, factors: &B::Tensor) -> B::Tensor {
        self.inner.scale_rows(x, factors)
    }

    fn attention(
        &mut self,
        query: &B::Tensor,
        key: &B::Tensor,
        value: &B::Tensor,
        shape: &AttentionShape,
        memory: Option<CacheLayer<'_, B::Cache>>,
        rows: &RowPlan,
    ) -> B::Tensor {
        self.inner.attention(query, key, value, shape, memory, rows)
    }

    fn swiglu(&mut self, gate: &B::Tensor, up: &B::Tensor) -> B::Tensor {
        self.inner.swiglu(gate, up)
    }

    fn experts(&mut self, x: &B::Tensor, experts: &Experts<B::Weight>, rows: &RowPlan) -> B::Tensor {
        self.record_experts(x, experts, rows);
        self.inner.experts(x, experts, rows)
    }

    fn add(&mut self, x: B::Tensor, y: &B::Tensor) -> B::Tensor {
        self.inner.add(x, y)
    }

    fn select_rows(&mut self, x: &B::Tensor, rows: &[usize]) -> B::Tensor {
        self.inner.select_rows(x, rows)
    }

    fn add_rows(&mut self, x: B::Tensor, y: &B::Tensor, rows: &[usize]) -> B::Tensor {
        self.inner.add_rows(x, y, rows)
    }

    fn cross_entropy(&mut self, logits: &B::Tensor, targets: &[u32]) -> B::Tensor {
        self.inner.cross_entropy(logits, targets)
    }

    fn read_page(&self, cache: &Self::Cache, page: u32, out: &mut Vec<u8>) {
        self.inner.read_page(cache, page, out);
    }

    fn write_page(&mut self, cache: &Self::Cache, page: u32, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write_page(cache, page, bytes)
    }

    fn submit(&mut self) -> Result<(), BackendError> {
        self.failed.take().map_or_else(|| self.inner.submit(), Err)
    }

    fn fetch(&mut self, x: &B::Tensor, out: &mut Vec<f32>) -> Result<(), BackendError> {
        self.submit()?;
        self.inner.fetch(x, out)
    }

    fn norm_linear<const N: usize>(
        &mut self,
        x: &B::Tensor,
        gain: &B::Weight,
        epsilon: f32,
        weights: [&B::Weight; N],
        rows: &RowPlan,
    ) -> [B::Tensor; N] {
        // As the default body, with one look at the input for all.
        let normed = self.inner.rms_norm(x, gain, epsilon);
        self.record(&normed, weights, rows.len());
        weights.map(|weight| self.inner.linear(&normed, weight, rows))
    }
}
