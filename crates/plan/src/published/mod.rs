//! What was published and measured by others, and how far predictions are from it.
//!
//! The tables are in `data/published/`, with their sources. Half of the rows, chosen by a hash of the job that a row measures, may be
//! used to fit the constants of [`crate::calibration`]; errors on the other half are reported apart.

mod cases;
mod layouts;
mod memory;
mod serving;
mod simple;
mod training;

pub use layouts::layout_choices;
pub use memory::memory_rows;
pub use serving::{ServingCase, serving_cases, serving_rows};
pub use simple::{carbon_rows, days_rows};
pub use training::{TrainingCase, constant_mfu, step_error_quantiles, training_cases, training_rows};

use crate::error::PlanError;
use serde::Serialize;
use std::collections::BTreeMap;

/// The tables that come with the planner: file name, text.
pub const TABLES: [(&str, &str); 5] = [
    ("planner_truth.csv", include_str!("../../data/published/planner_truth.csv")),
    ("vtrain_single.csv", include_str!("../../data/published/vtrain_single.csv")),
    ("memory_truth.csv", include_str!("../../data/published/memory_truth.csv")),
    ("reliability_truth.csv", include_str!("../../data/published/reliability_truth.csv")),
    ("inference_truth.csv", include_str!("../../data/published/inference_truth.csv")),
];

/// Columns that say what was run, and not in which layout or how fast: their hash decides a row's half, so that all
/// layouts of one job are in the same half.
const JOB: [&str; 14] = [
    "model",
    "gpu",
    "gpus",
    "batch_tokens",
    "seq_len",
    "isl",
    "osl",
    "component",
    "recompute",
    "GPUs",
    "global batch",
    "hidden size",
    "# layers",
    "sequence length",
];

/// Which half a row is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// Rows that constants may be fitted to.
    Used,
    /// Rows that only judge.
    Held,
}

/// A row of a published table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Line in its file.
    pub line: usize,
    /// Which half it is in.
    pub half: Half,
    fields: BTreeMap<String, String>,
}

impl Row {
    /// The text in a column, empty where there is none.
    #[must_use]
    pub fn text(&self, column: &str) -> &str {
        self.fields.get(column).map_or("", String::as_str)
    }

    /// The number in a column, if there is one.
    #[must_use]
    pub fn number(&self, column: &str) -> Option<f64> {
        self.text(column).parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// The number in a column, or `otherwise`.
    #[must_use]
    pub fn number_or(&self, column: &str, otherwise: f64) -> f64 {
        self.number(column).unwrap_or(otherwise)
    }

    /// The number that follows `word` in the row's note, if there is one.
    #[must_use]
    pub fn noted(&self, word: &str) -> Option<f64> {
        let note = self.text("note");
        let (_, after) = note.split_once(word)?;
        let after = after.trim_start_matches([' ', ':']);
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        after[..end].parse().ok()
    }
}

/// The rows of a CSV text with a head.
///
/// # Errors
/// When the text is no CSV.
pub fn rows(file: &str, text: &str) -> Result<Vec<Row>, PlanError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let head = reader.headers().map_err(|error| PlanError::file(file, error))?.clone();
    let job: Vec<usize> = (0..head.len()).filter(|column| JOB.contains(&&head[*column])).collect();
    let mut found = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|error| PlanError::file(file, error))?;
        let pairs = head.iter().zip(record.iter());
        let fields = pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        let half = if hash(job.iter().filter_map(|column| record.get(*column))).is_multiple_of(2) {
            Half::Used
        } else {
            Half::Held
        };
        found.push(Row { line: index + 2, half, fields });
    }
    Ok(found)
}

/// The rows of a table that comes with the planner.
///
/// # Panics
/// When there is no such table; a test reads all.
#[must_use]
pub fn built_in(name: &str) -> Vec<Row> {
    let text = TABLES.iter().find(|table| table.0 == name).map_or("", |table| table.1);
    rows(name, text).expect("a test reads the built-in tables")
}

/// FNV-1a over the fields, its high bits mixed down.
fn hash<'a>(fields: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = fields.flat_map(|field| field.bytes().chain([0x1f]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash ^ (hash >> 32) ^ (hash >> 17)
}

/// A prediction beside what was published.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Which check.
    pub check: &'static str,
    /// Who published it.
    pub source: String,
    /// What was measured, in words.
    pub what: String,
    /// The unit of both figures.
    pub unit: &'static str,
    /// The figure that was published.
    pub published: f64,
    /// The planner's.
    pub predicted: f64,
    /// Which half the row is in.
    pub half: Half,
    /// Why the planner would refuse what was measured, where it would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Comparison {
    /// Relative error of the prediction, with its sign.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.predicted / self.published - 1.0
    }
}

/// How good predictions are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    /// Rows.
    pub rows: usize,
    /// Mean of the absolute relative errors.
    pub mean_absolute_error: f64,
    /// Its median.
    pub median: f64,
    /// The largest.
    pub worst: f64,
    /// Part of the rows within 10 %.
    pub within_tenth: f64,
}

/// How good predictions are over some comparisons.
#[must_use]
pub fn summary<'a>(comparisons: impl Iterator<Item = &'a Comparison>) -> Summary {
    let mut errors: Vec<f64> = comparisons.map(|it| it.error().abs()).collect();
    errors.sort_by(f64::total_cmp);
    let rows = errors.len();
    if rows == 0 {
        return Summary::default();
    }
    Summary {
        rows,
        mean_absolute_error: errors.iter().sum::<f64>() / rows as f64,
        median: errors[rows / 2],
        worst: errors[rows - 1],
        within_tenth: errors.iter().filter(|error| **error <= 0.1).count() as f64 / rows as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_and_halves_are_halves() {
        for (name, _) in TABLES {
            let rows = built_in(name);
            assert!(rows.len() > 10, "{name}");
        }
        let rows = built_in("vtrain_single.csv");
        let used = rows.iter().filter(|row| row.half == Half::Used).count() as f64 / rows.len() as f64;
        assert!((0.45..0.55).contains(&used), "{used}");
    }
}
