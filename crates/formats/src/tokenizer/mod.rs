//! Tokenizers in passing: conversion must carry a vocabulary from one format's files to another's.
//! Nothing here encodes text. A [`Vocabulary`] is what the files have in common; each module
//! reads and writes one kind of file.

pub mod byte_level;
mod gguf;
mod hugging_face;
pub mod json;
mod merges;
mod pre_tokenizer;
pub mod sentence_piece;
pub mod tiktoken;

pub use pre_tokenizer::PreTokenizer;

use crate::FormatError;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::files::{read_small, read_small_json};
use crate::gguf::Value;
use std::path::{Path, PathBuf};

/// Bytes of the largest tokenizer file that is read: Llama 4's `tokenizer.json` has 28 MB.
pub const MAX_FILE: u64 = 64 << 20;
/// Bytes of the largest file beside it that is read (`tokenizer_config.json`, a chat template).
pub const MAX_SETTINGS: u64 = 1 << 20;

/// Spellings of control tokens that end an answer, whatever a file's metadata says; the field's
/// models are released with metadata that names only one of their two or three.
pub const END_TOKENS: [&str; 11] = [
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "</s>",
];

/// What a token is for, with GGUF's and SentencePiece's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenKind {
    /// Ordinary text.
    Normal = 1,
    /// Stands for what has no token.
    Unknown = 2,
    /// Special: never made by encoding ordinary text.
    Control = 3,
    /// Added by hand, found by its spelling.
    UserDefined = 4,
    /// A hole in the vocabulary.
    Unused = 5,
    /// One byte, spelled `<0x0A>`.
    Byte = 6,
}

impl TokenKind {
    /// The kind with GGUF's and SentencePiece's number.
    pub fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// One entry of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its spelling as files have it: byte-level BPE's letters for bytes, or SentencePiece's with
    /// "▁" for a space.
    pub text: String,
    /// What it is for.
    pub kind: TokenKind,
    /// SentencePiece's score: of two merges, the one that makes the higher-scored piece is first.
    pub score: f32,
}

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerModel {
    /// Byte-level BPE over pieces that a pre-tokenizer cuts.
    ByteLevel(PreTokenizer),
    /// SentencePiece BPE with byte fallback.
    SentencePiece,
}

/// A tokenizer's data.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// How text becomes tokens.
    pub model: TokenizerModel,
    /// By id.
    pub tokens: Vec<Token>,
    /// Pairs of spellings joined by a space, first merged first; empty where scores decide.
    pub merges: Vec<String>,
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// Unknown.
    pub unknown: Option<u32>,
    /// Padding.
    pub padding: Option<u32>,
    /// Whether encoding begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether encoding ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space before the text.
    pub add_space_prefix: Option<bool>,
    /// Jinja chat template.
    pub chat_template: Option<String>,
}

impl Vocabulary {
    fn new(model: TokenizerModel, tokens: Vec<Token>) -> Self {
        Self {
            model,
            tokens,
            merges: Vec::new(),
            bos: None,
            eos: None,
            unknown: None,
            padding: None,
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
            chat_template: None,
        }
    }

    /// The tokenizer of an opened model, from whichever of its files has one; `None` where none
    /// has.
    ///
    /// # Errors
    /// When a tokenizer file is damaged or of a kind that is not known.
    pub fn of(model: &Checkpoint) -> Result<Option<Self>, FormatError> {
        match model.gguf() {
            Some(metadata) => gguf::read(metadata),
            None => Self::in_folder(model.directory(), model.config()),
        }
    }

