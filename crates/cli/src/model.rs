//! From what a user calls a model to a model that runs.

use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::fitting;
use crate::interrupt;
use crate::options::{BackendName, RunOptions};
use crate::output::{Unit, bar, bytes};
use crate::packed::Packed;
use crate::pulling;
use alti_cpu::{Cpu, Isa};
use alti_engine::{EngineError, Session, SessionSettings};
use alti_formats::recipes::{RECIPES, Recipe, RecipeContext};
use alti_formats::{Adapter, Checkpoint, WeightInfo, WeightName};
use alti_hub::{HubError, Manifest, ModelSpec};
use alti_models::{Llama, memory};
use alti_tensor::{Backend, DType, KvDType, Reference};
use alti_text::{ChatTemplate, Specials, Tokenizer};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Longest context that is taken without being asked for: memory for keys and values is set aside
/// for all of it.
const DEFAULT_CONTEXT: usize = 8192;

/// The context that is taken without being asked for, of a model that is good for `longest` tokens.
pub fn default_context(longest: usize) -> usize {
    longest.min(DEFAULT_CONTEXT)
}

/// The model that is meant where none is named.
pub fn name_or_default<'a>(environment: &'a Environment, name: Option<&'a str>) -> &'a str {
    name.or(environment.model.as_deref()).unwrap_or(alti_hub::catalogue::DEFAULT_MODEL)
}

/// The file or folder of a model that is on this machine: a path, or a name in the store, which
/// then also says where it came from.
///
/// # Errors
/// When there is no such model.
pub fn present(environment: &Environment, name: &str) -> anyhow::Result<(PathBuf, Option<Manifest>)> {
    let path = Path::new(name);
    if path.exists() {
        return Ok((path.to_owned(), None));
    }
    // No name in the store looks so: it was meant as a path.
    if path.is_absolute() || name.starts_with('.') || path.extension().is_some_and(|kind| kind == "gguf") {
        return Err(Exit::new(Failure::NotFound, format!("{name}: there is no such file or folder")).into());
    }
    let resolved = pulling::store(environment)?.resolve(name)?;
    Ok((resolved.path, Some(resolved.manifest)))
}

/// As [`present`], but a model of the catalogue that is not there yet is fetched.
///
/// # Errors
/// When there is no such model.
pub fn find(environment: &Environment, name: &str) -> anyhow::Result<PathBuf> {
    match present(environment, name) {
        Ok((path, _)) => Ok(path),
        Err(error) if can_be_fetched(name, &error) => Ok(pulling::pull_named(environment, name)?.path),
        Err(error) => Err(error),
    }
}

/// Whether a model that is not there is one of the catalogue's.
fn can_be_fetched(name: &str, error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(HubError::NotInStore { .. }))
        && matches!(ModelSpec::parse(name), Ok(ModelSpec::Catalogue { .. }))
}

