//! When an answer ends: the reasons, and the search for stop strings in a stream of text. A stop
//! string may be spread over several tokens, so text that could be the beginning of one is held
//! back until the next text decides; no part of a stop string is ever let through.

use std::fmt;

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it with this token.
    StopToken(u32),
    /// This stop string appeared; it is not part of the answer.
    StopString(String),
    /// The answer has as many tokens as were allowed.
    Length,
    /// The context is full.
    ContextFull,
    /// What the text has to obey allows no more.
    GrammarEnd,
    /// The user or the caller cancelled it.
    Cancelled,
    /// Its deadline passed.
    TimedOut,
}

impl FinishReason {
    /// The reason in a word, as in JSON output.
    pub fn name(&self) -> &'static str {
        match self {
            FinishReason::StopToken(_) => "stop_token",
            FinishReason::StopString(_) => "stop_string",
            FinishReason::Length => "length",
            FinishReason::ContextFull => "context_full",
            FinishReason::GrammarEnd => "grammar_end",
            FinishReason::Cancelled => "cancelled",
            FinishReason::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Text that a [`StopMatcher`] lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Text that is certainly part of the answer.
    pub text: String,
    /// The stop string that ended the answer, if one has.
    pub stop: Option<String>,
}

/// Searches a stream of text for stop strings. The answer ends where the first of them is complete;
/// if several are complete at the same byte, the longest counts, as it began first. So the
/// result does not depend on how the text was cut into pieces.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that could be the beginning of a stop string.
    held: String,
    stopped: Option<usize>,
}

impl StopMatcher {
    /// A matcher for these strings. Empty ones, which would match everywhere, are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        let patterns = stops.map(|stop| Pattern::new(stop.clone())).collect();
        Self { patterns, held: String::new(), stopped: None }
    }

    /// Takes the next piece of text and returns what is now certain. After a stop string nothing
    /// more comes.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.stopped.is_none() {
            let held = self.held.len();
            self.held.push_str(piece);
            self.stopped = self.find(held);
        }
        let text = match self.stopped {
            Some(_) => std::mem::take(&mut self.held),
            None => {
                let open = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
                let rest = self.held.split_off(self.held.len() - open);
                std::mem::replace(&mut self.held, rest)
            }
        };
        Released { text, stop: self.stopped.map(|index| self.patterns[index].stop.clone()) }
    }

    /// Whether there is text that could be the beginning of a stop string.
    pub fn holds_back(&self) -> bool {
        !self.held.is_empty()
    }

    /// The stream has ended: what was held back is part of the answer after all.
    pub fn finish(self) -> String {
        self.held
    }

    /// Looks for the end of a stop string from byte `start` of the held text on, and cuts it off
    /// with all that follows.
    fn find(&mut self, start: usize) -> Option<usize> {
        for end in start..self.held.len() {
            let byte = self.held.as_bytes()[end];
            let mut complete: Option<usize> = None;
            for index in 0..self.patterns.len() {
                let longer = complete
                    .is_none_or(|best| self.patterns[best].stop.len() < self.patterns[index].stop.len());
                if self.patterns[index].advance(byte) && longer {
                    complete = Some(index);
                }
            }
            if let Some(index) = complete {
                self.held.truncate(end + 1 - self.patterns[index].stop.len());
                return Some(index);
            }
        }
        None
    }
}

/// One stop string as a Knuth-Morris-Pratt automaton: each byte of the text is looked at once.
#[derive(Clone, Debug)]
struct Pattern {
    stop: String,
    /// `borders[n]`: length of the longest proper prefix of the first `n + 1` bytes that also ends
    /// them.
    borders: Vec<usize>,
    /// How many bytes of the stop string the text now ends with.
    matched: usize,
}

impl Pattern {
    fn new(stop: String) -> Self {
        let mut borders = vec![0; stop.len()];
        let mut border = 0;
        for index in 1..stop.len() {
            border = extend(stop.as_bytes(), &borders, border, stop.as_bytes()[index]);
            borders[index] = border;
        }
        Self { stop, borders, matched: 0 }
    }