    fn in_folder(folder: &Path, config: &ModelConfig) -> Result<Option<Self>, FormatError> {
        let mut vocabulary = match TokenizerFile::find(folder) {
            Some(TokenizerFile::HuggingFace(path)) => {
                let mut vocabulary = hugging_face::read(&path)?;
                vocabulary.take_scores(folder)?;
                vocabulary
            }
            Some(TokenizerFile::Meta(path)) => {
                let bytes = read_file(&path)?;
                if tiktoken::is_tiktoken(&bytes) {
                    tiktoken::parse(&path, &bytes)?
                } else {
                    let mut vocabulary = sentence_piece::parse(&path, &bytes)?;
                    hugging_face::add_added_tokens(folder, &mut vocabulary, config.vocabulary_size)?;
                    vocabulary
                }
            }
            None => return Ok(None),
        };
        hugging_face::add_tokenizer_config(folder, &mut vocabulary)?;
        vocabulary.bos = vocabulary.bos.or(config.bos);
        vocabulary.eos = vocabulary.eos.or(config.eos.first().copied());
        vocabulary.fit(folder, config.vocabulary_size)?;
        Ok(Some(vocabulary))
    }

    /// Takes the scores of the SentencePiece model that a `tokenizer.json` was made from, where it lies beside it:
    /// the order of merges says the same, but other programs compare the scores themselves.
    fn take_scores(&mut self, folder: &Path) -> Result<(), FormatError> {
        let Some(path) = model_file(folder).filter(|_| self.model == TokenizerModel::SentencePiece) else {
            return Ok(());
        };
        let bytes = read_file(&path)?;
        if tiktoken::is_tiktoken(&bytes) {
            return Ok(());
        }
        let original = sentence_piece::parse(&path, &bytes)?;
        for (token, original) in self.tokens.iter_mut().zip(original.tokens) {
            if token.text == original.text {
                token.score = original.score;
            }
        }
        Ok(())
    }

    /// Fills the vocabulary up to the rows of the embedding matrix.
    fn fit(&mut self, folder: &Path, size: usize) -> Result<(), FormatError> {
        if self.tokens.len() > size {
            let problem = format!("has a tokenizer of {} tokens for {size} embeddings", self.tokens.len());
            return Err(FormatError::unsupported(folder, problem));
        }
        self.tokens.extend((self.tokens.len()..size).map(unused));
        Ok(())
    }

    fn id_of(&self, text: &str) -> Option<u32> {
        self.tokens.iter().position(|token| token.text == text).map(|id| id as u32)
    }
}

/// The contents of a tokenizer's file, at most [`MAX_FILE`] bytes.
///
/// # Errors
/// When there is none, it cannot be read or is longer.
pub fn read_file(path: &Path) -> Result<Vec<u8>, FormatError> {
    read_small(path, MAX_FILE)
}

/// The text of a file of at most [`MAX_SETTINGS`] bytes beside a tokenizer; `None` where there is none.
///
/// # Errors
/// When it cannot be read, is longer or no UTF-8.
pub fn read_settings_text(path: &Path) -> Result<Option<String>, FormatError> {
    if !path.is_file() {
        return Ok(None);
    }
    String::from_utf8(read_small(path, MAX_SETTINGS)?)
        .map(Some)
        .map_err(|e| FormatError::malformed(path, e.utf8_error().valid_up_to() as u64, "is not UTF-8 text"))
}

/// The JSON of a file of at most [`MAX_SETTINGS`] bytes beside a tokenizer; `None` where there is none.
///
/// # Errors
/// When it cannot be read, is longer or no JSON.
pub fn read_settings(path: &Path) -> Result<Option<serde_json::Value>, FormatError> {
    path.is_file().then(|| read_small_json(path, MAX_SETTINGS)).transpose()
}

/// A hole at `id`.
fn unused(id: usize) -> Token {
    Token { text: format!("[PAD{id}]"), kind: TokenKind::Unused, score: -10_000.0 }
}

/// The file that says what a model folder's tokenizer is. Both who runs a model and who converts it ask here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerFile {
    /// Hugging Face's `tokenizer.json`.
    HuggingFace(PathBuf),
    /// Meta's `tokenizer.model`: tiktoken's ranks or a SentencePiece model.
    Meta(PathBuf),
}

impl TokenizerFile {
    /// The one in `folder`: `tokenizer.json` where there is one, since fine-tuned models add their tokens there and
    /// keep the original's `tokenizer.model` as it was.
    pub fn find(folder: &Path) -> Option<Self> {
        let json = folder.join("tokenizer.json");
        if json.is_file() { Some(Self::HuggingFace(json)) } else { model_file(folder).map(Self::Meta) }
    }
}

