//! Serving by roofline: prefill and decode times, memory of keys and values, throughput at a steady state.

use crate::error::{PlanError, between, fraction};
use crate::hardware::{Accelerator, bytes_of};
use crate::model::ModelShape;
use crate::units::GIB;
use serde::Serialize;

/// Part of a card's memory that a server fills with weights, keys and values (TensorRT-LLM's and vLLM's default: 0.9).
pub const SERVED: f64 = 0.9;

/// Seconds of a step on the host and between kernels, for each layer (CUDA graphs) and for each step.
const LAUNCH: (f64, f64) = (6e-6, 5e-4);

/// Seconds of an all-reduce of few bytes inside a node (one-shot kernels of TensorRT-LLM and vLLM).
const ALL_REDUCE: f64 = 8e-6;

/// Efficiency and batch cap of one accelerator: the only fitted figures of serving, by the command that fits the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServingCalibration {
    /// The part of a roofline's speed that serving reaches.
    pub efficiency: f64,
    /// Sequences that a server decodes together at most.
    pub batch_cap: f64,
}

/// Calibrated figures by accelerator; others take the mean of those measured.
pub const SERVING: [(&str, ServingCalibration); 2] = [
    ("H100-80GB", ServingCalibration { efficiency: 0.61, batch_cap: 352.0 }),
    ("H200", ServingCalibration { efficiency: 0.67, batch_cap: 2048.0 }),
];

impl ServingCalibration {
    /// The figures of an accelerator.
    #[must_use]
    pub fn of(accelerator: &Accelerator) -> ServingCalibration {
        let found = SERVING.iter().find(|row| row.0 == accelerator.name);
        let mean = |of: fn(&ServingCalibration) -> f64| {
            SERVING.iter().map(|row| of(&row.1)).sum::<f64>() / SERVING.len() as f64
        };
        found.map_or_else(
            || ServingCalibration {
                efficiency: mean(|it| it.efficiency),
                batch_cap: mean(|it| it.batch_cap),
            },
            |row| row.1,
        )
    }
}

/// Drafting tokens that the model then checks (arXiv 2211.17192).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speculation {
    /// Tokens drafted at a time.
    pub drafted: f64,
    /// Part of them that is right, each independently.
    pub accepted: f64,
    /// Time of drafting one over the time of a step of the model.
    pub draft_cost: f64,
}

impl Speculation {
    /// Tokens that a step yields on average: `(1 - a^(k+1)) / (1 - a)` (arXiv 2211.17192, equation 1).
    #[must_use]
    pub fn tokens_a_step(&self) -> f64 {
        let (a, k) = (self.accepted, self.drafted);
        if a >= 1.0 { k + 1.0 } else { (1.0 - a.powf(k + 1.0)) / (1.0 - a) }
    }
}

/// One server: a model on some accelerators, and how it computes.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    /// The model.
    pub model: &'a ModelShape,
    /// The accelerator.
    pub accelerator: &'a Accelerator,
    /// Accelerators that share every layer (tensor parallel).
    pub tensor: u32,
    /// What weights are kept and multiplied in.
    pub precision: &'a str,
    /// What keys and values are kept in.
    pub cache_precision: &'a str,
    /// Part of prompt tokens found in the prefix cache.
    pub prefix_hits: f64,
    /// Speculative decoding, where there is any.
    pub speculation: Option<Speculation>,
    /// Fitted figures.
    pub calibration: ServingCalibration,
}

/// A kind of request: tokens in and out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RequestShape {
    /// Tokens of the prompt.
    pub input: f64,
    /// Tokens of the answer.
    pub output: f64,
}

/// What a server does at a steady state in which there is always a next request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Sequences decoded together.
    pub batch: f64,
    /// Seconds of prefill of one request, alone.
    pub prefill: f64,
    /// Seconds between two tokens of a sequence.
    pub between_tokens: f64,
    /// Tokens of answers a second, the whole server.
    pub output_tokens: f64,
    /// Requests a second, the whole server.
    pub requests: f64,
}

