//! Seconds, or `"never"`. A setting that has a number where nothing is said needs a word for none.

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::ser::Serializer;
use std::fmt;

const NEVER: &str = "never";

/// Writes a number, or the word.
///
/// # Errors
/// The serializer's.
pub(super) fn serialize<S: Serializer>(seconds: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match seconds {
        Some(seconds) => serializer.serialize_u64(*seconds),
        None => serializer.serialize_str(NEVER),
    }
}

/// Reads a number, or the word.
///
/// # Errors
/// When it is neither.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_any(SecondsOrNever)
}

struct SecondsOrNever;

impl Visitor<'_> for SecondsOrNever {
    type Value = Option<u64>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a number of seconds or \"{NEVER}\"")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Option<u64>, E> {
        Ok(Some(seconds))
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Option<u64>, E> {
        let seconds = u64::try_from(seconds);
        seconds
            .map(Some)
            .map_err(|_| E::custom(format!("it cannot be negative: write \"{NEVER}\" for no end")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<u64>, E> {
        match text {
            NEVER => Ok(None),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}