/// A folder's `tokenizer.model`, also where Hugging Face repositories keep Meta's originals.
pub(crate) fn model_file(folder: &Path) -> Option<PathBuf> {
    let places = [folder.join("tokenizer.model"), folder.join("original").join("tokenizer.model")];
    places.into_iter().find(|path| path.is_file())
}

/// The tokenizer's metadata in a GGUF file made from the model in `folder`; without a tokenizer,
/// only which tokens begin and end a text.
pub(crate) fn gguf_metadata(
    folder: &Path,
    config: &ModelConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Value)>, FormatError> {
    let vocabulary = Vocabulary::in_folder(folder, config)?;
    let mut pairs = match &vocabulary {
        Some(vocabulary) => gguf::write(vocabulary),
        None => {
            notes.push("The source has no tokenizer, so the new file has none.".to_owned());
            let ids = [("bos", config.bos), ("eos", config.eos.first().copied())];
            ids.into_iter().filter_map(|(name, id)| Some((gguf::id_key(name), Value::U32(id?)))).collect()
        }
    };
    // The metadata has room for two more ends of text, for those that are not known by their
    // spelling.
    let unknown = config.eos.iter().skip(1).filter(|&&id| {
        let token = vocabulary.as_ref().map(|vocabulary| &vocabulary.tokens[id as usize]);
        !token
            .is_some_and(|token| END_TOKENS.contains(&token.text.as_str()) && token.kind != TokenKind::Normal)
    });
    pairs.extend(unknown.zip(["eot", "eom"]).map(|(&id, name)| (gguf::id_key(name), Value::U32(id))));
    Ok(pairs)
}

/// Files of a model folder that hold its tokenizer or go with it.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
];

/// Copies the tokenizer's files from one model folder to another; whether there were any.
fn copy_companions(from: &Path, to: &Path) -> Result<bool, FormatError> {
    let mut found = false;
    for name in COMPANIONS {
        let path = from.join(name);
        if path.is_file() {
            std::fs::copy(&path, to.join(name)).map_err(|e| FormatError::io(&path, "copy", e))?;
            found |= name.starts_with("tokenizer");
        }
    }
    Ok(found)
}

/// Gives a Hugging Face folder `to` the model's tokenizer: copied where the source has it in that
/// form.
pub(crate) fn write_hugging_face(
    source: &Checkpoint,
    to: &Path,
    notes: &mut Vec<String>,
) -> Result<(), FormatError> {
    if source.gguf().is_none() {
        copy_companions(source.directory(), to)?;
        if to.join("tokenizer.json").is_file() {
            return Ok(());
        }
    }
    match Vocabulary::of(source)? {
        Some(vocabulary) => hugging_face::write(&vocabulary, source.config(), to),
        None => {
            notes.push("The source has no tokenizer, so the new folder has none.".to_owned());
            Ok(())
        }
    }
}

/// Gives a Meta folder `to` the model's tokenizer as `tokenizer.model`, and a copy of the source's
/// own files.
pub(crate) fn write_meta(source: &Checkpoint, to: &Path, notes: &mut Vec<String>) -> Result<(), FormatError> {
    if source.gguf().is_none() {
        copy_companions(source.directory(), to)?;
        if to.join("tokenizer.model").is_file() {
            return Ok(());
        }
    }
    let Some(vocabulary) = Vocabulary::of(source)? else {
        notes.push("The source has no tokenizer, so the new folder has none.".to_owned());
        return Ok(());
    };
    let bytes = match vocabulary.model {
        TokenizerModel::SentencePiece => Some(sentence_piece::write(&vocabulary)),
        TokenizerModel::ByteLevel(_) => tiktoken::write(&vocabulary),
    };
    match bytes {
        Some(bytes) => crate::files::write_whole(&to.join("tokenizer.model"), &bytes),
        None => {
            notes.push(
                "Meta's tokenizer.model holds only Llama 3's and 4's vocabularies; the tokenizer is written as tokenizer.json."
                    .to_owned(),
            );
            hugging_face::write(&vocabulary, source.config(), to)
        }
    }
}
