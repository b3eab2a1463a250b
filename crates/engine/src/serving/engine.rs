//! The handle of a serving engine: what any thread may ask of the one that owns the model.

use super::job::{EmbeddingJob, Job, Rejected, Sink, Status};
use crate::EngineError;
use crate::grammar::GrammarSource;
use alti_formats::ModelConfig;
use alti_models::Llama;
use alti_tensor::{Backend, KvDType};
use alti_text::Tokenizer;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
}

/// A running model. Clones share it; it ends when the last is dropped or [`Engine::shutdown`] was called.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    settings: EngineSettings,
    tokenizer: Tokenizer,
    config: ModelConfig,
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
    /// Starts the thread that owns the model, which `load` brings in on that thread.
    ///
    /// # Errors
    /// What `load` returns, or that there is no memory for keys and values.
    pub fn start<B, L>(settings: EngineSettings, tokenizer: Tokenizer, load: L) -> Result<Engine, EngineError>
    where
        B: Backend<Element = f32> + 'static,
        L: FnOnce() -> Result<(B, Arc<Llama<B::Weight>>), EngineError> + Send + 'static,
    {
        unimplemented!()
    }

    /// Submits a job; `sink` hears of it on the engine's thread.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn submit(&self, job: Job, sink: Sink) -> Result<Ticket, Rejected> {
        unimplemented!()
    }

    /// Submits a text to be made a vector.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn embed(&self, job: EmbeddingJob, sink: Sink) -> Result<Ticket, Rejected> {
        unimplemented!()
    }

    /// Checks a grammar without using it.
    ///
    /// # Errors
    /// When it is none.
    pub fn check_grammar(&self, source: &GrammarSource) -> Result<(), EngineError> {
        unimplemented!()
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &EngineSettings {
        unimplemented!()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        unimplemented!()
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        unimplemented!()
    }

    /// Loads an adapter (a PEFT folder or a GGUF file) under a name, while jobs run.
    ///
    /// # Errors
    /// When it cannot be read or is for another model.
    pub fn load_adapter(&self, name: &str, path: &Path) -> Result<(), EngineError> {
        unimplemented!()
    }

    /// Forgets an adapter; jobs that use it finish first. Whether there was one.
    pub fn drop_adapter(&self, name: &str) -> bool {
        unimplemented!()
    }

    /// Refuses new jobs and returns when those it has are done, or `deadline` has passed and they were cancelled.
    pub fn shutdown(&self, deadline: std::time::Duration) {
        unimplemented!()
    }
}
