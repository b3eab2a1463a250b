//! The handle of a serving engine: what any thread may ask of the one that owns the model.

use super::control::{Command, Submission};
use super::job::{EmbeddingJob, Job, Rejected, Sink, Status};
use super::saved::SavedText;
use super::sequence::Drawing;
use super::slots::{SlotAction, SlotName};
use super::turns::Turns;
use super::worker::Worker;
use crate::EngineError;
use crate::adapters::{AdapterNames, Lease};
use crate::grammar::{GrammarFactory, GrammarSource};
use crate::sampling::{Sampler, SamplerSettings};
use alti_formats::{Adapter, ModelConfig};
use alti_models::{Llama, ModelError};
use alti_tensor::{Backend, KvDType, PAGE_TOKENS};
use alti_text::Tokenizer;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How an engine uses the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// Tokens of the longest sequence, prompt and answer together.
    pub context: usize,
    /// Tokens of keys and values in all, shared by everybody.
    pub kv_tokens: usize,
    /// How keys and values are stored.
    pub kv_dtype: KvDType,
    /// Most tokens of a step: what bounds the time between two tokens of a running answer.
    pub step_tokens: usize,
    /// Most answers in the works at once.
    pub max_running: usize,
    /// Most answers that wait; beyond it jobs are rejected.
    pub max_waiting: usize,
    /// Whether the keys and values of finished requests are kept for others with the same beginning.
    pub prefix_cache: bool,
    /// Most tokens drafted for an answer in a step; 0 drafts none.
    pub draft_tokens: usize,
    /// Whom it shares the machine's cores with.
    pub turns: Turns,
}

impl Default for EngineSettings {
    /// What a server on a small machine does well with.
    fn default() -> EngineSettings {
        EngineSettings {
            context: 8192,
            kv_tokens: 32_768,
            kv_dtype: KvDType::BF16,
            step_tokens: 256,
            max_running: 64,
            max_waiting: 512,
            prefix_cache: true,
            draft_tokens: 4,
            turns: Turns::default(),
        }
    }
}

/// A backend, a model on it, and perhaps a smaller one that guesses for it.
pub type ModelAndDraft<B> =
    (B, Arc<Llama<<B as Backend>::Weight>>, Option<Arc<Llama<<B as Backend>::Weight>>>);

/// A running model. Clones share it; its thread ends when the last is dropped and what was submitted is done, or by
/// [`Engine::shutdown`].
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    commands: Sender<Command>,
}

/// What handles and the engine's thread both see.
pub(super) struct Shared {
    pub(super) settings: EngineSettings,
    pub(super) tokenizer: Tokenizer,
    pub(super) status: Mutex<Status>,
    /// Jobs that wait for their first step.
    pub(super) queued: AtomicUsize,
    pub(super) adapters: AdapterNames,
    config: ModelConfig,
    grammars: OnceLock<Result<GrammarFactory, String>>,
    next_job: AtomicU64,
    closing: AtomicBool,
}

/// A job that was taken. Dropping the ticket lets it go on.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The job's number, ascending in order of submission.
    pub job: u64,
    cancelled: Arc<AtomicBool>,
}

impl Ticket {
    /// Ends the job within one step; its answers finish as cancelled.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts the thread that owns the model, which `load` brings in on that thread; returns when it is there.
    ///
    /// # Errors
    /// What `load` returns, or that there is no memory for keys and values.
    pub fn start<B, L>(settings: EngineSettings, tokenizer: Tokenizer, load: L) -> Result<Engine, EngineError>
    where
        B: Backend<Element = f32> + 'static,
        L: FnOnce() -> Result<(B, Arc<Llama<B::Weight>>), EngineError> + Send + 'static,
    {
        Self::start_with_draft(settings, tokenizer, move || {
            load().map(|(backend, model)| (backend, model, None))
        })
    }

    /// As [`Engine::start`], with a smaller model of the same vocabulary, on the same backend, that guesses tokens ahead
    /// where nothing else does. Answers do not change.
    ///
    /// # Errors
    /// As there, or when the vocabularies differ.
    pub fn start_with_draft<B, L>(
        settings: EngineSettings,
        tokenizer: Tokenizer,
        load: L,
    ) -> Result<Engine, EngineError>
    where
        B: Backend<Element = f32> + 'static,
        L: FnOnce() -> Result<ModelAndDraft<B>, EngineError> + Send + 'static,
    {
        let (commands, receiver) = mpsc::channel();
        let (started, outcome) = mpsc::channel();
        let stopped = |what: String| EngineError::Stopped { what };
        let life = move || {
            let worker = load().and_then(|(backend, model, draft)| {
                let shared = Arc::new(Shared::new(settings, tokenizer, model.config.clone()));
                Ok((shared.clone(), Worker::new(backend, model, draft, shared, receiver)?))
            });
            match worker {
                Err(error) => drop(started.send(Err(error))),
                Ok((shared, worker)) => {
                    drop(started.send(Ok(shared.clone())));
                    // A panic is a bug; callers must not wait for it for ever: their sinks are dropped with the worker.
                    let _ = catch_unwind(AssertUnwindSafe(|| worker.run()));
                    shared.closing.store(true, Ordering::Relaxed);
                }
            }
        };
        thread::Builder::new()
            .name("alti-engine".to_owned())
            .spawn(life)
            .map_err(|error| stopped(error.to_string()))?;
        let shared = outcome.recv().map_err(|_| stopped("loading the model panicked".to_owned()))??;
        Ok(Engine { shared, commands })
    }

