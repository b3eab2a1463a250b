//! The log of requests: one row each, and sums that are exactly the sums of the rows.

use crate::Store;
use crate::error::{Result, StoreError};
use crate::money::Money;
use rusqlite::{Params, Row, Transaction, params};
use serde::Serialize;

/// What one request took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageRecord {
    /// When it came, in microseconds since 1970.
    pub at_micros: i64,
    /// The request's id, as its caller saw it.
    pub request: String,
    /// The key's id; empty for requests without one.
    pub key: String,
    /// The model.
    pub model: String,
    /// The route.
    pub route: String,
    /// How it ended, in a word.
    pub outcome: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens whose keys and values were cached.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Microseconds spent waiting.
    pub queue_micros: u64,
    /// Microseconds from there to the first token.
    pub prefill_micros: u64,
    /// Microseconds from there to the last token.
    pub decode_micros: u64,
    /// Microseconds of all cores' time.
    pub cpu_micros: u64,
    /// What it cost the owner.
    pub cost: Money,
}

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of these, cached ones.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Microseconds spent waiting.
    pub queue_micros: u64,
    /// Microseconds before first tokens.
    pub prefill_micros: u64,
    /// Microseconds after them.
    pub decode_micros: u64,
    /// Microseconds of all cores' time.
    pub cpu_micros: u64,
    /// What all of it cost the owner, in billionths.
    pub cost: Money,
}

/// What rows of a summary stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// One row for each day.
    pub day: bool,
    /// One row for each key.
    pub key: bool,
    /// One row for each model.
    pub model: bool,
}

/// Which requests are meant; `None` means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageFilter {
    /// From this day on, in days since 1970 (UTC).
    pub from_day: Option<i64>,
    /// Up to this day.
    pub to_day: Option<i64>,
    /// Of this key alone.
    pub key: Option<String>,
    /// Of this model alone.
    pub model: Option<String>,
}

/// One row of a summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The day, in days since 1970, where days were told apart.
    pub day: Option<i64>,
    /// The key's id, where keys were told apart.
    pub key: Option<String>,
    /// The model, where models were told apart.
    pub model: Option<String>,
    /// The sums.
    #[serde(flatten)]
    pub totals: Totals,
}

/// The log of a store.
#[derive(Clone, Copy, Debug)]
pub struct UsageLog<'a> {
    pub(crate) store: &'a Store,
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

const SUMS: &str = "sum(requests), sum(prompt_tokens), sum(cached_tokens), sum(generated_tokens), sum(queue_micros), \
                    sum(prefill_micros), sum(decode_micros), sum(cpu_micros), sum(cost_nanos)";

const CONDITION: &str = "day >= ?1 AND day <= ?2 AND (?3 IS NULL OR key = ?3) AND (?4 IS NULL OR model = ?4)";

