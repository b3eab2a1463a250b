//! The streaming detokenizer: tokens in, whole characters out. A token may be half a character; its bytes wait until
//! the rest arrives, so that a terminal or an event stream never shows a broken one.

use super::Tokenizer;
use alti_formats::tokenizer::TokenKind;

/// Turns a stream of tokens into text. What [`Detokenizer::push`] and [`Detokenizer::finish`] return, put together,
/// is exactly what [`Tokenizer::decode`] returns for all tokens at once.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    pending: Vec<u8>,
    spell_specials: bool,
    drop_space: bool,
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        let drop_space = tokenizer.prefixes_space();
        Self { tokenizer, pending: Vec::new(), spell_specials: false, drop_space }
    }

    /// Spells control tokens out instead of leaving them out.
    pub fn spelling_specials(mut self) -> Self {
        self.spell_specials = true;
        self
    }

    /// Continues a text instead of starting one: the space in front of the first word is kept.
    pub fn continuing(mut self) -> Self {
        self.drop_space = false;
        self
    }

    /// Takes the next token; returns the characters it completes (often one token's text, sometimes none).
    pub fn push(&mut self, token: u32) -> String {
        let kind = self.tokenizer.kind(token);
        let hidden = matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::Unused);
        if hidden && !self.spell_specials {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(token);
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// Whether no bytes wait for the rest of their character.
    pub fn is_between_characters(&self) -> bool {
        self.pending.is_empty()
    }

    /// Ends the stream: bytes of a character that never was completed become U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    fn take_complete(&mut self) -> String {
        let complete = match std::str::from_utf8(&self.pending) {
            Ok(_) => self.pending.len(),
            Err(_) => self.pending.len() - incomplete_tail(&self.pending),
        };
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }
}

/// How many bytes at the end are the beginning of a character that more bytes may complete.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let is_incomplete =
        |tail: &[u8]| matches!(std::str::from_utf8(tail), Err(error) if error.error_len().is_none());
    let starts_character = |byte: u8| byte >= 0xC0;
    (1..=bytes.len().min(3))
        .find(|&length| starts_character(bytes[bytes.len() - length]))
        .filter(|&length| is_incomplete(&bytes[bytes.len() - length..]))
        .unwrap_or(0)
}
