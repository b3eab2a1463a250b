//! Text that stops growing at a limit: what prints values does not know how much there will be of them.

/// A text of at most so many bytes.
pub(super) struct BoundedText {
    text: String,
    limit: usize,
    overflowed: bool,
}

impl BoundedText {
    /// An empty text that takes `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { text: String::new(), limit, overflowed: false }
    }

    /// Appends `text`, unless it is too much.
    pub(super) fn push_str(&mut self, text: &str) {
        if text.len() > self.limit - self.text.len() {
            self.overflowed = true;
        } else {
            self.text.push_str(text);
        }
    }

    /// Appends a character, unless it is too much.
    pub(super) fn push(&mut self, character: char) {
        self.push_str(character.encode_utf8(&mut [0; 4]));
    }

    /// The text, or nothing if it would have been longer than the limit.
    pub(super) fn finish(self) -> Option<String> {
        (!self.overflowed).then_some(self.text)
    }
}

impl std::fmt::Write for BoundedText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push_str(text);
        if self.overflowed { Err(std::fmt::Error) } else { Ok(()) }
    }
}
