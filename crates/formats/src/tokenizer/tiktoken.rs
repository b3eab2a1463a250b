//! Meta's `tokenizer.model` of Llama 3 and 4: tiktoken's ranks, one line of "base64 rank" each. The
//! special tokens are not in the file but in Meta's code (`llama_models`), by the number of ranks.

use super::byte_level::ByteLetters;
use super::json::MAX_TOKENS;
use super::merges::{byte_splits, derive};
use super::{PreTokenizer, Token, TokenKind, TokenizerModel, Vocabulary};
use crate::FormatError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;
use std::path::Path;

/// Ranks in Llama 3's file.
const LLAMA3_RANKS: usize = 128_000;
/// Ranks in Llama 4's file.
const LLAMA4_RANKS: usize = 200_000;

/// Special tokens of Llama 3.1 and later, from id 128000; reserved ones from number 2 fill up to
/// 256.
const LLAMA3_SPECIALS: [&str; 12] = [
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

/// Special tokens of Llama 4 with names of their own, and their places after the ranks.
const LLAMA4_NAMED: [(usize, &str); 20] = [
    (0, "<|begin_of_text|>"),
    (1, "<|end_of_text|>"),
    (2, "<|fim_prefix|>"),
    (3, "<|fim_middle|>"),
    (4, "<|fim_suffix|>"),
    (5, "<|header_start|>"),
    (6, "<|header_end|>"),
    (7, "<|eom|>"),
    (8, "<|eot|>"),
    (9, "<|step|>"),
    (16, "<|python_start|>"),
    (17, "<|python_end|>"),
    (18, "<|finetune_right_pad|>"),
    (80, "<|image_start|>"),
    (81, "<|image_end|>"),
    (84, "<|tile_x_separator|>"),
    (85, "<|tile_y_separator|>"),
    (90, "<|image|>"),
    (92, "<|patch|>"),
    // The last two of the reasoning range follow eight reserved ones.
    (1142, "<|reasoning_thinking_start|>"),
];
const LLAMA4_THINKING_END: (usize, &str) = (1143, "<|reasoning_thinking_end|>");

/// The special tokens that follow `ranks` ranks in Meta's code, for Llama 3's 128,000 and Llama 4's
/// 200,000; none for other numbers.
pub fn special_tokens(ranks: usize) -> Option<Vec<String>> {
    match ranks {
        LLAMA3_RANKS => {
            let reserved = (2..).map(|number| format!("<|reserved_special_token_{number}|>"));
            Some(LLAMA3_SPECIALS.into_iter().map(str::to_owned).chain(reserved).take(256).collect())
        }
        LLAMA4_RANKS => Some(llama4_specials()),
        _ => None,
    }
}

fn llama4_specials() -> Vec<String> {
    // Post-training's reserved tokens skip the numbers 6 and 7.
    let ranges = [(5, "text_post_train_"), (80, "vision_"), (1134, "reasoning_"), (1144, "")];
    let mut reserved = [0usize; 4];
    (0..2048)
        .map(|place| {
            let mut named = LLAMA4_NAMED.into_iter().chain([LLAMA4_THINKING_END]);
            if let Some((_, name)) = named.find(|(at, _)| *at == place) {
                return name.to_owned();
            }
            let range = ranges.iter().rposition(|(start, _)| *start <= place).unwrap_or(0);
            let number = reserved[range];
            reserved[range] = if range == 0 && number == 5 { 8 } else { number + 1 };
            format!("<|{}reserved_special_token_{number}|>", ranges[range].1)
        })
        .collect()
}

/// Whether these are lines of ranks, and no SentencePiece model.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii().split(|&byte| byte == b' ');
    match (words.next(), words.next(), words.next()) {
        (Some(token), Some(rank), None) => {
            !rank.is_empty() && rank.iter().all(u8::is_ascii_digit) && STANDARD.decode(token).is_ok()
        }
        _ => false,
    }
}

/// The byte strings of a rank file, by rank.
///
/// # Errors
/// When a line is not "base64 rank" or ranks are not 0, 1, 2, ...
pub fn ranks(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, FormatError> {
    let mut tokens = Vec::new();
    let mut offset = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let text = line.trim_ascii();
        if !text.is_empty() {
            let token = rank_line(text, tokens.len()).filter(|_| tokens.len() < MAX_TOKENS);
            let problem = || format!("is not a line \"base64 {}\" of a tokenizer", tokens.len());
            tokens.push(token.ok_or_else(|| FormatError::malformed(path, offset, problem()))?);
        }
        offset += line.len() as u64;
    }
    Ok(tokens)
}

