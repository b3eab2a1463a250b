//! `alti logits`: what the model computes for given tokens, for comparing implementations.

use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::model::{self, Loaded, StepRows, Task, Wants, with_model};
use crate::options::RunOptions;
use crate::{input, output};
use alti_formats::layout::hugging_face_tensors;
use alti_models::{Llama, Step, memory};
use alti_tensor::{Backend, KvDType, Reference, RowPlan, Span, Tape, Trainable};
use anyhow::Context;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Compute the logits of given tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti logits model.gguf --tokens ids.json --out logits.safetensors
  alti logits tiny/ --tokens ids.json --backend reference --hidden --grad --out all.safetensors

ids.json holds one array of token ids, or an array of them, all of one length. The file written
holds `logits` [sequences, tokens, vocabulary]; with --hidden `hidden.i` [sequences, tokens,
dim], the input of layer i, the last one after the final norm; with --grad `loss`, the mean
next-token cross-entropy, and `grad.<parameter>` of each parameter, names and layout as in
Hugging Face checkpoints.")]
pub struct LogitsCommand {
    /// Model: a name in the store or a path
    model: String,
    /// Token ids (JSON)
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Where to write (safetensors); replaces what this command wrote there before, and nothing else
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write the input of each layer, too
    #[arg(long)]
    hidden: bool,
    /// Write the loss and its gradients, too (by the reference backend, whichever computes the logits)
    #[arg(long)]
    grad: bool,
    #[command(flatten)]
    run: RunOptions,
}

/// Tensors by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

impl LogitsCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the tokens or the model cannot be read, or the result cannot be written.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let sequences = read_tokens(&self.tokens)?;
        check_out(&self.out)?;
        if self.grad {
            if sequences[0].len() < 2 {
                let message = "--grad wants sequences of two tokens or more: a loss needs a next token";
                return Err(Exit::new(Failure::Usage, message).into());
            }
            let checkpoint = model::open(environment, &self.model)?;
            model::check_gradients(&checkpoint, sequences.iter().map(Vec::len).sum())?;
        }
        let mut options = self.run.clone();
        // Exact unless asked otherwise: the result is for comparing.
        options.kv.default_to(KvDType::F32);
        options.context = Some(u32::try_from(sequences[0].len())?);
        let task = LogitsTask { options: &options, hidden: self.hidden, sequences: &sequences };
        let mut tensors = with_model(environment, &self.model, &options, task)?;
        if self.grad {
            self.add_gradients(environment, &sequences, &mut tensors)?;
        }
        write(&self.out, &tensors)?;
        let names: Vec<&String> = tensors.keys().collect();
        let result = json!({ "out": self.out, "tensors": names });
        output::result(json, &result, |_| format!("{} tensors in {}\n", tensors.len(), self.out.display()))
    }

    fn add_gradients(
        &self,
        environment: &Environment,
        sequences: &[Vec<u32>],
        tensors: &mut Tensors,
    ) -> anyhow::Result<()> {
        let checkpoint = model::open(environment, &self.model)?;
        let mut tape = Tape::new(Reference::<f32>::new(), Trainable::All);
        let (rope, _) = self.run.rope.apply(checkpoint.config());
        let model = Llama::load(&tape, &checkpoint, |_, _| ())?.with_rope(rope);
        let gradients = model.gradients(&mut tape, sequences)?;
        tensors.insert("loss".to_owned(), (Vec::new(), vec![gradients.loss]));
        let by_name: BTreeMap<_, _> = gradients.weights.into_iter().collect();
        for tensor in hugging_face_tensors(checkpoint.config()) {
            let values = tensor.assemble(|name| by_name.get(name).context("every weight has a gradient"))?;
            tensors.insert(format!("grad.{}", tensor.name), (tensor.shape.clone(), values));
        }
        Ok(())
    }
}

struct LogitsTask<'a> {
    options: &'a RunOptions,
    hidden: bool,
    sequences: &'a [Vec<u32>],
}

