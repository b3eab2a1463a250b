//! `alti perplexity`: how well a model predicts a text.

use crate::environment::Environment;
use crate::model::{Loaded, StepRows, Task, Wants, name_or_default, with_model};
use crate::options::RunOptions;
use crate::output::{Unit, bar};
use crate::{input, output};
use alti_engine::sampling::LogProbabilities;
use alti_models::{Step, memory};
use alti_tensor::{Backend, RowPlan, Span};
use serde::Serialize;
use std::path::PathBuf;

/// Measure how well a model predicts a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti perplexity --file wiki.test.raw
  alti perplexity model.gguf --file text.txt --context 512 --chunks 20 --json

As llama.cpp's tool of that name: the text is cut into chunks of --context tokens, each begins
with the model's beginning-of-text token if it has one, and the second half of each chunk is
predicted. The result is e to the mean negative log-likelihood of a token.")]
pub struct PerplexityCommand {
    /// Model: a name in the store or a path
    model: Option<String>,
    /// LoRA adapter for the model: a PEFT folder or a GGUF file
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// The text, UTF-8
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Most chunks to measure [default: all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Debug, Serialize)]
struct PerplexityResult {
    perplexity: f64,
    /// Standard error of the perplexity.
    error: f64,
    tokens: usize,
    chunks: usize,
    context: usize,
}

impl PerplexityCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the text or the model cannot be read, or the text is shorter than a chunk.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let text = input::text(&self.file)?;
        let name = name_or_default(environment, self.model.as_deref()).to_owned();
        let mut options = self.run.clone();
        options.context.get_or_insert(512);
        let task = PerplexityTask { command: self, environment, text };
        let found = with_model(environment, &name, &options, task)?;
        output::result(json, &found, |r| {
            format!(
                "perplexity {:.4} +/- {:.4} over {} tokens in {} chunks of {}\n",
                r.perplexity, r.error, r.tokens, r.chunks, r.context
            )
        })
    }
}

struct PerplexityTask<'a> {
    command: &'a PerplexityCommand,
    environment: &'a Environment,
    text: String,
}

impl Task for PerplexityTask<'_> {
    type Output = PerplexityResult;

    fn wants(&self) -> Wants {
        Wants::Text
    }

    fn step_rows(&self, options: &RunOptions, _: usize) -> StepRows {
        StepRows::all(options.prefill_chunk as usize)
    }

    fn run<B: Backend<Element = f32>>(self, loaded: Loaded<B>) -> anyhow::Result<PerplexityResult> {
        let chunks = loaded.text_chunks(&self.text, self.command.chunks)?;
        let adapter = self.command.adapter.as_deref().map(|path| loaded.adapter(path)).transpose()?;
        let (adapters, used) = (adapter.as_slice(), adapter.as_ref().map(|_| 0));
        let Loaded { mut backend, model, context, .. } = loaded;
        let layout = memory::cache_layout(&model.config, context, self.command.run.kv_dtype());
        let cache = backend.cache(&layout)?;
        let shown = bar(self.environment, chunks.len() as u64, "measuring", Unit::Items);
        let (mut losses, mut logits) = (Vec::new(), Vec::new());
        for chunk in &chunks {
            let first = context / 2;
            for begin in (0..context).step_by(self.command.run.prefill_chunk as usize) {
                let end = context.min(begin + self.command.run.prefill_chunk as usize);
                let rows = RowPlan::new(vec![Span::in_order(&layout, 0, begin..end).with_adapter(used)]);
                let step = Step { tokens: &chunk[begin..end], rows: &rows, cache: Some(&cache), adapters };
                // Position `p` predicts token `p + 1`.
                let predicting: Vec<usize> = (begin.max(first)..end.min(context - 1)).collect();
                let wanted: Vec<usize> = predicting.iter().map(|position| position - begin).collect();
                if wanted.is_empty() {
                    drop(model.hidden(&mut backend, &step, |_, _| ()));
                    backend.submit()?;
                    continue;
                }
                let found = model.logits(&mut backend, &step, &wanted);
                backend.fetch(&found, &mut logits)?;
                let rows = logits.chunks_exact(model.config.vocabulary_size).zip(predicting);
                losses.extend(rows.map(|(logits, position)| loss(logits, chunk[position + 1])));
            }
            shown.inc(1);
        }
        shown.finish_and_clear();
        Ok(summary(&losses, chunks.len(), context))
    }
}

/// `-ln softmax(logits)[target]`.
fn loss(logits: &[f32], target: u32) -> f64 {
    let likelihood = LogProbabilities::new(logits).of(target);
    -f64::from(likelihood.expect("chunks hold tokens of the model's vocabulary only"))
}

fn summary(losses: &[f64], chunks: usize, context: usize) -> PerplexityResult {
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let variance = losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let perplexity = mean.exp();
    PerplexityResult {
        perplexity,
        error: perplexity * (variance / n).sqrt(),
        tokens: losses.len(),
        chunks,
        context,
    }
}
