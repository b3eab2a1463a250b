//! How byte-level BPE cuts text before merging. GGUF names the kinds; `tokenizer.json` describes
//! them by regular expression and structure. This is the one table between the two.

use serde_json::{Value, json};

/// The pre-tokenizers of the models that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreTokenizer {
    /// Llama 3's.
    Llama3,
    /// Llama 4's.
    Llama4,
    /// SmolLM's: every digit alone, then GPT-2's.
    SmolLm,
    /// GPT-2's.
    Gpt2,
    /// llama.cpp's for a GGUF that names none, or "default": runs of punctuation, GPT-2's, runs of
    /// numbers, and digits by three.
    LlamaCppDefault,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA4: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// llama.cpp's, one after the other.
const LLAMA_CPP_DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{N}+",
    "[0-9][0-9][0-9]",
];

impl PreTokenizer {
    /// `tokenizer.ggml.pre`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Self::Llama3 => "llama-bpe",
            Self::Llama4 => "llama4",
            Self::SmolLm => "smollm",
            Self::Gpt2 => "gpt-2",
            Self::LlamaCppDefault => "default",
        }
    }

    /// Reads `tokenizer.ggml.pre`, as llama.cpp maps the names; an absent one is empty.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" | "gpt2" | "phi-2" | "jina-es" | "jina-de" | "mpt" | "olmo" | "trillion" | "exaone4" => {
                Self::Gpt2
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" | "lfm2" | "dbrx" | "smaug-bpe" => {
                Self::Llama3
            }
            "llama4" | "gpt-4o" | "kanana2" => Self::Llama4,
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                Self::SmolLm
            }
            "default" | "" => Self::LlamaCppDefault,
            _ => return None,
        })
    }

    /// Whether a piece that is itself a token is taken whole, without merging.
    pub fn takes_whole_pieces(self) -> bool {
        matches!(self, Self::Llama3 | Self::Llama4)
    }

    /// `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(self) -> Value {
        let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let steps = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
        match self {
            Self::Llama3 => steps(&[split(LLAMA3), byte_level(false)]),
            Self::Llama4 => steps(&[split(LLAMA4), byte_level(false)]),
            Self::SmolLm => steps(&[json!({"type": "Digits", "individual_digits": true}), byte_level(true)]),
            Self::Gpt2 => byte_level(true),
            Self::LlamaCppDefault => {
                let splits = LLAMA_CPP_DEFAULT.into_iter().map(split);
                steps(&splits.chain([byte_level(false)]).collect::<Vec<_>>())
            }
        }
    }

    /// Recognises `pre_tokenizer` of a `tokenizer.json`.
    pub fn from_json(json: &Value) -> Option<Self> {
        let steps = match json["type"].as_str()? {
            "Sequence" => json["pretokenizers"].as_array()?.as_slice(),
            _ => std::slice::from_ref(json),
        };
        let kinds: Vec<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
        match kinds.as_slice() {
            ["Split", .., "ByteLevel"] => {
                let patterns = steps[..steps.len() - 1].iter().map(|step| step["pattern"]["Regex"].as_str());
                match patterns.collect::<Option<Vec<_>>>()?.as_slice() {
                    [LLAMA3] => Some(Self::Llama3),
                    [LLAMA4] => Some(Self::Llama4),
                    patterns if patterns == LLAMA_CPP_DEFAULT => Some(Self::LlamaCppDefault),
                    _ => None,
                }
            }
            ["Digits", "ByteLevel"] if steps[0]["individual_digits"] == true => Some(Self::SmolLm),
            ["ByteLevel"] => Some(Self::Gpt2),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_recognised_by_what_is_written() {
        use PreTokenizer::{Gpt2, Llama3, Llama4, LlamaCppDefault, SmolLm};
        for kind in [Llama3, Llama4, SmolLm, Gpt2, LlamaCppDefault] {
            assert_eq!(PreTokenizer::from_json(&kind.json()), Some(kind));
            assert_eq!(PreTokenizer::from_gguf_name(kind.gguf_name()), Some(kind));
        }
    }
}
