//! `POST /v1/completions`.

use super::chat::fingerprint;
use super::shared::{CompletionUsage, check_logit_bias, finite, format, usage, within};
use crate::error::{ApiError, ApiResult};
use crate::generate::{
    Answer, Choice, Event, Options, Parts, Renderer, encode_text, fill_in_prompt, is_setting, likelihood,
    sampling, stream, with_text,
};
use crate::ids;
use crate::models::Lease;
use crate::respond;
use crate::route::{Call, Family, Stream};
use crate::wire::{Nullable, OneOrMany, TextOrIds, TextOrTokens};
use alti_engine::serving::{TokenOutput, Usage};
use alti_text::{Detokenizer, Specials, Tokenizer};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

crate::wire! {
    /// A request for a text's continuation. Sampler settings may be given as further fields.
    pub struct CompletionRequest {
        required {
            /// One or several texts, or their tokens.
            prompt: TextOrTokens,
        }
        optional {
            /// The model's name; the server's default model where none is given.
            model: String,
            /// Text that comes after the answer, for models with tokens for it.
            suffix: String,
            /// Most tokens of the answer; 16 where none is given. 0 computes the prompt alone, for `echo` with `logprobs`.
            max_tokens: u32,
            /// 0 to 2.
            temperature: f32,
            /// 0 to 1.
            top_p: f32,
            /// Answers to each prompt.
            n: u32,
            /// So many answers are written, and the `n` whose tokens are likeliest on average are given; at most 20.
            best_of: u32,
            /// Whether the prompt comes before the answer.
            echo: bool,
            /// 0 to 20: the tokens are told with their log-probabilities, and so many of the most likely ones.
            logprobs: u32,
            /// One or several strings that end the answer.
            stop: OneOrMany<String>,
            /// The same seed gives the same answer.
            seed: i64,
            /// -2 to 2.
            frequency_penalty: f32,
            /// -2 to 2.
            presence_penalty: f32,
            /// Added to the logits of tokens, by token id.
            logit_bias: Map<String, Value>,
            /// What the answer has to obey, as in chats.
            response_format: Map<String, Value>,
            /// Whether the answer is streamed.
            stream: bool,
            /// `{"include_usage": true}`: what it took is told at the end of the stream.
            stream_options: Map<String, Value>,
            /// Whether the prefix cache is used.
            cache_prompt: bool,
            /// The number under which the text is remembered, for llama.cpp's `/slots/{slot}`; -1 is none.
            id_slot: i64,
            /// Whether the model's end-of-answer tokens are ignored.
            ignore_eos: bool,
        }
        ignored {
            /// Who asks.
            user: String,
        }
    }
    /// Continuations.
    pub struct Completion {
        required {
            /// The answer's id.
            id: String,
            /// Always `text_completion`.
            object: String,
            /// When it was made.
            created: u64,
            /// The model, as it was asked for.
            model: String,
            /// The answers, those to the first prompt first.
            choices: Vec<CompletionChoice>,
            /// What they took.
            usage: CompletionUsage,
            /// The server's version.
            system_fingerprint: String,
        }
    }
    /// One continuation.
    pub struct CompletionChoice {
        required {
            /// Which, from 0.
            index: u32,
            /// The text.
            text: String,
            /// Probabilities of its tokens.
            logprobs: Nullable<CompletionLogprobs>,
            /// `stop` or `length`.
            finish_reason: String,
        }
    }
    /// Probabilities of a text's tokens: four lists of the same length.
    pub struct CompletionLogprobs {
        required {
            /// The tokens.
            tokens: Vec<String>,
            /// Their log-probabilities; null for the first of a prompt.
            token_logprobs: Vec<Nullable<f64>>,
            /// The most likely tokens in their place; null where there are none.
            top_logprobs: Vec<Nullable<Map<String, Value>>>,
            /// Where they begin, in characters of the text.
            text_offset: Vec<usize>,
        }
    }
}

/// Most answers that some are chosen of.
const MOST_BEST_OF: u32 = 20;

/// The text that comes before an answer, where that is wanted.
#[derive(Clone, Debug, Default)]
struct Echo {
    text: String,
    /// Whether control tokens are spelled in it, as they were in a prompt that was text.
    spells_specials: bool,
}

/// Where tokens begin in a text, in characters.
#[derive(Clone, Debug)]
struct Offsets {
    detokenizer: Detokenizer,
    at: usize,
    /// A token that is in front of the text and not in it.
    unsaid: Option<u32>,
}

