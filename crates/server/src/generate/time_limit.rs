//! How long an answer may take: what editors ask for that show a completion now or not at all.

use std::time::{Duration, Instant};

/// A limit on the time from the first token on. As llama.cpp's server has it, a line is written to its end: the limit holds
/// once the text has a new line.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimit {
    most: Duration,
    first: Option<Instant>,
    has_new_line: bool,
}

impl TimeLimit {
    pub(super) fn new(most: Duration) -> TimeLimit {
        TimeLimit { most, first: None, has_new_line: false }
    }

    /// Takes the text of a token that came at `now`; whether the answer has to end with it.
    pub(super) fn ends_with(&mut self, text: &str, now: Instant) -> bool {
        let first = *self.first.get_or_insert(now);
        self.has_new_line |= text.contains('\n');
        self.has_new_line && now.duration_since(first) > self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_when_its_time_is_over_and_a_line_is_written() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut limit = TimeLimit::new(Duration::from_millis(10));
        assert!(!limit.ends_with("a", at(5)), "time counts from the first token");
        assert!(!limit.ends_with("b", at(50)), "no line is written yet");
        assert!(limit.ends_with("c\n", at(51)) && limit.ends_with("d", at(52)));
        let mut limit = TimeLimit::new(Duration::from_millis(10));
        assert!(!limit.ends_with("\n", at(0)) && !limit.ends_with("a", at(10)));
        assert!(limit.ends_with("b", at(11)));
    }
}
