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
    /// The same of Llama Guard 3's small models, which have no category for abuse of code interpreters.
    LlamaGuard3Small,
    /// Llama Guard's one question, in Llama 4's headers.
    LlamaGuard4,
}

/// What a vocabulary does not tell of a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelTraits<'a> {
    /// Its name: Llama Guard's says so.
    pub name: &'a str,
    /// Whether its rotary frequencies are scaled.
    pub scaled_rope: bool,
    /// Whether its embedding is its output matrix.
    pub tied_embeddings: bool,
}

impl ModelTraits<'_> {
    /// Whether it is Llama Guard.
    pub(crate) fn is_guard(&self) -> bool {
        self.name.to_ascii_lowercase().contains("guard")
    }
}

impl BuiltinTemplate {
    /// Every one, for lists and tests.
    pub const ALL: [Self; 8] = [
        Self::ChatMl,
        Self::Llama2,
        Self::Llama3,
        Self::Llama31,
        Self::Llama4,
        Self::LlamaGuard3,
        Self::LlamaGuard3Small,
        Self::LlamaGuard4,
    ];

    /// The format that goes with a tokenizer, by the control tokens it has, and with what tells apart the models that
    /// share one. None for a vocabulary without any format's tokens, and for Llama Guard 1 and 2, whose questions carry
    /// policies of their own.
    pub fn for_model(tokenizer: &Tokenizer, model: ModelTraits<'_>) -> Option<Self> {
        let has = |spelling: &str| tokenizer.id_of(spelling).is_some_and(|id| tokenizer.is_special(id));
        let guard = model.is_guard();
        if has("<|header_start|>") {
            Some(if guard { Self::LlamaGuard4 } else { Self::Llama4 })
        } else if has("<|start_header_id|>") {
            // Meta's file of the vocabulary is the same from Llama 3 to 3.3; scaled RoPE came with 3.1.
            match (guard, model.scaled_rope) {
                (true, true) if model.tied_embeddings => Some(Self::LlamaGuard3Small),
                (true, true) => Some(Self::LlamaGuard3),
                (true, false) => None,
                (false, true) if has("<|python_tag|>") => Some(Self::Llama31),
                (false, _) => Some(Self::Llama3),
            }
        } else if has("<|im_start|>") {
            Some(Self::ChatMl)
        } else if has("<s>") && has("</s>") && !guard {
            Some(Self::Llama2)
        } else {
            None
        }
    }

    /// The Jinja source.
    pub fn source(self) -> String {
        const CODE: &str = ", 'S14': 'Code Interpreter Abuse'";
        let guard = |[open, close, end]: [&str; 3], last: &str| {
            let source = include_str!("builtin/guard.jinja").replace("LAST_CATEGORY", last);
            source.replace("HEADER_OPEN", open).replace("HEADER_CLOSE", close).replace("TURN_END", end)
        };
        let llama3 = ["'<|start_header_id|>'", "'<|end_header_id|>'", "'<|eot_id|>'"];
        match self {
            Self::ChatMl => include_str!("builtin/chatml.jinja").to_owned(),
            Self::Llama2 => include_str!("builtin/llama2.jinja").to_owned(),
            Self::Llama3 => include_str!("builtin/llama3.jinja").to_owned(),
            Self::Llama31 => include_str!("builtin/llama31.jinja").to_owned(),
            Self::Llama4 => include_str!("builtin/llama4.jinja").to_owned(),
            Self::LlamaGuard3 => guard(llama3, CODE),
            Self::LlamaGuard3Small => guard(llama3, ""),
            Self::LlamaGuard4 => guard(["'<|header_start|>'", "'<|header_end|>'", "'<|eot|>'"], CODE),
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
