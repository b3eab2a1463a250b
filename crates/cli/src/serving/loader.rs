//! Where the server gets models from: the store, and files.

use super::model_sampling::model_sampling;
use super::served::Served;
use super::settings::EngineOptions;
use crate::environment::Environment;
use crate::model::{self, available_memory};
use crate::model_files::{digest, files_of};
use crate::packed::Packed;
use crate::pulling;
use alti_cpu::Cpu;
use alti_engine::EngineError;
use alti_engine::serving::{Engine, EngineSettings, Turns};
use alti_formats::{Checkpoint, ModelConfig, WeightInfo};
use alti_hub::{Event, HubError, Manifest, ModelSpec, Observer, PullRequest};
use alti_models::{Llama, memory};
use alti_server::generate::fill_in_tokens;
use alti_server::models::ModelCard;
use alti_server::{LoadError, ModelFacts, ModelLoader, PullProgress, ServedModel};
use alti_tensor::KvDType;
use alti_text::{ChatTemplate, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The models of this machine.
pub struct Loader {
    /// What the environment says of the store and the processor.
    pub environment: Environment,
    /// How models are run.
    pub options: EngineOptions,
    /// All engines compute on the same cores.
    pub turns: Turns,
    /// What the owner named: these may be paths; a request names models of the store alone.
    pub named: Vec<String>,
}

/// A smaller model that guesses for another.
struct Draft {
    checkpoint: Checkpoint,
    /// Bytes of its files.
    size: u64,
}

/// What an error means to a client. Paths and the like are the owner's business, but whoever may load models is trusted
/// with them.
fn load_error(name: &str, error: &anyhow::Error) -> LoadError {
    match error.downcast_ref() {
        Some(HubError::NotInStore { .. } | HubError::NotInCatalogue { .. } | HubError::NotFound { .. }) => {
            LoadError::NotFound(name.to_owned())
        }
        Some(HubError::Cancelled) => LoadError::Cancelled,
        Some(
            HubError::BadSpec { .. } | HubError::AmbiguousName { .. } | HubError::LicenseNotAccepted { .. },
        ) => LoadError::Refused(crate::exit::message_of(error)),
        _ if error.is::<crate::exit::Exit>() => LoadError::Refused(crate::exit::message_of(error)),
        _ => LoadError::Failed(crate::exit::message_of(error)),
    }
}

/// What the store knows of a model.
fn facts(manifest: &Manifest) -> ModelFacts {
    let created =
        chrono::DateTime::parse_from_rfc3339(&manifest.pulled_at).map_or(0, |time| time.timestamp());
    let entry = manifest.entry_file();
    let owner = match &manifest.source {
        alti_hub::Source::Hub { repo, .. } => repo.split('/').next().unwrap_or_default().to_owned(),
        alti_hub::Source::PythonPackage { .. } | alti_hub::Source::Local { .. } => "local".to_owned(),
    };
    ModelFacts {
        name: manifest.name.clone(),
        digest: match entry {
            Some(file) => file.sha256.as_str().to_owned(),
            None => digest(&format!("{:?}", manifest.files)),
        },
        size: manifest.size(),
        memory_bytes: manifest.size(),
        created: created.max(0) as u64,
        owner,
        format: if entry.is_some() { "gguf" } else { "safetensors" }.to_owned(),
        architecture: manifest.architecture.clone().unwrap_or_default(),
        parameters: manifest.parameters,
        quantization: manifest.quantization.clone(),
        license: manifest.license.clone(),
        context: None,
    }
}

/// A model's sizes, under the names that GGUF files have for them.
fn numbers(config: &ModelConfig) -> Vec<(String, u64)> {
    let family = config.architecture.gguf_name();
    let numbers = [
        ("context_length", config.context_length),
        ("embedding_length", config.embedding_length),
        ("block_count", config.layers),
        ("feed_forward_length", config.feed_forward_length),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("vocab_size", config.vocabulary_size),
    ];
    numbers.map(|(key, number)| (format!("{family}.{key}"), number as u64)).to_vec()
}

/// What can be said of a file that is not in the store.
fn facts_of_file(name: &str, path: &Path) -> ModelFacts {
    let files = files_of(path);
    let size = files.iter().map(|file| file.size).sum();
    let is_folder = path.is_dir();
    ModelFacts {
        name: name.to_owned(),
        digest: digest(&format!("{files:?}")),
        size,
        memory_bytes: size,
        owner: "local".to_owned(),
        format: if is_folder { "safetensors" } else { "gguf" }.to_owned(),
        ..ModelFacts::default()
    }
}

impl Loader {
    /// The file or folder of a model, and what is known of it. Paths are only for those that the owner has named.
    fn locate(&self, name: &str) -> anyhow::Result<(PathBuf, ModelFacts)> {
        let (path, manifest) = match self.named.iter().any(|named| named == name) {
            true => model::present(&self.environment, name)?,
            false => {
                let resolved = pulling::store(&self.environment)?.resolve(name)?;
                (resolved.path, Some(resolved.manifest))
            }
        };
        let facts = match &manifest {
            Some(manifest) => facts(manifest),
            None => facts_of_file(name, &path),
        };
        Ok((path, facts))
    }

    /// The model that guesses for this one, if there is one.
    fn draft_of(&self, name: &str, facts: &ModelFacts) -> anyhow::Result<Option<Draft>> {
        match &self.options.draft_model {
            Some(draft) if draft != name && *draft != facts.name => {
                let (path, facts) = self.locate(draft)?;
                Ok(Some(Draft { checkpoint: Checkpoint::open(&path)?, size: facts.size }))
            }
            _ => Ok(None),
        }
    }

    /// How long a context is, and how many tokens' keys and values are kept, in which type; the facts learn what all of
    /// it takes, with the model that guesses: it is loaded beside each model, and keeps as many keys and values.
    fn size_up(
        &self,
        config: &ModelConfig,
        draft: Option<&Draft>,
        facts: &mut ModelFacts,
    ) -> anyhow::Result<(usize, usize, KvDType)> {
        let context = self.options.context.unwrap_or_else(|| model::default_context(config.context_length));
        let kv_dtype = self.options.kv_dtype()?;
        let configs = || draft.map(|draft| draft.checkpoint.config()).into_iter().chain([config]);
        let kv_bytes = |tokens| {
            let bytes = configs().map(|it| memory::cache_layout(it, tokens, kv_dtype).bytes() as u64);
            bytes.fold(0, u64::saturating_add)
        };
        let weights = facts.size.saturating_add(draft.map_or(0, |draft| draft.size));
        let free = available_memory().saturating_sub(weights) / 2;
        let kv_tokens = self.options.kv_tokens.unwrap_or_else(|| {
            let mut fitting = (1..=4).rev().map(|contexts| context.saturating_mul(contexts));
            fitting.find(|&tokens| kv_bytes(tokens) <= free).unwrap_or(context)
        });
        facts.memory_bytes = weights.saturating_add(kv_bytes(kv_tokens));
        facts.context = Some(context);
        Ok((context, kv_tokens, kv_dtype))
    }

    fn read_card(&self, name: &str) -> anyhow::Result<ModelCard> {
        let checkpoint = Checkpoint::open(&self.locate(name)?.0)?;
        let tokenizer = Tokenizer::for_checkpoint(&checkpoint)?;
        let template = ChatTemplate::for_checkpoint(&checkpoint, &tokenizer).ok();
        Ok(ModelCard {
            template: template.map(|template| template.source().to_owned()),
            fills_in: fill_in_tokens(&tokenizer).is_some(),
            numbers: numbers(checkpoint.config()),
        })
    }

    fn start(&self, name: &str) -> anyhow::Result<ServedModel> {
        let (path, mut facts) = self.locate(name)?;
        let checkpoint = Checkpoint::open(&path)?;
        let config = checkpoint.config();
        let draft = self.draft_of(name, &facts)?;
        let (context, kv_tokens, kv_dtype) = self.size_up(config, draft.as_ref(), &mut facts)?;
        let draft = draft.map(|draft| draft.checkpoint);
        model::check_serving(&checkpoint, draft.as_ref(), kv_tokens, kv_dtype, self.options.step_tokens)?;
        let tokenizer = Tokenizer::for_checkpoint(&checkpoint)?;
        let template =
            ChatTemplate::for_checkpoint(&checkpoint, &tokenizer).map_err(|error| error.to_string());
        let settings = EngineSettings {
            context,
            kv_tokens,
            kv_dtype,
            step_tokens: self.options.step_tokens,
            max_running: self.options.max_running,
            max_waiting: self.options.max_waiting,
            prefix_cache: self.options.prefix_cache,
            draft_tokens: self.options.draft_tokens,
            turns: self.turns.clone(),
        };
        let (sampling, numbers) = (model_sampling(&checkpoint), numbers(config));
        let engine = self.engine(settings, tokenizer.clone(), checkpoint, draft)?;
        let kept = self.options.prefix_folder.as_ref().map(|folder| kept_prefixes(folder, &facts));
        if let Some((file, identity)) = &kept
            && file.exists()
            && let Err(error) = engine.load_prefixes(file, identity)
        {
            tracing::warn!(%error, "saved prefixes are not used");
        }
        Ok(ServedModel {
            memory_bytes: facts.memory_bytes,
            facts,
            inference: Arc::new(Served::new(engine, kept)),
            tokenizer,
            template,
            sampling,
            numbers,
        })
    }

    fn engine(
        &self,
        settings: EngineSettings,
        tokenizer: Tokenizer,
        checkpoint: Checkpoint,
        draft: Option<Checkpoint>,
    ) -> anyhow::Result<Engine> {
        let (environment, isa) = (self.environment.clone(), model::cpu_isa(&self.environment)?);
        let threads = self.options.threads.unwrap_or_else(model::cores);
        Ok(Engine::start_with_draft(settings, tokenizer, move || {
            let failed = |what: String| EngineError::Stopped { what };
            let backend = Cpu::new(isa, threads).map_err(|error| failed(error.to_string()))?;
            let load = |checkpoint: &Checkpoint| -> Result<_, EngineError> {
                let packed = Packed::of(&environment, checkpoint);
                let have = |info: &WeightInfo| packed.as_ref()?.weight(info);
                let model = Llama::load_beside(&backend, checkpoint, have, |_, _| ());
                let model = model.map(Arc::new).map_err(|error| failed(error.to_string()))?;
                if let Some(packed) = packed.filter(Packed::is_missing) {
                    let model = model.clone();
                    let keep = move || packed.keep(&model, |_| Arc::strong_count(&model) > 1);
                    // Nobody waits for it, and it ends when the model is unloaded; without a thread nothing is kept.
                    let _ = std::thread::Builder::new().name("alti-packed".to_owned()).spawn(keep);
                }
                Ok(model)
            };
            let (model, draft) = (load(&checkpoint)?, draft.as_ref().map(load).transpose()?);
            Ok((backend, model, draft))
        })?)
    }
}

/// The file that keeps a model's prefixes, and what names the model in it.
fn kept_prefixes(folder: &Path, facts: &ModelFacts) -> (PathBuf, String) {
    (folder.join(format!("{}.prefixes", facts.digest)), facts.digest.clone())
}

impl ModelLoader for Loader {
    fn list(&self) -> Result<Vec<ModelFacts>, LoadError> {
        let listing = pulling::store(&self.environment)
            .and_then(|store| Ok(store.list()?))
            .map_err(|error| load_error("", &error))?;
        let mut models: Vec<ModelFacts> = listing.models.iter().map(facts).collect();
        let files = self.named.iter().filter(|name| models.iter().all(|facts| &facts.name != *name));
        let files: Vec<ModelFacts> = files.filter_map(|name| self.find(name).ok()).collect();
        for file in files {
            if models.iter().all(|facts| facts.name != file.name) {
                models.push(file);
            }
        }
        Ok(models)
    }

    fn find(&self, name: &str) -> Result<ModelFacts, LoadError> {
        let (path, mut facts) = self.locate(name).map_err(|error| load_error(name, &error))?;
        // One that cannot be opened, or not with these settings, says so when it is loaded.
        if let Ok(checkpoint) = Checkpoint::open(&path)
            && let Ok(draft) = self.draft_of(name, &facts)
        {
            let _ = self.size_up(checkpoint.config(), draft.as_ref(), &mut facts);
        }
        Ok(facts)
    }

    fn card(&self, name: &str) -> Result<ModelCard, LoadError> {
        self.read_card(name).map_err(|error| load_error(name, &error))
    }

    fn load(&self, name: &str) -> Result<ServedModel, LoadError> {
        self.start(name).map_err(|error| load_error(name, &error))
    }

    fn pull(
        &self,
        name: &str,
        progress: &mut (dyn FnMut(PullProgress) -> bool + Send),
    ) -> Result<(), LoadError> {
        let listening = AtomicBool::new(false);
        let told = Told { tell: Mutex::new(progress), cancel: &listening, file: Mutex::default() };
        let pull = || {
            // Ollama's clients write the Hub's address in front.
            let plain = name.strip_prefix("hf.co/").or_else(|| name.strip_prefix("huggingface.co/"));
            let spec = plain
                .map_or_else(|| ModelSpec::parse(name), |plain| ModelSpec::parse(&format!("hf:{plain}")))?;
            if matches!(spec, ModelSpec::Local { .. }) {
                let refused = "a request can fetch no file of this machine: `alti pull` can";
                return Err(crate::exit::Exit::new(crate::exit::Failure::Usage, refused).into());
            }
            let request = PullRequest::new(spec);
            let store = pulling::store(&self.environment)?;
            let settings = pulling::settings(&self.environment);
            store.pull(&request, &settings, Observer::new(&told, &listening))?;
            anyhow::Ok(())
        };
        pull().map_err(|error| load_error(name, &error))
    }

    fn remove(&self, name: &str) -> Result<(), LoadError> {
        let remove = || anyhow::Ok(pulling::store(&self.environment)?.remove(name)?);
        remove().map(drop).map_err(|error| load_error(name, &error))
    }
}

/// Tells a client how far a download is, and cancels it when nobody listens.
struct Told<'a> {
    tell: Mutex<&'a mut (dyn FnMut(PullProgress) -> bool + Send)>,
    cancel: &'a AtomicBool,
    /// Size of what is fetched.
    file: Mutex<Option<u64>>,
}

