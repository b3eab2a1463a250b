//! `/props` and `/lora-adapters`: what the default model is, and what is loaded beside it.

use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::told;
use crate::models::Lease;
use crate::respond;
use crate::route::{Call, Family};
use crate::wire::from_value;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

crate::wire! {
    /// How much of an adapter is in what a model answers.
    pub struct AdapterScale {
        required {
            /// The adapter's number, as `GET /lora-adapters` tells it.
            id: usize,
            /// How much: 0 is nothing.
            scale: f64,
        }
    }
}

/// `GET /props`.
pub(super) async fn props(call: Call) -> ApiResult<Response<Body>> {
    let model = call.state.models().acquire(call.query_value("model").as_deref(), None).await?;
    let tokenizer = &model.tokenizer;
    let spelling =
        |token: Option<u32>| token.map(|token| tokenizer.token_text(token).into_owned()).unwrap_or_default();
    let template = model.template.as_ref().map(|template| template.source()).unwrap_or_default();
    Ok(respond::json(&json!({
        "default_generation_settings": {
            "n_ctx": model.inference.context(),
            "params": told(&model.base_sampling(Family::LlamaCpp)?),
        },
        "total_slots": model.inference.max_running(),
        "model_alias": model.requested,
        "model_path": model.facts.name,
        "modalities": { "vision": false, "audio": false },
        "chat_template": template,
        "bos_token": spelling(tokenizer.bos()),
        "eos_token": spelling(tokenizer.eos()),
        "build_info": concat!("alti-", env!("CARGO_PKG_VERSION")),
    })))
}

/// `POST /props`: refused, as llama.cpp's server does where it was not started with `--props`.
pub(super) async fn set_props(_call: Call) -> ApiResult<Response<Body>> {
    let message = "this server does not support changing global properties: its settings are the owner's";
    Err(ApiError::new(ErrorKind::NotSupported, message))
}

/// A model's adapters, and how much of each is in what it answers: all of it where the model was asked for by the name that
/// has the adapter, none otherwise.
fn adapters(model: &Lease) -> Vec<(String, f64)> {
    let own = model.adapter().map(|own| own.name());
    let loaded = model.inference.status().adapters.into_iter();
    let with_scale = |name: String| {
        let scale = if own == Some(name.as_str()) { 1.0 } else { 0.0 };
        (name, scale)
    };
    loaded.map(with_scale).collect()
}

/// `GET /lora-adapters`.
pub(super) async fn list_adapters(call: Call) -> ApiResult<Response<Body>> {
    let model = call.state.models().acquire(call.query_value("model").as_deref(), None).await?;
    let told = adapters(&model).into_iter().enumerate().map(|(id, (name, scale))| {
        // Where files lie is the owner's business.
        json!({ "id": id, "path": name, "scale": scale, "task_name": "", "prompt_prefix": "" })
    });
    Ok(respond::json(&told.collect::<Vec<Value>>()))
}

/// `POST /lora-adapters`: takes what is so already, and refuses the rest.
pub(super) async fn set_adapters(mut call: Call) -> ApiResult<Response<Body>> {
    let body = call.bytes().await?;
    let Ok(Value::Array(wanted)) = serde_json::from_slice(&body) else {
        return Err(ApiError::invalid("the request's body must be a list of objects with `id` and `scale`"));
    };
    let model = call.state.models().acquire(call.query_value("model").as_deref(), None).await?;
    check_scales(&model, "", &wanted)?;
    Ok(respond::json(&json!({ "success": true })))
}

/// Checks that the scales of a model's adapters are as wanted; `field` is the request's with these.
///
/// # Errors
/// Entries that name no adapter or no scale, a scale that is another.
pub(super) fn check_scales(model: &Lease, field: &str, wanted: &[Value]) -> ApiResult<()> {
    let adapters = adapters(model);
    // llama.cpp has those that are not named at nothing.
    let mut scales = vec![0.0; adapters.len()];
    for (index, entry) in wanted.iter().enumerate() {
        let wrong = |why: &str| {
            let place = format!("{field}[{index}]");
            let message = format!("`{place}` has no `id` of an adapter, or no `scale`: {why}");
            ApiError::field(place, message)
        };
        let wanted: AdapterScale =
            from_value(entry.clone(), AdapterScale::OBJECT).map_err(|error| wrong(&error.message))?.value;
        *scales.get_mut(wanted.id).ok_or_else(|| wrong("there is no such adapter"))? = wanted.scale;
    }
    if adapters.iter().zip(&scales).any(|((_, is), wanted)| is != wanted) {
        let message = "the scale of an adapter cannot be set: ask for the model by a name that has the adapter \
                       (`ADAPTER` of a Modelfile)";
        return Err(ApiError::new(ErrorKind::NotSupported, message));
    }
    Ok(())
}
