//! Meta's own `tokenizer.model`: tiktoken ranks for Llama 3 and 4, a SentencePiece model for Llama 2. The files are
//! read by `alti-formats`; here they become tokenizers.

use std::path::Path;

use alti_formats::tokenizer::{PreTokenizer, TokenKind, sentence_piece, tiktoken};

use crate::error::{Result, TextError};
use crate::sources::gguf::added_tokens;
use crate::sources::{score_ranks, sentence_piece_bytes};
use crate::tokenizer::merge::MergeRules;
use crate::tokenizer::vocabulary::Vocabulary;
use crate::tokenizer::{Definition, Model, Roles, SpacePrefix};

/// Reads `tokenizer.model`; `path` is for messages. Lines of ASCII are tiktoken's, anything else SentencePiece's, which
/// begins with the tag of its first piece (a line feed).
pub(crate) fn definition(path: &Path, file: &[u8]) -> Result<Definition> {
    match file.first() {
        Some(b'\n') | None => sentence_piece_definition(path, file),
        Some(_) => tiktoken_definition(path, file),
    }
}

fn tiktoken_definition(path: &Path, file: &[u8]) -> Result<Definition> {
    let ranks = tiktoken::ranks(path, file)?;
    let specials = tiktoken::special_tokens(ranks.len()).ok_or_else(|| TextError::Unsupported {
        place: path.display().to_string(),
        found: format!("{} ranks", ranks.len()),
        supported: "128,000 (Llama 3) and 200,000 (Llama 4)",
    })?;
    ranked(&ranks, &specials)
}

/// A tokenizer of tiktoken ranks with the control tokens that follow them. A token's rank is its id, and two
/// neighbours merge where their bytes together are a token.
pub(crate) fn ranked(ranks: &[Vec<u8>], specials: &[String]) -> Result<Definition> {
    let mut vocabulary = Vocabulary::with_capacity(ranks.len() + specials.len());
    for token in ranks {
        vocabulary.push(TokenKind::Normal, |bytes| bytes.extend_from_slice(token))?;
    }
    if let Some(byte) = (0..=255u8).find(|&byte| vocabulary.find(&[byte]).is_none()) {
        return Err(TextError::invalid("tokenizer.model", format!("no token for the byte {byte:#04x}")));
    }
    for spelling in specials {
        vocabulary.push(TokenKind::Control, |bytes| bytes.extend_from_slice(spelling.as_bytes()))?;
    }
    let id = |spelling: &str| vocabulary.find(spelling.as_bytes());
    let is_llama4 = id("<|header_start|>").is_some();
    let roles = Roles {
        bos: id("<|begin_of_text|>"),
        adds_bos: true,
        eos: id("<|end_of_text|>"),
        padding: id("<|finetune_right_pad_id|>").or(id("<|finetune_right_pad|>")),
        ..Roles::default()
    };
    let pre_tokenizer = if is_llama4 { PreTokenizer::Llama4 } else { PreTokenizer::Llama3 };
    let model = Model::ByteLevel { pre_tokenizer, whole_pieces: true };
    let added = added_tokens(&vocabulary);
    Ok(Definition { vocabulary, model, rules: MergeRules::IdIsRank, added, roles, cuts_long_runs: true })
}

fn sentence_piece_definition(path: &Path, file: &[u8]) -> Result<Definition> {
    let parsed = sentence_piece::parse(path, file)?;
    let mut vocabulary = Vocabulary::with_capacity(parsed.tokens.len());
    for token in &parsed.tokens {
        vocabulary
            .push(token.kind, |bytes| sentence_piece_bytes(token.kind, token.text.as_bytes(), bytes))?;
    }
    let scores: Vec<f32> = parsed.tokens.iter().map(|token| token.score).collect();
    let space_prefix =
        if parsed.add_space_prefix.unwrap_or(true) { SpacePrefix::EveryText } else { SpacePrefix::Never };
    let roles = Roles {
        bos: parsed.bos,
        adds_bos: parsed.add_bos.unwrap_or(true),
        eos: parsed.eos,
        unknown: parsed.unknown,
        padding: parsed.padding,
        stops: Vec::new(),
    };
    let rules = score_ranks(&scores)?;
    let added = added_tokens(&vocabulary);
    let model = Model::SentencePiece { space_prefix };
    Ok(Definition { vocabulary, model, rules, added, roles, cuts_long_runs: false })
}
