//! The time of a training step: kernels by roofline, collectives by volume and bandwidth, the pipeline by its slowest
//! stage. Every term is one of [`StepTime`]'s lines, so that a plan can say where the time goes.

use crate::calibration::Calibration;
use crate::kernel::{KernelTime, Kernels, Pass};
use crate::layout::{Job, Layout, Recompute, Sharding};
use crate::memory::local_parameters;
use crate::network::Network;
use serde::Serialize;

/// Seconds of a step by cause; their sum is the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepTime {
    /// Matrix products of layers and of the output.
    pub products: f64,
    /// Attention over earlier positions.
    pub attention: f64,
    /// Element-wise operations, softmax, loss.
    pub elementwise: f64,
    /// Forward work done again in the backward pass.
    pub recompute: f64,
    /// Waiting for the host to launch kernels.
    pub host: f64,
    /// Tensor-parallel collectives that are not hidden.
    pub tensor: f64,
    /// Context-parallel exchange of keys and values that is not hidden.
    pub context: f64,
    /// Exchange of routed tokens.
    pub expert: f64,
    /// Sending activations between pipeline stages.
    pub pipeline: f64,
    /// Stages that wait: fill, drain, and a slower last stage.
    pub bubble: f64,
    /// Data-parallel collectives that are not hidden.
    pub data: f64,
    /// The optimiser's update.
    pub optimizer: f64,
    /// What is in no other line.
    pub other: f64,
}

impl StepTime {
    /// The whole step, s.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.parts().iter().map(|part| part.1).sum()
    }

    /// Name and seconds of every part.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, f64); 13] {
        [
            ("products", self.products),
            ("attention", self.attention),
            ("element-wise", self.elementwise),
            ("recomputation", self.recompute),
            ("host", self.host),
            ("tensor parallel", self.tensor),
            ("context parallel", self.context),
            ("expert parallel", self.expert),
            ("pipeline sends", self.pipeline),
            ("pipeline bubble", self.bubble),
            ("data parallel", self.data),
            ("optimizer", self.optimizer),
            ("other", self.other),
        ]
    }
}

/// What one microbatch costs in one layer, forward and backward, s.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerTime {
    /// Kernels of the forward pass.
    pub forward: KernelTime,
    /// Kernels of the backward pass.
    pub backward: KernelTime,
    /// Forward work done again.
    pub recompute: f64,
    /// Waiting for the host.
    pub host: f64,
    /// Tensor-parallel collectives that are not hidden.
    pub tensor: f64,
    /// Context-parallel exchange that is not hidden.
    pub context: f64,
    /// Exchange of routed tokens.
    pub expert: f64,
}

impl LayerTime {
    /// All of it, s.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.forward.total()
            + self.backward.total()
            + self.recompute
            + self.host
            + self.tensor
            + self.context
            + self.expert
    }
}

/// What a step's time is computed from: [`StepDetail::time`] is the formula, and an explanation shows the same numbers.
#[derive(Clone, Copy, Debug)]
pub struct StepDetail {
    /// Pipeline stages.
    pub stages: f64,
    /// Model chunks of a stage.
    pub interleave: f64,
    /// Microbatches that a rank works through.
    pub microbatches: f64,
    /// Layers of the fullest stage.
    pub layers: f64,
    /// One layer for one microbatch.
    pub layer: LayerTime,
    /// Embedding, output and loss for one microbatch, forward and backward.
    pub head: KernelTime,
    /// Waiting to send and receive activations for one microbatch.
    pub sends: f64,
    /// Data-parallel traffic of a step, s.
    pub traffic: f64,
    /// Of it, what is hidden.
    pub hidden: f64,
    /// Parameters that a rank updates.
    pub shard: f64,
    /// Byte/s of memory that the update reaches.
    pub update_bandwidth: f64,
    /// Seconds of a step for what is in no other line.
    pub constant: f64,
    /// Slowdown for each doubling of the number of nodes.
    pub straggler: f64,
    /// Nodes of the job.
    pub nodes: f64,
}