impl Offsets {
    /// Those of a prompt's tokens.
    fn of_prompt(tokenizer: &Tokenizer, echo: &Echo) -> Offsets {
        let (detokenizer, bos) = (tokenizer.detokenizer(), tokenizer.bos());
        let unsaid = bos.filter(|&bos| !echo.text.starts_with(&*tokenizer.token_text(bos)));
        match echo.spells_specials {
            true => Offsets { detokenizer: detokenizer.spelling_specials(), at: 0, unsaid },
            false => Offsets { detokenizer, at: 0, unsaid },
        }
    }

    /// Those of an answer's tokens behind so much text.
    fn of_answer(tokenizer: &Tokenizer, echo: &Echo) -> Offsets {
        let at = echo.text.chars().count();
        Offsets { detokenizer: tokenizer.detokenizer().continuing(), at, unsaid: None }
    }

    /// Where the next token begins. The parts of a character that is several tokens begin where it does.
    fn next(&mut self, token: u32) -> usize {
        let offset = self.at;
        if self.unsaid.take() != Some(token) {
            self.at += self.detokenizer.push(token).chars().count();
        }
        offset
    }
}

/// Puts tokens with their probabilities into lists.
fn logprobs(tokenizer: &Tokenizer, tokens: &[TokenOutput], offsets: &mut Offsets) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs {
        tokens: Vec::new(),
        token_logprobs: Vec::new(),
        top_logprobs: Vec::new(),
        text_offset: Vec::new(),
    };
    for token in tokens {
        let text = tokenizer.token_text(token.token).into_owned();
        lists.text_offset.push(offsets.next(token.token));
        let own = token.logprob.map(|logprob| (token.token, logprob));
        let told = |&(token, logprob): &(u32, f32)| {
            (tokenizer.token_text(token).into_owned(), json!(finite(logprob)))
        };
        let top: Map<String, Value> = own.iter().map(told).chain(token.top.iter().map(told)).collect();
        lists.top_logprobs.push(own.map(|_| top).into());
        lists.token_logprobs.push(token.logprob.map(finite).into());
        lists.tokens.push(text);
    }
    lists
}

impl CompletionLogprobs {
    /// Puts other lists behind these.
    fn append(mut self, others: CompletionLogprobs) -> CompletionLogprobs {
        self.tokens.extend(others.tokens);
        self.token_logprobs.extend(others.token_logprobs);
        self.top_logprobs.extend(others.top_logprobs);
        self.text_offset.extend(others.text_offset);
        self
    }
}

impl CompletionRequest {
    fn check(&self) -> ApiResult<()> {
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("logprobs", self.logprobs.map(|count| count as f32), 0.0, 20.0)?;
        check_logit_bias(self.logit_bias.as_ref())?;
        self.check_best_of()?;
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(ApiError::field("stream_options", "`stream_options` needs `stream` to be true"));
        }
        if self.echo == Some(true) && self.suffix.is_some() {
            return Err(ApiError::field("suffix", "`echo` and `suffix` exclude each other"));
        }
        Ok(())
    }

    fn check_best_of(&self) -> ApiResult<()> {
        let (Some(best_of), n) = (self.best_of, self.n.unwrap_or(1)) else { return Ok(()) };
        let refuse = |message: String| Err(ApiError::field("best_of", message));
        if n == 0 {
            return Err(ApiError::field("n", "`n` is 0: it must be at least 1"));
        }
        // The same as `n` is no choice, whatever `n` may be.
        if best_of != n && !(n..=MOST_BEST_OF).contains(&best_of) {
            return refuse(format!(
                "`best_of` is {best_of}: it must be between `n` ({n}) and {MOST_BEST_OF}"
            ));
        }
        if best_of != n && self.stream == Some(true) {
            return refuse(
                "`best_of` and `stream` exclude each other: which is best is known at the end".into(),
            );
        }
        Ok(())
    }

    /// The prompts' tokens, and what is said of them.
    fn encode(&self, model: &Lease, inputs: Vec<TextOrIds>) -> ApiResult<(Vec<Vec<u32>>, Vec<Echo>)> {
        let said = |text, spells_specials| match self.echo {
            Some(true) => Echo { text, spells_specials },
            _ => Echo::default(),
        };
        let encoded = inputs.into_iter().map(|input| match (input, &self.suffix) {
            (TextOrIds::Text(text), Some(suffix)) => {
                Ok((fill_in_prompt(&model.tokenizer, &text, suffix)?, said(text, true)))
            }
            (TextOrIds::Ids(_), Some(_)) => {
                Err(ApiError::field("suffix", "`suffix` needs a prompt that is text"))
            }
            (TextOrIds::Text(text), None) => {
                Ok((encode_text(&model.tokenizer, &text, Specials::Parse), said(text, true)))
            }
            (TextOrIds::Ids(ids), None) => {
                let text = model.tokenizer.decode(&ids);
                Ok((ids, said(text, false)))
            }
        });
        encoded.collect()
    }

    fn options(&self, model: &Lease, others: &Map<String, Value>) -> ApiResult<Options> {
        let own = [
            ("max_tokens", json!(self.max_tokens.unwrap_or(16))),
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("stop", json!(self.stop)),
            ("seed", json!(self.seed)),
            ("frequency_penalty", json!(self.frequency_penalty)),
            ("presence_penalty", json!(self.presence_penalty)),
            ("logit_bias", json!(self.logit_bias)),
        ];
        let fields = others.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let (format, grammar_field) = format(self.response_format.as_ref(), others)?;
        let n = self.n.unwrap_or(1);
        let choices = self.best_of.unwrap_or(n);
        Ok(Options {
            choices,
            logprobs: self.logprobs.or((choices > n).then_some(0)).map(|count| count as usize),
            prompt_logprobs: self.echo == Some(true) && self.logprobs.is_some(),
            cache_prompt: self.cache_prompt.unwrap_or(true),
            slot: crate::llama_cpp::slots::named(model, self.id_slot)?,
            ignore_end: self.ignore_eos.unwrap_or(false),
            grammar: format.grammar(),
            grammar_field,
            ..Options::new(sampling(&model.base_sampling(Family::OpenAi)?, fields.chain(own))?)
        })
    }
}

