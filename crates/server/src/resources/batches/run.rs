//! Runs batches, those of a key one after the other, several lines at once. All that is known of a batch is in the store: whoever runs it
//! after a kill goes on with the lines that still wait.

use super::input;
use super::lines::{Lines, Outcome, output};
use crate::auth::off_the_runtime;
use crate::error::{ApiResult, ErrorKind};
use crate::resources::ask;
use crate::state::AppState;
use alti_store::{Batch, BatchStatus, PendingLine};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of the largest file of a batch.
const MOST_BYTES: u64 = 200 << 20;

/// How long a batch rests when others need everything.
const REST: Duration = Duration::from_secs(1);

/// How often a line is tried of which something is missing that may come back: a server of tools, a model that did not
/// load. Rests between double, so that a restart of it is survived and a batch does not wait for what never comes. Others
/// that lack the same are not tried again for a while ([`Outages`](super::outages::Outages)).
const MOST_ATTEMPTS: u32 = 5;

/// How long it rests when something is wrong with the store.
const LONG_REST: Duration = Duration::from_secs(10);

/// Goes on with all batches that are not at their end. Every new one is read now, so that what is wrong with its file is
/// told at once; the lines of one batch of each key are answered, beside those of others, so that who waits (for quota,
/// for a model that does not load) makes nobody else wait.
pub(in crate::resources) async fn run_all(state: AppState) {
    let unfinished = match ask(&state, |store| store.batches().unfinished()).await {
        Ok(unfinished) => unfinished,
        Err(error) => return tracing::error!(%error, "batches cannot be listed"),
    };
    for batch in unfinished {
        if state.is_draining() {
            return;
        }
        let batch = match batch.status {
            BatchStatus::Validating => {
                let id = batch.id.clone();
                match validate(&state, batch).await {
                    Ok(Some(batch)) => batch,
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!(batch = id, %error, "the file of a batch is read later");
                        continue;
                    }
                }
            }
            _ => batch,
        };
        begin(&state, batch);
    }
}

/// Runs a batch, unless that is done already, or another one of its key answers lines.
fn begin(state: &AppState, batch: Batch) {
    // The ids of batches and of keys are told apart by how they begin.
    let Some(itself) = state.work().run_batch_of(&batch.id) else { return };
    // One that only has to be ended does not wait for its turn.
    let has_lines = batch.status == BatchStatus::InProgress && alti_store::now() < batch.expires_at;
    let turn = has_lines.then(|| state.work().run_batch_of(&batch.key));
    if matches!(turn, Some(None)) {
        return;
    }
    let state = state.clone();
    tokio::spawn(async move {
        let id = batch.id.clone();
        if let Err(error) = run(&state, batch).await {
            tracing::error!(batch = id, %error, "a batch is gone on with later");
            // What was wrong would be so again.
            tokio::time::sleep(LONG_REST).await;
        }
        drop((itself, turn));
        // The same key's next batch may be waiting.
        state.work().batches.notify_one();
    });
}

async fn run(state: &AppState, batch: Batch) -> ApiResult<()> {
    // Since it was listed it may have come to its end.
    if status(state, &batch).await? == BatchStatus::InProgress
        && let Some(end) = answer_all(state, &batch).await?
    {
        return finish(state, &batch, end).await;
    }
    match status(state, &batch).await? {
        BatchStatus::Cancelling => finish(state, &batch, BatchStatus::Cancelled).await,
        // A kill came between the last line and the files; lines that still wait had run out of time.
        BatchStatus::Finalizing => {
            let id = batch.id.clone();
            let waiting = ask(state, move |store| store.batches().waiting(&id, 0, 1)).await?;
            let end = if waiting.is_empty() { BatchStatus::Completed } else { BatchStatus::Expired };
            finish(state, &batch, end).await
        }
        _ => Ok(()),
    }
}

async fn status(state: &AppState, batch: &Batch) -> ApiResult<BatchStatus> {
    let id = batch.id.clone();
    ask(state, move |store| store.batches().status(&id)).await
}

/// Reads the file of a batch; none if the batch has failed or was cancelled meanwhile.
async fn validate(state: &AppState, batch: Batch) -> ApiResult<Option<Batch>> {
    let store = state.store()?.clone();
    off_the_runtime(move || {
        let (batches, id) = (store.batches(), batch.id.as_str());
        let fail = |errors: Vec<Value>| batches.fail(id, &Value::Array(errors)).map(|_| None);
        let outcome = match store.files().content(&batch.tenant, &batch.input_file, MOST_BYTES) {
            Err(error) if error.is_callers() => fail(vec![
                json!({ "code": "invalid_file", "param": "input_file_id", "message": error.to_string() }),
            ]),
            Err(error) => Err(error),
            Ok(content) => match input::read(&content, &batch.endpoint) {
                Err(errors) => fail(errors),
                Ok(input) => batches.begin(id, input.model.as_deref(), &input.lines).map(Some),
            },
        };
        match outcome {
            Err(alti_store::StoreError::Conflict { .. }) => Ok(None),
            outcome => Ok(outcome?),
        }
    })
    .await
}

