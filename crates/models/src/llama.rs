//! The Llama family: Llama 2, 3, 3.1, 3.2, 3.3 and the text model of Llama 4.
//!
//! One definition for inference, training and every machine: the forward pass below, over
//! [`Backend`]. What differs between releases is data in [`Layer`], decided when the model is built
//! ([`build`](crate::build)).

use crate::adapter::{Adapted, Adapter};
use crate::rotation::RotationTable;
use alti_formats::{ModelConfig, Part, Temperature};
use alti_tensor::{AttentionShape, Backend, CacheLayer, Experts, RowPlan};
use std::sync::Arc;

/// A model whose weights are `W`, the weights of a backend.
#[derive(Debug)]
pub struct Llama<W> {
    /// The shape of the model.
    pub config: ModelConfig,
    /// `[vocabulary, dim]`; also the output matrix when `output` is absent.
    pub embedding: W,
    /// The decoder layers, first to last.
    pub layers: Vec<Layer<W>>,
    /// `[dim]`: gain of the final norm.
    pub norm: W,
    /// `[vocabulary, dim]`; absent when tied to the embedding.
    pub output: Option<W>,
    pub(crate) rotations: RotationTable,
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer<W> {
    /// `[dim]`: gain of the norm before attention.
    pub attention_norm: W,
    /// `[heads * head_dim, dim]`.
    pub query: W,
    /// `[kv_heads * head_dim, dim]`.
    pub key: W,
    /// `[kv_heads * head_dim, dim]`.
    pub value: W,
    /// `[dim, heads * head_dim]`.
    pub output: W,
    /// How attention knows positions.
    pub position: Position,
    /// Attention's shape, its chunk included.
    pub attention: AttentionShape,
    /// The layer's place in a cache: group, and layer in the group.
    pub cache: (usize, usize),
    /// `[dim]`: gain of the norm before the feed-forward block.
    pub feed_forward_norm: W,
    /// The feed-forward block.
    pub feed_forward: FeedForward<W>,
}

/// How a layer's attention knows positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// Rotary embedding; in Llama 4 Scout queries and keys are normalised per head after it.
    Rotary {
        /// Epsilon of the norm, where there is one.
        head_norm: Option<f32>,
    },
    /// No embedding (NoPE): the causal mask alone; Llama 4 scales queries by the temperature.
    None,
}

/// A layer's feed-forward block.
#[derive(Debug)]
pub enum FeedForward<W> {
    /// One SwiGLU for every row.
    Dense(SwiGlu<W>),
    /// A shared SwiGLU and the routed experts (Llama 4).
    Mixture {
        /// Serves every row.
        shared: SwiGlu<W>,
        /// Serve the rows that the router sends them.
        experts: Experts<W>,
    },
}

/// `down (silu(gate x) * up x)`.
#[derive(Debug)]
pub struct SwiGlu<W> {
    /// `[hidden, dim]`: W1.
    pub gate: W,
    /// `[hidden, dim]`: W3.
    pub up: W,
    /// `[dim, hidden]`: W2.
    pub down: W,
}

/// What one step computes: these tokens, at these rows, with this memory of earlier ones.
#[derive(Debug)]
pub struct Step<'a, C, W> {
    /// One for each row; every one below the vocabulary size.
    pub tokens: &'a [u32],
    /// Sequences and positions.
    pub rows: &'a RowPlan,
    /// Keys and values of earlier steps; `None` to attend within the step (training).
    pub cache: Option<&'a C>,
    /// The adapters that rows use, by [`Span::adapter`](alti_tensor::Span::adapter).
    pub adapters: &'a [Arc<Adapter<W>>],
}

/// What layers need to know of the rows' positions, computed once a step.
struct Positions<T> {
    /// `[rows, head_dim]`: `cos, sin` pairs.
    rotation: T,
    /// `[rows, 1]`: the factor on the queries of layers without rotary embedding.
    temperature: Option<T>,
}