fn known(name: &str) -> bool {
    is_setting(name) || matches!(name, "grammar" | "json_schema" | "regex")
}

/// `POST /v1/completions`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others): (CompletionRequest, _) = call.json(known).await?;
    request.check()?;
    let model = Arc::new(call.state.models().acquire(request.model.as_deref(), None).await?);
    let options = request.options(&model, &others)?;
    let inputs = request.prompt.clone().into_inputs();
    let most = call.state.settings().max_inputs;
    if inputs.is_empty() || inputs.len() > most {
        return Err(ApiError::field("prompt", format!("`prompt` must have between 1 and {most} texts")));
    }
    let bytes = inputs.iter().map(TextOrIds::text_bytes).sum();
    let (prompts, echoes) = with_text(bytes, || request.encode(&model, inputs))?;
    let id = ids::new("cmpl-");
    let (choices, with_logprobs) = (options.choices, request.logprobs.is_some());
    let parts = Parts::start(&call, model.clone(), prompts, options).await;
    // As many answers as the server gives at most may be fewer than `best_of` asks for.
    let parts = parts.map_err(|error| match error.param.as_deref() {
        Some("n") if request.best_of.is_some() => {
            ApiError { message: error.message.replacen("`n`", "`best_of`", 1), ..error.param("best_of") }
        }
        _ => error,
    })?;
    if request.stream == Some(true) {
        let include_usage =
            request.stream_options.as_ref().is_some_and(|it| it.get("include_usage") == Some(&json!(true)));
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        let renderer = Chunks::new(&id, model, echoes, choices, with_logprobs, include_usage);
        return Ok(stream(parts, renderer, Stream::Events, keep_alive));
    }
    answer(id, &model, parts, echoes, request.n.unwrap_or(1), with_logprobs).await
}

/// The `count` choices whose tokens are likeliest on average, the likeliest first; those there are, if there are no more.
fn best(mut choices: Vec<Choice>, count: u32) -> Vec<Choice> {
    if choices.len() > count as usize {
        choices.sort_by(|one, other| likelihood(&other.tokens).total_cmp(&likelihood(&one.tokens)));
        choices.truncate(count as usize);
    }
    choices
}

async fn answer(
    id: String,
    model: &Lease,
    mut parts: Parts,
    echoes: Vec<Echo>,
    count: u32,
    with_logprobs: bool,
) -> ApiResult<Response<Body>> {
    let mut sum = Usage::default();
    let mut choices = Vec::new();
    for echo in echoes {
        let Some(Answer { prompt, choices: answers, usage }) = parts.answer().await? else { break };
        crate::generate::add_usage(&mut sum, &usage);
        for choice in best(answers, count) {
            let tokenizer = &model.tokenizer;
            let lists = || {
                let before = logprobs(tokenizer, &prompt, &mut Offsets::of_prompt(tokenizer, &echo));
                let mut offsets = Offsets::of_answer(tokenizer, &echo);
                before.append(logprobs(tokenizer, &choice.tokens, &mut offsets))
            };
            choices.push(CompletionChoice {
                index: choices.len() as u32,
                text: format!("{}{}", echo.text, choice.text),
                logprobs: with_logprobs.then(lists).into(),
                finish_reason: choice.ended.openai().into(),
            });
        }
    }
    Ok(respond::json(&Completion {
        id,
        object: "text_completion".into(),
        created: ids::unix_seconds(),
        model: model.requested.clone(),
        choices,
        usage: usage(&sum),
        system_fingerprint: fingerprint(),
    }))
}

