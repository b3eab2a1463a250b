//! From a request to the events that come of it. Whoever drops a [`Generation`] before its end has hung up: the job is
//! cancelled within one step, and what it took until then is kept all the same.

use super::prompt::{ChatRequest, chat_prompt};
use super::time_limit::TimeLimit;
use super::tools::{Calls, ToolPlan, ToolReader};
use super::{Meter, Most, Options, Tally};
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult};
use crate::ledger::Unkept;
use crate::models::{Cancel, Lease};
use crate::route::Call;
use crate::telemetry::Operation;
use alti_engine::EngineError;
use alti_engine::serving::{CacheDomain, Job, Output, Priority, Rejected, TokenOutput, Usage};
use alti_engine::stop::FinishReason;
use alti_text::{Specials, Tokenizer};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Longer texts are rendered and tokenized off the async threads.
const LONG_TEXT_BYTES: usize = 16 << 10;

/// What a call in a conversation counts for, as text does.
const CALL_BYTES: usize = 256;

/// Something that happened to an answer, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt's tokens, where they were asked for.
    Prompt(Vec<TokenOutput>),
    /// Text of a choice, with the tokens that it is the text of (perhaps none, perhaps without text yet).
    Text {
        /// Which answer.
        choice: u32,
        /// Text to append.
        text: String,
        /// Tokens to append.
        tokens: Vec<TokenOutput>,
    },
    /// A choice begins to call a tool.
    CallBegin {
        /// Which answer.
        choice: u32,
        /// Which of its calls, from 0.
        index: usize,
        /// The call's id.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// A piece of the arguments' JSON.
    CallArguments {
        /// Which answer.
        choice: u32,
        /// Which of its calls.
        index: usize,
        /// JSON to append.
        arguments: String,
    },
    /// A choice is done.
    Finished {
        /// Which answer.
        choice: u32,
        /// Why it ended.
        ended: Ended,
        /// The seed it was drawn with.
        seed: i64,
        /// What it took.
        usage: Usage,
    },
}

/// Why an answer ended, as far as APIs tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model ended it, or what it has to obey allows no more.
    Stop,
    /// A stop string appeared.
    StopString(String),
    /// It is as long as it may be.
    Length,
    /// There is no room for more in the model's context.
    ContextFull,
    /// The model calls tools.
    ToolCalls,
    /// It was cancelled.
    Cancelled,
}

impl Ended {
    fn of(reason: FinishReason, calls: Calls) -> Ended {
        match reason {
            FinishReason::Length | FinishReason::TimedOut => Ended::Length,
            FinishReason::ContextFull => Ended::ContextFull,
            FinishReason::Cancelled => Ended::Cancelled,
            // Half a call is no call, whatever ended it.
            _ if calls == Calls::Cut => Ended::Length,
            _ if calls == Calls::Whole => Ended::ToolCalls,
            FinishReason::StopString(text) => Ended::StopString(text),
            FinishReason::StopToken(_) | FinishReason::GrammarEnd => Ended::Stop,
        }
    }

    /// OpenAI's word for it.
    pub fn openai(&self) -> &'static str {
        match self {
            Ended::Stop | Ended::StopString(_) => "stop",
            Ended::Length | Ended::ContextFull | Ended::Cancelled => "length",
            Ended::ToolCalls => "tool_calls",
        }
    }

    /// The word for usage and metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Ended::Cancelled => "cancelled",
            other => other.openai(),
        }
    }
}

/// Answers that are being written.
pub struct Generation {
    /// The model that writes.
    pub model: Arc<Lease>,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// When it was submitted.
    pub began: Instant,
    outputs: UnboundedReceiver<Output>,
    cancel: Option<Cancel>,
    meter: Option<Meter>,
    /// What was metered and is not kept yet.
    unkept: Unkept,
    readers: Vec<ToolReader>,
    /// Whether a limit of time has ended it.
    is_out_of_time: Arc<AtomicBool>,
    /// Only the prompt was asked about: the engine draws one token behind it all the same, which is thrown away.
    silent: bool,
    open: usize,
    ready: VecDeque<Event>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Generation").field("open", &self.open).finish_non_exhaustive()
    }
}

