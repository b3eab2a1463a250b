//! What a model is, apart from its weights: one description for all three formats. It is validated
//! when read and the shapes of all weights follow from it, so that a model built from it need not
//! doubt either.

use crate::names::{Part, WeightName};
use crate::rope::{Rope, RopeScaling};

/// Families of models that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2 (text), 3.3 and everything of their shape.
    Llama,
    /// Llama 4 (text).
    Llama4,
}

impl Architecture {
    /// `general.architecture` in GGUF, and the prefix of its keys.
    pub const fn gguf_name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Llama4 => "llama4",
        }
    }
}

/// Mixture-of-experts layers of Llama 4.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Routed experts in each such layer.
    pub count: usize,
    /// Routed experts that each token visits.
    pub used: usize,
    /// Hidden width of one routed expert, and of the shared expert.
    pub feed_forward_length: usize,
    /// For each layer, whether it is a mixture of experts.
    pub layers: Vec<bool>,
}

/// Llama 4's attention temperature on layers without rotary embedding: queries at position `p` are
/// multiplied by `1 + attention_scale * ln(1 + floor((p + 1) / floor_scale))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Positions per step.
    pub floor_scale: f32,
    /// Growth per step.
    pub attention_scale: f32,
}

/// A model's shape and constants, independent of the format it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding matrix.
    pub vocabulary_size: usize,
    /// Width of the residual stream ("dim", "hidden size").
    pub embedding_length: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Hidden width of the dense feed-forward layers.
    pub feed_forward_length: usize,
    /// Epsilon of every RMSNorm.
    pub norm_epsilon: f32,
    /// Longest context the model was made for, in tokens.
    pub context_length: usize,
    /// Whether the output matrix is the embedding matrix.
    pub tied_embeddings: bool,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Mixture-of-experts layers; `None` where every layer is dense.
    pub experts: Option<Experts>,
    /// For each layer, whether it goes without rotary embedding (and so without chunks and QK
    /// norm).
    pub no_rope: Vec<bool>,
    /// Layers with rotary embedding attend only within chunks of this many tokens; `None`: to all
    /// before.
    pub attention_chunk: Option<usize>,
    /// Weightless RMSNorm of rotated queries and keys, on layers with rotary embedding.
    pub qk_norm: bool,
    /// Attention temperature on layers without rotary embedding.
    pub temperature: Option<Temperature>,
    /// Beginning-of-text token.
    pub bos: Option<u32>,
    /// Tokens that end a generation; may be empty.
    pub eos: Vec<u32>,
}

/// Largest of each size that is believed. Generous against the largest released model (Llama 3.1
/// 405B), and small enough that products of two fit in 64 bits.
mod limit {
    pub(super) const VOCABULARY: usize = 1 << 24;
    pub(super) const WIDTH: usize = 1 << 20;
    pub(super) const LAYERS: usize = 4096;
    pub(super) const HEADS: usize = 1 << 14;
    pub(super) const HEAD_DIM: usize = 1 << 12;
    pub(super) const EXPERTS: usize = 4096;
    pub(super) const CONTEXT: usize = 1 << 31;
}

/// A field that cannot be: its name in this program and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The field of [`ModelConfig`].
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn bad(field: &'static str, problem: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError { field, problem: problem.into() })
}

fn size(field: &'static str, value: usize, largest: usize) -> Result<(), ConfigError> {
    if value == 0 || value > largest {
        return bad(field, format!("is {value}, must be 1 to {largest}"));
    }
    Ok(())
}

fn positive(field: &'static str, value: f32) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        bad(field, format!("is {value}, must be positive"))
    }
}

/// Refuses a layer count before anything is allocated for each layer.
pub(crate) fn check_layers(layers: usize) -> Result<(), ConfigError> {
    size("layers", layers, limit::LAYERS)
}

impl ModelConfig {
    /// Whether layer `layer` is a mixture of experts.
    pub fn layer_is_moe(&self, layer: usize) -> bool {
        self.experts.as_ref().is_some_and(|experts| experts.layers[layer])
    }