/// Checks that [`open`] would open the model that is meant by `name`, but fetches nothing.
///
/// # Errors
/// When there is none, or its files cannot be read.
pub fn check(environment: &Environment, name: &str) -> anyhow::Result<()> {
    match present(environment, name) {
        Ok((path, _)) => Ok(Checkpoint::open(&path).map(drop)?),
        Err(error) if can_be_fetched(name, &error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens the model that is meant by `name`.
///
/// # Errors
/// When there is none, or its files cannot be read.
pub fn open(environment: &Environment, name: &str) -> anyhow::Result<Checkpoint> {
    let path = find(environment, name)?;
    Ok(Checkpoint::open(&path)?)
}

/// A model in a backend, ready to compute.
pub struct Loaded<B: Backend> {
    /// What computes.
    pub backend: B,
    /// The model.
    pub model: Arc<Llama<B::Weight>>,
    /// Where it came from.
    pub checkpoint: Checkpoint,
    /// Its tokenizer, for tasks that read text.
    tokenizer: Option<Tokenizer>,
    /// Its chat template, for tasks that talk.
    template: Option<ChatTemplate>,
    /// Tokens of context to use.
    pub context: usize,
}

impl<B: Backend> Loaded<B> {
    /// The model's tokenizer.
    ///
    /// # Errors
    /// When the files have none, or a damaged one.
    pub fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        match &self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.clone()),
            None => Ok(Tokenizer::for_checkpoint(&self.checkpoint)?),
        }
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// When it has none that can be used.
    pub fn template(&self, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
        match &self.template {
            Some(template) => Ok(template.clone()),
            None => Ok(ChatTemplate::for_checkpoint(&self.checkpoint, tokenizer)?),
        }
    }

    /// A text in whole chunks of the context, at most `most`, as llama.cpp's tools cut it: the text as a whole
    /// has the beginning-of-text token in front if the model wants it, and it then replaces each chunk's first.
    ///
    /// # Errors
    /// When the text is shorter than one chunk, chunks are shorter than four tokens, or the tokenizer is another
    /// model's.
    pub fn text_chunks(&self, text: &str, most: Option<u32>) -> anyhow::Result<Vec<Vec<u32>>> {
        let tokenizer = self.tokenizer()?;
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let tokens: Vec<u32> = bos.into_iter().chain(tokenizer.encode(text, Specials::AsText)).collect();
        let mut chunks: Vec<Vec<u32>> = tokens.chunks_exact(self.context).map(<[u32]>::to_vec).collect();
        chunks.truncate(most.map_or(usize::MAX, |most| most as usize));
        if chunks.is_empty() || self.context < 4 {
            let message = format!(
                "the text has {} tokens; a chunk of {} wants more text or a smaller --context",
                tokens.len(),
                self.context
            );
            return Err(Exit::new(Failure::Usage, message).into());
        }
        if let Some(bos) = bos {
            chunks.iter_mut().for_each(|chunk| chunk[0] = bos);
        }
        let vocabulary = self.model.config.vocabulary_size;
        if let Some(&token) = chunks.iter().flatten().find(|&&token| token as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary }.into());
        }
        Ok(chunks)
    }

    /// An adapter for the model: a PEFT folder or a GGUF file.
    ///
    /// # Errors
    /// When it cannot be read, or is for another model.
    pub fn adapter(&self, path: &Path) -> anyhow::Result<Arc<alti_models::Adapter<B::Weight>>> {
        let adapter = Adapter::open(path, &self.model.config)?;
        Ok(Arc::new(alti_models::Adapter::load(&self.backend, &adapter)?))
    }

    /// A session with an empty context, with an adapter if there is one.
    ///
    /// # Errors
    /// When there is no memory for it, or the adapter cannot be loaded.
    pub fn session(self, options: &RunOptions, adapter: Option<&Path>) -> anyhow::Result<Session<B>> {
        let adapter = adapter.map(|path| self.adapter(path)).transpose()?;
        let settings = SessionSettings {
            context: self.context,
            prefill_chunk: options.prefill_chunk as usize,
            kv_dtype: options.kv_dtype(),
        };
        Ok(Session::new(self.backend, self.model, settings)?.with_adapter(adapter))
    }
}

/// The size of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRows {
    /// Its rows.
    pub rows: usize,
    /// Those of them whose logits are wanted.
    pub logits: usize,
}

impl StepRows {
    /// A step that wants the logits of all its rows.
    pub fn all(rows: usize) -> StepRows {
        StepRows { rows, logits: rows }
    }
}

/// What a task wants of a model besides its weights. It is read before them: what is wrong with it is then told at
/// once, and without the memory that weights take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nothing.
    Weights,
    /// The tokenizer.
    Text,
    /// The tokenizer and the chat template.
    Chat,
}

