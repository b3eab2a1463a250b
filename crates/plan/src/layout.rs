//! How a training job is spread over GPUs, and what makes a spread possible.

use crate::error::PlanError;
use crate::hardware::Accelerator;
use crate::model::ModelShape;
use crate::stack::Stack;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What of the activations is computed again in the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing: everything is stored.
    None,
    /// Attention's scores (arXiv 2205.05198, section 5); nothing where they are never stored.
    Selective,
    /// The output of the feed-forward's activation function (SwiGLU, GELU), which one element-wise kernel makes again from
    /// its stored inputs (Megatron Core's `mlp` activation function module; Transformer Engine's `recompute_swiglu`).
    Activation,
    /// Every other matrix product and all that is element-wise (torchtitan's `op` policy).
    EveryOther,
    /// Whole layers: only their inputs are stored.
    Full,
}

impl Recompute {
    /// What each is called on a command line.
    pub const TABLE: [(&str, Recompute); 5] = [
        ("none", Recompute::None),
        ("selective", Recompute::Selective),
        ("activation", Recompute::Activation),
        ("every-other", Recompute::EveryOther),
        ("full", Recompute::Full),
    ];
}

impl Sharding {
    /// Stages of ZeRO by their number.
    pub const TABLE: [Sharding; 4] =
        [Sharding::None, Sharding::Optimizer, Sharding::Gradients, Sharding::Weights];
}

/// What is split over data-parallel ranks (ZeRO, arXiv 1910.02054).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharding {
    /// Nothing.
    None,
    /// Optimiser state (ZeRO-1).
    Optimizer,
    /// Optimiser state and gradients (ZeRO-2).
    Gradients,
    /// All three (ZeRO-3, FSDP).
    Weights,
}

/// A layout: the mesh, and how a step runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Layout {
    /// Tensor-parallel ranks (TP).
    pub tensor: u32,
    /// Context-parallel ranks (CP).
    pub context: u32,
    /// Pipeline stages (PP).
    pub pipeline: u32,
    /// Data-parallel ranks (DP).
    pub data: u32,
    /// Expert-parallel ranks (EP), out of the data-parallel and context-parallel ones, and tensor-parallel ones if need be.
    pub expert: u32,
    /// Sequences of a microbatch.
    pub microbatch: u32,
    /// Model chunks of a pipeline stage (virtual stages; 1 is plain 1F1B).
    pub interleave: u32,
    /// What is computed again.
    pub recompute: Recompute,
    /// What is split over data-parallel ranks.
    pub sharding: Sharding,
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Recompute::None => "no recomputation",
            Recompute::Selective => "selective recomputation",
            Recompute::Activation => "activation function recomputed",
            Recompute::EveryOther => "every other product recomputed",
            Recompute::Full => "full recomputation",
        })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TP{} CP{} PP{} DP{}", self.tensor, self.context, self.pipeline, self.data)?;
        if self.expert > 1 {
            write!(f, " EP{}", self.expert)?;
        }
        write!(f, " microbatch {}", self.microbatch)?;
        if self.interleave > 1 {
            write!(f, " interleave {}", self.interleave)?;
        }
        let sharding = match self.sharding {
            Sharding::None => "no ZeRO",
            Sharding::Optimizer => "ZeRO-1",
            Sharding::Gradients => "ZeRO-2",
            Sharding::Weights => "ZeRO-3",
        };
        write!(f, ", {}, {sharding}", self.recompute)
    }
}

/// What is trained, on what, how fast it may be fed: everything about a step but its layout.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The model.
    pub model: &'a ModelShape,
    /// The accelerator.
    pub accelerator: &'a Accelerator,
    /// The framework.
    pub stack: &'a Stack,
    /// Tokens of a sequence.
    pub sequence: u64,
    /// Tokens of a global batch, all ranks together.
    pub batch_tokens: f64,
    /// What products are computed in: a name of [`crate::hardware::PRECISIONS`].
    pub precision: &'a str,
    /// How many times more a node's uplinks carry than the network above passes on (1: no oversubscription).
    pub oversubscription: f64,
    /// GPUs of a non-blocking part of the network; traffic beyond meets the oversubscription.
    pub pod: u32,
}

impl Job<'_> {
    /// Sequences of a global batch.
    #[must_use]
    pub fn sequences(&self) -> f64 {
        (self.batch_tokens / self.sequence as f64).max(1.0)
    }

    /// Whether inputs of products are stored in FP8.
    #[must_use]
    pub fn stores_fp8(&self) -> bool {
        self.stack.stores_fp8 && self.precision == "fp8"
    }
}

