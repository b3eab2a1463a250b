//! Writes a response: the search, the answer, and what is stored of it. What was stored is told; what could not be stored
//! has failed.

use super::live::Live;
use super::plan::Plan;
use super::writer::Writer;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::{self, ChatRequest, Ended, Event, Generation};
use crate::models::Lease;
use crate::resources::ask;
use crate::route::Call;
use alti_engine::serving::{TokenOutput, Usage};
use alti_store::{Hit, Store};
use alti_text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often events of a response in the background are stored while it is written.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// An answer that has been asked for.
pub(super) struct Asked {
    queries: Vec<String>,
    hits: Vec<Hit>,
    generation: Generation,
}

/// Where the writing of a response begins.
pub(super) enum Start {
    /// Everything still has to be done.
    Model(Lease),
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
    let mut model = Some(model);
    let generation = loop {
        let lease = match model.take() {
            Some(model) => model,
            None => call.state.models().acquire(Some(&plan.model), None).await?,
        };
        match generate::start_chat(call, lease, chat.clone()).await {
            Err(error)
                if error.code == Some("context_length_exceeded")
                    && plan.request.truncation.as_deref() == Some("auto")
                    && leave_out_oldest(&mut chat) => {}
            Err(error) => return Err(renamed(error)),
            Ok(generation) => break generation,
        }
    };
    Ok(Asked { queries, hits, generation })
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

/// Errors speak of the chat API's field.
fn renamed(error: ApiError) -> ApiError {
    let param =
        error.param.map(|param| if param.starts_with("messages") { "input".to_owned() } else { param });
    ApiError { param, ..error }
}

/// Writes a response to its end.
pub(super) async fn write(call: Call, plan: Plan, start: Start, live: Arc<Live>) {
    let mut writer = Writer::new(live.clone());
    writer.created();
    let outcome = tokio::select! {
        biased;
        () = live.cancelled() => None,
        outcome = answer(&call, &plan, start, &mut writer, &live) => Some(outcome),
    };
    let (mut last, mut failure) = match outcome {
        None => (writer.end("cancelled", None, None), None),
        Some(Ok((Ended::Length, usage))) => {
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
    if plan.store
        && let Err(error) = keep(&call, &plan, &writer, &live, &last).await
    {
        tracing::error!(response = plan.id, %error, "a response could not be stored");
        last = writer.fail("server_error", &error.message);
        failure = Some(error);
    }
    if let Some(failure) = failure {
        live.fail(failure);
    }
    writer.last(last);
    call.state.work().end(&plan.id);
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
    let Asked { queries, hits, mut generation } = match start {
        Start::Asked(asked) => *asked,
        Start::Model(model) => begin(call, model, plan).await?,
    };
    if !queries.is_empty() {
        writer.searched(&queries, hits, plan.tells_results);
    }
    let (mut saved, mut saved_at) = (0, Instant::now());
    let tells_logprobs = plan.options.logprobs.is_some();
    let mut end = (Ended::Cancelled, Usage::default());
    while let Some(event) = generation.next().await? {
        match event {
            Event::Text { text, tokens, .. } => {
                let tokens =
                    if tells_logprobs { logprobs(&generation.model.tokenizer, &tokens) } else { Vec::new() };
                writer.text(&text, tokens);
            }
            Event::CallBegin { id, name, .. } => writer.call(&id, &name),
            Event::CallArguments { arguments, .. } => writer.arguments(&arguments),
            Event::Finished { ended, usage, .. } => end = (ended, usage),
            Event::Prompt(_) => {}
        }
        if plan.background && saved_at.elapsed() > SAVE_EVERY {
            let (id, events) = (plan.id.clone(), numbered(live, saved));
            saved += events.len();
            saved_at = Instant::now();
            ask(&call.state, move |store| store.responses().add_events(&id, &events)).await?;
        }
    }
    Ok(end)
}

/// The events from number `from` on, with their numbers.
fn numbered(live: &Live, from: usize) -> Vec<(u64, Value)> {
    let events = live.events_now(from);
    events.iter().enumerate().map(|(index, event)| ((from + index) as u64, (**event).clone())).collect()
}

/// Stores a response that ended: its object, its events if it was told by them, and its part of the conversation.
async fn keep(call: &Call, plan: &Plan, writer: &Writer, live: &Live, last: &Value) -> ApiResult<()> {
    let mut events = Vec::new();
    if plan.background || plan.request.stream == Some(true) {
        events = numbered(live, 0);
        events.push((events.len() as u64, last.clone()));
    }
    let body = writer.body().clone();
    let status = body["status"].as_str().unwrap_or("failed").to_owned();
    let mut said = Vec::new();
    if plan.conversation.is_some() && matches!(status.as_str(), "completed" | "incomplete") {
        said.extend(
            plan.input.iter().filter(|item| plan.history.iter().all(|old| old["id"] != item["id"])).cloned(),
        );
        said.extend(body["output"].as_array().into_iter().flatten().cloned());
    }
    let id = plan.id.clone();
    ask(&call.state, move |store: &Store| store.responses().update(&id, &status, &body, &events, &said))
        .await?;
    Ok(())
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
            "logprob": logprob.max(-9999.0),
        })
    };
    let told = tokens.iter().filter_map(|output| {
        let mut told = entry(output.token, output.logprob?);
        told["top_logprobs"] = output.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
        Some(told)
    });
    told.collect()
}