/// What a command does with a model, whatever computes.
pub trait Task {
    /// What comes of it.
    type Output;
    /// What it wants besides weights.
    fn wants(&self) -> Wants;
    /// Whether the model is one that people talk with, whose next start is to be quick.
    fn keeps_packed(&self) -> bool {
        false
    }
    /// The largest step it takes, in a context of `context` tokens: one of prefill, with the logits
    /// of its last row, if it does not say.
    fn step_rows(&self, options: &RunOptions, context: usize) -> StepRows {
        StepRows { rows: context.min(options.prefill_chunk as usize), logits: 1 }
    }
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done.
    fn run<B: Backend<Element = f32>>(self, loaded: Loaded<B>) -> anyhow::Result<Self::Output>;
}

/// Loads a model as the options say and does something with it.
///
/// # Errors
/// When the model cannot be loaded, would not fit in memory, or the task fails.
pub fn with_model<T: Task>(
    environment: &Environment,
    name: &str,
    options: &RunOptions,
    task: T,
) -> anyhow::Result<T::Output> {
    options.rope.check()?;
    let checkpoint = open(environment, name)?;
    let (_, longest) = options.rope.apply(checkpoint.config());
    let context = options.context.map_or(default_context(longest), |tokens| tokens as usize);
    let step = task.step_rows(options, context);
    let workload = Workload { backend: options.backend, context, kv_dtype: options.kv_dtype(), step };
    check_memory(&checkpoint, None, workload)?;
    let wants = task.wants();
    let tokenizer = (wants != Wants::Weights).then(|| Tokenizer::for_checkpoint(&checkpoint)).transpose()?;
    let template = tokenizer.as_ref().filter(|_| wants == Wants::Chat);
    let template =
        template.map(|tokenizer| ChatTemplate::for_checkpoint(&checkpoint, tokenizer)).transpose()?;
    let opened = Opened { checkpoint, tokenizer, template, context };
    match options.backend {
        BackendName::Cpu => {
            let packed = Packed::of(environment, &opened.checkpoint);
            let have = |info: &WeightInfo| packed.as_ref()?.weight(info);
            let loaded = load(environment, cpu(environment, options)?, opened, options, have)?;
            let packed = packed.filter(|packed| task.keeps_packed() && packed.is_missing());
            let fresh = packed.map(|packed| (packed, loaded.model.clone()));
            let output = task.run(loaded)?;
            // The answer has been told: now there is time for it.
            if let Some((packed, model)) = fresh {
                let shown = bar(environment, packed.bytes(), "keeping packed weights", Unit::Bytes);
                let stop = interrupt::flag();
                packed.keep(&model, |written| {
                    shown.set_position(written);
                    !stop.load(Ordering::Relaxed)
                });
                shown.finish_and_clear();
            }
            Ok(output)
        }
        BackendName::Reference => {
            task.run(load(environment, Reference::<f32>::new(), opened, options, |_| None)?)
        }
    }
}

/// The CPU backend that the options and the environment ask for.
///
/// # Errors
/// When the machine lacks the instruction set asked for, or refuses a thread.
pub fn cpu(environment: &Environment, options: &RunOptions) -> anyhow::Result<Cpu> {
    Ok(Cpu::new(cpu_isa(environment)?, threads(options))?)
}

/// The instruction set that is asked for, or the machine's best.
///
/// # Errors
/// When the machine lacks the one asked for.
pub fn cpu_isa(environment: &Environment) -> anyhow::Result<Isa> {
    match &environment.isa {
        Some(name) => {
            Ok(Isa::from_name(name)
                .map_err(|error| Exit::new(Failure::Usage, format!("ALTI_ISA: {error}")))?)
        }
        None => Ok(Isa::detect()),
    }
}

/// The name of the instruction set that is used, where the backend has a choice.
///
/// # Errors
/// When the machine lacks the one asked for.
pub fn isa(environment: &Environment, options: &RunOptions) -> anyhow::Result<Option<String>> {
    match options.backend {
        BackendName::Cpu => Ok(Some(cpu_isa(environment)?.name().to_owned())),
        BackendName::Reference => Ok(None),
    }
}

