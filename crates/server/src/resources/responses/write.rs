//! Writes a response: what is done before its answer, its end, and what is stored of it. What was stored is told; what could
//! not be stored has failed.

use super::answer::{Job, answer};
use super::keep::Ending;
use super::live::Live;
use super::plan::Plan;
use super::writer::Writer;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::{self, ChatRequest, Ended, Generation, Tally};
use crate::models::Lease;
use crate::resources::work::Written;
use crate::route::Call;
use alti_store::Hit;
use serde_json::Value;
use std::sync::Arc;

/// What there is before an answer is asked for.
pub(super) struct Prepared {
    pub(super) queries: Vec<String>,
    pub(super) hits: Vec<Hit>,
    /// What will be asked.
    pub(super) chat: ChatRequest,
}

/// Where the writing of a response begins.
pub(super) enum Start {
    /// Everything still has to be done.
    Model(Box<Lease>),
    /// The answer has been asked for: what could be wrong with the request has been told.
    Asked(Box<(Prepared, Generation)>),
}

/// Searches, and has the answer begun.
///
/// # Errors
/// A search that cannot be made, a prompt that does not fit, a full queue.
pub(super) async fn begin(call: &Call, tally: &Tally, model: Lease, plan: &Plan) -> ApiResult<Start> {
    let mut prepared = prepare(call, tally, plan).await?;
    let generation = ask_model(call, tally, plan, Some(model), &mut prepared.chat).await?;
    Ok(Start::Asked(Box::new((prepared, generation))))
}

/// Searches, and reads the chat.
///
/// # Errors
/// A search that cannot be made, turns that the model cannot read.
pub(super) async fn prepare(call: &Call, tally: &Tally, plan: &Plan) -> ApiResult<Prepared> {
    let (queries, hits) = match &plan.search {
        Some(search) => {
            let said: Vec<Value> = plan.history.iter().chain(&plan.input).cloned().collect();
            search.run(call, tally, &said).await?
        }
        None => (Vec::new(), Vec::new()),
    };
    let chat = plan.chat(&hits)?;
    Ok(Prepared { queries, hits, chat })
}

/// Has an answer begun; of a chat that is too long, what may be left out is.
///
/// # Errors
/// A prompt that does not fit, a full queue, a quota that is used up.
pub(super) async fn ask_model(
    call: &Call,
    tally: &Tally,
    plan: &Plan,
    mut model: Option<Lease>,
    chat: &mut ChatRequest,
) -> ApiResult<Generation> {
    loop {
        let lease = match model.take() {
            Some(model) => model,
            None => call.state.models().acquire(Some(&plan.model), None).await?,
        };
        match generate::start_part(call, tally, lease, chat.clone()).await {
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
pub(super) async fn write(
    call: Call,
    plan: Plan,
    tally: Tally,
    start: Start,
    live: Arc<Live>,
    written: Option<Written>,
) {
    let mut writer = Writer::new(live.clone(), plan.tells_results);
    writer.created();
    let job = Job { call: &call, plan: &plan, tally: &tally, live: &live };
    let outcome = tokio::select! {
        biased;
        () = live.cancelled() => None,
        outcome = answer(job, start, &mut writer) => Some(outcome),
    };
    match &outcome {
        // Nobody says that it is over.
        None => {}
        Some(Ok(_)) => tally.over(),
        Some(Err(_)) => tally.failed(),
    }
    let usage = tally.taken();
    tally.close().settled().await;
    let (mut last, mut failure) = match outcome {
        None => (writer.end("cancelled", None, None), None),
        Some(Ok(Ended::Length | Ended::ContextFull)) => {
            (writer.end("incomplete", Some("max_output_tokens"), Some(&usage)), None)
        }
        Some(Ok(Ended::Cancelled)) => {
            let error = ApiError::new(
                ErrorKind::Unavailable,
                "the response was not done in the time there is for one",
            );
            (writer.fail("server_error", &error.message), Some(error))
        }
        Some(Ok(_)) => (writer.end("completed", None, Some(&usage)), None),
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

/// OpenAI's word for what went wrong.
fn code(error: &ApiError) -> &'static str {
    match error.kind {
        ErrorKind::RateLimit | ErrorKind::Quota => "rate_limit_exceeded",
        ErrorKind::InvalidRequest | ErrorKind::NotFound => "invalid_prompt",
        _ => "server_error",
    }
}
