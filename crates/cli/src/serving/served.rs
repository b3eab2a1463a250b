//! A running model whose prefix cache outlives it.

use alti_engine::EngineError;
use alti_engine::adapters::Lease as AdapterLease;
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::{
    EmbeddingJob, Engine, Job, Output, Rejected, Sink, SlotAction, SlotName, Status, Ticket,
};
use alti_server::models::{Cancel, Inference};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often is looked whether jobs are done, when the model goes.
const POLL: Duration = Duration::from_millis(10);

/// An engine whose prefixes are kept when it goes.
pub struct Served {
    engine: Engine,
    /// Where they are kept, and what names the model in the file.
    kept: Option<(PathBuf, String)>,
    /// Cloned into every job that is not done.
    jobs: Arc<()>,
    closing: AtomicBool,
}

impl Served {
    /// Serves an engine, and keeps its prefixes in a file if there is one: with the name of the model in it.
    pub fn new(engine: Engine, kept: Option<(PathBuf, String)>) -> Served {
        Served { engine, kept, jobs: Arc::default(), closing: AtomicBool::new(false) }
    }

    /// A sink that tells by its end that the job is done.
    fn counted(&self, mut sink: Sink) -> Result<Sink, Rejected> {
        let job = self.jobs.clone();
        // Counted before it is looked: who closes misses none.
        if self.closing.load(Ordering::SeqCst) {
            return Err(Rejected::ShuttingDown);
        }
        Ok(Box::new(move |output: Output| {
            let _until_the_end = &job;
            sink(output)
        }))
    }

    /// Takes no more jobs, and waits until those that are there are done, or it is `deadline`.
    fn drain(&self, deadline: Instant) {
        self.closing.store(true, Ordering::SeqCst);
        while Arc::strong_count(&self.jobs) > 1 && self.engine.is_running() && Instant::now() < deadline {
            std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    fn save(&self, file: &Path, identity: &str) {
        let folder = file.parent().unwrap_or(Path::new("."));
        let saved = std::fs::create_dir_all(folder).map_err(|error| error.to_string());
        let saved =
            saved.and_then(|()| self.engine.save_prefixes(file, identity).map_err(|error| error.to_string()));
        if let Err(error) = saved {
            tracing::warn!(%error, "the prefix cache was not saved");
        }
    }
}

fn cancel(ticket: Ticket) -> Cancel {
    Box::new(move || ticket.cancel())
}

impl Inference for Served {
    fn submit(&self, job: Job, sink: Sink) -> Result<Cancel, Rejected> {
        self.engine.submit(job, self.counted(sink)?).map(cancel)
    }

    fn embed(&self, job: EmbeddingJob, sink: Sink) -> Result<Cancel, Rejected> {
        self.engine.embed(job, self.counted(sink)?).map(cancel)
    }

    fn check_grammar(&self, source: &GrammarSource) -> Result<(), EngineError> {
        self.engine.check_grammar(source)
    }

    fn status(&self) -> Status {
        self.engine.status()
    }

    fn is_running(&self) -> bool {
        self.engine.is_running()
    }

    fn context(&self) -> usize {
        self.engine.settings().context
    }

    fn max_running(&self) -> usize {
        self.engine.settings().max_running
    }

    fn embedding_length(&self) -> usize {
        self.engine.config().embedding_length
    }

    fn load_adapter(&self, name: &str, path: &Path) -> Result<AdapterLease, EngineError> {
        self.engine.load_adapter(name, path)
    }

    fn drop_adapter(&self, name: &str) -> bool {
        self.engine.drop_adapter(name)
    }

    fn slot(&self, name: SlotName, action: SlotAction<'_>) -> Result<usize, EngineError> {
        self.engine.slot(name, action)
    }

    fn shutdown(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        if let Some((file, identity)) = &self.kept {
            // What the last answers leave in the cache is kept, too: so it is saved behind them.
            self.drain(deadline);
            self.save(file, identity);
        }
        self.engine.shutdown(deadline.saturating_duration_since(Instant::now()));
    }
}
