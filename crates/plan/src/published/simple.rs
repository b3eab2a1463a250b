//! Published days and emissions that follow from one formula.

use super::{Comparison, Row};
use crate::units::DAY;

/// Days of training by `8 T P / (n X)` (arXiv 2104.04473, equation 4): tokens, parameters, GPUs, FLOP/s of a GPU with
/// recomputation counted.
#[must_use]
pub fn days_with_recomputation(tokens: f64, parameters: f64, gpus: f64, flops: f64) -> f64 {
    8.0 * tokens * parameters / (gpus * flops) / DAY
}

/// Rows of SC21's Table 2 and text that print days.
#[must_use]
pub fn days_rows(rows: &[Row]) -> Vec<Comparison> {
    let found = rows.iter().filter(|row| row.text("source").contains("SC21")).filter_map(|row| {
        let published = row.number("days")?;
        let flops = row.number("measured_tflops_per_gpu")? * 1e12;
        let (tokens, gpus) = (row.number("tokens")?, row.number("gpus")?);
        Some(Comparison {
            check: "days",
            source: row.text("source").to_owned(),
            what: format!("{} on {gpus}", row.text("model")),
            unit: "days",
            published,
            predicted: days_with_recomputation(tokens, row.number("params_total")?, gpus, flops),
            half: row.half,
            refused: None,
        })
    });
    found.collect()
}

/// Rows of model cards that print GPU-hours and emissions.
#[must_use]
pub fn carbon_rows(rows: &[Row]) -> Vec<Comparison> {
    let found = rows.iter().filter_map(|row| {
        let published = row.number("tco2").filter(|it| *it > 0.0)?;
        let (hours, power) = (row.number("gpu_hours")?, row.number("power_w_per_gpu")?);
        let intensity = crate::power::card_intensity(row.text("model"));
        Some(Comparison {
            check: "carbon",
            source: row.text("source").to_owned(),
            what: row.text("model").to_owned(),
            unit: "tCO2",
            published,
            predicted: crate::power::tonnes(hours, power, intensity),
            half: row.half,
            refused: None,
        })
    });
    found.collect()
}
