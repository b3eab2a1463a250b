//! What an answer took: summed up while it is written, kept when it is done, whether anybody still listens or not.

use crate::auth::{Principal, UsageRow};
use crate::error::ApiResult;
use crate::ledger::{Entry, One, Unkept};
use crate::route::{Call, Receipt, Receipts};
use crate::running::{Held, Hold};
use crate::state::AppState;
use crate::telemetry::{AnswerSpan, Operation};
use alti_engine::EngineError;
use alti_engine::serving::Usage;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How a request ended that was never submitted.
const REFUSED: &str = "refused";

/// Sums up what a request takes, whichever of its jobs takes it. What it has is kept when the last clone is dropped:
/// one row for a request.
#[derive(Clone)]
pub struct Meter {
    open: Arc<Mutex<Open>>,
}

/// The most tokens that a request may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Most {
    /// Of prompts.
    pub prompt: u64,
    /// Of answers.
    pub generated: u64,
}

/// What has been summed up so far.
struct Open {
    state: AppState,
    /// Holds the key's place among the requests it may have at once.
    principal: Principal,
    /// What it may use at most of the key's quotas.
    hold: Option<Hold>,
    row: UsageRow,
    receipts: Option<Receipts>,
    unkept: Unkept,
    /// The server waits for it when it goes down.
    open: Option<One>,
    span: Option<AnswerSpan>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Meter").field("row", &self.open().row).finish_non_exhaustive()
    }
}

impl Meter {
    /// A meter for a request to `model`.
    pub(crate) fn new(call: &Call, operation: Operation, model: &str) -> Meter {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = now.saturating_sub(call.began.elapsed());
        let open = Open {
            state: call.state.clone(),
            principal: call.principal.clone(),
            hold: None,
            receipts: call.errand.receipts.clone(),
            unkept: Unkept::default(),
            open: Some(call.state.ledger().open()),
            span: call.state.telemetry().answer(call.trace.as_ref(), call.began, operation, model),
            row: UsageRow {
                request_id: call.id.clone(),
                key: call.principal.key_id().map(str::to_owned),
                model: model.to_owned(),
                route: call.route.path,
                began_unix_millis: i64::try_from(began.as_millis()).unwrap_or(i64::MAX),
                outcome: REFUSED,
                ..UsageRow::default()
            },
        };
        Meter { open: Arc::new(Mutex::new(open)) }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets aside what the request may use at most of its key's quotas, until what it took is kept.
    ///
    /// # Errors
    /// When a quota is used up, or what is left of it is held by others; when the store has been unable to keep what
    /// requests took for too long.
    pub async fn reserve(&self, call: &Call, most: Most) -> ApiResult<()> {
        call.state.ledger().check()?;
        let Some(key) = call.principal.key.as_ref().filter(|key| key.has_quotas) else { return Ok(()) };
        let Some(accounts) = call.state.accounts() else { return Ok(()) };
        let model = self.open().row.model.clone();
        let cost = call.state.costs().at_most(&model, most.prompt, most.generated);
        let wanted = Held {
            requests: 1,
            tokens: most.prompt.saturating_add(most.generated),
            cost: cost.unwrap_or_default(),
            unknown_costs: u64::from(cost.is_none()),
        };
        let hold = call.state.running().reserve_patiently(accounts, key, wanted).await?;
        self.open().hold = Some(hold);
        Ok(())
    }

    /// Adds what a choice took of a job that was submitted at this time.
    pub(crate) fn add(&self, submitted: Instant, choice: u32, usage: &Usage) {
        let mut open = self.open();
        if let Some(span) = &mut open.span {
            span.phases(submitted, choice, usage);
        }
        let row = &mut open.row;
        row.prompt_tokens += usage.prompt_tokens as u64;
        row.cached_tokens += usage.cached_tokens as u64;
        row.generated_tokens += usage.generated_tokens as u64;
        // Answers to one prompt wait and run side by side.
        row.queue_seconds = row.queue_seconds.max(usage.queue_seconds);
        row.prefill_seconds = row.prefill_seconds.max(usage.prefill_seconds);
        row.decode_seconds = row.decode_seconds.max(usage.decode_seconds);
        row.cpu_seconds += usage.cpu_seconds;
    }

    /// Adds what a job took that was submitted at this time and came to nothing, as far as it says so.
    pub(super) fn add_failed(&self, submitted: Instant, error: &EngineError) {
        if let EngineError::Ended { usage, .. } = error {
            self.add(submitted, 0, usage);
        }
    }

    /// Adds nothing more. What is given waits until the request's row is kept, if this was the last clone.
    pub(super) fn close(self) -> Unkept {
        self.open().unkept.clone()
    }

    /// Says how it ended.
    pub fn ended(&self, outcome: &'static str) {
        self.open().row.outcome = outcome;
    }

    /// Says that it failed, if any of its jobs was submitted.
    pub(super) fn failed(&self) {
        let row = &mut self.open().row;
        if row.outcome != REFUSED {
            row.outcome = "failed";
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut row = std::mem::take(&mut self.row);
        row.cost = self.state.costs().of(&row);
        self.state.metrics().count_answer(&row);
        if let Some(span) = self.span.take() {
            span.end(&row);
        }
        // Nothing was done, and it does not count against a quota.
        if row.outcome == REFUSED {
            return;
        }
        let (principal, hold) = (std::mem::take(&mut self.principal), self.hold.take());
        if let Some(receipts) = &self.receipts {
            return receipts.put(Receipt { row, _hold: hold });
        }
        let Some(accounts) = self.state.accounts().cloned() else { return };
        let Some(open) = self.open.take() else { return };
        self.state.ledger().keep(&accounts, Entry { row, principal, hold, open }, &self.unkept);
    }
}
