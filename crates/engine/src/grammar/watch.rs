//! An end to what takes too long. Nearly all that `llguidance` does is bounded by its limits; how much text it finds to
//! be forced is not, and `a{1000000000}` forces a lot. So one thread looks now and then at what is being done, and
//! cancels it.

use llguidance::CancellationHandle;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Nothing is done for longer, where it can be cancelled. What is in order takes a millisecond; the rest is for threads
/// that do not get a core.
const LONGEST: Duration = Duration::from_secs(2);
/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(250);
/// When nothing is being done.
const IDLE: u64 = u64::MAX;

/// The thread's list of what to look at. The thread ends with it.
pub(super) struct Watchdog {
    watches: Mutex<Vec<Weak<Watch>>>,
    began: Instant,
}

/// What is being done with one parser.
pub(super) struct Watch {
    /// Milliseconds from the watchdog's beginning to that of what is being done.
    since: AtomicU64,
    began: Instant,
    handle: CancellationHandle,
}

impl Watchdog {
    pub(super) fn start() -> Arc<Self> {
        let watchdog = Arc::new(Self { watches: Mutex::default(), began: Instant::now() });
        let watched = Arc::downgrade(&watchdog);
        // Without the thread, grammars work as well; only hostile ones are not stopped.
        let _ = std::thread::Builder::new().name("grammar watch".into()).spawn(move || {
            while let Some(watchdog) = watched.upgrade() {
                watchdog.look();
                drop(watchdog);
                std::thread::sleep(INTERVAL);
            }
        });
        watchdog
    }

    /// Watches what is done with the parser that `handle` cancels.
    pub(super) fn watch(&self, handle: CancellationHandle) -> Arc<Watch> {
        let watch = Arc::new(Watch { since: AtomicU64::new(IDLE), began: self.began, handle });
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&watch));
        watch
    }

    fn look(&self) {
        let now = self.began.elapsed();
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| {
            let Some(watch) = watch.upgrade() else { return false };
            let since = watch.since.load(Ordering::Relaxed);
            if since != IDLE && now.saturating_sub(Duration::from_millis(since)) > LONGEST {
                watch.handle.cancel();
            }
            true
        });
    }
}

impl Watch {
    /// Does `work`, and lets it be cancelled.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.since.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        let result = work();
        self.since.store(IDLE, Ordering::Relaxed);
        result
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.handle.is_cancelled()
    }
}
