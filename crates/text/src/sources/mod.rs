//! Where tokenizers come from. Each module reads one description and hands the same few parts to the one engine.

pub(crate) mod checkpoint;
pub(crate) mod gguf;
pub(crate) mod hugging_face;
pub(crate) mod merges;
pub(crate) mod meta;

use crate::error::{Result, TextError};
use crate::tokenizer::merge::MergeRules;
use alti_formats::tokenizer::TokenKind;

/// SentencePiece prefers the merge with the highest score: the order of the scores, descending, is the rank.
pub(crate) fn score_ranks(scores: &[f32]) -> Result<MergeRules> {
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return Err(TextError::invalid(format!("score of token {at}"), "it is not a number"));
    }
    // Bits of a float, made to sort as the float does, then reversed.
    let rank = |score: f32| {
        let bits = (score + 0.0).to_bits();
        !(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 })
    };
    Ok(MergeRules::RankOfToken(scores.iter().map(|&score| rank(score)).collect()))
}

/// The bytes a SentencePiece token stands for: "▁" is a space, a byte token its byte, special tokens their spelling.
pub(crate) fn sentence_piece_bytes(kind: TokenKind, token: &[u8], bytes: &mut Vec<u8>) {
    match kind {
        TokenKind::Normal | TokenKind::UserDefined => {
            let mut rest = token;
            while let Some((&byte, tail)) = rest.split_first() {
                match rest.strip_prefix("▁".as_bytes()) {
                    Some(after) => {
                        bytes.push(b' ');
                        rest = after;
                    }
                    None => {
                        bytes.push(byte);
                        rest = tail;
                    }
                }
            }
        }
        TokenKind::Byte => match parse_byte_token(token) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(token),
        },
        TokenKind::Unknown | TokenKind::Control | TokenKind::Unused => bytes.extend_from_slice(token),
    }
}

/// `<0x0A>` is the byte 10.
pub(crate) fn parse_byte_token(token: &[u8]) -> Option<u8> {
    let digits = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}
