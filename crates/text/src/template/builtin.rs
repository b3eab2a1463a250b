//! Templates for models whose files carry none (Meta's own checkpoints, bare GGUF conversions), written after the
//! families' published prompt formats.

use super::ChatTemplate;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// The prompt formats of the Llama family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuiltinTemplate {
    /// `<|im_start|>role ... <|im_end|>`: SmolLM2 and many fine-tunes.
    ChatMl,
    /// `[INST] <<SYS>> ... [/INST]`.
    Llama2,
    /// Llama 3's headers.
    Llama3,
    /// Llama 3's headers with the dates in the system turn, and tools: 3.1, 3.2, 3.3.
    Llama31,
    /// Llama 4's headers.
    Llama4,
    /// Llama Guard's one question, in Llama 3's headers.
    LlamaGuard3,
    /// Llama Guard's one question, in Llama 4's headers.
    LlamaGuard4,
}

impl BuiltinTemplate {
    /// Every one, for lists and tests.
    pub const ALL: [Self; 7] = [
        Self::ChatMl,
        Self::Llama2,
        Self::Llama3,
        Self::Llama31,
        Self::Llama4,
        Self::LlamaGuard3,
        Self::LlamaGuard4,
    ];

    /// The format that goes with a tokenizer, by the control tokens it has, and with a model's name, which tells
    /// Llama Guard from the chat models. None for a vocabulary without any format's tokens.
    pub fn for_model(tokenizer: &Tokenizer, model_name: &str) -> Option<Self> {
        let has = |spelling: &str| tokenizer.id_of(spelling).is_some_and(|id| tokenizer.is_special(id));
        let guard = model_name.to_ascii_lowercase().contains("guard");
        if has("<|header_start|>") {
            Some(if guard { Self::LlamaGuard4 } else { Self::Llama4 })
        } else if has("<|start_header_id|>") {
            Some(match (guard, has("<|python_tag|>")) {
                (true, _) => Self::LlamaGuard3,
                (false, true) => Self::Llama31,
                (false, false) => Self::Llama3,
            })
        } else if has("<|im_start|>") {
            Some(Self::ChatMl)
        } else if has("<s>") && has("</s>") {
            Some(Self::Llama2)
        } else {
            None
        }
    }

    /// The Jinja source.
    pub fn source(self) -> String {
        let guard = |open: &str, close: &str, end: &str| {
            let source = include_str!("builtin/guard.jinja");
            source.replace("HEADER_OPEN", open).replace("HEADER_CLOSE", close).replace("TURN_END", end)
        };
        match self {
            Self::ChatMl => include_str!("builtin/chatml.jinja").to_owned(),
            Self::Llama2 => include_str!("builtin/llama2.jinja").to_owned(),
            Self::Llama3 => include_str!("builtin/llama3.jinja").to_owned(),
            Self::Llama31 => include_str!("builtin/llama31.jinja").to_owned(),
            Self::Llama4 => include_str!("builtin/llama4.jinja").to_owned(),
            Self::LlamaGuard3 => guard("'<|start_header_id|>'", "'<|end_header_id|>'", "'<|eot_id|>'"),
            Self::LlamaGuard4 => guard("'<|header_start|>'", "'<|header_end|>'", "'<|eot|>'"),
        }
    }

    /// The template, for `tokenizer`.
    ///
    /// # Errors
    /// None in practice: the sources are part of this crate, and tests compile each.
    pub fn compile(self, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        ChatTemplate::new(&self.source(), tokenizer)
    }
}
