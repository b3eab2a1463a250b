//! Step times and rates of published training runs.

use super::cases::{framework, gpt, layouts, model};
use super::{Comparison, Half, Row, built_in};
use crate::calibration::Calibration;
use crate::error::PlanError;
use crate::hardware::{Accelerator, HardwareCatalogue};
use crate::layout::{Job, Layout, Recompute, Sharding};
use crate::memory::fits;
use crate::model::{ModelCatalogue, ModelShape};
use crate::stack::Stack;
use crate::step::step_time;

/// What a row publishes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantity {
    /// Seconds of a step.
    Seconds,
    /// Tokens a second of a GPU.
    Tokens,
    /// TFLOP/s of a GPU: by forward passes' worth of FLOPs that the source counts in a step, and whether it counts only
    /// the causal half of attention.
    Teraflops {
        /// Forward passes counted: 3, or 4 with recomputation.
        passes: f64,
        /// Attention is counted once for every pair of positions.
        causal: bool,
    },
}

/// A published measurement of a training step, ready to be predicted.
#[derive(Clone, Debug)]
pub struct TrainingCase {
    /// Who published it.
    pub source: String,
    /// What was measured, in words.
    pub what: String,
    /// Rows with the same key are the same job in several layouts.
    pub group: String,
    /// Which half the row is in.
    pub half: Half,
    /// The model.
    pub model: ModelShape,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// The framework.
    pub stack: &'static Stack,
    /// Tokens of a sequence.
    pub sequence: u64,
    /// Tokens of a batch.
    pub batch_tokens: f64,
    /// What products are computed in.
    pub precision: &'static str,
    /// The layout; several where the microbatch was not printed.
    pub layouts: Vec<Layout>,
    /// What is published.
    pub quantity: Quantity,
    /// The figure.
    pub published: f64,
}

impl TrainingCase {
    /// The job of the case.
    #[must_use]
    pub fn job(&self) -> Job<'_> {
        Job {
            model: &self.model,
            accelerator: &self.accelerator,
            stack: self.stack,
            sequence: self.sequence,
            batch_tokens: self.batch_tokens,
            precision: self.precision,
            oversubscription: 1.0,
            pod: u32::MAX,
        }
    }

    /// Predicted seconds of a step: of the fastest layout that fits where several are possible.
    #[must_use]
    pub fn seconds(&self, calibration: &Calibration) -> f64 {
        let job = self.job();
        let time = |layout: &Layout| step_time(&job, layout, calibration).total();
        let fitting = self.layouts.iter().filter(|it| self.layouts.len() == 1 || fits(&job, it).is_ok());
        // A run that was published did fit, if only with what its authors did about it: the smallest microbatch.
        let least = self.layouts.iter().filter(|it| it.microbatch == self.layouts[0].microbatch);
        let fastest = fitting.map(time).min_by(f64::total_cmp);
        fastest.or_else(|| least.map(time).min_by(f64::total_cmp)).unwrap_or(f64::NAN)
    }

    /// Measured over predicted seconds of a step.
    #[must_use]
    pub fn step_error(&self, calibration: &Calibration) -> f64 {
        let ratio = self.published / self.quantity_of(self.seconds(calibration));
        if self.quantity == Quantity::Seconds { ratio } else { 1.0 / ratio }
    }

    /// Why the planner would refuse the layout that was measured, if it would: then its prediction is of a run that it
    /// thinks cannot be.
    #[must_use]
    pub fn refused(&self) -> Option<PlanError> {
        let job = self.job();
        let check =
            |layout: &Layout| layout.check(&job, layout.gpus()).and_then(|()| fits(&job, layout).map(|_| ()));
        let mut errors = Vec::new();
        for layout in &self.layouts {
            errors.push(check(layout).err()?);
        }
        errors.into_iter().next()
    }

    /// The published quantity for a step of `seconds`.
    #[must_use]
    pub fn quantity_of(&self, seconds: f64) -> f64 {
        let gpus = self.layouts[0].gpus() as f64;
        let rate = self.batch_tokens / seconds / gpus;
        match self.quantity {
            Quantity::Seconds => seconds,
            Quantity::Tokens => rate,
            Quantity::Teraflops { passes, causal } => {
                let sequence = self.sequence as f64;
                let forward = match causal {
                    true => self.model.causal_forward_flops(sequence),
                    false => self.model.forward_flops(sequence),
                };
                passes * forward * rate / 1e12
            }
        }
    }

    /// The prediction beside what was published.
    #[must_use]
    pub fn compare(&self, calibration: &Calibration) -> Comparison {
        Comparison {
            check: "training",
            source: self.source.clone(),
            what: self.what.clone(),
            unit: match self.quantity {
                Quantity::Seconds => "s",
                Quantity::Tokens => "token/s",
                Quantity::Teraflops { .. } => "TFLOP/s",
            },
            published: self.published,
            predicted: self.quantity_of(self.seconds(calibration)),
            half: self.half,
            refused: self.refused().map(|error| error.to_string()),
        }
    }
}

/// The cases of both tables of step times that come with the planner.
#[must_use]
pub fn training_cases() -> Vec<TrainingCase> {
    let mut cases = training_rows(&built_in("planner_truth.csv"));
    cases.extend(training_rows(&built_in("vtrain_single.csv")));
    cases
}

/// The cases of rows of `planner_truth.csv` or `vtrain_single.csv`: those that publish a step time or rate, a layout and a
/// batch. GPU-hours are no step times: they hold restarts, evaluations and other work.
#[must_use]
pub fn training_rows(rows: &[Row]) -> Vec<TrainingCase> {
    let (hardware, models) = (HardwareCatalogue::built_in(), ModelCatalogue::built_in());
    let case = |row: &Row| match row.text("hidden size").is_empty() {
        true => published_case(&hardware, &models, row),
        false => single_case(&hardware, row),
    };
    rows.iter().filter_map(case).collect()
}

