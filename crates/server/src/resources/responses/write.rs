//! Writes a response: the search, the answer, and what is stored of it. What was stored is told; what could not be stored
//! has failed.

use super::keep::{Ending, numbered};
use super::live::Live;
use super::plan::Plan;
use super::writer::Writer;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::{self, ChatRequest, Ended, Event, Generation, ToolCall, ToolChoice, add_usage};
use crate::mcp::{CallResult, Round, ToolRounds};
use crate::models::Lease;
use crate::openai::shared::finite;
use crate::resources::ask;
use crate::resources::work::Written;
use crate::route::Call;
use alti_engine::serving::{TokenOutput, Usage};
use alti_store::Hit;
use alti_text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often events of a response in the background are stored while it is written.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Most answers of the model whose calls to MCP servers are made; behind them it has to go on without.
const MAX_ROUNDS: usize = 8;

/// An answer that has been asked for.
pub(super) struct Asked {
    queries: Vec<String>,
    hits: Vec<Hit>,
    generation: Generation,
    /// What was asked.
    chat: ChatRequest,
}

/// Where the writing of a response begins.
pub(super) enum Start {
    /// Everything still has to be done.
    Model(Box<Lease>),
    /// The answer has been asked for: what could be wrong with the request has been told.
    Asked(Box<Asked>),
}

/// Searches, and has the answer begun.
///
/// # Errors
/// A search that cannot be made, a prompt that does not fit, a full queue.
pub(super) async fn begin(call: &Call, model: Lease, plan: &Plan) -> ApiResult<Asked> {
    let (queries, hits) = match &plan.search {
        Some(search) => {
            let said: Vec<Value> = plan.history.iter().chain(&plan.input).cloned().collect();
            search.run(call, &said).await?
        }
        None => (Vec::new(), Vec::new()),
    };
    let mut chat = plan.chat(&hits)?;
    let generation = ask_model(call, plan, Some(model), &mut chat).await?;
    Ok(Asked { queries, hits, generation, chat })
}

/// Has an answer begun; of a chat that is too long, what may be left out is.
async fn ask_model(
    call: &Call,
    plan: &Plan,
    mut model: Option<Lease>,
    chat: &mut ChatRequest,
) -> ApiResult<Generation> {
    loop {
        let lease = match model.take() {
            Some(model) => model,
            None => call.state.models().acquire(Some(&plan.model), None).await?,
        };
        match generate::start_chat(call, lease, chat.clone()).await {
            Err(error)
                if error.code == Some("context_length_exceeded")
                    && plan.request.truncation.as_deref() == Some("auto")
                    && leave_out_oldest(chat) => {}
            Err(error) => return Err(renamed(error)),
            Ok(generation) => return Ok(generation),
        }
    }
}

/// Leaves the oldest quarter of the turns out, but not the system's and not the last one. Whether there was anything to
/// leave out.
fn leave_out_oldest(chat: &mut ChatRequest) -> bool {
    let first = usize::from(chat.messages.first().is_some_and(|message| message.role == "system"));
    let spare = chat.messages.len().saturating_sub(first + 1);
    if spare == 0 {
        return false;
    }
    let mut end = first + spare.div_ceil(4);
    // A result without its call would be refused by templates.
    while end + 1 < chat.messages.len() && chat.messages[end].role == "tool" {
        end += 1;
    }
    chat.messages.drain(first..end);
    true
}

/// Errors speak of the chat API's fields.
pub(super) fn renamed(error: ApiError) -> ApiError {
    let (chats, own) = ("response_format", "text.format");
    let param = error.param.map(|param| match param.starts_with("messages") {
        true => "input".to_owned(),
        false => param.replace(chats, own),
    });
    ApiError { param, message: error.message.replace(chats, own), ..error }
}

/// Writes a response to its end. It is known as `written` until that is stored.
pub(super) async fn write(call: Call, plan: Plan, start: Start, live: Arc<Live>, written: Option<Written>) {
    let mut writer = Writer::new(live.clone(), plan.tells_results);
    writer.created();
    let outcome = tokio::select! {
        biased;
        () = live.cancelled() => None,
        outcome = answer(&call, &plan, start, &mut writer, &live) => Some(outcome),
    };
    let (mut last, mut failure) = match outcome {
        None => (writer.end("cancelled", None, None), None),
        Some(Ok((Ended::Length | Ended::ContextFull, usage))) => {
            (writer.end("incomplete", Some("max_output_tokens"), Some(&usage)), None)
        }
        Some(Ok((Ended::Cancelled, _))) => {
            let error = ApiError::new(
                ErrorKind::Unavailable,
                "the response was not done in the time there is for one",
            );
            (writer.fail("server_error", &error.message), Some(error))
        }
        Some(Ok((_, usage))) => (writer.end("completed", None, Some(&usage)), None),
        Some(Err(error)) => (writer.fail(code(&error), &error.message), Some(error)),
    };
    let mut unkept = None;
    if let Err(error) = Ending::new(&call, &plan, &writer, &live, &last).keep(&call.state).await {
        tracing::error!(response = plan.id, %error, "a response could not be stored");
        last = writer.fail("server_error", &error.message);
        failure = Some(error);
        // That it has failed is told at once, and stored when that is possible.
        unkept = Some(Ending::new(&call, &plan, &writer, &live, &last)).filter(|_| plan.store);
    }
    if let Some(failure) = failure {
        live.fail(failure);
    }
    writer.last(last);
    if let Some(ending) = unkept {
        ending.keep_later(&call.state).await;
    }
    drop(written);
}