/// The number of threads that is used.
pub fn threads(options: &RunOptions) -> usize {
    match options.backend {
        BackendName::Cpu => options.threads.map_or_else(cores, usize::from),
        BackendName::Reference => 1,
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A model of which all but the weights has been read.
struct Opened {
    checkpoint: Checkpoint,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    context: usize,
}

fn load<B: Backend>(
    environment: &Environment,
    backend: B,
    opened: Opened,
    options: &RunOptions,
    have: impl FnMut(&WeightInfo) -> Option<B::Weight>,
) -> anyhow::Result<Loaded<B>> {
    let Opened { checkpoint, tokenizer, template, context } = opened;
    let (rope, _) = options.rope.apply(checkpoint.config());
    let shown = bar(environment, checkpoint.weights().len() as u64, "loading", Unit::Items);
    let model = Llama::load_beside(&backend, &checkpoint, have, |done, _| shown.set_position(done as u64));
    shown.finish_and_clear();
    let model = model.with_context(|| checkpoint.path().display().to_string())?.with_rope(rope);
    Ok(Loaded { backend, model: Arc::new(model), checkpoint, tokenizer, template, context })
}

/// What decides how much memory a model takes, besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What computes.
    pub backend: BackendName,
    /// Tokens of context.
    pub context: usize,
    /// How keys and values are to be stored.
    pub kv_dtype: KvDType,
    /// The largest step.
    pub step: StepRows,
}

/// What a model takes of memory, as far as that is known before it is loaded: the CPU backend's
/// panels of Q2_K and Q3_K are up to a quarter larger than the file's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Need {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of keys and values at the context length asked for.
    pub keys_and_values: u64,
    /// Bytes of the values of a step, and of the program beside.
    pub working: u64,
}

impl Need {
    /// The need of a checkpoint under a workload.
    pub fn of(checkpoint: &Checkpoint, workload: Workload) -> Need {
        // The program itself, its threads' stacks and the tokenizer.
        const PROGRAM: u64 = 32 << 20;
        let Workload { backend, context, kv_dtype, step } = workload;
        let config = checkpoint.config();
        // The reference backend keeps every value in four bytes.
        let reference = backend == BackendName::Reference;
        let bytes = |weight: &alti_formats::WeightInfo| {
            let values = weight.shape.iter().product();
            let dtype = if reference { DType::F32 } else { weight.dtype };
            dtype.bytes_for(values).unwrap_or(0) as u64
        };
        let kv_dtype = if reference { KvDType::F32 } else { kv_dtype };
        let values = memory::step_bytes(config, step.rows.min(context.max(step.logits)), step.logits);
        Need {
            weights: checkpoint.weights().iter().map(bytes).sum(),
            keys_and_values: memory::cache_layout(config, context, kv_dtype).bytes() as u64,
            working: (values as u64).saturating_add(PROGRAM),
        }
    }

    /// The need of a checkpoint with another beside it that guesses for it, and keeps as many keys and values.
    fn of_both(checkpoint: &Checkpoint, draft: Option<&Checkpoint>, workload: Workload) -> Need {
        let need = Need::of(checkpoint, workload);
        draft.map_or(need, |draft| need.beside(Need::of(draft, workload)))
    }

    /// The need of two models that work in turns.
    fn beside(self, other: Need) -> Need {
        Need {
            weights: self.weights.saturating_add(other.weights),
            keys_and_values: self.keys_and_values.saturating_add(other.keys_and_values),
            working: self.working.max(other.working),
        }
    }

    /// All of it.
    pub fn total(self) -> u64 {
        self.weights.saturating_add(self.keys_and_values).saturating_add(self.working)
    }
}

/// Refuses to serve a model that is larger than the memory there is, with the one that guesses for it.
///
/// # Errors
/// When it is; the message says what would fit.
pub fn check_serving(
    checkpoint: &Checkpoint,
    draft: Option<&Checkpoint>,
    kv_tokens: usize,
    kv_dtype: KvDType,
    step_tokens: usize,
) -> anyhow::Result<()> {
    let step = StepRows { rows: step_tokens, logits: step_tokens };
    let workload = Workload { backend: BackendName::Cpu, context: kv_tokens, kv_dtype, step };
    check_memory(checkpoint, draft, workload)
}

