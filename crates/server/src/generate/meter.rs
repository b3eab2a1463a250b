//! What an answer took: summed up while it is written, kept when it is done, whether anybody still listens or not.
//!
//! A request is one row and counts once, however many parts it is answered in: a [`Tally`] is the request's, a [`Meter`] a
//! part's. The jobs of a part run side by side; parts follow one another.

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
const FAILED: &str = "failed";
/// How a request ended whose caller went away between two of its parts.
const CANCELLED: &str = "cancelled";

/// The most tokens that a part of a request may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Most {
    /// Of prompts.
    pub prompt: u64,
    /// Of answers.
    pub generated: u64,
}

/// Sums up the parts of a request. What it has is kept when the last clone is dropped and all parts are done.
#[derive(Clone)]
pub struct Tally {
    open: Arc<Mutex<Open>>,
}

/// What has been summed up so far.
struct Open {
    state: AppState,
    /// Holds the key's place among the requests it may have at once.
    principal: Principal,
    /// What the parts that are done have used of the key's quotas.
    hold: Option<Hold>,
    /// What is the same for all parts, and how the request ended.
    row: UsageRow,
    /// What each model took, as models have prices of their own.
    models: Vec<UsageRow>,
    /// Whether its end has been told. Where it never is, the caller has gone away.
    is_over: bool,
    receipts: Option<Receipts>,
    unkept: Unkept,
    /// The server waits for it when it goes down.
    open: Option<One>,
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tally").field("models", &self.open().models).finish_non_exhaustive()
    }
}

impl Tally {
    /// A tally for a request of several parts, to `model` in the first place. Who made it says when it is over.
    pub(crate) fn new(call: &Call, model: &str) -> Tally {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = now.saturating_sub(call.began.elapsed());
        let open = Open {
            state: call.state.clone(),
            principal: call.principal.clone(),
            hold: None,
            row: UsageRow {
                request_id: call.id.clone(),
                key: call.principal.key_id().map(str::to_owned),
                model: model.to_owned(),
                route: call.route.path,
                began_unix_millis: i64::try_from(began.as_millis()).unwrap_or(i64::MAX),
                outcome: REFUSED,
                ..UsageRow::default()
            },
            models: Vec::new(),
            is_over: false,
            receipts: call.errand.receipts.clone(),
            unkept: Unkept::default(),
            open: Some(call.state.ledger().open()),
        };
        Tally { open: Arc::new(Mutex::new(open)) }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A meter for the next part of the request, which has `model` do something.
    pub(crate) fn part(&self, call: &Call, operation: Operation, model: &str) -> Meter {
        let is_first = {
            let mut open = self.open();
            let is_first = open.models.is_empty();
            if open.models.iter().all(|row| row.model != model) {
                let row = UsageRow { model: model.to_owned(), outcome: REFUSED, ..UsageRow::default() };
                open.models.push(row);
            }
            is_first
        };
        let began = if is_first { call.began } else { Instant::now() };
        let part = Part {
            sums: Mutex::new(Sums {
                row: UsageRow { model: model.to_owned(), outcome: REFUSED, ..UsageRow::default() },
                span: call.state.telemetry().answer(call.trace.as_ref(), began, operation, model),
                hold: None,
            }),
            tally: self.clone(),
        };
        Meter { part: Arc::new(part) }
    }

    /// What the parts that are done took.
    pub(crate) fn taken(&self) -> Usage {
        let open = self.open();
        let sum = |of: fn(&UsageRow) -> u64| open.models.iter().map(of).sum::<u64>() as usize;
        Usage {
            prompt_tokens: sum(|row| row.prompt_tokens),
            cached_tokens: sum(|row| row.cached_tokens),
            generated_tokens: sum(|row| row.generated_tokens),
            ..Usage::default()
        }
    }

    /// Says that it is over, and ended as its last part did.
    pub(crate) fn over(&self) {
        self.open().is_over = true;
    }

    /// Says that it is over and failed, if anything was submitted.
    pub(crate) fn failed(&self) {
        let mut open = self.open();
        open.is_over = true;
        if open.row.outcome != REFUSED {
            open.row.outcome = FAILED;
        }
    }

    /// Adds nothing more. What is given waits until the request's row is kept, if this was the last clone.
    pub(crate) fn close(self) -> Unkept {
        self.open().unkept.clone()
    }
}

/// Sums up what one part of a request takes, whichever of its jobs takes it. The part is done when the last clone is
/// dropped.
#[derive(Clone)]
pub struct Meter {
    part: Arc<Part>,
}

struct Part {
    sums: Mutex<Sums>,
    tally: Tally,
}

struct Sums {
    row: UsageRow,
    span: Option<AnswerSpan>,
    /// What it may use at most of the key's quotas.
    hold: Option<Hold>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Meter").field("row", &self.sums().row).finish_non_exhaustive()
    }
}

