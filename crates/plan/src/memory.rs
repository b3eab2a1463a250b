//! Memory of a GPU in training: weights, gradients, optimiser, activations, logits, buffers.

use crate::error::PlanError;
use crate::layout::{Job, Layout, Recompute, Sharding};
use crate::units::GIB;
use serde::Serialize;

/// Part of a card's memory that a framework may fill; the rest goes to the driver, libraries and fragments.
pub const USABLE: f64 = 0.95;

/// Bytes of memory on the fullest GPU, by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TrainingMemory {
    /// Weights as kept between steps.
    pub weights: f64,
    /// Gradients.
    pub gradients: f64,
    /// Optimiser state.
    pub optimizer: f64,
    /// Activations kept from the forward to the backward pass, all microbatches in flight.
    pub activations: f64,
    /// What one layer needs on top of it while it is computed (again).
    pub working: f64,
    /// Logits and their gradients.
    pub logits: f64,
    /// Weights gathered and gradients not yet reduced under ZeRO-3, communication buffers.
    pub buffers: f64,
}

impl TrainingMemory {
    /// All of it, byte.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.state() + self.activations + self.working + self.logits + self.buffers
    }

    /// Weights, gradients and optimiser state, byte.
    #[must_use]
    pub fn state(&self) -> f64 {
        self.weights + self.gradients + self.optimizer
    }

    /// Name and bytes of every part, largest last in a plot's sense of order.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, f64); 7] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("working set", self.working),
            ("logits", self.logits),
            ("buffers", self.buffers),
        ]
    }
}

/// Parameters on the fullest GPU before data-parallel sharding: those that all data-parallel ranks share, and those of
/// experts, which only ranks of other expert-parallel groups share.
#[must_use]
pub fn local_parameters(job: &Job<'_>, layout: &Layout) -> (f64, f64) {
    let model = job.model;
    let t = f64::from(layout.tensor);
    let part = layout.layers_of_stage(model) / f64::from(model.layers);
    let ends = match layout.pipeline {
        1 => model.embedding_parameters(),
        _ => (model.hidden * model.vocabulary) as f64,
    };
    // Experts are split over expert-parallel ranks first; tensor parallelism splits each of them further.
    let routed = model.routed_parameters() * part / (layout.expert_tensor() * f64::from(layout.expert));
    (model.dense_parameters_of_layers() * part / t + ends / t, routed)
}

/// Bytes of activations that a token leaves in one layer: the part that tensor parallelism does not split (unless norms
/// are split along the sequence), the part that it splits, and the scores (arXiv 2205.05198, equations 1 to 4, with
/// grouped keys and values, gated feed-forward and routed tokens).
struct TokenActivations {
    whole: f64,
    split: f64,
    scores: f64,
    /// Of the split part, the output of the feed-forward's activation function.
    activation: f64,
}

fn of_token(job: &Job<'_>) -> TokenActivations {
    let model = job.model;
    let h = model.hidden as f64;
    let (queries, keys) = ((model.heads * model.head_size) as f64, (model.kv_heads * model.head_size) as f64);
    let masks = if job.stack.dropout { 2.0 * h } else { 0.0 };
    let wide = model.feed_forward_matrices();
    let dense = f64::from(model.dense_layers()) * model.feed_forward as f64;
    let (mut routed_inputs, mut inner) = (0.0, dense);
    if let Some(experts) = &model.experts {
        let active = f64::from(experts.active);
        let layers = f64::from(model.expert_layers());
        inner += layers * (active * experts.feed_forward as f64 + experts.shared_feed_forward as f64);
        routed_inputs = layers * active * 4.0 * h;
    }
    let layers = f64::from(model.layers);
    let inner = inner / layers;
    // Inputs of both norms, of attention and of the feed-forward, two bytes each.
    let mut whole = 8.0 * h + masks;
    let mut split =
        2.0 * (queries + 2.0 * keys) + 2.0 * queries + 2.0 * wide * inner + routed_inputs / layers;
    let mut activation = 2.0 * inner;
    if job.stores_fp8() {
        // Inputs of products are kept in one byte; attention's output in FP8 for the product beside BF16 for attention.
        whole -= 2.0 * h;
        split += queries - inner - routed_inputs / layers / 4.0;
        activation = inner;
    }
    // Softmax's output and its dropout: 2 + 2 + 1 bytes, or 2 + 2 where there is no dropout.
    let bytes = if job.stack.dropout { 5.0 } else { 4.0 };
    let scores = if job.stack.flash { 0.0 } else { bytes * model.heads as f64 * job.sequence as f64 };
    TokenActivations { whole, split, scores, activation }
}

