//! Threads that run one closure together, with barriers inside.
//!
//! A decode step of a small model takes less than a millisecond and has a hundred dependent
//! operations, so threads must not be woken for each: a step is one region, [`Pool::run`], and
//! between operations threads meet at a [`Region::barrier`], which costs a fraction of a
//! microsecond. Who waits spins at first, then yields to whoever else wants the core, then, between
//! regions, sleeps.
//!
//! The calling thread takes part as thread 0. A panic in any thread poisons the barrier: all others
//! leave the region at their next one, and the region returns an error.

use crate::CpuError;
use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};

/// How a pool is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Threads, the caller's included; at least 1.
    pub threads: usize,
    /// Whether each worker stays on a core of its own, where there are enough of them.
    pub pin: bool,
}

/// A region was left because another of its threads panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// Looks at a flag this often before it yields. A look takes some 10 to 40 ns, or longer where something is done between
/// looks: tens of microseconds in all, more than any operation's imbalance and less than a time slice.
const SPINS: u32 = 2_000;
/// Yields this often before it sleeps.
const YIELDS: u32 = 200;

type Job<'a> = dyn Fn(&Region<'_>) -> Result<(), Poisoned> + Sync + 'a;

/// What a region starts with, in one cache line: the fewer lines move between cores, the faster.
#[repr(align(64))]
struct Start {
    /// Counts regions; a change starts one.
    generation: AtomicU32,
    /// The closure of the current region.
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Set before the last generation.
    stop: AtomicBool,
}

#[repr(align(64))]
struct Barrier {
    /// Threads that have arrived at the current barrier.
    arrived: AtomicUsize,
    /// Counts barriers; a change opens one.
    phase: AtomicU32,
    /// Whether a thread has panicked.
    poisoned: AtomicBool,
}

#[repr(align(64))]
struct Sleeper(AtomicBool);

struct Shared {
    start: Start,
    barrier: Barrier,
    /// Workers that have not finished the current region.
    running: AtomicUsize,
    /// Which workers sleep.
    sleepers: Vec<Sleeper>,
    /// The first panic of the current region.
    panic: Mutex<Option<(usize, String)>>,
    threads: usize,
    spins: u32,
}

// SAFETY: `start.job` is the only part that is not `Sync`. Thread 0 writes it while no worker runs
// (`running` is 0), before it changes `generation` (release); workers read it after they have seen
// the change (acquire) and before they decrement `running`. The pointer is to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// A group of threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

/// A thread's view of the region it runs.
pub struct Region<'a> {
    shared: &'a Shared,
    thread: usize,
}

impl Region<'_> {
    /// This thread's number, from 0.
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Threads in the region.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// This thread's share of `count` pieces ([`share`]).
    pub fn share(&self, count: usize) -> Range<usize> {
        share(count, self.thread, self.threads())
    }

    /// Waits until all threads are here; what they wrote before is visible after.
    ///
    /// # Errors
    /// When a thread has panicked: leave the region then.
    pub fn barrier(&self) -> Result<(), Poisoned> {
        self.barrier_while(|| ())
    }

    /// As [`Region::barrier`], doing something short again and again while it waits.
    ///
    /// # Errors
    /// As [`Region::barrier`].
    pub fn barrier_while(&self, mut idle: impl FnMut()) -> Result<(), Poisoned> {
        let barrier = &self.shared.barrier;
        if barrier.poisoned.load(Ordering::Relaxed) {
            return Err(Poisoned);
        }
        let phase = barrier.phase.load(Ordering::Relaxed);
        if barrier.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.shared.threads {
            barrier.arrived.store(0, Ordering::Relaxed);
            barrier.phase.store(phase.wrapping_add(1), Ordering::Release);
            return Ok(());
        }
        wait_until(self.shared.spins, || {
            let done =
                barrier.phase.load(Ordering::Acquire) != phase || barrier.poisoned.load(Ordering::Relaxed);
            if !done {
                idle();
            }
            done
        });
        // A poisoned region may still have opened this barrier; then all others passed it, too.
        if barrier.phase.load(Ordering::Acquire) == phase { Err(Poisoned) } else { Ok(()) }
    }
}

/// The run of `count` pieces that is thread `thread`'s of `threads`: in thread order, equal up to one.
pub(crate) fn share(count: usize, thread: usize, threads: usize) -> Range<usize> {
    count * thread / threads..count * (thread + 1) / threads
}