/// A row of `planner_truth.csv`.
fn published_case(hardware: &HardwareCatalogue, models: &ModelCatalogue, row: &Row) -> Option<TrainingCase> {
    let stack = framework(row)?;
    let quantity = if row.number("iteration_s").is_some() {
        Quantity::Seconds
    } else if row.number("tokens_per_s_per_gpu").is_some() {
        Quantity::Tokens
    } else {
        row.number("measured_tflops_per_gpu")?;
        // SC21's percentages count recomputation; the H100 table and Llama 3's count a forward and a backward pass.
        let passes = if ["megatron-2021", "deepspeed-2021"].contains(&stack.name) { 4.0 } else { 3.0 };
        Quantity::Teraflops { passes, causal: row.text("source").contains("Llama 3 Herd") }
    };
    let published = match quantity {
        Quantity::Seconds => row.number("iteration_s")?,
        Quantity::Tokens => row.number("tokens_per_s_per_gpu")?,
        Quantity::Teraflops { .. } => row.number("measured_tflops_per_gpu")?,
    };
    let (gpus, sequence) = (row.number("gpus")?, row.number("seq_len")?);
    let batch_tokens = row.number("batch_tokens")?;
    row.number("tp")?;
    let note = row.text("note");
    let eight_bit = ["FP8;", "FP8-CS;", "Float8", "amp_fp8", "4D;"].iter().any(|it| note.contains(it));
    let layouts = layouts(row, gpus, batch_tokens / sequence);
    let model = model(models, row)?;
    Some(TrainingCase {
        source: row.text("source").to_owned(),
        what: format!("{} on {gpus} {}, {}", row.text("model"), row.text("gpu"), layouts.first()?),
        group: format!("{}|{}|{gpus}|{batch_tokens}|{sequence}", row.text("source"), row.text("model")),
        half: row.half,
        model,
        accelerator: hardware.find(row.text("gpu")).ok()?.clone(),
        stack,
        sequence: sequence as u64,
        batch_tokens,
        precision: if eight_bit { "fp8" } else { "bf16" },
        layouts,
        quantity,
        published,
    })
}

/// A row of `vtrain_single.csv`.
fn single_case(hardware: &HardwareCatalogue, row: &Row) -> Option<TrainingCase> {
    let number = |column: &str| row.number(column);
    let (hidden, layers) = (number("hidden size")?, number("# layers")?);
    let (sequence, batch) = (number("sequence length")?, number("global batch")?);
    let model = gpt("GPT", layers, hidden, number("attention heads")?, 51_200, true);
    let layout = Layout {
        tensor: number("tensor parallelism")? as u32,
        pipeline: number("pipeline parallelism")? as u32,
        data: number("data parallelism")? as u32,
        microbatch: number("micro batch")? as u32,
        recompute: Recompute::Full,
        sharding: Sharding::None,
        ..Layout::SINGLE
    };
    let gpus = number("GPUs")?;
    Some(TrainingCase {
        source: "VIA-Research/vTrain, single node".to_owned(),
        what: format!("GPT of {layers} layers, {hidden} wide, {batch} sequences on {gpus} A100, {layout}"),
        group: format!("vtrain|{gpus}|{batch}|{hidden}|{layers}"),
        half: row.half,
        model,
        accelerator: hardware.find("A100-80GB").ok()?.clone(),
        stack: Stack::find("megatron-deepspeed").ok()?,
        sequence: sequence as u64,
        batch_tokens: batch * sequence,
        precision: "bf16",
        layouts: vec![layout],
        quantity: Quantity::Seconds,
        published: number("iteration time (ms)")? / 1e3,
    })
}

/// Quantiles at 0, 5, 10 ... 100 % of measured over predicted seconds of a step, held rows of clusters.
#[must_use]
pub fn step_error_quantiles(cases: &[TrainingCase], calibration: &Calibration) -> [f64; 21] {
    let held = cases.iter().filter(|it| it.half == Half::Held && !it.source.contains("single node"));
    let mut errors: Vec<f64> = held.map(|it| it.step_error(calibration)).collect();
    std::array::from_fn(|index| crate::random::quantile(&mut errors, index as f64 / 20.0))
}

/// Mean absolute error, on a half, of the simplest of planners: every run reaches the same part of its accelerators' peak,
/// the median of the used half.
#[must_use]
pub fn constant_mfu(cases: &[TrainingCase], half: Half) -> f64 {
    let seconds_at_peak = |case: &TrainingCase| {
        let flops = 3.0 * case.model.forward_flops(case.sequence as f64) * case.batch_tokens;
        flops / (case.layouts[0].gpus() as f64 * case.accelerator.peak(case.precision))
    };
    let measured = |case: &TrainingCase| {
        let one = case.quantity_of(1.0);
        if case.quantity_of(2.0) > one { case.published } else { one / case.published }
    };
    let used = cases.iter().filter(|case| case.half == Half::Used);
    let mut parts: Vec<f64> = used.map(|case| seconds_at_peak(case) / measured(case)).collect();
    parts.sort_by(f64::total_cmp);
    let mfu = parts[parts.len() / 2];
    let judged: Vec<&TrainingCase> = cases.iter().filter(|case| case.half == half).collect();
    let error =
        |case: &&TrainingCase| (case.quantity_of(seconds_at_peak(case) / mfu) / case.published - 1.0).abs();
    judged.iter().map(error).sum::<f64>() / judged.len() as f64
}
