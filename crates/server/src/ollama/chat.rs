//! `POST /api/chat`.

use super::shared::{Clock, format, no_images, now, options, timings};
use crate::error::{ApiError, ApiResult};
use crate::generate::{
    ChatRequest, Event, Generation, Renderer, ToolCall, arguments_object, check_messages, collect,
    start_chat, stream,
};
use crate::models::{KeepAlive, Lease};
use crate::respond;
use crate::route::{Call, Stream};
use alti_engine::serving::Usage;
use alti_text::{Content, Message};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

crate::wire! {
    /// A request for a chat's next turn.
    pub struct OllamaChatRequest {
        required {
            /// The model's name.
            model: String,
        }
        optional {
            /// The turns so far; none loads the model, or unloads it where `keep_alive` is 0.
            messages: Vec<OllamaMessage>,
            /// Tools the model may call.
            tools: Vec<Value>,
            /// `json`, or a JSON schema that the answer has to obey.
            format: Value,
            /// Sampler settings.
            options: Map<String, Value>,
            /// Whether the answer is streamed; yes if it does not say.
            stream: bool,
            /// How long the model stays in memory after this.
            keep_alive: KeepAlive,
        }
        ignored {
            /// Whether the model thinks first.
            think: Value,
            /// Whether tokens are told with their log-probabilities.
            logprobs: Value,
            /// How many of them.
            top_logprobs: Value,
        }
    }
    /// A turn.
    pub struct OllamaMessage {
        required {
            /// `system`, `user`, `assistant` or `tool`.
            role: String,
        }
        optional {
            /// What is said.
            content: String,
            /// Images: refused.
            images: Vec<Value>,
            /// The assistant's calls, arguments as objects.
            tool_calls: Vec<Value>,
            /// The tool whose answer it is.
            tool_name: String,
        }
        ignored {
            /// What the assistant thought.
            thinking: String,
        }
    }
}

fn message(index: usize, message: OllamaMessage) -> ApiResult<Message> {
    no_images(message.images.as_ref(), &format!("messages[{index}].images"))?;
    let mut extra = Map::new();
    if let Some(name) = message.tool_name {
        extra.insert("name".into(), name.into());
    }
    let tool_calls = message.tool_calls.unwrap_or_default().into_iter().map(|mut call| {
        if let Value::Object(call) = &mut call {
            call.entry("type").or_insert_with(|| "function".into());
        }
        call
    });
    Ok(Message {
        role: message.role,
        content: message.content.map(Content::Text),
        tool_calls: tool_calls.collect(),
        extra,
    })
}

/// `POST /api/chat`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (OllamaChatRequest, _) = call.json(|_| false).await?;
    let messages = request.messages.unwrap_or_default();
    if messages.is_empty() {
        return only_load(&call, &request.model, request.keep_alive, "message").await;
    }
    let messages = messages.into_iter().enumerate().map(|(index, it)| message(index, it));
    let messages = check_messages(messages.collect::<ApiResult<Vec<_>>>()?, "messages")?;
    let model = call.state.models().acquire(Some(&request.model), request.keep_alive).await?;
    let clock = Clock { began: call.began, loading: call.began.elapsed() };
    let options = options(&model, request.options.as_ref())?;
    let common = ChatRequest {
        tools: request.tools.unwrap_or_default(),
        format: format(request.format.as_ref())?,
        ..ChatRequest::new(messages, options)
    };
    let generation = start_chat(&call, model, common).await?;
    let lines = Lines { model: generation.model.clone(), clock, calls: Vec::new() };
    if request.stream.unwrap_or(true) {
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        return Ok(stream(generation, lines, Stream::Lines, keep_alive));
    }
    whole(lines, generation).await
}

/// Loads a model, or lets it go: what a request without a prompt means.
///
/// # Errors
/// When there is none.
pub(super) async fn only_load(
    call: &Call,
    model: &str,
    keep_alive: Option<KeepAlive>,
    answer: &str,
) -> ApiResult<Response<Body>> {
    let unloads = keep_alive == Some(KeepAlive::For(Duration::ZERO));
    if unloads {
        call.state.models().unload(model).await?;
    } else {
        call.state.models().acquire(Some(model), keep_alive).await?;
    }
    let empty = if answer == "message" { json!({ "role": "assistant", "content": "" }) } else { json!("") };
    Ok(respond::json(&json!({
        "model": model,
        "created_at": now(),
        answer: empty,
        "done": true,
        "done_reason": if unloads { "unload" } else { "load" },
    })))
}

async fn whole(lines: Lines, generation: Generation) -> ApiResult<Response<Body>> {
    let mut answer = collect(generation).await?;
    let choice = answer.choices.pop().ok_or_else(|| ApiError::internal("an answer has no choice"))?;
    let calls: Vec<Value> =
        choice.calls.iter().zip(0..).map(|(call, index)| tool_call(call, index)).collect();
    let mut message = json!({ "role": "assistant", "content": choice.text });
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    let reason = done_reason(choice.ended.openai());
    Ok(respond::json(&lines.last(message, reason, &answer.usage)))
}

/// Ollama's word for why an answer ended.
pub(super) fn done_reason(reason: &str) -> &str {
    if reason == "length" { "length" } else { "stop" }
}

fn tool_call(call: &ToolCall, index: usize) -> Value {
    let arguments = arguments_object(&call.arguments);
    json!({ "id": call.id, "function": { "index": index, "name": call.name, "arguments": arguments } })
}

/// Writes events as Ollama's lines.
struct Lines {
    model: Arc<Lease>,
    clock: Clock,
    calls: Vec<ToolCall>,
}

impl Lines {
    fn line(&self, message: &Value, into: &mut String) {
        let line = json!({
            "model": self.model.requested,
            "created_at": now(),
            "message": message,
            "done": false,
        });
        // Writing to a string cannot fail.
        let _cannot_fail = writeln!(into, "{line}");
    }

    fn last(&self, message: Value, reason: &str, usage: &Usage) -> Value {
        let mut line = json!({
            "model": self.model.requested,
            "created_at": now(),
            "message": message,
            "done": true,
            "done_reason": reason,
        });
        timings(self.clock, usage, &mut line);
        line
    }

    /// Calls are told whole: Ollama's arguments are objects.
    fn tell_calls(&mut self, into: &mut String) {
        for (index, call) in std::mem::take(&mut self.calls).into_iter().enumerate() {
            let message =
                json!({ "role": "assistant", "content": "", "tool_calls": [tool_call(&call, index)] });
            self.line(&message, into);
        }
    }
}

impl Renderer for Lines {
    fn begin(&mut self, _into: &mut String) {}

    fn event(&mut self, _job: usize, event: Event, into: &mut String) {
        match event {
            Event::Text { text, .. } if !text.is_empty() => {
                self.line(&json!({ "role": "assistant", "content": text }), into);
            }
            Event::CallBegin { id, name, .. } => {
                self.calls.push(ToolCall { id, name, arguments: String::new() })
            }
            Event::CallArguments { index, arguments, .. } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(&arguments);
                }
            }
            Event::Finished { ended, usage, .. } => {
                self.tell_calls(into);
                let message = json!({ "role": "assistant", "content": "" });
                let last = self.last(message, done_reason(ended.openai()), &usage);
                let _cannot_fail = writeln!(into, "{last}");
            }
            Event::Text { .. } | Event::Prompt(_) => {}
        }
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let _cannot_fail = writeln!(into, "{}", error.body(crate::route::Family::Ollama));
    }

    fn end(&mut self, _into: &mut String) {}
}
