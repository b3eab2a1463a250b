//! `/v1/vector_stores`: files that can be searched, by meaning and by words.

mod batches;
mod chunks;
mod files;
mod ingest;
mod ranking;
mod search;

pub use files::CreateVectorStoreFileRequest;
pub(super) use ingest::ingest_all;
pub(super) use ranking::Ranking;
pub(super) use search::search;

use super::{ask, deleted, fields, listed_by, page, tenant};
use crate::error::{ApiError, ApiResult};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use crate::wire::Nullable;
use alti_store::{FileStatus, NewVectorStore, VectorStore, VectorStoreChange};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};

const OPENAI: Family = Family::OpenAi;

crate::wire! {
    /// A vector store to be made.
    pub struct CreateVectorStoreRequest {
        optional {
            /// What it is called.
            name: String,
            /// What it is about.
            description: String,
            /// Files to be added, at most 500.
            file_ids: Vec<String>,
            /// How these are cut; see the chunking of a file.
            chunking_strategy: Value,
            /// `{"anchor": "last_active_at", "days": 1 to 365}`.
            expires_after: Value,
            /// Up to 16 pairs of strings.
            metadata: Value,
        }
    }
    /// What is to be changed of a vector store.
    pub struct UpdateVectorStoreRequest {
        optional {
            /// What it is called.
            name: String,
            /// `{"anchor": "last_active_at", "days": 1 to 365}`; null has it stay for good.
            #[serde(deserialize_with = "crate::wire::present")]
            expires_after: Nullable<Value>,
            /// Up to 16 pairs of strings, in the place of those there were; null takes these away.
            #[serde(deserialize_with = "crate::wire::present")]
            metadata: Nullable<Value>,
        }
    }
}

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/v1/vector_stores", OPENAI, Scope::Data, "Makes a vector store.", |call| {
        Box::pin(create(call))
    })
    .takes(CreateVectorStoreRequest::OBJECT),
    Route::get("/v1/vector_stores", OPENAI, Scope::Data, "Lists the vector stores.", |call| {
        Box::pin(list(call))
    }),
    Route::get("/v1/vector_stores/{store}", OPENAI, Scope::Data, "Describes a vector store.", |call| {
        Box::pin(show(call))
    }),
    Route::post("/v1/vector_stores/{store}", OPENAI, Scope::Data, "Changes a vector store.", |call| {
        Box::pin(update(call))
    })
    .takes(UpdateVectorStoreRequest::OBJECT),
    Route::delete("/v1/vector_stores/{store}", OPENAI, Scope::Data, "Deletes a vector store.", |call| {
        Box::pin(delete(call))
    }),
    Route::post(
        "/v1/vector_stores/{store}/search",
        OPENAI,
        Scope::Data,
        "Searches a vector store.",
        |call| Box::pin(search::route(call)),
    )
    .takes(search::SearchRequest::OBJECT),
    Route::post("/v1/vector_stores/{store}/files", OPENAI, Scope::Data, "Adds a file.", |call| {
        Box::pin(files::add(call))
    })
    .takes(CreateVectorStoreFileRequest::OBJECT),
    Route::get("/v1/vector_stores/{store}/files", OPENAI, Scope::Data, "Lists the files.", |call| {
        Box::pin(files::list(call))
    }),
    Route::get("/v1/vector_stores/{store}/files/{file}", OPENAI, Scope::Data, "Describes a file.", |call| {
        Box::pin(files::show(call))
    }),
    Route::post(
        "/v1/vector_stores/{store}/files/{file}",
        OPENAI,
        Scope::Data,
        "Changes what is noted about a file.",
        |call| Box::pin(files::update(call)),
    )
    .takes(files::UpdateAttributesRequest::OBJECT),
    Route::delete(
        "/v1/vector_stores/{store}/files/{file}",
        OPENAI,
        Scope::Data,
        "Takes a file out of a vector store.",
        |call| Box::pin(files::delete(call)),
    ),
    Route::get(
        "/v1/vector_stores/{store}/files/{file}/content",
        OPENAI,
        Scope::Data,
        "The chunks of a file.",
        |call| Box::pin(files::content(call)),
    ),
    Route::post("/v1/vector_stores/{store}/file_batches", OPENAI, Scope::Data, "Adds files.", |call| {
        Box::pin(batches::create(call))
    })
    .takes(batches::CreateFileBatchRequest::OBJECT),
    Route::get(
        "/v1/vector_stores/{store}/file_batches/{batch}",
        OPENAI,
        Scope::Data,
        "Describes files that were added together.",
        |call| Box::pin(batches::show(call)),
    ),
    Route::post(
        "/v1/vector_stores/{store}/file_batches/{batch}/cancel",
        OPENAI,
        Scope::Data,
        "Gives files up that were added together.",
        |call| Box::pin(batches::cancel(call)),
    ),
    Route::get(
        "/v1/vector_stores/{store}/file_batches/{batch}/files",
        OPENAI,
        Scope::Data,
        "Lists files that were added together.",
        |call| Box::pin(batches::files(call)),
    ),
];

