//! Logit bias: what the user adds to the logits of single tokens before anything else happens,
//! down to minus infinity, which bans a token. It has a type of its own because two JSON spellings
//! are in use and infinity has none: OpenAI's object `{"15043": 1.5}` and llama.cpp's array
//! `[[15043, 1.5], [2, false]]`, where `false` bans.

use super::candidates::Candidates;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashMap;
use std::fmt;

/// Token id to the number added to its logit; minus infinity bans the token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitBias(pub HashMap<u32, f32>);

/// Adds the biases and drops banned tokens.
pub(super) fn apply(bias: &LogitBias, candidates: &mut Candidates) {
    candidates.adjust(&bias.0, |logit, bias| logit + bias);
    candidates.forbid(&bias.0, |&bias| bias == f32::NEG_INFINITY);
}

impl LogitBias {
    /// Reads one `TOKEN+BIAS` or `TOKEN-BIAS`, as llama.cpp's `--logit-bias` writes them:
    /// `15043+1.5`, `2-inf`.
    pub(super) fn parse_entry(text: &str) -> Option<(u32, f32)> {
        let (token, bias) = text.trim().split_at_checked(text.trim().find(['+', '-'])?)?;
        Some((token.trim().parse().ok()?, bias.parse().ok()?))
    }

    /// The entries by ascending token id.
    pub(super) fn sorted(&self) -> Vec<(u32, f32)> {
        let mut entries: Vec<_> = self.0.iter().map(|(&token, &bias)| (token, bias)).collect();
        entries.sort_unstable_by_key(|&(token, _)| token);
        entries
    }
}

/// The value side of an entry in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Bias {
    Number(f32),
    Allowed(bool),
}

impl Bias {
    /// The number, or none for a meaningless `true`.
    fn number(self) -> Option<f32> {
        match self {
            Bias::Number(number) => Some(number),
            Bias::Allowed(allowed) => (!allowed).then_some(f32::NEG_INFINITY),
        }
    }
}

impl Serialize for LogitBias {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (token, bias) in self.sorted() {
            let bias = if bias == f32::NEG_INFINITY { Bias::Allowed(false) } else { Bias::Number(bias) };
            list.serialize_element(&(token, bias))?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BiasVisitor)
    }
}

struct BiasVisitor;

impl BiasVisitor {
    fn entry<E: Error>(token: u32, bias: Bias) -> Result<(u32, f32), E> {
        let bias = bias.number().ok_or_else(|| {
            E::custom(format!("the bias of token {token} is `true`: give a number, or `false` to ban it"))
        })?;
        Ok((token, bias))
    }
}

impl<'de> Visitor<'de> for BiasVisitor {
    type Value = LogitBias;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object of token id to bias, or an array of [token id, bias] pairs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
        let mut entries = HashMap::new();
        while let Some((token, bias)) = map.next_entry::<String, Bias>()? {
            let token = token
                .parse()
                .map_err(|_| A::Error::custom(format!("`{token}` is not a token id: give a whole number")))?;
            let (token, bias) = Self::entry(token, bias)?;
            entries.insert(token, bias);
        }
        Ok(LogitBias(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LogitBias, A::Error> {
        let mut entries = HashMap::new();
        while let Some((token, bias)) = list.next_element::<(u32, Bias)>()? {
            let (token, bias) = Self::entry(token, bias)?;
            entries.insert(token, bias);
        }
        Ok(LogitBias(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;
    use super::*;

    fn bias(entries: &[(u32, f32)]) -> LogitBias {
        LogitBias(entries.iter().copied().collect())
    }

    #[test]
    fn adds_and_bans() {
        let bias = bias(&[(0, std::f32::consts::LN_2), (2, f32::NEG_INFINITY), (99, 5.0)]);
        check(&[0.2, 0.4, 0.4], |list| apply(&bias, list), &[0.5, 0.5, 0.0]);
    }

    #[test]
    fn both_json_spellings_are_read() {
        let expected = bias(&[(15043, 1.5), (2, f32::NEG_INFINITY)]);
        for json in [r#"{"15043": 1.5, "2": false}"#, "[[15043, 1.5], [2, false]]"] {
            assert_eq!(serde_json::from_str::<LogitBias>(json).unwrap(), expected);
        }
        let json = serde_json::to_string(&expected).unwrap();
        assert_eq!(json, "[[2,false],[15043,1.5]]");
        assert_eq!(serde_json::from_str::<LogitBias>(&json).unwrap(), expected);
    }

    #[test]
    fn bad_json_says_what_is_wrong() {
        let error = |json| serde_json::from_str::<LogitBias>(json).unwrap_err().to_string();
        assert!(error(r#"{"hello": 1}"#).contains("`hello` is not a token id"));
        assert!(error("[[7, true]]").contains("the bias of token 7 is `true`"));
        assert!(error("3").contains("an object of token id to bias"));
    }

    #[test]
    fn entries_as_on_the_command_line() {
        assert_eq!(LogitBias::parse_entry("15043+1.5"), Some((15043, 1.5)));
        assert_eq!(LogitBias::parse_entry(" 2-inf"), Some((2, f32::NEG_INFINITY)));
        assert_eq!(LogitBias::parse_entry("hello+1"), None);
        assert_eq!(LogitBias::parse_entry("15043"), None);
    }
}
