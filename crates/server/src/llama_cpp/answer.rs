//! Continuations as llama.cpp tells them, whole or as they come.

use crate::error::{ApiError, ApiResult};
use crate::generate::{Answer, Ended, Event, Options, Parts, Renderer, stream, told};
use crate::models::Lease;
use crate::openai::shared::finite;
use crate::respond;
use crate::route::{Call, Family, Stream};
use alti_engine::serving::{TokenOutput, Usage};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

crate::wire! {
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
            /// Tokens whose keys and values are there now: the prompt's and the answer's, but for its last. How many of
            /// them were there before is `timings.cache_n`.
            tokens_cached: usize,
            /// The prompt, with its control tokens spelled out.
            prompt: String,
            /// Whether the text has a line break.
            has_new_line: bool,
            /// Whether the answer ended because the context was full.
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

/// How an answer is to be told.
pub(super) struct Telling {
    pub streams: bool,
    /// Whether the answer's tokens are told.
    pub tokens: bool,
    pub probabilities: Probabilities,
    /// The only fields that are told at the end; none is all.
    pub fields: Vec<String>,
}

/// How the probabilities of tokens are told.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Probabilities {
    None,
    Logarithms,
    Plain,
}

/// Has prompts gone on with, and answers.
///
/// # Errors
/// Prompts that are too many or too long, a full queue.
pub(super) async fn answer(
    call: &Call,
    model: Arc<Lease>,
    prompts: Vec<Vec<u32>>,
    options: Options,
    telling: Telling,
) -> ApiResult<Response<Body>> {
    let most = call.state.settings().max_inputs;
    if prompts.len() > most {
        return Err(ApiError::field("prompt", format!("`prompt` has more than the {most} texts allowed")));
    }
    let mut settings = told(&options.sampling);
    settings.insert("n_predict".into(), json!(options.sampling.max_tokens));
    let streams = telling.streams;
    let writer = Writer {
        model: model.clone(),
        slot: options.slot.map_or(-1, i64::from),
        settings,
        is_greedy: options.sampling.temperature == 0.0 && options.sampling.mirostat == 0,
        telling,
        texts: prompts.iter().map(|_| Told::default()).collect(),
        prompts: prompts.clone(),
    };
    let mut parts = Parts::start(call, model, prompts, options).await?;
    if streams {
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        return Ok(stream(parts, writer, Stream::Events, keep_alive));
    }
    let mut answers = Vec::new();
    while let Some(answer) = parts.answer().await? {
        answers.push(writer.whole(answers.len(), answer)?);
    }
    Ok(match answers.len() {
        1 => respond::json(&answers.remove(0)),
        _ => respond::json(&answers),
    })
}

/// Only these fields of an object, `a/b` being the field `b` of `a`; all of it, if none are named. Those that are not there
/// are left out.
fn only(object: Value, fields: &[String]) -> Value {
    if fields.is_empty() {
        return object;
    }
    let of = |path: &String| path.split('/').try_fold(&object, |value, name| value.get(name));
    let named: BTreeSet<&String> = fields.iter().collect();
    named.into_iter().filter_map(|path| Some((path.clone(), of(path)?.clone()))).collect::<Map<_, _>>().into()
}

/// What was told of an answer so far.
#[derive(Clone, Default)]
struct Told {
    tokens: usize,
    has_new_line: bool,
    /// Tokens whose text is held back until it is certain.
    waiting: Vec<u32>,
    /// Text that came behind the last token: it is told at the end.
    rest: String,
}

struct Writer {
    model: Arc<Lease>,
    /// As it is told: -1 is none.
    slot: i64,
    settings: Map<String, Value>,
    /// Whether the most likely token is always taken.
    is_greedy: bool,
    telling: Telling,
    prompts: Vec<Vec<u32>>,
    /// Of each prompt's answer.
    texts: Vec<Told>,
}

impl Writer {
    fn probabilities(&self, tokens: &[TokenOutput]) -> Option<Vec<Value>> {
        let plain = match self.telling.probabilities {
            Probabilities::None => return None,
            Probabilities::Logarithms => false,
            Probabilities::Plain => true,
        };
        let tokenizer = &self.model.tokenizer;
        let one = |own: &TokenOutput, token: u32, logprob: f32| {
            let mut told = json!({
                "id": token,
                "token": tokenizer.token_text(token),
                "bytes": tokenizer.token_bytes(token),
            });
            match (plain, self.is_greedy) {
                (false, _) => told["logprob"] = json!(finite(logprob)),
                (true, false) => told["prob"] = json!(finite(logprob.exp())),
                (true, true) => told["prob"] = json!(f64::from(u8::from(token == own.token))),
            }
            told
        };
        let told = |token: &TokenOutput| {
            let mut told = one(token, token.token, token.logprob.unwrap_or(f32::NEG_INFINITY));
            let top = token.top.iter().map(|&(other, logprob)| one(token, other, logprob)).collect();
            told[if plain { "top_probs" } else { "top_logprobs" }] = top;
            told
        };
        Some(tokens.iter().map(told).collect())
    }

