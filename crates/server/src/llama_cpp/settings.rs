//! Sampler settings as llama.cpp's clients give them: what it passes over, rounds or reads in a form of its own.

use super::prompts::token_id;
use super::samplers::known_samplers;
use crate::error::ApiResult;
use crate::generate::sampling;
use crate::models::Lease;
use crate::route::Family;
use alti_engine::sampling::SamplerSettings;
use alti_text::{Specials, Tokenizer};
use serde_json::{Map, Value, json};

/// The sampler settings of a request to `model`, out of its further fields.
///
/// # Errors
/// A value of the wrong type or out of range.
pub(super) fn settings(model: &Lease, fields: &Map<String, Value>) -> ApiResult<SamplerSettings> {
    let given = fields.iter().map(|(name, value)| {
        let value = match name.as_str() {
            "samplers" => known_samplers(value.clone()),
            "logit_bias" => token_biases(&model.tokenizer, value.clone()),
            name => as_meant(name, value.clone()),
        };
        (name.as_str(), value)
    });
    sampling(&model.base_sampling(Family::LlamaCpp)?, given)
}

/// Values that llama.cpp reads as others.
fn as_meant(name: &str, value: Value) -> Value {
    let below = |least: f64| value.as_f64().is_some_and(|number| number < least);
    match name {
        // -2 is until the context is full, which is where the answer ends in any case.
        "n_predict" | "max_tokens" if below(-1.0) => json!(-1),
        "temperature" | "temp" if below(0.0) => json!(0),
        "stop" => match value {
            Value::String(word) if word.is_empty() => json!([]),
            Value::Array(mut words) => {
                words.retain(|word| word != "");
                Value::Array(words)
            }
            value => value,
        },
        _ => value,
    }
}

/// `logit_bias` by tokens alone: a text in the place of a token id stands for all of its tokens. What is none of the
/// known forms is left to whoever reads it.
pub(super) fn token_biases(tokenizer: &Tokenizer, value: Value) -> Value {
    let pairs: Option<Vec<(Value, Value)>> = match &value {
        Value::Array(items) => items
            .iter()
            .map(|item| match item.as_array().map(Vec::as_slice) {
                Some([key, bias]) => Some((key.clone(), bias.clone())),
                _ => None,
            })
            .collect(),
        Value::Object(fields) => Some(
            fields
                .iter()
                .map(|(key, bias)| {
                    (key.parse::<u32>().map_or_else(|_| json!(key), Value::from), bias.clone())
                })
                .collect(),
        ),
        _ => None,
    };
    let Some(pairs) = pairs else { return value };
    let mut biases = Vec::new();
    for (key, bias) in pairs {
        match &key {
            Value::String(text) => {
                let tokens = crate::generate::encode_plain(tokenizer, text, Specials::AsText);
                biases.extend(tokens.into_iter().map(|token| json!([token, bias])));
            }
            key => biases.push(json!([token_id(key).map_or_else(|| key.clone(), Value::from), bias])),
        }
    }
    Value::Array(biases)
}
