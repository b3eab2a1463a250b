//! What lines of a batch waited for in vain: a server of tools that is away, a model that does not load. Others that lack the
//! same are told so for a while, instead of waiting as long each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For so long it is known what a line waited for in vain: about as long as it waited.
const IS_KNOWN: Duration = Duration::from_secs(15);

/// What is away, by what is said of it, and until when that is known.
#[derive(Default)]
pub(super) struct Outages(Mutex<HashMap<String, Instant>>);

impl Outages {
    /// Takes note that a line has given up now.
    pub(super) fn note(&self, problem: &str, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, until| *until > now);
        known.insert(problem.to_owned(), now + IS_KNOWN);
    }

    /// Whether this was known when a line was tried that began then.
    pub(super) fn is_known(&self, problem: &str, began: Instant) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(problem).is_some_and(|until| began <= *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_away_is_known_for_a_while() {
        let (outages, now) = (Outages::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(!outages.is_known("a is away", now));
        outages.note("a is away", now);
        assert!(outages.is_known("a is away", now + second) && !outages.is_known("b is away", now));
        let late = now + IS_KNOWN + second;
        assert!(!outages.is_known("a is away", late), "whoever comes then waits for it again");
        outages.note("b is away", late);
        assert_eq!(outages.0.lock().unwrap().len(), 1, "what is over takes no room");
    }
}
