//! What a model's own files say about sampling: its makers know best what it does well with.

use alti_engine::sampling::SamplerSettings;
use alti_formats::Checkpoint;
use alti_formats::gguf::Value as GgufValue;
use serde_json::{Map, Value, json};
use std::path::Path;

/// A setting, and what files call it.
struct Named {
    setting: &'static str,
    /// In Hugging Face's `generation_config.json`.
    hugging_face: Option<&'static str>,
    /// In GGUF, behind `general.sampling.`.
    gguf: Option<&'static str>,
}

const fn named(
    setting: &'static str,
    hugging_face: Option<&'static str>,
    gguf: Option<&'static str>,
) -> Named {
    Named { setting, hugging_face, gguf }
}

/// Every setting that files name.
const NAMES: [Named; 11] = [
    named("temperature", Some("temperature"), Some("temp")),
    named("top_k", Some("top_k"), Some("top_k")),
    named("top_p", Some("top_p"), Some("top_p")),
    named("min_p", Some("min_p"), Some("min_p")),
    named("typical_p", Some("typical_p"), None),
    named("repeat_penalty", Some("repetition_penalty"), Some("penalty_repeat")),
    named("repeat_last_n", None, Some("penalty_last_n")),
    named("xtc_probability", None, Some("xtc_probability")),
    named("xtc_threshold", None, Some("xtc_threshold")),
    named("mirostat_tau", None, Some("mirostat_tau")),
    named("mirostat_eta", None, Some("mirostat_eta")),
];

/// The longest `generation_config.json`.
const MOST_BYTES: u64 = 1 << 20;

/// The sampler settings that a model's files name. What makes no sense in them is left out, and told to the log.
pub fn model_sampling(checkpoint: &Checkpoint) -> Map<String, Value> {
    let found = match checkpoint.gguf() {
        Some(metadata) => of_gguf(|key| metadata.get(key)),
        None => of_hugging_face(&read(&checkpoint.directory().join("generation_config.json"))),
    };
    let is_right = |name: &str, value: &Value| {
        let one = [(name, value.clone())];
        let right = alti_server::generate::sampling(&SamplerSettings::default(), one);
        if let Err(error) = &right {
            tracing::warn!(%error, "a setting of the model's files is not used");
        }
        right.is_ok()
    };
    found.into_iter().filter(|(name, value)| is_right(name, value)).collect()
}

/// A small file of JSON; nothing where there is none.
fn read(path: &Path) -> Value {
    let is_small = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MOST_BYTES);
    let bytes = is_small.then(|| std::fs::read(path).ok()).flatten();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn of_hugging_face(config: &Value) -> Map<String, Value> {
    // A model that its makers do not sample from has settings without a meaning.
    if config["do_sample"] == json!(false) {
        return Map::new();
    }
    let value = |row: &Named| {
        let value = config.get(row.hugging_face?).filter(|value| value.is_number())?;
        Some((row.setting.to_owned(), value.clone()))
    };
    NAMES.iter().filter_map(value).collect()
}

fn of_gguf(get: impl Fn(&str) -> Option<GgufValue>) -> Map<String, Value> {
    let value = |row: &Named| {
        let value = get(&format!("general.sampling.{}", row.gguf?))?;
        let value = match (value.as_u64(), value.as_f32()) {
            (Some(count), _) => json!(count),
            // The shortest decimal fraction that is this number.
            (None, Some(number)) => json!(number.to_string().parse::<f64>().ok()?),
            (None, None) => return None,
        };
        Some((row.setting.to_owned(), value))
    };
    NAMES.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hugging_faces_file_says_is_read() {
        let config = json!({
            "do_sample": true, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.05, "eos_token_id": [1],
            "top_k": null,
        });
        let expected = json!({ "temperature": 0.6, "top_p": 0.9, "repeat_penalty": 1.05 });
        assert_eq!(Value::Object(of_hugging_face(&config)), expected);
        assert!(of_hugging_face(&json!({ "do_sample": false, "temperature": 0.6 })).is_empty());
        assert!(of_hugging_face(&Value::Null).is_empty());
    }

    #[test]
    fn what_a_gguf_file_says_is_read() {
        let get = |key: &str| match key {
            "general.sampling.temp" => Some(GgufValue::F32(0.6)),
            "general.sampling.top_k" => Some(GgufValue::I32(20)),
            "general.sampling.min_p" => Some(GgufValue::String("low".to_owned())),
            _ => None,
        };
        assert_eq!(Value::Object(of_gguf(get)), json!({ "temperature": 0.6, "top_k": 20 }));
    }
}
