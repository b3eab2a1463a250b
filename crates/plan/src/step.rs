//! The time of a training step: kernels by roofline, collectives by volume and bandwidth, the pipeline by its slowest
//! stage. Every term is one of [`StepTime`]'s lines, so that a plan can say where the time goes.

use crate::calibration::Calibration;
use crate::kernel::{Kernels, Pass};
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

/// What one microbatch costs in one stage without its ends, s.
#[derive(Clone, Copy, Debug, Default)]
struct StageTime {
    products: f64,
    attention: f64,
    elementwise: f64,
    recompute: f64,
    host: f64,
    tensor: f64,
    context: f64,
    expert: f64,
}

impl StageTime {
    fn total(&self) -> f64 {
        self.products
            + self.attention
            + self.elementwise
            + self.recompute
            + self.host
            + self.tensor
            + self.context
            + self.expert
    }
}

/// The time of a step.
#[must_use]
pub fn step_time(job: &Job<'_>, layout: &Layout, calibration: &Calibration) -> StepTime {
    let kernels = Kernels::new(job, layout, calibration);
    let network = Network::new(job, layout, calibration);
    let stage = stage_time(job, layout, &kernels, &network, calibration);
    let head = kernels.output();
    let (p, v) = (f64::from(layout.pipeline), f64::from(layout.interleave));
    let microbatches = layout.microbatches(job);
    // Embedding and output matrix make the last stage the slowest; all others wait for it.
    let slowest = stage.total() + head.products + head.elementwise;
    let sends = network.stage_boundary(job, layout) * if layout.interleave > 1 { 0.0 } else { 1.0 };
    let steady = microbatches * (slowest + sends);
    let fill = (p - 1.0) * (stage.total() + sends) / v;
    let work = microbatches * stage.total();
    let head_work = microbatches * (head.products + head.elementwise);
    // Where there is one stage its end is work; where there are several, all but the last wait for it.
    let waiting = if layout.pipeline > 1 { head_work } else { 0.0 };
    let own = if layout.pipeline > 1 { 0.0 } else { 1.0 };
    let slow = 1.0 + calibration.straggler() * network.nodes().log2();
    let (data, optimizer) = update_time(job, layout, &network, calibration, microbatches, work + head_work);
    let mut step = StepTime {
        products: microbatches * (stage.products + own * head.products),
        attention: microbatches * stage.attention,
        elementwise: microbatches * (stage.elementwise + own * head.elementwise),
        recompute: microbatches * stage.recompute,
        host: microbatches * stage.host,
        tensor: microbatches * stage.tensor,
        context: microbatches * stage.context,
        expert: microbatches * stage.expert,
        pipeline: microbatches * sends,
        bubble: fill + waiting,
        data,
        optimizer,
        other: calibration.step(),
    };
    debug_assert!(
        (step.total() - (steady + fill + data + optimizer + calibration.step())).abs() < 1e-6 * steady
    );
    step.other += step.total() * (slow - 1.0);
    step
}

/// Seconds that layers of one stage take for one microbatch, forward and backward.
fn stage_time(
    job: &Job<'_>,
    layout: &Layout,
    kernels: &Kernels<'_>,
    network: &Network,
    calibration: &Calibration,
) -> StageTime {
    let layers = layout.layers_of_stage(job.model);
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
    let again = match layout.recompute {
        Recompute::None => 0.0,
        Recompute::Selective if job.stack.flash => 0.0,
        Recompute::Selective => forward.attention,
        Recompute::EveryOther => 0.5 * forward.products + forward.elementwise,
        Recompute::Full => forward.total() + tensor + exchange,
    };
    // Whole layers again cost the host a whole pass; parts cost a part of one.
    let passes = match layout.recompute {
        Recompute::None => 1.0,
        Recompute::Selective => 1.2,
        Recompute::EveryOther => 1.5,
        Recompute::Full => 2.0,
    };
    let (ring_forward, ring_backward) = network.context_exchange(job, layout);
    let ring = (ring_forward - forward.attention).max(0.0) + (ring_backward - backward.attention).max(0.0);
    let device = forward.total() + backward.total() + again + 2.0 * tensor + 2.0 * exchange + ring;
    let plain = if job.stack.slow_host { calibration.host_slow() } else { calibration.host_fast() };
    let expert_layers = f64::from(job.model.expert_layers()) / f64::from(job.model.layers);
    let per_pass = plain + expert_layers * calibration.host_experts();
    // Backward launches about as many kernels twice as forward does once, from a host that has less else to do.
    let host = per_pass * (passes + 1.0);
    let drain = match layout.recompute {
        Recompute::Full if job.stack.slow_host => calibration.drain(),
        _ => 0.0,
    };
    StageTime {
        products: layers * (forward.products + backward.products),
        attention: layers * (forward.attention + backward.attention),
        elementwise: layers * (forward.elementwise + backward.elementwise),
        recompute: layers * again,
        host: layers * (blend(host, device + drain, calibration.blend()) - device),
        tensor: layers * 2.0 * tensor,
        context: layers * ring,
        expert: layers * 2.0 * exchange,
    }
}

/// The time of two that run beside each other and now and then wait for one another: a norm between their sum and the
/// longer of them.
fn blend(a: f64, b: f64, order: f64) -> f64 {
    (a.powf(order) + b.powf(order)).powf(1.0 / order)
}

/// Seconds of data-parallel traffic that nothing hides, and of the optimiser.
fn update_time(
    job: &Job<'_>,
    layout: &Layout,
    network: &Network,
    calibration: &Calibration,
    microbatches: f64,
    work: f64,
) -> (f64, f64) {
    let (dense, routed) = local_parameters(job, layout);
    let ranks = f64::from(layout.data) * f64::from(layout.context);
    let expert_ranks = ranks / f64::from(layout.expert);
    let overlap = if job.stack.data_overlap { calibration.data_overlap() } else { 0.0 };
    let volume = |per_parameter: f64| {
        network.data_collective(per_parameter * dense, ranks)
            + network.data_collective(per_parameter * routed, expert_ranks)
    };
    let exposed = match layout.sharding {
        // Weights are gathered forward and backward and gradients scattered, with every microbatch.
        Sharding::Weights => {
            let gradients = network.data_collective_once(job.stack.gradient_bytes.min(4.0) * dense, ranks)
                + network.data_collective_once(job.stack.gradient_bytes.min(4.0) * routed, expert_ranks);
            let weights = network.data_collective_once(2.0 * dense, ranks)
                + network.data_collective_once(2.0 * routed, expert_ranks);
            let gathers = if layout.pipeline > 1 { 1.0 } else { 2.0 * microbatches };
            let scatters = if layout.pipeline > 1 { 1.0 } else { microbatches };
            let traffic = gathers * weights + scatters * gradients;
            // What overlaps can hide behind the whole of the work, but for the first gather and the last scatter.
            (traffic - overlap * work).max((1.0 - overlap) * traffic).max((weights + gradients) / 32.0)
        }
        // Gradients are scattered or reduced once, behind the last microbatch's backward pass.
        _ => {
            let traffic = volume(job.stack.gradient_bytes);
            let window = 2.0 / 3.0 * work / microbatches;
            (traffic - overlap * traffic.min(window)).max(0.0)
        }
    };
    let shard = match layout.sharding {
        Sharding::None => dense + routed,
        _ => dense / ranks + routed / expert_ranks.max(1.0),
    };
    // AdamW reads gradient, master and both moments, and writes all but the gradient, and the BF16 weight.
    let optimizer = 30.0 * shard / (0.8 * job.accelerator.memory_bandwidth);
    (exposed, optimizer)
}