impl<W> Llama<W> {
    /// Logits, `[wanted, vocabulary]`, of the wanted rows.
    pub fn logits<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        step: &Step<B::Cache, W>,
        wanted: &[usize],
    ) -> B::Tensor {
        let x = self.hidden(b, step, |_, _| ());
        let all = wanted.iter().copied().eq(0..step.rows.len());
        let x = if all { x } else { b.select_rows(&x, wanted) };
        self.unembed(b, &x, &step.rows.select(wanted), step.adapters)
    }

    /// The residual stream after the last layer, `[rows, dim]`. `observe` sees each layer's input.
    pub fn hidden<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        step: &Step<B::Cache, W>,
        mut observe: impl FnMut(&mut B, &B::Tensor),
    ) -> B::Tensor {
        let positions = self.positions(b, step.rows);
        let mut x = b.embed(&self.embedding, step.tokens);
        for (index, layer) in self.layers.iter().enumerate() {
            let adapted = Adapted { adapters: step.adapters, layer: Some(index), rows: step.rows };
            observe(b, &x);
            x = b.checkpoint(|b| {
                let x = self.attention(b, x, layer, &adapted, &positions, step);
                self.feed_forward(b, x, layer, &adapted)
            });
        }
        x
    }

    /// `x + Wo attention(rope(Wq n), rope(Wk n), Wv n)` with `n = rms_norm(x)`.
    fn attention<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        x: B::Tensor,
        layer: &Layer<W>,
        adapted: &Adapted<'_, W>,
        positions: &Positions<B::Tensor>,
        step: &Step<B::Cache, W>,
    ) -> B::Tensor {
        let norm = (&layer.attention_norm, self.config.norm_epsilon);
        let weights = [
            (Part::AttentionQuery, &layer.query),
            (Part::AttentionKey, &layer.key),
            (Part::AttentionValue, &layer.value),
        ];
        let [mut q, mut k, v] = adapted.norm_linear(b, &x, norm, weights);
        match layer.position {
            Position::Rotary { head_norm } => {
                q = b.rope(q, &positions.rotation);
                k = b.rope(k, &positions.rotation);
                if let Some(epsilon) = head_norm {
                    q = b.head_norm(q, layer.attention.head_dim, epsilon);
                    k = b.head_norm(k, layer.attention.head_dim, epsilon);
                }
            }
            Position::None => {
                if let Some(temperature) = &positions.temperature {
                    q = b.scale_rows(q, temperature);
                }
            }
        }
        let (group, index) = layer.cache;
        let memory = step.cache.map(|cache| CacheLayer { cache, group, layer: index });
        let mixed = b.attention(&q, &k, &v, &layer.attention, memory, step.rows);
        adapted.linear_add(b, x, &mixed, (Part::AttentionOutput, &layer.output))
    }

    /// `x + W2 (silu(W1 n) * (W3 n))` with `n = rms_norm(x)`; in a mixture also `+ experts(n)`.
    fn feed_forward<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        x: B::Tensor,
        layer: &Layer<W>,
        adapted: &Adapted<'_, W>,
    ) -> B::Tensor {
        let (gain, epsilon) = (&layer.feed_forward_norm, self.config.norm_epsilon);
        match &layer.feed_forward {
            FeedForward::Dense(mlp) => {
                let gate_up = [(Part::Gate, &mlp.gate), (Part::Up, &mlp.up)];
                let hidden = adapted.norm_swiglu(b, &x, (gain, epsilon), gate_up);
                adapted.linear_add(b, x, &hidden, (Part::Down, &mlp.down))
            }
            FeedForward::Mixture { shared, experts } => {
                let n = b.rms_norm(&x, gain, epsilon);
                let routed = b.experts(&n, experts, adapted.rows);
                let gate_up = [(Part::SharedGate, &shared.gate), (Part::SharedUp, &shared.up)];
                let hidden = adapted.linear_swiglu(b, &n, gate_up);
                let x = adapted.linear_add(b, x, &hidden, (Part::SharedDown, &shared.down));
                b.add(x, &routed)
            }
        }
    }

    /// Logits of the residual stream: the final norm and the output matrix, for rows of a step with these adapters.
    pub fn unembed<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        x: &B::Tensor,
        rows: &RowPlan,
        adapters: &[Arc<Adapter<W>>],
    ) -> B::Tensor {
        let adapted = Adapted { adapters, layer: None, rows };
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        let norm = (&self.norm, self.config.norm_epsilon);
        let [logits] = adapted.norm_linear(b, x, norm, [(Part::Output, output)]);
        logits
    }

    fn positions<B: Backend<Weight = W>>(&self, b: &mut B, rows: &RowPlan) -> Positions<B::Tensor> {
        let positions = rows.rows().iter().map(|row| row.position);
        let rotation = b.input(&self.rotations.rows(positions.clone()), self.rotations.head_dim());
        let temperature = self.config.temperature.as_ref().map(|temperature| {
            let factors: Vec<f32> =
                positions.map(|position| temperature_factor(temperature, position)).collect();
            b.input(&factors, 1)
        });
        Positions { rotation, temperature }
    }
}

/// `1 + scale ln(1 + floor((position + 1) / floor_scale))`: 1 until the first step.
fn temperature_factor(temperature: &Temperature, position: usize) -> f32 {
    let steps = ((position + 1) as f32 / temperature.floor_scale).floor();
    1.0 + temperature.attention_scale * (1.0 + steps).ln()
}
