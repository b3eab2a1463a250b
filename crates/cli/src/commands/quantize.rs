//! `alti quantize`: a smaller model of the same behaviour, and the importance matrix that helps to
//! make it.

use crate::environment::Environment;
use crate::exit::{self, Exit, Failure};
use crate::model::{Loaded, StepRows, Task, Wants, cores, open, with_model};
use crate::options::RunOptions;
use crate::output::{self, Unit, bar, bytes};
use crate::{input, interrupt};
use alti_engine::measure_importance;
use alti_formats::recipes::RECIPES;
use alti_formats::{
    Checkpoint, Importance, QuantiseOptions, Quantised, QuantisedTensor, Recipe, check_target, quantise,
};
use alti_tensor::Backend;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Quantise a model
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti quantize Llama-3.2-1B/ model-q4.gguf Q4_K_M
  alti quantize model-bf16.gguf model-q4.gguf Q4_K_M --imatrix-from wiki.train.raw --chunks 100
  alti quantize model-bf16.gguf --imatrix-from wiki.train.raw --imatrix-out importance.gguf
  alti quantize model-bf16.gguf model-q5.gguf Q5_K_M --imatrix importance.gguf

Recipes and tensor types are those of llama.cpp's llama-quantize, and so are importance
matrices. Rows that are not whole blocks of a format get the nearest one that fits. The error
shown of each tensor is the root of its summed squared errors over its summed squares.")]
pub struct QuantizeCommand {
    /// Model: a name in the store or a path, in any format
    source: String,
    /// The GGUF file to write
    #[arg(required_unless_present = "imatrix_out")]
    target: Option<PathBuf>,
    /// Which format each tensor gets
    #[arg(required_unless_present = "imatrix_out", ignore_case = true,
          value_parser = PossibleValuesParser::new(RECIPES.map(|recipe| recipe.name)))]
    recipe: Option<String>,
    /// Importance matrix, ours or llama.cpp's: spend precision on what matters
    #[arg(long, value_name = "FILE", conflicts_with = "imatrix_from")]
    imatrix: Option<PathBuf>,
    /// Give every matrix the recipe's base format
    #[arg(long)]
    pure: bool,
    /// Compute the importance matrix by running the model on this text
    #[arg(long, value_name = "TEXT-FILE")]
    imatrix_from: Option<PathBuf>,
    /// Keep the computed importance matrix in this file
    #[arg(long, value_name = "FILE", requires = "imatrix_from")]
    imatrix_out: Option<PathBuf>,
    /// Most chunks of --context tokens (512 unless told) of that text [default: all]
    #[arg(long, requires = "imatrix_from", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Debug, Serialize)]
struct QuantizeResult {
    path: PathBuf,
    recipe: &'static str,
    bytes: usize,
    bits_per_weight: f64,
    relative_error: f64,
    tensors: Vec<TensorResult>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TensorResult {
    name: String,
    from: &'static str,
    to: &'static str,
    bytes: usize,
    relative_error: f64,
    importance: bool,
}

#[derive(Debug, Serialize)]
struct ImportanceResult {
    path: PathBuf,
    weights: usize,
    chunks: u32,
    chunk_size: u32,
}

impl QuantizeCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the source or the importance matrix cannot be read, or the target cannot be written.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        // Before the hours that it may take to make them.
        for file in [&self.imatrix_out, &self.target].into_iter().flatten() {
            check_target(file, self.force).map_err(exit::naming_force)?;
        }
        let importance = match (&self.imatrix, &self.imatrix_from) {
            (Some(file), _) => Some(Importance::read(file)?),
            (None, Some(text)) => Some(self.measure(environment, text)?),
            (None, None) => None,
        };
        if let (Some(importance), Some(path)) = (&importance, &self.imatrix_out) {
            importance.write(path, self.force).map_err(exit::naming_force)?;
            if self.target.is_none() {
                return report_importance(importance, path, json);
            }
        }
        let recipe = self.recipe.as_deref().and_then(Recipe::by_name);
        let (Some(target), Some(recipe)) = (&self.target, recipe) else {
            return Err(Exit::new(Failure::Usage, "name a target file and a recipe").into());
        };
        let source = open(environment, &self.source)?;
        let threads = self.run.threads.map_or_else(cores, usize::from);
        let options = QuantiseOptions {
            recipe,
            importance: importance.as_ref(),
            pure: self.pure,
            threads,
            replace: self.force,
        };
        let done = quantise_shown(environment, &source, target, &options)?;
        done.notes.iter().for_each(|note| eprintln!("note: {note}"));
        let result = QuantizeResult::of(&source, recipe, done);
        output::result(json, &result, |r| {
            format!(
                "{}: {}, {} ({:.2} bits a weight), relative error {:.5}\n",
                r.path.display(),
                r.recipe,
                bytes(r.bytes as u64),
                r.bits_per_weight,
                r.relative_error
            )
        })
    }

    fn measure(&self, environment: &Environment, file: &Path) -> anyhow::Result<Importance> {
        let mut options = self.run.clone();
        options.context.get_or_insert(512);
        let text = input::text(file)?;
        let task = ImportanceTask { environment, text, most: self.chunks };
        let mut importance = with_model(environment, &self.source, &options, task)?;
        importance.datasets = vec![file.display().to_string()];
        Ok(importance)
    }
}