/// The time of a step.
#[must_use]
pub fn step_time(job: &Job<'_>, layout: &Layout, calibration: &Calibration) -> StepTime {
    step_detail(job, layout, calibration).time()
}

/// What the time of a step is computed from.
#[must_use]
pub fn step_detail(job: &Job<'_>, layout: &Layout, calibration: &Calibration) -> StepDetail {
    let kernels = Kernels::new(job, layout, calibration);
    let network = Network::new(job, layout, calibration);
    let layer = layer_time(job, layout, &kernels, &network, calibration);
    let head = kernels.output();
    let layers = layout.layers_of_stage(job.model);
    let microbatches = layout.microbatches(job);
    let work = microbatches * (layers * layer.total() + head.products + head.elementwise);
    let (traffic, hidden, shard) = update_time(job, layout, &network, calibration, microbatches, work);
    StepDetail {
        stages: f64::from(layout.pipeline),
        interleave: f64::from(layout.interleave),
        microbatches,
        layers,
        layer,
        head,
        sends: network.stage_boundary(job, layout) * if layout.interleave > 1 { 0.0 } else { 1.0 },
        traffic,
        hidden,
        shard,
        update_bandwidth: 0.8 * job.accelerator.memory_bandwidth,
        constant: calibration.step(),
        straggler: calibration.straggler(),
        nodes: network.nodes(),
    }
}

impl StepDetail {
    /// Seconds of a stage's layers for one microbatch.
    #[must_use]
    pub fn stage(&self) -> f64 {
        self.layers * self.layer.total()
    }

    /// The time of the step, by cause. Embedding and output make the last stage the slowest: where there are several, all
    /// others wait for it; where there is one, they are its work.
    #[must_use]
    pub fn time(&self) -> StepTime {
        let each = self.microbatches * self.layers;
        let layer = &self.layer;
        let own = if self.stages > 1.0 { 0.0 } else { 1.0 };
        let head = self.head.products + self.head.elementwise;
        let fill = (self.stages - 1.0) * (self.stage() + self.sends) / self.interleave;
        let mut step = StepTime {
            products: each * (layer.forward.products + layer.backward.products)
                + own * self.microbatches * self.head.products,
            attention: each * (layer.forward.attention + layer.backward.attention),
            elementwise: each * (layer.forward.elementwise + layer.backward.elementwise)
                + own * self.microbatches * self.head.elementwise,
            recompute: each * layer.recompute,
            host: each * layer.host,
            tensor: each * layer.tensor,
            context: each * layer.context,
            expert: each * layer.expert,
            pipeline: self.microbatches * self.sends,
            bubble: fill + (1.0 - own) * self.microbatches * head,
            data: self.traffic - self.hidden,
            // AdamW reads gradient, master and both moments, and writes all but the gradient, and the BF16 weight.
            optimizer: 30.0 * self.shard / self.update_bandwidth,
            other: self.constant,
        };
        step.other += step.total() * self.straggler * self.nodes.log2();
        step
    }
}