impl Layout {
    /// One GPU, nothing split.
    pub const SINGLE: Layout = Layout {
        tensor: 1,
        context: 1,
        pipeline: 1,
        data: 1,
        expert: 1,
        microbatch: 1,
        interleave: 1,
        recompute: Recompute::None,
        sharding: Sharding::None,
    };

    /// GPUs of the mesh.
    #[must_use]
    pub fn gpus(&self) -> u64 {
        u64::from(self.tensor) * u64::from(self.context) * u64::from(self.pipeline) * u64::from(self.data)
    }

    /// Layers of the fullest pipeline stage. Where the first and the last stage can each do with one layer less, embedding
    /// and output make up for it (arXiv 2407.21783, section 3.3.2), and the mean counts.
    #[must_use]
    pub fn layers_of_stage(&self, model: &ModelShape) -> f64 {
        let most = model.layers.div_ceil(self.pipeline.max(1));
        match (u64::from(most) * u64::from(self.pipeline)).saturating_sub(u64::from(model.layers)) {
            0..=2 => f64::from(model.layers) / f64::from(self.pipeline.max(1)),
            _ => f64::from(most),
        }
    }

    /// Tensor-parallel ranks that an expert is split over. Where there are more expert-parallel ranks than data- and
    /// context-parallel ones, they take tensor-parallel ones, too, which then hold whole experts (parallel folding of
    /// Megatron Core, arXiv 2504.14960).
    #[must_use]
    pub fn expert_tensor(&self) -> f64 {
        let folded = self.expert / common_divisor(self.expert, self.data.saturating_mul(self.context)).max(1);
        f64::from(self.tensor) / f64::from(folded.clamp(1, self.tensor))
    }

    /// Ranks that hold the same experts.
    #[must_use]
    pub fn expert_copies(&self) -> f64 {
        let ranks = f64::from(self.tensor) * f64::from(self.context) * f64::from(self.data);
        (ranks / (f64::from(self.expert) * self.expert_tensor())).max(1.0)
    }

    /// Microbatches that one rank works through in a step.
    #[must_use]
    pub fn microbatches(&self, job: &Job<'_>) -> f64 {
        job.sequences() / f64::from(self.data) / f64::from(self.microbatch)
    }

    /// Whether the layout is possible for a job on `gpus` GPUs.
    ///
    /// # Errors
    /// When it is not: which of its numbers, and the nearest that works.
    pub fn check(&self, job: &Job<'_>, gpus: u64) -> Result<(), PlanError> {
        self.check_model(job)?;
        if self.gpus() != gpus {
            let model = u64::from(self.tensor) * u64::from(self.context) * u64::from(self.pipeline);
            let mesh = format!("TP x CP x PP x DP is {} and there are {gpus} GPUs", self.gpus());
            let remedy = match gpus / model {
                0 => format!("use {model} GPUs, or a TP x CP x PP of at most {gpus}"),
                data => format!("with DP {data} it is {}", data * model),
            };
            return Err(PlanError::value("layout", self, mesh, remedy));
        }
        let ranks = u64::from(self.data) * u64::from(self.context) * u64::from(self.tensor);
        divides("expert parallel", self.expert, "tensor-, data- and context-parallel ranks", ranks)?;
        self.check_batch(job)
    }

    /// Whether the model and its sequences can be split so, on however many GPUs and with whatever batch.
    ///
    /// # Errors
    /// As [`Layout::check`].
    pub fn check_model(&self, job: &Job<'_>) -> Result<(), PlanError> {
        self.check_counts()?;
        let model = job.model;
        divides("tensor parallel", self.tensor, "heads", model.heads)?;
        let widest = model.experts.as_ref().map_or(model.feed_forward, |experts| experts.feed_forward);
        divides("tensor parallel", self.tensor, "columns of the feed-forward", widest.max(1))?;
        let chunks = u64::from(self.pipeline) * u64::from(self.interleave);
        if chunks > u64::from(model.layers) {
            let most = (model.layers / self.pipeline.min(model.layers)).max(1);
            let problem = format!("{} layers make no {chunks} chunks", model.layers);
            let remedy =
                format!("use at most {} stages of at most {most} chunks", model.layers.min(self.pipeline));
            return Err(PlanError::value("pipeline parallel", self.pipeline, problem, remedy));
        }
        divides("context parallel", self.context, "tokens of a sequence", job.sequence)?;
        if let Some(experts) = &model.experts {
            divides("expert parallel", self.expert, "experts", u64::from(experts.count))?;
        } else if self.expert != 1 {
            let problem = format!("{} has no experts", model.name);
            return Err(PlanError::value("expert parallel", self.expert, problem, "use 1"));
        }
        Ok(())
    }