/// Does something with so many bytes of text; with many, it does not keep the thread from others' requests.
pub(crate) fn with_text<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let is_shared = || {
        tokio::runtime::Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread)
    };
    match bytes > LONG_TEXT_BYTES && is_shared() {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

/// The tokens of a text, and nothing in front.
pub(crate) fn encode_plain(tokenizer: &Tokenizer, text: &str, specials: Specials) -> Vec<u32> {
    with_text(text.len(), || tokenizer.encode(text, specials))
}

/// The tokens of a text that is not a chat: with the token in front that the model wants there.
pub fn encode_text(tokenizer: &Tokenizer, text: &str, specials: Specials) -> Vec<u32> {
    let mut tokens = encode_plain(tokenizer, text, specials);
    if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    tokens
}

/// Has a chat answered.
///
/// # Errors
/// A conversation that the model's template refuses, options that make no sense, a full queue.
pub async fn start_chat(call: &Call, model: Lease, request: ChatRequest) -> ApiResult<Generation> {
    let tally = Tally::new(call, &model.facts.name);
    tally.over();
    start_part(call, &tally, model, request).await
}

/// Has a chat answered as a part of a request.
///
/// # Errors
/// As [`start_chat`].
pub(crate) async fn start_part(
    call: &Call,
    tally: &Tally,
    model: Lease,
    request: ChatRequest,
) -> ApiResult<Generation> {
    let bytes = request
        .messages
        .iter()
        .map(|message| {
            message.content.as_ref().map_or(0, content_bytes) + CALL_BYTES * message.tool_calls.len()
        })
        .sum::<usize>();
    // Tools have a grammar, which is compiled.
    let takes_long = bytes > LONG_TEXT_BYTES || !request.tools.is_empty();
    if request.options.sampling.max_tokens == 0 {
        return Err(ApiError::field("max_tokens", "`max_tokens` must be at least 1, or -1 for no limit"));
    }
    let model = Arc::new(model);
    let mut options = request.options.clone();
    let encode = {
        let model = model.clone();
        move || {
            let plan = ToolPlan::new(&model, &request)?;
            let prompt = chat_prompt(&model, &request, &plan)?.tokens(&model.tokenizer);
            Ok((plan, prompt))
        }
    };
    let (plan, prompt) = if takes_long { off_the_runtime(encode).await? } else { encode()? };
    options.grammar = plan.grammar();
    let origin = Origin::of(call);
    let readers = (0..origin.choices(&options)?).map(|_| plan.reader()).collect();
    let meter = tally.part(call, Operation::Chat, &model.facts.name);
    meter.reserve(call, most_tokens(&model, &options, [prompt.len()])).await?;
    submit(&origin, model, meter, prompt, options, readers, plan.spells_specials()).await
}

/// Finds what is wrong with a chat that is to be answered later. It may take a while.
///
/// # Errors
/// As those of [`start_chat`] that are the request's fault.
pub(crate) fn check_chat(model: &Lease, request: &ChatRequest) -> ApiResult<()> {
    let plan = ToolPlan::new(model, request)?;
    chat_prompt(model, request, &plan)?;
    let Some(grammar) = plan.grammar() else { return Ok(()) };
    let checked = model.inference.check_grammar(&grammar);
    checked.map_err(|error| refused(Rejected::Invalid(error), request.options.grammar_field))
}

/// The prompt that a chat becomes, as text and tokens would have it.
///
/// # Errors
/// A conversation that the model's template refuses, tools that are none.
pub fn render_chat(model: &Lease, request: &ChatRequest) -> ApiResult<alti_text::Prompt> {
    chat_prompt(model, request, &ToolPlan::new(model, request)?)
}

fn content_bytes(content: &alti_text::Content) -> usize {
    match content {
        alti_text::Content::Text(text) => text.len(),
        alti_text::Content::Parts(parts) => parts.len() * 256,
    }
}

/// Has a prompt gone on with.
///
/// # Errors
/// Options that make no sense, a prompt that is too long, a full queue, a quota that is used up.
pub async fn start(
    call: &Call,
    model: Arc<Lease>,
    prompt: Vec<u32>,
    options: Options,
) -> ApiResult<Generation> {
    let meter = Meter::new(call, Operation::TextCompletion, &model.facts.name);
    meter.reserve(call, most_tokens(&model, &options, [prompt.len()])).await?;
    begin(&Origin::of(call), model, &meter, prompt, options).await
}

/// Has one of a request's prompts gone on with; `meter` is the request's.
pub(super) async fn begin(
    origin: &Origin,
    model: Arc<Lease>,
    meter: &Meter,
    prompt: Vec<u32>,
    options: Options,
) -> ApiResult<Generation> {
    let readers = (0..origin.choices(&options)?).map(|_| ToolReader::text_only()).collect();
    submit(origin, model, meter.clone(), prompt, options, readers, false).await
}

/// The most tokens that the answers to prompts of these lengths may take.
pub(super) fn most_tokens(
    model: &Lease,
    options: &Options,
    prompts: impl IntoIterator<Item = usize>,
) -> Most {
    let mut most = Most::default();
    for prompt in prompts {
        // The token behind a full context is drawn, too.
        let room = (model.inference.context() + 1).saturating_sub(prompt) as u64;
        let each = u64::try_from(options.sampling.max_tokens).map_or(room, |wanted| wanted.min(room));
        most.prompt += prompt as u64;
        most.generated += each * u64::from(options.choices);
    }
    most
}

/// What a call says about each of its jobs.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    tenant: String,
    priority: Priority,
    deadline: Option<Instant>,
    max_choices: u32,
}