    /// The answer to the prompt of this number, but for what is told as it comes.
    fn finished(&self, index: usize, ended: &Ended, seed: i64, usage: &Usage) -> LlamaCompletion {
        let mut settings = self.settings.clone();
        settings.insert("seed".into(), json!(seed));
        let (stop_type, word) = match ended {
            Ended::Stop | Ended::ToolCalls => ("eos", ""),
            Ended::StopString(word) => ("word", word.as_str()),
            Ended::Length | Ended::ContextFull | Ended::Cancelled => ("limit", ""),
        };
        let prompt = self.prompts.get(index).map(Vec::as_slice).unwrap_or_default();
        LlamaCompletion {
            index,
            content: String::new(),
            tokens: Vec::new(),
            id_slot: self.slot,
            stop: true,
            model: self.model.requested.clone(),
            tokens_predicted: usage.generated_tokens,
            tokens_evaluated: usage.prompt_tokens,
            tokens_cached: usage.prompt_tokens + usage.generated_tokens.saturating_sub(1),
            prompt: self.model.tokenizer.decode_spelling_specials(prompt),
            has_new_line: false,
            truncated: *ended == Ended::ContextFull,
            stop_type: stop_type.into(),
            stopping_word: word.into(),
            generation_settings: settings,
            timings: timings(usage),
            completion_probabilities: None,
        }
    }

    /// The answer in one piece.
    fn whole(&self, index: usize, mut answer: Answer) -> ApiResult<Value> {
        if answer.choices.is_empty() {
            return Err(ApiError::internal("an answer has no choice"));
        }
        let choice = answer.choices.remove(0);
        let mut told = self.finished(index, &choice.ended, choice.seed, &answer.usage);
        told.has_new_line = choice.text.contains('\n');
        told.content = choice.text;
        if self.telling.tokens {
            told.tokens = choice.tokens.iter().map(|token| token.token).collect();
        }
        told.completion_probabilities = self.probabilities(&choice.tokens);
        Ok(only(json!(told), &self.telling.fields))
    }

    /// The end of a stream.
    fn last(&mut self, job: usize, ended: &Ended, seed: i64, usage: &Usage) -> Value {
        let mut last = self.finished(job, ended, seed, usage);
        let told = &mut self.texts[job];
        last.has_new_line = told.has_new_line;
        last.content = std::mem::take(&mut told.rest);
        last.tokens = std::mem::take(&mut told.waiting);
        only(json!(last), &self.telling.fields)
    }

    /// A piece of a stream; none where nothing is to be told yet. Clients read a piece's tokens, so that none is without.
    fn piece(&mut self, job: usize, text: String, tokens: &[TokenOutput]) -> Option<Value> {
        let told = &mut self.texts[job];
        told.tokens += tokens.len();
        told.has_new_line |= text.contains('\n');
        told.waiting.extend(tokens.iter().map(|token| token.token));
        if told.waiting.is_empty() {
            told.rest.push_str(&text);
            return None;
        }
        let tells_each = self.telling.tokens || self.telling.probabilities != Probabilities::None;
        if text.is_empty() && !tells_each {
            return None;
        }
        let mut piece = json!({
            "index": job,
            "content": text,
            "tokens": std::mem::take(&mut told.waiting),
            "stop": false,
            "id_slot": self.slot,
            "tokens_predicted": told.tokens,
            "tokens_evaluated": self.prompts[job].len(),
        });
        if let Some(probabilities) = self.probabilities(tokens) {
            piece["completion_probabilities"] = probabilities.into();
        }
        Some(piece)
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
            Event::Text { text, tokens, .. } => self.piece(job, text, &tokens),
            Event::Finished { ended, seed, usage, .. } => Some(self.last(job, &ended, seed, &usage)),
            _ => None,
        };
        if let Some(told) = told {
            // Writing to a string cannot fail.
            let _cannot_fail = write!(into, "data: {told}\n\n");
        }
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let _cannot_fail = write!(into, "data: {}\n\n", error.body(Family::LlamaCpp));
    }

    fn end(&mut self, _into: &mut String) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fields_that_are_named_are_told() {
        let object = json!({ "content": "x", "timings": { "prompt_n": 3 }, "tokens": [] });
        let told = |fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|&field| field.into()).collect();
            only(object.clone(), &fields)
        };
        assert_eq!(told(&[]), object);
        assert_eq!(
            told(&["content", "timings/prompt_n", "none", "content/none", "timings/none", ""]),
            json!({ "content": "x", "timings/prompt_n": 3 })
        );
    }
}