/// What one layer takes for one microbatch, forward and backward.
fn layer_time(
    job: &Job<'_>,
    layout: &Layout,
    kernels: &Kernels<'_>,
    network: &Network,
    calibration: &Calibration,
) -> LayerTime {
    let forward = kernels.layer(Pass::Forward);
    let backward = kernels.layer(Pass::Backward);
    let collective = network.tensor_collective(job, layout);
    let exchange = network.expert_exchange(job, layout) * calibration.experts();
    // What overlaps does so over the fabric of a node only (user buffers of Transformer Engine).
    // Two collectives in a pass of a layer: after attention and after the feed-forward (arXiv 1909.08053). They can hide
    // behind products at most.
    let tensor = match job.stack.tensor_overlap && layout.tensor <= job.accelerator.per_node {
        true => {
            (2.0 * collective * (1.0 - calibration.tensor_overlap())).max(2.0 * collective - forward.products)
        }
        false => 2.0 * collective,
    };
    let recompute = match layout.recompute {
        Recompute::None => 0.0,
        Recompute::Selective if job.stack.flash => 0.0,
        Recompute::Selective => forward.attention,
        Recompute::Activation => kernels.activation(),
        Recompute::EveryOther => 0.5 * forward.products + forward.elementwise,
        Recompute::Full => forward.total() + tensor + exchange,
    };
    let (ring_forward, ring_backward) = network.context_exchange(job, layout);
    let hidden = if job.stack.ring { 1.0 } else { 0.0 };
    let mut layer = LayerTime {
        forward,
        backward,
        recompute,
        host: 0.0,
        tensor: 2.0 * tensor,
        context: (ring_forward - hidden * forward.attention).max(0.0)
            + (ring_backward - hidden * backward.attention).max(0.0),
        expert: 2.0 * exchange,
    };
    layer.host = host_time(job, layout, calibration, &layer);
    layer
}

/// Seconds that a layer takes longer than its devices do because the host launches too slowly: in the forward pass, and in
/// the backward pass with what is computed again, each of which is bound by the one or the other.
fn host_time(job: &Job<'_>, layout: &Layout, calibration: &Calibration, layer: &LayerTime) -> f64 {
    // Whole layers again cost the host a whole pass; parts cost a part of one.
    let passes = match layout.recompute {
        Recompute::None => 1.0,
        Recompute::Activation => 1.1,
        Recompute::Selective => 1.2,
        Recompute::EveryOther => 1.5,
        Recompute::Full => 2.0,
    };
    let plain = if job.stack.slow_host { calibration.host_slow() } else { calibration.host_fast() };
    // Experts are launched one by one (grouped products, their scaling and the permutation of tokens).
    let experts = job.model.experts.as_ref().map_or(0.0, |experts| {
        let layers = f64::from(job.model.expert_layers()) / f64::from(job.model.layers);
        layers * f64::from(experts.count) / f64::from(layout.expert)
    });
    let per_pass = plain + experts * calibration.host_experts();
    let drain = match layout.recompute {
        Recompute::Full if job.stack.slow_host => calibration.drain(),
        _ => 0.0,
    };
    let exchanged = (layer.tensor + layer.expert) / 2.0;
    let forward = layer.forward.total() + exchanged;
    let rest = layer.total() - forward;
    // Backward launches about as many kernels twice as forward does once, from a host that has less else to do.
    let late = |host: f64, device: f64| blend(host, device, calibration.blend()) - device;
    late(per_pass, forward) + late(passes * per_pass, rest + drain) + drain
}

/// The time of two that run beside each other and now and then wait for one another: a norm between their sum and the
/// longer of them.
fn blend(a: f64, b: f64, order: f64) -> f64 {
    (a.powf(order) + b.powf(order)).powf(1.0 / order)
}

/// How often gradients are scattered in a step: once, unless they are kept sharded (ZeRO-2). Then every microbatch adds
/// to them; in an interleaved pipeline as many follow one another through a chunk as there are stages, and add up first
/// (arXiv 2407.21783, section 3.3.2).
fn scatters(layout: &Layout, microbatches: f64) -> f64 {
    match (layout.sharding, layout.pipeline > 1 && layout.interleave > 1) {
        (Sharding::Gradients, true) => (microbatches / f64::from(layout.pipeline)).ceil(),
        (Sharding::Gradients, false) => microbatches,
        _ => 1.0,
    }
}

