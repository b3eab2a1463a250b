//! What Ollama's routes have in common.

use crate::error::{ApiError, ApiResult};
use crate::generate::{Format, Options, sampling};
use crate::models::{Lease, ModelFacts};
use crate::route::Family;
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::Usage;
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

/// How an answer is written: the `options` of a request.
///
/// # Errors
/// One of the wrong type or out of range.
pub(super) fn options(model: &Lease, options: Option<&Map<String, Value>>) -> ApiResult<Options> {
    let given = options.into_iter().flatten().map(|(name, value)| (name.as_str(), value.clone()));
    let given = given.map(|(name, value)| match name {
        "num_predict" => ("max_tokens", most_tokens(value)),
        name => (name, value),
    });
    let given = given.filter(|(name, value)| !(*name == "seed" && value.as_i64() == Some(0)));
    let sampling = sampling(&model.base_sampling(Family::Ollama)?, given)
        .map_err(|error| ApiError { param: error.param.map(|param| format!("options.{param}")), ..error })?;
    Ok(Options::new(sampling))
}

/// Ollama's `num_predict`: 0 and all negative numbers set no limit.
pub(super) fn most_tokens(value: Value) -> Value {
    if value.as_i64().is_some_and(|count| count <= 0) { json!(-1) } else { value }
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
