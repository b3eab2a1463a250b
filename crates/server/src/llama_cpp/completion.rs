//! `POST /completion` and `POST /infill`.

use super::samplers::with_samplers;
use crate::error::{ApiError, ApiResult};
use crate::generate::{
    Answer, Ended, Event, Options, Parts, Renderer, encode_plain, encode_text, fill_in_prompt, is_setting,
    sampling, stream, told, with_text,
};
use crate::models::Lease;
use crate::openai::shared::finite;
use crate::respond;
use crate::route::{Call, Family, Stream};
use crate::wire::kind;
use alti_engine::serving::{TokenOutput, Usage};
use alti_text::{Specials, Tokenizer};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

crate::wire! {
    /// A request for a text's continuation. Sampler settings may be given as further fields.
    pub struct LlamaCompletionRequest {
        required {
            /// A text, its tokens, both mixed, or a list of such prompts.
            prompt: Value,
        }
        optional {
            /// The model's name; the server's default model where none is given.
            model: String,
            /// Whether the answer is streamed.
            stream: bool,
            /// How many of the most likely tokens are told with each.
            n_probs: u32,
            /// Whether the answer's tokens are told.
            return_tokens: bool,
            /// Whether the prefix cache is used.
            cache_prompt: bool,
            /// Whether the model's end-of-answer tokens are ignored.
            ignore_eos: bool,
            /// GBNF that the answer has to obey.
            grammar: String,
            /// JSON schema that the answer has to obey.
            json_schema: Value,
            /// The number under which the text is remembered, for `/slots/{slot}`; -1 is none.
            id_slot: i64,
        }
        ignored {
            /// Tokens that are kept when the context is full: it ends the answer here.
            n_keep: i64,
            /// Time limit.
            t_max_predict_ms: i64,
            /// Whether timings come with each token.
            timings_per_token: bool,
            /// Whether probabilities are those after sampling: they are always those before.
            post_sampling_probs: bool,
        }
    }
    /// A request for what belongs between two texts.
    pub struct InfillRequest {
        required {
            /// The text before.
            input_prefix: String,
            /// The text after.
            input_suffix: String,
        }
        optional {
            /// The model's name; the server's default model where none is given.
            model: String,
            /// The beginning of the middle.
            prompt: String,
            /// Other files: `{"filename": ..., "text": ...}`, put in front.
            input_extra: Vec<Value>,
            /// Whether the answer is streamed.
            stream: bool,
        }
    }
    /// A continuation.
    pub struct LlamaCompletion {
        required {
            /// Which prompt's, from 0.
            index: usize,
            /// The text.
            content: String,
            /// Its tokens, where they were asked for.
            tokens: Vec<u32>,
            /// The slot that remembers the text; -1 where none was named.
            id_slot: i64,
            /// Whether it is done.
            stop: bool,
            /// The model, as it was asked for.
            model: String,
            /// Tokens generated.
            tokens_predicted: usize,
            /// Tokens of the prompt.
            tokens_evaluated: usize,
            /// Of these, tokens that were cached.
            tokens_cached: usize,
            /// Always false: prompts that are too long are refused.
            truncated: bool,
            /// `eos`, `word` or `limit`.
            stop_type: String,
            /// The stop string that ended it.
            stopping_word: String,
            /// The seed and the settings that it was drawn with.
            generation_settings: Map<String, Value>,
            /// How long it took.
            timings: Map<String, Value>,
        }
        optional {
            /// Tokens with their probabilities, where they were asked for.
            completion_probabilities: Vec<Value>,
        }
    }
}

/// The prompts in a `prompt`, as tokens.
///
/// # Errors
/// When it is none.
fn prompts(tokenizer: &Tokenizer, prompt: &Value) -> ApiResult<Vec<Vec<u32>>> {
    match prompt {
        Value::Array(items) if items.is_empty() => Err(ApiError::field("prompt", "`prompt` is empty")),
        // A list without a number is a list of prompts.
        Value::Array(items) if !items.iter().any(Value::is_number) => {
            items.iter().map(|item| one_prompt(tokenizer, item)).collect()
        }
        prompt => Ok(vec![one_prompt(tokenizer, prompt)?]),
    }
}

