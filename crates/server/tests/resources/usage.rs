//! What is recorded of responses that are answered in several parts: one row, which is what their callers are told.

use crate::keys::{call, key};
use crate::mcp::{call as calling, of_kind};
use crate::vector_stores::library;
use crate::{Fixture, mcp};
use alti_store::{Quotas, UsageFilter, UsageRecord};
use serde_json::{Value, json};
use std::time::Duration;

fn tools(name: &str) -> Value {
    json!([{ "type": "mcp", "server_label": "tiny", "require_approval": "never", "allowed_tools": [name] }])
}

/// A request whose answer calls a tool and goes on.
fn rounds(name: &str) -> Value {
    json!({ "input": calling(name), "tools": tools(name), "max_output_tokens": 200 })
}

fn rows(fixture: &Fixture) -> Vec<UsageRecord> {
    fixture.store.usage().rows(&UsageFilter::default(), 0, 100).expect("rows")
}

/// The only row there is, as soon as there is one.
async fn row(fixture: &Fixture) -> UsageRecord {
    for _ in 0..600 {
        if let [row, rest @ ..] = rows(fixture).as_slice() {
            assert!(rest.is_empty(), "{rest:?}");
            return row.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing was recorded");
}

#[tokio::test]
async fn rounds_of_calls_are_one_request_with_one_row() {
    let fixture = mcp::fixture();
    let quotas = Quotas { requests_per_day: Some(2), tokens_per_day: Some(10_000), ..Quotas::default() };
    let (id, secret) = key(&fixture, "a", "shop", quotas);
    let (status, response) = call(&fixture, &secret, "POST", "/v1/responses", rounds("greet")).await;
    assert_eq!((status, of_kind(&response, "mcp_call").len()), (200, 1), "{response}");
    let row = row(&fixture).await;
    let said = of_kind(&response, "message")[0]["content"][0]["text"].as_str().expect("a text");
    let said = calling("greet").len() - "say ".len() + said.len();
    assert_eq!((row.outcome.as_str(), row.generated_tokens), ("stop", said as u64));
    let usage = &response["usage"];
    assert_eq!(usage["input_tokens"], row.prompt_tokens);
    assert_eq!(usage["output_tokens"], row.generated_tokens);
    assert_eq!(usage["total_tokens"], row.prompt_tokens + row.generated_tokens);
    // Nothing is held any more, and one more request is left of two.
    assert_eq!(fixture.settled(&id, 1).await.requests, 1);
    assert_eq!(call(&fixture, &secret, "POST", "/v1/responses", rounds("greet")).await.0, 200);
    fixture.settled(&id, 2).await;
    assert_eq!(call(&fixture, &secret, "POST", "/v1/responses", rounds("greet")).await.0, 429);
}

#[tokio::test]
async fn a_search_is_part_of_the_request() {
    let fixture = Fixture::scripted();
    let (path, ..) = library(&fixture).await;
    let before = rows(&fixture).len();
    let tool = json!({ "type": "file_search", "vector_store_ids": [path.rsplit('/').next()] });
    let question = "say salt";
    let request = json!({ "input": question, "tools": [tool] });
    let response = fixture.post("/v1/responses", request.clone()).await;
    assert_eq!(of_kind(&response, "file_search_call").len(), 1, "{response}");
    let recorded = rows(&fixture);
    assert_eq!(recorded.len(), before + 1);
    let row = recorded.last().expect("a row");
    assert_eq!((row.route.as_str(), row.outcome.as_str()), ("/v1/responses", "stop"));
    let usage = &response["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(row.prompt_tokens), &json!(4)));
    // The same without the search reads as many tokens less as the question and what was found have.
    let mut without = request;
    without["tool_choice"] = json!("none");
    let without = fixture.post("/v1/responses", without).await;
    let asked = without["usage"]["input_tokens"].as_u64().expect("tokens");
    assert!(row.prompt_tokens > asked + question.len() as u64, "{row:?}");
}

#[tokio::test]
async fn what_was_done_before_a_response_was_cancelled_is_recorded_once() {
    let fixture = mcp::fixture();
    let mut request = rounds("sleep");
    request["background"] = json!(true);
    let queued = fixture.post("/v1/responses", request).await;
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    // The model has spoken, and its call takes seconds.
    fixture.until(&path, |response| !of_kind(response, "mcp_list_tools").is_empty()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(rows(&fixture).is_empty(), "it is not over");
    assert_eq!(fixture.post(&format!("{path}/cancel"), Value::Null).await["status"], "cancelled");
    let row = row(&fixture).await;
    let said = calling("sleep").len() - "say ".len();
    assert_eq!((row.outcome.as_str(), row.generated_tokens), ("cancelled", said as u64));
}

#[tokio::test]
async fn what_was_done_before_a_listener_left_is_recorded_once() {
    let fixture = mcp::fixture();
    let mut request = rounds("sleep");
    request["stream"] = json!(true);
    let response = fixture.send(Fixture::request("POST", "/v1/responses", request.to_string())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(response);
    let row = row(&fixture).await;
    assert_eq!(row.outcome, "cancelled");
    assert!(row.generated_tokens > 0, "{row:?}");
}

#[tokio::test]
async fn a_part_that_the_quota_has_no_room_for_fails_the_request_and_what_was_done_is_recorded_once() {
    let fixture = mcp::fixture();
    // The first answer takes more than this, and is admitted; the second is not.
    let quotas = Quotas { tokens_per_day: Some(100), ..Quotas::default() };
    let (id, secret) = key(&fixture, "a", "shop", quotas);
    let (status, response) = call(&fixture, &secret, "POST", "/v1/responses", rounds("greet")).await;
    assert_eq!(status, 429, "{response}");
    let row = row(&fixture).await;
    let said = calling("greet").len() - "say ".len();
    assert_eq!((row.outcome.as_str(), row.generated_tokens), ("failed", said as u64));
    assert!(row.prompt_tokens + row.generated_tokens >= 100, "{row:?}");
    assert_eq!(fixture.settled(&id, 1).await.requests, 1);
}

#[tokio::test]
async fn what_each_model_took_has_its_own_price() {
    let price = |model: &str, prompt| alti_server::ModelPrices {
        model: model.into(),
        prompt,
        cached: None,
        generated: 0.0,
    };
    let settings =
        alti_server::ServerSettings { model_prices: vec![price("tiny", 1e6)], ..Default::default() };
    let (inference, folder) =
        (std::sync::Arc::new(crate::scripted::Scripted), tempfile::tempdir().expect("a folder"));
    let fixture = Fixture::with_settings(inference, folder, None, settings);
    let (path, ..) = library(&fixture).await;
    let tool = json!({ "type": "file_search", "vector_store_ids": [path.rsplit('/').next()] });
    fixture.post("/v1/responses", json!({ "input": "say salt", "tools": [tool] })).await;
    let row = rows(&fixture).pop().expect("a row");
    let cost = alti_store::Money::parse(&row.prompt_tokens.to_string()).expect("an amount");
    assert_eq!(row.cost, cost, "a token costs 1");
}
