//! `POST /v1/responses/compact`: a long conversation in few tokens. What the user and the system said stays as it is;
//! everything else is told again by the model, in a `compaction` item that stands in for it from then on.
//!
//! OpenAI's item is encrypted, so that only OpenAI can read it. Ours is the summary in base64: it is the client's own
//! conversation, and whoever holds it may say to the model what they want anyway.

use super::body::usage;
use super::plan::plan;
use super::request::CreateResponseRequest;
use super::write::renamed;
use crate::error::{ApiError, ApiResult};
use crate::generate::{Answer, Ended, collect, start_chat};
use crate::ids;
use crate::respond;
use crate::route::Call;
use alti_text::{Content, Message};
use axum::body::Body;
use axum::http::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// What the content begins with, so that somebody else's is told from ours.
const MARK: &str = "alti-compaction-1:";

/// Most tokens of a summary.
const LONGEST_SUMMARY: u32 = 1024;

/// How much what was said is held back, as Ollama does by default.
const REPEAT_PENALTY: f64 = 1.1;

/// Over so many tokens, as with Ollama.
const REPEAT_WINDOW: u32 = 64;

/// Why there is no summary.
const NO_TIME: &str = "the summary was not done in the time there is for an answer";

/// What the model is asked for behind the conversation.
const INSTRUCTION: &str = "Summarize our conversation so far, so that it can be continued from your summary alone. \
    Keep what I want, what was decided, what tools returned, names, numbers and open questions. Write the summary only.";

crate::wire! {
    /// A conversation to be made shorter.
    pub struct CompactRequest {
        optional {
            /// The model that sums up; the server's own choice, if there is none.
            model: String,
            /// The conversation: a text, or items.
            input: Value,
            /// What the system says before everything else.
            instructions: String,
            /// The response that the conversation ends with.
            previous_response_id: String,
        }
        ignored {
            /// Prefixes are cached by what they are.
            prompt_cache_key: String,
            /// How long a prompt stays cached.
            prompt_cache_retention: String,
            /// More about caching.
            prompt_cache_options: Value,
            /// There is one tier.
            service_tier: String,
        }
    }
}

/// `POST /v1/responses/compact`.
pub(super) async fn compact(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<CompactRequest>(|_| false).await?;
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let request: CreateResponseRequest = serde_json::from_value(json!({
        "model": request.model,
        "input": request.input,
        "instructions": request.instructions,
        "previous_response_id": request.previous_response_id,
        "store": false,
        "temperature": 0,
        "max_output_tokens": LONGEST_SUMMARY,
    }))
    .map_err(ApiError::internal)?;
    // The likeliest words alone go round in circles with small models.
    let sampling = Map::from_iter([
        ("repeat_penalty".to_owned(), json!(REPEAT_PENALTY)),
        // What was said long ago may be said again: it is what is to be summed up.
        ("repeat_last_n".to_owned(), json!(REPEAT_WINDOW)),
    ]);
    let plan = plan(&call, &model, request, sampling).await?;
    let mut chat = plan.chat(&[])?;
    instruct(&mut chat.messages);
    let generation = start_chat(&call, model, chat).await.map_err(renamed)?;
    let answer = collect(generation).await?;
    let summary = whole_summary(&answer)?;
    let said = plan.history.iter().chain(&plan.input);
    let stays = |item: &&Value| item["type"] == "message" && item["role"] != "assistant";
    let mut output: Vec<Value> = said.filter(stays).cloned().collect();
    output.push(json!({
        "id": ids::new("cmp_"),
        "type": "compaction",
        "encrypted_content": STANDARD.encode(format!("{MARK}{summary}")),
    }));
    Ok(respond::json(&json!({
        "id": plan.id,
        "object": "response.compaction",
        "created_at": plan.created_at,
        "output": output,
        "usage": usage(&answer.usage),
    })))
}

/// Asks for the summary: in the user's last turn, if that has no answer yet, because templates want turns to alternate.
fn instruct(messages: &mut Vec<Message>) {
    match messages.last_mut().filter(|last| last.role == "user") {
        Some(Message { content: Some(Content::Text(text)), .. }) => {
            text.push_str("\n\n");
            text.push_str(INSTRUCTION);
        }
        _ => messages.push(Message::text("user", INSTRUCTION)),
    }
}

/// The summary that the model gave.
///
/// # Errors
/// When it gave none, or could not end it for want of room or time. One that is as long as it may be is cut there.
fn whole_summary(answer: &Answer) -> ApiResult<&str> {
    let refuse = |message: &str| Err(ApiError::invalid(message).code("no_summary"));
    let Some(choice) = answer.choices.first() else { return refuse("the model gave no summary") };
    match choice.ended {
        Ended::ContextFull => refuse(
            "the conversation leaves no room for a summary in the model's context: leave out its oldest turns",
        ),
        Ended::Cancelled => refuse(NO_TIME),
        Ended::Length if answer.usage.generated_tokens < LONGEST_SUMMARY as usize => refuse(NO_TIME),
        _ if choice.text.trim().is_empty() => {
            refuse("the model gave no summary: try another model, or go on without")
        }
        _ => Ok(choice.text.trim()),
    }
}

/// The summary in a `compaction` item's content; nothing if it was not made here.
pub(in crate::resources) fn summary(content: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(content).ok()?).ok()?;
    text.strip_prefix(MARK).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_contents_of_our_own_are_read() {
        assert_eq!(summary(&STANDARD.encode(format!("{MARK}so it was"))).as_deref(), Some("so it was"));
        for other in ["", "gAAAAABpM0Yj", "no base64!", &STANDARD.encode("something else")] {
            assert_eq!(summary(other), None, "{other}");
        }
    }
}
