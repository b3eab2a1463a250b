//! `POST /api/generate`.

use super::chat::{done_reason, only_load};
use super::shared::{Clock, format, no_images, now, options, timings};
use crate::error::{ApiError, ApiResult};
use crate::generate::{
    ChatRequest, Event, Generation, Options, Renderer, collect, encode_text, fill_in_prompt, render_chat,
    start, stream,
};
use crate::models::{KeepAlive, Lease};
use crate::respond;
use crate::route::{Call, Stream};
use alti_engine::serving::Usage;
use alti_text::{Message, Specials};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

crate::wire! {
    /// A request for an answer to a prompt.
    pub struct GenerateRequest {
        required {
            /// The model's name.
            model: String,
        }
        optional {
            /// What is asked; nothing loads the model, or unloads it where `keep_alive` is 0.
            prompt: String,
            /// Text that comes after the answer, for models with tokens for it.
            suffix: String,
            /// What the model is told first.
            system: String,
            /// Whether the prompt goes to the model as it is, without its chat template.
            raw: bool,
            /// What an earlier answer gave as `context`: the conversation goes on from there.
            context: Vec<u32>,
            /// Images: refused.
            images: Vec<Value>,
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
            /// A template in Go's notation: the model's own is used.
            template: String,
            /// Whether the model thinks first.
            think: Value,
        }
    }
}

impl GenerateRequest {
    /// The prompt's tokens.
    fn tokens(&self, model: &Lease, options: &Options) -> ApiResult<Vec<u32>> {
        let prompt = self.prompt.as_deref().unwrap_or_default();
        let earlier = self.context.clone().unwrap_or_default();
        if let Some(suffix) = self.suffix.as_ref().filter(|suffix| !suffix.is_empty()) {
            return fill_in_prompt(&model.tokenizer, prompt, suffix);
        }
        let tokens = if self.raw == Some(true) || model.template.is_err() {
            let prompt = format!("{}{prompt}", self.system.as_deref().unwrap_or_default());
            encode_text(&model.tokenizer, &prompt, Specials::Parse)
        } else {
            let system = self.system.iter().map(|system| Message::text("system", system));
            let messages = system.chain([Message::text("user", prompt)]).collect();
            render_chat(model, &ChatRequest::new(messages, options.clone()))?.tokens(&model.tokenizer)
        };
        Ok(earlier.into_iter().chain(tokens).collect())
    }
}

/// `POST /api/generate`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (GenerateRequest, _) = call.json(|_| false).await?;
    no_images(request.images.as_ref(), "images")?;
    if request.prompt.as_deref().unwrap_or_default().is_empty() && request.suffix.is_none() {
        return only_load(&call, &request.model, request.keep_alive, "response").await;
    }
    let model = Arc::new(call.state.models().acquire(Some(&request.model), request.keep_alive).await?);
    let clock = Clock { began: call.began, loading: call.began.elapsed() };
    let mut options = options(&model, request.options.as_ref())?;
    options.grammar = format(request.format.as_ref())?.grammar();
    let streams = request.stream.unwrap_or(true);
    let encode = {
        let (model, options) = (model.clone(), options.clone());
        move || request.tokens(&model, &options)
    };
    let prompt = crate::auth::off_the_runtime(encode).await?;
    let generation = start(&call, model, prompt, options).await?;
    let lines = Lines { model: generation.model.clone(), clock, context: generation.prompt.clone() };
    if streams {
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        return Ok(stream(generation, lines, Stream::Lines, keep_alive));
    }
    whole(lines, generation).await
}

async fn whole(mut lines: Lines, generation: Generation) -> ApiResult<Response<Body>> {
    let mut answer = collect(generation).await?;
    let choice = answer.choices.pop().ok_or_else(|| ApiError::internal("an answer has no choice"))?;
    lines.context.extend(choice.tokens.iter().map(|token| token.token));
    Ok(respond::json(&lines.last(&choice.text, done_reason(choice.ended.openai()), &answer.usage)))
}

/// Writes events as Ollama's lines.
struct Lines {
    model: Arc<Lease>,
    clock: Clock,
    /// Prompt and answer so far.
    context: Vec<u32>,
}

impl Lines {
    fn last(&self, response: &str, reason: &str, usage: &Usage) -> Value {
        let mut line = json!({
            "model": self.model.requested,
            "created_at": now(),
            "response": response,
            "done": true,
            "done_reason": reason,
            "context": self.context,
        });
        timings(self.clock, usage, &mut line);
        line
    }
}

impl Renderer for Lines {
    fn begin(&mut self, _into: &mut String) {}

    fn event(&mut self, _job: usize, event: Event, into: &mut String) {
        let line = match event {
            Event::Text { text, tokens, .. } => {
                self.context.extend(tokens.iter().map(|token| token.token));
                if text.is_empty() {
                    return;
                }
                json!({ "model": self.model.requested, "created_at": now(), "response": text, "done": false })
            }
            Event::Finished { ended, usage, .. } => self.last("", done_reason(ended.openai()), &usage),
            _ => return,
        };
        // Writing to a string cannot fail.
        let _cannot_fail = writeln!(into, "{line}");
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let _cannot_fail = writeln!(into, "{}", error.body(crate::route::Family::Ollama));
    }

    fn end(&mut self, _into: &mut String) {}
}
