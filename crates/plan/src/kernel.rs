//! Kernels of one layer on one GPU by roofline: products by FLOPs and tiles, the rest by bytes.

use crate::calibration::Calibration;
use crate::layout::{Job, Layout};

/// Part of the memory bandwidth that streaming kernels reach (BabelStream on A100 and H100 shows 0.85 to 0.93).
pub const STREAM: f64 = 0.85;

/// A direction through a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// From inputs to outputs.
    Forward,
    /// From gradients of outputs to those of inputs and weights.
    Backward,
}

/// Seconds of the kernels of one layer, or of the output, for one microbatch in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelTime {
    /// Matrix products.
    pub products: f64,
    /// Attention.
    pub attention: f64,
    /// All else.
    pub elementwise: f64,
}

impl KernelTime {
    /// All of it, s.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.products + self.attention + self.elementwise
    }
}

/// What kernels of a job in a layout need to know.
pub struct Kernels<'a> {
    job: &'a Job<'a>,
    calibration: &'a Calibration,
    layout: &'a Layout,
    /// Tokens of a microbatch on one context-parallel rank.
    tokens: f64,
    /// FLOP/s that large products reach.
    rate: f64,
    /// FLOP/s of large products in BF16, which attention and the output compute in.
    plain_rate: f64,
    /// Byte/s that streaming kernels reach.
    bandwidth: f64,
}

