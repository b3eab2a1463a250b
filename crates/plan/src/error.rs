//! What can be wrong with what a planner is asked: always what, where, and the nearest that works.

use thiserror::Error;

/// Why a plan cannot be made.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PlanError {
    /// A name that no table has.
    #[error("{what} `{name}` is not in the catalogue; the nearest is `{nearest}` (known: {known})")]
    Unknown {
        /// Which table: `model`, `accelerator`, ...
        what: &'static str,
        /// The name asked for.
        name: String,
        /// The most similar name of the table.
        nearest: String,
        /// All of its names.
        known: String,
    },
    /// A number that cannot be.
    #[error("{field} is {value}: {problem}; {remedy}")]
    Value {
        /// Which input.
        field: String,
        /// What it says.
        value: String,
        /// Why that cannot be.
        problem: String,
        /// The nearest that works.
        remedy: String,
    },
    /// A model that does not fit the memory of the machines.
    #[error("{what} needs {needed_gib:.1} GiB a GPU and {available_gib:.1} GiB are there; {remedy}")]
    Memory {
        /// What does not fit, in which layout.
        what: String,
        /// GiB needed on the fullest GPU.
        needed_gib: f64,
        /// GiB usable on a GPU.
        available_gib: f64,
        /// The nearest that works.
        remedy: String,
    },
    /// A file that is not what it should be.
    #[error("{file}: {problem}")]
    File {
        /// Which file, with the line where it is known.
        file: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl PlanError {
    /// A number that cannot be, and what to write instead.
    pub fn value(
        field: impl Into<String>,
        value: impl ToString,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> PlanError {
        PlanError::Value {
            field: field.into(),
            value: value.to_string(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// A file that is not what it should be.
    pub fn file(file: impl Into<String>, problem: impl ToString) -> PlanError {
        PlanError::File { file: file.into(), problem: problem.to_string() }
    }
}

/// The name of `names` that is most like `name`: the fewest edits (Levenshtein) between their letters and digits.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let wanted = plain(name);
    names.min_by_key(|candidate| edits(&wanted, &plain(candidate))).unwrap_or_default().to_owned()
}

/// Letters and digits of a name in lower case: `Llama-3.1-8B` and `LLAMA3.1_8B` are the same.
pub fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let kept = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = kept.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The finite number above zero that `value` must be.
///
/// # Errors
/// When it is not.
pub fn positive(field: &str, value: f64) -> Result<f64, PlanError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(value),
        false => Err(PlanError::value(field, value, "it must be a number above 0", "write one, such as 1")),
    }
}

/// The number from `least` to `most` that `value` must be.
///
/// # Errors
/// When it is not.
pub fn between(field: &str, value: f64, least: f64, most: f64) -> Result<f64, PlanError> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    // A number with hundreds of digits helps nobody.
    let written = |number: f64| match number.abs() {
        size if size == 0.0 || (1e-3..1e15).contains(&size) => number.to_string(),
        _ => format!("{number:e}"),
    };
    let nearest = if value > most { most } else { least };
    let problem = "it is outside of what can be planned";
    let remedy = format!("the nearest that works is {}", written(nearest));
    Err(PlanError::value(field, written(value), problem, remedy))
}

/// The part of one, 0 to 1, that `value` must be.
///
/// # Errors
/// When it is not.
pub fn fraction(field: &str, value: f64) -> Result<f64, PlanError> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => {
            let remedy = format!("write {}", if value > 1.0 { "1" } else { "0" });
            Err(PlanError::value(field, value, "it is a part of one, from 0 to 1", remedy))
        }
    }
}
