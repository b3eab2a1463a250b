//! `POST /v1/chat/completions`.

use super::shared::{
    ChatMessage, ChoiceLogprobs, CompletionUsage, check_logit_bias, format, logprobs, usage, within,
};
use super::tools::{allowed, tool_choice, turns};
use crate::error::{ApiError, ApiResult};
use crate::generate::{
    Answer, ChatRequest, Choice, Ended, Event, Options, Renderer, ToolCall, check_messages, collect,
    is_setting, sampling, start_chat, stream,
};
use crate::ids;
use crate::models::Lease;
use crate::resources::chat_completions::Keeper;
use crate::respond;
use crate::route::{Call, Family, Stream};
use crate::wire::{Nullable, OneOrMany};
use alti_engine::serving::{Priority, Usage};
use axum::body::Body;
use axum::http::Response;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

crate::wire! {
    /// A request for a chat's next turn. Sampler settings may be given as further fields, under the names that
    /// `alti run --help` lists.
    pub struct ChatCompletionRequest {
        required {
            /// The turns so far.
            messages: Vec<ChatMessage>,
        }
        optional {
            /// The model's name; the server's default model where none is given.
            model: String,
            /// Most tokens of the answer.
            max_completion_tokens: u32,
            /// The old name of `max_completion_tokens`.
            max_tokens: u32,
            /// 0 to 2; 0 always takes the most likely token. The model's own default where none is given.
            temperature: f32,
            /// 0 to 1: only the most likely tokens that have this probability together.
            top_p: f32,
            /// Answers wanted, from 1.
            n: u32,
            /// One or several strings that end the answer.
            stop: OneOrMany<String>,
            /// The same seed gives the same answer.
            seed: i64,
            /// -2 to 2.
            frequency_penalty: f32,
            /// -2 to 2.
            presence_penalty: f32,
            /// Added to the logits of tokens, by token id, -100 to 100.
            logit_bias: Map<String, Value>,
            /// Whether the tokens are told with their log-probabilities.
            logprobs: bool,
            /// 0 to 20: how many of the most likely tokens are told with each.
            top_logprobs: u32,
            /// What the answer has to obey: `{"type": "json_object"}`, `{"type": "json_schema", "json_schema": {...}}`,
            /// and here also `regex`, `grammar` (GBNF) and `lark`.
            response_format: Map<String, Value>,
            /// Tools the model may call.
            tools: Vec<Value>,
            /// `none`, `auto`, `required`, the tool to call, or `allowed_tools`, one of which is.
            tool_choice: Value,
            /// Whether several tools may be called at once.
            parallel_tool_calls: bool,
            /// The older form of `tools`; the answer then has the older form, too.
            functions: Vec<Value>,
            /// The older form of `tool_choice`: `none`, `auto`, or `{"name": ...}`.
            function_call: Value,
            /// Whether the answer is streamed.
            stream: bool,
            /// `{"include_usage": true}`: what it took is told at the end of the stream.
            stream_options: Map<String, Value>,
            /// Variables for the model's chat template.
            chat_template_kwargs: Map<String, Value>,
            /// `flex` puts the request behind others.
            service_tier: String,
            /// Only text can be asked for.
            modalities: Vec<String>,
            /// Whether the answer is kept, to be listed and found again.
            store: bool,
            /// Labels of an answer that is kept: up to 16 pairs of strings.
            metadata: Value,
            /// Whether the prefix cache is used.
            cache_prompt: bool,
            /// Whether the model's end-of-answer tokens are ignored.
            ignore_eos: bool,
            /// The number under which the text is remembered, for llama.cpp's `/slots/{slot}`; -1 is none.
            id_slot: i64,
        }
        ignored {
            /// Who asks.
            user: String,
            /// How much a reasoning model thinks.
            reasoning_effort: String,
            /// Text that is likely to come.
            prediction: Value,
            /// Audio.
            audio: Value,
            /// A key for caching.
            prompt_cache_key: String,
            /// How long a prompt stays cached.
            prompt_cache_retention: String,
            /// A name of whoever uses the app.
            safety_identifier: String,
            /// How long answers are.
            verbosity: String,
            /// Web search.
            web_search_options: Value,
        }
    }
    /// A chat's next turn.
    pub struct ChatCompletion {
        required {
            /// The answer's id.
            id: String,
            /// Always `chat.completion`.
            object: String,
            /// When it was made.
            created: u64,
            /// The model, as it was asked for.
            model: String,
            /// The answers.
            choices: Vec<ChatChoice>,
            /// What they took.
            usage: CompletionUsage,
            /// The server's version.
            system_fingerprint: String,
        }
        optional {
            /// `flex` where that was asked for, and `default` otherwise.
            service_tier: String,
        }
    }
    /// One answer.
    pub struct ChatChoice {
        required {
            /// Which, from 0.
            index: u32,
            /// The turn.
            message: ChatAnswer,
            /// Probabilities of its tokens.
            logprobs: Nullable<ChoiceLogprobs>,
            /// `stop`, `length`, `tool_calls`, or `function_call` where `functions` were given.
            finish_reason: String,
        }
    }
    /// The assistant's turn.
    pub struct ChatAnswer {
        required {
            /// Always `assistant`.
            role: String,
            /// What it says.
            content: Nullable<String>,
            /// Always null.
            refusal: Nullable<String>,
        }
        optional {
            /// The tools it calls.
            tool_calls: Vec<ChatToolCall>,
            /// The function it calls, where the request had `functions`.
            function_call: ChatFunctionCall,
            /// Always empty.
            annotations: Vec<Value>,
        }
    }
    /// A call of a tool.
    pub struct ChatToolCall {
        required {
            /// Its id, for the tool's answer.
            id: String,
            /// Always `function`.
            r#type: String,
            /// What is called.
            function: ChatFunctionCall,
        }
    }
    /// A function and its arguments.
    pub struct ChatFunctionCall {
        required {
            /// The function's name.
            name: String,
            /// Its arguments, JSON in a string.
            arguments: String,
        }
    }
}

