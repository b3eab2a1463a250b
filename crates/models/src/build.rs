//! From a checkpoint to a model: which weight goes where, and what each layer does.

use crate::llama::{FeedForward, Layer, Llama, Position, SwiGlu};
use crate::rotation::RotationTable;
use crate::{ModelError, memory};
use alti_formats::{Checkpoint, ModelConfig, Part, Rope, WeightInfo, WeightName};
use alti_tensor::{AttentionShape, Backend, Experts};

impl<W> Llama<W> {
    /// Reads every weight of the checkpoint into the backend. `progress` is told how many of how
    /// many weights are in.
    ///
    /// # Errors
    /// When the file cannot be read, or the backend cannot take a weight.
    pub fn load<B: Backend<Weight = W>>(
        backend: &B,
        checkpoint: &Checkpoint,
        progress: impl FnMut(usize, usize),
    ) -> Result<Llama<W>, ModelError> {
        Self::load_beside(backend, checkpoint, |_| None, progress)
    }

    /// The same, but weights that `have` gives are not read.
    ///
    /// # Errors
    /// When the file cannot be read, or the backend cannot take a weight.
    pub fn load_beside<B: Backend<Weight = W>>(
        backend: &B,
        checkpoint: &Checkpoint,
        mut have: impl FnMut(&WeightInfo) -> Option<W>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Llama<W>, ModelError> {
        let total = checkpoint.weights().len();
        let mut done = 0;
        Self::build(checkpoint.config(), |name| {
            let weight = match checkpoint.info(&name).and_then(&mut have) {
                Some(weight) => weight,
                None => backend
                    .load(checkpoint.load(&name)?)
                    .map_err(|error| ModelError::Weight { name, error })?,
            };
            checkpoint.release(&name);
            done += 1;
            progress(done, total);
            Ok(weight)
        })
    }

    /// A model of this shape whose weights `weight` gives by name.
    ///
    /// # Errors
    /// The first that `weight` returns.
    pub fn build<E>(
        config: &ModelConfig,
        mut weight: impl FnMut(WeightName) -> Result<W, E>,
    ) -> Result<Llama<W>, E> {
        let groups = memory::cache_groups(config);
        let mut layers = Vec::with_capacity(config.layers);
        let embedding = weight(WeightName::global(Part::TokenEmbedding))?;
        for (index, &cache) in groups.iter().enumerate() {
            layers.push(layer(config, index, cache, |part| weight(WeightName::in_layer(index, part)))?);
        }
        Ok(Llama {
            embedding,
            layers,
            norm: weight(WeightName::global(Part::OutputNorm))?,
            output: match config.tied_embeddings {
                true => None,
                false => Some(weight(WeightName::global(Part::Output))?),
            },
            rotations: RotationTable::new(&config.rope, config.head_dim),
            config: config.clone(),
        })
    }

    /// The same model with another rotary embedding than its checkpoint names.
    #[must_use]
    pub fn with_rope(mut self, rope: Rope) -> Self {
        self.rotations = RotationTable::new(&rope, self.config.head_dim);
        self.config.rope = rope;
        self
    }

    /// Every weight with its name, in model order.
    pub fn weights(&self) -> Vec<(WeightName, &W)> {
        let mut all = vec![(WeightName::global(Part::TokenEmbedding), &self.embedding)];
        for (index, layer) in self.layers.iter().enumerate() {
            let in_layer = |(part, weight)| (WeightName::in_layer(index, part), weight);
            all.extend(layer.weights().into_iter().map(in_layer));
        }
        all.push((WeightName::global(Part::OutputNorm), &self.norm));
        all.extend(self.output.as_ref().map(|output| (WeightName::global(Part::Output), output)));
        all
    }
}

impl<W> Layer<W> {
    fn weights(&self) -> Vec<(Part, &W)> {
        let mut all = vec![
            (Part::AttentionNorm, &self.attention_norm),
            (Part::AttentionQuery, &self.query),
            (Part::AttentionKey, &self.key),
            (Part::AttentionValue, &self.value),
            (Part::AttentionOutput, &self.output),
            (Part::FeedForwardNorm, &self.feed_forward_norm),
        ];
        all.extend(match &self.feed_forward {
            FeedForward::Dense(mlp) => {
                vec![(Part::Gate, &mlp.gate), (Part::Up, &mlp.up), (Part::Down, &mlp.down)]
            }
            FeedForward::Mixture { shared, experts } => vec![
                (Part::Router, &experts.router),
                (Part::ExpertsGate, &experts.gate),
                (Part::ExpertsUp, &experts.up),
                (Part::ExpertsDown, &experts.down),
                (Part::SharedGate, &shared.gate),
                (Part::SharedUp, &shared.up),
                (Part::SharedDown, &shared.down),
            ],
        });
        all
    }
}

fn layer<W, E>(
    config: &ModelConfig,
    index: usize,
    cache: (usize, usize),
    mut weight: impl FnMut(Part) -> Result<W, E>,
) -> Result<Layer<W>, E> {
    Ok(Layer {
        attention_norm: weight(Part::AttentionNorm)?,
        query: weight(Part::AttentionQuery)?,
        key: weight(Part::AttentionKey)?,
        value: weight(Part::AttentionValue)?,
        output: weight(Part::AttentionOutput)?,
        position: match config.layer_uses_rope(index) {
            true => Position::Rotary { head_norm: config.qk_norm.then_some(config.norm_epsilon) },
            false => Position::None,
        },
        attention: AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            chunk: config.layer_chunk(index),
        },
        cache,
        feed_forward_norm: weight(Part::FeedForwardNorm)?,
        feed_forward: match (&config.experts, config.layer_is_moe(index)) {
            (Some(experts), true) => FeedForward::Mixture {
                experts: Experts {
                    router: weight(Part::Router)?,
                    gate: weight(Part::ExpertsGate)?,
                    up: weight(Part::ExpertsUp)?,
                    down: weight(Part::ExpertsDown)?,
                    used: experts.used,
                },
                shared: swiglu([Part::SharedGate, Part::SharedUp, Part::SharedDown], weight)?,
            },
            _ => FeedForward::Dense(swiglu([Part::Gate, Part::Up, Part::Down], weight)?),
        },
    })
}

fn swiglu<W, E>(
    [gate, up, down]: [Part; 3],
    mut weight: impl FnMut(Part) -> Result<W, E>,
) -> Result<SwiGlu<W>, E> {
    Ok(SwiGlu { gate: weight(gate)?, up: weight(up)?, down: weight(down)? })
}