/// A piece's tokens with their probabilities, where they are told.
fn told_lists(wanted: bool, tokenizer: &Tokenizer, tokens: &[TokenOutput], offsets: &mut Offsets) -> Value {
    match wanted && !tokens.is_empty() {
        true => json!(logprobs(tokenizer, tokens, offsets)),
        false => Value::Null,
    }
}

/// Writes events as completion chunks.
struct Chunks {
    head: String,
    tail: &'static str,
    model: Arc<Lease>,
    /// The prompts' texts, where they are still to be told.
    echoes: Vec<Echo>,
    choices: u32,
    /// Where the next token of each choice begins.
    offsets: Vec<Offsets>,
    with_logprobs: bool,
    include_usage: bool,
    sum: Usage,
}

impl Chunks {
    fn new(
        id: &str,
        model: Arc<Lease>,
        echoes: Vec<Echo>,
        choices: u32,
        with_logprobs: bool,
        include_usage: bool,
    ) -> Chunks {
        let head = json!({
            "id": id,
            "object": "text_completion",
            "created": ids::unix_seconds(),
            "model": model.requested,
            "system_fingerprint": fingerprint(),
        });
        let mut head = head.to_string();
        head.pop();
        Chunks {
            head: format!("data: {head},\"choices\":["),
            tail: if include_usage { "],\"usage\":null}\n\n" } else { "]}\n\n" },
            offsets: echoes
                .iter()
                .flat_map(|echo| vec![Offsets::of_answer(&model.tokenizer, echo); choices as usize])
                .collect(),
            model,
            echoes,
            choices,
            with_logprobs,
            include_usage,
            sum: Usage::default(),
        }
    }

    fn chunk(&self, index: usize, text: &str, probabilities: &Value, finish: &Value, into: &mut String) {
        let text = json!(text);
        // Writing to a string cannot fail.
        let _cannot_fail = write!(
            into,
            "{}{{\"index\":{index},\"text\":{text},\"logprobs\":{probabilities},\"finish_reason\":{finish}}}{}",
            self.head, self.tail
        );
    }

    /// The prompt of a job, for each of its choices.
    fn echo(&mut self, job: usize, tokens: &[TokenOutput], into: &mut String) {
        let echo = std::mem::take(&mut self.echoes[job]);
        if !echo.text.is_empty() || (self.with_logprobs && !tokens.is_empty()) {
            let tokenizer = &self.model.tokenizer;
            let mut offsets = Offsets::of_prompt(tokenizer, &echo);
            let lists = told_lists(self.with_logprobs, tokenizer, tokens, &mut offsets);
            let first = job * self.choices as usize;
            for index in first..first + self.choices as usize {
                self.chunk(index, &echo.text, &lists, &Value::Null, into);
            }
        }
    }
}

impl Renderer for Chunks {
    fn begin(&mut self, _into: &mut String) {}

    fn event(&mut self, job: usize, event: Event, into: &mut String) {
        match event {
            Event::Prompt(tokens) => self.echo(job, &tokens, into),
            Event::Text { choice, text, tokens } => {
                self.echo(job, &[], into);
                if !text.is_empty() || (self.with_logprobs && !tokens.is_empty()) {
                    let index = job * self.choices as usize + choice as usize;
                    let (tokenizer, offsets) = (&self.model.tokenizer, &mut self.offsets[index]);
                    let lists = told_lists(self.with_logprobs, tokenizer, &tokens, offsets);
                    self.chunk(index, &text, &lists, &Value::Null, into);
                }
            }
            Event::CallBegin { .. } | Event::CallArguments { .. } => {}
            Event::Finished { choice, ended, usage, .. } => {
                self.echo(job, &[], into);
                crate::generate::add_usage(&mut self.sum, &usage);
                let index = job * self.choices as usize + choice as usize;
                self.chunk(index, "", &Value::Null, &json!(ended.openai()), into);
            }
        }
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let _cannot_fail = write!(into, "data: {}\n\n", error.body(crate::route::Family::OpenAi));
    }

    fn end(&mut self, into: &mut String) {
        if self.include_usage {
            let usage = json!(usage(&self.sum));
            let _cannot_fail = write!(into, "{}],\"usage\":{usage}}}\n\n", self.head);
        }
        into.push_str("data: [DONE]\n\n");
    }
}
