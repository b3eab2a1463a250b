//! `/v1/models`.

use crate::error::ApiResult;
use crate::models::ModelFacts;
use crate::respond;
use crate::route::Call;
use axum::body::Body;
use axum::http::Response;

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
    }
    /// The models there are.
    pub struct ModelList {
        required {
            /// Always `list`.
            object: String,
            /// The models.
            data: Vec<Model>,
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

fn model(facts: ModelFacts) -> Model {
    Model { id: facts.name, object: "model".into(), created: facts.created, owned_by: facts.owner }
}

/// `GET /v1/models`.
pub(super) async fn list(call: Call) -> ApiResult<Response<Body>> {
    let models = call.state.models().list().await?;
    Ok(respond::json(&ModelList { object: "list".into(), data: models.into_iter().map(model).collect() }))
}

/// `GET /v1/models/{model}`.
pub(super) async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (facts, _) = call.state.models().facts(call.path("model")).await?;
    Ok(respond::json(&model(facts)))
}

/// `DELETE /v1/models/{model}`.
pub(super) async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let name = call.path("model");
    call.state.models().remove(name).await?;
    Ok(respond::json(&DeletedModel { id: name.to_owned(), object: "model".into(), deleted: true }))
}