    /// Whether layer `layer` turns queries and keys by their position.
    pub fn layer_uses_rope(&self, layer: usize) -> bool {
        !self.no_rope[layer]
    }

    /// The chunk that layer `layer` attends within, in tokens; `None` where it sees all tokens
    /// before.
    pub fn layer_chunk(&self, layer: usize) -> Option<usize> {
        self.attention_chunk.filter(|_| self.layer_uses_rope(layer))
    }

    /// Checks what everything else relies on: sizes are positive and capped, heads divide, each
    /// list has one entry per layer, constants are finite.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        size("vocabulary_size", self.vocabulary_size, limit::VOCABULARY)?;
        size("embedding_length", self.embedding_length, limit::WIDTH)?;
        check_layers(self.layers)?;
        size("heads", self.heads, limit::HEADS)?;
        size("kv_heads", self.kv_heads, limit::HEADS)?;
        size("head_dim", self.head_dim, limit::HEAD_DIM)?;
        size("heads * head_dim", self.heads * self.head_dim, limit::WIDTH)?;
        size("feed_forward_length", self.feed_forward_length, limit::WIDTH)?;
        size("context_length", self.context_length, limit::CONTEXT)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad("kv_heads", format!("is {}, must divide the {} heads", self.kv_heads, self.heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", format!("is {}, must be even", self.head_dim));
        }
        positive("norm_epsilon", self.norm_epsilon)?;
        if self.no_rope.len() != self.layers {
            return bad("no_rope", format!("has {} entries for {} layers", self.no_rope.len(), self.layers));
        }
        if let Some(chunk) = self.attention_chunk {
            size("attention_chunk", chunk, limit::CONTEXT)?;
        }
        if let Some(temperature) = self.temperature {
            positive("temperature.floor_scale", temperature.floor_scale)?;
            positive("temperature.attention_scale", temperature.attention_scale)?;
        }
        self.validate_experts()?;
        self.validate_rope()?;
        self.validate_tokens()
    }

    fn validate_experts(&self) -> Result<(), ConfigError> {
        let llama4_only = self.experts.is_some()
            || self.attention_chunk.is_some()
            || self.qk_norm
            || self.temperature.is_some()
            || self.no_rope.contains(&true);
        if llama4_only && self.architecture != Architecture::Llama4 {
            return bad(
                "architecture",
                "is llama, which has no experts, chunks, QK norm or layers without RoPE",
            );
        }
        let Some(experts) = &self.experts else { return Ok(()) };
        size("experts.count", experts.count, limit::EXPERTS)?;
        size("experts.used", experts.used, experts.count)?;
        size("experts.feed_forward_length", experts.feed_forward_length, limit::WIDTH)?;
        if experts.layers.len() != self.layers {
            return bad(
                "experts.layers",
                format!("has {} entries for {} layers", experts.layers.len(), self.layers),
            );
        }
        Ok(())
    }

