//! Collectives on the network of a cluster: ring volumes over the narrowest link that a group crosses.

use crate::calibration::Calibration;
use crate::layout::{Job, Layout};

/// Seconds for a message to cross a link inside a node, and between nodes.
const LATENCY: (f64, f64) = (5e-6, 15e-6);

/// The links that a layout's groups run over. Ranks are numbered tensor, context, data, pipeline from the inside out, as
/// Megatron does.
pub struct Network {
    /// GPUs of a node.
    node: f64,
    /// Nodes of the job.
    nodes: f64,
    /// Byte/s of one GPU to others of its node.
    inside: f64,
    /// Byte/s of one GPU to other nodes.
    between: f64,
    /// How far apart data-parallel neighbours are.
    data_stride: f64,
    /// Seconds to start a tensor-parallel collective.
    start: f64,
    /// Data-parallel rings use one link of a node only.
    one_link: bool,
}

impl Network {
    /// The network as a layout uses it.
    #[must_use]
    pub fn new(job: &Job<'_>, layout: &Layout, calibration: &Calibration) -> Network {
        let accelerator = job.accelerator;
        let gpus = layout.gpus() as f64;
        let node = f64::from(accelerator.per_node);
        // What leaves a pod shares the uplinks above it.
        let beyond = if gpus > f64::from(job.pod.max(1)) { job.oversubscription.max(1.0) } else { 1.0 };
        Network {
            node,
            nodes: (gpus / node).max(1.0),
            inside: accelerator.node_link * calibration.node_link(),
            between: accelerator.network_link * calibration.network_link() / beyond,
            data_stride: f64::from(layout.tensor),
            start: calibration.collective(),
            one_link: job.stack.one_link,
        }
    }

    /// Nodes that the job runs on.
    #[must_use]
    pub fn nodes(&self) -> f64 {
        self.nodes
    }

    /// Byte/s and latency of a ring of `ranks` that are `stride` apart: within a node its fabric; across nodes, all
    /// members of a node share its links to the network, of which each GPU brings one.
    fn ring(&self, ranks: f64, stride: f64) -> (f64, f64) {
        if ranks * stride <= self.node {
            return (self.inside, LATENCY.0);
        }
        let members = (self.node / stride).clamp(1.0, ranks);
        (self.inside.min(self.between * members), LATENCY.1)
    }

    /// Seconds of one tensor-parallel all-reduce of a layer's output (or reduce-scatter and all-gather, which move as
    /// much): `2 (t - 1) / t` times its bytes (ring, arXiv 1909.08053).
    #[must_use]
    pub fn tensor_collective(&self, job: &Job<'_>, layout: &Layout) -> f64 {
        let t = f64::from(layout.tensor);
        if layout.tensor == 1 {
            return 0.0;
        }
        let (bandwidth, latency) = self.ring(t, 1.0);
        let tokens = job.sequence as f64 * f64::from(layout.microbatch) / f64::from(layout.context);
        let bytes = 2.0 * tokens * job.model.hidden as f64;
        2.0 * (t - 1.0) / t * bytes / bandwidth + 2.0 * (t - 1.0) * latency + (t - 1.0) * self.start
    }

    /// Seconds of a layer's exchange of keys and values around the context-parallel ring, forward and backward
    /// (backward sends their gradients, too).
    #[must_use]
    pub fn context_exchange(&self, job: &Job<'_>, layout: &Layout) -> (f64, f64) {
        let c = f64::from(layout.context);
        if layout.context == 1 {
            return (0.0, 0.0);
        }
        let (bandwidth, latency) = self.ring(c, f64::from(layout.tensor));
        let tokens = job.sequence as f64 * f64::from(layout.microbatch) / c;
        let values = 2.0 * (job.model.kv_heads * job.model.head_size) as f64
            / f64::from(layout.tensor).min(job.model.kv_heads as f64);
        let time = (c - 1.0) * (2.0 * tokens * values / bandwidth + latency);
        (time, 2.0 * time)
    }

    /// Seconds of sending routed tokens to their experts and back, one direction through the mean layer.
    #[must_use]
    pub fn expert_exchange(&self, job: &Job<'_>, layout: &Layout) -> f64 {
        let Some(experts) = job.model.experts.as_ref().filter(|_| layout.expert > 1) else { return 0.0 };
        let e = f64::from(layout.expert);
        let stride = f64::from(layout.tensor);
        let tokens = job.sequence as f64 * f64::from(layout.microbatch) / f64::from(layout.context);
        let along = if job.stack.sequence_parallel { stride } else { 1.0 };
        let bytes = 2.0 * tokens * job.model.hidden as f64 * f64::from(experts.active) / along;
        let members = (self.node / stride).clamp(1.0, e);
        // What stays in the node uses its fabric, the rest each GPU's own link.
        let inside = bytes * (members - 1.0) / e / self.inside;
        let between = bytes * (e - members) / e / self.between;
        let layers = f64::from(job.model.expert_layers()) / f64::from(job.model.layers);
        2.0 * layers * (inside.max(between) + LATENCY.1)
    }

    /// Seconds that a stage waits to send and receive activations and their gradients for one microbatch.
    #[must_use]
    pub fn stage_boundary(&self, job: &Job<'_>, layout: &Layout) -> f64 {
        if layout.pipeline == 1 {
            return 0.0;
        }
        let stride = f64::from(layout.tensor * layout.context) * f64::from(layout.data);
        let (bandwidth, latency) =
            if stride * 2.0 <= self.node { (self.inside, LATENCY.0) } else { (self.between, LATENCY.1) };
        let along = if job.stack.sequence_parallel { f64::from(layout.tensor) } else { 1.0 };
        let tokens = job.sequence as f64 * f64::from(layout.microbatch) / f64::from(layout.context);
        let bytes = 2.0 * tokens * job.model.hidden as f64 / along;
        2.0 * (bytes / bandwidth + latency)
    }

    /// Seconds to reduce (or scatter and gather) `bytes` over data-parallel ranks.
    #[must_use]
    pub fn data_collective(&self, bytes: f64, ranks: f64) -> f64 {
        2.0 * self.data_collective_once(bytes, ranks)
    }

    /// Seconds to gather, or to scatter, `bytes` over data-parallel ranks.
    #[must_use]
    pub fn data_collective_once(&self, bytes: f64, ranks: f64) -> f64 {
        if ranks <= 1.0 || bytes <= 0.0 {
            return 0.0;
        }
        let (bandwidth, latency) = self.ring(ranks, self.data_stride);
        let bandwidth = if self.one_link { bandwidth.min(self.between) } else { bandwidth };
        // Rings of many nodes go over trees: latency grows with their depth.
        (ranks - 1.0) / ranks * bytes / bandwidth + ranks.log2() * latency
    }
}