/// The tier behind all others.
const FLEX: &str = "flex";

/// The server's version, as OpenAI's clients see it.
pub(super) fn fingerprint() -> String {
    concat!("alti-", env!("CARGO_PKG_VERSION")).to_owned()
}

fn known(name: &str) -> bool {
    is_setting(name) || matches!(name, "grammar" | "json_schema" | "regex")
}

impl ChatCompletionRequest {
    /// Checks the ranges that OpenAI documents.
    fn check(&self) -> ApiResult<()> {
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("top_logprobs", self.top_logprobs.map(|count| count as f32), 0.0, 20.0)?;
        if self.top_logprobs.is_some_and(|count| count > 0) && self.logprobs != Some(true) {
            return Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
        }
        if self.modalities.iter().flatten().any(|it| it != "text") {
            return Err(ApiError::field("modalities", "this model writes text only"));
        }
        check_logit_bias(self.logit_bias.as_ref())?;
        let most = match self.max_completion_tokens {
            Some(most) => ("max_completion_tokens", Some(most)),
            None => ("max_tokens", self.max_tokens),
        };
        if let (field, Some(0)) = most {
            return Err(ApiError::field(field, format!("`{field}` must be at least 1")));
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(ApiError::field("stream_options", "`stream_options` needs `stream` to be true"));
        }
        Ok(())
    }

    /// The tier that the request is served in.
    fn service_tier(&self) -> &'static str {
        if self.service_tier.as_deref() == Some(FLEX) { FLEX } else { "default" }
    }

    fn options(&self, model: &Lease, others: Map<String, Value>) -> ApiResult<Options> {
        let own = [
            ("max_tokens", json!(self.max_completion_tokens.or(self.max_tokens))),
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("stop", json!(self.stop)),
            ("seed", json!(self.seed)),
            ("frequency_penalty", json!(self.frequency_penalty)),
            ("presence_penalty", json!(self.presence_penalty)),
            ("logit_bias", json!(self.logit_bias)),
        ];
        let others = others.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let sampling = sampling(&model.base_sampling(Family::OpenAi)?, others.chain(own))?;
        Ok(Options {
            choices: self.n.unwrap_or(1),
            logprobs: (self.logprobs == Some(true)).then_some(self.top_logprobs.unwrap_or(0) as usize),
            priority: if self.service_tier() == FLEX { Priority::Batch } else { Priority::Interactive },
            cache_prompt: self.cache_prompt.unwrap_or(true),
            ignore_end: self.ignore_eos.unwrap_or(false),
            slot: crate::llama_cpp::slots::named(model, self.id_slot)?,
            ..Options::new(sampling)
        })
    }

    /// The request as all APIs have it.
    ///
    /// # Errors
    /// A field out of range.
    pub fn into_common(mut self, model: &Lease, others: Map<String, Value>) -> ApiResult<ChatRequest> {
        self.check()?;
        self.modernize()?;
        let (format, grammar_field) = format(self.response_format.as_ref(), &others)?;
        let options = Options { grammar_field, ..self.options(model, others)? };
        let tool_choice = tool_choice(self.tool_choice.as_ref())?;
        Ok(ChatRequest {
            tools: allowed(self.tools.unwrap_or_default(), self.tool_choice.as_ref())?,
            tool_choice,
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            format,
            variables: self.chat_template_kwargs.unwrap_or_default(),
            ..ChatRequest::new(check_messages(turns(self.messages)?, "messages")?, options)
        })
    }
}

