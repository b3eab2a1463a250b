//! Answers one line of a batch: by the handler of its route, as if it had come over HTTP.

use super::outages::Outages;
use crate::auth::{Key, Principal, off_the_runtime};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::Ended;
use crate::resources::ask;
use crate::route::{Call, Errand, Receipts, Route, Verb};
use crate::running::Held;
use crate::state::AppState;
use crate::{accounts, ids};
use alti_engine::serving::Priority;
use alti_store::{Batch, BatchResult, PendingLine, UsageRecord};
use axum::body::Body;
use axum::http::Response;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;

/// Lines in the works at once.
const AT_ONCE: usize = 16;

/// What all lines of a batch have in common.
pub(super) struct Lines {
    pub(super) state: AppState,
    pub(super) route: &'static Route,
    pub(super) principal: Principal,
    /// What others waited for in vain.
    pub(super) outages: Outages,
}

/// What came of a line.
pub(super) struct Outcome {
    pub(super) result: BatchResult,
    /// What it holds of its key's quotas, until the result is stored.
    receipts: Receipts,
}

/// Why a line has no outcome now.
pub(super) struct Later {
    pub(super) error: ApiError,
    /// What becomes of the line if the error stays; none where the error says nothing about the line: others are served
    /// now, the day's quota is used up, or the server goes down.
    pub(super) outcome: Option<Box<Outcome>>,
}

impl From<ApiError> for Later {
    fn from(error: ApiError) -> Later {
        Later { error, outcome: None }
    }
}

impl Lines {
    /// For the lines of this batch.
    ///
    /// # Errors
    /// When its key does not open anything any more.
    pub(super) async fn new(state: &AppState, batch: &Batch) -> ApiResult<Lines> {
        let table = crate::routes::table();
        let route =
            table.iter().copied().find(|route| route.verb == Verb::Post && route.path == batch.endpoint);
        let route = route.ok_or_else(|| ApiError::internal("the route of a batch is gone"))?;
        let key = key_of(state, &batch.key, route).await?;
        let principal = Principal::acting_for(key);
        Ok(Lines { state: state.clone(), route, principal, outages: Outages::default() })
    }

    /// Lines in the works at once: enough to fill steps that others leave room in, and no more than the key may have.
    pub(super) fn at_once(&self) -> usize {
        let most = self.principal.key.as_ref().and_then(|key| key.max_concurrent);
        most.map_or(AT_ONCE, |most| AT_ONCE.min(most as usize).max(1))
    }

    /// Answers a line.
    ///
    /// # Errors
    /// When it has to be tried again later.
    pub(super) async fn answer(&self, line: &PendingLine) -> Result<Outcome, Later> {
        // A key may have been revoked since the last line.
        if let Some(key) = &self.principal.key
            && let Err(error) = key_of(&self.state, &key.id, self.route).await
        {
            return match error.kind {
                ErrorKind::Permission => {
                    let id = ids::new("req_");
                    let refusal = error.response(self.route.family, &id);
                    Ok(outcome(line, &id, refusal, Receipts::default()).await)
                }
                _ => Err(error.into()),
            };
        }
        if let (Some(accounts), Some(key)) = (self.state.accounts().cloned(), self.principal.key.clone()) {
            let admitted = off_the_runtime(move || accounts.admit(&key, &Held::default())).await;
            admitted?;
        }
        let receipts = Receipts::default();
        let errand = Errand { priority: Priority::Batch, receipts: Some(receipts.clone()) };
        let body = line.request.to_string();
        let call = Call::errand(self.state.clone(), self.route, self.principal.clone(), body, errand);
        let id = call.id.clone();
        let answer = AssertUnwindSafe((self.route.handler)(call)).catch_unwind().await;
        let answer = answer.unwrap_or_else(|_| Err(ApiError::internal("a handler panicked")));
        let response = match answer {
            Err(error) if error.kind == ErrorKind::Unavailable && !self.state.is_draining() => {
                let response = error.response(self.route.family, &id);
                let outcome = Box::new(outcome(line, &id, response, receipts).await);
                return Err(Later { error, outcome: Some(outcome) });
            }
            Err(error)
                if matches!(error.kind, ErrorKind::RateLimit | ErrorKind::Quota | ErrorKind::Unavailable) =>
            {
                return Err(error.into());
            }
            Err(error) => error.response(self.route.family, &id),
            Ok(response) => response,
        };
        let result = outcome(line, &id, response, receipts).await;
        let was_cut = result.result.failed
            || result.receipts.rows().iter().any(|row| row.outcome == Ended::Cancelled.outcome());
        if was_cut && self.state.is_draining() {
            // It is answered again after the restart.
            return Err(ApiError::new(ErrorKind::Unavailable, "the server is going down").into());
        }
        Ok(result)
    }
}

/// What a batch keeps of a line's answer.
async fn outcome(line: &PendingLine, id: &str, response: Response<Body>, receipts: Receipts) -> Outcome {
    let (status, body) = read(response).await;
    let outcome = json!({ "status_code": status, "request_id": id, "body": body });
    let result = BatchResult {
        line: line.line,
        failed: status >= 400,
        output: output(&line.custom_id, outcome, Value::Null),
        usage: sum(&receipts),
    };
    Outcome { result, receipts }
}

/// The key that a batch was made with, if it may still do what the batch asks; none where none was needed.
async fn key_of(state: &AppState, id: &str, route: &'static Route) -> ApiResult<Option<Key>> {
    if id.is_empty() {
        return Ok(None);
    }
    let owned = id.to_owned();
    let key = ask(state, move |store| store.keys().get(&owned)).await?;
    let message = "the key that made this batch was revoked or has expired";
    let key = accounts::usable(key).ok_or_else(|| ApiError::new(ErrorKind::Permission, message))?;
    if !key.scopes.iter().any(|scope| scope == route.scope.name()) {
        let message = format!("the key that made this batch lacks the scope `{}`", route.scope.name());
        return Err(ApiError::new(ErrorKind::Permission, message));
    }
    Ok(Some(key))
}

/// A line of an output or error file.
pub(super) fn output(custom_id: &str, response: Value, error: Value) -> Value {
    json!({ "id": ids::new("batch_req_"), "custom_id": custom_id, "response": response, "error": error })
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = match response.into_body().collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(_) => return (500, Value::Null),
    };
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// A line is one request, however many jobs it took.
fn sum(receipts: &Receipts) -> Option<UsageRecord> {
    let mut rows = receipts.rows().into_iter().map(|row| accounts::record(&row));
    let first = rows.next()?;
    Some(rows.fold(first, |sum, row| UsageRecord {
        prompt_tokens: sum.prompt_tokens + row.prompt_tokens,
        cached_tokens: sum.cached_tokens + row.cached_tokens,
        generated_tokens: sum.generated_tokens + row.generated_tokens,
        queue_micros: sum.queue_micros + row.queue_micros,
        prefill_micros: sum.prefill_micros + row.prefill_micros,
        decode_micros: sum.decode_micros + row.decode_micros,
        cpu_micros: sum.cpu_micros + row.cpu_micros,
        cost: sum.cost + row.cost,
        ..sum
    }))
}
