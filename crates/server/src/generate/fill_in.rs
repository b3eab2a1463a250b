//! Filling in the middle of a text, for models that were trained with tokens for it.

use super::run::{encode_plain, encode_text};
use crate::error::{ApiError, ApiResult};
use alti_text::{Specials, Tokenizer};

/// The tokens in front of prefix, suffix and middle, as model families spell them.
const SPELLINGS: [[&str; 3]; 5] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    [" <PRE>", " <SUF>", " <MID>"],
];

/// The model's tokens for filling in, if it has them.
pub fn fill_in_tokens(tokenizer: &Tokenizer) -> Option<[u32; 3]> {
    SPELLINGS.iter().find_map(|[prefix, suffix, middle]| {
        Some([tokenizer.id_of(prefix)?, tokenizer.id_of(suffix)?, tokenizer.id_of(middle)?])
    })
}

/// The prompt for what belongs between two texts.
///
/// # Errors
/// When the model has no tokens for it.
pub fn fill_in_prompt(tokenizer: &Tokenizer, prefix: &str, suffix: &str) -> ApiResult<Vec<u32>> {
    let Some([before_prefix, before_suffix, before_middle]) = fill_in_tokens(tokenizer) else {
        let message = "this model cannot fill in: its vocabulary has no tokens for prefix, suffix and middle";
        return Err(ApiError::field("suffix", message).code("unsupported_by_model"));
    };
    let mut tokens = encode_text(tokenizer, "", Specials::AsText);
    tokens.push(before_prefix);
    tokens.extend(encode_plain(tokenizer, prefix, Specials::AsText));
    tokens.push(before_suffix);
    tokens.extend(encode_plain(tokenizer, suffix, Specials::AsText));
    tokens.push(before_middle);
    Ok(tokens)
}