impl Meter {
    /// A meter for a request of one part, to `model`.
    pub(crate) fn new(call: &Call, operation: Operation, model: &str) -> Meter {
        let tally = Tally::new(call, model);
        tally.over();
        tally.part(call, operation, model)
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.part.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets aside what the part may use at most of its key's quotas, until what it took is kept. The request counts with
    /// its first part.
    ///
    /// # Errors
    /// When a quota is used up, or what is left of it is held by others; when the store has been unable to keep what
    /// requests took for too long.
    pub async fn reserve(&self, call: &Call, most: Most) -> ApiResult<()> {
        call.state.ledger().check()?;
        let Some(key) = call.principal.key.as_ref().filter(|key| key.has_quotas) else { return Ok(()) };
        let Some(accounts) = call.state.accounts() else { return Ok(()) };
        let model = self.sums().row.model.clone();
        let cost = call.state.costs().at_most(&model, most.prompt, most.generated);
        let wanted = Held {
            requests: u64::from(self.part.tally.open().hold.is_none()),
            tokens: most.prompt.saturating_add(most.generated),
            cost: cost.unwrap_or_default(),
            unknown_costs: u64::from(cost.is_none()),
        };
        let hold = call.state.running().reserve_patiently(accounts, key, wanted).await?;
        self.sums().hold = Some(hold);
        Ok(())
    }

    /// Adds what a choice took of a job that was submitted at this time.
    pub(crate) fn add(&self, submitted: Instant, choice: u32, usage: &Usage) {
        let mut sums = self.sums();
        if let Some(span) = &mut sums.span {
            span.phases(submitted, choice, usage);
        }
        let row = &mut sums.row;
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

    /// Adds nothing more. What is given waits until the request's row is kept, if nothing of it is open any more.
    pub(super) fn close(self) -> Unkept {
        self.part.tally.open().unkept.clone()
    }

    /// Says how it ended, and so far the request with it.
    pub fn ended(&self, outcome: &'static str) {
        self.sums().row.outcome = outcome;
        self.part.tally.open().row.outcome = outcome;
    }

    /// Says that it failed, if any of its jobs was submitted.
    pub(super) fn failed(&self) {
        if self.sums().row.outcome != REFUSED {
            self.ended(FAILED);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let sums = self.sums.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(span) = sums.span.take() {
            span.end(&sums.row);
        }
        let mut open = self.tally.open();
        if let Some(mut hold) = sums.hold.take() {
            let tokens = sums.row.prompt_tokens.saturating_add(sums.row.generated_tokens);
            hold.settle(tokens, open.state.costs().of(&sums.row));
            match &mut open.hold {
                Some(held) => held.join(hold),
                none => *none = Some(hold),
            }
        }
        if let Some(row) = open.models.iter_mut().find(|row| row.model == sums.row.model) {
            add(row, &sums.row);
            row.outcome = sums.row.outcome;
        }
    }
}

/// Adds what a part took, or a model. Parts follow one another, and so do their times.
fn add(sum: &mut UsageRow, row: &UsageRow) {
    sum.prompt_tokens += row.prompt_tokens;
    sum.cached_tokens += row.cached_tokens;
    sum.generated_tokens += row.generated_tokens;
    sum.queue_seconds += row.queue_seconds;
    sum.prefill_seconds += row.prefill_seconds;
    sum.decode_seconds += row.decode_seconds;
    sum.cpu_seconds += row.cpu_seconds;
    sum.cost = sum.cost + row.cost;
}

impl Open {
    /// The request's row, of what its models took.
    fn sum(&mut self) -> UsageRow {
        let mut row = std::mem::take(&mut self.row);
        if !self.is_over && row.outcome != REFUSED {
            row.outcome = CANCELLED;
        }
        for mut model in std::mem::take(&mut self.models) {
            model.cost = self.state.costs().of(&model);
            if model.model == row.model {
                model.outcome = row.outcome;
            }
            self.state.metrics().count_answer(&model);
            add(&mut row, &model);
        }
        row
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let row = self.sum();
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