/// `POST /v1/chat/completions`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (mut request, others): (ChatCompletionRequest, _) = call.json(known).await?;
    request.check()?;
    let in_older_form = request.modernize()?;
    let keeper = Keeper::of(&call, &request)?;
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let streams = request.stream == Some(true);
    let include_usage =
        request.stream_options.as_ref().is_some_and(|it| it.get("include_usage") == Some(&json!(true)));
    let service_tier = request.service_tier();
    let common = request.into_common(&model, others)?;
    let keeper = keeper.map(|keeper| keeper.drawing(&common.options.sampling));
    let with_logprobs = common.options.logprobs.is_some();
    let generation = start_chat(&call, model, common).await?;
    let head = Head {
        id: ids::new("chatcmpl-"),
        created: ids::unix_seconds(),
        model: generation.model.clone(),
        with_logprobs,
        in_older_form,
        service_tier,
    };
    if streams {
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        let kept = keeper.map(|keeper| (keeper, Answer::default()));
        let renderer = Chunks::new(head, generation.choices(), include_usage, kept);
        return Ok(stream(generation, renderer, Stream::Events, keep_alive));
    }
    let completion = head.completion(collect(generation).await?);
    if let Some(keeper) = keeper {
        keeper.keep(completion.clone()).await?;
    }
    Ok(respond::json(&completion))
}

/// What is known of an answer before it begins.
struct Head {
    id: String,
    created: u64,
    model: Arc<Lease>,
    with_logprobs: bool,
    /// Whether calls are told as `function_call`.
    in_older_form: bool,
    service_tier: &'static str,
}

impl Head {
    fn completion(&self, answer: Answer) -> ChatCompletion {
        let usage = usage(&answer.usage);
        let choices = answer.choices.into_iter().zip(0..).map(|(choice, index)| self.choice(index, choice));
        ChatCompletion {
            id: self.id.clone(),
            object: "chat.completion".into(),
            created: self.created,
            model: self.model.requested.clone(),
            choices: choices.collect(),
            usage,
            system_fingerprint: fingerprint(),
            service_tier: Some(self.service_tier.into()),
        }
    }

    fn choice(&self, index: u32, choice: Choice) -> ChatChoice {
        let mut calls: Vec<ChatToolCall> = choice.calls.into_iter().map(tool_call).collect();
        let content = (calls.is_empty() || !choice.text.is_empty()).then_some(choice.text);
        let function_call = match self.in_older_form {
            true => calls.drain(..).next().map(|call| call.function),
            false => None,
        };
        ChatChoice {
            index,
            message: ChatAnswer {
                role: "assistant".into(),
                content: content.into(),
                refusal: None.into(),
                tool_calls: (!calls.is_empty()).then_some(calls),
                function_call,
                annotations: Some(Vec::new()),
            },
            logprobs: self.with_logprobs.then(|| logprobs(&self.model.tokenizer, &choice.tokens)).into(),
            finish_reason: self.finish_reason(&choice.ended).into(),
        }
    }

    fn finish_reason(&self, ended: &Ended) -> &'static str {
        match ended {
            Ended::ToolCalls if self.in_older_form => "function_call",
            ended => ended.openai(),
        }
    }

    /// A piece of a call, as a stream tells it: what begins it has an id and a name. The older form has one call.
    fn call_delta(&self, index: usize, begun: Option<(&str, &str)>, arguments: &str) -> Option<Value> {
        let mut function = json!({ "arguments": arguments });
        if let Some((_, name)) = begun {
            function["name"] = json!(name);
        }
        if self.in_older_form {
            return (index == 0).then(|| json!({ "function_call": function }));
        }
        let mut call = json!({ "index": index, "function": function });
        if let Some((id, _)) = begun {
            (call["id"], call["type"]) = (json!(id), json!("function"));
        }
        Some(json!({ "tool_calls": [call] }))
    }
}

