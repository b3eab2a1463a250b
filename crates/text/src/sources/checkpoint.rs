//! The tokenizer and the chat template that belong to a checkpoint, whichever format it is in.

use alti_formats::Checkpoint;

use crate::error::{Result, TextError};
use crate::sources::gguf::GgufTokenizer;
use crate::template::ChatTemplate;
use crate::template::builtin::BuiltinTemplate;
use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// The tokenizer of `checkpoint`: GGUF metadata, or the tokenizer files beside the weights.
    ///
    /// # Errors
    /// No tokenizer, an unsupported or a damaged one.
    pub fn for_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let missing = || TextError::Missing {
            place: checkpoint.path().display().to_string(),
            expected: "tokenizer.ggml.* metadata",
        };
        let Some(metadata) = checkpoint.gguf() else { return Err(missing()) };
        GgufTokenizer::read(metadata)?.ok_or_else(missing)?.build()
    }
}

impl ChatTemplate {
    /// The chat template of `checkpoint`: its own, or the built-in one of its family.
    ///
    /// # Errors
    /// A template that does not parse; no template, and a vocabulary without any known format's tokens.
    pub fn for_checkpoint(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Self> {
        let metadata = checkpoint.gguf();
        let field = |key: &str| metadata.map_or(Ok(None), |metadata| metadata.string(key));
        if let Some(source) = field("tokenizer.chat_template")? {
            return Self::new(source, tokenizer);
        }
        let name = field("general.name")?.unwrap_or_default();
        let builtin = BuiltinTemplate::for_model(tokenizer, name).ok_or_else(|| TextError::Missing {
            place: checkpoint.path().display().to_string(),
            expected: "a chat template, or a vocabulary of the Llama family; give one to use this model for chat",
        })?;
        builtin.compile(tokenizer)
    }
}
