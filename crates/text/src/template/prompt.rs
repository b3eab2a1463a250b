//! A rendered prompt: one text whose parts remember whether control tokens may be read out of them.

use crate::tokenizer::{Segment, Specials, Tokenizer};

/// What a template rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
}

impl Prompt {
    /// A prompt put together by hand.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self { segments }
    }

    /// Takes rendered text apart: a character with a mark behind it is untrusted, the marks go away.
    pub(super) fn from_marked(rendered: &str, mark: char) -> Self {
        let mut prompt = Self::default();
        let mut pieces = rendered.split(mark).peekable();
        while let Some(piece) = pieces.next() {
            let marked =
                if pieces.peek().is_some() { piece.chars().next_back().map_or(0, char::len_utf8) } else { 0 };
            let (trusted, untrusted) = piece.split_at(piece.len() - marked);
            prompt.push(trusted, Specials::Parse);
            prompt.push(untrusted, Specials::AsText);
        }
        prompt
    }

    fn push(&mut self, text: &str, specials: Specials) {
        match self.segments.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.specials == specials => last.text.push_str(text),
            _ => self.segments.push(Segment { text: text.to_owned(), specials }),
        }
    }

    /// The parts, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.segments.iter().map(|segment| segment.text.as_str()).collect()
    }

    /// The tokens. A begin-of-sequence token is there if the template wrote one, as in the reference implementation.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        tokenizer.encode_segments(&self.segments)
    }
}
