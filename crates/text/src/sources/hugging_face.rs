//! Hugging Face's `tokenizer.json` and the files beside it. Of the library's many components those are accepted that
//! models of the Llama family use; anything else is refused by name, since a tokenizer that is almost right is wrong.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::{Result, TextError};
use crate::sources::merges::{MAX_MERGES, MergeList};
use crate::sources::{parse_byte_token, sentence_piece_bytes};
use crate::tokenizer::added::AddedToken;
use crate::tokenizer::byte_level;
use crate::tokenizer::pre_split::PreTokenizer;
use crate::tokenizer::vocabulary::{MAX_TOKENS, Vocabulary};
use crate::tokenizer::{Definition, Model, Roles, SpacePrefix};
use alti_formats::tokenizer::TokenKind;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<JsonAddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(borrow)]
    model: JsonModel<'a>,
}

#[derive(Deserialize)]
struct JsonAddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct JsonModel<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    vocab: JsonVocabulary<'a>,
    #[serde(borrow, default)]
    merges: JsonMerges<'a>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Tokens with their ids, in file order.
struct JsonVocabulary<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonVocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Entries<'a> {
            type Value = JsonVocabulary<'a>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tokens and ids")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while let Some((Text(token), id)) = map.next_entry::<Text<'a>, u32>()? {
                    entries.push((token, id));
                }
                Ok(JsonVocabulary(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

/// Pairs of tokens, strongest first; in the file `"a b"` or `["a", "b"]`.
#[derive(Default)]
struct JsonMerges<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

struct JsonMerge<'a>((Cow<'a, str>, Cow<'a, str>));

impl<'de: 'a, 'a> Deserialize<'de> for JsonMerge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pair<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Pair<'a> {
            type Value = JsonMerge<'a>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("\"left right\" or [\"left\", \"right\"]")
            }
            fn visit_borrowed_str<E: serde::de::Error>(
                self,
                text: &'de str,
            ) -> std::result::Result<Self::Value, E> {
                let (left, right) =
                    text.split_once(' ').ok_or_else(|| E::custom("a merge without a space"))?;
                Ok(JsonMerge((left.into(), right.into())))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
                let (left, right) =
                    text.split_once(' ').ok_or_else(|| E::custom("a merge without a space"))?;
                Ok(JsonMerge((left.to_owned().into(), right.to_owned().into())))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut pair: S) -> std::result::Result<Self::Value, S::Error> {
                let missing = || serde::de::Error::custom("a merge of fewer than two tokens");
                let Text(left) = pair.next_element()?.ok_or_else(missing)?;
                let Text(right) = pair.next_element()?.ok_or_else(missing)?;
                match pair.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(JsonMerge((left, right))),
                    Some(_) => Err(serde::de::Error::custom("a merge of more than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair(std::marker::PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonMerges<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let merges = Vec::<JsonMerge<'a>>::deserialize(deserializer)?;
        Ok(Self(merges.into_iter().map(|merge| merge.0).collect()))
    }
}

/// Reads `tokenizer.json`, with `config` the parsed `tokenizer_config.json` and `special_tokens_map.json` (later ones
/// fill what earlier ones leave open).
pub(crate) fn definition(file: &str, configs: &[Value]) -> Result<Definition> {
    let file: File<'_> = serde_json::from_str(file)
        .map_err(|error| TextError::invalid("tokenizer.json", error.to_string().replace('\n', " ")))?;
    if file.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(unsupported("model.type", &Value::from(file.model.kind), "BPE"));
    }
    if file.model.merges.0.len() > MAX_MERGES {
        return Err(TextError::invalid("tokenizer.json: model.merges", format!("more than {MAX_MERGES}")));
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
    let mut merges = MergeList::new(&vocabulary, file.model.merges.0.len());
    for (left, right) in &file.model.merges.0 {
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
    let added = file.added_tokens.into_iter().map(AddedToken::from).collect();
    Ok(Definition { vocabulary, model, rules, added, roles, cuts_long_runs: false })
}

impl From<JsonAddedToken> for AddedToken {
    fn from(token: JsonAddedToken) -> Self {
        Self {
            id: token.id,
            text: token.content,
            control: token.special,
            strip_left: token.lstrip,
            strip_right: token.rstrip,
            single_word: token.single_word,
            normalized: token.normalized,
        }
    }
}

/// All tokens by id: the model's, then the added ones over them; ids that nothing claims are unused.
fn vocabulary(file: &File<'_>, is_byte_level: bool) -> Result<Vocabulary> {
    let ids =
        file.model.vocab.0.iter().map(|(_, id)| *id).chain(file.added_tokens.iter().map(|token| token.id));
    let size = ids.max().map_or(0, |id| id as usize + 1);
    if size > MAX_TOKENS {
        return Err(TextError::invalid(
            "tokenizer.json",
            format!("token id {} (limit {MAX_TOKENS})", size - 1),
        ));
    }
    let mut slots: Vec<(TokenKind, &str)> = vec![(TokenKind::Unused, ""); size];
    for (token, id) in &file.model.vocab.0 {
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
    let known = alti_formats::tokenizer::PreTokenizer::from_json(component).filter(|_| plain && keeps_all);
    known.map(PreTokenizer::from).ok_or_else(refused)
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

fn roles(file: &File<'_>, vocabulary: &Vocabulary, configs: &[Value]) -> Roles {
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
