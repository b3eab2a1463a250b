//! Where the time of steps goes: thread 0's clock at every operation, folded by what was done.
//!
//! Reading the clock twice an operation costs some 50 ns each, so nothing is measured unless asked.

use super::ops::Op;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time that one kind of operation took, on thread 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileLine {
    /// Operations run.
    pub count: u64,
    /// Waiting at barriers before them.
    pub waiting: Duration,
    /// Running them.
    pub running: Duration,
}

/// Time by kind of operation, over the steps since the profile began.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// By what [`Op::label`] says.
    pub lines: BTreeMap<String, ProfileLine>,
}

impl Profile {
    /// Adds an operation that has run.
    pub(super) fn add(&mut self, op: &Op, waiting: Duration, running: Duration) {
        let line = self.lines.entry(op.label()).or_default();
        line.count += 1;
        line.waiting += waiting;
        line.running += running;
    }
}
