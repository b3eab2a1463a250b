//! Units of work that threads take as they get to them.
//!
//! Where there is much to do (prompts, large batches, the output matrix), equal shares end at different times: cores differ, share caches
//! and clocks, or belong to somebody else for a moment. So each thread goes through its own share, and then through what
//! is left of the others'. Results do not depend on who computes them.

use super::Worker;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much of each thread's share has been taken; of one operation of one step.
#[derive(Debug)]
pub(crate) struct Claims {
    /// One for each thread. Threads take whole units, which last much longer than a cache line takes to move.
    taken: Box<[AtomicUsize]>,
}

impl Claims {
    /// Nothing has been taken yet.
    pub(crate) fn new(threads: usize) -> Claims {
        Claims { taken: (0..threads).map(|_| AtomicUsize::new(0)).collect() }
    }

    /// Calls `each` with runs of `run` units or fewer, until all of `units` have been taken by this thread or another.
    /// Every unit goes to one thread.
    pub(crate) fn take(&self, worker: &Worker, units: usize, run: usize, mut each: impl FnMut(Range<usize>)) {
        for turn in 0..worker.count {
            let owner = Worker { index: (worker.index + turn) % worker.count, ..*worker };
            let share = owner.share(units);
            loop {
                // What was computed is published by the barrier behind the operation.
                let first = share.start + self.taken[owner.index].fetch_add(run, Ordering::Relaxed);
                if first >= share.end {
                    break;
                }
                each(first..share.end.min(first + run));
            }
        }
    }

    /// The next of `units`, in order, or nothing when all have been taken; for operations that do not use shares.
    pub(crate) fn next(&self, units: usize) -> Option<usize> {
        let unit = self.taken[0].fetch_add(1, Ordering::Relaxed);
        (unit < units).then_some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use std::thread;

    #[test]
    fn every_unit_goes_to_one_thread_however_they_are_dealt_out() {
        for (threads, units, run) in [(1, 7, 3), (2, 18, 1), (3, 2, 4), (4, 33, 4), (4, 0, 1)] {
            let claims = Claims::new(threads);
            let seen: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
            thread::scope(|scope| {
                for index in 0..threads {
                    let (claims, seen) = (&claims, &seen);
                    scope.spawn(move || {
                        let worker = Worker { index, count: threads, isa: Isa::SCALAR };
                        claims.take(&worker, units, run, |range| {
                            assert!(range.len() <= run && !range.is_empty());
                            range.for_each(|unit| _ = seen[unit].fetch_add(1, Ordering::Relaxed));
                        });
                    });
                }
            });
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} {units} {run}");
        }
    }

    #[test]
    fn one_thread_takes_what_the_others_leave() {
        let claims = Claims::new(3);
        let mut order = Vec::new();
        claims.take(&Worker { index: 1, count: 3, isa: Isa::SCALAR }, 9, 2, |range| order.push(range));
        assert_eq!(order, [3..5, 5..6, 6..8, 8..9, 0..2, 2..3], "its own share first");
        let all = Claims::new(2);
        assert_eq!([all.next(2), all.next(2), all.next(2)], [Some(0), Some(1), None]);
    }
}
