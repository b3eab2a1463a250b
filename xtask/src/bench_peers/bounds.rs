//! What the machine allows: the limits measured in the same run, and the speed that each piece of work could have if
//! nothing but reading the weights and K/V and multiplying took time.

use super::workload::{Kind, Workload};
use alti_cpu::limits::{self, Operand, UNITS};
use alti_formats::{Checkpoint, Part};
use alti_tensor::DType;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Bytes of the buffer that is streamed: far more than caches hold.
const STREAM: usize = 1 << 30;
/// Bytes of the buffer that is read again and again: about a small model's weights.
const REREAD: usize = 100_000_000;
/// Models up to this size are bounded by re-reading, larger ones by streaming.
const SMALL_MODEL: u64 = 120_000_000;

/// The limits with one number of threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Threads that took part.
    pub threads: usize,
    /// Bytes a second streamed from memory.
    pub stream: f64,
    /// Bytes a second read from a buffer of 100 MB again and again.
    pub reread: f64,
    /// Operations a second of each instruction that the machine has.
    pub peaks: Vec<Peak>,
}

/// What one instruction reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// The instruction.
    pub instruction: String,
    /// What it multiplies.
    pub operand: String,
    /// Operations a second.
    pub operations: f64,
}

impl Limits {
    /// Measures them.
    ///
    /// # Errors
    /// The system has no memory or no threads.
    pub fn measure(threads: usize) -> Result<Self> {
        eprintln!("measuring what {threads} threads could do");
        let mut peaks = Vec::new();
        for unit in UNITS {
            if let Some(operations) = unit.peak(threads)? {
                let operand = unit.operand.name().to_owned();
                peaks.push(Peak { instruction: unit.instruction.to_owned(), operand, operations });
            }
        }
        let [stream, reread] = [STREAM, REREAD].map(|bytes| limits::read_bandwidth(bytes, threads));
        Ok(Self { threads, stream: stream?, reread: reread?, peaks })
    }

    /// The most operations a second on `operand`, by whichever instruction.
    pub fn peak(&self, operand: Operand) -> Option<f64> {
        let of_operand = self.peaks.iter().filter(|peak| peak.operand == operand.name());
        of_operand.map(|peak| peak.operations).max_by(f64::total_cmp)
    }
}

/// Matrices that are read and multiplied together: bytes, and parameters by how they are multiplied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrices {
    /// Bytes.
    pub bytes: u64,
    /// Parameters that are floats.
    pub floats: u64,
    /// Parameters that are codes or values of 8 bits.
    pub wide_codes: u64,
    /// Parameters that are codes of fewer bits.
    pub narrow_codes: u64,
}

impl Matrices {
    fn add(&mut self, dtype: DType, parameters: u64, bytes: u64) {
        self.bytes += bytes;
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => self.floats += parameters,
            // Tables have values of 8 bits.
            DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS | DType::MXFP4 => self.wide_codes += parameters,
            _ => self.narrow_codes += parameters,
        }
    }

    /// Both together.
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            floats: self.floats + other.floats,
            wide_codes: self.wide_codes + other.wide_codes,
            narrow_codes: self.narrow_codes + other.narrow_codes,
        }
    }

    fn parameters(&self) -> u64 {
        self.floats + self.wide_codes + self.narrow_codes
    }

    /// For each way of multiplying that they want, its name and the seconds that one row takes; `None` where no peak of
    /// one was measured. BF16 is multiplied in f32 where nothing multiplies it faster, codes of few bits as those of 8.
    fn seconds(&self, limits: &Limits) -> Option<Vec<(Operand, f64)>> {
        let ways = [
            (self.floats, [Operand::Bf16, Operand::F32]),
            (self.wide_codes, [Operand::Int8; 2]),
            (self.narrow_codes, [Operand::Int4, Operand::Int8]),
        ];
        let wanted = ways.into_iter().filter(|(parameters, _)| *parameters > 0);
        let seconds = |(parameters, operands): (u64, [Operand; 2])| {
            let peaks = operands.into_iter().filter_map(|it| Some((it, limits.peak(it)?)));
            let (operand, peak) = peaks.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
            Some((operand, 2.0 * parameters as f64 / peak))
        };
        wanted.map(seconds).collect()
    }
}

/// What a model asks of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// The layers' matrices.
    pub layers: Matrices,
    /// The output matrix.
    pub output: Matrices,
    /// Bytes of keys and values of one token, in 16 bits each.
    pub cache_bytes: u64,
}