    /// Submits a job; `sink` hears of it on the engine's thread.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn submit(&self, mut job: Job, sink: Sink) -> Result<Ticket, Rejected> {
        self.check(&job.prompt).map_err(Rejected::Invalid)?;
        job.sampling.fix_seed();
        let drawings = self.drawings(&job).map_err(Rejected::Invalid)?;
        self.send(job, sink, |submission| submission.drawings = drawings)
    }

    /// Submits a text to be made a vector.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn embed(&self, job: EmbeddingJob, sink: Sink) -> Result<Ticket, Rejected> {
        let EmbeddingJob { tokens, pooling, priority, deadline, adapter, domain } = job;
        self.check(&tokens).map_err(Rejected::Invalid)?;
        let job = Job { priority, deadline, adapter, domain, ..Job::new(tokens, SamplerSettings::greedy()) };
        self.send(job, sink, |submission| submission.pooling = Some(pooling))
    }

    /// Checks a grammar without using it.
    ///
    /// # Errors
    /// When it is none.
    pub fn check_grammar(&self, source: &GrammarSource) -> Result<(), EngineError> {
        self.shared.grammars()?.compile(source).map(drop)
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.adapters = self.shared.adapters.all();
        // What was submitted since the last step waits, too.
        status.waiting = status.waiting.max(self.shared.queued.load(Ordering::Relaxed));
        status
    }

    /// Whether it still takes jobs.
    pub fn is_running(&self) -> bool {
        !self.shared.closing.load(Ordering::Relaxed)
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &EngineSettings {
        &self.shared.settings
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// Loads an adapter (a PEFT folder or a GGUF file) under a name, while jobs run. Jobs use it by what is returned,
    /// whatever becomes of the name.
    ///
    /// # Errors
    /// When it cannot be read or is for another model, or the name is taken.
    pub fn load_adapter(&self, name: &str, path: &Path) -> Result<Lease, EngineError> {
        let adapter = Adapter::open(path, &self.shared.config).map_err(ModelError::from)?;
        // All of it is read here, and not where answers in the works would wait for the disk.
        let lease = Lease::new(name, adapter.fingerprint().map_err(ModelError::from)?);
        self.ask(|reply| Command::LoadAdapter(lease, Box::new(adapter), reply))?
    }

    /// The adapter that was loaded under this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn adapter(&self, name: &str) -> Result<Lease, EngineError> {
        self.shared.adapters.find(name)
    }

    /// Forgets an adapter's name; who holds its lease can still use it. Whether there was one.
    pub fn drop_adapter(&self, name: &str) -> bool {
        let was_there = self.shared.adapters.remove(name);
        // An engine that has stopped has no adapters.
        let _ = self.commands.send(Command::ReleaseAdapters);
        was_there
    }

    /// Writes the prefix cache to a file, for [`Engine::load_prefixes`] of a later engine with the same model and
    /// settings. `model` names the weights (by their hash, say): keys and values are worth nothing with others.
    /// Answers how many tokens are in it.
    ///
    /// # Errors
    /// When the file cannot be written; one that was there before is untouched then.
    pub fn save_prefixes(&self, path: &Path, model: &str) -> Result<usize, EngineError> {
        self.ask(|reply| Command::SavePrefixes(path.to_owned(), model.to_owned(), reply))?
    }

    /// Takes in what [`Engine::save_prefixes`] wrote, as far as there is room. Answers how many tokens came of it.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or is of another model, backend or type of cache.
    pub fn load_prefixes(&self, path: &Path, model: &str) -> Result<usize, EngineError> {
        self.ask(|reply| Command::LoadPrefixes(path.to_owned(), model.to_owned(), reply))?
    }

    /// Does something with a slot: see [`SlotAction`]. Answers how many tokens that concerned. Files are read and written
    /// on the caller's thread, so that answers in the works wait for copies in memory only. What was computed with an
    /// adapter is there as long as somebody holds that.
    ///
    /// # Errors
    /// A slot that holds nothing, a file that cannot be written, or read, or is of another model, tenant, adapter or type
    /// of cache.
    pub fn slot(&self, name: SlotName, action: SlotAction<'_>) -> Result<usize, EngineError> {
        match action {
            SlotAction::Save(path, model) => {
                let model = model.to_owned();
                let text = self.ask(|reply| Command::ReadSlot(name, model, reply))??;
                text.write(path)?;
                Ok(text.tokens())
            }
            SlotAction::Restore(path, model) => {
                let text = Box::new(SavedText::read(path)?);
                let (path, model) = (path.to_owned(), model.to_owned());
                self.ask(|reply| Command::WriteSlot(name, text, path, model, reply))?
            }
            SlotAction::Erase => self.ask(|reply| Command::EraseSlot(name, reply)),
        }
    }

    /// Refuses new jobs and returns when those it has are done, or `patience` is over and they were cancelled.
    pub fn shutdown(&self, patience: Duration) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // An engine that has stopped already has nothing to wait for.
        let _ = self.ask(|reply| Command::Close(Instant::now() + patience, reply));
    }

    /// Asks the engine's thread and waits for its answer.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, EngineError> {
        let stopped = || EngineError::Stopped { what: "it was shut down, or failed".to_owned() };
        let (reply, answer) = mpsc::channel();
        self.commands.send(command(reply)).map_err(|_| stopped())?;
        answer.recv().map_err(|_| stopped())
    }

    /// Refuses a prompt that can never be computed.
    fn check(&self, prompt: &[u32]) -> Result<(), EngineError> {
        let (context, vocabulary) = (self.shared.settings.context, self.shared.config.vocabulary_size);
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() > context {
            return Err(EngineError::ContextFull { tokens: prompt.len(), context });
        }
        match prompt.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(EngineError::UnknownToken { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// What draws the tokens of each choice of a job.
    fn drawings(&self, job: &Job) -> Result<Vec<Drawing>, EngineError> {
        let (tokenizer, vocabulary_size) = (&self.shared.tokenizer, self.shared.config.vocabulary_size);
        let sampler = Sampler::for_text(&job.sampling, tokenizer, vocabulary_size, &job.prompt)?;
        (0..job.choices.max(1)).map(|choice| self.drawing(job, sampler.for_choice(choice))).collect()
    }

    /// What draws the tokens of one choice of a job, with its sampler.
    fn drawing(&self, job: &Job, sampler: Sampler) -> Result<Drawing, EngineError> {
        let shared = &self.shared;
        let grammar = match &job.grammar {
            Some(source) => Some(shared.grammars()?.compile(source)?),
            None => None,
        };
        // A grammar says itself when the text may end; then it must be able to.
        let ends = match job.ignore_end && grammar.is_none() {
            true => Arc::default(),
            false => shared.tokenizer.stop_ids().into(),
        };
        let seed = job.sampling.seed;
        Ok(Drawing { sampler, grammar, ends, logprobs: job.logprobs, seed, drawn: Vec::new(), error: None })
    }

    fn send(
        &self,
        mut job: Job,
        sink: Sink,
        complete: impl FnOnce(&mut Submission),
    ) -> Result<Ticket, Rejected> {
        let shared = &self.shared;
        if !self.is_running() {
            return Err(Rejected::ShuttingDown);
        }
        job.domain.adapter = job.adapter.as_ref().map(|lease| lease.fingerprint().to_owned());
        let waiting = shared.queued.fetch_add(1, Ordering::Relaxed);
        if waiting >= shared.settings.max_waiting {
            shared.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(Rejected::QueueFull { waiting, retry_after_seconds: shared.retry_after(waiting) });
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let id = shared.next_job.fetch_add(1, Ordering::Relaxed);
        let mut submission = Submission {
            id,
            job,
            sink,
            cancelled: cancelled.clone(),
            submitted: Instant::now(),
            drawings: Vec::new(),
            pooling: None,
        };
        complete(&mut submission);
        match self.commands.send(Command::Submit(Box::new(submission))) {
            Ok(()) => Ok(Ticket { job: id, cancelled }),
            Err(_) => Err(Rejected::ShuttingDown),
        }
    }
}

impl Shared {
    fn new(mut settings: EngineSettings, tokenizer: Tokenizer, config: ModelConfig) -> Shared {
        // One sequence of full length always fits: that is what keeps preemption from going round in circles.
        settings.context = settings.context.max(1);
        settings.kv_tokens = settings.kv_tokens.max(settings.context).next_multiple_of(PAGE_TOKENS);
        Shared {
            settings,
            tokenizer,
            status: Mutex::default(),
            queued: AtomicUsize::new(0),
            adapters: AdapterNames::default(),
            config,
            grammars: OnceLock::new(),
            next_job: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        }
    }

    /// The grammars' view of the vocabulary: made when the first is wanted.
    fn grammars(&self) -> Result<&GrammarFactory, EngineError> {
        let make = || GrammarFactory::new(&self.tokenizer, self.config.vocabulary_size);
        let made = self.grammars.get_or_init(|| make().map_err(|error| error.to_string()));
        made.as_ref().map_err(|what| EngineError::Stopped { what: what.clone() })
    }

    /// A guess at how many seconds the jobs that wait will take.
    fn retry_after(&self, waiting: usize) -> u64 {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let each = status.step_seconds / status.finished.max(1) as f64;
        ((each * waiting as f64).ceil() as u64).clamp(1, 60)
    }
}
