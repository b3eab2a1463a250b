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
    /// GPUs of a part of the network that is not oversubscribed.
    pod: f64,
    /// How many times slower a byte crosses from pod to pod than within one.
    oversubscription: f64,
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
        Network {
            node,
            nodes: (gpus / node).max(1.0),
            inside: accelerator.node_link * calibration.node_link(),
            between: accelerator.network_link * calibration.network_link(),
            pod: f64::from(job.pod.max(1)),
            oversubscription: job.oversubscription.max(1.0),
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
        (self.inside.min(self.between * members) / self.beyond(ranks, stride), LATENCY.1)
    }

    /// How many times longer a ring of `ranks` that are `stride` apart takes for crossing pods. It goes in two steps: within
    /// each of `q` pods `k` members pass on `(k - 1) / k` of the bytes, and then each member its `1 / k` of them around the
    /// pods, `(q - 1) / q` of it, over the uplinks that are oversubscribed. Without oversubscription both are the ring's
    /// `(n - 1) / n`.
    fn beyond(&self, ranks: f64, stride: f64) -> f64 {
        let inside = (self.pod / stride).floor().clamp(1.0, ranks);
        let pods = ranks / inside;
        if pods <= 1.0 {
            return 1.0;
        }
        let within = (inside - 1.0) / inside;
        let across = (pods - 1.0) / (pods * inside);
        (within + across * self.oversubscription) / (within + across)
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
        let stride = layout.expert_tensor();
        let tokens = job.sequence as f64 * f64::from(layout.microbatch) / f64::from(layout.context);
        let along = if job.stack.sequence_parallel { f64::from(layout.tensor) } else { 1.0 };
        let bytes = 2.0 * tokens * job.model.hidden as f64 * f64::from(experts.active) / along;
        let members = (self.node / stride).clamp(1.0, e);
        // What stays in the node uses its fabric, the rest each GPU's own link.
        let inside = bytes * (members - 1.0) / e / self.inside;
        // Of what leaves the node, the part for other pods meets their uplinks.
        let near = (self.pod / stride).clamp(members, e.max(members));
        let crossing = (near - members).max(0.0) + (e - near).max(0.0) * self.oversubscription;
        let between = bytes * crossing / e / self.between;
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
        // Neighbouring stages are `stride` GPUs apart: of those in one pod, the last ones have theirs in the next.
        let far = (stride / self.pod).min(1.0);
        let bandwidth = bandwidth / (1.0 + far * (self.oversubscription - 1.0));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::model::ModelCatalogue;
    use crate::stack::Stack;

    /// Seconds of a gigabyte around all ranks of `layout`, over what they are without oversubscription.
    fn slower(layout: &Layout, pod: u32) -> (f64, f64) {
        let model = ModelCatalogue::built_in().find("Llama-3.1-405B").unwrap();
        let hardware = HardwareCatalogue::built_in();
        let with = |oversubscription: f64| {
            let job = Job {
                model: &model,
                accelerator: hardware.find("H100").unwrap(),
                stack: Stack::find(Stack::DEFAULT).unwrap(),
                sequence: 8192,
                batch_tokens: 16_777_216.0,
                precision: "bf16",
                oversubscription,
                pod,
            };
            let network = Network::new(&job, layout, &Calibration::default());
            let data = network.data_collective(1e10, f64::from(layout.data));
            (data, network.tensor_collective(&job, layout) + network.stage_boundary(&job, layout))
        };
        let (seven, one) = (with(7.0), with(1.0));
        (seven.0 / one.0, seven.1 / one.1)
    }

    #[test]
    fn only_what_crosses_pods_meets_their_uplinks() {
        let layout = Layout { tensor: 8, pipeline: 16, data: 128, ..Layout::SINGLE };
        // A data-parallel ring of 128 x 8 GPUs is inside of a pod of 3,072, whatever the whole job takes.
        assert_eq!(slower(&layout, 3072).0, 1.0);
        // In pods of 512 it crosses two of them: 63/64 inside, then 1/2 of 1/64 at a seventh of the speed.
        let expected = (63.0 / 64.0 + 7.0 / 128.0) / (127.0 / 128.0);
        let (data, rest) = slower(&layout, 512);
        assert!((data / expected - 1.0).abs() < 0.01, "{data} of {expected}");
        assert!(rest > 1.0);
    }
}
