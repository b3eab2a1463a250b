//! A tokenizer in GGUF metadata (`tokenizer.ggml.*`), spelled as llama.cpp's converter does.

use super::{PreTokenizer, Token, TokenKind, TokenizerModel, Vocabulary, unused};
use crate::FormatError;
use crate::error::shown;
use crate::gguf::{GgufMetadata, Value};

/// The key of a special token's id: of "bos", "eos", ...
pub(super) fn id_key(name: &str) -> String {
    format!("tokenizer.ggml.{name}_token_id")
}

/// The metadata of a vocabulary.
pub(super) fn write(vocabulary: &Vocabulary) -> Vec<(String, Value)> {
    let (model, pre) = match vocabulary.model {
        TokenizerModel::ByteLevel(pre) => ("gpt2", pre.gguf_name()),
        TokenizerModel::SentencePiece => ("llama", "default"),
    };
    let mut pairs = vec![
        ("ggml.model", Value::String(model.to_owned())),
        ("ggml.pre", Value::String(pre.to_owned())),
        ("ggml.tokens", Value::strings(vocabulary.tokens.iter().map(|token| &token.text))),
    ];
    if vocabulary.model == TokenizerModel::SentencePiece {
        pairs.push(("ggml.scores", Value::f32s(vocabulary.tokens.iter().map(|token| token.score))));
    }
    pairs.push(("ggml.token_type", Value::i32s(vocabulary.tokens.iter().map(|token| token.kind as i32))));
    if !vocabulary.merges.is_empty() {
        pairs.push(("ggml.merges", Value::strings(&vocabulary.merges)));
    }
    let ids = [
        ("ggml.bos_token_id", vocabulary.bos),
        ("ggml.eos_token_id", vocabulary.eos),
        ("ggml.unknown_token_id", vocabulary.unknown),
        ("ggml.padding_token_id", vocabulary.padding),
    ];
    pairs.extend(ids.into_iter().filter_map(|(key, id)| Some((key, Value::U32(id?)))));
    let flags = [
        ("ggml.add_bos_token", vocabulary.add_bos),
        ("ggml.add_eos_token", vocabulary.add_eos),
        ("ggml.add_space_prefix", vocabulary.add_space_prefix),
    ];
    pairs.extend(flags.into_iter().filter_map(|(key, flag)| Some((key, Value::Bool(flag?)))));
    pairs.extend(vocabulary.chat_template.clone().map(|text| ("chat_template", Value::String(text))));
    pairs.into_iter().map(|(key, value)| (format!("tokenizer.{key}"), value)).collect()
}

/// The vocabulary in a file's metadata; `None` where there is none.
pub(super) fn read(metadata: &GgufMetadata) -> Result<Option<Vocabulary>, FormatError> {
    let Some(texts) = metadata.strings("tokenizer.ggml.tokens")? else { return Ok(None) };
    let model = read_model(metadata)?;
    let mut scores = numbers(metadata, "tokenizer.ggml.scores", |array| array.floats().collect())?;
    let mut kinds: Vec<i64> =
        numbers(metadata, "tokenizer.ggml.token_type", |array| array.integers().collect())?;
    scores.resize(texts.len(), 0.0);
    kinds.resize(texts.len(), TokenKind::Normal as i64);
    let tokens = texts.iter().zip(scores).zip(kinds).enumerate().map(|(id, ((text, score), kind))| {
        match TokenKind::from_number(kind) {
            Some(kind) => Token { text: (*text).to_owned(), kind, score },
            None => unused(id),
        }
    });
    let mut vocabulary = Vocabulary::new(model, tokens.collect());
    let merges = metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default();
    vocabulary.merges = merges.into_iter().map(str::to_owned).collect();
    let id = |name: &str| -> Result<Option<u32>, FormatError> {
        let id = metadata.unsigned(&id_key(name))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < texts.len()))
    };
    vocabulary.bos = id("bos")?;
    vocabulary.eos = id("eos")?;
    vocabulary.unknown = id("unknown")?;
    vocabulary.padding = id("padding")?;
    vocabulary.add_bos = metadata.boolean("tokenizer.ggml.add_bos_token")?;
    vocabulary.add_eos = metadata.boolean("tokenizer.ggml.add_eos_token")?;
    vocabulary.add_space_prefix = metadata.boolean("tokenizer.ggml.add_space_prefix")?;
    vocabulary.chat_template = metadata.string("tokenizer.chat_template")?.map(str::to_owned);
    Ok(Some(vocabulary))
}

fn read_model(metadata: &GgufMetadata) -> Result<TokenizerModel, FormatError> {
    const MODEL: &str = "tokenizer.ggml.model";
    const PRE: &str = "tokenizer.ggml.pre";
    match metadata.string(MODEL)? {
        Some("llama") => Ok(TokenizerModel::SentencePiece),
        Some("gpt2") => {
            let name = metadata.string(PRE)?.unwrap_or_default();
            match PreTokenizer::from_gguf_name(name) {
                Some(pre) => Ok(TokenizerModel::ByteLevel(pre)),
                None => {
                    let problem = format!(
                        "is {}; llama-bpe, llama4, smollm, gpt-2, default and their aliases are supported",
                        shown(name)
                    );
                    Err(FormatError::field(metadata.path(), PRE, problem))
                }
            }
        }
        other => {
            let problem = format!("is {}; gpt2 and llama are supported", shown(other.unwrap_or("missing")));
            Err(FormatError::field(metadata.path(), MODEL, problem))
        }
    }
}

fn numbers<T>(
    metadata: &GgufMetadata,
    key: &str,
    read: impl Fn(crate::gguf::ArrayView<'_>) -> Vec<T>,
) -> Result<Vec<T>, FormatError> {
    Ok(metadata.array(key)?.map(read).unwrap_or_default())
}
