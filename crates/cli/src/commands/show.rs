//! `alti show`: what a model is, under which licence, and what it will need.

use crate::environment::Environment;
use crate::model::{Need, StepRows, Workload, available_memory, default_context, name_or_default, present};
use crate::options::{BackendName, DEFAULT_PREFILL_CHUNK, KvOptions};
use crate::output::{self, bytes};
use alti_formats::gguf::{ArrayView, GgufMetadata, Value, ValueType};
use alti_formats::tokenizer::{TokenizerModel, Vocabulary};
use alti_formats::{Checkpoint, ModelConfig, RopeScaling, WeightInfo};
use alti_hub::{Manifest, license};
use alti_tensor::DType;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Show what a model is and what it needs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti show
  alti show model.gguf --context 32768 --kv-type q8_0
  alti show llama3.2-1b-instruct --tensors
  alti show model.gguf --metadata --json")]
pub struct ShowCommand {
    /// Model: a name in the store or a path
    model: Option<String>,
    /// Tokens of context to count memory for [default: the model's, at most 8192]
    #[arg(short = 'c', long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    #[command(flatten)]
    kv: KvOptions,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// List the metadata of a GGUF file
    #[arg(long)]
    metadata: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    path: PathBuf,
    format: &'static str,
    source: Option<String>,
    license: Option<String>,
    license_terms: Option<&'static str>,
    architecture: &'static str,
    parameters: usize,
    dtypes: Vec<DTypeShare>,
    shape: Shape,
    tokenizer: Option<TokenizerShown>,
    chat_template: Option<String>,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorShown>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Serialize)]
struct DTypeShare {
    dtype: &'static str,
    tensors: usize,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct Shape {
    layers: usize,
    embedding_length: usize,
    feed_forward_length: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary_size: usize,
    tied_embeddings: bool,
    context_length: usize,
    rope: String,
    experts: Option<String>,
    attention_chunk: Option<usize>,
}

#[derive(Debug, Serialize)]
struct TokenizerShown {
    kind: String,
    vocabulary_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Memory {
    context: usize,
    kv_type: &'static str,
    #[serde(flatten)]
    need: Need,
    total: u64,
    available: u64,
    fits: bool,
}

#[derive(Debug, Serialize)]
struct TensorShown {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: usize,
}

impl ShowCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is no such model on this machine, or its files cannot be read.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let name = name_or_default(environment, self.model.as_deref());
        let (path, manifest) = present(environment, name)?;
        let checkpoint = Checkpoint::open(&path)?;
        let shown = self.look(&checkpoint, manifest.as_ref())?;
        output::result(json, &shown, Shown::text)
    }

    fn look(&self, checkpoint: &Checkpoint, manifest: Option<&Manifest>) -> anyhow::Result<Shown> {
        let vocabulary = Vocabulary::of(checkpoint)?;
        let license = license_of(checkpoint, manifest)?;
        let weights = checkpoint.weights();
        Ok(Shown {
            path: checkpoint.path().to_owned(),
            format: checkpoint.format().name(),
            source: manifest.map(|manifest| manifest.source.describe()),
            license_terms: license.as_deref().and_then(license::by_id).map(|license| license.link),
            license,
            architecture: checkpoint.config().architecture.gguf_name(),
            parameters: weights.iter().map(|weight| weight.shape.iter().product::<usize>()).sum(),
            dtypes: shares(weights),
            shape: Shape::of(checkpoint.config()),
            tokenizer: vocabulary.as_ref().map(TokenizerShown::of),
            chat_template: vocabulary.and_then(|vocabulary| vocabulary.chat_template),
            memory: self.memory(checkpoint),
            tensors: self.tensors.then(|| weights.iter().map(TensorShown::of).collect()),
            metadata: self.metadata.then(|| checkpoint.gguf().map(all_metadata).unwrap_or_default()),
        })
    }

    fn memory(&self, checkpoint: &Checkpoint) -> Memory {
        let longest = checkpoint.config().context_length;
        let context = self.context.map_or(default_context(longest), |tokens| tokens as usize);
        let step = StepRows { rows: DEFAULT_PREFILL_CHUNK as usize, logits: 1 };
        let workload = Workload { backend: BackendName::Cpu, context, kv_dtype: self.kv.dtype(), step };
        let need = Need::of(checkpoint, workload);
        let (total, available) = (need.total(), available_memory());
        let kv_type = self.kv.dtype().name();
        Memory { context, kv_type, need, total, available, fits: total <= available }
    }
}