// The closure is only called under the lock.
impl alti_hub::Progress for Told<'_> {
    fn event(&self, event: Event<'_>) {
        let (Ok(mut tell), Ok(mut size)) = (self.tell.lock(), self.file.lock()) else { return };
        let status = |text: String| PullProgress { status: text, ..PullProgress::default() };
        let progress = match event {
            Event::Resolving { source } => status(format!("asking {source}")),
            Event::Planned { total, present, .. } => {
                *size = Some(total);
                let pulling = status("pulling model".to_owned());
                PullProgress { total: *size, completed: Some(present), ..pulling }
            }
            Event::Bytes { done, .. } => {
                PullProgress { total: *size, completed: Some(done), ..status("pulling model".to_owned()) }
            }
            Event::Verifying { file, .. } => status(format!("verifying {file}")),
            Event::Waiting { what } => status(format!("waiting for another process that fetches {what}")),
            _ => return,
        };
        if !tell(progress) {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loader(draft_model: Option<String>) -> Loader {
        let folder = alti_testkit::golden("llama3-gqa");
        let named = [folder, alti_testkit::golden("llama32-tied")];
        Loader {
            environment: Environment::read().expect("an environment"),
            options: EngineOptions { kv_tokens: Some(640), draft_model, ..EngineOptions::default() },
            turns: Turns::default(),
            named: named.iter().map(|path| path.display().to_string()).collect(),
        }
    }

    #[test]
    fn a_model_takes_the_memory_of_the_one_that_guesses_for_it_too() {
        let alone = loader(None);
        let [name, draft] = [alone.named[0].clone(), alone.named[1].clone()];
        let takes = |loader: &Loader, name: &str| loader.find(name).expect("a model").memory_bytes;
        let both = takes(&alone, &name) + takes(&alone, &draft);
        assert!(takes(&alone, &draft) > alone.find(&draft).expect("a model").size, "keys and values count");
        let beside = loader(Some(draft.clone()));
        assert_eq!(takes(&beside, &name), both);
        assert_eq!(takes(&beside, &draft), takes(&alone, &draft), "it does not guess for itself");
        // A draft model that is not there is told of when the model is loaded.
        assert!(beside.find(&name).is_ok() && loader(Some("./absent.gguf".to_owned())).find(&name).is_ok());
    }
}
