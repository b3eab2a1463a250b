//! What goes on while no request waits for it: responses in the background, batches, files that are made searchable,
//! things whose time is over. One task for each, which sleeps until there is something to do.

use super::responses::Live;
use super::{ask, batches, responses, vector_stores};
use crate::state::AppState;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often is looked for things whose time is over, and for work that a failure left.
const TICK: Duration = Duration::from_secs(60);

/// How often is looked whether responses are done, when the server goes down.
const POLL: Duration = Duration::from_millis(10);

/// The server's own work.
#[derive(Default)]
pub(crate) struct Work {
    started: AtomicBool,
    /// Something to do for the task that runs batches.
    pub(super) batches: Notify,
    /// Something to do for the task that makes files searchable.
    pub(super) files: Notify,
    /// Responses that are being written, by id.
    responses: Mutex<HashMap<String, Arc<Live>>>,
    /// Keys that a batch runs for.
    batch_keys: Arc<Mutex<HashSet<String>>>,
}

/// A batch of a key runs; it is over when this is dropped.
pub(super) struct RunningBatch {
    keys: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl Drop for RunningBatch {
    fn drop(&mut self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A stored response is being written; it is over when this is dropped, also by a writer that breaks or a client that
/// hangs up.
pub(super) struct Written {
    state: AppState,
    id: String,
}

impl Written {
    /// Takes note that a response is being written.
    pub(super) fn begin(state: &AppState, id: &str, live: Arc<Live>) -> Written {
        state.work().responses().insert(id.to_owned(), live);
        Written { state: state.clone(), id: id.to_owned() }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.state.work().responses().remove(&self.id);
    }
}

impl Work {
    fn responses(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that a batch of this key runs; nothing if one does already.
    pub(super) fn run_batch_of(&self, key: &str) -> Option<RunningBatch> {
        let mut keys = self.batch_keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.to_owned())
            .then(|| RunningBatch { keys: self.batch_keys.clone(), key: key.to_owned() })
    }

    pub(super) fn live(&self, id: &str) -> Option<Arc<Live>> {
        self.responses().get(id).cloned()
    }

    /// Waits until no response is being written, or it is `deadline`.
    pub(crate) async fn settle(&self, deadline: Instant) {
        while !self.responses().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Starts the server's own work, once; without a database there is none. Wants to be called inside a tokio runtime.
pub fn start(state: &AppState) {
    if state.store().is_err() || state.work().started.swap(true, Ordering::SeqCst) {
        return;
    }
    tokio::spawn(run(state.clone()));
}

async fn run(state: AppState) {
    tokio::join!(
        repeat(&state, |state| &state.work().batches, batches::run_all),
        repeat(&state, |state| &state.work().files, vector_stores::ingest_all),
        sweep(&state),
    );
}

/// Does something now, whenever it is asked for, and once a tick, until the server goes down.
async fn repeat<F: Future<Output = ()>>(
    state: &AppState,
    asked: fn(&AppState) -> &Notify,
    work: impl Fn(AppState) -> F,
) {
    while !state.is_draining() {
        work(state.clone()).await;
        // Who waits may miss that the server goes down, but holds nothing then.
        let _ = tokio::time::timeout(TICK, asked(state).notified()).await;
    }
}

async fn sweep(state: &AppState) {
    while !state.is_draining() {
        if let Err(error) = responses::recover(state).await {
            tracing::error!(%error, "responses that were cut off could not be ended");
        }
        let swept = ask(state, |store| {
            let now = alti_store::now();
            Ok((store.files().expire(now)?, store.uploads().expire(now)?, store.vector_stores().expire(now)?))
        });
        match swept.await {
            Ok((0, 0, 0)) => {}
            Ok((files, uploads, vector_stores)) => tracing::info!(files, uploads, vector_stores, "expired"),
            Err(error) => tracing::warn!(%error, "what has expired was not removed"),
        }
        tokio::time::sleep(TICK).await;
    }
}