fn license_of(checkpoint: &Checkpoint, manifest: Option<&Manifest>) -> anyhow::Result<Option<String>> {
    if let Some(license) = manifest.and_then(|manifest| manifest.license.clone()) {
        return Ok(Some(license));
    }
    Ok(match checkpoint.gguf() {
        Some(metadata) => metadata.string("general.license")?.map(str::to_owned),
        None => None,
    })
}

fn stored_bytes(weight: &WeightInfo) -> usize {
    weight.dtype.bytes_for(weight.shape.iter().product()).unwrap_or(0)
}

fn shares(weights: &[WeightInfo]) -> Vec<DTypeShare> {
    let mut by_dtype: BTreeMap<DType, (usize, usize)> = BTreeMap::new();
    for weight in weights {
        let (tensors, bytes) = by_dtype.entry(weight.dtype).or_default();
        *tensors += 1;
        *bytes += stored_bytes(weight);
    }
    let share = |(dtype, (tensors, bytes)): (DType, _)| DTypeShare { dtype: dtype.name(), tensors, bytes };
    let mut shares: Vec<DTypeShare> = by_dtype.into_iter().map(share).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

impl Shape {
    fn of(config: &ModelConfig) -> Shape {
        let experts = config.experts.as_ref().map(|experts| {
            let layers = experts.layers.iter().filter(|&&layer| layer).count();
            format!(
                "{} ({} used) of width {} in {layers} layers",
                experts.count, experts.used, experts.feed_forward_length
            )
        });
        Shape {
            layers: config.layers,
            embedding_length: config.embedding_length,
            feed_forward_length: config.feed_forward_length,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocabulary_size: config.vocabulary_size,
            tied_embeddings: config.tied_embeddings,
            context_length: config.context_length,
            rope: rope(config),
            experts,
            attention_chunk: config.attention_chunk,
        }
    }
}

fn rope(config: &ModelConfig) -> String {
    let scaling = match &config.rope.scaling {
        RopeScaling::None => "not scaled".to_owned(),
        RopeScaling::Linear { factor } => format!("linear scaling by {factor}"),
        RopeScaling::Llama3 { factor, low, high, original_context } => {
            format!("llama3 scaling by {factor} from {original_context} tokens (low {low}, high {high})")
        }
        RopeScaling::Yarn { factor, original_context, .. } => {
            format!("YaRN by {factor} from {original_context} tokens")
        }
        RopeScaling::Divisors(_) => "a divisor for each frequency".to_owned(),
    };
    format!("theta {}, {scaling}", config.rope.theta)
}

impl TokenizerShown {
    fn of(vocabulary: &Vocabulary) -> TokenizerShown {
        let kind = match vocabulary.model {
            TokenizerModel::ByteLevel(pre) => format!("byte-level BPE ({})", pre.gguf_name()),
            TokenizerModel::SentencePiece => "SentencePiece BPE".to_owned(),
        };
        let vocabulary_size = vocabulary.tokens.len();
        TokenizerShown { kind, vocabulary_size, bos: vocabulary.bos, eos: vocabulary.eos }
    }
}

impl TensorShown {
    fn of(weight: &WeightInfo) -> TensorShown {
        TensorShown {
            name: weight.name.gguf(),
            dtype: weight.dtype.name(),
            shape: weight.shape.clone(),
            bytes: stored_bytes(weight),
        }
    }
}

fn all_metadata(metadata: &GgufMetadata) -> serde_json::Map<String, serde_json::Value> {
    let value = |key: &str| match metadata.get(key)? {
        Value::String(text) => Some(json!(text)),
        Value::Bool(value) => Some(json!(value)),
        Value::F32(value) => Some(json!(value)),
        Value::F64(value) => Some(json!(value)),
        Value::I8(value) => Some(json!(value)),
        Value::I16(value) => Some(json!(value)),
        Value::I32(value) => Some(json!(value)),
        Value::I64(value) => Some(json!(value)),
        Value::Array { .. } => metadata.array(key).ok().flatten().map(|array| elements(&array)),
        unsigned => unsigned.as_u64().map(|value| json!(value)),
    };
    metadata.keys().filter_map(|key| Some((key.to_owned(), value(key)?))).collect()
}

fn elements(array: &ArrayView<'_>) -> serde_json::Value {
    match array.element {
        ValueType::String => array.byte_strings().map(String::from_utf8_lossy).collect(),
        ValueType::F32 | ValueType::F64 => array.floats().collect(),
        _ => array.integers().collect(),
    }
}

impl Shown {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |label: &str, value: String| text += &format!("{label:14} {value}\n");
        row("model", self.path.display().to_string());
        if let Some(source) = &self.source {
            row("source", source.clone());
        }
        row("licence", self.license_text());
        row("format", format!("{}, {}", self.format, self.dtypes_text()));
        row("architecture", self.architecture.to_owned());
        row("parameters", format!("{:.2} million", self.parameters as f64 / 1e6));
        self.shape.rows(&mut row);
        let none = || "none".to_owned();
        row("tokenizer", self.tokenizer.as_ref().map_or_else(none, TokenizerShown::text));
        row("chat template", self.chat_template.as_deref().map_or_else(none, first_lines));
        self.memory.rows(&mut row);
        for tensor in self.tensors.iter().flatten() {
            text += &format!(
                "{:28} {:6} {:>10}  {:?}\n",
                tensor.name,
                tensor.dtype,
                bytes(tensor.bytes as u64),
                tensor.shape
            );
        }
        for (key, value) in self.metadata.iter().flatten() {
            text += &format!("{key} = {}\n", short(value));
        }
        text
    }

    fn license_text(&self) -> String {
        let license = self.license.as_deref().unwrap_or("not named");
        self.license_terms.map_or(license.to_owned(), |link| format!("{license} ({link})"))
    }

    fn dtypes_text(&self) -> String {
        let share = |share: &DTypeShare| {
            format!("{} {} in {} tensors", share.dtype, bytes(share.bytes as u64), share.tensors)
        };
        self.dtypes.iter().map(share).collect::<Vec<_>>().join(", ")
    }
}

