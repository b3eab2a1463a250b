//! `POST /api/chat`.

use super::fit::fit;
use super::shared::{
    Clock, format, no_images, now, options, required, tell_logprobs, timings, told_logprobs,
};
use super::thinking::{Said, Thinking, Wish};
use crate::anthropic::join_turns;
use crate::error::{ApiError, ApiResult};
use crate::generate::{
    ChatRequest, Event, Format, Generation, Options, Renderer, ToolCall, arguments_object, check_messages,
    collect, start_chat, stream,
};
use crate::models::{KeepAlive, Lease};
use crate::respond;
use crate::route::{Call, Stream};
use alti_engine::serving::{TokenOutput, Usage};
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
            /// Whether a model that can thinks first: true, false, `low`, `medium` or `high`. Thoughts are told apart from the
            /// answer unless it is false.
            think: Value,
            /// Whether tokens are told with their log-probabilities.
            logprobs: bool,
            /// How many of the most likely tokens are told with each token: 0 to 20.
            top_logprobs: i64,
            /// Whether the oldest turns are left out where the chat is longer than the context; yes if it does not say.
            truncate: bool,
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
        // Ollama's apps write them in any case.
        role: message.role.to_lowercase(),
        content: message.content.map(Content::Text),
        tool_calls: tool_calls.collect(),
        extra,
    })
}

/// `POST /api/chat`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (OllamaChatRequest, _) = call.json(|_| false).await?;
    required(&request.model)?;
    let messages = request.messages.unwrap_or_default();
    if messages.is_empty() {
        return only_load(&call, &request.model, request.keep_alive, "message").await;
    }
    let messages = messages.into_iter().enumerate().map(|(index, it)| message(index, it));
    let messages = check_messages(messages.collect::<ApiResult<Vec<_>>>()?, "messages")?;
    let logprobs = told_logprobs(request.logprobs, request.top_logprobs)?;
    let model = call.state.models().acquire(Some(&request.model), request.keep_alive).await?;
    let clock = Clock { began: call.began, loading: call.began.elapsed() };
    let wish = Wish::read(&model, request.think.as_ref())?;
    let options = Options { logprobs, ..options(&model, request.options.as_ref())? };
    let common = ChatRequest {
        tools: request.tools.unwrap_or_default(),
        format: format(request.format.as_ref())?,
        variables: wish.variables(),
        ..ChatRequest::new(join_turns(messages), options)
    };
    let has_format = common.format != Format::Text;
    let (model, common) = match request.truncate.unwrap_or(true) {
        true => fit(model, common).await?,
        false => (model, common),
    };
    let generation = start_chat(&call, model, common).await?;
    let lines = Lines {
        model: generation.model.clone(),
        clock,
        thinking: wish.reader(&generation.model, &generation.prompt, has_format),
        calls: Vec::new(),
        tells_tokens: logprobs.is_some(),
        tokens: Vec::new(),
    };
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

async fn whole(mut lines: Lines, generation: Generation) -> ApiResult<Response<Body>> {
    let mut answer = collect(generation).await?;
    let choice = answer.choices.pop().ok_or_else(|| ApiError::internal("an answer has no choice"))?;
    let calls: Vec<Value> =
        choice.calls.iter().zip(0..).map(|(call, index)| tool_call(call, index)).collect();
    lines.keep(choice.tokens);
    let mut message = message_of(&lines.thinking.whole(&choice.text));
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    let reason = done_reason(choice.ended.openai());
    Ok(respond::json(&lines.last(message, reason, &answer.usage)))
}

/// What the assistant says.
fn message_of(said: &Said) -> Value {
    let mut message = json!({ "role": "assistant", "content": said.answer });
    if !said.thoughts.is_empty() {
        message["thinking"] = json!(said.thoughts);
    }
    message
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
    thinking: Thinking,
    calls: Vec<ToolCall>,
    tells_tokens: bool,
    /// Tokens that no line has told yet.
    tokens: Vec<TokenOutput>,
}

impl Lines {
    /// Keeps tokens for the next line, if they are told.
    fn keep(&mut self, tokens: Vec<TokenOutput>) {
        if self.tells_tokens {
            self.tokens.extend(tokens);
        }
    }

    fn line(&mut self, message: &Value, into: &mut String) {
        let mut line = json!({
            "model": self.model.requested,
            "created_at": now(),
            "message": message,
            "done": false,
        });
        tell_logprobs(&self.model, &mut self.tokens, &mut line);
        // Writing to a string cannot fail.
        let _cannot_fail = writeln!(into, "{line}");
    }

    fn last(&mut self, message: Value, reason: &str, usage: &Usage) -> Value {
        let mut line = json!({
            "model": self.model.requested,
            "created_at": now(),
            "message": message,
            "done": true,
            "done_reason": reason,
        });
        tell_logprobs(&self.model, &mut self.tokens, &mut line);
        timings(self.clock, usage, &mut line);
        line
    }

    fn say(&mut self, said: &Said, into: &mut String) {
        if !said.is_empty() {
            self.line(&message_of(said), into);
        }
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
            Event::Text { text, tokens, .. } => {
                self.keep(tokens);
                let said = self.thinking.push(&text);
                self.say(&said, into);
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
                let said = self.thinking.finish();
                self.say(&said, into);
                self.tell_calls(into);
                let last = self.last(message_of(&Said::default()), done_reason(ended.openai()), &usage);
                let _cannot_fail = writeln!(into, "{last}");
            }
            Event::Prompt(_) => {}
        }
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let _cannot_fail = writeln!(into, "{}", error.body(crate::route::Family::Ollama));
    }

    fn end(&mut self, _into: &mut String) {}
}
