//! Hugging Face's `tokenizer.json` and the files beside it. Of the library's many components those are accepted that
//! models of the Llama family use; anything else is refused by name, since a tokenizer that is almost right is wrong.

use alti_formats::tokenizer::json::{JsonAddedToken, MAX_TOKENS, TokenizerJson};
use alti_formats::tokenizer::{PreTokenizer, TokenKind, byte_level};
use serde_json::Value;

use crate::error::{Result, TextError};
use crate::sources::merges::MergeList;
use crate::sources::{parse_byte_token, sentence_piece_bytes};
use crate::tokenizer::added::AddedToken;
use crate::tokenizer::vocabulary::Vocabulary;
use crate::tokenizer::{Definition, Model, Roles, SpacePrefix};

/// Reads `tokenizer.json`, with `config` the parsed `tokenizer_config.json` and `special_tokens_map.json` (later ones
/// fill what earlier ones leave open).
pub(crate) fn definition(file: &[u8], configs: &[Value]) -> Result<Definition> {
    let file = TokenizerJson::parse(file)
        .map_err(|error| TextError::invalid("tokenizer.json", error.to_string().replace('\n', " ")))?;
    if file.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(unsupported("model.type", &Value::from(file.model.kind), "BPE"));
    }
    let steps = flatten(&file.pre_tokenizer, "pretokenizers");
    let is_byte_level = steps.iter().any(|step| kind_of(step) == "ByteLevel");
    let model = if is_byte_level {
        if !file.normalizer.is_null() {
            return Err(unsupported("normalizer", &file.normalizer, "none, with a byte-level model"));
        }
        Model::ByteLevel {
            pre_tokenizer: pre_tokenizer(&file.pre_tokenizer, &steps)?,
            whole_pieces: file.model.ignore_merges,
        }
    } else {
        Model::SentencePiece {
            space_prefix: space_prefix(&flatten(&file.normalizer, "normalizers"), &steps)?,
        }
    };
    let vocabulary = vocabulary(&file, is_byte_level)?;
    let mut merges = MergeList::new(&vocabulary, file.model.merges.len());
    for (left, right) in &file.model.merges {
        let write = |token: &str, bytes: &mut Vec<u8>| {
            if is_byte_level {
                byte_level::decode_into(token.as_bytes(), bytes);
            } else {
                sentence_piece_bytes(TokenKind::Normal, token.as_bytes(), bytes);
            }
        };
        merges.push(|bytes| write(left, bytes), |bytes| write(right, bytes))?;
    }
    let rules = merges.into_rules();
    let roles = roles(&file, &vocabulary, configs);
    let added = file.added_tokens.into_iter().map(added_token).collect();
    Ok(Definition { vocabulary, model, rules, added, roles, cuts_long_runs: false })
}

fn added_token(token: JsonAddedToken<'_>) -> AddedToken {
    AddedToken {
        id: token.id,
        text: token.content.into_owned(),
        control: token.special,
        strip_left: token.lstrip,
        strip_right: token.rstrip,
        single_word: token.single_word,
        normalized: token.normalized,
    }
}

/// All tokens by id: the model's, then the added ones over them; ids that nothing claims are unused.
fn vocabulary(file: &TokenizerJson<'_>, is_byte_level: bool) -> Result<Vocabulary> {
    let ids =
        file.model.vocab.iter().map(|(_, id)| *id).chain(file.added_tokens.iter().map(|token| token.id));
    let size = ids.max().map_or(0, |id| id as usize + 1);
    // Unused ids cost memory: of those there may be as many as of others, and those of a padded vocabulary.
    let limit = MAX_TOKENS.min(2 * (file.model.vocab.len() + file.added_tokens.len()) + 4096);
    if size > limit {
        return Err(TextError::invalid("tokenizer.json", format!("token id {} (limit {limit})", size - 1)));
    }
    let mut slots: Vec<(TokenKind, &str)> = vec![(TokenKind::Unused, ""); size];
    for (token, id) in &file.model.vocab {
        let is_byte =
            file.model.byte_fallback && !is_byte_level && parse_byte_token(token.as_bytes()).is_some();
        slots[*id as usize] = (if is_byte { TokenKind::Byte } else { TokenKind::Normal }, token);
    }
    for token in &file.added_tokens {
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        slots[token.id as usize] = (kind, &token.content);
    }
    let mut vocabulary = Vocabulary::with_capacity(size);
    for (kind, token) in slots {
        vocabulary.push(kind, |bytes| match kind {
            TokenKind::Normal if is_byte_level => byte_level::decode_into(token.as_bytes(), bytes),
            TokenKind::Normal | TokenKind::Byte => sentence_piece_bytes(kind, token.as_bytes(), bytes),
            _ => bytes.extend_from_slice(token.as_bytes()),
        })?;
    }
    Ok(vocabulary)
}

