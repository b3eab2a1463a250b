//! Quantisation: a model of any format to a GGUF file whose tensors have the types of a recipe.
//!
//! Weights stream through one tensor at a time, its rows on all threads. Rows are independent and
//! errors are summed row by row, so that neither the file nor the report depends on the threads.

use crate::FormatError;
use crate::checkpoint::{Checkpoint, WeightInfo};
use crate::gguf::{Value, WriteOptions};
use crate::gguf_model::GgufModel;
use crate::importance::Importance;
use crate::names::WeightName;
use crate::recipes::{Recipe, RecipeContext};
use alti_tensor::quant::{QuantError, dequantize, quantize};
use alti_tensor::{DType, WeightData};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Version of the block formats' layouts (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// How to quantise.
#[derive(Clone, Copy, Debug)]
pub struct QuantiseOptions<'a> {
    /// Which format each tensor gets.
    pub recipe: &'static Recipe,
    /// How much each column of each matrix matters; all alike without.
    pub importance: Option<&'a Importance>,
    /// Whether every matrix gets the recipe's base format.
    pub pure: bool,
    /// Threads to work on, at least one.
    pub threads: usize,
    /// Whether a file that is there may be replaced.
    pub replace: bool,
}

/// A tensor that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantisedTensor {
    /// Which.
    pub name: WeightName,
    /// Its type in the source.
    pub from: DType,
    /// Its type now.
    pub to: DType,
    /// Bytes it takes now.
    pub bytes: usize,
    /// `sqrt(sum (decoded - value)^2 / sum value^2)`, values being those of the source.
    pub relative_error: f64,
    /// Whether the importance matrix had something to say of it.
    pub importance: bool,
}

/// What quantisation wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The file.
    pub path: PathBuf,
    /// Its tensors, in model order.
    pub tensors: Vec<QuantisedTensor>,
    /// What a person should know; one sentence each.
    pub notes: Vec<String>,
}

/// Writes `source` to the GGUF file `out` as the recipe says. `done` is told of each tensor.
///
/// # Errors
/// When a weight cannot be read or is not finite, the importance matrix is of another model, or
/// `out` cannot be written or is there already; nothing is lost or left at `out` then.
pub fn quantise(
    source: &Checkpoint,
    out: &Path,
    options: &QuantiseOptions<'_>,
    mut done: impl FnMut(&QuantisedTensor),
) -> Result<Quantised, FormatError> {
    let context = recipe_context(source, options);
    let dtype = |info: &WeightInfo| options.recipe.dtype_for(&context, &info.name.gguf(), &info.shape);
    let mut model = GgufModel::plan(source, dtype, |_| settings(options))?;
    let mut tensors = Vec::new();
    let data = |name: &WeightName, dtype| {
        let (bytes, tensor) = quantise_tensor(source, name, dtype, options)?;
        done(&tensor);
        tensors.push(tensor);
        Ok(bytes)
    };
    let write = WriteOptions { split: None, replace: options.replace };
    model.write(out, write, data, &mut |_| ())?;
    if tensors.iter().any(|tensor| tensor.from.is_quantised() && tensor.from != tensor.to) {
        model.notes.push(
            "The source is quantised already: what that lost is lost, quantise the original where you can."
                .to_owned(),
        );
    }
    Ok(Quantised { path: out.to_owned(), tensors, notes: model.notes })
}

fn recipe_context(source: &Checkpoint, options: &QuantiseOptions<'_>) -> RecipeContext {
    RecipeContext {
        importance: options.importance.is_some(),
        pure: options.pure,
        ..RecipeContext::of(source.config())
    }
}

fn settings(options: &QuantiseOptions<'_>) -> Vec<(String, Value)> {
    let mut settings = vec![
        ("general.file_type".to_owned(), Value::U32(options.recipe.file_type)),
        ("general.quantization_version".to_owned(), Value::U32(QUANTIZATION_VERSION)),
    ];
    if let Some(importance) = options.importance {
        let mut add = |key: &str, value| settings.push((format!("quantize.imatrix.{key}"), value));
        if let Some(dataset) = importance.datasets.first() {
            add("dataset", Value::String(dataset.clone()));
        }
        add("entries_count", Value::U32(importance.len() as u32));
        add("chunks_count", Value::U32(importance.chunks));
    }
    settings
}