fn one_prompt(tokenizer: &Tokenizer, prompt: &Value) -> ApiResult<Vec<u32>> {
    let wrong = |found: &Value| {
        let message = format!("`prompt` has a {} where a string or a token id is expected", kind(found));
        ApiError::field("prompt", message)
    };
    match prompt {
        Value::String(text) => Ok(encode_text(tokenizer, text, Specials::Parse)),
        Value::Object(fields) => match fields.get("prompt_string") {
            Some(Value::String(text)) => Ok(encode_text(tokenizer, text, Specials::Parse)),
            _ => Err(wrong(prompt)),
        },
        Value::Array(items) => {
            let mut tokens = Vec::new();
            for item in items {
                match item {
                    Value::String(text) if tokens.is_empty() => {
                        tokens.extend(encode_text(tokenizer, text, Specials::Parse));
                    }
                    Value::String(text) => tokens.extend(encode_plain(tokenizer, text, Specials::Parse)),
                    item => {
                        let token = item.as_u64().and_then(|token| u32::try_from(token).ok());
                        tokens.push(token.ok_or_else(|| wrong(item))?);
                    }
                }
            }
            Ok(tokens)
        }
        other => Err(wrong(other)),
    }
}

/// `POST /completion`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others): (LlamaCompletionRequest, _) = call.json(is_setting).await?;
    let model = Arc::new(call.state.models().acquire(request.model.as_deref(), None).await?);
    let mut constraints = Map::new();
    constraints.insert("grammar".into(), json!(request.grammar));
    constraints.insert("json_schema".into(), json!(request.json_schema));
    let others = others.iter().map(|(name, value)| with_samplers((name, value.clone())));
    let options = Options {
        logprobs: request.n_probs.filter(|&count| count > 0).map(|count| count.min(100) as usize),
        cache_prompt: request.cache_prompt.unwrap_or(true),
        ignore_end: request.ignore_eos.unwrap_or(false),
        grammar: super::grammar_fields(&constraints)?.grammar(),
        slot: super::slots::named(&model, request.id_slot)?,
        ..Options::new(sampling(&model.base_sampling(Family::LlamaCpp)?, others)?)
    };
    // How much text is in a list is not known before it is read.
    let bytes = request.prompt.as_str().map_or(usize::MAX, str::len);
    let prompts = with_text(bytes, || prompts(&model.tokenizer, &request.prompt))?;
    let tokens = request.return_tokens == Some(true);
    answer(&call, model, prompts, options, tokens, request.stream == Some(true)).await
}

/// `POST /infill`.
pub(super) async fn infill(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others): (InfillRequest, _) = call.json(is_setting).await?;
    let model = Arc::new(call.state.models().acquire(request.model.as_deref(), None).await?);
    let others = others.iter().map(|(name, value)| with_samplers((name, value.clone())));
    let options = Options::new(sampling(&model.base_sampling(Family::LlamaCpp)?, others)?);
    let extra = request.input_extra.iter().flatten().filter_map(|file| file["text"].as_str());
    let prefix: String = extra.chain([request.input_prefix.as_str()]).collect::<Vec<_>>().join("\n");
    let mut prompt = fill_in_prompt(&model.tokenizer, &prefix, &request.input_suffix)?;
    let text = request.prompt.as_deref().unwrap_or_default();
    prompt.extend(encode_plain(&model.tokenizer, text, Specials::AsText));
    answer(&call, model, vec![prompt], options, false, request.stream == Some(true)).await
}

async fn answer(
    call: &Call,
    model: Arc<Lease>,
    prompts: Vec<Vec<u32>>,
    options: Options,
    with_tokens: bool,
    streams: bool,
) -> ApiResult<Response<Body>> {
    let most = call.state.settings().max_inputs;
    if prompts.len() > most {
        return Err(ApiError::field("prompt", format!("`prompt` has more than the {most} texts allowed")));
    }
    let mut settings = told(&options.sampling);
    settings.insert("n_predict".into(), json!(options.sampling.max_tokens));
    let with_probabilities = options.logprobs.is_some();
    let slot = options.slot.map_or(-1, i64::from);
    let predicted = vec![0; prompts.len()];
    let mut parts = Parts::start(call, model.clone(), prompts, options).await?;
    let writer = Writer { model, slot, settings, with_tokens, with_probabilities, predicted };
    if streams {
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        return Ok(stream(parts, writer, Stream::Events, keep_alive));
    }
    let mut answers = Vec::new();
    while let Some(answer) = parts.answer().await? {
        answers.push(whole(&writer, answers.len(), answer)?);
    }
    Ok(match answers.len() {
        1 => respond::json(&answers.remove(0)),
        _ => respond::json(&answers),
    })
}

