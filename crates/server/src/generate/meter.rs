//! What an answer took: summed up while it is written, kept when it is done, whether anybody still listens or not.

use crate::auth::{Principal, UsageRow};
use crate::route::{Call, Receipts};
use crate::state::AppState;
use alti_engine::serving::Usage;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// How a request ended that was never submitted.
const REFUSED: &str = "refused";

/// Sums up what a request takes, whichever of its jobs takes it. What it has is kept when the last clone is dropped:
/// one row for a request.
#[derive(Clone)]
pub struct Meter {
    open: Arc<Mutex<Open>>,
}

/// What has been summed up so far.
struct Open {
    state: AppState,
    /// Holds the key's place among the requests it may have at once.
    _principal: Principal,
    row: UsageRow,
    receipts: Option<Receipts>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Meter").field("row", &self.open().row).finish_non_exhaustive()
    }
}

impl Meter {
    /// A meter for a request to `model`.
    pub fn new(call: &Call, model: &str) -> Meter {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = now.saturating_sub(call.began.elapsed());
        let open = Open {
            state: call.state.clone(),
            _principal: call.principal.clone(),
            receipts: call.errand.receipts.clone(),
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

    /// Adds what one answer took.
    pub fn add(&self, usage: &Usage) {
        let row = &mut self.open().row;
        row.prompt_tokens += usage.prompt_tokens as u64;
        row.cached_tokens += usage.cached_tokens as u64;
        row.generated_tokens += usage.generated_tokens as u64;
        // Answers to one prompt wait and run side by side.
        row.queue_seconds = row.queue_seconds.max(usage.queue_seconds);
        row.prefill_seconds = row.prefill_seconds.max(usage.prefill_seconds);
        row.decode_seconds = row.decode_seconds.max(usage.decode_seconds);
        row.cpu_seconds += usage.cpu_seconds;
    }

    /// Says how it ended.
    pub fn ended(&self, outcome: &'static str) {
        self.open().row.outcome = outcome;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let settings = self.state.settings();
        let core_seconds = settings.price_cores * 3600.0;
        let mut row = std::mem::take(&mut self.row);
        row.cost = row.cpu_seconds * settings.price_per_hour / core_seconds;
        self.state.metrics().count_answer(&row);
        // Nothing was done, and it does not count against a quota.
        if row.outcome == REFUSED {
            return;
        }
        if let Some(receipts) = &self.receipts {
            return receipts.put(row);
        }
        let Some(accounts) = self.state.accounts().cloned() else { return };
        let record = move || {
            if let Err(error) = accounts.record(&row) {
                tracing::error!(request = row.request_id, %error, "what a request took was not kept");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(record)),
            Err(_) => record(),
        }
    }
}