impl Demand {
    /// Reads it off a model file.
    ///
    /// # Errors
    /// The file is no model.
    pub fn of(path: &Path) -> Result<Self> {
        let model = Checkpoint::open(path)?;
        let config = model.config();
        let mut demand = Self {
            layers: Matrices::default(),
            output: Matrices::default(),
            cache_bytes: 4 * (config.layers * config.kv_heads * config.head_dim) as u64,
        };
        let output = if config.tied_embeddings { Part::TokenEmbedding } else { Part::Output };
        for weight in model.weights().iter().filter(|weight| weight.shape.len() > 1) {
            let parameters: usize = weight.shape.iter().product();
            let bytes = weight.dtype.bytes_for(parameters).context("a weight of whole blocks")? as u64;
            if weight.name.layer.is_some() {
                demand.layers.add(weight.dtype, parameters as u64, bytes);
            } else if weight.name.part == output {
                demand.output.add(weight.dtype, parameters as u64, bytes);
            }
        }
        Ok(demand)
    }

    /// Bytes read and operations done for one step of `work`, and the tokens it yields. A prompt is one step, whose
    /// vocabulary projection is of one row and not counted; decoding reads on average half of its own K/V.
    pub fn step(&self, work: &Workload) -> Step {
        let sequences = work.sequences as u64;
        if work.kind == Kind::Prefill {
            let tokens = work.tokens as u64;
            let operations = 2 * self.layers.parameters() * tokens;
            return Step { tokens, bytes: self.layers.bytes, operations };
        }
        let context = (work.depth + work.tokens / 2) as u64;
        Step {
            tokens: sequences,
            bytes: self.layers.bytes + self.output.bytes + sequences * context * self.cache_bytes,
            operations: 2 * (self.layers.parameters() + self.output.parameters()) * sequences,
        }
    }

    /// What bounds `work` on a machine with these limits; `None` where no peak of the model's numbers was measured,
    /// and for a cold start, whose bound is none of these.
    pub fn bound(&self, work: &Workload, limits: &Limits) -> Option<Bound> {
        if work.kind == Kind::Cold {
            return None;
        }
        let multiplied = if work.kind == Kind::Prefill { self.layers } else { self.layers.and(self.output) };
        let ways = multiplied.seconds(limits)?;
        let (operand, _) = *ways.iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let small = self.layers.bytes + self.output.bytes <= SMALL_MODEL;
        let (memory, bandwidth) = if small { ("re-read", limits.reread) } else { ("stream", limits.stream) };
        let step = self.step(work);
        let reading = step.bytes as f64 / bandwidth;
        let computing = step.tokens as f64 * ways.iter().map(|(_, seconds)| seconds).sum::<f64>();
        let limit = if reading > computing { memory } else { operand.name() };
        Some(Bound { limit: limit.to_owned(), value: step.tokens as f64 / reading.max(computing) })
    }

    /// The median of what bounds `work` with each of these limits.
    pub fn median_bound(&self, work: &Workload, limits: &[Limits]) -> Option<Bound> {
        let mut bounds = limits.iter().map(|limits| self.bound(work, limits)).collect::<Option<Vec<_>>>()?;
        bounds.sort_by(|a, b| a.value.total_cmp(&b.value));
        let middle = bounds.len() / 2;
        bounds.into_iter().nth(middle)
    }
}

/// One step of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Tokens that it yields.
    pub tokens: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Multiplications and additions.
    pub operations: u64,
}