fn tool_call(call: ToolCall) -> ChatToolCall {
    let function = ChatFunctionCall { name: call.name, arguments: call.arguments };
    ChatToolCall { id: call.id, r#type: "function".into(), function }
}

/// Writes events as chat completion chunks.
struct Chunks {
    head: Head,
    /// What all chunks begin with.
    opening: String,
    /// What all chunks end with, but the one with the usage.
    tail: &'static str,
    choices: u32,
    include_usage: bool,
    sum: Usage,
    /// Who keeps the answer, and what there is of it.
    kept: Option<(Keeper, Answer)>,
    /// Answers that are not finished.
    open: u32,
    /// The keeping of a whole answer: it goes on if the client leaves before the stream's end.
    keeping: Option<JoinHandle<ApiResult<()>>>,
}

impl Chunks {
    fn new(head: Head, choices: u32, include_usage: bool, kept: Option<(Keeper, Answer)>) -> Chunks {
        let opening = json!({
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model.requested,
            "system_fingerprint": fingerprint(),
            "service_tier": head.service_tier,
        });
        let mut opening = opening.to_string();
        opening.pop();
        Chunks {
            head,
            opening: format!("data: {opening},\"choices\":["),
            tail: if include_usage { "],\"usage\":null}\n\n" } else { "]}\n\n" },
            choices,
            include_usage,
            sum: Usage::default(),
            kept,
            open: choices,
            keeping: None,
        }
    }

    /// Has a whole answer kept.
    fn keep(&mut self) {
        if let Some((keeper, answer)) = self.kept.take() {
            self.keeping = Some(tokio::spawn(keeper.keep(self.head.completion(answer))));
        }
    }

    fn chunk(&self, choice: u32, delta: &Value, logprobs: &Value, finish: &Value, into: &mut String) {
        // Writing to a string cannot fail.
        let _cannot_fail = write!(
            into,
            "{}{{\"index\":{choice},\"delta\":{delta},\"logprobs\":{logprobs},\"finish_reason\":{finish}}}{}",
            self.opening, self.tail
        );
    }

    fn delta(&self, choice: u32, delta: &Value, into: &mut String) {
        self.chunk(choice, delta, &Value::Null, &Value::Null, into);
    }
}

impl Renderer for Chunks {
    fn begin(&mut self, into: &mut String) {
        for choice in 0..self.choices {
            self.delta(choice, &json!({ "role": "assistant", "content": "", "refusal": null }), into);
        }
    }

    fn event(&mut self, _job: usize, event: Event, into: &mut String) {
        if let Some((_, answer)) = &mut self.kept {
            answer.add(event.clone());
        }
        match event {
            Event::Prompt(_) => {}
            Event::Text { choice, text, tokens } => {
                let probabilities = self.head.with_logprobs && !tokens.is_empty();
                if text.is_empty() && !probabilities {
                    return;
                }
                let probabilities = match probabilities {
                    true => json!(logprobs(&self.head.model.tokenizer, &tokens)),
                    false => Value::Null,
                };
                self.chunk(choice, &json!({ "content": text }), &probabilities, &Value::Null, into);
            }
            Event::CallBegin { choice, index, id, name } => {
                let delta = self.head.call_delta(index, Some((&id, &name)), "");
                delta.iter().for_each(|delta| self.delta(choice, delta, into));
            }
            Event::CallArguments { choice, index, arguments } => {
                let delta = self.head.call_delta(index, None, &arguments);
                delta.iter().for_each(|delta| self.delta(choice, delta, into));
            }
            Event::Finished { choice, ended, usage, .. } => {
                crate::generate::add_usage(&mut self.sum, &usage);
                let reason = json!(self.head.finish_reason(&ended));
                self.chunk(choice, &json!({}), &Value::Null, &reason, into);
                self.open = self.open.saturating_sub(1);
                if self.open == 0 {
                    self.keep();
                }
            }
        }
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let _cannot_fail = write!(into, "data: {}\n\n", error.body(crate::route::Family::OpenAi));
    }

    fn before_end(&mut self) -> Option<BoxFuture<'static, ApiResult<()>>> {
        let keeping = self.keeping.take()?;
        Some(Box::pin(async move { keeping.await.map_err(ApiError::internal)? }))
    }

    fn end(&mut self, into: &mut String) {
        if self.include_usage {
            let usage = json!(usage(&self.sum));
            let _cannot_fail = write!(into, "{}],\"usage\":{usage}}}\n\n", self.opening);
        }
        into.push_str("data: [DONE]\n\n");
    }
}
