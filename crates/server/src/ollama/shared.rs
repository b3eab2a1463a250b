//! What Ollama's routes have in common.

use crate::error::{ApiError, ApiResult};
use crate::generate::{Format, Options, sampling};
use crate::models::{Lease, ModelFacts};
use crate::openai::shared::logprobs;
use crate::route::Family;
use alti_engine::grammar::GrammarSource;
use alti_engine::sampling::{Kind, SETTINGS};
use alti_engine::serving::{TokenOutput, Usage};
use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant, SystemTime};

/// A moment as Ollama writes it.
pub(super) fn moment(time: SystemTime) -> String {
    DateTime::<Local>::from(time).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The present moment.
pub(super) fn now() -> String {
    DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// What Ollama says of a model's file.
pub(super) fn details(facts: &ModelFacts, parent: &str) -> Value {
    json!({
        "parent_model": parent,
        "format": facts.format,
        "family": facts.architecture,
        "families": [facts.architecture],
        "parameter_size": facts.parameter_size(),
        "quantization_level": facts.quantization.as_deref().unwrap_or("unknown"),
    })
}

/// The name of the model that a request has to say.
///
/// # Errors
/// When it is empty: the server's default model is for APIs that let it out.
pub(super) fn required(model: &str) -> ApiResult<&str> {
    if model.is_empty() { Err(ApiError::field("model", "model is required")) } else { Ok(model) }
}

/// How an answer is written: the `options` of a request.
///
/// # Errors
/// One of the wrong type.
pub(super) fn options(model: &Lease, options: Option<&Map<String, Value>>) -> ApiResult<Options> {
    let given = options.into_iter().flatten().map(|(name, value)| setting(name, value.clone()));
    let given = given.filter(|(name, value)| !(*name == "seed" && value.as_i64() == Some(0)));
    let sampling = sampling(&model.base_sampling(Family::Ollama)?, given)
        .map_err(|error| ApiError { param: error.param.map(|param| format!("options.{param}")), ..error })?;
    Ok(Options::new(sampling))
}

/// An option by its own name, and as Ollama understands its value: whole numbers may be written as fractions, and what is
/// out of range is as far as it goes.
pub(super) fn setting(name: &str, value: Value) -> (&str, Value) {
    let name = if name == "num_predict" { "max_tokens" } else { name };
    let row = SETTINGS.iter().find(|row| row.name == name || row.aliases.contains(&name));
    let value = match (name, row.map(|row| row.kind), value) {
        // 0 and all negative numbers set no limit.
        ("max_tokens" | "n_predict", _, Value::Number(count))
            if count.as_f64().is_some_and(|it| it < 1.0) =>
        {
            json!(-1)
        }
        // Who divides by nothing means no penalty.
        ("repeat_penalty", _, Value::Number(by)) if by.as_f64().is_some_and(|by| by <= 0.0) => json!(1),
        (_, Some(Kind::Integer { least, most }), Value::Number(number)) => {
            // Beyond 64 bits it saturates.
            let whole = number.as_i64().or_else(|| number.as_f64().map(|number| number as i64));
            whole.map_or(Value::Number(number), |whole| json!(whole.clamp(least, most)))
        }
        (_, Some(Kind::Number { least, most }), Value::Number(number)) => match number.as_f64() {
            Some(given) if !(least..=most).contains(&given) => json!(given.clamp(least, most)),
            _ => Value::Number(number),
        },
        (_, Some(Kind::Texts { .. }), Value::String(text)) if text.is_empty() => Value::Null,
        (_, Some(Kind::Texts { .. }), Value::Array(mut texts)) => {
            texts.retain(|text| text != "");
            Value::Array(texts)
        }
        (_, _, value) => value,
    };
    (name, value)
}

/// How many of the most likely tokens are told with each, if tokens are told at all.
///
/// # Errors
/// More than Ollama tells.
pub(super) fn told_logprobs(wanted: Option<bool>, top: Option<i64>) -> ApiResult<Option<usize>> {
    match usize::try_from(top.unwrap_or(0)) {
        Ok(top @ 0..=20) => Ok((wanted == Some(true)).then_some(top)),
        _ => Err(ApiError::field("top_logprobs", "top_logprobs must be between 0 and 20")),
    }
}

/// Tells tokens with their probabilities in a line, and forgets them.
pub(super) fn tell_logprobs(model: &Lease, tokens: &mut Vec<TokenOutput>, line: &mut Value) {
    let tokens = std::mem::take(tokens);
    if !tokens.is_empty() {
        line["logprobs"] = json!(logprobs(&model.tokenizer, &tokens).content);
    }
}

/// Reads `format`: `json`, or a schema.
///
/// # Errors
/// When it is neither.
pub(super) fn format(format: Option<&Value>) -> ApiResult<Format> {
    match format {
        None | Some(Value::Null) => Ok(Format::Text),
        Some(Value::String(word)) if word.is_empty() => Ok(Format::Text),
        Some(Value::String(word)) if word == "json" => Ok(Format::Grammar(GrammarSource::JsonObject)),
        Some(schema @ Value::Object(_)) => Ok(Format::schema(schema)),
        Some(_) => Err(ApiError::field("format", "`format` must be \"json\" or a JSON schema")),
    }
}

/// How long things took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) began: Instant,
    /// Until the model was there.
    pub(super) loading: Duration,
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// What an answer took, as Ollama's last line says it.
pub(super) fn timings(clock: Clock, usage: &Usage, into: &mut Value) {
    into["total_duration"] = json!(clock.began.elapsed().as_nanos() as u64);
    into["load_duration"] = json!(clock.loading.as_nanos() as u64);
    into["prompt_eval_count"] = json!(usage.prompt_tokens);
    into["prompt_eval_duration"] = json!(nanoseconds(usage.prefill_seconds));
    into["eval_count"] = json!(usage.generated_tokens);
    into["eval_duration"] = json!(nanoseconds(usage.decode_seconds));
}

/// Refuses images: the models that are served read text.
///
/// # Errors
/// When there are any.
pub(super) fn no_images(images: Option<&Vec<Value>>, field: &str) -> ApiResult<()> {
    match images {
        Some(images) if !images.is_empty() => {
            Err(ApiError::field(field, format!("`{field}`: this model reads text only")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_as_far_as_they_go() {
        for (name, value, own, expected) in [
            ("top_k", json!(40.0), "top_k", json!(40)),
            ("top_k", json!(-5), "top_k", json!(-1)),
            ("num_predict", json!(128.0), "max_tokens", json!(128)),
            ("num_predict", json!(-2), "max_tokens", json!(-1)),
            ("seed", json!(42.7), "seed", json!(42)),
            ("seed", json!(1e300), "seed", json!(i64::MAX)),
            ("temperature", json!(-1), "temperature", json!(0.0)),
            ("temperature", json!(0.25), "temperature", json!(0.25)),
            ("temperature", json!("hot"), "temperature", json!("hot")),
            ("top_p", json!(2), "top_p", json!(1.0)),
            ("repeat_penalty", json!(0), "repeat_penalty", json!(1)),
            ("stop", json!(""), "stop", Value::Null),
            ("stop", json!(["", "x"]), "stop", json!(["x"])),
            ("num_ctx", json!(4096), "num_ctx", json!(4096)),
        ] {
            assert_eq!(setting(name, value), (own, expected));
        }
    }
}