impl Shape {
    fn rows(&self, row: &mut impl FnMut(&str, String)) {
        let tied = if self.tied_embeddings { ", tied embeddings" } else { "" };
        row(
            "layers",
            format!(
                "{} of width {}, feed-forward {}",
                self.layers, self.embedding_length, self.feed_forward_length
            ),
        );
        row(
            "attention",
            format!("{} heads of {}, {} for keys and values", self.heads, self.head_dim, self.kv_heads),
        );
        if let Some(experts) = &self.experts {
            row("experts", experts.clone());
        }
        if let Some(chunk) = self.attention_chunk {
            row("chunks", format!("of {chunk} tokens"));
        }
        row("vocabulary", format!("{} rows{tied}", self.vocabulary_size));
        row("context", format!("{} tokens", self.context_length));
        row("RoPE", self.rope.clone());
    }
}

impl TokenizerShown {
    fn text(&self) -> String {
        let id = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
        format!("{}, {} tokens, bos {}, eos {}", self.kind, self.vocabulary_size, id(self.bos), id(self.eos))
    }
}

impl Memory {
    fn rows(&self, row: &mut impl FnMut(&str, String)) {
        row(
            "memory",
            format!(
                "{} at {} tokens of context: weights {}, keys and values ({}) {}, working memory {}",
                bytes(self.total),
                self.context,
                bytes(self.need.weights),
                self.kv_type,
                bytes(self.need.keys_and_values),
                bytes(self.need.working),
            ),
        );
        let fits = if self.fits { "it fits" } else { "it does not fit" };
        row("free memory", format!("{}: {fits}", bytes(self.available)));
    }
}

/// The beginning of a template, to recognise it by.
fn first_lines(template: &str) -> String {
    const LINES: usize = 3;
    let mut lines: Vec<String> = template.lines().take(LINES).map(|line| cut(line, 80)).collect();
    let rest = template.lines().count().saturating_sub(LINES);
    if rest > 0 {
        lines.push(format!("... {rest} more lines"));
    }
    lines.join(&format!("\n{:15}", ""))
}

/// A metadata value on one line; --json has all of it.
fn short(value: &serde_json::Value) -> String {
    match value.as_array() {
        Some(all) if all.len() > 6 => {
            let first: Vec<String> = all.iter().take(6).map(|value| cut(&value.to_string(), 80)).collect();
            format!("[{}, ... {} in all]", first.join(", "), all.len())
        }
        _ => cut(&value.to_string(), 80),
    }
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
