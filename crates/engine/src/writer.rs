//! An answer's tokens on their way to text: through the detokenizer and the search for stop strings.

use crate::sampling::SamplerSettings;
use crate::stop::{Released, StopMatcher};
use alti_text::{Detokenizer, Tokenizer};

/// What turns one answer's tokens into its text.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    detokenizer: Detokenizer,
    stops: StopMatcher,
    looks_for_stops: bool,
    bytes_read: usize,
}

impl Writer {
    pub(crate) fn new(tokenizer: &Tokenizer, settings: &SamplerSettings, spell_specials: bool) -> Writer {
        let detokenizer = tokenizer.detokenizer().continuing();
        let detokenizer = if spell_specials { detokenizer.spelling_specials() } else { detokenizer };
        let looks_for_stops = settings.stop.iter().any(|stop| !stop.is_empty());
        Writer { detokenizer, stops: StopMatcher::new(&settings.stop), looks_for_stops, bytes_read: 0 }
    }

    /// Takes a token; returns the text that is certain with it, and the stop string that it completed.
    pub(crate) fn push(&mut self, token: u32) -> Released {
        let piece = self.detokenizer.push(token);
        self.bytes_read += piece.len();
        self.stops.push(&piece)
    }

    /// Bytes of the text so far, what is held back included.
    pub(crate) fn bytes_read(&self) -> usize {
        self.bytes_read
    }

    /// Whether anything is ever held back for a stop string.
    pub(crate) fn looks_for_stops(&self) -> bool {
        self.looks_for_stops
    }

    /// Whether the last tokens may turn out to be those of a stop string.
    pub(crate) fn holds_back(&self) -> bool {
        self.looks_for_stops && (self.stops.holds_back() || !self.detokenizer.is_between_characters())
    }

    /// The text that was held back, of an answer that no stop string ended.
    pub(crate) fn finish(&mut self) -> String {
        let rest = self.detokenizer.finish();
        let mut text = self.stops.push(&rest).text;
        text.push_str(&std::mem::replace(&mut self.stops, StopMatcher::new(&[])).finish());
        text
    }
}
