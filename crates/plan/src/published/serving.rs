//! Published throughput of serving.

use super::{Comparison, Half, Row};
use crate::hardware::{Accelerator, HardwareCatalogue};
use crate::inference::{RequestShape, Server, ServingCalibration};
use crate::model::{ModelCatalogue, ModelShape};

/// A published throughput, ready to be predicted.
#[derive(Clone, Debug)]
pub struct ServingCase {
    /// Who published it.
    pub source: String,
    /// Which half the row is in.
    pub half: Half,
    /// The model.
    pub model: ModelShape,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// Tensor-parallel ranks.
    pub tensor: u32,
    /// What weights, keys and values are kept in.
    pub precision: &'static str,
    /// Tokens in and out.
    pub shape: RequestShape,
    /// Tokens of answers a second.
    pub published: f64,
}

impl ServingCase {
    /// Predicted tokens of answers a second.
    #[must_use]
    pub fn predicted(&self, calibration: ServingCalibration) -> f64 {
        let server = Server {
            model: &self.model,
            accelerator: &self.accelerator,
            tensor: self.tensor,
            precision: self.precision,
            // Published FP8 checkpoints of dense Llamas carry scales for an FP8 cache, those of Llama 4 do not.
            cache_precision: if self.model.experts.is_some() { "bf16" } else { "fp8" },
            prefix_hits: 0.0,
            speculation: None,
            calibration,
        };
        server.at_batch(self.shape, server.batch(self.shape)).output_tokens
    }
}

/// The cases of rows of `inference_truth.csv`.
#[must_use]
pub fn serving_cases(rows: &[Row]) -> Vec<ServingCase> {
    let (hardware, models) = (HardwareCatalogue::built_in(), ModelCatalogue::built_in());
    let case = |row: &Row| {
        let model = models.find(row.text("model")).ok()?;
        Some(ServingCase {
            source: row.text("source").to_owned(),
            half: row.half,
            model,
            accelerator: hardware.find(row.text("gpu")).ok()?.clone(),
            tensor: row.number("tp")? as u32,
            precision: match row.text("precision") {
                "FP8" => "fp8",
                "FP4" | "NVFP4" => "fp4",
                _ => "bf16",
            },
            shape: RequestShape { input: row.number("isl")?, output: row.number("osl")? },
            published: row.number("output_tokens_per_s")?,
        })
    };
    rows.iter().filter_map(case).collect()
}

/// Predictions for rows of `inference_truth.csv`.
#[must_use]
pub fn serving_rows(rows: &[Row]) -> Vec<Comparison> {
    let compare = |case: ServingCase| Comparison {
        check: "serving",
        what: format!(
            "{} on {} {}, {} in, {} out",
            case.model.name, case.tensor, case.accelerator.name, case.shape.input, case.shape.output
        ),
        unit: "token/s",
        published: case.published,
        predicted: case.predicted(ServingCalibration::of(&case.accelerator)),
        half: case.half,
        refused: None,
        source: case.source,
    };
    serving_cases(rows).into_iter().map(compare).collect()
}
