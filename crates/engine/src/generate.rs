//! One answer: from the prompt's tokens to the last character, streamed.

use crate::sampling::{Sampler, SamplerSettings, Workspace};
use crate::stop::FinishReason;
use crate::writer::Writer;
use crate::{EngineError, Session, Shift};
use alti_tensor::Backend;
use alti_text::Tokenizer;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How tokens are drawn, and what ends the answer besides the model.
    pub sampling: SamplerSettings,
    /// What happens when the context is full.
    pub when_full: WhenFull,
    /// Whether the model's end-of-answer tokens are ignored.
    pub ignore_end: bool,
}

/// What happens when the context is full in the middle of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The answer ends.
    Stop,
    /// Context shift: the first `keep` tokens stay, the older half of the others is forgotten, and
    /// the rest is computed again at its new positions.
    Shift {
        /// Tokens at the beginning that are never forgotten (the system prompt).
        keep: usize,
    },
}

/// Something that happened while an answer was generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many of the prompt's tokens are in the context.
    Prefill {
        /// Tokens in the context.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// More text of the answer: whole characters.
    Text(&'a str),
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Tokens of the prompt that were in the context already.
    pub cached_tokens: usize,
    /// Tokens of the prompt that were computed.
    pub prefill_tokens: usize,
    /// Seconds that took.
    pub prefill_seconds: f64,
    /// Tokens generated after the first (which the prefill gives).
    pub decode_tokens: usize,
    /// Seconds from the first to the last.
    pub decode_seconds: f64,
}

impl Timings {
    /// Tokens of prompt a second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prefill_tokens, self.prefill_seconds)
    }

    /// Tokens of answer a second.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens, self.decode_seconds)
    }
}

fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its text, without the stop string that ended it.
    pub text: String,
    /// Its tokens, without the model's end token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// The seed its tokens were drawn with.
    pub seed: i64,
    /// How long it took.
    pub timings: Timings,
}

/// Generates one answer. `cancel` ends it within one step; `observe` hears of progress and text.
///
/// # Errors
/// When the prompt does not fit or a step fails. A cancelled answer is not an error.
pub fn generate<B: Backend<Element = f32>>(
    session: &mut Session<B>,
    tokenizer: &Tokenizer,
    request: &Request,
    cancel: &AtomicBool,
    mut observe: impl FnMut(Event<'_>),
) -> Result<Answer, EngineError> {
    let mut settings = request.sampling.clone();
    let seed = settings.fix_seed();
    let writer = Writer::new(tokenizer, &settings, false);
    let mut answer = Draft { writer, text: String::new(), tokens: Vec::new() };
    let vocabulary_size = session.model().config.vocabulary_size;
    let mut sampler = Sampler::for_text(&settings, tokenizer, vocabulary_size, &request.prompt)?;
    let mut timings = Timings::default();

    let started = Instant::now();
    let total = request.prompt.len();
    let before = session.tokens().iter().zip(&request.prompt).take_while(|(a, b)| a == b).count();
    timings.cached_tokens = before.min(total.saturating_sub(1));
    let prefilled = session.prefill(&request.prompt, |done| {
        observe(Event::Prefill { done, total });
        !cancel.load(Ordering::Relaxed)
    })?;
    timings.prefill_seconds = started.elapsed().as_secs_f64();
    let Some(mut logits) = prefilled else {
        timings.prefill_tokens = session.tokens().len() - timings.cached_tokens;
        return Ok(answer.finish(FinishReason::Cancelled, seed, timings, &mut observe));
    };
    timings.prefill_tokens = total - timings.cached_tokens;
    observe(Event::Prefill { done: total, total });

    let decoding = Instant::now();
    let mut workspace = Workspace::default();
    // The position counts on through context shifts: it keys the random numbers.
    let mut position = total as u64;
    let finish = loop {
        if answer.tokens.len() as i64 == settings.max_tokens {
            break FinishReason::Length;
        }
        if cancel.load(Ordering::Relaxed) {
            break FinishReason::Cancelled;
        }
        let token = sampler.sample(&mut workspace, logits, position, None)?.token;
        if !request.ignore_end && tokenizer.stop_ids().contains(&token) {
            break FinishReason::StopToken(token);
        }
        sampler.accept(token);
        timings.decode_tokens = answer.tokens.len();
        timings.decode_seconds = elapsed(decoding);
        if let Some(stop) = answer.push(token, &mut observe) {
            break FinishReason::StopString(stop);
        }
        position += 1;
        if answer.tokens.len() as i64 == settings.max_tokens {
            break FinishReason::Length;
        }
        if session.tokens().len() == session.context() {
            match session.shift(request.when_full, |_| !cancel.load(Ordering::Relaxed))? {
                Shift::Made => (),
                Shift::Refused => break FinishReason::ContextFull,
                Shift::Cancelled => break FinishReason::Cancelled,
            }
        }
        logits = session.step(token)?;
    };
    Ok(answer.finish(finish, seed, timings, &mut observe))
}

fn elapsed(since: Instant) -> f64 {
    since.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}

/// The answer so far.
struct Draft {
    writer: Writer,
    text: String,
    tokens: Vec<u32>,
}

impl Draft {
    /// Takes a token; returns the stop string that it completed.
    fn push(&mut self, token: u32, observe: &mut impl FnMut(Event<'_>)) -> Option<String> {
        self.tokens.push(token);
        let released = self.writer.push(token);
        self.show(&released.text, observe);
        released.stop
    }

    fn show(&mut self, text: &str, observe: &mut impl FnMut(Event<'_>)) {
        if !text.is_empty() {
            self.text.push_str(text);
            observe(Event::Text(text));
        }
    }

    fn finish(
        mut self,
        finish: FinishReason,
        seed: i64,
        timings: Timings,
        observe: &mut impl FnMut(Event<'_>),
    ) -> Answer {
        if !matches!(finish, FinishReason::StopString(_)) {
            let rest = self.writer.finish();
            self.show(&rest, observe);
        }
        Answer { text: self.text, tokens: self.tokens, finish, seed, timings }
    }
}
