use super::Fixture;
use alti_store::{NewKey, Quotas, UsageRecord, now, now_micros};
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};

pub(crate) fn key(fixture: &Fixture, name: &str, tenant: &str, quotas: Quotas) -> (String, String) {
    let scopes = ["models", "inference", "data"].map(str::to_owned).to_vec();
    let new = NewKey { name: name.to_owned(), tenant: tenant.to_owned(), scopes, quotas, expires_at: None };
    let (key, secret) = fixture.store.keys().create(new).expect("a key");
    (key.id, secret)
}

pub(crate) async fn call(
    fixture: &Fixture,
    secret: &str,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value) {
    let mut request =
        Fixture::request(method, path, if body.is_null() { String::new() } else { body.to_string() });
    let header = format!("Bearer {secret}").parse().expect("a header");
    request.headers_mut().insert("authorization", header);
    let response = fixture.send(request).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn one_tenant_finds_nothing_of_anothers() {
    let fixture = Fixture::scripted();
    let (_, ours) = key(&fixture, "a", "shop", Quotas::default());
    let (_, also_ours) = key(&fixture, "b", "shop", Quotas::default());
    let (_, theirs) = key(&fixture, "c", "other", Quotas::default());
    let (_, made) = call(&fixture, &ours, "POST", "/v1/conversations", json!({})).await;
    let (_, response) = call(&fixture, &ours, "POST", "/v1/responses", json!({ "input": "say x" })).await;
    let kept = json!({ "messages": [{ "role": "user", "content": "say x" }], "store": true });
    let (_, kept) = call(&fixture, &ours, "POST", "/v1/chat/completions", kept).await;
    let announced = json!({ "filename": "x", "purpose": "batch", "bytes": 0, "mime_type": "text/plain" });
    let (_, upload) = call(&fixture, &ours, "POST", "/v1/uploads", announced).await;
    let upload = format!("/v1/uploads/{}/complete", upload["id"].as_str().expect("an id"));
    let parts = json!({ "part_ids": [] });
    assert_eq!(call(&fixture, &theirs, "POST", &upload, parts.clone()).await.0, 404);
    assert_eq!(call(&fixture, &also_ours, "POST", &upload, parts).await.0, 200);
    for (secret, count) in [(&ours, 1), (&also_ours, 1), (&theirs, 0)] {
        let (_, list) = call(&fixture, secret, "GET", "/v1/chat/completions", Value::Null).await;
        assert_eq!(list["data"].as_array().map(Vec::len), Some(count));
    }
    for path in [
        format!("/v1/chat/completions/{}", kept["id"].as_str().expect("an id")),
        format!("/v1/conversations/{}", made["id"].as_str().expect("an id")),
        format!("/v1/responses/{}", response["id"].as_str().expect("an id")),
    ] {
        assert_eq!(call(&fixture, &also_ours, "GET", &path, Value::Null).await.0, 200, "{path}");
        assert_eq!(call(&fixture, &theirs, "GET", &path, Value::Null).await.0, 404, "{path}");
        assert_eq!(call(&fixture, &theirs, "DELETE", &path, Value::Null).await.0, 404, "{path}");
    }
    let continued = json!({ "input": "x", "previous_response_id": response["id"] });
    let (status, error) = call(&fixture, &theirs, "POST", "/v1/responses", continued).await;
    assert_eq!((status, error["error"]["code"].as_str()), (400, Some("previous_response_not_found")));
    let reference = json!({ "input": [{ "type": "item_reference", "id": response["output"][0]["id"] }] });
    let (status, _) = call(&fixture, &also_ours, "POST", "/v1/responses", reference.clone()).await;
    assert_eq!(status, 200);
    assert_eq!(call(&fixture, &theirs, "POST", "/v1/responses", reference).await.0, 404);
}

#[tokio::test]
async fn a_key_opens_until_it_is_revoked() {
    let fixture = Fixture::scripted();
    let (id, secret) = key(&fixture, "a", "shop", Quotas::default());
    assert_eq!(call(&fixture, &secret, "GET", "/v1/files", Value::Null).await.0, 200);
    assert_eq!(call(&fixture, "sk-alti-wrong", "GET", "/v1/files", Value::Null).await.0, 401);
    let (status, error) = call(&fixture, &secret, "GET", "/v1/usage", Value::Null).await;
    assert_eq!((status, error["error"]["code"].as_str()), (403, Some("insufficient_permissions")));
    fixture.store.keys().revoke(&id).expect("revoked");
    assert_eq!(call(&fixture, &secret, "GET", "/v1/files", Value::Null).await.0, 401);
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_told_with_when_there_is_more() {
    let fixture = Fixture::scripted();
    let (id, secret) = key(&fixture, "a", "shop", Quotas { tokens_per_day: Some(100), ..Quotas::default() });
    let request = json!({ "input": "say x" });
    assert_eq!(call(&fixture, &secret, "POST", "/v1/responses", request.clone()).await.0, 200);
    let used = UsageRecord { at_micros: now_micros(), key: id, prompt_tokens: 100, ..UsageRecord::default() };
    fixture.store.usage().record(&[used]).expect("recorded");
    let mut asked: Request<_> = Fixture::request("POST", "/v1/responses", request.to_string());
    asked.headers_mut().insert("authorization", format!("Bearer {secret}").parse().expect("a header"));
    let response = fixture.send(asked).await;
    assert_eq!(response.status(), 429);
    let seconds: i64 = response.headers()["retry-after"].to_str().expect("text").parse().expect("a number");
    assert!((1..=86_400).contains(&seconds) && (now() + seconds) % 86_400 <= 1, "tomorrow, by UTC");
}

/// How many of `count` requests at the same time are answered, and how many are told to come again.
async fn at_once(fixture: &Fixture, secret: &str, count: usize, request: &Value) -> (usize, usize) {
    let calls = (0..count).map(|_| call(fixture, secret, "POST", "/v1/chat/completions", request.clone()));
    let answers = futures_util::future::join_all(calls).await;
    let with = |status: u16| answers.iter().filter(|answer| answer.0 == status).count();
    assert_eq!(with(200) + with(429), count, "{answers:?}");
    (with(200), with(429))
}

fn said(text: &str, most: u32) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": most })
}

#[tokio::test]
async fn requests_at_the_same_time_cannot_each_use_what_is_left_of_a_quota() {
    // A prompt of 26 tokens, and an answer that takes two seconds: what a request may use at most is 226 tokens.
    let slow = said("slowly", 200);
    for (quotas, most) in [
        (Quotas { requests_per_day: Some(3), ..Quotas::default() }, 3),
        (Quotas { tokens_per_day: Some(500), ..Quotas::default() }, 3),
        (Quotas { tokens_per_day: Some(100), ..Quotas::default() }, 1),
    ] {
        let fixture = Fixture::scripted();
        let (id, secret) = key(&fixture, "a", "shop", quotas);
        assert_eq!(at_once(&fixture, &secret, 8, &slow).await, (most, 8 - most), "{quotas:?}");
        let used = fixture.settled(&id, most as u64).await;
        let tokens = used.prompt_tokens + used.generated_tokens;
        assert!(quotas.tokens_per_day.is_none_or(|most| tokens < most + 226), "{used:?}");
    }
}

#[tokio::test]
async fn what_requests_may_cost_is_set_aside() {
    let price = alti_server::ModelPrices { model: "tiny".into(), prompt: 0.0, cached: None, generated: 1e6 };
    let settings = alti_server::ServerSettings { model_prices: vec![price], ..Default::default() };
    let inference = std::sync::Arc::new(super::scripted::Scripted);
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = Fixture::with_settings(inference, folder, None, settings);
    // A token costs 1; two requests may cost 400.
    let money = alti_store::Money::parse("300").expect("an amount");
    let (id, secret) = key(&fixture, "a", "shop", Quotas { cost_per_day: Some(money), ..Quotas::default() });
    assert_eq!(at_once(&fixture, &secret, 6, &said("slowly", 200)).await, (2, 4));
    assert_eq!(fixture.settled(&id, 2).await.cost, alti_store::Money::parse("400").expect("an amount"));
}

/// A vector store with a file of many chunks, both of a key.
async fn large_file(fixture: &Fixture, secret: &str) -> (String, Value) {
    let text = "A sentence that is as long as it has to be. ".repeat(100);
    let body = format!(
        "--XX\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n--XX\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"long.txt\"\r\n\r\n{text}\r\n--XX--\r\n"
    );
    let mut request = Fixture::request("POST", "/v1/files", body);
    let headers = request.headers_mut();
    headers.insert("content-type", "multipart/form-data; boundary=XX".parse().expect("a header"));
    headers.insert("authorization", format!("Bearer {secret}").parse().expect("a header"));
    let bytes = fixture.send(request).await.into_body().collect().await.expect("a body").to_bytes();
    let file: Value = serde_json::from_slice(&bytes).expect("a file");
    let (_, made) = call(fixture, secret, "POST", "/v1/vector_stores", json!({})).await;
    let path = format!("/v1/vector_stores/{}/files", made["id"].as_str().expect("an id"));
    let chunking =
        json!({ "type": "static", "static": { "max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0 } });
    let request = json!({ "file_id": file["id"], "chunking_strategy": chunking });
    (path, request)
}

#[tokio::test]
async fn a_file_is_one_request_however_many_pieces_it_is_cut_into() {
    let fixture = Fixture::scripted();
    let quotas = Quotas { requests_per_day: Some(3), ..Quotas::default() };
    let (id, secret) = key(&fixture, "a", "shop", quotas);
    let (path, request) = large_file(&fixture, &secret).await;
    assert_eq!(call(&fixture, &secret, "POST", &path, request).await.0, 200);
    let used = fixture.settled(&id, 1).await;
    assert!(used.prompt_tokens > 3000, "all pieces are counted: {used:?}");
    for _ in 0..600 {
        let (_, files) = call(&fixture, &secret, "GET", &path, Value::Null).await;
        match files["data"][0]["status"].as_str() {
            Some("completed") => return,
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
    panic!("the file is not searchable");
}

#[tokio::test]
async fn what_is_not_used_is_given_back_however_a_request_ends() {
    let fixture = Fixture::scripted();
    let (id, secret) = key(&fixture, "a", "shop", Quotas { tokens_per_day: Some(5000), ..Quotas::default() });
    // Each may use the whole context of 4096: only one at a time has room. One after the other, all have.
    for count in 0..4 {
        let (status, answer) =
            call(&fixture, &secret, "POST", "/v1/chat/completions", said("say x", 4000)).await;
        assert_eq!(status, 200, "{count}: {answer}");
    }
    assert!(call(&fixture, &secret, "POST", "/v1/chat/completions", said("break", 4000)).await.0 >= 400);
    // A client that hangs up.
    let request = json!({ "messages": [{ "role": "user", "content": "forever" }], "stream": true });
    let mut asked = Fixture::request("POST", "/v1/chat/completions", request.to_string());
    asked.headers_mut().insert("authorization", format!("Bearer {secret}").parse().expect("a header"));
    let mut response = fixture.send(asked).await;
    response.body_mut().frame().await.expect("a piece").expect("a piece");
    drop(response);
    fixture.settled(&id, 6).await;
    let (status, answer) = call(&fixture, &secret, "POST", "/v1/chat/completions", said("say x", 4000)).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn the_owner_sees_what_requests_took_and_what_closed_apis_would_have_charged() {
    let fixture = Fixture::scripted();
    let money = |text| alti_store::Money::parse(text).expect("an amount");
    let price = alti_store::ClosedPrice {
        name: "closed".to_owned(),
        input: money("1000"),
        cached_input: money("500"),
        output: money("3000"),
        updated_at: 0,
    };
    fixture.store.closed_prices().set(price).expect("set");
    fixture.post("/v1/responses", json!({ "input": "say three" })).await;
    let prompt = "user: say three\nassistant:".len();
    let usage = fixture.until("/v1/usage?group=model", |usage| usage["data"] != json!([])).await;
    let row = &usage["data"][0];
    assert_eq!(
        (&row["model"], &row["requests"], &row["generated_tokens"]),
        (&json!("tiny"), &json!(1), &json!(5))
    );
    let cost = alti_store::Money::from_nanos(prompt as i64 * 1_000_000 + 5 * 3_000_000);
    assert_eq!(row["closed_apis"], json!([{ "name": "closed", "cost": cost.to_string() }]));
    assert_eq!(fixture.call("GET", "/v1/usage?from=yesterday", Value::Null).await.0, 400);
    assert_eq!(fixture.call("GET", "/v1/usage?group=mood", Value::Null).await.0, 400);
}

#[tokio::test]
async fn usage_is_asked_for_by_a_keys_id_or_its_name() {
    let fixture = Fixture::scripted();
    let [first, second, other] =
        ["shop", "shop", "other"].map(|name| key(&fixture, name, name, Quotas::default()).0);
    let row = |key: &str, generated_tokens: u64| UsageRecord {
        key: key.to_owned(),
        model: "tiny".to_owned(),
        generated_tokens,
        ..UsageRecord::default()
    };
    let rows = [row(&first, 1), row(&second, 20), row(&other, 300), row("", 4000)];
    fixture.store.usage().record(&rows).expect("recorded");
    for (named, tokens) in [("shop", 21), (first.as_str(), 1), (second.as_str(), 20), ("other", 300)] {
        let usage = fixture.get(&format!("/v1/usage?group=model&key={named}")).await;
        assert_eq!(usage["data"][0]["generated_tokens"], tokens, "{named}");
    }
    let (status, error) = fixture.call("GET", "/v1/usage?key=shopp", Value::Null).await;
    assert_eq!((status, &error["error"]["param"]), (404, &json!("key")), "{error}");
}