fn quantise_tensor<'a>(
    source: &'a Checkpoint,
    name: &WeightName,
    dtype: DType,
    options: &QuantiseOptions<'_>,
) -> Result<(Cow<'a, [u8]>, QuantisedTensor), FormatError> {
    let weight = source.load(name)?;
    let spelled = name.gguf();
    let refuse = |problem: String| FormatError::tensor(source.path(), &spelled, problem);
    let mut tensor = QuantisedTensor {
        name: *name,
        from: weight.dtype,
        to: dtype,
        bytes: weight.bytes.len(),
        relative_error: 0.0,
        importance: false,
    };
    if weight.dtype == dtype {
        return Ok((weight.bytes, tensor));
    }
    let matrices = if weight.shape.len() == 3 { weight.shape[0] } else { 1 };
    let importance = match options.importance.filter(|_| dtype.is_quantised()) {
        Some(all) => all.means(&spelled, matrices, weight.columns()).map_err(refuse)?,
        None => None,
    };
    let (bytes, error) =
        requantise(&weight, dtype, importance.as_deref(), options.threads).map_err(refuse)?;
    tensor.bytes = bytes.len();
    tensor.relative_error = error;
    tensor.importance = importance.is_some();
    Ok((Cow::Owned(bytes), tensor))
}

/// Sums of squares of a row: of the error, and of the values.
type RowError = (f64, f64);

/// The weight in `dtype`, and its relative error. `importance` has one row for each matrix.
fn requantise(
    weight: &WeightData<'_>,
    dtype: DType,
    importance: Option<&[f32]>,
    threads: usize,
) -> Result<(Vec<u8>, f64), String> {
    let (rows, columns) = (weight.rows(), weight.columns());
    let row_bytes = columns / dtype.block_len() * dtype.block_bytes();
    let mut out = vec![0; rows * row_bytes];
    let mut errors: Vec<RowError> = vec![(0.0, 0.0); rows];
    let share = rows.div_ceil(threads.max(1)).max(1);
    let parts = out.chunks_mut(share * row_bytes).zip(errors.chunks_mut(share)).enumerate();
    std::thread::scope(|scope| {
        let workers: Vec<_> = parts
            .map(|(part, (out, errors))| {
                scope.spawn(move || quantise_rows(weight, dtype, importance, part * share, out, errors))
            })
            .collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let (error, total) = errors.iter().fold((0.0, 0.0), |(error, total), row| (error + row.0, total + row.1));
    let relative = if total > 0.0 { (error / total).sqrt() } else { 0.0 };
    Ok((out, relative))
}

/// Rows `first..` of the weight into `out`.
fn quantise_rows(
    weight: &WeightData<'_>,
    dtype: DType,
    importance: Option<&[f32]>,
    first: usize,
    out: &mut [u8],
    errors: &mut [RowError],
) -> Result<(), String> {
    let columns = weight.columns();
    let (mut values, mut decoded) = (vec![0f32; columns], vec![0f32; columns]);
    let rows_of_a_matrix = weight.shape[weight.shape.len().saturating_sub(2)].max(1);
    let rows = out.chunks_exact_mut(out.len() / errors.len()).zip(errors).enumerate();
    for (row, (out, error)) in rows.map(|(index, row)| (first + index, row)) {
        let refuse = |problem: QuantError| format!("row {row}: {problem}");
        dequantize(weight.dtype, weight.row(row), &mut values).map_err(refuse)?;
        let importance = importance.map(|all| &all[row / rows_of_a_matrix * columns..][..columns]);
        quantize(dtype, &values, importance, out).map_err(refuse)?;
        dequantize(dtype, out, &mut decoded).map_err(refuse)?;
        let squares = |(error, total): RowError, (&value, &decoded): (&f32, &f32)| {
            let (value, decoded) = (f64::from(value), f64::from(decoded));
            (error + (decoded - value).powi(2), total + value * value)
        };
        *error = values.iter().zip(&decoded).fold((0.0, 0.0), squares);
    }
    Ok(())
}
