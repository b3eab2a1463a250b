//! What requests took, on its way to the store. An answer ends when its row is kept and not before, so that a process that
//! is killed has not answered what nobody is charged for; rows that wait for the disk at the same time are written together.
//! Where the store cannot write for now (the disk is full, somebody else keeps it), answers end without waiting, and their rows
//! are tried again until they are kept.

use crate::auth::{Accounts, Principal, UsageRow};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::running::Hold;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long rows that could not be kept wait until they are tried again, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// With so many rows that could not be kept, nothing more is answered: they would be lost with the process.
const MOST_BEHIND: usize = 10_000;

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
    /// What the store could not keep for now, oldest first: written before whatever is written next.
    behind: Vec<Counted>,
    /// Somebody tries those again after a while.
    is_catching_up: bool,
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
    _hold: Option<Hold>,
    _open: One,
    /// What ends with the answer: its place among the requests of its key, and the wait for its row.
    answer: Option<(Principal, One)>,
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
        let counted = Counted { row, _hold: hold, _open: open, answer: Some((principal, unkept.one())) };
        let mut waiting = self.waiting();
        waiting.entries.push(counted);
        let ends = self.ends.load(Ordering::Relaxed);
        if std::mem::replace(&mut waiting.is_writing, true) && !ends {
            return;
        }
        drop(waiting);
        let (ledger, accounts) = (self.clone(), accounts.clone());
        let write = move || ledger.write(&accounts);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !ends => drop(runtime.spawn_blocking(write)),
            // A runtime that ends begins nothing any more.
            _ => write(),
        }
    }

    /// Whether rows can still be kept, or at least remembered.
    ///
    /// # Errors
    /// When too many wait for the store to write again.
    pub(crate) fn check(&self) -> ApiResult<()> {
        let behind = self.waiting().behind.len();
        if behind < MOST_BEHIND {
            return Ok(());
        }
        let message = format!(
            "what {behind} requests took could not be written to the database, and no more are answered before it is: \
             is its disk full?"
        );
        Err(ApiError::new(ErrorKind::StorageFull, message).code("usage_not_kept"))
    }

    /// Writes what waits until nothing new does.
    fn write(self: &Arc<Ledger>, accounts: &Arc<dyn Accounts>) {
        loop {
            let entries = {
                let mut waiting = self.waiting();
                waiting.is_writing = !waiting.entries.is_empty();
                if !waiting.is_writing {
                    return;
                }
                waiting.all()
            };
            self.record(accounts, entries);
        }
    }

    /// Keeps rows; those that the store cannot keep for now are tried again.
    fn record(self: &Arc<Ledger>, accounts: &Arc<dyn Accounts>, entries: Vec<Counted>) {
        let rows: Vec<&UsageRow> = entries.iter().map(|entry| &entry.row).collect();
        match record(accounts.as_ref(), &rows) {
            Ok(()) => {}
            Err(error)
                if matches!(error.kind, ErrorKind::StorageFull | ErrorKind::Unavailable)
                    && !self.ends.load(Ordering::Relaxed) =>
            {
                tracing::error!(rows = rows.len(), %error, "what requests took cannot be kept now; it is tried again");
                self.postpone(accounts, entries);
            }
            // One that cannot be kept must not take the others with it.
            Err(error) if error.kind == ErrorKind::InvalidRequest && rows.len() > 1 => {
                let alone = rows.iter().map(|row| (row, record(accounts.as_ref(), &[*row])));
                let lost = alone.filter_map(|(row, kept)| Some((row, kept.err()?)));
                lost.for_each(|(row, error)| tell_lost(row, &error));
            }
            Err(error) => rows.iter().for_each(|row| tell_lost(row, &error)),
        }
    }

    /// Lets the answers end, and has somebody try their rows again.
    fn postpone(self: &Arc<Ledger>, accounts: &Arc<dyn Accounts>, mut entries: Vec<Counted>) {
        let answers: Vec<_> = entries.iter_mut().map(|entry| entry.answer.take()).collect();
        let mut waiting = self.waiting();
        entries.append(&mut waiting.behind);
        waiting.behind = entries;
        let catches_up = std::mem::replace(&mut waiting.is_catching_up, true);
        drop(waiting);
        drop(answers);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !catches_up => drop(runtime.spawn(self.clone().catch_up(accounts.clone()))),
            _ => {}
        }
    }

    /// Tries again until nothing is behind.
    async fn catch_up(self: Arc<Ledger>, accounts: Arc<dyn Accounts>) {
        let [mut pause, longest] = PAUSES;
        loop {
            tokio::time::sleep(pause).await;
            pause = longest.min(2 * pause);
            let (ledger, accounts) = (self.clone(), accounts.clone());
            // Fails where the runtime ends, and then so does this.
            if tokio::task::spawn_blocking(move || ledger.retry(&accounts)).await.unwrap_or(true) {
                return;
            }
        }
    }

    /// Writes what is behind; whether nothing is any more.
    fn retry(self: &Arc<Ledger>, accounts: &Arc<dyn Accounts>) -> bool {
        let entries = {
            let mut waiting = self.waiting();
            if waiting.is_writing {
                return false;
            }
            if waiting.behind.is_empty() {
                waiting.is_catching_up = false;
                return true;
            }
            waiting.is_writing = true;
            waiting.all()
        };
        self.record(accounts, entries);
        // What came meanwhile.
        self.write(accounts);
        false
    }

    /// Waits until all rows are kept, but no longer than to `deadline`. Those of requests that are still under way then are
    /// kept where they are dropped.
    pub(crate) async fn settle(&self, deadline: Instant) {
        if tokio::time::timeout_at(deadline, self.all.settled()).await.is_err() {
            tracing::warn!("some requests were still under way when the server ended");
        }
        let behind = std::mem::take(&mut self.waiting().behind);
        let error =
            ApiError::new(ErrorKind::StorageFull, "the server ended before the database could be written");
        behind.iter().for_each(|entry| tell_lost(&entry.row, &error));
        self.ends.store(true, Ordering::Relaxed);
    }
}

