//! What the server asks of a running model. `alti_engine::serving::Engine` is the one there is; behind a trait, so that
//! the wire can be tested with answers that no tiny model would give.

use alti_engine::EngineError;
use alti_engine::adapters::Lease as AdapterLease;
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::{EmbeddingJob, Engine, Job, Rejected, Sink, SlotAction, SlotName, Status};
use std::path::Path;
use std::time::Duration;

/// Ends a job when it is called.
pub type Cancel = Box<dyn Fn() + Send + Sync>;

/// A running model.
pub trait Inference: Send + Sync + 'static {
    /// See [`Engine::submit`].
    ///
    /// # Errors
    /// As there.
    fn submit(&self, job: Job, sink: Sink) -> Result<Cancel, Rejected>;
    /// See [`Engine::embed`].
    ///
    /// # Errors
    /// As there.
    fn embed(&self, job: EmbeddingJob, sink: Sink) -> Result<Cancel, Rejected>;
    /// See [`Engine::check_grammar`].
    ///
    /// # Errors
    /// As there.
    fn check_grammar(&self, source: &GrammarSource) -> Result<(), EngineError>;
    /// See [`Engine::status`].
    fn status(&self) -> Status;
    /// See [`Engine::is_running`].
    fn is_running(&self) -> bool {
        true
    }
    /// Tokens of the longest sequence.
    fn context(&self) -> usize;
    /// Answers in the works at once, at most.
    fn max_running(&self) -> usize;
    /// Values of an embedding.
    fn embedding_length(&self) -> usize;
    /// Loads an adapter; see [`Engine::load_adapter`].
    ///
    /// # Errors
    /// As there.
    fn load_adapter(&self, name: &str, path: &Path) -> Result<AdapterLease, EngineError>;
    /// See [`Engine::drop_adapter`].
    fn drop_adapter(&self, name: &str) -> bool;
    /// See [`Engine::slot`].
    ///
    /// # Errors
    /// As there.
    fn slot(&self, name: SlotName, action: SlotAction<'_>) -> Result<usize, EngineError>;
    /// See [`Engine::shutdown`].
    fn shutdown(&self, deadline: Duration);
}

impl Inference for Engine {
    fn submit(&self, job: Job, sink: Sink) -> Result<Cancel, Rejected> {
        let ticket = Engine::submit(self, job, sink)?;
        Ok(Box::new(move || ticket.cancel()))
    }

    fn embed(&self, job: EmbeddingJob, sink: Sink) -> Result<Cancel, Rejected> {
        let ticket = Engine::embed(self, job, sink)?;
        Ok(Box::new(move || ticket.cancel()))
    }

    fn check_grammar(&self, source: &GrammarSource) -> Result<(), EngineError> {
        Engine::check_grammar(self, source)
    }

    fn status(&self) -> Status {
        Engine::status(self)
    }

    fn is_running(&self) -> bool {
        Engine::is_running(self)
    }

    fn context(&self) -> usize {
        self.settings().context
    }

    fn max_running(&self) -> usize {
        self.settings().max_running
    }

    fn embedding_length(&self) -> usize {
        self.config().embedding_length
    }

    fn load_adapter(&self, name: &str, path: &Path) -> Result<AdapterLease, EngineError> {
        Engine::load_adapter(self, name, path)
    }

    fn drop_adapter(&self, name: &str) -> bool {
        Engine::drop_adapter(self, name)
    }

    fn slot(&self, name: SlotName, action: SlotAction<'_>) -> Result<usize, EngineError> {
        Engine::slot(self, name, action)
    }

    fn shutdown(&self, deadline: Duration) {
        Engine::shutdown(self, deadline);
    }
}
