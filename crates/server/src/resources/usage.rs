//! `/v1/usage`: what requests took and cost, for the owner.

use super::ask;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use alti_store::{ClosedPrice, Group, Summary, UsageFilter};
use axum::body::Body;
use axum::http::Response;
use chrono::{DateTime, NaiveDate};
use serde_json::{Value, json};

const OPERATIONS: Family = Family::Operations;

/// The routes.
pub const ROUTES: &[Route] = &[Route::get(
    "/v1/usage",
    OPERATIONS,
    Scope::Metrics,
    "What requests took and cost, by day, key and model, beside what closed APIs would have charged.",
    |call| Box::pin(show(call)),
)];

/// `GET /v1/usage`: `from` and `to` (YYYY-MM-DD), `key` (an id or a name), `model`, `group` (of `day`, `key`, `model`, with commas).
async fn show(call: Call) -> ApiResult<Response<Body>> {
    let filter = UsageFilter {
        from_day: day(&call, "from")?,
        to_day: day(&call, "to")?,
        key: None,
        model: call.query_value("model"),
    };
    let group = group(call.query_value("group").as_deref())?;
    let keys = match call.query_value("key") {
        Some(named) => Some(keys_of(&call, named).await?),
        None => None,
    };
    let (rows, prices) = ask(&call.state, move |store| {
        let rows = match keys {
            Some(ids) => store.usage().summary_of_keys(&filter, &ids, group)?,
            None => store.usage().summary(&filter, group)?,
        };
        Ok((rows, store.closed_prices().list()?))
    })
    .await?;
    let rows: Vec<Value> = rows.iter().map(|row| row_object(row, &prices)).collect();
    Ok(respond::json(&json!({ "object": "list", "data": rows })))
}

/// The ids of the keys that are meant by an id or a name.
async fn keys_of(call: &Call, named: String) -> ApiResult<Vec<String>> {
    let shown = excerpt(&named);
    let found = ask(&call.state, move |store| store.keys().meant_by(&named)).await?;
    if found.is_empty() {
        let message = format!("there is no key with the id or the name `{shown}`");
        return Err(ApiError::not_found(message).param("key"));
    }
    Ok(found)
}

fn day(call: &Call, name: &str) -> ApiResult<Option<i64>> {
    let Some(text) = call.query_value(name) else { return Ok(None) };
    let date = NaiveDate::parse_from_str(&text, "%Y-%m-%d");
    let date = date.map_err(|_| ApiError::field(name, format!("`{name}` must be a date like 2026-01-31")))?;
    Ok(Some(i64::from(date.to_epoch_days())))
}

fn group(text: Option<&str>) -> ApiResult<Group> {
    let mut group = Group::default();
    for name in text.unwrap_or("day,key,model").split(',').filter(|name| !name.is_empty()) {
        match name {
            "day" => group.day = true,
            "key" => group.key = true,
            "model" => group.model = true,
            _ => return Err(ApiError::field("group", "`group` must be of day, key and model")),
        }
    }
    Ok(group)
}

fn row_object(row: &Summary, prices: &[ClosedPrice]) -> Value {
    let totals = &row.totals;
    let date = |day: i64| {
        DateTime::from_timestamp(day.saturating_mul(86_400), 0).map(|it| it.date_naive().to_string())
    };
    let closed: Vec<Value> = prices
        .iter()
        .map(|price| json!({ "name": price.name, "cost": price.cost(totals).to_string() }))
        .collect();
    let seconds = |micros: u64| micros as f64 / 1e6;
    json!({
        "day": row.day.and_then(date),
        "key": row.key,
        "model": row.model,
        "requests": totals.requests,
        "prompt_tokens": totals.prompt_tokens,
        "cached_tokens": totals.cached_tokens,
        "generated_tokens": totals.generated_tokens,
        "queue_seconds": seconds(totals.queue_micros),
        "prefill_seconds": seconds(totals.prefill_micros),
        "decode_seconds": seconds(totals.decode_micros),
        "cpu_seconds": seconds(totals.cpu_micros),
        "cost": totals.cost.to_string(),
        "closed_apis": closed,
    })
}
