//! `tokenizer.json` and `tokenizer_config.json`, by plain JSON: what is needed to carry a BPE
//! vocabulary to another format and back.

use super::json::{JsonAddedToken, MAX_TOKENS, TokenizerJson};
use super::merges::{derive, text_splits};
use super::{
    MAX_SETTINGS, PreTokenizer, Token, TokenKind, TokenizerModel, Vocabulary, read_file, read_settings_text,
    unused,
};
use crate::FormatError;
use crate::config::ModelConfig;
use crate::error::shown;
use crate::files::{json_error, read_small_json, write_whole};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// Reads `tokenizer.json`.
pub(super) fn read(path: &Path) -> Result<Vocabulary, FormatError> {
    let file = read_file(path)?;
    let TokenizerJson { added_tokens, normalizer, pre_tokenizer, post_processor, model } =
        TokenizerJson::parse(&file).map_err(|e| json_error(path, &file, &e))?;
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        let kind = shown(model.kind.as_deref().unwrap_or_default());
        return Err(FormatError::field(path, "model.type", format!("is {kind}; only BPE is supported")));
    }
    let kind = match PreTokenizer::from_json(&pre_tokenizer) {
        _ if model.byte_fallback => TokenizerModel::SentencePiece,
        Some(pre) => TokenizerModel::ByteLevel(pre),
        None => {
            let problem = format!(
                "{} is none of Llama 3's, Llama 4's, SmolLM's and GPT-2's",
                shown(&pre_tokenizer.to_string())
            );
            return Err(FormatError::field(path, "pre_tokenizer", problem));
        }
    };
    let id_of = |text: &str| model.vocab.iter().rev().find(|(token, _)| token == text).map(|(_, id)| *id);
    let unknown = model.unk_token.as_deref().and_then(id_of);
    let merges: Vec<String> = model.merges.iter().map(|(left, right)| joined(left, right)).collect();
    let mut vocabulary = Vocabulary::new(kind, Vec::new());
    vocabulary.tokens = read_tokens(path, model.vocab, added_tokens, unknown, model.byte_fallback)?;
    vocabulary.unknown = unknown;
    (vocabulary.add_bos, vocabulary.add_eos) = added_by(&post_processor);
    match kind {
        TokenizerModel::ByteLevel(_) => vocabulary.merges = merges,
        TokenizerModel::SentencePiece => {
            score_by_merges(&mut vocabulary.tokens, &merges);
            vocabulary.add_space_prefix = Some(normalizer.to_string().contains("\"Prepend\""));
        }
    }
    Ok(vocabulary)
}

/// A merge joined by a space; spaces within, which only SentencePiece-like vocabularies could have,
/// as byte-level's letter.
fn joined(left: &str, right: &str) -> String {
    format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"))
}

fn read_tokens(
    path: &Path,
    vocab: Vec<(Cow<'_, str>, u32)>,
    added: Vec<JsonAddedToken<'_>>,
    unknown: Option<u32>,
    byte_fallback: bool,
) -> Result<Vec<Token>, FormatError> {
    let largest =
        vocab.iter().map(|(_, id)| *id).chain(added.iter().map(|token| token.id)).max().unwrap_or(0);
    // Ids may have holes, but not so many that the list of them is out of proportion.
    if largest as usize >= MAX_TOKENS || largest as usize > 2 * (vocab.len() + added.len()) + 4096 {
        let problem = format!("has token id {largest} among {} tokens", vocab.len() + added.len());
        return Err(FormatError::field(path, "model.vocab", problem));
    }
    let mut tokens: Vec<Token> = (0..=largest as usize).map(unused).collect();
    for (text, id) in vocab {
        let is_byte = byte_fallback && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        let kind = if is_byte { TokenKind::Byte } else { TokenKind::Normal };
        tokens[id as usize] = Token { text: text.into_owned(), kind, score: 0.0 };
    }
    for JsonAddedToken { id, content, special, .. } in added {
        let kind = match special || looks_special(&content) {
            _ if byte_fallback && unknown == Some(id) => TokenKind::Unknown,
            true => TokenKind::Control,
            false => TokenKind::UserDefined,
        };
        let text =
            if kind == TokenKind::UserDefined { content.replace('▁', " ") } else { content.into_owned() };
        tokens[id as usize] = Token { text, kind, score: 0.0 };
    }
    Ok(tokens)
}

/// SentencePiece's scores, as far as merging goes: the earlier the merge that makes a piece, the
/// higher.
fn score_by_merges(tokens: &mut [Token], merges: &[String]) {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        if let Some((left, right)) = merge.split_once(' ') {
            ranks.entry(format!("{left}{right}")).or_insert(rank);
        }
    }
    let never = -(merges.len() as f32);
    for token in tokens.iter_mut().filter(|token| token.kind == TokenKind::Normal) {
        token.score = ranks.get(&token.text).map_or(never, |&rank| -(rank as f32));
    }
}