/// The shortest context, in tokens, that is proposed where a longer one does not fit.
const SHORTEST_CONTEXT: usize = 256;

/// Refuses to compute gradients of more values than fit: weights, their gradients, and the activations that are kept.
///
/// # Errors
/// When it is too much; the message has the sum.
pub fn check_gradients(checkpoint: &Checkpoint, tokens: usize) -> anyhow::Result<()> {
    let config = checkpoint.config();
    let weights: usize =
        config.weight_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    // What a layer keeps for its way back, and the logits with their gradient.
    let layer = 12 * config.embedding_length + 4 * config.feed_forward_length;
    let activations = tokens * (config.layers * layer + 3 * config.vocabulary_size);
    let need = 4 * (2 * weights as u64 + activations as u64);
    let available = available_memory();
    if need <= available {
        return Ok(());
    }
    let message = format!(
        "{}: gradients take about {} (weights and gradients in four bytes each, activations); {} are free: take a \
         smaller model, or shorter sequences",
        checkpoint.path().display(),
        bytes(need),
        bytes(available)
    );
    Err(Exit::new(Failure::Resources, message).into())
}

/// Refuses a model that is larger than the memory there is, with one that guesses for it if there is one, and says what
/// would fit.
fn check_memory(
    checkpoint: &Checkpoint,
    draft: Option<&Checkpoint>,
    workload: Workload,
) -> anyhow::Result<()> {
    let available = available_memory();
    match lack_of_memory(checkpoint, draft, workload, available) {
        Some(message) => Err(Exit::new(Failure::Resources, message).into()),
        None => Ok(()),
    }
}

/// Why models do not fit into so many bytes, if they do not, and what would.
fn lack_of_memory(
    checkpoint: &Checkpoint,
    draft: Option<&Checkpoint>,
    workload: Workload,
    available: u64,
) -> Option<String> {
    let need = Need::of_both(checkpoint, draft, workload);
    if need.total() <= available {
        return None;
    }
    let context = workload.context;
    let with = |context| Workload { context, ..workload };
    let fitting = |&context: &usize| Need::of_both(checkpoint, draft, with(context)).total() <= available;
    let shorter = std::iter::successors(Some(context / 2), |tokens| Some(tokens / 2))
        .take_while(|&tokens| tokens >= SHORTEST_CONTEXT)
        .find(fitting);
    let remedy = match (shorter, draft) {
        (Some(tokens), _) => format!("a context of {tokens} would fit: --context {tokens}"),
        (None, Some(_)) if Need::of(checkpoint, with(context.min(SHORTEST_CONTEXT))).total() <= available => {
            "without engine.draft_model it would fit, with a shorter context at least".to_owned()
        }
        (None, _) => what_would_fit(checkpoint, workload, available),
    };
    let beside = draft.map_or(String::new(), |draft| format!(" with {} beside it", draft.path().display()));
    Some(format!(
        "{}{beside} needs {} for weights, {} for {context} tokens of context and {} to work with; {} are free. {remedy}",
        checkpoint.path().display(),
        bytes(need.weights),
        bytes(need.keys_and_values),
        bytes(need.working),
        bytes(available),
    ))
}