/// Bytes that one layer keeps for a token, and bytes that it needs on top while it is computed, on one GPU.
fn of_layer(job: &Job<'_>, layout: &Layout) -> (f64, f64) {
    let t = f64::from(layout.tensor);
    let token = of_token(job);
    let along = if job.stack.sequence_parallel { t } else { 1.0 };
    let all = token.whole / along + token.split / t;
    let model = job.model;
    let h = model.hidden as f64;
    match layout.recompute {
        Recompute::None => (all + token.scores / t, 0.0),
        Recompute::Selective => (all, token.scores / t),
        Recompute::Activation => (all + (token.scores - token.activation) / t, token.activation / t),
        Recompute::EveryOther => {
            // Kept: the input, queries, values, attention's output, one of the wide products and the last one.
            let (queries, keys) =
                ((model.heads * model.head_size) as f64, (model.kv_heads * model.head_size) as f64);
            let kept = 4.0 * h / along + (4.0 * queries + 2.0 * keys + 2.0 * model.feed_forward as f64) / t;
            (kept, (all - kept).max(0.0))
        }
        // The gradient of what is computed again lives beside it.
        Recompute::Full => (2.0 * h / along, all + token.scores / t),
    }
}

/// Microbatches whose activations the first stage holds, in units of the whole stage (1F1B: as many as there are stages;
/// interleaving adds a part, arXiv 2205.05198, appendix B).
fn in_flight(job: &Job<'_>, layout: &Layout) -> f64 {
    let (p, v) = (f64::from(layout.pipeline), f64::from(layout.interleave));
    let interleaved = if layout.interleave > 1 { 1.0 + (p - 1.0) / (p * v) } else { 1.0 };
    (p * interleaved).min(layout.microbatches(job).max(1.0))
}

/// What the activations of the fullest GPU are computed from: the product of all four.
#[derive(Clone, Copy, Debug)]
pub struct Activations {
    /// Tokens of a microbatch on one context-parallel rank.
    pub tokens: f64,
    /// Bytes that a layer keeps for a token.
    pub bytes: f64,
    /// Layers of the fullest stage.
    pub layers: f64,
    /// Microbatches in flight.
    pub in_flight: f64,
}

impl Activations {
    /// All of them, byte.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.tokens * self.bytes * self.layers * self.in_flight
    }
}

/// Activations and logits of the fullest stage of a pipeline: the last holds one microbatch and the logits, the first all
/// microbatches in flight.
#[must_use]
pub fn activations(job: &Job<'_>, layout: &Layout) -> (Activations, f64) {
    let first = Activations {
        tokens: job.sequence as f64 * f64::from(layout.microbatch) / f64::from(layout.context),
        bytes: of_layer(job, layout).0,
        layers: layout.layers_of_stage(job.model),
        in_flight: in_flight(job, layout),
    };
    let logits =
        first.tokens * job.model.vocabulary as f64 / f64::from(layout.tensor) * job.stack.logit_bytes;
    let last = Activations { in_flight: 1.0, ..first };
    match layout.pipeline {
        1 => (first, logits),
        _ if last.total() + logits > first.total() => (last, logits),
        _ => (first, 0.0),
    }
}

/// Memory of the fullest GPU.
#[must_use]
pub fn training_memory(job: &Job<'_>, layout: &Layout) -> TrainingMemory {
    let (dense, routed) = local_parameters(job, layout);
    let ranks = f64::from(layout.data) * f64::from(layout.context);
    let expert_ranks = layout.expert_copies();
    let sharded = |bytes: f64, from: Sharding| match layout.sharding >= from {
        true => bytes * (dense / ranks + routed / expert_ranks),
        false => bytes * (dense + routed),
    };
    let stack = job.stack;
    let (activations, logits) = activations(job, layout);
    let tokens = activations.tokens;
    let (_, working) = of_layer(job, layout);
    let along = if stack.sequence_parallel { f64::from(layout.tensor) } else { 1.0 };
    let hidden = job.model.hidden as f64;
    // Inputs gathered along the sequence: one at a time (arXiv 2205.05198, section 4.2.2), or those of attention and
    // feed-forward, a sum not yet scattered, and the output's with its gradient.
    let gathered = match (along > 1.0, stack.gathers_again) {
        (false, _) => 0.0,
        (true, true) => 2.0 * tokens * hidden,
        (true, false) => 10.0 * tokens * hidden,
    };
    TrainingMemory {
        weights: sharded(stack.weight_bytes, Sharding::Weights),
        gradients: sharded(stack.gradient_bytes, Sharding::Gradients),
        optimizer: sharded(stack.optimizer_bytes, Sharding::Optimizer),
        activations: activations.total(),
        working: tokens * (working + 4.0 * hidden / along) + gathered,
        logits,
        buffers: buffers(job, layout, dense + routed),
    }
}