/// Whether a post-processor puts special tokens before and after a text.
fn added_by(post_processor: &Value) -> (Option<bool>, Option<bool>) {
    let steps = match post_processor["processors"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(post_processor),
    };
    let template = steps.iter().find(|step| step["type"] == "TemplateProcessing");
    let Some(single) = template.and_then(|step| step["single"].as_array()) else { return (None, None) };
    let special = |piece: Option<&Value>| Some(piece?.get("SpecialToken").is_some());
    (special(single.first()), special(single.last()))
}

/// Adds what `tokenizer_config.json` and the chat template's files say, where there are such.
pub(super) fn add_tokenizer_config(folder: &Path, vocabulary: &mut Vocabulary) -> Result<(), FormatError> {
    let config = read_settings(folder)?;
    let id = |name: &str| {
        let entry = config.get(name)?;
        vocabulary.id_of(entry.as_str().or_else(|| entry["content"].as_str())?)
    };
    let ids = ["bos_token", "eos_token", "unk_token", "pad_token"].map(id);
    vocabulary.bos = ids[0].or(vocabulary.bos);
    vocabulary.eos = ids[1].or(vocabulary.eos);
    vocabulary.unknown = ids[2].or(vocabulary.unknown);
    vocabulary.padding = ids[3].or(vocabulary.padding);
    let flag = |name: &str| config.get(name).and_then(Value::as_bool);
    vocabulary.add_bos = vocabulary.add_bos.or(flag("add_bos_token"));
    vocabulary.add_eos = vocabulary.add_eos.or(flag("add_eos_token"));
    vocabulary.add_space_prefix = vocabulary.add_space_prefix.or(flag("add_prefix_space"));
    vocabulary.chat_template = read_template(folder, &config)?;
    Ok(())
}

/// Adds the tokens that a Hugging Face folder lists beside a SentencePiece model, as llama.cpp's
/// converter does. Ids of `size` and above have no embedding and are left out.
pub(super) fn add_added_tokens(
    folder: &Path,
    vocabulary: &mut Vocabulary,
    size: usize,
) -> Result<(), FormatError> {
    let mut added: Vec<(usize, String, bool)> = Vec::new();
    let path = folder.join("added_tokens.json");
    if path.is_file() {
        let ids: HashMap<String, usize> = read_small_json(&path, MAX_SETTINGS)?;
        added.extend(ids.into_iter().map(|(text, id)| (id, text, false)));
    }
    for (id, entry) in
        read_settings(folder)?.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten()
    {
        if let (Ok(id), Some(text)) = (id.parse(), entry["content"].as_str()) {
            added.push((id, text.to_owned(), entry["special"] == true || looks_special(text)));
        }
    }
    for (id, text, special) in added.into_iter().filter(|(id, ..)| *id < size) {
        let from = vocabulary.tokens.len();
        vocabulary.tokens.extend((from..=id).map(unused));
        let kind = if special { TokenKind::Control } else { TokenKind::UserDefined };
        let text = if special { text } else { text.replace('▁', " ") };
        vocabulary.tokens[id] = Token { text, kind, score: -1000.0 };
    }
    Ok(())
}

fn looks_special(text: &str) -> bool {
    text.starts_with("<|") && text.ends_with("|>")
}

/// `tokenizer_config.json`, empty where there is none.
fn read_settings(folder: &Path) -> Result<Map<String, Value>, FormatError> {
    let path = folder.join("tokenizer_config.json");
    match path.is_file() {
        true => read_small_json(&path, MAX_SETTINGS),
        false => Ok(Map::new()),
    }
}