fn report_importance(importance: &Importance, path: &Path, json: bool) -> anyhow::Result<()> {
    let result = ImportanceResult {
        path: path.to_owned(),
        weights: importance.len(),
        chunks: importance.chunks,
        chunk_size: importance.chunk_size,
    };
    output::result(json, &result, |r| {
        format!(
            "{}: {} weights, {} chunks of {} tokens\n",
            r.path.display(),
            r.weights,
            r.chunks,
            r.chunk_size
        )
    })
}

/// Quantises with a line for each tensor on stderr.
fn quantise_shown(
    environment: &Environment,
    source: &Checkpoint,
    target: &Path,
    options: &QuantiseOptions<'_>,
) -> anyhow::Result<Quantised> {
    let shown = bar(environment, source.weights().len() as u64, "quantising", Unit::Items);
    let done = quantise(source, target, options, |tensor: &QuantisedTensor| {
        let line = format!(
            "{:28} {:>6} to {:6} {:>10}  error {:.5}",
            tensor.name.gguf(),
            tensor.from.name(),
            tensor.to.name(),
            bytes(tensor.bytes as u64),
            tensor.relative_error
        );
        shown.suspend(|| eprintln!("{line}"));
        shown.inc(1);
    });
    shown.finish_and_clear();
    done.map_err(exit::naming_force)
}

impl QuantizeResult {
    fn of(source: &Checkpoint, recipe: &'static Recipe, done: Quantised) -> QuantizeResult {
        let elements = |tensor: &QuantisedTensor| {
            source.info(&tensor.name).map_or(0, |info| info.shape.iter().product::<usize>())
        };
        let weights: usize = done.tensors.iter().map(elements).sum();
        let size: usize = done.tensors.iter().map(|tensor| tensor.bytes).sum();
        let squares: f64 = done.tensors.iter().map(|t| t.relative_error.powi(2) * elements(t) as f64).sum();
        let tensor = |tensor: &QuantisedTensor| TensorResult {
            name: tensor.name.gguf(),
            from: tensor.from.name(),
            to: tensor.to.name(),
            bytes: tensor.bytes,
            relative_error: tensor.relative_error,
            importance: tensor.importance,
        };
        QuantizeResult {
            recipe: recipe.name,
            bytes: size,
            bits_per_weight: 8.0 * size as f64 / weights as f64,
            relative_error: (squares / weights as f64).sqrt(),
            tensors: done.tensors.iter().map(tensor).collect(),
            path: done.path,
            notes: done.notes,
        }
    }
}

struct ImportanceTask<'a> {
    environment: &'a Environment,
    text: String,
    most: Option<u32>,
}

impl Task for ImportanceTask<'_> {
    type Output = Importance;

    fn wants(&self) -> Wants {
        Wants::Text
    }

    /// A chunk is one step, and nothing wants logits.
    fn step_rows(&self, _: &RunOptions, context: usize) -> StepRows {
        StepRows { rows: context, logits: 0 }
    }

    fn run<B: Backend<Element = f32>>(self, loaded: Loaded<B>) -> anyhow::Result<Importance> {
        let chunks = loaded.text_chunks(&self.text, self.most)?;
        let cancel = interrupt::flag();
        let shown = bar(self.environment, chunks.len() as u64, "measuring", Unit::Items);
        let slices = chunks.iter().map(Vec::as_slice);
        let importance = measure_importance(loaded.backend, &loaded.model, slices, |done| {
            shown.set_position(u64::from(done));
            !cancel.load(Ordering::Relaxed)
        })?;
        shown.finish_and_clear();
        match cancel.load(Ordering::Relaxed) {
            true => Err(Exit::new(Failure::Interrupted, "interrupted").into()),
            false => Ok(importance),
        }
    }
}
