//! `GET /props`.

use crate::error::ApiResult;
use crate::generate::told;
use crate::respond;
use crate::route::{Call, Family};
use axum::body::Body;
use axum::http::Response;
use serde_json::json;

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
