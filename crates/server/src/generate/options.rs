//! How a text is to be written, as far as all APIs say it.

use crate::error::{ApiError, ApiResult};
use alti_engine::grammar::GrammarSource;
use alti_engine::sampling::{SETTINGS, SamplerSettings};
use alti_engine::serving::Priority;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How a text is to be written.
#[derive(Clone, Debug)]
pub struct Options {
    /// How tokens are drawn.
    pub sampling: SamplerSettings,
    /// Answers wanted.
    pub choices: u32,
    /// How many of the most likely tokens are told with each token.
    pub logprobs: Option<usize>,
    /// Whether the prompt's tokens are told, too.
    pub prompt_logprobs: bool,
    /// Whether the model's end-of-answer tokens are ignored.
    pub ignore_end: bool,
    /// What the text has to obey.
    pub grammar: Option<GrammarSource>,
    /// The request's field that says so, for errors.
    pub grammar_field: &'static str,
    /// Who goes first.
    pub priority: Priority,
    /// Whether cached prefixes are used and left behind.
    pub cache_prompt: bool,
    /// The slot that remembers the text.
    pub slot: Option<u32>,
    /// How long the answer may take from its first token on, once it has a new line.
    pub time_limit: Option<Duration>,
}

impl Options {
    /// One answer, drawn as `sampling` says.
    pub fn new(sampling: SamplerSettings) -> Options {
        Options {
            sampling,
            choices: 1,
            logprobs: None,
            prompt_logprobs: false,
            ignore_end: false,
            grammar: None,
            grammar_field: "response_format",
            priority: Priority::Interactive,
            cache_prompt: true,
            slot: None,
            time_limit: None,
        }
    }
}

/// Whether a field of this name is a sampler setting.
pub fn is_setting(name: &str) -> bool {
    canonical(name).is_some()
}

/// The setting's own name.
fn canonical(name: &str) -> Option<&'static str> {
    let row = SETTINGS.iter().find(|setting| setting.name == name || setting.aliases.contains(&name));
    row.map(|setting| setting.name)
}

/// The sampler settings of a request: `base`, with the values of `fields` that are named as settings in their place.
///
/// # Errors
/// A value of the wrong type or out of range.
pub fn sampling<'a>(
    base: &SamplerSettings,
    fields: impl IntoIterator<Item = (&'a str, Value)>,
) -> ApiResult<SamplerSettings> {
    let named = fields.into_iter().filter(|(_, value)| !value.is_null());
    let given: Map<String, Value> =
        named.filter_map(|(name, value)| Some((canonical(name)?.to_owned(), value))).collect();
    if given.is_empty() {
        return Ok(base.clone());
    }
    let Ok(Value::Object(mut fields)) = serde_json::to_value(base) else {
        return Err(ApiError::internal("sampler settings are not an object"));
    };
    for (name, mut value) in given {
        // Clients send one stop string where a list is meant, and names in one text.
        if let ("stop" | "dry_sequence_breakers", Value::String(_)) = (name.as_str(), &value) {
            value = Value::Array(vec![value]);
        }
        fields.insert(name, value);
    }
    let sampling: SamplerSettings =
        serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
            let path = error.path().to_string();
            ApiError::field(path.clone(), format!("`{path}`: {}", error.inner()))
        })?;
    sampling.validate()?;
    Ok(sampling)
}

/// The sampler settings as they are told, by name: 0.7 is 0.7, not the digits of its 32 bits.
pub fn told(sampling: &SamplerSettings) -> Map<String, Value> {
    let mut told = serde_json::to_value(sampling).unwrap_or_default();
    shorten(&mut told);
    told.as_object_mut().map(std::mem::take).unwrap_or_default()
}

/// Numbers that were single precision, as the shortest that read the same.
fn shorten(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let single = number.as_f64().unwrap_or_default() as f32;
            *value = json!(shortest(single));
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

/// The shortest decimal fraction that is this number in single precision.
pub fn shortest(single: f32) -> f64 {
    single.to_string().parse().unwrap_or_else(|_| f64::from(single))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_replace_the_models_own() {
        let base = SamplerSettings { top_k: 7, ..SamplerSettings::default() };
        let fields =
            [("temp", json!(0)), ("stop", json!("END")), ("user", json!("x")), ("seed", Value::Null)];
        let found = sampling(&base, fields).unwrap();
        let expected = SamplerSettings { temperature: 0.0, stop: vec!["END".into()], ..base.clone() };
        assert_eq!(found, expected);
    }

    #[test]
    fn settings_are_told_as_they_were_given() {
        let fields = [("temperature", json!(0.7)), ("top_k", json!(3)), ("logit_bias", json!({ "5": -0.1 }))];
        let settings = sampling(&SamplerSettings::default(), fields).unwrap();
        let told = told(&settings);
        assert_eq!((&told["temperature"], &told["top_k"]), (&json!(0.7), &json!(3)));
        assert!(told["logit_bias"].to_string().contains("-0.1"), "{}", told["logit_bias"]);
        assert_eq!(sampling(&SamplerSettings::default(), [("min_p", json!(0.05))]).unwrap().min_p, 0.05);
    }

    #[test]
    fn wrong_values_name_their_setting() {
        let error = |name: &'static str, value: Value| {
            sampling(&SamplerSettings::default(), [(name, value)]).unwrap_err().param
        };
        assert_eq!(error("temperature", json!("hot")).as_deref(), Some("temperature"));
        assert_eq!(error("temperature", json!(-1)).as_deref(), Some("temperature"));
        assert_eq!(error("temperature", json!(1e300)).as_deref(), Some("temperature"));
        assert_eq!(error("top_k", json!(1.5)).as_deref(), Some("top_k"));
        assert_eq!(error("logit_bias", json!({ "x": 1 })).as_deref(), Some("logit_bias"));
        assert_eq!(error("samplers", json!(["nothing"])).as_deref(), Some("samplers[0]"));
    }
}
