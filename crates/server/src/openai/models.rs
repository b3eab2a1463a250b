//! `/v1/models`.

use crate::error::ApiResult;
use crate::models::ModelFacts;
use crate::respond;
use crate::route::Call;
use crate::wire::Nullable;
use axum::body::Body;
use axum::http::Response;
use chrono::{DateTime, SecondsFormat};

crate::wire! {
    /// A model.
    pub struct Model {
        required {
            /// Its name.
            id: String,
            /// Always `model`.
            object: String,
            /// When it came, in seconds since 1970.
            created: u64,
            /// Who made it.
            owned_by: String,
        }
        optional {
            /// For Anthropic's clients: always `model`.
            r#type: String,
            /// For Anthropic's clients: its name.
            display_name: String,
            /// For Anthropic's clients: when it came (RFC 3339).
            created_at: String,
        }
    }
    /// The models there are.
    pub struct ModelList {
        required {
            /// Always `list`.
            object: String,
            /// The models.
            data: Vec<Model>,
        }
        optional {
            /// For Anthropic's clients: the first model's name.
            first_id: Nullable<String>,
            /// For Anthropic's clients: the last model's name.
            last_id: Nullable<String>,
            /// For Anthropic's clients: always false, since all models are listed.
            has_more: bool,
        }
    }
    /// A model that was removed.
    pub struct DeletedModel {
        required {
            /// Its name.
            id: String,
            /// Always `model`.
            object: String,
            /// Always true.
            deleted: bool,
        }
    }
}

/// Whether Anthropic's client asks: its API has the same paths, and other fields.
fn is_anthropics(call: &Call) -> bool {
    call.headers().contains_key("anthropic-version")
}

fn model(facts: ModelFacts, is_anthropics: bool) -> Model {
    let created = i64::try_from(facts.created).ok().and_then(|created| DateTime::from_timestamp(created, 0));
    let created_at = created.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
    Model {
        r#type: is_anthropics.then(|| "model".into()),
        display_name: is_anthropics.then(|| facts.name.clone()),
        created_at: is_anthropics.then_some(created_at),
        id: facts.name,
        object: "model".into(),
        created: facts.created,
        owned_by: facts.owner,
    }
}

/// `GET /v1/models`.
pub(super) async fn list(call: Call) -> ApiResult<Response<Body>> {
    let models = call.state.models().list().await?;
    let is_anthropics = is_anthropics(&call);
    let data: Vec<Model> = models.into_iter().map(|facts| model(facts, is_anthropics)).collect();
    let id = |model: Option<&Model>| Nullable(model.map(|model| model.id.clone()));
    Ok(respond::json(&ModelList {
        first_id: is_anthropics.then(|| id(data.first())),
        last_id: is_anthropics.then(|| id(data.last())),
        has_more: is_anthropics.then_some(false),
        object: "list".into(),
        data,
    }))
}

/// `GET /v1/models/{model}`.
pub(super) async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (facts, _) = call.state.models().facts(call.path("model")).await?;
    Ok(respond::json(&model(facts, is_anthropics(&call))))
}

/// `DELETE /v1/models/{model}`.
pub(super) async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let name = call.path("model");
    call.state.models().remove(name).await?;
    Ok(respond::json(&DeletedModel { id: name.to_owned(), object: "model".into(), deleted: true }))
}