fn rank_line(line: &[u8], expected: usize) -> Option<Vec<u8>> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    let rank: usize = std::str::from_utf8(&line[space + 1..]).ok()?.parse().ok()?;
    STANDARD.decode(&line[..space]).ok().filter(|token| rank == expected && !token.is_empty())
}

/// Reads a rank file with the special tokens that belong to it.
///
/// # Errors
/// When the file is damaged, or its number of ranks is neither Llama 3's nor Llama 4's.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Vocabulary, FormatError> {
    let ranks = ranks(path, bytes)?;
    let Some(specials) = special_tokens(ranks.len()) else {
        let problem =
            format!("has {} ranks; Llama 3 has {LLAMA3_RANKS}, Llama 4 {LLAMA4_RANKS}", ranks.len());
        return Err(FormatError::unsupported(path, problem));
    };
    let kind = if ranks.len() == LLAMA4_RANKS { PreTokenizer::Llama4 } else { PreTokenizer::Llama3 };
    let letters = ByteLetters::new();
    let normal = ranks.iter().map(|token| (letters.spell(token), TokenKind::Normal));
    let special = specials.into_iter().map(|text| (text, TokenKind::Control));
    let tokens = normal.chain(special).map(|(text, kind)| Token { text, kind, score: 0.0 }).collect();
    let mut vocabulary = Vocabulary::new(TokenizerModel::ByteLevel(kind), tokens);
    let numbered: Vec<(u32, &[u8])> = (0..).zip(ranks.iter().map(Vec::as_slice)).collect();
    let merges = derive(&numbered, byte_splits, |a, b| a.cmp(&b));
    let spelled = |(left, right): (&[u8], &[u8])| format!("{} {}", letters.spell(left), letters.spell(right));
    vocabulary.merges = merges.into_iter().map(spelled).collect();
    vocabulary.bos = Some(ranks.len() as u32);
    vocabulary.eos = Some(ranks.len() as u32 + 1);
    vocabulary.add_bos = Some(true);
    Ok(vocabulary)
}

/// The rank file of a vocabulary, where it is one that Meta's code would read back with the same
/// special tokens' places.
pub(super) fn write(vocabulary: &Vocabulary) -> Option<Vec<u8>> {
    let ranks = vocabulary.tokens.iter().take_while(|token| token.kind == TokenKind::Normal).count();
    let specials = special_tokens(ranks)?;
    let rest = &vocabulary.tokens[ranks..];
    let reads_back = rest.len() == specials.len() && rest.first().is_some_and(|t| t.text == specials[0]);
    if !reads_back {
        return None;
    }
    let letters = ByteLetters::new();
    let mut file = String::new();
    for (rank, token) in vocabulary.tokens[..ranks].iter().enumerate() {
        let bytes = letters.bytes(&token.text)?;
        writeln!(file, "{} {rank}", STANDARD.encode(bytes)).ok()?;
    }
    Some(file.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_have_their_published_ids() {
        let llama3 = special_tokens(128_000).expect("Llama 3");
        assert_eq!((llama3.len(), llama3[9].as_str()), (256, "<|eot_id|>"));
        assert_eq!(llama3[255], "<|reserved_special_token_245|>");
        let llama4 = special_tokens(200_000).expect("Llama 4");
        assert_eq!(llama4.len(), 2048);
        for (id, text) in [
            (200_010, "<|text_post_train_reserved_special_token_0|>"),
            (200_015, "<|text_post_train_reserved_special_token_5|>"),
            (200_019, "<|text_post_train_reserved_special_token_8|>"),
            (200_079, "<|text_post_train_reserved_special_token_68|>"),
            (200_082, "<|vision_reserved_special_token_0|>"),
            (201_133, "<|vision_reserved_special_token_1047|>"),
            (201_141, "<|reasoning_reserved_special_token_7|>"),
            (201_143, "<|reasoning_thinking_end|>"),
            (201_144, "<|reserved_special_token_0|>"),
            (202_047, "<|reserved_special_token_903|>"),
        ] {
            assert_eq!(llama4[id - 200_000], text);
        }
        assert_eq!(special_tokens(1000), None);
    }

    #[test]
    fn damaged_lines_are_refused_with_their_offset() {
        let error = ranks(Path::new("tokenizer.model"), b"IQ== 0\nIg== 2\n").expect_err("rank 1 is missing");
        assert!(error.to_string().starts_with("tokenizer.model: byte 7:"), "{error}");
    }
}