impl Origin {
    pub(super) fn of(call: &Call) -> Origin {
        let settings = call.state.settings();
        let patience = settings.request_timeout_seconds.map(Duration::from_secs);
        Origin {
            tenant: call.principal.tenant().to_owned(),
            priority: call.errand.priority,
            deadline: patience.and_then(|patience| Instant::now().checked_add(patience)),
            max_choices: settings.max_choices,
        }
    }

    /// How many answers are wanted, if that many can be given.
    fn choices(&self, options: &Options) -> ApiResult<u32> {
        let most = self.max_choices.max(1);
        match options.choices {
            choices if (1..=most).contains(&choices) => Ok(choices),
            choices => {
                Err(ApiError::field("n", format!("`n` is {choices}: it must be between 1 and {most}")))
            }
        }
    }
}

async fn submit(
    origin: &Origin,
    model: Arc<Lease>,
    meter: Meter,
    prompt: Vec<u32>,
    options: Options,
    readers: Vec<ToolReader>,
    spell_specials: bool,
) -> ApiResult<Generation> {
    let open = readers.len();
    let mut sampling = options.sampling;
    let silent = sampling.max_tokens == 0;
    sampling.max_tokens = if silent { 1 } else { sampling.max_tokens };
    let job = Job {
        choices: options.choices,
        ignore_end: options.ignore_end,
        logprobs: options.logprobs,
        prompt_logprobs: options.prompt_logprobs,
        grammar: options.grammar,
        spell_specials,
        priority: options.priority.min(origin.priority),
        deadline: origin.deadline,
        adapter: model.adapter().cloned(),
        domain: CacheDomain::of(&origin.tenant, model.adapter()),
        cache_prompt: options.cache_prompt,
        speculate: !silent,
        slot: options.slot,
        ..Job::new(prompt.clone(), sampling)
    };
    let (sender, outputs) = unbounded_channel();
    let caller = sender.clone();
    let is_out_of_time = Arc::new(AtomicBool::new(false));
    let sink = {
        let (mut limit, is_over) = (options.time_limit.map(TimeLimit::new), is_out_of_time.clone());
        // On the engine's thread: whoever reads late has no more time for it.
        Box::new(move |output| {
            if let (Some(limit), Output::Token { text, .. }) = (&mut limit, &output)
                && limit.ends_with(text, Instant::now())
            {
                is_over.store(true, Ordering::Relaxed);
            }
            sender.send(output).is_ok() && !is_over.load(Ordering::Relaxed)
        })
    };
    // Where the job is submitted a grammar is compiled, and the whole vocabulary searched for DRY's sequence breakers.
    let submitted = if job.grammar.is_some() || job.sampling.uses_dry() {
        let (model, caller, field) = (model.clone(), caller, options.grammar_field);
        off_the_runtime(move || {
            let cancel = model.inference.submit(job, sink).map_err(|error| refused(error, field))?;
            // Nobody holds it if the caller went away meanwhile, and the prompt would be computed for nothing.
            if caller.is_closed() {
                cancel();
            }
            Ok(cancel)
        })
        .await
    } else {
        model.inference.submit(job, sink).map_err(ApiError::from)
    };
    let cancel = submitted?;
    meter.ended("failed");
    Ok(Generation {
        model,
        prompt,
        began: Instant::now(),
        outputs,
        cancel: Some(cancel),
        meter: Some(meter),
        unkept: Unkept::default(),
        readers,
        is_out_of_time,
        silent,
        open,
        ready: VecDeque::new(),
    })
}

/// Why a job was not taken; `field` is the request's with the grammar.
fn refused(rejected: Rejected, field: &'static str) -> ApiError {
    match rejected {
        Rejected::Invalid(error @ EngineError::Grammar { .. }) => ApiError::from(error).param(field),
        other => other.into(),
    }
}

/// What an answer took, without a token that nobody asked for.
fn told_usage(silent: bool, usage: Usage) -> Usage {
    match silent {
        true => Usage { generated_tokens: 0, decode_seconds: 0.0, ..usage },
        false => usage,
    }
}

