//! What is stored for those who use the server: responses, chat completions, conversations, files, uploads, batches,
//! vector stores, moderations.
//! One file a resource; each reads its wire types, asks the store off the async threads, and answers.

pub mod batches;
pub mod chat_completions;
mod citations;
pub mod conversations;
mod embedding;
mod fields;
pub mod files;
mod form;
mod items;
pub mod moderations;
pub mod responses;
pub mod uploads;
pub mod usage;
pub mod vector_stores;
mod work;

pub use moderations::{Classifier, Judgement};
pub(crate) use work::Work;
pub use work::start;

use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::route::Call;
use crate::state::AppState;
use alti_store::{Listed, Page, Store, StoreError};
use serde_json::{Value, json};

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound { .. } => ApiError::not_found(message),
            StoreError::Invalid { .. } => ApiError::invalid(message),
            StoreError::Conflict { .. } => ApiError::new(ErrorKind::Conflict, message),
            StoreError::DiskFull { .. } => {
                ApiError::new(ErrorKind::StorageFull, message).code("storage_full")
            }
            StoreError::ReadOnly { .. } => ApiError::new(ErrorKind::StorageFull, message).code("read_only"),
            StoreError::Busy => ApiError::new(ErrorKind::Unavailable, message).retry_after(1),
            _ => ApiError::internal(message),
        }
    }
}

/// Asks the store, off the async threads.
///
/// # Errors
/// What the store says.
async fn ask<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce(&Store) -> alti_store::Result<T> + Send + 'static,
) -> ApiResult<T> {
    let store = state.store()?.clone();
    off_the_runtime(move || Ok(work(&store)?)).await
}

/// Whose data a call sees.
fn tenant(call: &Call) -> String {
    call.principal.tenant().to_owned()
}

/// The page that a call's query asks for: at most `most` entries, `default` if it does not say.
///
/// # Errors
/// A limit or an order that is none.
fn page(call: &Call, default: usize, most: usize, ascending: bool) -> ApiResult<Page> {
    let limit = match call.query_value("limit") {
        None => default,
        Some(text) => text.parse().ok().filter(|limit| (1..=most).contains(limit)).ok_or_else(|| {
            ApiError::field("limit", format!("`limit` must be a whole number from 1 to {most}"))
        })?,
    };
    let ascending = match call.query_value("order").as_deref() {
        None => ascending,
        Some("asc") => true,
        Some("desc") => false,
        Some(_) => return Err(ApiError::field("order", "`order` must be `asc` or `desc`")),
    };
    let cursor = |name| call.query_value(name).filter(|id| !id.is_empty());
    Ok(Page { limit, after: cursor("after"), before: cursor("before"), ascending })
}

/// A list as OpenAI's clients read it.
fn listed(listed: Listed<Value>) -> Value {
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json!({
        "object": "list",
        "first_id": id(listed.items.first()),
        "last_id": id(listed.items.last()),
        "data": listed.items,
        "has_more": listed.has_more,
    })
}

/// A list whose entries are written by `show`.
fn listed_by<T>(found: Listed<T>, show: impl Fn(&T) -> Value) -> Value {
    let Listed { items, has_more } = found;
    listed(Listed { items: items.iter().map(show).collect(), has_more })
}

/// What is said of something that was deleted.
fn deleted(id: &str, object: &str) -> Value {
    json!({ "id": id, "object": object, "deleted": true })
}
