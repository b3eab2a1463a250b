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
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA4: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    const ALL: [Self; 4] = [Self::Llama3, Self::Llama4, Self::SmolLm, Self::Gpt2];

    /// `tokenizer.ggml.pre`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Self::Llama3 => "llama-bpe",
            Self::Llama4 => "llama4",
            Self::SmolLm => "smollm",
            Self::Gpt2 => "gpt-2",
        }
    }

    /// Reads `tokenizer.ggml.pre`, with the aliases that llama.cpp knows.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        match name {
            "llama3" | "llama-v3" => Some(Self::Llama3),
            "gpt2" => Some(Self::Gpt2),
            _ => Self::ALL.into_iter().find(|kind| kind.gguf_name() == name),
        }
    }

    /// Whether a piece that is itself a token is taken whole, without merging.
    pub fn takes_whole_pieces(self) -> bool {
        matches!(self, Self::Llama3 | Self::Llama4)
    }

    /// `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(self) -> Value {
        let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let steps =
            |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
        match self {
            Self::Llama3 => steps(split(LLAMA3), byte_level(false)),
            Self::Llama4 => steps(split(LLAMA4), byte_level(false)),
            Self::SmolLm => steps(json!({"type": "Digits", "individual_digits": true}), byte_level(true)),
            Self::Gpt2 => byte_level(true),
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
            ["Split", "ByteLevel"] => match steps[0]["pattern"]["Regex"].as_str()? {
                LLAMA3 => Some(Self::Llama3),
                LLAMA4 => Some(Self::Llama4),
                _ => None,
            },
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
        for kind in PreTokenizer::ALL {
            assert_eq!(PreTokenizer::from_json(&kind.json()), Some(kind));
            assert_eq!(PreTokenizer::from_gguf_name(kind.gguf_name()), Some(kind));
        }
    }
}