impl<'a> Kernels<'a> {
    /// Kernels of a job in a layout.
    #[must_use]
    pub fn new(job: &'a Job<'a>, layout: &'a Layout, calibration: &'a Calibration) -> Kernels<'a> {
        let accelerator = job.accelerator;
        let rate = |precision: &str| {
            accelerator.peak(precision)
                * accelerator.throttle
                * calibration.matmul(&accelerator.family, precision)
        };
        Kernels {
            job,
            calibration,
            layout,
            tokens: job.sequence as f64 * f64::from(layout.microbatch) / f64::from(layout.context),
            rate: rate(job.precision),
            plain_rate: rate("bf16"),
            bandwidth: accelerator.memory_bandwidth * STREAM,
        }
    }

    /// Seconds of `count` products of `rows` x `depth` by `depth` x `columns` in one launch.
    fn product(&self, rate: f64, count: f64, rows: f64, depth: f64, columns: f64) -> f64 {
        if count * rows * depth * columns <= 0.0 {
            return 0.0;
        }
        // A product is cut into tiles of 128 x 128, dealt out to multiprocessors: too few leave some idle.
        let tiles = count * (rows / 128.0).max(1.0) * (columns / 128.0).max(1.0);
        let wave =
            tiles / (tiles + self.calibration.wave() * f64::from(self.job.accelerator.multiprocessors));
        let deep = depth / (depth + self.calibration.depth());
        let flops = 2.0 * count * rows * depth * columns / (rate * wave * deep);
        let bytes = 2.0 * count * (rows * depth + depth * columns + rows * columns) / self.bandwidth;
        flops.max(bytes)
    }

    /// A weight product in one direction: forward, or the gradients of its input and of its weight.
    fn linear(&self, pass: Pass, count: f64, rows: f64, depth: f64, columns: f64) -> f64 {
        match pass {
            Pass::Forward => self.product(self.rate, count, rows, depth, columns),
            Pass::Backward => {
                self.product(self.rate, count, rows, columns, depth)
                    + self.product(self.rate, count, depth, rows, columns)
            }
        }
    }

    /// Kernels of the mean layer.
    #[must_use]
    pub fn layer(&self, pass: Pass) -> KernelTime {
        KernelTime {
            products: self.layer_products(pass),
            attention: self.attention(pass),
            elementwise: self.elementwise(pass),
        }
    }

    fn layer_products(&self, pass: Pass) -> f64 {
        let model = self.job.model;
        let t = f64::from(self.layout.tensor);
        let (h, layers) = (model.hidden as f64, f64::from(model.layers));
        let queries = (model.heads * model.head_size) as f64;
        // Attention's matrices as one product into and one out of the heads, of the parameters that there are.
        let into = model.attention_parameters_of_layer() / h - queries;
        let attention = self.linear(pass, 1.0, self.tokens, h, into.max(1.0) / t)
            + self.linear(pass, 1.0, self.tokens, queries / t, h);
        let feed_forward = |count: f64, rows: f64, width: f64| {
            self.linear(pass, count, rows, h, (model.feed_forward_matrices() - 1.0) * width / t)
                + self.linear(pass, count, rows, width / t, h)
        };
        let width = model.dense_feed_forward_parameters() / (model.feed_forward_matrices() * h);
        let dense = f64::from(model.dense_layers()) * feed_forward(1.0, self.tokens, width);
        let routed = model.experts.as_ref().map_or(0.0, |experts| {
            let local = (f64::from(experts.count) / f64::from(self.layout.expert)).max(1.0);
            // Where experts are whole on tensor-parallel ranks, each rank has its part of the tokens instead.
            let split = self.layout.expert_tensor();
            let rows = self.tokens * f64::from(experts.active) / local * split / t;
            let shared = feed_forward(1.0, self.tokens, experts.shared_feed_forward as f64);
            let even = feed_forward(local, rows, experts.feed_forward as f64 * t / split);
            f64::from(model.expert_layers()) * (even * self.calibration.experts() + shared)
        });
        attention + (dense + routed) / layers
    }

    fn attention(&self, pass: Pass) -> f64 {
        let model = self.job.model;
        let t = f64::from(self.layout.tensor);
        let heads = model.heads as f64 / t;
        let layers = f64::from(model.layers);
        if self.job.stack.flash {
            let positions = model.causal_positions(self.job.sequence as f64) / layers;
            // Backward is five products for two (arXiv 2205.14135, appendix B).
            let products = if pass == Pass::Forward { 1.0 } else { 2.5 };
            let flops = 4.0 * self.tokens * positions * heads * model.head_size as f64 * products;
            let family = &self.job.accelerator.family;
            let fast = if family == "ampere" { 1.0 } else { self.job.stack.attention_speed };
            let rate = self.job.accelerator.peak("bf16")
                * self.job.accelerator.throttle
                * self.calibration.flash(family)
                * fast;
            return flops / rate * self.ring();
        }
        let d = model.head_size as f64;
        let sequence = self.job.sequence as f64;
        let count = heads * self.tokens / sequence * model.attending_layers() / layers;
        let two = self.product(self.plain_rate, count, sequence, d, sequence)
            + self.product(self.plain_rate, count, sequence, sequence, d);
        // Scores written and read by product, softmax, dropout and product: 13 bytes an element forward, twice that back.
        let scores = count * sequence * sequence * 13.0 * self.calibration.scores() / self.bandwidth;
        let passes = if pass == Pass::Forward { 1.0 } else { 2.0 };
        passes * (two + scores)
    }

    /// Slowdown of attention that goes around a context-parallel ring: its pieces are smaller kernels, their results are
    /// merged, and under a causal mask ranks wait for one another. `(c - 1) / c` of the pieces come from other ranks.
    fn ring(&self) -> f64 {
        let pieces = if self.job.stack.ring { 1.0 - 1.0 / f64::from(self.layout.context) } else { 0.0 };
        1.0 + self.calibration.context() * pieces
    }

    fn elementwise(&self, pass: Pass) -> f64 {
        let model = self.job.model;
        let stack = self.job.stack;
        let t = f64::from(self.layout.tensor);
        let h = model.hidden as f64;
        let along = if stack.sequence_parallel { t } else { 1.0 };
        // Two norms and two residual additions: 2 x (read, write) + 2 x (two reads, write), two bytes each.
        let whole = 20.0 * h / along;
        // Positions or biases of queries and keys, read and written.
        let layers = f64::from(model.layers);
        let rotary = 4.0 * ((model.heads + model.kv_heads) * model.head_size) as f64;
        // Routed tokens are copied into the order of experts and back.
        let moved = model
            .experts
            .as_ref()
            .map_or(0.0, |it| 8.0 * h * f64::from(it.active) * f64::from(model.expert_layers()) / layers);
        let each = whole + (self.activation_bytes() + rotary) / t + moved;
        let bytes = self.tokens * each * self.traffic();
        match pass {
            Pass::Forward => bytes / self.bandwidth,
            Pass::Backward => {
                // Every microbatch adds its gradient of a weight to the sum: read, add, write.
                let dense = model.dense_parameters_of_layers() / layers / t;
                let split = self.layout.expert_tensor() * f64::from(self.layout.expert);
                let routed = model.routed_parameters() / layers / split;
                let sums = (dense + routed) * (2.0 + 2.0 * stack.gradient_bytes);
                (2.0 * bytes + self.calibration.accumulate() * sums) / self.bandwidth
            }
        }
    }

    /// Bytes that the activation function of the mean layer's feed-forward reads and writes for a token, all ranks together.
    fn activation_bytes(&self) -> f64 {
        let model = self.job.model;
        let active = model.experts.as_ref().map_or(0.0, |it| {
            let routed = f64::from(it.active) * it.feed_forward as f64 + it.shared_feed_forward as f64;
            f64::from(model.expert_layers()) * routed
        });
        let wide = if model.gated { 6.0 } else { 4.0 };
        let inner = f64::from(model.dense_layers()) * model.feed_forward as f64 + active;
        wide * inner / f64::from(model.layers)
    }

    /// Traffic of element-wise operations over the least possible.
    fn traffic(&self) -> f64 {
        match self.job.stack.fused {
            true => self.calibration.elementwise_fused(),
            false => self.calibration.elementwise_eager(),
        }
    }

    /// Seconds of the activation function of the mean layer, forward.
    #[must_use]
    pub fn activation(&self) -> f64 {
        let t = f64::from(self.layout.tensor);
        self.tokens * self.activation_bytes() / t * self.traffic() / self.bandwidth
    }

    /// Embedding, output product and loss, forward and backward.
    #[must_use]
    pub fn output(&self) -> KernelTime {
        let model = self.job.model;
        let t = f64::from(self.layout.tensor);
        let (h, v) = (model.hidden as f64, model.vocabulary as f64 / t);
        let one = self.product(self.plain_rate, 1.0, self.tokens, h, v);
        let back = self.product(self.plain_rate, 1.0, self.tokens, v, h)
            + self.product(self.plain_rate, 1.0, h, self.tokens, v);
        // Logits are widened, their maximum taken, subtracted, exponentiated, summed, divided, and their gradient made and
        // narrowed: about 48 bytes each where every one of these is a kernel on FP32.
        let loss = self.tokens * v * 48.0 / self.bandwidth;
        KernelTime { products: one + back, attention: 0.0, elementwise: loss }
    }
}
