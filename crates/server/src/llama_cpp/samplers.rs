//! llama.cpp's `samplers`: a list of names, names in one string, or a string with a letter for each.

use alti_engine::sampling::SamplerName;
use serde_json::{Value, json};

/// The letters of llama.cpp's `--sampling-seq`.
const LETTERS: [(char, &str); 10] = [
    ('e', "penalties"),
    ('d', "dry"),
    ('s', "top_n_sigma"),
    ('k', "top_k"),
    ('y', "typical_p"),
    ('p', "top_p"),
    ('m', "min_p"),
    ('x', "xtc"),
    ('t', "temperature"),
    ('i', INFILL),
];

/// A sampler that llama.cpp has and we do not: editors name it in their requests to fill in.
const INFILL: &str = "infill";

/// The samplers of those named that there are here; the others are passed over, as llama.cpp does.
pub(super) fn known_samplers(value: Value) -> Value {
    let value = match value {
        Value::String(text) => json!(names(&text)),
        value => value,
    };
    match value {
        Value::Array(mut samplers) => {
            samplers
                .retain(|sampler| sampler.as_str().is_none_or(|name| SamplerName::from_name(name).is_some()));
            Value::Array(samplers)
        }
        value => value,
    }
}

/// The names in a string.
fn names(text: &str) -> Vec<&str> {
    let of = |letter| LETTERS.iter().find(|(own, _)| *own == letter).map(|(_, name)| *name);
    let spelled: Option<Vec<&str>> = text.chars().map(of).collect();
    spelled.unwrap_or_else(|| text.split([';', ',']).map(str::trim).filter(|name| !name.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_are_named_as_llama_cpps_clients_do() {
        for (given, expected) in [
            (json!(["top_k", "top_p", "infill"]), json!(["top_k", "top_p"])),
            (json!("top_k;top_p;infill"), json!(["top_k", "top_p"])),
            (json!("temperature"), json!(["temperature"])),
            (json!("edskypmxti"), json!(LETTERS[..9].iter().map(|(_, name)| name).collect::<Vec<_>>())),
            (json!(["guess", "min_p"]), json!(["min_p"])),
            (json!(3), json!(3)),
        ] {
            assert_eq!(known_samplers(given), expected);
        }
    }
}
