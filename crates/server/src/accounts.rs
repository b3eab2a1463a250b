//! Keys, quotas and usage, kept in the store.

use crate::auth::{Accounts, Key, UsageRow};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::running::Held;
use alti_store::{KeyState, Quotas, Store, Totals, UsageRecord};

const SECONDS_PER_DAY: i64 = 86_400;

/// Keys, quotas and usage of a store.
#[derive(Clone, Debug)]
pub struct StoreAccounts {
    store: Store,
}

impl StoreAccounts {
    /// Those of this store.
    pub fn new(store: Store) -> StoreAccounts {
        StoreAccounts { store }
    }
}

/// The key as the server sees it, if it still opens anything.
pub(crate) fn usable(key: alti_store::Key) -> Option<Key> {
    (key.state(alti_store::now()) == KeyState::Active).then_some(Key {
        id: key.id,
        tenant: key.tenant,
        scopes: key.scopes,
        max_concurrent: key.quotas.concurrency,
        has_quotas: key.quotas != Quotas { concurrency: key.quotas.concurrency, ..Quotas::default() },
    })
}

impl Accounts for StoreAccounts {
    fn has_keys(&self) -> ApiResult<bool> {
        Ok(self.store.keys().any()?)
    }

    fn find_key(&self, secret: &str) -> ApiResult<Option<Key>> {
        Ok(self.store.keys().find(secret)?.and_then(usable))
    }

    fn admit(&self, key: &Key, held: &Held) -> ApiResult<()> {
        let quotas = self.store.keys().get(&key.id)?.quotas;
        let now = alti_store::now();
        let used = self.store.usage().of_key(&key.id, now.div_euclid(SECONDS_PER_DAY))?;
        check(&quotas, &used, held).map_err(|refused| {
            let rest = SECONDS_PER_DAY - now.rem_euclid(SECONDS_PER_DAY);
            match refused {
                Refused::UsedUp(message) => ApiError::new(ErrorKind::Quota, message)
                    .code("insufficient_quota")
                    .retry_after(u64::try_from(rest).unwrap_or(0)),
                Refused::Held(message) => {
                    ApiError::new(ErrorKind::RateLimit, message).code("rate_limit_exceeded").retry_after(1)
                }
            }
        })
    }

    fn record(&self, usage: &[&UsageRow]) -> ApiResult<()> {
        let records: Vec<UsageRecord> = usage.iter().copied().map(record).collect();
        Ok(self.store.usage().record(&records)?)
    }
}

/// Why a request has to wait.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// Until tomorrow.
    UsedUp(String),
    /// Until others have ended.
    Held(String),
}

/// Whether there is something left of each quota beside what requests in the works may use. So all requests together use
/// at most one request's worth more than there is.
fn check(quotas: &Quotas, used: &Totals, held: &Held) -> Result<(), Refused> {
    let count = |most: Option<u64>, used: u64, held: u64| {
        let most = most?;
        let told = (used.to_string(), most.to_string());
        Some((used >= most, used.saturating_add(held) >= most, told))
    };
    let tokens = used.prompt_tokens.saturating_add(used.generated_tokens);
    let cost = quotas.cost_per_day.map(|most| {
        let is_held = held.unknown_costs > 0 || used.cost + held.cost >= most;
        (used.cost >= most, is_held, (used.cost.to_string(), most.to_string()))
    });
    let rows = [
        ("requests", count(quotas.requests_per_day, used.requests, held.requests)),
        ("tokens", count(quotas.tokens_per_day, tokens, held.tokens)),
        ("of cost", cost),
    ];
    for (what, row) in rows {
        let Some((is_used_up, is_held, (used, most))) = row else { continue };
        let so_far = format!("this key has used {used} of its {most} {what} of today (UTC)");
        if is_used_up {
            return Err(Refused::UsedUp(format!("{so_far}; there are more tomorrow")));
        }
        if is_held {
            let message = format!(
                "{so_far}, and its requests in the works may use the rest: try again when one has ended"
            );
            return Err(Refused::Held(message));
        }
    }
    Ok(())
}

/// What a request took, in whole numbers.
pub(crate) fn record(usage: &UsageRow) -> UsageRecord {
    let micros = |seconds: f64| (seconds.max(0.0) * 1e6).round() as u64;
    UsageRecord {
        at_micros: usage.began_unix_millis.saturating_mul(1000),
        request: usage.request_id.clone(),
        key: usage.key.clone().unwrap_or_default(),
        model: usage.model.clone(),
        route: usage.route.to_owned(),
        outcome: usage.outcome.to_owned(),
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: usage.cached_tokens,
        generated_tokens: usage.generated_tokens,
        queue_micros: micros(usage.queue_seconds),
        prefill_micros: micros(usage.prefill_seconds),
        decode_micros: micros(usage.decode_seconds),
        cpu_micros: micros(usage.cpu_seconds),
        cost: usage.cost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alti_store::Money;

    #[test]
    fn a_quota_is_used_up_when_nothing_is_left_of_it() {
        let used = Totals {
            requests: 5,
            prompt_tokens: 60,
            generated_tokens: 40,
            cost: Money::from_nanos(7),
            ..Totals::default()
        };
        let says = |quotas: Quotas, held: Held| match check(&quotas, &used, &held) {
            Ok(()) => String::new(),
            Err(Refused::UsedUp(message)) => message,
            Err(Refused::Held(message)) => format!("held: {message}"),
        };
        let none = Held::default;
        assert_eq!(says(Quotas::default(), Held { tokens: 99, ..none() }), "");
        let some = Quotas { requests_per_day: Some(6), tokens_per_day: Some(101), ..Quotas::default() };
        assert_eq!(says(some, none()), "");
        assert!(says(some, Held { requests: 1, ..none() }).starts_with("held: this key has used 5 of its 6"));
        assert!(says(some, Held { tokens: 1, ..none() }).contains("100 of its 101 tokens"));
        let requests = Quotas { requests_per_day: Some(5), ..Quotas::default() };
        assert!(says(requests, none()).contains("5 of its 5 requests"));
        let tokens = Quotas { tokens_per_day: Some(100), ..Quotas::default() };
        assert!(says(tokens, none()).contains("100 tokens"));
        let cost = |nanos| Quotas { cost_per_day: Some(Money::from_nanos(nanos)), ..Quotas::default() };
        assert!(says(cost(7), none()).contains("of cost"));
        assert_eq!(says(cost(9), Held { cost: Money::from_nanos(1), ..none() }), "");
        assert!(says(cost(9), Held { cost: Money::from_nanos(2), ..none() }).starts_with("held"));
        assert!(says(cost(9), Held { unknown_costs: 1, ..none() }).starts_with("held"));
    }

    #[test]
    fn what_a_request_took_becomes_whole_numbers() {
        let row = UsageRow {
            cpu_seconds: 1.234_567_8,
            queue_seconds: f64::NAN,
            cost: Money::from_nanos(13),
            began_unix_millis: 5,
            ..UsageRow::default()
        };
        let record = record(&row);
        assert_eq!((record.cpu_micros, record.queue_micros, record.cost.nanos), (1_234_568, 0, 13));
        assert_eq!(record.at_micros, 5000);
    }
}