/// The answer, event by event: why it ended and what it took.
async fn answer(
    call: &Call,
    plan: &Plan,
    start: Start,
    writer: &mut Writer,
    live: &Live,
) -> ApiResult<(Ended, Usage)> {
    writer.in_progress();
    let Asked { queries, hits, mut generation, mut chat } = match start {
        Start::Asked(asked) => *asked,
        Start::Model(model) => begin(call, *model, plan).await?,
    };
    if !queries.is_empty() {
        writer.searched(&queries, hits);
    }
    for server in call.state.mcp().names() {
        let tools: Vec<_> = plan.mcp.iter().filter(|tool| tool.server == server).collect();
        if !tools.is_empty() {
            writer.listed(server, &tools);
        }
    }
    let mut saved = Saved { events: 0, at: Instant::now() };
    let most_calls = plan.request.max_tool_calls.map_or(usize::MAX, |most| most as usize);
    let mut rounds =
        ToolRounds::new(call.state.mcp().clone(), plan.mcp.clone(), MAX_ROUNDS).most_calls(most_calls);
    let mut usage = Usage::default();
    loop {
        let turn = one_answer(call, plan, &mut generation, &rounds, writer, live, &mut saved).await?;
        add_usage(&mut usage, &turn.usage);
        let made = turn.calls.iter().any(|call| rounds.tool(&call.name).is_some());
        if !made {
            return Ok((turn.ended, usage));
        }
        // An answer that was cut may have been cut in the middle of a call.
        let next = match turn.ended {
            Ended::ToolCalls => rounds.next(&turn.calls).await,
            _ => Round::Exhausted,
        };
        match next {
            Round::Results(results) => {
                tell_results(writer, &rounds, &results);
                chat.messages.push(ToolRounds::turn(&turn.text, &turn.calls));
                chat.messages.extend(results.iter().map(CallResult::to_message));
            }
            // The client goes on from here.
            Round::Client | Round::Exhausted => {
                for call in &turn.calls {
                    if let Some(tool) = rounds.tool(&call.name) {
                        writer.called(tool, &call.arguments, Err("not made: the answer ends here"));
                    }
                }
                return Ok((turn.ended, usage));
            }
        }
        // What had to be called has been.
        chat.tool_choice = ToolChoice::Auto;
        if !rounds.is_open() {
            // The client's own functions may still be called.
            let is_ours = |tool: &Value| {
                tool["function"]["name"].as_str().is_some_and(|name| rounds.tool(name).is_some())
            };
            chat.tools.retain(|tool| !is_ours(tool));
        }
        generation = ask_model(call, plan, None, &mut chat).await?;
    }
}

fn tell_results(writer: &mut Writer, rounds: &ToolRounds, results: &[CallResult]) {
    for made in results {
        if let Some(tool) = rounds.tool(&made.call.name) {
            let text = made.result.text.as_str();
            writer.called(
                tool,
                &made.call.arguments,
                if made.result.is_error { Err(text) } else { Ok(text) },
            );
        }
    }
}

/// How far the events of a response in the background are stored.
struct Saved {
    events: usize,
    at: Instant,
}

/// One answer of the model.
struct Turn {
    text: String,
    calls: Vec<ToolCall>,
    ended: Ended,
    usage: Usage,
}

/// Tells one answer of the model, but for calls that are made here.
async fn one_answer(
    call: &Call,
    plan: &Plan,
    generation: &mut Generation,
    rounds: &ToolRounds,
    writer: &mut Writer,
    live: &Live,
    saved: &mut Saved,
) -> ApiResult<Turn> {
    let tells_logprobs = plan.options.logprobs.is_some();
    let mut turn =
        Turn { text: String::new(), calls: Vec::new(), ended: Ended::Cancelled, usage: Usage::default() };
    let mut is_ours = false;
    while let Some(event) = generation.next().await? {
        match event {
            Event::Text { text, tokens, .. } => {
                let tokens =
                    if tells_logprobs { logprobs(&generation.model.tokenizer, &tokens) } else { Vec::new() };
                turn.text.push_str(&text);
                writer.text(&text, tokens);
            }
            Event::CallBegin { id, name, .. } => {
                is_ours = rounds.tool(&name).is_some();
                if !is_ours {
                    writer.call(&id, &name);
                }
                turn.calls.push(ToolCall { id, name, arguments: String::new() });
            }
            Event::CallArguments { arguments, .. } => {
                if !is_ours {
                    writer.arguments(&arguments);
                }
                if let Some(last) = turn.calls.last_mut() {
                    last.arguments.push_str(&arguments);
                }
            }
            Event::Finished { ended, usage, .. } => (turn.ended, turn.usage) = (ended, usage),
            Event::Prompt(_) => {}
        }
        if plan.background && saved.at.elapsed() > SAVE_EVERY {
            let (id, events) = (plan.id.clone(), numbered(live, saved.events));
            saved.events += events.len();
            saved.at = Instant::now();
            ask(&call.state, move |store| store.responses().add_events(&id, &events)).await?;
        }
    }
    Ok(turn)
}

/// OpenAI's word for what went wrong.
fn code(error: &ApiError) -> &'static str {
    match error.kind {
        ErrorKind::RateLimit | ErrorKind::Quota => "rate_limit_exceeded",
        ErrorKind::InvalidRequest | ErrorKind::NotFound => "invalid_prompt",
        _ => "server_error",
    }
}

/// Tokens with their log-probabilities.
fn logprobs(tokenizer: &Tokenizer, tokens: &[TokenOutput]) -> Vec<Value> {
    let entry = |token: u32, logprob: f32| {
        json!({
            "token": tokenizer.token_text(token),
            "bytes": tokenizer.token_bytes(token),
            "logprob": finite(logprob),
        })
    };
    let told = tokens.iter().filter_map(|output| {
        let mut told = entry(output.token, output.logprob?);
        told["top_logprobs"] = output.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
        Some(told)
    });
    told.collect()
}
