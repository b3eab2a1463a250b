//! Taking turns: engines of one machine compute one step at a time.
//!
//! A step wants all cores, and its threads wait for each other many times within it. Two at once would wait for threads
//! that the other keeps from running; one after the other is faster for both, and in the order of asking it is fair.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Whose turn it is. Clones share the queue; whoever has none to share has the machine for itself.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    numbers: Mutex<Numbers>,
    next: Condvar,
}

#[derive(Debug, Default)]
struct Numbers {
    /// The number that the next to come gets.
    drawn: u64,
    /// The number whose turn it is.
    called: u64,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    queue: &'a Queue,
}

impl Turns {
    /// Waits for a turn.
    pub(super) fn take(&self) -> Turn<'_> {
        let queue = &*self.queue;
        let mut numbers = queue.lock();
        let mine = numbers.drawn;
        numbers.drawn += 1;
        while numbers.called != mine {
            numbers = queue.next.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { queue }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.lock().called += 1;
        self.queue.next.notify_all();
    }
}

impl PartialEq for Turns {
    fn eq(&self, other: &Turns) -> bool {
        Arc::ptr_eq(&self.queue, &other.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn one_at_a_time_and_everybody_comes_to_it() {
        let (turns, inside, done) = (Turns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            for _ in 0..200 {
                let _turn = turns.take();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                thread::yield_now();
                inside.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
        assert_eq!(done.into_inner(), 800);
    }
}