/// What ZeRO-3 gathers: two layers and the embedding in BF16 with the layer's gradient; behind pipeline stages the whole
/// stage stays gathered, and its gradients add up unreduced until the last microbatch (FSDP2 under a schedule). ZeRO-2
/// holds the gradients that are being scattered: two layers', or two chunks' of an interleaved stage, in which those of as
/// many microbatches as there are stages add up first (arXiv 2407.21783, section 3.3.2).
fn buffers(job: &Job<'_>, layout: &Layout, local: f64) -> f64 {
    if layout.sharding < Sharding::Gradients || layout.data * layout.context == 1 {
        return 0.0;
    }
    let gradients = job.stack.gradient_bytes;
    if layout.sharding == Sharding::Weights && job.stack.one_link {
        // Parameters gathered one by one: DeepSpeed's defaults of `stage3_max_live_parameters` and `reduce_bucket_size`.
        return 2.0 * local.min(1e9) + gradients * local.min(5e8);
    }
    let t = f64::from(layout.tensor);
    let model = job.model;
    let routed = model.routed_parameters() / (f64::from(layout.expert) * layout.expert_tensor());
    let layer = (model.dense_parameters_of_layers() / t + routed) / f64::from(model.layers);
    match (layout.sharding, layout.pipeline > 1) {
        (Sharding::Weights, true) => local * (2.0 + gradients),
        (Sharding::Weights, false) => {
            (2.0 * 2.0 + gradients) * layer + 2.0 * model.embedding_parameters() / t
        }
        (_, true) if layout.interleave > 1 => {
            local * gradients * (2.0 / f64::from(layout.interleave)).min(1.0)
        }
        _ => (2.0 * layer * gradients).min(local * gradients),
    }
}

/// Whether the layout fits the accelerator's memory.
///
/// # Errors
/// When it does not, with what is nearest among the usual remedies.
pub fn fits(job: &Job<'_>, layout: &Layout) -> Result<TrainingMemory, PlanError> {
    let memory = training_memory(job, layout);
    let available = job.accelerator.memory * USABLE;
    if memory.total() <= available {
        return Ok(memory);
    }
    let (largest, _) =
        memory.parts().into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("weights", 0.0));
    let remedy = remedy(job, layout, available)
        .unwrap_or_else(|| format!("{largest} take the most; use more GPUs, or ones with more memory"));
    Err(PlanError::Memory {
        what: format!("{} in {layout}", job.model.name),
        needed_gib: memory.total() / GIB,
        available_gib: available / GIB,
        remedy,
    })
}

/// The nearest layout that fits: the same mesh with more sharding, more recomputation or smaller microbatches.
fn remedy(job: &Job<'_>, layout: &Layout, available: f64) -> Option<String> {
    let mut changed = *layout;
    type Change = fn(&mut Layout);
    let changes: [(&str, Change); 5] = [
        ("ZeRO-1", |it| it.sharding = it.sharding.max(Sharding::Optimizer)),
        ("a microbatch of 1", |it| it.microbatch = 1),
        ("ZeRO-2", |it| it.sharding = it.sharding.max(Sharding::Gradients)),
        ("full recomputation", |it| it.recompute = Recompute::Full),
        ("ZeRO-3", |it| it.sharding = Sharding::Weights),
    ];
    let mut said = Vec::new();
    for (name, change) in changes {
        let before = changed;
        change(&mut changed);
        if changed != before {
            said.push(name);
        }
        if changed != before && training_memory(job, &changed).total() <= available {
            return Some(format!("it fits with {}", said.join(" and ")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::model::ModelCatalogue;
    use crate::stack::Stack;

    /// Memory of Llama 3.1 405B in NVIDIA's layout for 1,024 H100.
    fn memory(stack: &str, precision: &str) -> TrainingMemory {
        let model = ModelCatalogue::built_in().find("Llama-3.1-405B").unwrap();
        let hardware = HardwareCatalogue::built_in();
        let job = Job {
            model: &model,
            accelerator: hardware.find("H100").unwrap(),
            stack: Stack::find(stack).unwrap(),
            sequence: 8192,
            batch_tokens: 512.0 * 8192.0,
            precision,
            oversubscription: 1.0,
            pod: 3072,
        };
        let layout = Layout { tensor: 8, context: 2, pipeline: 8, data: 8, interleave: 8, ..Layout::SINGLE };
        training_memory(&job, &Layout { sharding: Sharding::Optimizer, ..layout })
    }

    #[test]
    fn fp8_keeps_inputs_of_products_in_one_byte_where_the_software_does() {
        let (plain, eight) = (memory("nemo", "bf16"), memory("nemo", "fp8"));
        // Of a layer's 65,024 bytes a token: 2 x 16,384 of norms' inputs, 53,248 of the feed-forward's inner width, less
        // 16,384 of a second copy of attention's output, each over 8 ranks.
        let saved = (2.0 * 16_384.0 + 53_248.0 - 16_384.0) / 65_024.0 / 8.0;
        assert!((1.0 - eight.activations / plain.activations - saved).abs() < 1e-9);
        assert_eq!(eight.state(), plain.state());
        // torchao casts again from BF16.
        assert_eq!(memory("torchtitan", "fp8").activations, memory("torchtitan", "bf16").activations);
        // Gradients in BF16 are half of those in FP32.
        assert_eq!(memory("megatron-core", "fp8").gradients, 2.0 * eight.gradients);
    }
}