    fn check_batch(&self, job: &Job<'_>) -> Result<(), PlanError> {
        let microbatches = self.microbatches(job);
        if microbatches < 0.999 || (microbatches - microbatches.round()).abs() > 1e-6 {
            let unit = f64::from(self.data) * f64::from(self.microbatch) * job.sequence as f64;
            let nearest = (job.batch_tokens / unit).round().max(1.0) * unit;
            let problem = format!(
                "DP {} with microbatches of {} sequences of {} tokens does not divide it",
                self.data, self.microbatch, job.sequence
            );
            let remedy = format!("the nearest that works is {nearest:.0}");
            return Err(PlanError::value("batch tokens", job.batch_tokens, problem, remedy));
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), PlanError> {
        let counts = [
            ("tensor parallel", self.tensor),
            ("context parallel", self.context),
            ("pipeline parallel", self.pipeline),
            ("data parallel", self.data),
            ("expert parallel", self.expert),
            ("microbatch", self.microbatch),
            ("interleave", self.interleave),
        ];
        let zero = counts.iter().find(|count| count.1 == 0);
        zero.map_or(Ok(()), |(name, _)| Err(PlanError::value(*name, 0, "it must be at least 1", "use 1")))
    }
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn divides(field: &str, value: u32, what: &str, number: u64) -> Result<(), PlanError> {
    if number.is_multiple_of(u64::from(value)) {
        return Ok(());
    }
    let below = (1..value).rev().find(|v| number.is_multiple_of(u64::from(*v)));
    let above = (value..=value.saturating_mul(2)).find(|v| number.is_multiple_of(u64::from(*v)));
    let nearest: Vec<String> = below.into_iter().chain(above).map(|it| it.to_string()).collect();
    let problem = format!("it does not divide the {number} {what}");
    Err(PlanError::value(field, value, problem, format!("use {}", nearest.join(" or "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::model::ModelCatalogue;

    fn check(layout: Layout, gpus: u64, expected: &[&str]) {
        let model = ModelCatalogue::built_in().find("Llama-3.1-405B").unwrap();
        let hardware = HardwareCatalogue::built_in();
        let job = Job {
            model: &model,
            accelerator: hardware.find("H100").unwrap(),
            stack: Stack::find(Stack::DEFAULT).unwrap(),
            sequence: 8192,
            batch_tokens: 16_777_216.0,
            precision: "bf16",
            oversubscription: 1.0,
            pod: 4096,
        };
        match layout.check(&job, gpus) {
            Ok(()) => assert!(expected.is_empty(), "{layout} is possible"),
            Err(error) => {
                let text = error.to_string();
                assert!(!expected.is_empty() && expected.iter().all(|part| text.contains(part)), "{text}");
            }
        }
    }

    #[test]
    fn impossible_layouts_name_the_nearest_that_works() {
        let good = Layout { tensor: 8, pipeline: 16, data: 128, ..Layout::SINGLE };
        check(good, 16384, &[]);
        check(Layout { tensor: 12, ..good }, 12 * 2048, &["tensor parallel is 12", "128 heads", "8 or 16"]);
        check(good, 16000, &["16384 and there are 16000", "DP 125"]);
        check(good, 64, &["use 128 GPUs"]);
        check(Layout { data: 100, ..good }, 12800, &["batch tokens", "nearest that works is 16384000"]);
        check(Layout { pipeline: 256, data: 8, ..good }, 16384, &["126 layers"]);
        check(Layout { expert: 2, ..good }, 16384, &["no experts", "use 1"]);
        assert_eq!((good.expert_tensor(), good.expert_copies()), (8.0, 1024.0 / 8.0));
        // 256 expert-parallel ranks of 128 data-parallel ones and half of 8 tensor-parallel ones: experts split in four.
        let folded = Layout { expert: 256, ..good };
        assert_eq!((folded.expert_tensor(), folded.expert_copies()), (4.0, 1.0));
        check(Layout { tensor: 0, ..good }, 16384, &["at least 1"]);
        check(Layout { context: 3, data: 128, ..good }, 3 * 16384, &["context parallel", "2 or 4"]);
    }
}