    /// Takes the next byte of the text; whether the stop string is complete with it.
    fn advance(&mut self, byte: u8) -> bool {
        self.matched = extend(self.stop.as_bytes(), &self.borders, self.matched, byte);
        self.matched == self.stop.len()
    }
}

/// The length of the longest prefix of `stop` that ends a text whose longest was `matched`, after
/// one more byte. `matched` is less than the whole.
fn extend(stop: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && stop[matched] != byte {
        matched = borders[matched - 1];
    }
    matched + usize::from(stop[matched] == byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>())
    }

    /// Every piece's released text, and the rest at the end; which stop string ended it.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut matcher = matcher(stops);
        let mut texts = Vec::new();
        for piece in pieces {
            let released = matcher.push(piece);
            texts.push(released.text);
            if released.stop.is_some() {
                assert_eq!(matcher.push("more").text, "");
                assert_eq!(matcher.finish(), "");
                return (texts, released.stop);
            }
        }
        texts.push(matcher.finish());
        (texts, None)
    }

    fn check(stops: &[&str], pieces: &[&str], expected: &[&str], stop: Option<&str>) {
        let (texts, stopped) = run(stops, pieces);
        assert_eq!(texts, expected);
        assert_eq!(stopped.as_deref(), stop);
    }

    #[test]
    fn holds_back_what_could_become_a_stop_string() {
        check(&["END"], &["an E", "N", "D of"], &["an ", "", ""], Some("END"));
        check(&["END"], &["an E", "N", "Ergy"], &["an ", "", "ENErgy", ""], None);
        check(&["END"], &["an E", "N"], &["an ", "", "EN"], None);
        check(&["aab"], &["aa", "a", "b"], &["", "a", ""], Some("aab"));
        check(&[], &["any", "thing"], &["any", "thing", ""], None);
    }

    #[test]
    fn the_first_to_be_complete_wins_and_then_the_longest() {
        check(&["abcd", "bc"], &["xabcd"], &["xa"], Some("bc"));
        check(&["b", "ab"], &["xab"], &["x"], Some("ab"));
        check(&["ab", "b"], &["xa", "b"], &["x", ""], Some("ab"));
    }

    #[test]
    fn characters_are_never_cut() {
        // The first byte of both characters is the same.
        check(&["\u{e9}"], &["caf\u{e8}", "\u{e9}!"], &["caf\u{e8}", ""], Some("\u{e9}"));
        check(&["\u{1f600}\u{1f601}"], &["\u{1f600}", "\u{1f602}"], &["", "\u{1f600}\u{1f602}", ""], None);
    }

    /// The definition: the text before the stop string that is complete first.
    fn expected<'a>(stops: &[String], text: &'a str) -> &'a str {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ended = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
            if let Some(length) = ended.map(String::len).max() {
                return &text[..end - length];
            }
        }
        text
    }

    proptest! {
        #[test]
        fn any_split_gives_the_text_up_to_the_first_stop(
            pieces in prop::collection::vec("[ab\u{e9}\u{e8}\u{1f600}]{0,4}", 0..12),
            stops in prop::collection::vec("[ab\u{e9}\u{1f600}]{1,4}", 0..4),
        ) {
            let text: String = pieces.concat();
            let mut matcher = StopMatcher::new(&stops);
            let mut answer = String::new();
            let mut stopped = false;
            for piece in &pieces {
                let released = matcher.push(piece);
                answer.push_str(&released.text);
                stopped = released.stop.is_some();
                // What is out is right at every moment, and no more is held than could matter.
                prop_assert!(expected(&stops, &text).starts_with(&answer));
            }
            answer.push_str(&matcher.finish());
            let expected = expected(&stops, &text);
            prop_assert_eq!(&answer, expected);
            prop_assert_eq!(stopped, expected.len() < text.len());
        }
    }
}
