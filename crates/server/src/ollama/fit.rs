//! Conversations that are longer than the model's context: as Ollama does, their oldest turns are left out.

use crate::auth::off_the_runtime;
use crate::error::ApiResult;
use crate::generate::{ChatRequest, Options, ToolPlan, chat_prompt};
use crate::models::Lease;
use alti_text::Message;
use serde_json::json;

/// Of what is shortened, this part of the context is left for the answer, or what the answer may have if that is less.
const ROOM_FOR_ANSWER: usize = 4;

/// How long a prompt may be that is shortened.
pub(super) fn longest_prompt(model: &Lease, options: &Options) -> usize {
    let context = model.inference.context();
    let wanted = usize::try_from(options.sampling.max_tokens).unwrap_or(usize::MAX);
    context - wanted.min(context / ROOM_FOR_ANSWER)
}

/// The chat, without its oldest turns where it leaves no room for an answer in the context. What the system says stays, and
/// so do the last question and what came of it, calls beside their results. If that alone is too long, nothing is left out,
/// and the chat is refused where it is answered.
///
/// # Errors
/// When the server is going down.
pub(super) async fn fit(model: Lease, request: ChatRequest) -> ApiResult<(Lease, ChatRequest)> {
    // A token is a byte or more: most chats need no counting.
    let own = model.alias.as_ref().map(|alias| json!([alias.system, alias.messages]));
    let bytes = json!([request.messages, request.tools, own]).to_string().len();
    if bytes < model.inference.context() / 2 {
        return Ok((model, request));
    }
    off_the_runtime(move || {
        // Why a chat is refused is told where it is answered.
        let shorter =
            ToolPlan::new(&model, &request).ok().and_then(|plan| shortened(&model, &request, &plan));
        Ok((model, shorter.unwrap_or(request)))
    })
    .await
}

/// The chat without turns that are too much; none where it is fine as it is, or cannot be made so.
fn shortened(model: &Lease, request: &ChatRequest, plan: &ToolPlan) -> Option<ChatRequest> {
    let length = |request: &ChatRequest| {
        chat_prompt(model, request, plan).ok().map(|prompt| prompt.tokens(&model.tokenizer).len())
    };
    let most = longest_prompt(model, &request.options);
    if length(request)? <= most {
        return None;
    }
    let is_start = |(index, message): (usize, &Message)| {
        (message.role == "user" || !message.tool_calls.is_empty()).then_some(index)
    };
    let starts: Vec<usize> = request.messages.iter().enumerate().filter_map(is_start).collect();
    let fits = |start: usize| length(&from(request, start)).is_some_and(|tokens| tokens <= most);
    let first = starts.partition_point(|&start| !fits(start));
    // An answer that is cut short is better than none.
    starts.get(first).or(starts.last()).map(|&start| from(request, start))
}

/// The chat from a turn on, with all that the system says and the last question.
fn from(request: &ChatRequest, start: usize) -> ChatRequest {
    let question = request.messages.iter().rposition(|message| message.role == "user");
    let stays = |(index, message): &(usize, &Message)| {
        *index >= start || message.role == "system" || Some(*index) == question
    };
    let kept = request.messages.iter().enumerate().filter(stays);
    ChatRequest { messages: kept.map(|(_, message)| message.clone()).collect(), ..request.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alti_engine::sampling::SamplerSettings;

    #[test]
    fn the_question_stays_and_calls_stay_with_their_results() {
        let call = Message { tool_calls: vec![json!({})], ..Message::text("assistant", "2") };
        let messages = vec![
            Message::text("system", "0"),
            Message::text("user", "1"),
            call.clone(),
            Message::text("tool", "3"),
            Message { content: Message::text("assistant", "4").content, ..call },
            Message::text("tool", "5"),
        ];
        let request = ChatRequest::new(messages, Options::new(SamplerSettings::default()));
        let kept = |start| -> String {
            let messages = from(&request, start).messages;
            messages.iter().map(|message| crate::ollama::modelfile::said(message).to_owned()).collect()
        };
        assert_eq!((kept(1).as_str(), kept(2).as_str(), kept(4).as_str()), ("012345", "012345", "0145"));
    }
}