impl Waiting {
    /// All that is to be written, oldest first.
    fn all(&mut self) -> Vec<Counted> {
        let mut all = std::mem::take(&mut self.behind);
        all.append(&mut self.entries);
        all
    }
}

fn tell_lost(row: &UsageRow, error: &ApiError) {
    tracing::error!(request = row.request_id, %error, "what a request took was not kept");
}

/// Keeps rows. A bug there is an error of these rows: whoever waits behind them must not wait for ever.
fn record(accounts: &dyn Accounts, rows: &[&UsageRow]) -> ApiResult<()> {
    let recorded = std::panic::catch_unwind(AssertUnwindSafe(|| accounts.record(rows)));
    recorded.unwrap_or_else(|_| Err(ApiError::internal("keeping usage panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Key;
    use crate::running::Held;

    /// Keeps nothing as long as its disk is full.
    #[derive(Default)]
    struct Disk {
        full: AtomicBool,
        kept: Mutex<Vec<String>>,
    }

    impl Accounts for Disk {
        fn has_keys(&self) -> ApiResult<bool> {
            Ok(false)
        }

        fn find_key(&self, _: &str) -> ApiResult<Option<Key>> {
            Ok(None)
        }

        fn admit(&self, _: &Key, _: &Held) -> ApiResult<()> {
            Ok(())
        }

        fn record(&self, rows: &[&UsageRow]) -> ApiResult<()> {
            if self.full.load(Ordering::Relaxed) {
                return Err(ApiError::new(ErrorKind::StorageFull, "the disk is full"));
            }
            self.kept.lock().unwrap().extend(rows.iter().map(|row| row.request_id.clone()));
            Ok(())
        }
    }

    fn entry(ledger: &Ledger, request: &str) -> Entry {
        let row = UsageRow { request_id: request.to_owned(), ..UsageRow::default() };
        Entry { row, principal: Principal::default(), hold: None, open: ledger.open() }
    }

    #[tokio::test]
    async fn rows_of_a_full_disk_are_kept_when_it_has_room_again_and_answers_do_not_wait() {
        let (ledger, disk) = (Arc::new(Ledger::default()), Arc::new(Disk::default()));
        let accounts: Arc<dyn Accounts> = disk.clone();
        disk.full.store(true, Ordering::Relaxed);
        for request in ["first", "second"] {
            let unkept = Unkept::default();
            ledger.keep(&accounts, entry(&ledger, request), &unkept);
            unkept.settled().await;
        }
        assert_eq!(ledger.waiting().behind.len(), 2);
        ledger.check().unwrap();
        disk.full.store(false, Ordering::Relaxed);
        // Without another request.
        ledger.settle(Instant::now() + Duration::from_secs(20)).await;
        let mut kept = disk.kept.lock().unwrap().clone();
        kept.sort_unstable();
        assert_eq!(kept, ["first", "second"]);
    }

    #[tokio::test]
    async fn what_is_behind_is_written_with_what_comes_next() {
        let (ledger, disk) = (Arc::new(Ledger::default()), Arc::new(Disk::default()));
        let accounts: Arc<dyn Accounts> = disk.clone();
        disk.full.store(true, Ordering::Relaxed);
        let unkept = Unkept::default();
        ledger.keep(&accounts, entry(&ledger, "first"), &unkept);
        unkept.settled().await;
        disk.full.store(false, Ordering::Relaxed);
        ledger.keep(&accounts, entry(&ledger, "second"), &unkept);
        unkept.settled().await;
        assert_eq!(*disk.kept.lock().unwrap(), ["first", "second"]);
    }

    #[test]
    fn nothing_more_is_answered_with_too_much_behind() {
        let ledger = Arc::new(Ledger::default());
        let behind = || Counted { row: UsageRow::default(), _hold: None, _open: ledger.open(), answer: None };
        ledger.waiting().behind.extend((0..MOST_BEHIND).map(|_| behind()));
        assert_eq!(ledger.check().unwrap_err().kind, ErrorKind::StorageFull);
    }
}