/// The fastest that the machine allows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Which limit it is.
    pub limit: String,
    /// Tokens a second.
    pub value: f64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const HALF: Matrices =
        Matrices { bytes: 50_000_000, floats: 0, wide_codes: 100_000_000, narrow_codes: 0 };

    /// A model of 100 MB and 200 million parameters, half of them in the output.
    pub(crate) const SMALL: Demand = Demand { layers: HALF, output: HALF, cache_bytes: 1_000 };

    /// The same with other parameters.
    fn all(count: fn(u64) -> Matrices) -> Demand {
        let matrices = count(HALF.wide_codes);
        Demand { layers: matrices, output: matrices, ..SMALL }
    }

    fn floating() -> Demand {
        all(|floats| Matrices { floats, wide_codes: 0, ..HALF })
    }

    pub(crate) fn limits() -> Limits {
        let peak = |instruction: &str, operand: Operand, operations| Peak {
            instruction: instruction.into(),
            operand: operand.name().into(),
            operations,
        };
        let peaks = vec![
            peak("vpdpbusd zmm", Operand::Int8, 1e12),
            peak("tdpbusd tmm", Operand::Int8, 4e12),
            peak("vdpbf16ps zmm", Operand::Bf16, 5e11),
        ];
        Limits { threads: 2, stream: 5e10, reread: 1e11, peaks }
    }

    #[test]
    fn prefill_is_bounded_by_the_fastest_instruction_and_leaves_the_output_out() {
        let bound = SMALL.bound(&Workload::prefill(512), &limits()).unwrap();
        assert_eq!((bound.limit.as_str(), bound.value.round()), ("int8", 20_000.0));
        let bound = floating().bound(&Workload::prefill(512), &limits()).unwrap();
        assert_eq!((bound.limit.as_str(), bound.value.round()), ("bf16", 2_500.0));
    }

    #[test]
    fn decoding_is_bounded_by_reading_weights_and_cache() {
        let bound = SMALL.bound(&Workload::decode(0, 0), &limits()).unwrap();
        assert_eq!((bound.limit.as_str(), bound.value.round()), ("re-read", 1_000.0));
        let behind = SMALL.bound(&Workload::decode(0, 100_000), &limits()).unwrap();
        assert_eq!(behind.value.round(), 500.0);
        let large = Demand { output: Matrices { bytes: 450_000_000, ..HALF }, ..SMALL };
        let bound = large.bound(&Workload::decode(0, 0), &limits()).unwrap();
        assert_eq!((bound.limit.as_str(), bound.value.round()), ("stream", 100.0));
    }

    #[test]
    fn a_wide_batch_is_bounded_by_computing() {
        let cacheless = Demand { cache_bytes: 0, ..SMALL };
        assert_eq!(cacheless.bound(&Workload::batch(1, 2), &limits()).unwrap().limit, "re-read");
        assert_eq!(cacheless.bound(&Workload::batch(1, 32), &limits()).unwrap().limit, "int8");
    }

    #[test]
    fn codes_of_few_bits_are_bounded_by_what_multiplies_them_fastest() {
        let narrow = all(|narrow_codes| Matrices { narrow_codes, wide_codes: 0, ..HALF });
        let bound = |demand: &Demand, limits: &Limits, work| demand.bound(&work, limits).unwrap();
        assert_eq!(bound(&narrow, &limits(), Workload::prefill(512)).value.round(), 20_000.0);
        let peak = |operand: Operand, operations| Peak {
            instruction: "vpmaddubsw ymm".into(),
            operand: operand.name().into(),
            operations,
        };
        let peaks = vec![peak(Operand::Int4, 6e11), peak(Operand::Int8, 3e11)];
        let limits = Limits { peaks, ..limits() };
        let of_prompts = bound(&narrow, &limits, Workload::prefill(512));
        assert_eq!((of_prompts.limit.as_str(), of_prompts.value.round()), ("int4", 3_000.0));
        assert_eq!(bound(&SMALL, &limits, Workload::prefill(512)).value.round(), 1_500.0);
        // Layers of 4 bits and an output of 8: a third of a row's time and two thirds.
        let mixed = Demand { layers: narrow.layers, ..SMALL };
        let of_batches = bound(&mixed, &limits, Workload::batch(1, 32));
        assert_eq!((of_batches.limit.as_str(), of_batches.value.round()), ("int8", 1_000.0));
    }

    #[test]
    fn without_instructions_for_bf16_its_bound_is_that_of_f32() {
        let peak = Peak { instruction: "vfmadd231ps ymm".into(), operand: "f32".into(), operations: 2e11 };
        let limits = Limits { peaks: vec![peak], ..limits() };
        let bound = floating().bound(&Workload::prefill(512), &limits).unwrap();
        assert_eq!((bound.limit.as_str(), bound.value.round()), ("f32", 1_000.0));
        assert_eq!(SMALL.bound(&Workload::prefill(512), &limits), None);
    }

    #[test]
    fn the_bound_of_several_rounds_is_the_one_in_the_middle() {
        let round = |reread| Limits { reread, ..limits() };
        let rounds = [round(3e11), round(1e11), round(2e11)];
        let bound = SMALL.median_bound(&Workload::decode(0, 0), &rounds).unwrap();
        assert_eq!((bound.limit.as_str(), bound.value.round()), ("re-read", 2_000.0));
        assert_eq!(SMALL.median_bound(&Workload::cold(), &[]), None);
    }

    #[test]
    fn without_a_measured_peak_there_is_no_bound() {
        let limits = Limits { peaks: Vec::new(), ..limits() };
        assert_eq!(SMALL.bound(&Workload::prefill(512), &limits), None);
        assert_eq!(SMALL.bound(&Workload::cold(), &limits), None);
    }
}
