//! The one reader of `tokenizer.json`: plain JSON, borrowed from the file's text where it can be.
//! What the parts mean is for its two users, conversion and encoding, to say. Every list has a
//! limit, so that a hostile file costs no more than its own size and a few dozen megabytes.

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Most tokens that are believed (Llama 4 has 202,048).
pub const MAX_TOKENS: usize = 1 << 20;
/// Most merges that are believed (Llama 4 has 439,802).
pub const MAX_MERGES: usize = 1 << 19;
/// Most added tokens (Llama 4 has 1,135).
const MAX_ADDED: usize = 1 << 16;
/// Longest description of a component, in bytes; Llama's have a few hundred.
const MAX_COMPONENT: usize = 64 << 10;

/// A parsed `tokenizer.json`.
#[derive(Deserialize)]
pub struct TokenizerJson<'a> {
    /// Tokens that are found by their spelling.
    #[serde(borrow, default, deserialize_with = "added_tokens")]
    pub added_tokens: Vec<JsonAddedToken<'a>>,
    /// What changes the text first; null where nothing does.
    #[serde(default, deserialize_with = "component")]
    pub normalizer: Value,
    /// What cuts it into pieces.
    #[serde(default, deserialize_with = "component")]
    pub pre_tokenizer: Value,
    /// What puts special tokens around it.
    #[serde(default, deserialize_with = "component")]
    pub post_processor: Value,
    /// Tokens and merges.
    #[serde(borrow)]
    pub model: JsonModel<'a>,
}

/// An entry of `added_tokens`.
#[derive(Deserialize)]
pub struct JsonAddedToken<'a> {
    /// The token.
    pub id: u32,
    /// Its spelling.
    #[serde(borrow)]
    pub content: Cow<'a, str>,
    /// Whether it is found only where no word touches it.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it swallows the white space before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether it swallows the white space after it.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is looked for in normalised text.
    #[serde(default)]
    pub normalized: bool,
    /// Whether it is a control token.
    #[serde(default)]
    pub special: bool,
}

/// The `model` of a `tokenizer.json`.
#[derive(Deserialize)]
pub struct JsonModel<'a> {
    /// The algorithm: BPE, where the file says so.
    #[serde(borrow, default, rename = "type")]
    pub kind: Option<Cow<'a, str>>,
    /// Tokens with their ids, in file order.
    #[serde(borrow, deserialize_with = "vocabulary")]
    pub vocab: Vec<(Cow<'a, str>, u32)>,
    /// Pairs of tokens, first merged first.
    #[serde(borrow, default, deserialize_with = "merges")]
    pub merges: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Spelling of the unknown token.
    #[serde(borrow, default)]
    pub unk_token: Option<Cow<'a, str>>,
    /// Whether a character without a token becomes its bytes.
    #[serde(default)]
    pub byte_fallback: bool,
    /// Whether a piece that is a token is taken whole.
    #[serde(default)]
    pub ignore_merges: bool,
}

impl<'a> TokenizerJson<'a> {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is no JSON of that shape, or exceeds a limit.
    pub fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }
}

/// A string that is borrowed where it has no escapes (which `Cow` alone does not do inside others).
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Measured before it is made into values, each of which takes many times its text.
fn component<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let text = <&'de RawValue>::deserialize(deserializer)?.get();
    if text.len() > MAX_COMPONENT {
        let problem = format!("a component of {} bytes (limit {MAX_COMPONENT})", text.len());
        return Err(D::Error::custom(problem));
    }
    serde_json::from_str(text).map_err(D::Error::custom)
}

/// A list of at most `limit` entries.
struct Limited<T> {
    limit: usize,
    what: &'static str,
    entry: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Limited<T> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of {}", self.what)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == self.limit {
                return Err(S::Error::custom(format!("more than {} {}", self.limit, self.what)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn added_tokens<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<JsonAddedToken<'a>>, D::Error> {
    deserializer.deserialize_seq(Limited { limit: MAX_ADDED, what: "added tokens", entry: PhantomData })
}

/// The two parts that a merge joins.
type Parts<'a> = (Cow<'a, str>, Cow<'a, str>);

struct Merge<'a>(Parts<'a>);

fn merges<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Parts<'a>>, D::Error> {
    let limited = Limited::<Merge<'a>> { limit: MAX_MERGES, what: "merges", entry: PhantomData };
    // In place: a vector of wrappers becomes one of pairs without a copy.
    Ok(deserializer.deserialize_seq(limited)?.into_iter().map(|merge| merge.0).collect())
}

fn vocabulary<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(Cow<'a, str>, u32)>, D::Error> {
    struct Entries<'a>(PhantomData<&'a ()>);
    impl<'de: 'a, 'a> Visitor<'de> for Entries<'a> {
        type Value = Vec<(Cow<'a, str>, u32)>;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object of tokens and ids")
        }
        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut entries = Vec::new();
            while let Some((Text(token), id)) = map.next_entry::<Text<'a>, u32>()? {
                if entries.len() == MAX_TOKENS {
                    return Err(M::Error::custom(format!("more than {MAX_TOKENS} tokens")));
                }
                entries.push((token, id));
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_map(Entries(PhantomData))
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    /// As one string (before tokenizers 0.20) or as two.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Pair<'a> {
            type Value = Merge<'a>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("\"left right\" or [\"left\", \"right\"]")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                let (left, right) = halves(text)?;
                Ok(Merge((left.into(), right.into())))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let (left, right) = halves(text)?;
                Ok(Merge((left.to_owned().into(), right.to_owned().into())))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut pair: S) -> Result<Self::Value, S::Error> {
                let missing = || S::Error::custom("a merge of fewer than two tokens");
                let Text(left) = pair.next_element()?.ok_or_else(missing)?;
                let Text(right) = pair.next_element()?.ok_or_else(missing)?;
                match pair.next_element::<IgnoredAny>()? {
                    None => Ok(Merge((left, right))),
                    Some(_) => Err(S::Error::custom("a merge of more than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair(PhantomData))
    }
}

fn halves<E: Error>(text: &str) -> Result<(&str, &str), E> {
    text.split_once(' ').ok_or_else(|| E::custom("a merge without a space"))
}
