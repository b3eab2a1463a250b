//! Conversations that are longer than the model's context: as Ollama does, their oldest turns are left out.

use crate::auth::off_the_runtime;
use crate::error::ApiResult;
use crate::generate::{ChatRequest, render_chat};
use crate::models::Lease;
use alti_text::Message;
use serde_json::json;

/// The chat, without its oldest turns where it does not fit into the context. What the system says stays, and so does the
/// last turn: if that alone is too long, nothing is left out, and the chat is refused where it is answered.
///
/// # Errors
/// When the server is going down.
pub(super) async fn fit(model: Lease, request: ChatRequest) -> ApiResult<(Lease, ChatRequest)> {
    // A token is a byte or more: most chats need no counting.
    let bytes = json!([request.messages, request.tools]).to_string().len();
    if bytes < model.inference.context() / 2 {
        return Ok((model, request));
    }
    off_the_runtime(move || {
        let request = shortened(&model, request);
        Ok((model, request))
    })
    .await
}

/// The chat's tokens; none if the template refuses it.
fn length(model: &Lease, request: &ChatRequest) -> Option<usize> {
    render_chat(model, request).ok().map(|prompt| prompt.tokens(&model.tokenizer).len())
}

fn shortened(model: &Lease, request: ChatRequest) -> ChatRequest {
    let context = model.inference.context();
    // Why a chat is refused is told where it is answered.
    if length(model, &request).is_none_or(|tokens| tokens <= context) {
        return request;
    }
    let last = request.messages.len() - 1;
    let is_start = |(index, message): (usize, &Message)| {
        (message.role == "user" || (index == last && message.role != "assistant")).then_some(index)
    };
    let starts: Vec<usize> = request.messages.iter().enumerate().filter_map(is_start).collect();
    let fits = |start: usize| length(model, &from(&request, start)).is_some_and(|tokens| tokens <= context);
    match starts.get(starts.partition_point(|&start| !fits(start))) {
        Some(&start) => from(&request, start),
        None => request,
    }
}

/// The chat from a turn on, with all that the system says.
fn from(request: &ChatRequest, start: usize) -> ChatRequest {
    let turns = request.messages.iter().enumerate();
    let kept = turns.filter(|(index, message)| *index >= start || message.role == "system");
    ChatRequest { messages: kept.map(|(_, message)| message.clone()).collect(), ..request.clone() }
}
