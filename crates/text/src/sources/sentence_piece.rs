//! Meta's `tokenizer.model` for Llama 2: a serialised SentencePiece model (`sentencepiece_model.proto`), read with a
//! protobuf reader of a screen, since three messages with a handful of fields are all that is needed.

use crate::error::{Result, TextError};
use crate::sources::gguf::added_tokens;
use crate::sources::{score_ranks, sentence_piece_bytes};
use crate::tokenizer::vocabulary::{TokenKind, Vocabulary};
use crate::tokenizer::{Definition, Model, Roles, SpacePrefix};

/// A field of a protobuf message.
enum Field<'a> {
    Integer(u64),
    Float(f32),
    Bytes(&'a [u8]),
    Skipped,
}

/// Fields of a message, in order.
struct Fields<'a> {
    rest: &'a [u8],
    total: usize,
    start: usize,
}

impl<'a> Fields<'a> {
    fn new(message: &'a [u8], start: usize) -> Self {
        Self { rest: message, total: message.len(), start }
    }

    /// Offset in the file of what is read next.
    fn offset(&self) -> usize {
        self.start + self.total - self.rest.len()
    }

    fn damaged(&self) -> TextError {
        TextError::invalid(format!("tokenizer.model at byte {}", self.offset()), "not a SentencePiece model")
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or_else(|| self.damaged())?;
            self.rest = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = split.ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Integer(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Skipped
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let raw = self.take(4)?;
                Field::Float(raw.try_into().map(f32::from_le_bytes).map_err(|_| self.damaged())?)
            }
            _ => return Err(self.damaged()),
        };
        Ok(Some((tag >> 3, field)))
    }
}

/// What matters of `TrainerSpec` and `NormalizerSpec`, with the protocol's defaults.
struct Settings {
    model_type: u64,
    space_behind_words: bool,
    roles: [i64; 4],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    has_character_map: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model_type: 1,
            space_behind_words: false,
            roles: [0, 1, 2, -1],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            has_character_map: false,
        }
    }
}

impl Settings {
    fn read_trainer(&mut self, mut fields: Fields<'_>) -> Result<()> {
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (3, Field::Integer(value)) => self.model_type = value,
                (24, Field::Integer(value)) => self.space_behind_words = value != 0,
                (40..=43, Field::Integer(value)) => self.roles[number as usize - 40] = value as i64,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, mut fields: Fields<'_>) -> Result<()> {
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (2, Field::Bytes(map)) => self.has_character_map = !map.is_empty(),
                (3, Field::Integer(value)) => self.add_dummy_prefix = value != 0,
                (4, Field::Integer(value)) => self.remove_extra_whitespaces = value != 0,
                (5, Field::Integer(value)) => self.escape_whitespaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what Llama's models do not use, so that nothing is tokenized wrongly in silence.
    fn check(&self) -> Result<()> {
        let refused = |place: &str, found: &str, supported: &'static str| {
            Err(TextError::Unsupported {
                place: format!("tokenizer.model: {place}"),
                found: found.into(),
                supported,
            })
        };
        if self.model_type != 2 {
            let found = ["?", "unigram", "bpe", "word", "char"].get(self.model_type as usize).unwrap_or(&"?");
            return refused("model_type", found, "bpe");
        }
        if self.has_character_map {
            return refused("normalizer", "a character map", "identity");
        }
        if self.remove_extra_whitespaces || !self.escape_whitespaces || self.space_behind_words {
            return refused("normalizer", "white space rules that are not Llama's", "identity");
        }
        Ok(())
    }

    fn role(&self, at: usize) -> Option<u32> {
        u32::try_from(self.roles[at]).ok()
    }
}

/// Reads the serialised model.
pub(crate) fn definition(file: &[u8]) -> Result<Definition> {
    let mut vocabulary = Vocabulary::with_capacity(file.len() / 24);
    let mut scores = Vec::new();
    let mut settings = Settings::default();
    let mut fields = Fields::new(file, 0);
    while let Some((number, field)) = fields.next()? {
        let Field::Bytes(message) = field else { continue };
        let inner = Fields::new(message, fields.offset() - message.len());
        match number {
            1 => scores.push(read_piece(inner, &mut vocabulary)?),
            2 => settings.read_trainer(inner)?,
            3 => settings.read_normalizer(inner)?,
            _ => {}
        }
    }
    settings.check()?;
    let space_prefix = if settings.add_dummy_prefix { SpacePrefix::EveryText } else { SpacePrefix::Never };
    let roles = Roles {
        unknown: settings.role(0),
        bos: settings.role(1),
        adds_bos: true,
        eos: settings.role(2),
        padding: settings.role(3),
        stops: Vec::new(),
    };
    let rules = score_ranks(&scores)?;
    let added = added_tokens(&vocabulary);
    let model = Model::SentencePiece { space_prefix };
    Ok(Definition { vocabulary, model, rules, added, roles, cuts_long_runs: false })
}

/// Adds a `SentencePiece` to the vocabulary; returns its score.
fn read_piece(mut fields: Fields<'_>, vocabulary: &mut Vocabulary) -> Result<f32> {
    let (mut piece, mut score, mut kind) = (&[][..], 0.0, TokenKind::Normal);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => piece = text,
            (2, Field::Float(value)) => score = value,
            (3, Field::Integer(number)) => kind = TokenKind::from_gguf(number as i32),
            _ => {}
        }
    }
    vocabulary.push(kind, |bytes| sentence_piece_bytes(kind, piece, bytes))?;
    Ok(score)
}
