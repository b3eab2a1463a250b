//! Published memory of a GPU in training.

use super::cases::{framework, layouts, model};
use super::{Comparison, Row};
use crate::hardware::HardwareCatalogue;
use crate::layout::{Job, Layout, Recompute, Sharding};
use crate::memory::training_memory;
use crate::model::ModelCatalogue;
use crate::stack::Stack;
use crate::units::GIB;

/// Predictions for every figure of rows of `memory_truth.csv`: state and activations, or the peak.
#[must_use]
pub fn memory_rows(rows: &[Row]) -> Vec<Comparison> {
    let (hardware, models) = (HardwareCatalogue::built_in(), ModelCatalogue::built_in());
    rows.iter().flat_map(|row| of_row(&hardware, &models, row).unwrap_or_default()).collect()
}

fn of_row(hardware: &HardwareCatalogue, models: &ModelCatalogue, row: &Row) -> Option<Vec<Comparison>> {
    let peak = row.number("peak_gib_per_gpu");
    let stack = match peak {
        Some(_) => framework(row)?,
        None if row.text("recompute").contains("tp only") => Stack::find("megatron-2021").ok()?,
        None => Stack::find("megatron-2022").ok()?,
    };
    let model = model(models, row)?;
    let (gpus, data) = (row.number("gpus")?, row.number_or("dp", 1.0));
    let sequence = row.noted("seq").unwrap_or(2048.0);
    let context = row.noted("cp").unwrap_or(1.0) as u32;
    let microbatches = row.noted("local batch").unwrap_or(row.number_or("pp", 1.0));
    let first = layouts(row, gpus, microbatches * data).into_iter().next()?;
    let recompute = match row.text("recompute") {
        "" => first.recompute,
        text if text.contains("none") => Recompute::None,
        // Full recomputation keeps inputs only, with or without sequence parallelism.
        text if text.contains("full") => Recompute::Full,
        text if text.contains("selective") => Recompute::Selective,
        _ => Recompute::None,
    };
    let sharding = if peak.is_some() { Sharding::Weights } else { Sharding::None };
    let microbatch = row.number("microbatch").map_or(first.microbatch, |it| it as u32);
    let layout = Layout { context, recompute, sharding, microbatch, ..first };
    let batch = match peak {
        Some(_) => microbatches * data,
        // Those figures are of a pipeline in its steady state: more microbatches than stages.
        None => 4.0 * f64::from(layout.pipeline) * f64::from(microbatch) * data,
    };
    let job = Job {
        model: &model,
        accelerator: hardware.find("H100-96GB-HBM2e").ok()?,
        stack,
        sequence: sequence as u64,
        batch_tokens: batch * sequence,
        precision: "bf16",
        oversubscription: 1.0,
        pod: u32::MAX,
    };
    let memory = training_memory(&job, &layout);
    let comparison = |what: &str, published: f64, predicted: f64| Comparison {
        check: "memory",
        source: row.text("source").to_owned(),
        what: format!("{} {what}, {layout}, {sequence} tokens", row.text("model")),
        unit: "GiB",
        published,
        predicted: predicted / GIB,
        half: row.half,
        refused: None,
    };
    let mut found = Vec::new();
    found.extend(row.number("params_opt_gib_per_gpu").map(|it| comparison("state", it, memory.state())));
    let kept = row.number("activation_gib_per_gpu");
    found.extend(kept.map(|it| comparison("activations", it, memory.activations)));
    found.extend(peak.map(|it| comparison("peak", it, memory.total())));
    Some(found)
}
