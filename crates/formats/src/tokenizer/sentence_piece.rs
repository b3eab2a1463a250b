//! SentencePiece's `tokenizer.model` of Llama 2: a protobuf message (`sentencepiece_model.proto`),
//! of which the pieces, their scores and kinds, and a few settings matter. Fields that are not
//! known are skipped.

use super::json::MAX_TOKENS;
use super::{Token, TokenKind, TokenizerModel, Vocabulary};
use crate::FormatError;
use std::path::Path;

/// One field of a message: its number, and its value by wire type.
struct Field<'a> {
    number: u64,
    value: Wire<'a>,
}

enum Wire<'a> {
    Varint(u64),
    Bits32(u32),
    Bytes(&'a [u8]),
    Other,
}

/// A cursor over a message.
struct Message<'a> {
    whole: &'a [u8],
    at: usize,
    /// Offset of the message in the file.
    base: usize,
    path: &'a Path,
}

impl<'a> Message<'a> {
    fn fail<T>(&self, problem: &str) -> Result<T, FormatError> {
        Err(FormatError::malformed(self.path, (self.base + self.at) as u64, problem))
    }

    fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.whole.get(self.at) else { return self.fail("ends within a number") };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.fail("a number of more than 64 bits")
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], FormatError> {
        let left = &self.whole[self.at..];
        if length > left.len() as u64 {
            return self.fail("a field reaches beyond the end of the file (truncated or damaged)");
        }
        self.at += length as usize;
        Ok(&left[..length as usize])
    }

    fn next(&mut self) -> Result<Option<Field<'a>>, FormatError> {
        if self.at == self.whole.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Other
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let raw = self.take(4)?;
                Wire::Bits32(raw.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte)))
            }
            _ => return self.fail("a field of unknown wire type (is this a SentencePiece model?)"),
        };
        Ok(Some(Field { number: tag >> 3, value }))
    }

    /// The message in the field just read.
    fn inner(&self, bytes: &'a [u8]) -> Self {
        Self { whole: bytes, at: 0, base: self.base + self.at - bytes.len(), path: self.path }
    }
}

/// Reads a SentencePiece BPE model.
///
/// # Errors
/// When the file is damaged, no SentencePiece model, or one of another algorithm than BPE.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vocabulary, FormatError> {
    let mut message = Message { whole: bytes, at: 0, base: 0, path };
    let mut vocabulary = Vocabulary::new(TokenizerModel::SentencePiece, Vec::new());
    (vocabulary.unknown, vocabulary.bos, vocabulary.eos) = (Some(0), Some(1), Some(2));
    (vocabulary.add_bos, vocabulary.add_space_prefix) = (Some(true), Some(true));
    while let Some(field) = message.next()? {
        match (field.number, field.value) {
            (1, Wire::Bytes(_)) if vocabulary.tokens.len() == MAX_TOKENS => {
                return message.fail(&format!("has more than {MAX_TOKENS} pieces"));
            }
            (1, Wire::Bytes(piece)) => vocabulary.tokens.push(read_piece(message.inner(piece))?),
            (2, Wire::Bytes(trainer)) => read_trainer(message.inner(trainer), &mut vocabulary)?,
            (3, Wire::Bytes(normalizer)) => read_normalizer(message.inner(normalizer), &mut vocabulary)?,
            _ => {}
        }
    }
    if vocabulary.tokens.is_empty() {
        return Err(FormatError::malformed(path, 0, "has no pieces (is this a SentencePiece model?)"));
    }
    Ok(vocabulary)
}

fn read_piece(mut message: Message<'_>) -> Result<Token, FormatError> {
    let mut token = Token { text: String::new(), kind: TokenKind::Normal, score: 0.0 };
    while let Some(field) = message.next()? {
        match (field.number, field.value) {
            (1, Wire::Bytes(text)) => match std::str::from_utf8(text) {
                Ok(text) => token.text = text.to_owned(),
                Err(_) => return message.fail("a piece is not UTF-8 text"),
            },
            (2, Wire::Bits32(bits)) => token.score = f32::from_bits(bits),
            (3, Wire::Varint(kind)) => match TokenKind::from_number(kind as i64) {
                Some(kind) => token.kind = kind,
                None => return message.fail("a piece of unknown kind"),
            },
            _ => {}
        }
    }
    Ok(token)
}

