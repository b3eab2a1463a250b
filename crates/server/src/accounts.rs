//! Keys, quotas and usage, kept in the store.

use crate::auth::{Accounts, Key, UsageRow};
use crate::error::{ApiError, ApiResult, ErrorKind};
use alti_store::{KeyState, Money, Quotas, Store, Totals, UsageRecord};

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
    })
}

impl Accounts for StoreAccounts {
    fn has_keys(&self) -> ApiResult<bool> {
        Ok(self.store.keys().any()?)
    }

    fn find_key(&self, secret: &str) -> ApiResult<Option<Key>> {
        Ok(self.store.keys().find(secret)?.and_then(usable))
    }

    fn admit(&self, key: &Key) -> ApiResult<()> {
        let quotas = self.store.keys().get(&key.id)?.quotas;
        if quotas == (Quotas { concurrency: quotas.concurrency, ..Quotas::default() }) {
            return Ok(());
        }
        let now = alti_store::now();
        let used = self.store.usage().of_key(&key.id, now.div_euclid(SECONDS_PER_DAY))?;
        check(&quotas, &used).map_err(|message| {
            let rest = SECONDS_PER_DAY - now.rem_euclid(SECONDS_PER_DAY);
            ApiError::new(ErrorKind::Quota, message)
                .code("insufficient_quota")
                .retry_after(u64::try_from(rest).unwrap_or(0))
        })
    }

    fn record(&self, usage: &UsageRow) -> ApiResult<()> {
        Ok(self.store.usage().record(&[record(usage)])?)
    }
}

/// Whether there is something left of each quota.
fn check(quotas: &Quotas, used: &Totals) -> Result<(), String> {
    let refuse = |what: &str, used: String, most: String| {
        Err(format!("this key has used {used} of its {most} {what} of today (UTC); there are more tomorrow"))
    };
    let tokens = used.prompt_tokens.saturating_add(used.generated_tokens);
    match quotas {
        Quotas { requests_per_day: Some(most), .. } if used.requests >= *most => {
            refuse("requests", used.requests.to_string(), most.to_string())
        }
        Quotas { tokens_per_day: Some(most), .. } if tokens >= *most => {
            refuse("tokens", tokens.to_string(), most.to_string())
        }
        Quotas { cost_per_day: Some(most), .. } if used.cost >= *most => {
            refuse("of cost", used.cost.to_string(), most.to_string())
        }
        _ => Ok(()),
    }
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
        cost: Money::from_units(usage.cost.max(0.0)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_used_up_when_nothing_is_left_of_it() {
        let used = Totals {
            requests: 5,
            prompt_tokens: 60,
            generated_tokens: 40,
            cost: Money::from_nanos(7),
            ..Totals::default()
        };
        let says = |quotas: Quotas| check(&quotas, &used).err().unwrap_or_default();
        assert_eq!(says(Quotas::default()), "");
        assert_eq!(
            says(Quotas { requests_per_day: Some(6), tokens_per_day: Some(101), ..Quotas::default() }),
            ""
        );
        assert!(
            says(Quotas { requests_per_day: Some(5), ..Quotas::default() }).contains("5 of its 5 requests")
        );
        assert!(says(Quotas { tokens_per_day: Some(100), ..Quotas::default() }).contains("100 tokens"));
        let cost = Quotas { cost_per_day: Some(Money::from_nanos(7)), ..Quotas::default() };
        assert!(says(cost).contains("of cost"));
    }

    #[test]
    fn what_a_request_took_becomes_whole_numbers() {
        let row = UsageRow {
            cpu_seconds: 1.234_567_8,
            queue_seconds: f64::NAN,
            cost: 0.000_000_012_6,
            began_unix_millis: 5,
            ..UsageRow::default()
        };
        let record = record(&row);
        assert_eq!((record.cpu_micros, record.queue_micros, record.cost.nanos), (1_234_568, 0, 13));
        assert_eq!(record.at_micros, 5000);
    }
}
