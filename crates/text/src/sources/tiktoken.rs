//! Meta's `tokenizer.model` for Llama 3 and 4: a line per token, base64 of its bytes and its rank, in the order of
//! ranks. A token's rank is its id, and two neighbours merge where their bytes together are a token. The control
//! tokens are not in the file; they follow the ranks in a fixed order.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::error::{Result, TextError};
use crate::sources::gguf::added_tokens;
use crate::tokenizer::merge::MergeRules;
use crate::tokenizer::pre_split::PreTokenizer;
use crate::tokenizer::vocabulary::{TokenKind, Vocabulary};
use crate::tokenizer::{Definition, Model, Roles};

/// Whose control tokens follow the ranks, and whose regex splits the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TiktokenFamily {
    /// Llama 3, 3.1, 3.2, 3.3: 256 control tokens.
    Llama3,
    /// Llama 4: 2,048 control tokens.
    Llama4,
}

const LLAMA3_NAMED: &[&str] = &[
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
];
const LLAMA3_CONTROL_TOKENS: usize = 256;
const LLAMA4_CONTROL_TOKENS: usize = 2048;

/// Llama 4's control tokens in order: names, and runs of reserved ones as (group, first number, how many).
enum Llama4Entry {
    Named(&'static [&'static str]),
    Reserved(&'static str, usize, usize),
}

const LLAMA4_LAYOUT: &[Llama4Entry] = &[
    Llama4Entry::Named(&[
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|header_start|>",
        "<|header_end|>",
        "<|eom|>",
        "<|eot|>",
        "<|step|>",
    ]),
    Llama4Entry::Reserved("text_post_train", 0, 6),
    Llama4Entry::Named(&["<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"]),
    Llama4Entry::Reserved("text_post_train", 8, 61),
    Llama4Entry::Named(&["<|image_start|>", "<|image_end|>"]),
    Llama4Entry::Reserved("vision", 0, 2),
    Llama4Entry::Named(&["<|tile_x_separator|>", "<|tile_y_separator|>"]),
    Llama4Entry::Reserved("vision", 2, 4),
    Llama4Entry::Named(&["<|image|>"]),
    Llama4Entry::Reserved("vision", 6, 1),
    Llama4Entry::Named(&["<|patch|>"]),
    Llama4Entry::Reserved("vision", 7, 1041),
    Llama4Entry::Reserved("reasoning", 0, 8),
    Llama4Entry::Named(&["<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"]),
];

impl TiktokenFamily {
    /// Spellings of the control tokens, in the order of their ids.
    fn control_tokens(self) -> Vec<String> {
        let mut spellings: Vec<String> = Vec::new();
        let (first_reserved, count) = match self {
            Self::Llama3 => {
                spellings.extend(LLAMA3_NAMED.iter().map(ToString::to_string));
                (2, LLAMA3_CONTROL_TOKENS)
            }
            Self::Llama4 => {
                for entry in LLAMA4_LAYOUT {
                    match entry {
                        Llama4Entry::Named(names) => spellings.extend(names.iter().map(ToString::to_string)),
                        Llama4Entry::Reserved(group, first, count) => spellings.extend(
                            (*first..first + count)
                                .map(|n| format!("<|{group}_reserved_special_token_{n}|>")),
                        ),
                    }
                }
                (0, LLAMA4_CONTROL_TOKENS)
            }
        };
        let reserved = count - spellings.len();
        spellings.extend(
            (first_reserved..first_reserved + reserved).map(|n| format!("<|reserved_special_token_{n}|>")),
        );
        spellings
    }

    fn pre_tokenizer(self) -> PreTokenizer {
        match self {
            Self::Llama3 => PreTokenizer::Llama3,
            Self::Llama4 => PreTokenizer::Llama4,
        }
    }

    fn padding_spelling(self) -> &'static str {
        match self {
            Self::Llama3 => "<|finetune_right_pad_id|>",
            Self::Llama4 => "<|finetune_right_pad|>",
        }
    }
}

/// Reads the file's text.
pub(crate) fn definition(file: &[u8], family: TiktokenFamily) -> Result<Definition> {
    let mut vocabulary = Vocabulary::with_capacity(file.len() / 16);
    let mut decoded = Vec::new();
    for (at, line) in file.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let place = || format!("tokenizer.model line {}", at + 1);
        let (token, rank) =
            split_line(line).ok_or_else(|| TextError::invalid(place(), "not \"base64 rank\""))?;
        if rank as usize != vocabulary.len() {
            let problem = format!("rank {rank}, expected {}: ranks must count up from 0", vocabulary.len());
            return Err(TextError::invalid(place(), problem));
        }
        decoded.clear();
        BASE64
            .decode_vec(token, &mut decoded)
            .map_err(|error| TextError::invalid(place(), format!("not base64: {error}")))?;
        if decoded.is_empty() || vocabulary.find(&decoded).is_some() {
            return Err(TextError::invalid(place(), "an empty token, or one that an earlier line has"));
        }
        vocabulary.push(TokenKind::Normal, |bytes| bytes.extend_from_slice(&decoded))?;
    }
    if let Some(byte) = (0..=255u8).find(|&byte| vocabulary.find(&[byte]).is_none()) {
        return Err(TextError::invalid("tokenizer.model", format!("no token for the byte {byte:#04x}")));
    }
    for spelling in family.control_tokens() {
        vocabulary.push(TokenKind::Control, |bytes| bytes.extend_from_slice(spelling.as_bytes()))?;
    }
    let id = |spelling: &str| vocabulary.find(spelling.as_bytes());
    let roles = Roles {
        bos: id("<|begin_of_text|>"),
        adds_bos: true,
        eos: id("<|end_of_text|>"),
        padding: id(family.padding_spelling()),
        ..Roles::default()
    };
    let model = Model::ByteLevel { pre_tokenizer: family.pre_tokenizer(), whole_pieces: true };
    let added = added_tokens(&vocabulary);
    Ok(Definition { vocabulary, model, rules: MergeRules::IdIsRank, added, roles, cuts_long_runs: true })
}

fn split_line(line: &[u8]) -> Option<(&[u8], u32)> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok()?.parse().ok()?;
    Some((&line[..space], rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_have_metas_ids() {
        let llama3 = TiktokenFamily::Llama3.control_tokens();
        assert_eq!(llama3.len(), 256);
        assert_eq!(llama3[9], "<|eot_id|>");
        assert_eq!(llama3[12], "<|reserved_special_token_2|>");
        assert_eq!(llama3[255], "<|reserved_special_token_245|>");
        let llama4 = TiktokenFamily::Llama4.control_tokens();
        assert_eq!(llama4.len(), 2048);
        let named = [
            (5, "<|header_start|>"),
            (8, "<|eot|>"),
            (16, "<|python_start|>"),
            (18, "<|finetune_right_pad|>"),
            (80, "<|image_start|>"),
            (84, "<|tile_x_separator|>"),
            (90, "<|image|>"),
            (92, "<|patch|>"),
            (1142, "<|reasoning_thinking_start|>"),
            (1144, "<|reserved_special_token_0|>"),
        ];
        for (at, spelling) in named {
            assert_eq!(llama4[at], spelling);
        }
    }
}
