//! What a pull tells whoever is watching, and how the watcher tells it to stop.
//!
//! The store prints nothing. A caller hands in a [`Progress`] and draws bars, writes JSON lines or
//! ignores it. Byte counts are absolute, not increments, so an observer that misses or merges
//! events still shows the truth; a rate is the observer's to compute.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::HubError;

/// Something that happened during a pull or a verification.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A source is being asked what it has.
    Resolving {
        /// The source, as a person would name it.
        source: &'a str,
    },
    /// The files to fetch are known.
    Planned {
        /// The model's name in the store, or the package that brings it.
        model: &'a str,
        /// Number of files.
        files: usize,
        /// Size of all files in bytes.
        total: u64,
        /// Bytes of it that are here already (complete files and earlier partial downloads).
        present: u64,
    },
    /// Another process or thread is fetching the same thing; this pull waits and shares its result.
    Waiting {
        /// What is being waited for.
        what: &'a str,
    },
    /// Bytes arrived.
    Bytes {
        /// The file, by its name in the model.
        file: &'a str,
        /// Bytes of this file that are on disk.
        file_done: u64,
        /// Size of this file in bytes; 0 while it is unknown.
        file_size: u64,
        /// Bytes of all files that are on disk.
        done: u64,
        /// Size of all files in bytes; 0 while it is unknown.
        total: u64,
    },
    /// A complete file is being hashed.
    Verifying {
        /// The file, by its name in the model.
        file: &'a str,
        /// Bytes hashed.
        done: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// A file is complete, verified and in the store.
    FileDone {
        /// The file, by its name in the model.
        file: &'a str,
        /// Its size in bytes.
        size: u64,
        /// Whether nothing had to be fetched because the store had the contents.
        already_present: bool,
    },
    /// A request failed and will be repeated.
    Retrying {
        /// The address or file.
        what: &'a str,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// Why it failed.
        reason: &'a str,
        /// The pause before the next attempt.
        pause: Duration,
    },
    /// A source of a catalogue model failed and the next one is tried.
    SourceFailed {
        /// The source, as a person would name it.
        source: &'a str,
        /// Why.
        error: &'a HubError,
    },
}

/// Receives events, from any thread.
pub trait Progress: Send + Sync {
    /// Called for each event, on the thread that caused it; it should return quickly.
    fn event(&self, event: Event<'_>);
}

impl<F: Fn(Event<'_>) + Send + Sync> Progress for F {
    fn event(&self, event: Event<'_>) {
        self(event);
    }
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// The caller's side of a running operation: who watches, and the flag that stops it.
#[derive(Clone, Copy)]
pub struct Observer<'a> {
    progress: &'a dyn Progress,
    cancel: &'a AtomicBool,
}

impl<'a> Observer<'a> {
    /// `cancel` turns true (from a signal handler, say) when the operation should stop.
    pub fn new(progress: &'a dyn Progress, cancel: &'a AtomicBool) -> Self {
        Observer { progress, cancel }
    }

    pub(crate) fn emit(&self, event: Event<'_>) {
        self.progress.event(event);
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// An error once the caller wants to stop.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        if self.cancelled() { Err(HubError::Cancelled) } else { Ok(()) }
    }

    /// Sleeps in slices, so that a request to stop is honoured within a tenth of a second.
    pub(crate) fn sleep(&self, pause: Duration) -> Result<(), HubError> {
        let end = Instant::now() + pause;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

/// Byte counts of a whole pull, shared by its connections, reporting at most every 50 ms.
pub(crate) struct Meter<'a> {
    observer: Observer<'a>,
    total: u64,
    /// Bytes of the files that are finished.
    finished: AtomicU64,
    last_report: Mutex<Option<Instant>>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(observer: Observer<'a>, total: u64) -> Self {
        Meter { observer, total, finished: AtomicU64::new(0), last_report: Mutex::new(None) }
    }

    pub(crate) fn observer(&self) -> Observer<'a> {
        self.observer
    }

    /// Reports that `file_done` of `file_size` bytes of a file are here, if the last report is old.
    pub(crate) fn bytes(&self, file: &str, file_done: u64, file_size: u64) {
        let mut last = self.last_report.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let due = last.is_none_or(|at| at.elapsed() >= Duration::from_millis(50));
        if !due && file_done != file_size {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        let done = self.finished.load(Ordering::Relaxed) + file_done;
        let total = self.total;
        self.observer.emit(Event::Bytes { file, file_done, file_size, done, total });
    }

    /// Counts a file as finished and says so.
    pub(crate) fn file_done(&self, file: &str, size: u64, already_present: bool) {
        self.finished.fetch_add(size, Ordering::Relaxed);
        self.observer.emit(Event::FileDone { file, size, already_present });
    }
}