impl Task for LogitsTask<'_> {
    type Output = Tensors;

    fn wants(&self) -> Wants {
        Wants::Weights
    }

    fn step_rows(&self, options: &RunOptions, _: usize) -> StepRows {
        StepRows::all(options.prefill_chunk as usize)
    }

    fn run<B: Backend<Element = f32>>(self, loaded: Loaded<B>) -> anyhow::Result<Tensors> {
        let Loaded { mut backend, model, .. } = loaded;
        let config = &model.config;
        let vocabulary = config.vocabulary_size;
        if let Some(token) = self.sequences.iter().flatten().find(|&&token| token as usize >= vocabulary) {
            let message = format!("token {token} is not in the model's vocabulary of {vocabulary}");
            return Err(Exit::new(Failure::Usage, message).into());
        }
        let (count, length) = (self.sequences.len(), self.sequences[0].len());
        let mut tensors = Tensors::new();
        let mut append = |name: String, shape: Vec<usize>, values: &[f32]| {
            tensors.entry(name).or_insert_with(|| (shape, Vec::new())).1.extend_from_slice(values);
        };
        let layout = memory::cache_layout(config, length, self.options.kv_dtype());
        let cache = backend.cache(&layout)?;
        let mut values = Vec::new();
        for sequence in self.sequences {
            for (index, tokens) in sequence.chunks(self.options.prefill_chunk as usize).enumerate() {
                let first = index * self.options.prefill_chunk as usize;
                let rows = RowPlan::new(vec![Span::in_order(&layout, 0, first..first + tokens.len())]);
                let step = Step { tokens, rows: &rows, cache: Some(&cache), adapters: &[] };
                let mut hidden = Vec::new();
                let keep = self.hidden;
                let x = model.hidden(&mut backend, &step, |_, x| hidden.extend(keep.then(|| x.clone())));
                if keep {
                    hidden.push(backend.rms_norm(&x, &model.norm, config.norm_epsilon));
                }
                let logits = model.unembed(&mut backend, &x, &rows, &[]);
                for (layer, x) in hidden.iter().enumerate() {
                    backend.fetch(x, &mut values)?;
                    append(format!("hidden.{layer}"), vec![count, length, config.embedding_length], &values);
                }
                backend.fetch(&logits, &mut values)?;
                append("logits".to_owned(), vec![count, length, vocabulary], &values);
            }
        }
        Ok(tensors)
    }
}

/// Sequences of token ids, all of one length.
fn read_tokens(file: &Path) -> anyhow::Result<Vec<Vec<u32>>> {
    let bad = |what: &str| Exit::new(Failure::BadFile, format!("{}: {what}", file.display()));
    let text = input::text(file)?;
    let one: Result<Vec<u32>, _> = serde_json::from_str(&text);
    let sequences = match one {
        Ok(sequence) => vec![sequence],
        Err(_) => serde_json::from_str::<Vec<Vec<u32>>>(&text).map_err(|error| {
            bad(&format!("is no array of token ids, nor an array of such arrays: {error}"))
        })?,
    };
    let length = sequences.first().map_or(0, Vec::len);
    if length == 0 {
        return Err(bad("holds no tokens").into());
    }
    if sequences.iter().any(|sequence| sequence.len() != length) {
        return Err(bad("holds sequences of different lengths; give each its own file").into());
    }
    Ok(sequences)
}

/// Refuses to replace what no run of this command wrote. Its own files are replaced, as scripts that
/// compare expect.
fn check_out(file: &Path) -> anyhow::Result<()> {
    alti_formats::check_target(file, true)?;
    let Ok(there) = std::fs::File::open(file) else { return Ok(()) };
    if holds_logits(there).unwrap_or(false) {
        return Ok(());
    }
    let message =
        format!("{}: is there already and holds no logits, so it stays; name another file", file.display());
    Err(Exit::new(Failure::Failed, message).into())
}

/// Whether a file is one of ours, by the header of safetensors (its length, then JSON by tensor), or is empty.
fn holds_logits(mut file: std::fs::File) -> std::io::Result<bool> {
    /// Longer than the header of any file of ours, which names a tensor for each weight.
    const LONGEST: u64 = 16 << 20;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(LONGEST)).read_to_end(&mut header)?;
    let tensors: serde_json::Value = serde_json::from_slice(&header)?;
    Ok(tensors.get("logits").is_some())
}

fn write(file: &Path, tensors: &Tensors) -> anyhow::Result<()> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes)?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    alti_formats::write_whole(file, &safetensors::serialize(views, None)?)?;
    Ok(())
}