impl Server<'_> {
    /// Checks the numbers, and that the weights fit with room for one request of `shape`.
    ///
    /// # Errors
    /// When they do not: with the nearest that works.
    pub fn check(&self, shape: RequestShape) -> Result<(), PlanError> {
        between("input tokens", shape.input, 1.0, 1e9)?;
        between("output tokens", shape.output, 1.0, 1e9)?;
        fraction("prefix hits", self.prefix_hits)?;
        bytes_of(self.precision)?;
        bytes_of(self.cache_precision)?;
        if let Some(speculation) = &self.speculation {
            fraction("accepted drafts", speculation.accepted)?;
            between("drafted tokens", speculation.drafted, 1.0, 1000.0)?;
            fraction("draft cost", speculation.draft_cost)?;
        }
        if self.tensor == 0 || !self.model.heads.is_multiple_of(u64::from(self.tensor)) {
            let below =
                (1..=self.tensor.max(1)).rev().find(|it| self.model.heads.is_multiple_of(u64::from(*it)));
            let problem = format!("it does not divide the {} heads", self.model.heads);
            let remedy = format!("use {}", below.unwrap_or(1));
            return Err(PlanError::value("tensor parallel", self.tensor, problem, remedy));
        }
        let longest = shape.input + shape.output;
        if longest > self.model.context as f64 {
            let problem = format!("{} has a context of {}", self.model.name, self.model.context);
            let remedy = format!("let input and output be {} together", self.model.context);
            return Err(PlanError::value("tokens of a request", longest, problem, remedy));
        }
        if self.cache_room() < longest * self.cache_bytes() {
            return Err(self.too_small(longest));
        }
        Ok(())
    }

    fn too_small(&self, tokens: f64) -> PlanError {
        let needed = |tensor: f64| {
            let other = Server { tensor: tensor as u32, ..self.clone() };
            (self.weight_bytes() + tokens * other.cache_bytes()) / tensor
        };
        let usable = self.accelerator.memory * SERVED;
        let heads = self.model.heads;
        let fits = (1..=heads.min(1024))
            .filter(|tensor| heads.is_multiple_of(*tensor))
            .find(|tensor| needed(*tensor as f64) <= usable);
        PlanError::Memory {
            what: format!("{} in {} on {} GPUs", self.model.name, self.precision, self.tensor),
            needed_gib: needed(f64::from(self.tensor)) / GIB,
            available_gib: usable / GIB,
            remedy: match fits {
                Some(tensor) => format!("it fits on {tensor} ({}), or in fewer bits", self.accelerator.name),
                None => "use an accelerator with more memory, or fewer bits".to_owned(),
            },
        }
    }

    /// Bytes of all weights.
    #[must_use]
    pub fn weight_bytes(&self) -> f64 {
        let of = bytes_of(self.precision).unwrap_or(2.0);
        // Embedding and output stay in 16 bits, as published quantised checkpoints keep them.
        let ends = self.model.embedding_parameters();
        (self.model.parameters() - ends) * of + ends * of.max(2.0)
    }

    /// Bytes of keys and values of one token.
    #[must_use]
    pub fn cache_bytes(&self) -> f64 {
        // More ranks than heads of keys: some ranks keep copies. A latent serves all heads: every rank keeps it whole.
        let heads = if self.model.is_latent() { 1.0 } else { self.model.kv_heads as f64 };
        let shared = (f64::from(self.tensor) / heads).max(1.0);
        self.model.cached_values() * bytes_of(self.cache_precision).unwrap_or(2.0) * shared
    }

    /// Bytes that the server has for keys and values.
    #[must_use]
    pub fn cache_room(&self) -> f64 {
        let usable = self.accelerator.memory * SERVED * f64::from(self.tensor);
        (usable - self.weight_bytes()).max(0.0)
    }

    /// Positions of a sequence whose keys and values layers hold, on average over layers: chunked layers hold a chunk.
    #[must_use]
    pub fn held_positions(&self, tokens: f64) -> f64 {
        self.model.attended_positions(tokens) / self.model.attending_layers()
    }

    /// Sequences of `shape` that are decoded together: as many as memory and the cap let.
    #[must_use]
    pub fn batch(&self, shape: RequestShape) -> f64 {
        let held = self.held_positions(shape.input + shape.output).min(shape.input + shape.output);
        let fit = self.cache_room() / (held * self.cache_bytes());
        fit.min(self.calibration.batch_cap).max(1.0)
    }

    fn rate(&self) -> f64 {
        self.accelerator.peak(self.precision) * self.accelerator.throttle * self.calibration.efficiency
    }

    fn bandwidth(&self) -> f64 {
        self.accelerator.memory_bandwidth * self.calibration.efficiency
    }

    /// Seconds of the all-reduces of a step of `tokens` tokens: two a layer.
    fn all_reduces(&self, tokens: f64) -> f64 {
        if self.tensor == 1 {
            return 0.0;
        }
        let t = f64::from(self.tensor);
        let bytes = 2.0 * tokens * self.model.hidden as f64;
        let time = 2.0 * (t - 1.0) / t * bytes / (self.accelerator.node_link * self.calibration.efficiency);
        2.0 * f64::from(self.model.layers) * (ALL_REDUCE + time)
    }

    /// Bytes of weights that a step of `tokens` tokens reads: experts that no token is routed to stay unread.
    fn read_weights(&self, tokens: f64) -> f64 {
        let routed = self.model.routed_parameters();
        let touched = self.model.experts.as_ref().map_or(0.0, |experts| {
            let one = f64::from(experts.active) / f64::from(experts.count);
            1.0 - (1.0 - one).powf(tokens)
        });
        self.weight_bytes() - routed * (1.0 - touched) * bytes_of(self.precision).unwrap_or(2.0)
    }

    /// FLOPs of the empty rows of tiles: an expert that is given few tokens computes a tile of 64 of them.
    fn padding(&self, tokens: f64) -> f64 {
        let Some(experts) = &self.model.experts else { return 0.0 };
        let count = f64::from(experts.count);
        let routed = tokens * f64::from(experts.active);
        let touched = count * (1.0 - (1.0 - f64::from(experts.active) / count).powf(tokens));
        let layers = f64::from(self.model.expert_layers());
        2.0 * layers * self.model.expert_parameters() * (touched * 64.0 - routed).max(0.0)
    }

    /// Tokens of a prompt of `input` that the prefix cache holds, all but one at most.
    #[must_use]
    pub fn cached_prefix(&self, input: f64) -> f64 {
        (input * self.prefix_hits).min(input - 1.0).max(0.0)
    }

    /// Seconds of one prefill of `input` tokens, alone, of which the prefix cache holds its part.
    #[must_use]
    pub fn prefill(&self, input: f64) -> f64 {
        let cached = self.cached_prefix(input);
        self.prefill_chunk(cached, input - cached)
    }

    /// Seconds to compute `new` tokens of a prompt of which `done` are there: they attend to those, too.
    #[must_use]
    pub fn prefill_chunk(&self, done: f64, new: f64) -> f64 {
        let t = f64::from(self.tensor);
        let products = 2.0 * self.model.matrix_parameters() * new / (t * self.rate());
        let positions = self.model.attended_until(done + new) - self.model.attended_until(done);
        let width = (self.model.heads * self.model.head_size) as f64;
        let plain = self.accelerator.peak("bf16") * self.accelerator.throttle * self.calibration.efficiency;
        let attention = 4.0 * positions * width / (t * plain * 0.5);
        products + attention + self.all_reduces(new)
    }

    /// Seconds of one step that decodes `batch` sequences which are `context` tokens long.
    #[must_use]
    pub fn decode(&self, batch: f64, context: f64) -> f64 {
        let t = f64::from(self.tensor);
        let checked = self.speculation.map_or(1.0, |it| it.drafted + 1.0);
        let tokens = batch * checked;
        let products =
            (2.0 * self.model.matrix_parameters() * tokens + self.padding(tokens)) / (t * self.rate());
        let weights = self.read_weights(tokens) / (t * self.bandwidth());
        let held = self.held_positions(context).min(context);
        let cache = batch * held * self.cache_bytes() / (t * self.bandwidth());
        let layers = f64::from(self.model.layers);
        let drafts = self.speculation.map_or(1.0, |it| 1.0 + it.drafted * it.draft_cost);
        let step = products.max(weights) + cache + self.all_reduces(tokens) + layers * LAUNCH.0 + LAUNCH.1;
        step * drafts
    }

    /// The steady state under requests of one shape that never run out, `batch` of them together.
    #[must_use]
    pub fn at_batch(&self, shape: RequestShape, batch: f64) -> Throughput {
        let tokens_a_step = self.speculation.map_or(1.0, |it| it.tokens_a_step());
        let prefill = self.prefill(shape.input);
        // The first token comes from the prefill.
        let steps = (shape.output - 1.0).max(0.0) / tokens_a_step;
        let step = self.decode(batch, shape.input + shape.output / 2.0);
        let cycle = batch * prefill + steps * step;
        let requests = batch / cycle;
        Throughput {
            batch,
            prefill,
            between_tokens: cycle / shape.output.max(1.0),
            output_tokens: requests * shape.output,
            requests,
        }
    }

    /// The steady state with as many sequences together as fit.
    ///
    /// # Errors
    /// As [`Server::check`].
    pub fn throughput(&self, shape: RequestShape) -> Result<Throughput, PlanError> {
        self.check(shape)?;
        Ok(self.at_batch(shape, self.batch(shape)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::model::ModelCatalogue;

    fn check(model: &str, then: impl FnOnce(Server<'_>)) {
        let model = ModelCatalogue::built_in().find(model).unwrap();
        let hardware = HardwareCatalogue::built_in();
        let accelerator = hardware.find("H200").unwrap();
        then(Server {
            model: &model,
            accelerator,
            tensor: 1,
            precision: "fp8",
            cache_precision: "fp8",
            prefix_hits: 0.0,
            speculation: None,
            calibration: ServingCalibration::of(accelerator),
        });
    }

    #[test]
    fn chunks_of_a_prompt_sum_to_the_whole() {
        for model in ["Llama-3.1-8B", "Llama-4-Scout"] {
            check(model, |server| {
                let whole = server.prefill(40_000.0);
                let chunks = (0..20).map(|chunk| server.prefill_chunk(2000.0 * f64::from(chunk), 2000.0));
                let sum: f64 = chunks.sum();
                assert!((sum / whole - 1.0).abs() < 1e-9, "{model}: {sum} of {whole}");
                let half = Server { prefix_hits: 0.5, ..server.clone() }.prefill(40_000.0);
                let rest = server.prefill_chunk(20_000.0, 20_000.0);
                assert!((half / rest - 1.0).abs() < 1e-9, "what is cached is still attended to");
            });
        }
    }

    #[test]
    fn every_rank_keeps_a_latent_whole() {
        check("DeepSeek-V3", |server| {
            let one = server.cache_bytes();
            assert_eq!(Server { tensor: 8, ..server.clone() }.cache_bytes(), 8.0 * one);
        });
        check("Llama-3.1-8B", |server| {
            let one = server.cache_bytes();
            assert_eq!(Server { tensor: 8, ..server.clone() }.cache_bytes(), one);
            assert_eq!(Server { tensor: 16, ..server.clone() }.cache_bytes(), 2.0 * one);
        });
    }
}