/// Answers lines until all are answered, the batch is cancelled, its time is over, or the server goes down. The state it
/// ends in, if it ends.
async fn answer_all(state: &AppState, batch: &Batch) -> ApiResult<Option<BatchStatus>> {
    let lines = match Lines::new(state, batch).await {
        Ok(lines) => lines,
        // Every line is told why.
        Err(error) if error.kind == ErrorKind::Permission || error.kind == ErrorKind::NotFound => {
            finish_with(state, batch, BatchStatus::Completed, "key_unusable", error.message).await?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut next = 0;
    loop {
        let (id, from) = (batch.id.clone(), next);
        let waiting = ask(state, move |store| store.batches().waiting(&id, from, 256)).await?;
        let Some(last) = waiting.last() else { return Ok(Some(BatchStatus::Completed)) };
        next = last.line + 1;
        if let Some(stop) = answer_some(state, batch, &lines, waiting).await? {
            return Ok(stop.end);
        }
    }
}

/// Why no more lines are answered.
struct Stop {
    end: Option<BatchStatus>,
}

/// Whether lines may be answered now.
async fn stop(state: &AppState, batch: &Batch) -> ApiResult<Option<Stop>> {
    if state.is_draining() {
        return Ok(Some(Stop { end: None }));
    }
    if alti_store::now() >= batch.expires_at {
        return Ok(Some(Stop { end: Some(BatchStatus::Expired) }));
    }
    Ok(match status(state, batch).await? {
        BatchStatus::InProgress => None,
        BatchStatus::Cancelling => Some(Stop { end: Some(BatchStatus::Cancelled) }),
        _ => Some(Stop { end: None }),
    })
}

async fn answer_some(
    state: &AppState,
    batch: &Batch,
    lines: &Lines,
    waiting: Vec<PendingLine>,
) -> ApiResult<Option<Stop>> {
    let mut waiting = waiting.into_iter();
    let mut working = FuturesUnordered::new();
    let mut stopping = None;
    loop {
        while stopping.is_none() && working.len() < lines.at_once() {
            let Some(line) = waiting.next() else { break };
            stopping = stop(state, batch).await?;
            if stopping.is_none() {
                working.push(answer_patiently(state, batch, lines, line));
            }
        }
        // Lines in the works are finished and stored, whatever stops the batch.
        match working.next().await {
            Some(outcome) => outcome?,
            None => return Ok(stopping),
        }
    }
}

/// Answers a line and stores its outcome; while others need everything, it waits, and what cannot be had is asked for some
/// times. A line that waits when the batch stops has no outcome.
async fn answer_patiently(
    state: &AppState,
    batch: &Batch,
    lines: &Lines,
    line: PendingLine,
) -> ApiResult<()> {
    let mut attempts = 0;
    loop {
        let began = Instant::now();
        let later = match lines.answer(&line).await {
            Ok(outcome) => return store_patiently(state, batch, outcome).await,
            Err(later) => later,
        };
        let mut least = REST;
        if let Some(outcome) = later.outcome {
            let problem = &later.error.message;
            attempts += 1;
            if attempts >= MOST_ATTEMPTS {
                lines.outages.note(problem, Instant::now());
            }
            if attempts >= MOST_ATTEMPTS || lines.outages.is_known(problem, began) {
                return store_patiently(state, batch, *outcome).await;
            }
            least = REST * 2u32.pow(attempts - 1);
        }
        let error = later.error;
        tracing::debug!(batch = batch.id, line = line.line, %error, "a line of a batch waits");
        let asked = error.retry_after.map_or(REST, |seconds| Duration::from_secs(seconds.clamp(1, 60)));
        tokio::time::sleep(asked.max(least)).await;
        if stop(state, batch).await?.is_some() {
            return Ok(());
        }
    }
}

/// Stores a line's outcome; what was computed is not thrown away because the disk is full for a while.
async fn store_patiently(state: &AppState, batch: &Batch, outcome: Outcome) -> ApiResult<()> {
    let outcome = Arc::new(outcome);
    loop {
        let (id, kept) = (batch.id.clone(), outcome.clone());
        match ask(state, move |store| store.batches().finish_line(&id, &kept.result)).await {
            Err(error)
                if matches!(error.kind, ErrorKind::StorageFull | ErrorKind::Unavailable)
                    && !state.is_draining() =>
            {
                tracing::warn!(batch = batch.id, %error, "an answer of a batch waits to be stored");
                tokio::time::sleep(LONG_REST).await;
            }
            stored => return stored.map(drop),
        }
    }
}

async fn finish(state: &AppState, batch: &Batch, end: BatchStatus) -> ApiResult<()> {
    let (code, message) = match end {
        BatchStatus::Expired => {
            ("batch_expired", "this request could not be answered before the batch expired")
        }
        _ => ("batch_cancelled", "this request was not answered: the batch was cancelled"),
    };
    finish_with(state, batch, end, code, message.to_owned()).await
}

/// Writes the files; lines without an outcome have this error.
async fn finish_with(
    state: &AppState,
    batch: &Batch,
    end: BatchStatus,
    code: &'static str,
    message: String,
) -> ApiResult<()> {
    let id = batch.id.clone();
    let expires_at = batch.output_seconds.map(|seconds| alti_store::now() + seconds);
    let finished = ask(state, move |store| {
        store.batches().finish(&id, end, expires_at, |line| {
            output(&line.custom_id, Value::Null, json!({ "code": code, "message": message }))
        })
    });
    let batch = finished.await?;
    let (completed, failed) = (batch.counts.completed, batch.counts.failed);
    tracing::info!(batch = batch.id, status = batch.status.name(), completed, failed, "a batch has ended");
    Ok(())
}