impl UsageLog<'_> {
    /// Adds rows, all or none.
    ///
    /// # Errors
    /// When a number is beyond what can be stored, or nothing can be written.
    pub fn record(&self, records: &[UsageRecord]) -> Result<()> {
        self.store.write(|transaction| records.iter().try_for_each(|record| insert(transaction, record)))
    }

    /// Sums over the requests that are meant, told apart as asked, in order of day, key and model.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn summary(&self, filter: &UsageFilter, group: Group) -> Result<Vec<Summary>> {
        let (from, to, key, model) = bounds(filter);
        self.sums(CONDITION, params![from, to, key, model], group)
    }

    /// As [`Self::summary`], of requests with one of these keys alone: a name may have been several keys'.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn summary_of_keys(
        &self,
        filter: &UsageFilter,
        keys: &[String],
        group: Group,
    ) -> Result<Vec<Summary>> {
        let condition = format!("{CONDITION} AND key IN (SELECT value FROM json_each(?5))");
        let (from, to, key, model) = bounds(filter);
        let keys = serde_json::Value::from(keys).to_string();
        self.sums(&condition, params![from, to, key, model, keys], group)
    }

    fn sums(&self, condition: &str, parameters: impl Params, group: Group) -> Result<Vec<Summary>> {
        let column = |on: bool, name: &'static str| if on { name } else { "NULL" };
        let (day, key, model) =
            (column(group.day, "day"), column(group.key, "key"), column(group.model, "model"));
        let sql = format!(
            "SELECT {SUMS}, {day}, {key}, {model} FROM usage_days WHERE {condition} GROUP BY {day}, {key}, {model} \
             HAVING count(*) > 0 ORDER BY {day}, {key}, {model}"
        );
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached(&sql)?;
            let rows = statement.query_map(parameters, |row| {
                Ok(Summary { totals: totals(row)?, day: row.get(9)?, key: row.get(10)?, model: row.get(11)? })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The sums of one key on one day (since 1970): what quotas are held against.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn of_key(&self, key: &str, day: i64) -> Result<Totals> {
        let filter = UsageFilter {
            from_day: Some(day),
            to_day: Some(day),
            key: Some(key.to_owned()),
            ..UsageFilter::default()
        };
        let rows = self.summary(&filter, Group::default())?;
        Ok(rows.first().map(|row| row.totals).unwrap_or_default())
    }

    /// The rows themselves, oldest first, at most `limit` after the first `skip`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn rows(&self, filter: &UsageFilter, skip: u64, limit: u64) -> Result<Vec<UsageRecord>> {
        let sql = format!("SELECT * FROM usage WHERE {CONDITION} ORDER BY seq LIMIT ?5 OFFSET ?6");
        let (from, to, key, model) = bounds(filter);
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached(&sql)?;
            let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let rows =
                statement.query_map(params![from, to, key, model, signed(limit), signed(skip)], read)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }
}

/// The day of a time, in days since 1970 (UTC).
#[must_use]
pub(crate) fn day_of(at_micros: i64) -> i64 {
    at_micros.div_euclid(MICROS_PER_DAY)
}

/// Adds one row within a transaction of the caller's.
pub(crate) fn insert(transaction: &Transaction<'_>, record: &UsageRecord) -> Result<()> {
    // A million times less than fits, so that a million of the largest rows can still be summed.
    let checked = |value: u64| {
        i64::try_from(value)
            .ok()
            .filter(|value| *value <= i64::MAX / 1_000_000)
            .ok_or_else(|| StoreError::invalid("usage", format!("{value} is more than one request can take")))
    };
    if record.cost < Money::ZERO || record.cost.nanos > i64::MAX / 1_000_000 {
        return Err(StoreError::invalid("usage", format!("a cost of {} is not one request's", record.cost)));
    }
    transaction
        .prepare_cached(
            "INSERT INTO usage (at_micros, day, request, key, model, route, outcome, prompt_tokens, cached_tokens, \
             generated_tokens, queue_micros, prefill_micros, decode_micros, cpu_micros, cost_nanos) \
             VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        )?
        .execute(params![
            record.at_micros,
            day_of(record.at_micros),
            record.request,
            record.key,
            record.model,
            record.route,
            record.outcome,
            checked(record.prompt_tokens)?,
            checked(record.cached_tokens)?,
            checked(record.generated_tokens)?,
            checked(record.queue_micros)?,
            checked(record.prefill_micros)?,
            checked(record.decode_micros)?,
            checked(record.cpu_micros)?,
            record.cost.nanos
        ])?;
    Ok(())
}

type Bounds<'a> = (i64, i64, Option<&'a str>, Option<&'a str>);

fn bounds(filter: &UsageFilter) -> Bounds<'_> {
    let (from, to) = (filter.from_day.unwrap_or(i64::MIN), filter.to_day.unwrap_or(i64::MAX));
    (from, to, filter.key.as_deref(), filter.model.as_deref())
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn totals(row: &Row<'_>) -> rusqlite::Result<Totals> {
    Ok(Totals {
        requests: count(row, 0)?,
        prompt_tokens: count(row, 1)?,
        cached_tokens: count(row, 2)?,
        generated_tokens: count(row, 3)?,
        queue_micros: count(row, 4)?,
        prefill_micros: count(row, 5)?,
        decode_micros: count(row, 6)?,
        cpu_micros: count(row, 7)?,
        cost: Money::from_nanos(row.get(8)?),
    })
}

fn read(row: &Row<'_>) -> rusqlite::Result<UsageRecord> {
    let number = |name: &str| row.as_ref().column_index(name).and_then(|column| count(row, column));
    Ok(UsageRecord {
        at_micros: row.get("at_micros")?,
        request: row.get("request")?,
        key: row.get("key")?,
        model: row.get("model")?,
        route: row.get("route")?,
        outcome: row.get("outcome")?,
        prompt_tokens: number("prompt_tokens")?,
        cached_tokens: number("cached_tokens")?,
        generated_tokens: number("generated_tokens")?,
        queue_micros: number("queue_micros")?,
        prefill_micros: number("prefill_micros")?,
        decode_micros: number("decode_micros")?,
        cpu_micros: number("cpu_micros")?,
        cost: Money::from_nanos(row.get("cost_nanos")?),
    })
}
