//! `/v1/vector_stores/{store}/file_batches`: files that are added together.

use super::chunks::Chunking;
use super::files::{file_object, filter, key};
use super::{file_counts, in_progress, named};
use crate::error::{ApiError, ApiResult};
use crate::resources::{ask, fields, listed_by, page};
use crate::respond;
use crate::route::Call;
use alti_store::{Attributes, FileStatus, VectorStoreBatch};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

/// Most files of a batch.
const MOST_FILES: usize = 2000;

crate::wire! {
    /// Files to be added to a vector store together: either `file_ids` with one way of cutting for all, or `files`.
    pub struct CreateFileBatchRequest {
        optional {
            /// The files' ids.
            file_ids: Vec<String>,
            /// The files, each with its own `attributes` and `chunking_strategy`.
            files: Vec<super::CreateVectorStoreFileRequest>,
            /// How the files of `file_ids` are cut.
            chunking_strategy: Value,
            /// What is noted about the files of `file_ids`.
            attributes: Value,
        }
    }
}

fn batch_object(batch: &VectorStoreBatch) -> Value {
    let count = |status| batch.counts.iter().find(|(own, _)| *own == status).map_or(0, |(_, count)| *count);
    let status = match () {
        () if in_progress(&batch.counts) => "in_progress",
        () if count(FileStatus::Cancelled) > 0 => "cancelled",
        () if count(FileStatus::Failed) > 0 && count(FileStatus::Completed) == 0 => "failed",
        () => "completed",
    };
    json!({
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.vector_store,
        "status": status,
        "file_counts": file_counts(&batch.counts),
    })
}

/// The files with their attributes and chunking.
fn additions(request: CreateFileBatchRequest) -> ApiResult<Vec<(String, Attributes, Value)>> {
    if request.file_ids.is_some() && request.files.is_some() {
        return Err(ApiError::field("files", "`file_ids` and `files` exclude each other"));
    }
    let chunking = Chunking::read(request.chunking_strategy.as_ref())?.object();
    let attributes = fields::attributes(request.attributes, "attributes")?;
    let mut additions = Vec::new();
    for id in request.file_ids.unwrap_or_default() {
        additions.push((id, attributes.clone(), chunking.clone()));
    }
    for (index, file) in request.files.unwrap_or_default().into_iter().enumerate() {
        let own = fields::attributes(file.attributes, &format!("files[{index}].attributes"))?;
        let chunking = Chunking::read(file.chunking_strategy.as_ref())?.object();
        additions.push((file.file_id, own, chunking));
    }
    match additions.len() {
        0 => Err(ApiError::field("file_ids", "neither `file_ids` nor `files` names a file")),
        1..=MOST_FILES => Ok(additions),
        count => Err(ApiError::field(
            "file_ids",
            format!("{count} files are more than the {MOST_FILES} of a batch"),
        )),
    }
}

pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<CreateFileBatchRequest>(|_| false).await?;
    let ((tenant, id), key, additions) = (named(&call), key(&call), additions(request)?);
    let made =
        ask(&call.state, move |store| store.vector_stores().add_files(&tenant, &key, &id, &additions, true))
            .await?;
    let made = made.ok_or_else(|| ApiError::internal("a batch of files was not made"))?;
    call.state.work().files.notify_one();
    Ok(respond::json(&batch_object(&made)))
}

pub(super) async fn show(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), batch) = (named(&call), call.path("batch").to_owned());
    let found = ask(&call.state, move |store| store.vector_stores().batch(&tenant, &id, &batch)).await?;
    Ok(respond::json(&batch_object(&found)))
}

pub(super) async fn cancel(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), batch) = (named(&call), call.path("batch").to_owned());
    let found =
        ask(&call.state, move |store| store.vector_stores().cancel_batch(&tenant, &id, &batch)).await?;
    Ok(respond::json(&batch_object(&found)))
}

pub(super) async fn files(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), page, status) = (named(&call), page(&call, 20, 100, false)?, filter(&call)?);
    let batch = call.path("batch").to_owned();
    let found =
        ask(&call.state, move |store| store.vector_stores().files(&tenant, &id, Some(&batch), status, &page))
            .await?;
    Ok(respond::json(&listed_by(found, file_object)))
}
