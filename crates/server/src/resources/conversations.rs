//! `/v1/conversations`.

use super::{ask, deleted, fields, items, listed, page, tenant};
use crate::error::{ApiError, ApiResult};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use alti_store::Conversation;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

const OPENAI: Family = Family::OpenAi;

crate::wire! {
    /// A conversation to be made.
    pub struct CreateConversationRequest {
        optional {
            /// Up to 16 pairs of strings.
            metadata: Value,
            /// Its first items, at most 20.
            items: Vec<Value>,
        }
    }
    /// What is to be changed of a conversation.
    pub struct UpdateConversationRequest {
        optional {
            /// Up to 16 pairs of strings, in the place of those there were; none takes these away.
            metadata: Value,
        }
    }
    /// Items to be added to a conversation.
    pub struct AddItemsRequest {
        required {
            /// The items, at most 20.
            items: Vec<Value>,
        }
    }
}

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/v1/conversations", OPENAI, Scope::Data, "Makes a conversation.", |call| {
        Box::pin(create(call))
    })
    .takes(CreateConversationRequest::OBJECT),
    Route::get(
        "/v1/conversations/{conversation}",
        OPENAI,
        Scope::Data,
        "Describes a conversation.",
        |call| Box::pin(show(call)),
    ),
    Route::post(
        "/v1/conversations/{conversation}",
        OPENAI,
        Scope::Data,
        "Changes a conversation's metadata.",
        |call| Box::pin(update(call)),
    )
    .takes(UpdateConversationRequest::OBJECT),
    Route::delete(
        "/v1/conversations/{conversation}",
        OPENAI,
        Scope::Data,
        "Deletes a conversation.",
        |call| Box::pin(delete(call)),
    ),
    Route::post(
        "/v1/conversations/{conversation}/items",
        OPENAI,
        Scope::Data,
        "Adds items to a conversation.",
        |call| Box::pin(add_items(call)),
    )
    .takes(AddItemsRequest::OBJECT),
    Route::get(
        "/v1/conversations/{conversation}/items",
        OPENAI,
        Scope::Data,
        "Lists a conversation's items.",
        |call| Box::pin(list_items(call)),
    ),
    Route::get(
        "/v1/conversations/{conversation}/items/{item}",
        OPENAI,
        Scope::Data,
        "An item of a conversation.",
        |call| Box::pin(show_item(call)),
    ),
    Route::delete(
        "/v1/conversations/{conversation}/items/{item}",
        OPENAI,
        Scope::Data,
        "Deletes an item of a conversation.",
        |call| Box::pin(delete_item(call)),
    ),
];

fn conversation_object(conversation: &Conversation) -> Value {
    json!({
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
    })
}

/// At most 20 items, as OpenAI has it.
fn read(given: Vec<Value>) -> ApiResult<Vec<Value>> {
    if given.len() > 20 {
        return Err(ApiError::field("items", "`items` has more than 20 items: add them in several requests"));
    }
    let items = items::read_items(Value::Array(given), "items")?;
    if items.iter().any(|item| item["type"] == "item_reference") {
        return Err(ApiError::field("items", "`items` refers to an item: send the item itself"));
    }
    Ok(items)
}

async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json_if_any::<CreateConversationRequest>(|_| false).await?;
    let metadata = fields::metadata(request.metadata)?.unwrap_or_else(|| json!({}));
    let (tenant, items) = (tenant(&call), read(request.items.unwrap_or_default())?);
    let made = ask(&call.state, move |store| store.conversations().create(&tenant, metadata, &items)).await?;
    Ok(respond::json(&conversation_object(&made)))
}

/// The tenant and the conversation that a call names.
fn named(call: &Call) -> (String, String) {
    (tenant(call), call.path("conversation").to_owned())
}

async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let found = ask(&call.state, move |store| store.conversations().get(&tenant, &id)).await?;
    Ok(respond::json(&conversation_object(&found)))
}

async fn update(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<UpdateConversationRequest>(|_| false).await?;
    let metadata = fields::metadata(request.metadata)?.unwrap_or_else(|| json!({}));
    let (tenant, id) = named(&call);
    let changed =
        ask(&call.state, move |store| store.conversations().set_metadata(&tenant, &id, metadata)).await?;
    Ok(respond::json(&conversation_object(&changed)))
}

async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let answer = deleted(&id, "conversation.deleted");
    ask(&call.state, move |store| store.conversations().delete(&tenant, &id)).await?;
    Ok(respond::json(&answer))
}

async fn add_items(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<AddItemsRequest>(|_| false).await?;
    let items = read(request.items)?;
    let ((tenant, id), added) = (named(&call), items.clone());
    ask(&call.state, move |store| store.conversations().add_items(&tenant, &id, &added)).await?;
    Ok(respond::json(&listed(alti_store::Listed { items, has_more: false })))
}

async fn list_items(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), page) = (named(&call), page(&call, 20, 100, false)?);
    let found = ask(&call.state, move |store| store.conversations().items(&tenant, &id, &page)).await?;
    Ok(respond::json(&listed(found)))
}

async fn show_item(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), item) = (named(&call), call.path("item").to_owned());
    let found = ask(&call.state, move |store| store.conversations().item(&tenant, &id, &item)).await?;
    Ok(respond::json(&found))
}

async fn delete_item(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), item) = (named(&call), call.path("item").to_owned());
    let left = ask(&call.state, move |store| store.conversations().delete_item(&tenant, &id, &item)).await?;
    Ok(respond::json(&conversation_object(&left)))
}
