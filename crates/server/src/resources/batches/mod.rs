//! `/v1/batches`: many requests from a file, answered when there is nothing more urgent.

mod input;
mod lines;
mod outages;
mod run;

pub(super) use run::run_all;

use super::{ask, fields, listed_by, page, tenant};
use crate::error::{ApiError, ApiResult, excerpt};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use alti_store::{Batch, NewBatch};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

const OPENAI: Family = Family::OpenAi;

/// The routes whose requests can be lines of a batch.
const ENDPOINTS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations"];

/// What a file is for that a batch reads.
const INPUT_PURPOSE: &str = "batch";

crate::wire! {
    /// A batch to be made.
    pub struct CreateBatchRequest {
        required {
            /// A file of purpose `batch`: a request a line.
            input_file_id: String,
            /// The route that answers all lines.
            endpoint: String,
            /// How long it may take: `24h`, or another number of hours.
            completion_window: String,
        }
        optional {
            /// Up to 16 pairs of strings.
            metadata: Value,
            /// When output files go: `{"anchor": "created_at", "seconds": 3600 to 2592000}`.
            output_expires_after: Value,
        }
    }
}

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/v1/batches", OPENAI, Scope::Data, "Makes a batch.", |call| Box::pin(create(call)))
        .takes(CreateBatchRequest::OBJECT),
    Route::get("/v1/batches", OPENAI, Scope::Data, "Lists the batches.", |call| Box::pin(list(call))),
    Route::get("/v1/batches/{batch}", OPENAI, Scope::Data, "Describes a batch.", |call| Box::pin(show(call))),
    Route::post("/v1/batches/{batch}/cancel", OPENAI, Scope::Data, "Ends a batch early.", |call| {
        Box::pin(cancel(call))
    }),
];

fn batch_object(batch: &Batch) -> Value {
    let mut object = json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": batch.errors.as_ref().map(|errors| json!({ "object": "list", "data": errors })),
        "input_file_id": batch.input_file,
        "completion_window": batch.completion_window,
        "status": batch.status.name(),
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        "request_counts": {
            "total": batch.counts.total,
            "completed": batch.counts.completed,
            "failed": batch.counts.failed,
        },
        "usage": {
            "input_tokens": batch.prompt_tokens,
            "input_tokens_details": { "cached_tokens": batch.cached_tokens },
            "output_tokens": batch.generated_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": batch.prompt_tokens + batch.generated_tokens,
        },
        "metadata": batch.metadata,
    });
    for (name, time) in &batch.times {
        object[*name] = json!(time);
    }
    object
}

/// The seconds of `24h`.
fn window(text: &str) -> ApiResult<i64> {
    let hours = text.strip_suffix('h').and_then(|hours| hours.parse::<i64>().ok());
    let message = "`completion_window` must be a number of hours from 1h to 720h; OpenAI's is 24h";
    let hours = hours.filter(|hours| (1..=720).contains(hours));
    hours.map(|hours| hours * 3600).ok_or_else(|| ApiError::field("completion_window", message))
}

/// Seconds that output files are kept.
fn kept_for(value: Option<&Value>) -> ApiResult<Option<i64>> {
    let Some(value) = value else { return Ok(None) };
    let seconds = value["seconds"].as_i64().filter(|seconds| (3600..=2_592_000).contains(seconds));
    match seconds.filter(|_| value["anchor"] == "created_at") {
        Some(seconds) => Ok(Some(seconds)),
        None => {
            let message = "`output_expires_after` needs `anchor`, which is `created_at`, and `seconds`, 3600 to 2592000";
            Err(ApiError::field("output_expires_after", message))
        }
    }
}

async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<CreateBatchRequest>(|_| false).await?;
    if !ENDPOINTS.contains(&request.endpoint.as_str()) {
        let endpoint = excerpt(&request.endpoint);
        let message = format!("`endpoint` is `{endpoint}`: it must be one of {}", ENDPOINTS.join(", "));
        return Err(ApiError::field("endpoint", message));
    }
    let new = NewBatch {
        tenant: tenant(&call),
        key: call.principal.key_id().unwrap_or_default().to_owned(),
        expires_at: alti_store::now() + window(&request.completion_window)?,
        output_seconds: kept_for(request.output_expires_after.as_ref())?,
        endpoint: request.endpoint,
        input_file: request.input_file_id,
        completion_window: request.completion_window,
        metadata: fields::metadata(request.metadata)?,
    };
    let (owner, input) = (new.tenant.clone(), new.input_file.clone());
    let file = ask(&call.state, move |store| store.files().get(&owner, &input)).await;
    let file = file.map_err(|error| error.param("input_file_id"))?;
    if file.purpose != INPUT_PURPOSE {
        let message = format!(
            "the purpose of this file is `{}`: the file of a batch must be uploaded with the purpose `{INPUT_PURPOSE}`",
            file.purpose
        );
        return Err(ApiError::field("input_file_id", message));
    }
    let made = ask(&call.state, move |store| store.batches().create(&new)).await;
    let made = made.map_err(|error| error.param("input_file_id"))?;
    call.state.work().batches.notify_one();
    Ok(respond::json(&batch_object(&made)))
}

async fn list(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, page) = (tenant(&call), page(&call, 20, 100, false)?);
    let found = ask(&call.state, move |store| store.batches().list(&tenant, &page)).await?;
    Ok(respond::json(&listed_by(found, batch_object)))
}

async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = (tenant(&call), call.path("batch").to_owned());
    let found = ask(&call.state, move |store| store.batches().get(&tenant, &id)).await?;
    Ok(respond::json(&batch_object(&found)))
}

async fn cancel(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = (tenant(&call), call.path("batch").to_owned());
    let found = ask(&call.state, move |store| store.batches().cancel(&tenant, &id)).await?;
    call.state.work().batches.notify_one();
    Ok(respond::json(&batch_object(&found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_hours() {
        assert_eq!(window("24h").unwrap(), 86_400);
        for wrong in ["", "24", "h", "0h", "-1h", "721h", "1d"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_chart_sends_every_path_with_state_to_one_replica() {
        let values = include_str!("../../../../../deploy/helm/alti/values.yaml");
        let (_, rest) = values.split_once("statefulPaths:\n").unwrap();
        let sent: Vec<&str> = rest.lines().map_while(|line| line.trim().strip_prefix("- ")).collect();
        let with_state = |path: &&str| sent.iter().any(|sent| path.starts_with(sent));
        for route in crate::routes::table().iter().filter(|route| route.scope == Scope::Data) {
            assert!(with_state(&route.path), "{} is not in statefulPaths", route.path);
        }
        assert!(with_state(&"/v1/responses"), "kept where they were made, whatever they may be made with");
        for sent in sent {
            let is_route = crate::routes::table().iter().any(|route| route.path == sent);
            assert!(is_route, "{sent} is in statefulPaths and no route");
        }
    }

    #[test]
    fn every_endpoint_is_a_route() {
        for endpoint in ENDPOINTS {
            let is_endpoint = |route: &&crate::route::Route| {
                route.verb == crate::route::Verb::Post && route.path == endpoint
            };
            assert!(crate::routes::table().iter().any(is_endpoint), "{endpoint}");
        }
    }
}