/// Spins, then yields, until `done`.
#[inline]
fn wait_until(spins: u32, mut done: impl FnMut() -> bool) {
    for _ in 0..spins {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        thread::yield_now();
    }
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses one.
    pub fn new(options: PoolOptions) -> Result<Self, CpuError> {
        let threads = options.threads.max(1);
        let cores = affinity::allowed_cores();
        let crowded = threads > cores.len().max(1);
        let shared = Arc::new(Shared {
            start: Start {
                generation: AtomicU32::new(0),
                job: UnsafeCell::new(None),
                stop: AtomicBool::new(false),
            },
            barrier: Barrier {
                arrived: AtomicUsize::new(0),
                phase: AtomicU32::new(0),
                poisoned: AtomicBool::new(false),
            },
            running: AtomicUsize::new(0),
            sleepers: (0..threads).map(|_| Sleeper(AtomicBool::new(false))).collect(),
            panic: Mutex::new(None),
            threads,
            // With more threads than cores, who is waited for may be waiting for this core.
            spins: if crowded { 1 } else { SPINS },
        });
        let mut pool = Self { shared, workers: Vec::new(), handles: Vec::new() };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let core = cores.get(thread).copied().filter(|_| options.pin && !crowded);
            let worker = thread::Builder::new().name(format!("alti-cpu-{thread}")).spawn(move || {
                if let Some(core) = core {
                    affinity::pin(core);
                }
                work(&shared, thread);
            });
            // On failure the pool is dropped, which ends the threads that have started.
            let worker = worker.map_err(|error| CpuError::Spawn { thread, reason: error.to_string() })?;
            pool.handles.push(worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `job` once on every thread, and returns when all have finished.
    ///
    /// # Errors
    /// When `job` panicked on a thread. The pool can be used again.
    pub fn run(&mut self, job: impl Fn(&Region<'_>) -> Result<(), Poisoned> + Sync) -> Result<(), CpuError> {
        let shared = &*self.shared;
        let job: &Job<'_> = &job;
        shared.barrier.arrived.store(0, Ordering::Relaxed);
        shared.barrier.poisoned.store(false, Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        // SAFETY: no worker runs: `running` was 0 when the last call returned. The lifetime is
        // hidden from the workers only until `running` is 0 again, below, which nothing can skip.
        unsafe { *shared.start.job.get() = Some(std::mem::transmute::<&Job<'_>, _>(job)) };
        self.wake();
        run_one(shared, 0, job);
        wait_until(shared.spins, || shared.running.load(Ordering::Acquire) == 0);
        let panic = shared.panic.lock().unwrap_or_else(|poison| poison.into_inner()).take();
        match panic {
            None => Ok(()),
            Some((thread, message)) => Err(CpuError::WorkerPanicked { thread, message }),
        }
    }

    /// Starts a generation, and wakes who sleeps.
    fn wake(&self) {
        // Sequentially consistent with the sleepers' own flag and look: either they see the new
        // generation, or we see that they sleep.
        self.shared.start.generation.fetch_add(1, Ordering::SeqCst);
        for (worker, sleeper) in self.handles.iter().zip(&self.shared.sleepers[1..]) {
            if sleeper.0.load(Ordering::SeqCst) {
                worker.unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.start.stop.store(true, Ordering::Relaxed);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs and has no others.
            let _ = worker.join();
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, thread: usize) {
    let mut seen = 0;
    loop {
        seen = next_generation(shared, thread, seen);
        if shared.start.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: see `Sync for Shared`: a generation has started and this worker has not finished.
        if let Some(job) = unsafe { *shared.start.job.get() } {
            // SAFETY: `Pool::run` keeps the closure alive until this worker has finished.
            run_one(shared, thread, unsafe { &*job });
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a generation after `seen`: spins, yields, sleeps.
fn next_generation(shared: &Shared, thread: usize, seen: u32) -> u32 {
    let current = || shared.start.generation.load(Ordering::Acquire);
    for _ in 0..shared.spins {
        if current() != seen {
            return current();
        }
        std::hint::spin_loop();
    }
    for _ in 0..YIELDS {
        if current() != seen {
            return current();
        }
        thread::yield_now();
    }
    let sleeps = &shared.sleepers[thread].0;
    sleeps.store(true, Ordering::SeqCst);
    while shared.start.generation.load(Ordering::SeqCst) == seen {
        thread::park();
    }
    sleeps.store(false, Ordering::Relaxed);
    current()
}

/// Runs the job on this thread; a panic is written down and poisons the barrier.
fn run_one(shared: &Shared, thread: usize, job: &Job<'_>) {
    let region = Region { shared, thread };
    // After a panic the caller gets an error and nothing of the region's results.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(&region))) {
        let mut first = shared.panic.lock().unwrap_or_else(|poison| poison.into_inner());
        first.get_or_insert_with(|| (thread, message_of(&*payload)));
        drop(first);
        shared.barrier.poisoned.store(true, Ordering::Release);
    }
}

/// The text of a panic.
fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Which cores this process may use, and staying on one.
mod affinity {
    /// The cores this thread may run on; where the system does not say, as many as it reports.
    #[cfg(target_os = "linux")]
    pub(super) fn allowed_cores() -> Vec<usize> {
        // SAFETY: an all-zero set is a valid, empty one; the call fills no more than its size.
        let (set, result) = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            let result = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
            (set, result)
        };
        if result != 0 {
            return counted();
        }
        // SAFETY: the index is within the set.
        (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn allowed_cores() -> Vec<usize> {
        counted()
    }

    fn counted() -> Vec<usize> {
        (0..std::thread::available_parallelism().map_or(1, |count| count.get())).collect()
    }

    /// Keeps this thread on `core`; where that is refused it stays free, which is only slower.
    #[cfg(target_os = "linux")]
    pub(super) fn pin(core: usize) {
        // SAFETY: an all-zero set is a valid, empty one; `core` came from a set of the same size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn pin(_core: usize) {}
}