fn read_template(folder: &Path, config: &Map<String, Value>) -> Result<Option<String>, FormatError> {
    if let Some(text) = read_settings_text(&folder.join("chat_template.jinja"))? {
        return Ok(Some(text));
    }
    Ok(match config.get("chat_template") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            default.and_then(|entry| entry["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    })
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into `folder`.
pub(super) fn write(vocabulary: &Vocabulary, config: &ModelConfig, folder: &Path) -> Result<(), FormatError> {
    let json = tokenizer_json(vocabulary);
    write_whole(&folder.join("tokenizer.json"), format!("{json:#}\n").as_bytes())?;
    let text = |id: Option<u32>| id.map(|id| vocabulary.tokens[id as usize].text.clone());
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.context_length,
        "bos_token": text(vocabulary.bos),
        "eos_token": text(vocabulary.eos),
        "unk_token": text(vocabulary.unknown),
        "pad_token": text(vocabulary.padding),
    });
    let optional = [
        ("add_bos_token", vocabulary.add_bos.map(Value::from)),
        ("add_eos_token", vocabulary.add_eos.map(Value::from)),
        ("chat_template", vocabulary.chat_template.clone().map(Value::from)),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            settings[key] = value;
        }
    }
    write_whole(&folder.join("tokenizer_config.json"), format!("{settings:#}\n").as_bytes())
}

fn tokenizer_json(vocabulary: &Vocabulary) -> Value {
    let tokens = &vocabulary.tokens;
    let ordinary =
        |token: &Token| matches!(token.kind, TokenKind::Normal | TokenKind::Byte | TokenKind::Unknown);
    // Special tokens after all ordinary ones are not in the model's vocabulary: a piece of text
    // could otherwise be one. Those between must be, or the ids would shift.
    let in_model = tokens.iter().rposition(ordinary).map_or(0, |last| last + 1);
    let last_added =
        tokens.iter().rposition(|token| token.kind != TokenKind::Unused).map_or(0, |last| last + 1);
    let vocab: Map<String, Value> =
        tokens[..in_model].iter().enumerate().map(|(id, token)| (token.text.clone(), json!(id))).collect();
    let is_added = |id: usize, token: &Token| match token.kind {
        TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown => true,
        TokenKind::Unused => (in_model..last_added).contains(&id),
        TokenKind::Normal | TokenKind::Byte => false,
    };
    let added = tokens.iter().enumerate().filter(|(id, token)| is_added(*id, token)).map(|(id, token)| {
        let special = matches!(token.kind, TokenKind::Control | TokenKind::Unknown);
        json!({"id": id, "content": token.text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special})
    });
    let added: Vec<Value> = added.collect();
    let shape = match vocabulary.model {
        TokenizerModel::ByteLevel(pre) => byte_level_parts(pre),
        TokenizerModel::SentencePiece => sentence_piece_parts(vocabulary.add_space_prefix.unwrap_or(true)),
    };
    let whole_pieces = matches!(vocabulary.model, TokenizerModel::ByteLevel(pre) if pre.takes_whole_pieces());
    let sentence_piece = vocabulary.model == TokenizerModel::SentencePiece;
    let unknown = vocabulary.unknown.map(|id| tokens[id as usize].text.as_str());
    let merges: Vec<Value> =
        merges(vocabulary).iter().filter_map(|m| m.split_once(' ')).map(|(l, r)| json!([l, r])).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": shape.normalizer,
        "pre_tokenizer": shape.pre_tokenizer,
        "post_processor": post_processor(vocabulary),
        "decoder": shape.decoder,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.filter(|_| sentence_piece),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": sentence_piece,
            "byte_fallback": sentence_piece,
            "ignore_merges": whole_pieces,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

/// The parts of `tokenizer.json` that depend on the algorithm alone.
struct Shape {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
}

fn byte_level_parts(pre: PreTokenizer) -> Shape {
    Shape {
        normalizer: Value::Null,
        pre_tokenizer: pre.json(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
    }
}

fn sentence_piece_parts(space_prefix: bool) -> Shape {
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", "▁")];
    let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if space_prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Shape {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
    }
}

fn post_processor(vocabulary: &Vocabulary) -> Value {
    let bos = vocabulary.bos.filter(|_| vocabulary.add_bos.unwrap_or(false));
    let eos = vocabulary.eos.filter(|_| vocabulary.add_eos.unwrap_or(false));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let mut special_tokens = Map::new();
    let mut piece = |id: u32, type_id: u32| {
        let text = &vocabulary.tokens[id as usize].text;
        special_tokens.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
        json!({"SpecialToken": {"id": text, "type_id": type_id}})
    };
    let mut around = |sequence: &str, type_id: u32| {
        let mut pieces: Vec<Value> = bos.map(|id| piece(id, type_id)).into_iter().collect();
        pieces.push(json!({"Sequence": {"id": sequence, "type_id": type_id}}));
        pieces.extend(eos.map(|id| piece(id, type_id)));
        pieces
    };
    let single = around("A", 0);
    let pair = [single.clone(), around("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens})
}

/// The vocabulary's merges, derived from the scores where SentencePiece has none.
fn merges(vocabulary: &Vocabulary) -> Vec<String> {
    if vocabulary.model != TokenizerModel::SentencePiece {
        return vocabulary.merges.clone();
    }
    let tokens = &vocabulary.tokens;
    let pieces = (0u32..).zip(tokens).filter(|(_, token)| token.kind == TokenKind::Normal);
    let pieces: Vec<(u32, &str)> = pieces.map(|(id, token)| (id, token.text.as_str())).collect();
    let higher_first = |a: u32, b: u32| tokens[b as usize].score.total_cmp(&tokens[a as usize].score);
    let merges = derive(&pieces, text_splits, higher_first);
    merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect()
}
