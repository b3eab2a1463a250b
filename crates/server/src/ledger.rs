//! What requests took, on its way to the store. An answer ends when its row is kept and not before, so that a process that
//! is killed has not answered what nobody is charged for; rows that wait for the disk at the same time are written together.

use crate::auth::{Accounts, Principal, UsageRow};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::running::Hold;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// Rows on their way to the store.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    waiting: Mutex<Waiting>,
    /// The server ends: whoever has a row kept writes it.
    ends: AtomicBool,
    all: Unkept,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Counted>,
    /// Somebody writes, and takes what comes meanwhile.
    is_writing: bool,
}

/// A row, and what is given back when it counts against its key's quotas, and not before.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) row: UsageRow,
    pub(crate) principal: Principal,
    pub(crate) hold: Option<Hold>,
    /// Of [`Ledger::open`].
    pub(crate) open: One,
}

/// The same while it waits.
#[derive(Debug)]
struct Counted {
    row: UsageRow,
    _given_back: (Principal, Option<Hold>),
    _unkept: [One; 2],
}

/// How many rows are not kept yet: of a request, or of the server. Clones count the same.
#[derive(Clone, Debug)]
pub(crate) struct Unkept(watch::Sender<usize>);

/// One of them: a request that is metered, and then its row until it is kept.
#[derive(Debug)]
pub(crate) struct One(Unkept);

impl Default for Unkept {
    fn default() -> Unkept {
        Unkept(watch::Sender::new(0))
    }
}

impl Unkept {
    fn one(&self) -> One {
        self.0.send_modify(|count| *count += 1);
        One(self.clone())
    }

    /// Waits until all are kept.
    pub(crate) async fn settled(&self) {
        // Fails when the sender is gone, which is here.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

impl Ledger {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that is metered from now on: the server does not go down before its row is kept, if it has one.
    pub(crate) fn open(&self) -> One {
        self.all.one()
    }

    /// Has a row kept, counted in `unkept` until it is.
    pub(crate) fn keep(self: &Arc<Ledger>, accounts: &Arc<dyn Accounts>, entry: Entry, unkept: &Unkept) {
        let Entry { row, principal, hold, open } = entry;
        let counted = Counted { row, _given_back: (principal, hold), _unkept: [unkept.one(), open] };
        let mut waiting = self.waiting();
        waiting.entries.push(counted);
        let ends = self.ends.load(Ordering::Relaxed);
        if std::mem::replace(&mut waiting.is_writing, true) && !ends {
            return;
        }
        drop(waiting);
        let (ledger, accounts) = (self.clone(), accounts.clone());
        let write = move || ledger.write(accounts.as_ref());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !ends => drop(runtime.spawn_blocking(write)),
            // A runtime that ends begins nothing any more.
            _ => write(),
        }
    }

    /// Writes what waits until nothing does.
    fn write(&self, accounts: &dyn Accounts) {
        loop {
            let entries = {
                let mut waiting = self.waiting();
                waiting.is_writing = !waiting.entries.is_empty();
                std::mem::take(&mut waiting.entries)
            };
            if entries.is_empty() {
                return;
            }
            let rows: Vec<&UsageRow> = entries.iter().map(|entry| &entry.row).collect();
            let told = |row: &UsageRow, error: &ApiError| {
                tracing::error!(request = row.request_id, %error, "what a request took was not kept");
            };
            match record(accounts, &rows) {
                Ok(()) => {}
                // One that cannot be kept must not take the others with it.
                Err(error) if error.kind == ErrorKind::InvalidRequest && rows.len() > 1 => {
                    let alone = rows.iter().map(|row| (row, record(accounts, &[*row])));
                    let lost = alone.filter_map(|(row, kept)| Some((row, kept.err()?)));
                    lost.for_each(|(row, error)| told(row, &error));
                }
                Err(error) => rows.iter().for_each(|row| told(row, &error)),
            }
        }
    }

    /// Waits until all rows are kept, but no longer than to `deadline`. Those of requests that are still under way then are
    /// kept where they are dropped.
    pub(crate) async fn settle(&self, deadline: Instant) {
        if tokio::time::timeout_at(deadline, self.all.settled()).await.is_err() {
            tracing::warn!("some requests were still under way when the server ended");
        }
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Keeps rows. A bug there is an error of these rows: whoever waits behind them must not wait for ever.
fn record(accounts: &dyn Accounts, rows: &[&UsageRow]) -> ApiResult<()> {
    let recorded = std::panic::catch_unwind(AssertUnwindSafe(|| accounts.record(rows)));
    recorded.unwrap_or_else(|_| Err(ApiError::internal("keeping usage panicked")))
}