fn read_trainer(mut message: Message<'_>, vocabulary: &mut Vocabulary) -> Result<(), FormatError> {
    while let Some(field) = message.next()? {
        let Wire::Varint(value) = field.value else { continue };
        // Absent tokens are -1.
        let id = u32::try_from(value).ok();
        match field.number {
            3 if value != 2 => return message.fail("is not a BPE model; Llama's are"),
            40 => vocabulary.unknown = id,
            41 => vocabulary.bos = id,
            42 => vocabulary.eos = id,
            43 => vocabulary.padding = id,
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer(mut message: Message<'_>, vocabulary: &mut Vocabulary) -> Result<(), FormatError> {
    while let Some(field) = message.next()? {
        match (field.number, field.value) {
            (2, Wire::Bytes(map)) if !map.is_empty() => {
                return message.fail("normalises characters by a table; Llama's models do not");
            }
            (3, Wire::Varint(value)) => vocabulary.add_space_prefix = Some(value != 0),
            _ => {}
        }
    }
    Ok(())
}

/// The file of a vocabulary.
pub(super) fn write(vocabulary: &Vocabulary) -> Vec<u8> {
    let mut file = Vec::new();
    for token in &vocabulary.tokens {
        let mut piece = Vec::new();
        push_bytes(&mut piece, 1, token.text.as_bytes());
        push_varint(&mut piece, 2 << 3 | 5);
        piece.extend(token.score.to_le_bytes());
        if token.kind != TokenKind::Normal {
            push_number(&mut piece, 3, token.kind as u64);
        }
        push_bytes(&mut file, 1, &piece);
    }
    let mut trainer = Vec::new();
    push_number(&mut trainer, 3, 2);
    push_number(&mut trainer, 4, vocabulary.tokens.len() as u64);
    push_number(&mut trainer, 35, 1);
    let absent = u64::MAX;
    for (number, id) in
        [(40, vocabulary.unknown), (41, vocabulary.bos), (42, vocabulary.eos), (43, vocabulary.padding)]
    {
        push_number(&mut trainer, number, id.map_or(absent, u64::from));
    }
    push_bytes(&mut file, 2, &trainer);
    let mut normalizer = Vec::new();
    push_bytes(&mut normalizer, 1, b"identity");
    push_number(&mut normalizer, 3, u64::from(vocabulary.add_space_prefix.unwrap_or(true)));
    push_number(&mut normalizer, 4, 0);
    push_number(&mut normalizer, 5, 1);
    push_bytes(&mut file, 3, &normalizer);
    file
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn push_number(out: &mut Vec<u8>, number: u64, value: u64) {
    push_varint(out, number << 3);
    push_varint(out, value);
}

fn push_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    push_varint(out, number << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vocabulary {
        let token = |text: &str, kind, score| Token { text: text.to_owned(), kind, score };
        let tokens = vec![
            token("<unk>", TokenKind::Unknown, 0.0),
            token("<s>", TokenKind::Control, 0.0),
            token("<0x0A>", TokenKind::Byte, 0.0),
            token("▁the", TokenKind::Normal, -1.5),
        ];
        let mut vocabulary = Vocabulary::new(TokenizerModel::SentencePiece, tokens);
        (vocabulary.unknown, vocabulary.bos, vocabulary.eos) = (Some(0), Some(1), Some(2));
        (vocabulary.add_bos, vocabulary.add_space_prefix) = (Some(true), Some(true));
        vocabulary
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = write(&sample());
        assert_eq!(parse(Path::new("m"), &file).expect("own file"), sample());
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_vocabulary() {
        let file = write(&sample());
        for length in 0..file.len() {
            if let Ok(shorter) = parse(Path::new("m"), &file[..length]) {
                assert!(shorter.tokens.len() <= 4);
            }
        }
    }
}