/// Seconds of data-parallel traffic, what of it is hidden, and the parameters that a rank updates.
fn update_time(
    job: &Job<'_>,
    layout: &Layout,
    network: &Network,
    calibration: &Calibration,
    microbatches: f64,
    work: f64,
) -> (f64, f64, f64) {
    let (dense, routed) = local_parameters(job, layout);
    let ranks = f64::from(layout.data) * f64::from(layout.context);
    let expert_ranks = layout.expert_copies();
    let overlap = if job.stack.data_overlap { calibration.data_overlap() } else { 0.0 };
    let volume = |per_parameter: f64| {
        network.data_collective_once(per_parameter * dense, ranks)
            + network.data_collective_once(per_parameter * routed, expert_ranks)
    };
    let (traffic, exposed) = match layout.sharding {
        // Weights are gathered forward and backward and gradients scattered, with every microbatch.
        Sharding::Weights => {
            let gradients = volume(job.stack.gradient_bytes.min(4.0));
            let weights = volume(2.0);
            let gathers = if layout.pipeline > 1 { 1.0 } else { 2.0 * microbatches };
            let scatters = if layout.pipeline > 1 { 1.0 } else { microbatches };
            let traffic = gathers * weights + scatters * gradients;
            // What overlaps can hide behind the whole of the work, but for the first gather and the last scatter.
            let least = ((1.0 - overlap) * traffic).max((weights + gradients) / 32.0);
            (traffic, (traffic - overlap * work).max(least))
        }
        // Gradients are scattered behind the backward pass, and once what they became is gathered.
        _ => {
            let scatters = scatters(layout, microbatches);
            // Without ZeRO what is gathered are the gradients' sums, with it the weights that became of them, in BF16.
            let gathered = if layout.sharding == Sharding::None { job.stack.gradient_bytes } else { 2.0 };
            let traffic = scatters * volume(job.stack.gradient_bytes) + volume(gathered);
            let window = 2.0 / 3.0 * work / microbatches * scatters;
            (traffic, (traffic - overlap * traffic.min(window)).max(0.0))
        }
    };
    let shard = match layout.sharding {
        Sharding::None => dense + routed,
        _ => dense / ranks + routed / expert_ranks,
    };
    (traffic, traffic - exposed, shard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::CONSTANTS;
    use crate::hardware::HardwareCatalogue;
    use crate::model::ModelCatalogue;
    use crate::stack::Stack;

    fn with<T>(model: &str, sequence: u64, answer: impl FnOnce(&Job<'_>) -> T) -> T {
        let model = ModelCatalogue::built_in().find(model).unwrap();
        let hardware = HardwareCatalogue::built_in();
        answer(&Job {
            model: &model,
            accelerator: hardware.find("H100").unwrap(),
            stack: Stack::find(Stack::DEFAULT).unwrap(),
            sequence,
            batch_tokens: 4_194_304.0,
            precision: "bf16",
            oversubscription: 1.0,
            pod: 3072,
        })
    }

    fn setting(name: &str, value: f64) -> Calibration {
        let index = CONSTANTS.iter().position(|it| it.name == name).unwrap();
        Calibration::default().with(index, value)
    }

    #[test]
    fn a_context_parallel_ring_slows_attention_and_nothing_else() {
        with("Llama-3.1-405B", 131_072, |job| {
            let layout = Layout { tensor: 8, context: 4, pipeline: 16, data: 1, ..Layout::SINGLE };
            let time = |value: f64| step_time(job, &layout, &setting("context", value));
            let (none, some) = (time(0.0), time(0.4));
            // Three of four pieces come from other ranks.
            assert!((some.attention / none.attention - 1.3).abs() < 1e-9);
            assert_eq!(some.products, none.products);
        });
    }

    #[test]
    fn the_host_pays_for_every_expert_of_a_device() {
        with("Qwen3-30B-A3B", 4096, |job| {
            let host = |expert: u32| {
                let layout = Layout { data: 16, expert, ..Layout::SINGLE };
                step_detail(job, &layout, &setting("host_experts", 1e-3)).layer.host
            };
            assert!(host(16) < host(8) && host(8) < host(4));
        });
    }
}