/// Numbers of files by status.
fn file_counts(counts: &[(FileStatus, u64)]) -> Value {
    let mut object: Map<String, Value> =
        counts.iter().map(|(status, count)| (status.name().to_owned(), json!(count))).collect();
    object.insert("total".into(), json!(counts.iter().map(|(_, count)| count).sum::<u64>()));
    Value::Object(object)
}

fn in_progress(counts: &[(FileStatus, u64)]) -> bool {
    counts.iter().any(|(status, count)| *status == FileStatus::InProgress && *count > 0)
}

fn store_object(store: &VectorStore) -> Value {
    let status = match store {
        store if store.expired => "expired",
        store if in_progress(&store.counts) => "in_progress",
        _ => "completed",
    };
    let mut object = json!({
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "description": store.description,
        "usage_bytes": store.bytes,
        "file_counts": file_counts(&store.counts),
        "status": status,
        "expires_at": store.expires_at(),
        "last_active_at": store.last_active_at,
        "metadata": store.metadata.clone().unwrap_or_else(|| json!({})),
    });
    if let Some(days) = store.expires_after_days {
        object["expires_after"] = json!({ "anchor": "last_active_at", "days": days });
    }
    object
}

fn expiry(value: Option<&Value>) -> ApiResult<Option<u32>> {
    let Some(value) = value else { return Ok(None) };
    let refuse = |message| Err(ApiError::field("expires_after", format!("`expires_after` {message}")));
    if value["anchor"] != "last_active_at" {
        return refuse("needs `anchor`, which must be `last_active_at`");
    }
    match value["days"].as_u64().filter(|days| (1..=365).contains(days)) {
        Some(days) => Ok(Some(days as u32)),
        None => refuse("needs `days`, a whole number from 1 to 365"),
    }
}

/// The tenant and the vector store that a call names.
fn named(call: &Call) -> (String, String) {
    (tenant(call), call.path("store").to_owned())
}

async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<CreateVectorStoreRequest>(|_| false).await?;
    let chunking = chunks::Chunking::read(request.chunking_strategy.as_ref())?;
    let ids = request.file_ids.unwrap_or_default();
    if ids.len() > 500 {
        return Err(ApiError::field(
            "file_ids",
            "`file_ids` has more than 500 files: add them in several batches",
        ));
    }
    let new = NewVectorStore {
        name: request.name.unwrap_or_default(),
        description: request.description,
        metadata: fields::metadata(request.metadata)?,
        expires_after_days: expiry(request.expires_after.as_ref())?,
    };
    let (tenant, key) = (tenant(&call), files::key(&call));
    let additions: Vec<_> = ids.into_iter().map(|id| (id, Map::new(), chunking.object())).collect();
    let made = ask(&call.state, move |store| {
        let stores = store.vector_stores();
        // A file that is not there is told before anything is made.
        additions.iter().try_for_each(|(id, ..)| store.files().get(&tenant, id).map(drop))?;
        let made = stores.create(&tenant, &new)?;
        stores.add_files(&tenant, &key, &made.id, &additions, false)?;
        stores.get(&tenant, &made.id)
    })
    .await?;
    call.state.work().files.notify_one();
    Ok(respond::json(&store_object(&made)))
}

async fn list(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, page) = (tenant(&call), page(&call, 20, 100, false)?);
    let found = ask(&call.state, move |store| store.vector_stores().list(&tenant, &page)).await?;
    Ok(respond::json(&listed_by(found, store_object)))
}

async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let found = ask(&call.state, move |store| store.vector_stores().get(&tenant, &id)).await?;
    Ok(respond::json(&store_object(&found)))
}

async fn update(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<UpdateVectorStoreRequest>(|_| false).await?;
    // What is not there stays as it is; what is null is taken away.
    let metadata = request.metadata.map(|Nullable(metadata)| fields::metadata(metadata));
    let expires_after = request.expires_after.map(|Nullable(expires_after)| expiry(expires_after.as_ref()));
    let change = VectorStoreChange {
        name: request.name,
        metadata: metadata.transpose()?,
        expires_after_days: expires_after.transpose()?,
    };
    let (tenant, id) = named(&call);
    let changed = ask(&call.state, move |store| store.vector_stores().update(&tenant, &id, &change)).await?;
    Ok(respond::json(&store_object(&changed)))
}

async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let answer = deleted(&id, "vector_store.deleted");
    ask(&call.state, move |store| store.vector_stores().delete(&tenant, &id)).await?;
    Ok(respond::json(&answer))
}