fn whole(writer: &Writer, index: usize, mut answer: Answer) -> ApiResult<LlamaCompletion> {
    if answer.choices.is_empty() {
        return Err(ApiError::internal("an answer has no choice"));
    }
    let choice = answer.choices.remove(0);
    let mut told = writer.finished(index, &choice.ended, choice.seed, &answer.usage);
    told.content = choice.text;
    if writer.with_tokens {
        told.tokens = choice.tokens.iter().map(|token| token.token).collect();
    }
    told.completion_probabilities = writer.probabilities(&choice.tokens);
    Ok(told)
}

struct Writer {
    model: Arc<Lease>,
    /// As it is told: -1 is none.
    slot: i64,
    settings: Map<String, Value>,
    with_tokens: bool,
    with_probabilities: bool,
    /// Tokens told so far, of each prompt's answer.
    predicted: Vec<usize>,
}

impl Writer {
    fn probabilities(&self, tokens: &[TokenOutput]) -> Option<Vec<Value>> {
        let tokenizer = &self.model.tokenizer;
        let one = |token: u32, logprob: f32| {
            json!({
                "id": token,
                "token": tokenizer.token_text(token),
                "bytes": tokenizer.token_bytes(token),
                "logprob": finite(logprob),
            })
        };
        let told = |token: &TokenOutput| {
            let mut told = one(token.token, token.logprob.unwrap_or(f32::NEG_INFINITY));
            told["top_logprobs"] = token.top.iter().map(|&(token, logprob)| one(token, logprob)).collect();
            told
        };
        self.with_probabilities.then(|| tokens.iter().map(told).collect())
    }

    fn finished(&self, index: usize, ended: &Ended, seed: i64, usage: &Usage) -> LlamaCompletion {
        let mut settings = self.settings.clone();
        settings.insert("seed".into(), json!(seed));
        let (stop_type, word) = match ended {
            Ended::Stop | Ended::ToolCalls => ("eos", ""),
            Ended::StopString(word) => ("word", word.as_str()),
            Ended::Length | Ended::Cancelled => ("limit", ""),
        };
        LlamaCompletion {
            index,
            content: String::new(),
            tokens: Vec::new(),
            id_slot: self.slot,
            stop: true,
            model: self.model.requested.clone(),
            tokens_predicted: usage.generated_tokens,
            tokens_evaluated: usage.prompt_tokens,
            tokens_cached: usage.cached_tokens,
            truncated: false,
            stop_type: stop_type.into(),
            stopping_word: word.into(),
            generation_settings: settings,
            timings: timings(usage),
            completion_probabilities: None,
        }
    }
}

/// How long it took, as llama.cpp says it.
fn timings(usage: &Usage) -> Map<String, Value> {
    let computed = usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens);
    let rate = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    let each = |tokens: usize, seconds: f64| seconds * 1e3 / tokens.max(1) as f64;
    let timings = json!({
        "cache_n": usage.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": usage.prefill_seconds * 1e3,
        "prompt_per_token_ms": each(computed, usage.prefill_seconds),
        "prompt_per_second": rate(computed, usage.prefill_seconds),
        "predicted_n": usage.generated_tokens,
        "predicted_ms": usage.decode_seconds * 1e3,
        "predicted_per_token_ms": each(usage.generated_tokens, usage.decode_seconds),
        "predicted_per_second": rate(usage.generated_tokens, usage.decode_seconds),
        "draft_n": usage.drafted_tokens,
        "draft_n_accepted": usage.accepted_tokens,
    });
    match timings {
        Value::Object(timings) => timings,
        _ => Map::new(),
    }
}

impl Renderer for Writer {
    fn begin(&mut self, _into: &mut String) {}

    fn event(&mut self, job: usize, event: Event, into: &mut String) {
        let told = match event {
            Event::Text { text, tokens, .. } => {
                self.predicted[job] += tokens.len();
                if text.is_empty() && !self.with_tokens && !self.with_probabilities {
                    return;
                }
                let ids: Vec<u32> = tokens.iter().map(|token| token.token).collect();
                let mut told = json!({
                    "index": job,
                    "content": text,
                    "tokens": ids,
                    "stop": false,
                    "id_slot": self.slot,
                    "tokens_predicted": self.predicted[job],
                });
                if let Some(probabilities) = self.probabilities(&tokens) {
                    told["completion_probabilities"] = probabilities.into();
                }
                told
            }
            Event::Finished { ended, seed, usage, .. } => json!(self.finished(job, &ended, seed, &usage)),
            _ => return,
        };
        // Writing to a string cannot fail.
        let _cannot_fail = write!(into, "data: {told}\n\n");
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let _cannot_fail = write!(into, "data: {}\n\n", error.body(crate::route::Family::LlamaCpp));
    }

    fn end(&mut self, _into: &mut String) {}
}
