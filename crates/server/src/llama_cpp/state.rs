//! `GET /props` and `GET /slots`.

use crate::error::ApiResult;
use crate::respond;
use crate::route::{Call, Family};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

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
            "params": model.base_sampling(Family::LlamaCpp)?,
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

/// `GET /slots`.
pub(super) async fn slots(call: Call) -> ApiResult<Response<Body>> {
    let mut slots: Vec<Value> = Vec::new();
    for loaded in call.state.models().loaded() {
        for slot in loaded.model.inference.status().slots {
            slots.push(json!({
                "id": slots.len(),
                "id_task": slot.job,
                "model": loaded.model.facts.name,
                "n_ctx": loaded.model.inference.context(),
                "is_processing": true,
                "choice": slot.choice,
                "n_prompt_tokens": slot.prompt_tokens,
                "n_computed": slot.computed_tokens,
                "n_decoded": slot.generated_tokens,
            }));
        }
    }
    Ok(respond::json(&slots))
}