/// The components of a `Sequence`, or the one component.
fn flatten<'v>(component: &'v Value, list: &str) -> Vec<&'v Value> {
    match component.get(list).and_then(Value::as_array) {
        Some(parts) => parts.iter().flat_map(|part| flatten(part, list)).collect(),
        None if component.is_null() => Vec::new(),
        None => vec![component],
    }
}

fn kind_of(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn flag(component: &Value, name: &str, default: bool) -> bool {
    component.get(name).and_then(Value::as_bool).unwrap_or(default)
}

fn unsupported(place: &str, found: &Value, supported: &'static str) -> TextError {
    let mut found = found.to_string();
    if let Some((cut, _)) = found.char_indices().nth(200) {
        found.truncate(cut);
    }
    TextError::Unsupported { place: format!("tokenizer.json: {place}"), found, supported }
}

/// The splitter for a byte-level model's `pre_tokenizer`.
fn pre_tokenizer(component: &Value, steps: &[&Value]) -> Result<PreTokenizer> {
    let refused = || unsupported("pre_tokenizer", component, "those of Llama 3, Llama 4, SmolLM and GPT-2");
    let (byte_level, before) = steps.split_last().ok_or_else(refused)?;
    // A regex splits either in the step before or in the byte-level one, and every piece is kept.
    let splits_before = before.iter().any(|step| kind_of(step) == "Split");
    let keeps_all = before.iter().all(|step| {
        kind_of(step) != "Split"
            || (step.get("behavior").and_then(Value::as_str) == Some("Isolated")
                && !flag(step, "invert", false))
    });
    let plain =
        !flag(byte_level, "add_prefix_space", true) && flag(byte_level, "use_regex", true) != splits_before;
    PreTokenizer::from_json(component).filter(|_| plain && keeps_all).ok_or_else(refused)
}

/// Where a SentencePiece-like model puts its space: a `Prepend` normalizer, or a `Metaspace` pre-tokenizer.
fn space_prefix(normalizers: &[&Value], steps: &[&Value]) -> Result<SpacePrefix> {
    let is_space = |component: &Value, name: &str| component.get(name).and_then(Value::as_str) == Some("▁");
    let mut prefix = SpacePrefix::Never;
    for normalizer in normalizers {
        let replaces_spaces = kind_of(normalizer) == "Replace"
            && is_space(normalizer, "content")
            && normalizer.pointer("/pattern/String").and_then(Value::as_str) == Some(" ");
        if kind_of(normalizer) == "Prepend" && is_space(normalizer, "prepend") {
            prefix = SpacePrefix::EveryText;
        } else if !replaces_spaces {
            return Err(unsupported("normalizer", normalizer, "Prepend and Replace of \"▁\""));
        }
    }
    match steps {
        [] => Ok(prefix),
        [step]
            if kind_of(step) == "Metaspace"
                && is_space(step, "replacement")
                && !flag(step, "split", true) =>
        {
            let scheme = match step.get("prepend_scheme").and_then(Value::as_str) {
                Some(scheme) => scheme,
                None if flag(step, "add_prefix_space", true) => "always",
                None => "never",
            };
            Ok(match scheme {
                "first" => SpacePrefix::FirstTextUnlessSpaced,
                "never" => prefix,
                _ => SpacePrefix::EveryTextUnlessSpaced,
            })
        }
        [step, ..] => Err(unsupported("pre_tokenizer", step, "ByteLevel, or Metaspace without split")),
    }
}

fn roles(file: &TokenizerJson<'_>, vocabulary: &Vocabulary, configs: &[Value]) -> Roles {
    let named = |name: &str| {
        let spelled = configs.iter().find_map(|config| {
            let token = config.get(name)?;
            token.as_str().or_else(|| token.get("content")?.as_str())
        });
        spelled.and_then(|spelling| vocabulary.find(spelling.as_bytes()))
    };
    let template = flatten(&file.post_processor, "processors").into_iter().find_map(|processor| {
        let first = processor.pointer("/single/0/SpecialToken/id")?.as_str()?;
        vocabulary.find(first.as_bytes())
    });
    let adds_bos = configs.iter().find_map(|config| config.get("add_bos_token")?.as_bool());
    Roles {
        bos: named("bos_token").or(template),
        adds_bos: template.is_some() || (file.post_processor.is_null() && adds_bos.unwrap_or(false)),
        eos: named("eos_token"),
        unknown: file.model.unk_token.as_deref().and_then(|token| vocabulary.find(token.as_bytes())),
        padding: named("pad_token"),
        stops: Vec::new(),
    }
}