impl Generation {
    /// How many answers are written.
    pub fn choices(&self) -> u32 {
        self.readers.len() as u32
    }

    /// The next event; `None` when all choices are done. The last event is told when what the request took is kept.
    ///
    /// # Errors
    /// When the job failed; nothing comes after that.
    pub async fn next(&mut self) -> ApiResult<Option<Event>> {
        loop {
            if self.is_at_last() {
                self.cancel = None;
                if let Some(meter) = self.meter.take() {
                    self.unkept = meter.close();
                }
                self.unkept.settled().await;
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.open == 0 {
                return Ok(None);
            }
            let output = self.outputs.recv().await;
            self.take(output)?;
        }
    }

    /// Whether at most one event is left.
    fn is_at_last(&self) -> bool {
        self.open == 0 && self.ready.len() <= 1
    }

    /// An event that is there already, and not the last.
    ///
    /// # Errors
    /// When the job failed.
    pub fn try_next(&mut self) -> ApiResult<Option<Event>> {
        while self.ready.is_empty() && self.open > 0 {
            match self.outputs.try_recv() {
                Ok(output) => self.take(Some(output))?,
                Err(_) => break,
            }
        }
        Ok(if self.is_at_last() { None } else { self.ready.pop_front() })
    }

    fn take(&mut self, output: Option<Output>) -> ApiResult<()> {
        match output {
            None => {
                self.open = 0;
                Err(ApiError::internal("the engine stopped in the middle of an answer"))
            }
            Some(Output::Failed(error)) => {
                self.open = 0;
                if let Some(meter) = &self.meter {
                    meter.add_failed(self.began, &error);
                }
                Err(error.into())
            }
            Some(Output::Embedding { .. }) => Ok(()),
            Some(Output::Prompt(tokens)) => {
                self.ready.push_back(Event::Prompt(tokens));
                Ok(())
            }
            Some(Output::Token { .. }) if self.silent => Ok(()),
            Some(Output::Token { choice, token, text }) => {
                if let Some(reader) = self.readers.get_mut(choice as usize) {
                    reader.push(choice, text, Some(token), &mut self.ready);
                }
                Ok(())
            }
            Some(Output::Finished { choice, mut text, mut reason, seed, usage }) => {
                let mut calls = Calls::None;
                let usage = told_usage(self.silent, usage);
                if self.silent {
                    text.clear();
                    reason = FinishReason::Length;
                }
                if reason == FinishReason::Cancelled && self.is_out_of_time.load(Ordering::Relaxed) {
                    reason = FinishReason::TimedOut;
                }
                if let Some(reader) = self.readers.get_mut(choice as usize) {
                    reader.push(choice, text, None, &mut self.ready);
                    calls = reader.finish(choice, &mut self.ready);
                }
                let ended = Ended::of(reason, calls);
                if let Some(meter) = &self.meter {
                    meter.add(self.began, choice, &usage);
                    meter.ended(ended.outcome());
                }
                self.ready.push_back(Event::Finished { choice, ended, seed, usage });
                self.open = self.open.saturating_sub(1);
                Ok(())
            }
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let (Some(cancel), Some(meter)) = (self.cancel.take(), self.meter.take()) else { return };
        if self.open == 0 {
            return;
        }
        cancel();
        meter.ended("cancelled");
        // The engine tells what the answers took until they were cut off: it is kept like any other's.
        let (_, none) = unbounded_channel();
        let (mut outputs, mut open) = (std::mem::replace(&mut self.outputs, none), self.open);
        let (model, silent, began) = (self.model.clone(), self.silent, self.began);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                while open > 0 {
                    match outputs.recv().await {
                        Some(Output::Finished { choice, usage, .. }) => {
                            meter.add(began, choice, &told_usage(silent, usage));
                            open -= 1;
                        }
                        Some(Output::Failed(error)) => {
                            meter.add_failed(began, &error);
                            break;
                        }
                        None => break,
                        Some(_) => {}
                    }
                }
                drop(model);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_context_is_told_apart_and_half_a_call_is_no_call() {
        let full = Ended::of(FinishReason::ContextFull, Calls::Whole);
        assert_eq!((full.openai(), full), ("length", Ended::ContextFull));
        assert_eq!(Ended::of(FinishReason::Length, Calls::None), Ended::Length);
        for reason in [FinishReason::StopToken(1), FinishReason::StopString("x".into())] {
            assert_eq!(Ended::of(reason.clone(), Calls::Cut), Ended::Length);
            assert_eq!(Ended::of(reason, Calls::Whole), Ended::ToolCalls);
        }
    }
}
