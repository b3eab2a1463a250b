//! How long a model stays in memory after its last request, as Ollama's clients say it.

use crate::wire::Described;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a model stays in memory after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// So long; zero unloads it at once.
    For(Duration),
    /// Until its memory is needed.
    Forever,
}

/// Longer than any server runs, and short enough to be added to a clock.
const LONGEST_SECONDS: f64 = 1e9;

impl KeepAlive {
    fn seconds(seconds: f64) -> KeepAlive {
        match seconds {
            seconds if seconds < 0.0 => KeepAlive::Forever,
            seconds => KeepAlive::For(Duration::from_secs_f64(seconds.min(LONGEST_SECONDS))),
        }
    }

    /// Reads Go's notation: `5m`, `1h30m`, `300ms`, `-1`, `0`.
    pub fn parse(text: &str) -> Option<KeepAlive> {
        let (sign, text) = match text.trim().strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, text.trim()),
        };
        if let Ok(seconds) = text.parse::<f64>() {
            return seconds.is_finite().then(|| Self::seconds(sign * seconds));
        }
        let (mut total, mut rest) = (0.0, text);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let factor = match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            total += number * factor;
            rest = &rest[unit..];
        }
        (!text.is_empty() && total.is_finite()).then(|| Self::seconds(sign * total))
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("a duration is a number of seconds or a text such as `5m`");
        match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_f64().map(Self::seconds).ok_or_else(wrong),
            Value::String(text) => Self::parse(&text).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            KeepAlive::For(duration) => serializer.serialize_f64(duration.as_secs_f64()),
            KeepAlive::Forever => serializer.serialize_f64(-1.0),
        }
    }
}

impl Described for KeepAlive {
    fn schema() -> Value {
        json!({ "oneOf": [{ "type": "number" }, { "type": "string" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_ollamas_clients_write_them() {
        let seconds = |n| Some(KeepAlive::For(Duration::from_secs_f64(n)));
        for (text, expected) in [
            ("5m", seconds(300.0)),
            ("1h30m", seconds(5400.0)),
            ("300ms", seconds(0.3)),
            ("0", seconds(0.0)),
            ("10", seconds(10.0)),
            ("-1", Some(KeepAlive::Forever)),
            ("-1m", Some(KeepAlive::Forever)),
            ("1e300", seconds(LONGEST_SECONDS)),
            ("", None),
            ("m", None),
            ("5 parsecs", None),
            ("nan", None),
            ("5m3", None),
        ] {
            assert_eq!(KeepAlive::parse(text), expected, "{text}");
        }
        assert_eq!(serde_json::from_str::<KeepAlive>("-1").unwrap(), KeepAlive::Forever);
        assert!(serde_json::from_str::<KeepAlive>("[]").is_err());
    }
}
