//! Where the time of steps goes: the clock of a backend's first thread at every operation, folded by what was done.

use std::collections::BTreeMap;
use std::time::Duration;

/// Time that one kind of operation took, on the first thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileLine {
    /// Whether it multiplies by weights.
    pub product: bool,
    /// Operations run.
    pub count: u64,
    /// Waiting for other threads before them.
    pub waiting: Duration,
    /// Running them.
    pub running: Duration,
}

/// Time by kind of operation, over the steps since the profile began.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// By kind, with the shape and encoding of the weights.
    pub lines: BTreeMap<String, ProfileLine>,
}

impl Profile {
    /// Adds an operation that has run.
    pub fn add(&mut self, label: String, product: bool, waiting: Duration, running: Duration) {
        let line = self.lines.entry(label).or_default();
        line.product = product;
        line.count += 1;
        line.waiting += waiting;
        line.running += running;
    }
}
