//! `/v1/vector_stores/{store}/files`.

use super::chunks::Chunking;
use super::named;
use crate::error::{ApiError, ApiResult};
use crate::resources::{ask, deleted, fields, listed_by, page};
use crate::respond;
use crate::route::Call;
use crate::wire::Nullable;
use alti_store::{FileStatus, VectorStoreFile};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

crate::wire! {
    /// A file to be added to a vector store.
    pub struct CreateVectorStoreFileRequest {
        required {
            /// The file's id.
            file_id: String,
        }
        optional {
            /// How it is cut: `{"type": "auto"}`, or `static` with sizes.
            chunking_strategy: Value,
            /// What is noted about it: up to 16 strings, numbers or booleans.
            attributes: Value,
        }
    }
    /// What is to be noted about a file.
    pub struct UpdateAttributesRequest {
        required {
            /// Up to 16 strings, numbers or booleans, in the place of those there were; null takes these away.
            #[serde(deserialize_with = "crate::wire::given")]
            attributes: Nullable<Value>,
        }
    }
}

/// The key that work is billed to.
pub(super) fn key(call: &Call) -> String {
    call.principal.key_id().unwrap_or_default().to_owned()
}

pub(super) fn file_object(file: &VectorStoreFile) -> Value {
    json!({
        "id": file.id,
        "object": "vector_store.file",
        "created_at": file.created_at,
        "usage_bytes": file.bytes,
        "vector_store_id": file.vector_store,
        "status": file.status.name(),
        "last_error": file.error,
        "chunking_strategy": file.chunking,
        "attributes": file.attributes,
    })
}

/// The status that a list is of, if its query says.
pub(super) fn filter(call: &Call) -> ApiResult<Option<FileStatus>> {
    let Some(name) = call.query_value("filter").filter(|name| !name.is_empty()) else { return Ok(None) };
    let message = "`filter` must be in_progress, completed, cancelled or failed";
    FileStatus::named(&name).map(Some).ok_or_else(|| ApiError::field("filter", message))
}

pub(super) async fn add(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<CreateVectorStoreFileRequest>(|_| false).await?;
    let chunking = Chunking::read(request.chunking_strategy.as_ref())?.object();
    let attributes = fields::attributes(request.attributes, "attributes")?;
    let ((tenant, id), key, file) = (named(&call), key(&call), request.file_id);
    let added = ask(&call.state, move |store| {
        let stores = store.vector_stores();
        stores.add_files(&tenant, &key, &id, &[(file.clone(), attributes, chunking)], false)?;
        stores.file(&tenant, &id, &file)
    })
    .await?;
    call.state.work().files.notify_one();
    Ok(respond::json(&file_object(&added)))
}

pub(super) async fn list(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), page, status) = (named(&call), page(&call, 20, 100, false)?, filter(&call)?);
    let found =
        ask(&call.state, move |store| store.vector_stores().files(&tenant, &id, None, status, &page)).await?;
    Ok(respond::json(&listed_by(found, file_object)))
}

pub(super) async fn show(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), file) = (named(&call), call.path("file").to_owned());
    let found = ask(&call.state, move |store| store.vector_stores().file(&tenant, &id, &file)).await?;
    Ok(respond::json(&file_object(&found)))
}

pub(super) async fn update(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<UpdateAttributesRequest>(|_| false).await?;
    let attributes = fields::attributes(request.attributes.0, "attributes")?;
    let ((tenant, id), file) = (named(&call), call.path("file").to_owned());
    let changed =
        ask(&call.state, move |store| store.vector_stores().set_attributes(&tenant, &id, &file, &attributes))
            .await?;
    Ok(respond::json(&file_object(&changed)))
}

pub(super) async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), file) = (named(&call), call.path("file").to_owned());
    let answer = deleted(&file, "vector_store.file.deleted");
    ask(&call.state, move |store| store.vector_stores().remove_file(&tenant, &id, &file)).await?;
    Ok(respond::json(&answer))
}

pub(super) async fn content(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), file) = (named(&call), call.path("file").to_owned());
    let chunks = ask(&call.state, move |store| store.vector_stores().chunks(&tenant, &id, &file)).await?;
    let data: Vec<Value> = chunks.iter().map(|chunk| json!({ "type": "text", "text": chunk.text })).collect();
    Ok(respond::json(&json!({
        "object": "vector_store.file_content.page",
        "data": data,
        "has_more": false,
        "next_page": null,
    })))
}