/// What can be done where not even the shortest context fits: the most exact quantisation of this model that does, with
/// that context, or the largest model of the catalogue.
fn what_would_fit(checkpoint: &Checkpoint, workload: Workload, available: u64) -> String {
    if workload.backend == BackendName::Reference {
        let compact = Workload { backend: BackendName::Cpu, ..workload };
        return match Need::of(checkpoint, compact).total() <= available {
            true => {
                "the reference backend keeps every weight in four bytes; --backend cpu would fit".to_owned()
            }
            false => what_would_fit(checkpoint, compact, available),
        };
    }
    let context = workload.context.min(SHORTEST_CONTEXT);
    let (config, need) = (checkpoint.config(), Need::of(checkpoint, Workload { context, ..workload }));
    let for_weights = available.saturating_sub(need.total() - need.weights);
    let about = RecipeContext::of(config);
    let size = |recipe: &Recipe| -> u64 {
        let of = |(name, shape): (WeightName, Vec<usize>)| {
            let dtype = recipe.dtype_for(&about, &name.gguf(), &shape);
            dtype.bytes_for(shape.iter().product()).unwrap_or(0) as u64
        };
        config.weight_shapes().into_iter().map(of).sum()
    };
    // The most exact come first.
    if let Some(recipe) = RECIPES.iter().find(|recipe| size(recipe) <= for_weights.min(need.weights)) {
        let (name, size) = (recipe.name, bytes(size(recipe)));
        return format!(
            "in {name}, which `alti quantize` makes, weights of {size} and {context} tokens would fit"
        );
    }
    match fitting::largest(for_weights) {
        Some(found) => format!(
            "no quantisation makes it fit; of the catalogue, {} in {} would, with weights of {}",
            found.model,
            found.quantization,
            bytes(found.bytes)
        ),
        None => "no quantisation makes it fit, and no model of the catalogue would".to_owned(),
    }
}

/// Bytes of memory that can be had without swapping, limits of the container included.
pub fn available_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fit_is_named() {
        let checkpoint = Checkpoint::open(&alti_testkit::golden("llama3-gqa")).expect("a model");
        let step = StepRows { rows: 1, logits: 1 };
        let workload = |backend| Workload { backend, context: 1 << 20, kv_dtype: KvDType::BF16, step };
        let on = |backend, available| what_would_fit(&checkpoint, workload(backend), available);
        let cpu = BackendName::Cpu;
        let short = Need::of(&checkpoint, Workload { context: SHORTEST_CONTEXT, ..workload(cpu) });
        let rest = short.total() - short.weights;
        // Its weights are in F32, and a third of that holds 8 bits, not 16.
        let found = on(cpu, rest + short.weights / 3);
        assert!(found.contains("in Q8_0") && found.contains("256 tokens would fit"), "{found}");
        assert_eq!(on(BackendName::Reference, rest + short.weights / 3), found);
        let enough = Need::of(&checkpoint, workload(cpu)).total();
        assert!(on(BackendName::Reference, enough).contains("--backend cpu would fit"));
        let found = on(cpu, 0);
        assert!(found.contains("no quantisation") && found.contains("no model of the catalogue"), "{found}");
    }

    #[test]
    fn a_model_that_guesses_takes_memory_beside_the_other() {
        let [checkpoint, draft] = ["llama3-gqa", "llama32-tied"]
            .map(|name| Checkpoint::open(&alti_testkit::golden(name)).expect("a model"));
        let step = StepRows { rows: 1, logits: 1 };
        let workload =
            Workload { backend: BackendName::Cpu, context: 1 << 12, kv_dtype: KvDType::BF16, step };
        let [one, other] = [&checkpoint, &draft].map(|it| Need::of(it, workload));
        let both = one.total() + other.weights + other.keys_and_values;
        let lack = |draft, available| lack_of_memory(&checkpoint, draft, workload, available);
        assert_eq!(lack(None, one.total()), None);
        assert_eq!(lack(Some(&draft), both.max(other.working + both - one.working)), None);
        let said = lack(Some(&draft), both - 1).expect("it does not fit");
        assert!(said.contains("llama32-tied beside it") && said.contains("--context 2048"), "{said}");
        let short = Need::of(&checkpoint, Workload { context: SHORTEST_CONTEXT, ..workload });
        let said = lack(Some(&draft), short.total()).expect("it does not fit");
        assert!(said.contains("without engine.draft_model"), "{said}");
    }
}
