//! `POST /api/generate`.

use super::chat::{done_reason, only_load};
use super::fit::longest_prompt;
use super::shared::{
    Clock, format, no_images, now, options, required, tell_logprobs, timings, told_logprobs,
};
use super::thinking::{Said, Thinking, Wish};
use crate::error::{ApiError, ApiResult};
use crate::generate::{
    ChatRequest, Event, Generation, Options, Renderer, collect, encode_text, fill_in_prompt, render_chat,
    start, stream,
};
use crate::models::{KeepAlive, Lease};
use crate::respond;
use crate::route::{Call, Stream};
use alti_engine::serving::{TokenOutput, Usage};
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
            /// Whether a model that can thinks first: true, false, `low`, `medium` or `high`. Thoughts are told apart from the
            /// answer unless it is false.
            think: Value,
            /// Whether tokens are told with their log-probabilities.
            logprobs: bool,
            /// How many of the most likely tokens are told with each token: 0 to 20.
            top_logprobs: i64,
            /// Whether `context` loses its beginning where all is longer than the model's context; yes if it does not say.
            truncate: bool,
        }
        ignored {
            /// A template in Go's notation: the model's own is used.
            template: String,
        }
    }
}

impl GenerateRequest {
    fn is_raw(&self) -> bool {
        self.raw == Some(true)
    }

    /// Refuses what Ollama refuses.
    fn check(&self) -> ApiResult<()> {
        required(&self.model)?;
        let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let has_context = self.context.as_ref().is_some_and(|context| !context.is_empty());
        if self.is_raw() && (is_given(&self.template) || is_given(&self.system) || has_context) {
            let message = "raw mode does not support template, system, or context";
            return Err(ApiError::field("raw", message));
        }
        no_images(self.images.as_ref(), "images")
    }

    /// The prompt's tokens.
    fn tokens(&self, model: &Lease, options: &Options, wish: Wish) -> ApiResult<Vec<u32>> {
        let prompt = self.prompt.as_deref().unwrap_or_default();
        if let Some(suffix) = self.suffix.as_ref().filter(|suffix| !suffix.is_empty()) {
            return fill_in_prompt(&model.tokenizer, prompt, suffix);
        }
        let tokens = if self.is_raw() || model.template.is_err() {
            let prompt = format!("{}{prompt}", self.system.as_deref().unwrap_or_default());
            encode_text(&model.tokenizer, &prompt, Specials::Parse)
        } else {
            let system = self.system.iter().map(|system| Message::text("system", system));
            let messages = system.chain([Message::text("user", prompt)]).collect();
            let request =
                ChatRequest { variables: wish.variables(), ..ChatRequest::new(messages, options.clone()) };
            render_chat(model, &request)?.tokens(&model.tokenizer)
        };
        let earlier = self.context.as_deref().unwrap_or_default();
        let most = match self.truncate.unwrap_or(true) {
            true => longest_prompt(model, options).saturating_sub(tokens.len()),
            false => earlier.len(),
        };
        let earlier = &earlier[earlier.len().saturating_sub(most)..];
        Ok(earlier.iter().copied().chain(tokens).collect())
    }
}

/// `POST /api/generate`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (GenerateRequest, _) = call.json(|_| false).await?;
    request.check()?;
    if request.prompt.as_deref().unwrap_or_default().is_empty() && request.suffix.is_none() {
        return only_load(&call, &request.model, request.keep_alive, "response").await;
    }
    let logprobs = told_logprobs(request.logprobs, request.top_logprobs)?;
    let model = Arc::new(call.state.models().acquire(Some(&request.model), request.keep_alive).await?);
    let clock = Clock { began: call.began, loading: call.began.elapsed() };
    let wish = Wish::read(&model, request.think.as_ref())?;
    let wish = if request.is_raw() { wish.of_raw() } else { wish };
    let mut options = Options { logprobs, ..options(&model, request.options.as_ref())? };
    options.grammar = format(request.format.as_ref())?.grammar();
    let (streams, is_raw, has_format) =
        (request.stream.unwrap_or(true), request.is_raw(), options.grammar.is_some());
    let encode = {
        let (model, options) = (model.clone(), options.clone());
        move || request.tokens(&model, &options, wish)
    };
    let prompt = crate::auth::off_the_runtime(encode).await?;
    let generation = start(&call, model, prompt, options).await?;
    let lines = Lines {
        model: generation.model.clone(),
        clock,
        thinking: wish.reader(&generation.model, &generation.prompt, has_format),
        context: (!is_raw).then(|| generation.prompt.clone()),
        tells_tokens: logprobs.is_some(),
        tokens: Vec::new(),
    };
    if streams {
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        return Ok(stream(generation, lines, Stream::Lines, keep_alive));
    }
    whole(lines, generation).await
}

async fn whole(mut lines: Lines, generation: Generation) -> ApiResult<Response<Body>> {
    let mut answer = collect(generation).await?;
    let choice = answer.choices.pop().ok_or_else(|| ApiError::internal("an answer has no choice"))?;
    lines.keep(choice.tokens);
    let said = lines.thinking.whole(&choice.text);
    Ok(respond::json(&lines.last(&said, done_reason(choice.ended.openai()), &answer.usage)))
}

/// Writes events as Ollama's lines.
struct Lines {
    model: Arc<Lease>,
    clock: Clock,
    thinking: Thinking,
    /// Prompt and answer so far, where the answer tells them.
    context: Option<Vec<u32>>,
    tells_tokens: bool,
    /// Tokens that no line has told yet.
    tokens: Vec<TokenOutput>,
}

impl Lines {
    fn keep(&mut self, tokens: Vec<TokenOutput>) {
        if let Some(context) = &mut self.context {
            context.extend(tokens.iter().map(|token| token.token));
        }
        if self.tells_tokens {
            self.tokens.extend(tokens);
        }
    }

    fn line(&mut self, said: &Said, done: bool) -> Value {
        let mut line = json!({
            "model": self.model.requested,
            "created_at": now(),
            "response": said.answer,
            "done": done,
        });
        if !said.thoughts.is_empty() {
            line["thinking"] = json!(said.thoughts);
        }
        tell_logprobs(&self.model, &mut self.tokens, &mut line);
        line
    }

    fn last(&mut self, said: &Said, reason: &str, usage: &Usage) -> Value {
        let mut line = self.line(said, true);
        line["done_reason"] = json!(reason);
        if let Some(context) = &self.context {
            line["context"] = json!(context);
        }
        timings(self.clock, usage, &mut line);
        line
    }
}

impl Renderer for Lines {
    fn begin(&mut self, _into: &mut String) {}

    fn event(&mut self, _job: usize, event: Event, into: &mut String) {
        let line = match event {
            Event::Text { text, tokens, .. } => {
                self.keep(tokens);
                let said = self.thinking.push(&text);
                if said.is_empty() {
                    return;
                }
                self.line(&said, false)
            }
            Event::Finished { ended, usage, .. } => {
                let said = self.thinking.finish();
                self.last(&said, done_reason(ended.openai()), &usage)
            }
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