    fn validate_rope(&self) -> Result<(), ConfigError> {
        positive("rope.theta", self.rope.theta)?;
        match &self.rope.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope.factor", *factor),
            RopeScaling::Llama3 { factor, low, high, original_context } => {
                positive("rope.factor", *factor)?;
                positive("rope.low", *low)?;
                positive("rope.high", *high)?;
                size("rope.original_context", *original_context as usize, limit::CONTEXT)?;
                if high < low {
                    return bad("rope.high", format!("is {high}, below rope.low, {low}"));
                }
                Ok(())
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
                positive("rope.factor", *factor)?;
                positive("rope.beta_fast", *beta_fast)?;
                positive("rope.beta_slow", *beta_slow)?;
                size("rope.original_context", *original_context as usize, limit::CONTEXT)?;
                positive("rope.attention_factor", attention_factor.unwrap_or(1.0))
            }
            RopeScaling::Divisors(divisors) => {
                if divisors.len() != self.head_dim / 2 {
                    let problem =
                        format!("{} for {} rotated pairs of a head", divisors.len(), self.head_dim / 2);
                    return bad("rope.divisors", problem);
                }
                divisors.iter().try_for_each(|&divisor| positive("rope.divisors", divisor))
            }
        }
    }

    fn validate_tokens(&self) -> Result<(), ConfigError> {
        let in_vocabulary = |id: &u32| (*id as usize) < self.vocabulary_size;
        match self.bos.iter().chain(&self.eos).find(|id| !in_vocabulary(id)) {
            Some(id) => {
                bad("bos or eos", format!("is token {id} of a vocabulary of {}", self.vocabulary_size))
            }
            None => Ok(()),
        }
    }

    /// Every weight of the model and its shape in the canonical layout, in model order.
    pub fn weight_shapes(&self) -> Vec<(WeightName, Vec<usize>)> {
        let (dim, vocabulary) = (self.embedding_length, self.vocabulary_size);
        let mut weights = vec![(WeightName::global(Part::TokenEmbedding), vec![vocabulary, dim])];
        for layer in 0..self.layers {
            let parts = self.attention_shapes().into_iter().chain(self.feed_forward_shapes(layer));
            weights.extend(parts.map(|(part, shape)| (WeightName::in_layer(layer, part), shape)));
        }
        weights.push((WeightName::global(Part::OutputNorm), vec![dim]));
        if !self.tied_embeddings {
            weights.push((WeightName::global(Part::Output), vec![vocabulary, dim]));
        }
        weights
    }

    fn attention_shapes(&self) -> Vec<(Part, Vec<usize>)> {
        let dim = self.embedding_length;
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        vec![
            (Part::AttentionNorm, vec![dim]),
            (Part::AttentionQuery, vec![query, dim]),
            (Part::AttentionKey, vec![kv, dim]),
            (Part::AttentionValue, vec![kv, dim]),
            (Part::AttentionOutput, vec![dim, query]),
            (Part::FeedForwardNorm, vec![dim]),
        ]
    }

    fn feed_forward_shapes(&self, layer: usize) -> Vec<(Part, Vec<usize>)> {
        let dim = self.embedding_length;
        match self.experts.as_ref().filter(|experts| experts.layers[layer]) {
            None => {
                let hidden = self.feed_forward_length;
                vec![
                    (Part::Gate, vec![hidden, dim]),
                    (Part::Up, vec![hidden, dim]),
                    (Part::Down, vec![dim, hidden]),
                ]
            }
            Some(experts) => {
                let (count, hidden) = (experts.count, experts.feed_forward_length);
                vec![
                    (Part::Router, vec![count, dim]),
                    (Part::ExpertsGate, vec![count, hidden, dim]),
                    (Part::ExpertsUp, vec![count, hidden, dim]),
                    (Part::ExpertsDown, vec![count, dim, hidden]),
                    (Part::SharedGate, vec![hidden, dim]),
                    (Part::SharedUp, vec![hidden, dim]),
                    (Part::SharedDown, vec![dim, hidden]),
                ]
            }
        }
    }

    /// The step `n` where exactly the layers `n - 1, 2n - 1, ...` are mixtures of experts: 0 where
    /// none is, `None` where no step gives the layers.
    pub fn moe_layer_step(&self) -> Option<usize> {
        let is_moe: Vec<bool> = (0..self.layers).map(|layer| self.layer_is_moe(layer)).collect();
        every_nth(&is_moe)
    }

    /// The step `n` where exactly the layers `n - 1, 2n - 1, ...` go without rotary embedding: 0
    /// where none does, `None` where no step gives the layers.
    pub fn no_rope_layer_step(&self) -> Option<usize> {
        every_nth(&self.no_rope)
    }
}

/// `flags[i]` for layers `step - 1, 2 step - 1, ...`; none for step 0.
pub(crate) fn layers_of_step(step: usize, layers: usize) -> Vec<bool> {
    (0..layers).map(|layer| step > 0 && (layer + 1).is_multiple_of(step)).collect()
}

fn every_nth(flags: &[bool]) -> Option<usize> {
    let step = flags.iter().position(|&flag| flag).map_or(0, |first| first + 1);
    (layers_of_step(step, flags.len()) == flags).then_some(step)
}
