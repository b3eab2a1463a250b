//! How the server behaves whatever the API: keys, metering, hang-ups, limits, and going down.

use crate::support::{App, Script, app, user};
use alti_server::{
    Accounts, ApiError, ApiResult, ErrorKind, Held, Key, ModelPrices, Peer, Server, ServerSettings, UsageRow,
};
use alti_store::Money;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

/// Two keys: `secret` may have text written, one request at a time; `empty` has no quota left.
#[derive(Default)]
struct Book {
    rows: Mutex<Vec<UsageRow>>,
    /// How long it takes to keep rows.
    slowness: Duration,
}

impl Accounts for Book {
    fn has_keys(&self) -> ApiResult<bool> {
        Ok(true)
    }

    fn find_key(&self, secret: &str) -> ApiResult<Option<Key>> {
        let known = ["secret", "empty"].contains(&secret);
        let scopes = vec!["inference".to_owned()];
        Ok(known.then(|| Key {
            id: secret.to_owned(),
            tenant: secret.to_owned(),
            scopes,
            max_concurrent: Some(1),
            has_quotas: true,
        }))
    }

    fn admit(&self, key: &Key, _: &Held) -> ApiResult<()> {
        match key.id.as_str() {
            "empty" => Err(ApiError::new(ErrorKind::Quota, "used up").retry_after(60)),
            _ => Ok(()),
        }
    }

    fn record(&self, usage: &[&UsageRow]) -> ApiResult<()> {
        std::thread::sleep(self.slowness);
        self.rows.lock().unwrap().extend(usage.iter().copied().cloned());
        Ok(())
    }
}

impl Book {
    /// The rows, when there are as many as are awaited.
    async fn rows(&self, count: usize) -> Vec<UsageRow> {
        for _ in 0..500 {
            if self.rows.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.rows.lock().unwrap().clone()
    }
}

fn chat(header: (&str, &str)) -> Request<Body> {
    let body = json!({ "model": "scripted", "messages": user("Hi"), "max_tokens": 50 });
    let request = Request::post("/v1/chat/completions").header(header.0, header.1);
    request.body(Body::from(body.to_string())).unwrap()
}

#[tokio::test]
async fn keys_are_asked_for_and_limited() {
    let app = App::with(ServerSettings::default(), Some(Arc::new(Book::default())), Duration::ZERO);
    let status = async |header| app.send(chat(header)).await.status;
    assert_eq!(status(("authorization", "Bearer secret")).await, StatusCode::OK);
    assert_eq!(status(("x-api-key", "secret")).await, StatusCode::OK);
    assert_eq!(status(("authorization", "bearer  secret ")).await, StatusCode::OK);
    let unknown = app.send(chat(("authorization", "Bearer guess"))).await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["code"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid_api_key"))
    );
    let empty = app.send(chat(("authorization", "Bearer empty"))).await;
    assert_eq!(
        (empty.status, &empty.json()["error"]["type"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("insufficient_quota"))
    );
    let metrics = Request::get("/metrics").header("x-api-key", "secret").body(Body::empty()).unwrap();
    assert_eq!(app.send(metrics).await.status, StatusCode::FORBIDDEN);
    // Others' machines need one; nobody needs one for /health.
    let mut remote = chat(("x-other", ""));
    let peer: SocketAddr = "192.0.2.1:9".parse().unwrap();
    remote.extensions_mut().insert(Peer(peer));
    assert_eq!(app.router.clone().oneshot(remote).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_key_has_one_place_until_its_stream_ends() {
    let app = App::with(ServerSettings::default(), Some(Arc::new(Book::default())), Duration::ZERO);
    let app = app.script(Script::Endless);
    let body = json!({ "model": "scripted", "messages": user("Hi"), "stream": true });
    let request = Request::post("/v1/chat/completions").header("x-api-key", "secret");
    let stream =
        app.router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    assert_eq!(app.send(chat(("x-api-key", "secret"))).await.status, StatusCode::TOO_MANY_REQUESTS);
    drop(stream);
    let app = app.says("x");
    for _ in 0..200 {
        if app.send(chat(("x-api-key", "secret"))).await.status == StatusCode::OK {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place was not given back");
}

#[tokio::test]
async fn what_a_request_takes_is_kept() {
    let book = Arc::new(Book::default());
    let settings = ServerSettings { price_per_hour: 7.2, price_cores: 2.0, ..ServerSettings::default() };
    let app = App::with(settings, Some(book.clone()), Duration::ZERO);
    let mut request = chat(("x-api-key", "secret"));
    request.headers_mut().insert("x-request-id", "mine-1".parse().unwrap());
    let answer = app.send(request).await;
    assert_eq!(answer.headers["x-request-id"], "mine-1");
    let rows = book.rows(1).await;
    let row = &rows[0];
    assert_eq!(
        (row.request_id.as_str(), row.key.as_deref(), row.model.as_str()),
        ("mine-1", Some("secret"), "scripted")
    );
    assert_eq!((row.route, row.outcome, row.generated_tokens), ("/v1/chat/completions", "stop", 6));
    assert_eq!(answer.json()["usage"]["prompt_tokens"], row.prompt_tokens);
    // 2 seconds of a core, of a machine with two that costs 7.2 an hour.
    assert_eq!(row.cost, Money::from_nanos(2_000_000));
    let metrics = app.state.metrics().prometheus(1.0, &app.state.models().loaded());
    assert!(metrics.contains("alti_generated_tokens_total{model=\"scripted\"} 6\n"));
}

#[tokio::test]
async fn no_answer_ends_before_what_it_took_is_kept() {
    let chat = json!({ "model": "scripted", "messages": user("Hi"), "max_tokens": 50 });
    let (whole, streamed) = (json!({ "stream": false }), json!({ "stream": true }));
    for (path, ends) in [
        ("/v1/chat/completions", "[DONE]"),
        ("/v1/completions", "[DONE]"),
        ("/v1/messages", "message_stop"),
        ("/api/chat", "\"done\":true"),
        ("/completion", "\"stop\":true"),
        ("/v1/embeddings", ""),
    ] {
        for settings in [&whole, &streamed] {
            let book = Arc::new(Book { slowness: Duration::from_millis(150), ..Book::default() });
            let app = App::with(ServerSettings::default(), Some(book.clone()), Duration::ZERO);
            let mut body = chat.clone();
            if path == "/v1/embeddings" {
                body["model"] = json!("tiny");
            }
            (body["prompt"], body["input"]) = (json!("Hi"), json!("Hi"));
            body["stream"] = settings["stream"].clone();
            let request =
                Request::post(path).header("x-api-key", "secret").body(Body::from(body.to_string()));
            let mut response = app.router.clone().oneshot(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            let mut text = String::new();
            while let Some(frame) = response.body_mut().frame().await {
                let frame = frame.unwrap().into_data().unwrap_or_default();
                text.push_str(std::str::from_utf8(&frame).unwrap());
                let has_ended = ends.is_empty() || settings["stream"] == false || text.contains(ends);
                assert!(!has_ended || book.rows.lock().unwrap().len() == 1, "{path}: {text}");
            }
            assert_eq!(book.rows.lock().unwrap().len(), 1, "{path}: {text}");
        }
    }
}

#[tokio::test]
async fn power_is_paid_for_and_a_models_own_prices_go_first() {
    // 2 seconds of a core, of a machine with two that takes 500 watts: 0.5 kWh an hour at 14.4 each.
    let power = || ServerSettings {
        price_cores: 2.0,
        price_per_kwh: 14.4,
        machine_watts: 500.0,
        ..Default::default()
    };
    let prices =
        |model: &str| ModelPrices { model: model.into(), prompt: 2.0, cached: Some(0.5), generated: 10.0 };
    let cost = async |settings: ServerSettings| {
        let book = Arc::new(Book::default());
        let app = App::with(settings, Some(book.clone()), Duration::ZERO);
        app.send(chat(("x-api-key", "secret"))).await.ok();
        book.rows(1).await.remove(0)
    };
    assert_eq!(cost(power()).await.cost, Money::from_nanos(2_000_000));
    let other = ServerSettings { model_prices: vec![prices("other")], ..power() };
    assert_eq!(cost(other).await.cost, Money::from_nanos(2_000_000));
    let row = cost(ServerSettings { model_prices: vec![prices("scripted")], ..power() }).await;
    let expected = row.prompt_tokens * 2000 + row.generated_tokens * 10_000;
    assert_eq!(row.cost, Money::from_nanos(expected as i64));
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_job_and_pays_for_what_it_got() {
    for streams in [true, false] {
        let book = Arc::new(Book::default());
        let app =
            App::with(ServerSettings::default(), Some(book.clone()), Duration::ZERO).script(Script::Endless);
        let body = json!({ "model": "scripted", "messages": user("Hi"), "stream": streams });
        let request = Request::post("/v1/chat/completions").header("x-api-key", "secret");
        let asked = app.router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap());
        if streams {
            let mut response = asked.await.unwrap();
            // The first piece says only who speaks.
            for _ in 0..2 {
                response.body_mut().frame().await.unwrap().unwrap();
            }
            drop(response);
        } else {
            assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
        }
        let rows = book.rows(1).await;
        assert!(app.shelf.scripted.cancelled.load(Ordering::Relaxed));
        assert_eq!((rows[0].outcome, rows[0].generated_tokens > 0), ("cancelled", true), "{rows:?}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_pays_for_the_vectors_that_were_begun() {
    let book = Arc::new(Book::default());
    let app =
        App::with(ServerSettings::default(), Some(book.clone()), Duration::ZERO).script(Script::Endless);
    let body = json!({ "model": "scripted", "input": ["four", "five!"] });
    let request = Request::post("/v1/embeddings").header("x-api-key", "secret");
    let asked = app.router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
    let rows = book.rows(1).await;
    assert_eq!((rows[0].outcome, rows[0].prompt_tokens, rows[0].cpu_seconds), ("cancelled", 9, 4.0));
}

#[tokio::test]
async fn a_request_that_is_out_of_time_before_it_began_fails_and_takes_nothing() {
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/api/chat", "/completion"] {
        let book = Arc::new(Book::default());
        let settings = ServerSettings { request_timeout_seconds: Some(0), ..ServerSettings::default() };
        let app = App::with(settings, Some(book.clone()), Duration::ZERO);
        let body = json!({
            "model": "tiny",
            "messages": user("Hi"),
            "prompt": "Hi",
            "input": "Hi",
            "max_tokens": 5,
            "stream": false,
        });
        let request = Request::post(path).header("x-api-key", "secret");
        let answer = app.send(request.body(Body::from(body.to_string())).unwrap()).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {}", answer.text());
        assert!(answer.text().contains("timed_out"), "{path}: {}", answer.text());
        let row = book.rows(1).await.remove(0);
        assert_eq!((row.outcome, row.prompt_tokens, row.cpu_seconds), ("failed", 0, 0.0), "{path}");
        assert!(row.queue_seconds > 0.0, "{path}: {row:?}");
    }
}

#[tokio::test]
async fn a_vector_takes_time_from_its_first_step_on() {
    let book = Arc::new(Book::default());
    let app = App::with(ServerSettings::default(), Some(book.clone()), Duration::ZERO);
    let body = json!({ "model": "tiny", "input": "Hi" });
    let request = Request::post("/v1/embeddings").header("x-api-key", "secret");
    app.send(request.body(Body::from(body.to_string())).unwrap()).await.ok();
    let row = book.rows(1).await.remove(0);
    assert!(row.prefill_seconds > 0.0 && row.cpu_seconds > 0.0, "{row:?}");
}

#[tokio::test]
async fn numbers_are_what_prometheus_and_kubernetes_read() {
    let app = app();
    app.post("/v1/chat/completions", json!({ "model": "scripted", "messages": user("Hi") })).await.ok();
    app.get("/v1/models/none").await;
    let answer = app.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let text = answer.text();
    for line in [
        "vllm:num_requests_waiting{model_name=\"scripted\"} 3",
        "vllm:kv_cache_usage_perc{model_name=\"scripted\"} 0.25",
        "alti_http_requests_total{method=\"GET\",path=\"/v1/models/{*model}\",status=\"404\"} 1",
        "alti_answers_total{model=\"scripted\",outcome=\"stop\"} 1",
        "alti_time_to_first_token_seconds_count{model=\"scripted\"} 1",
        "llamacpp:tokens_predicted_total 6",
        "llamacpp:requests_deferred 3",
        "llamacpp:kv_cache_usage_ratio 0.25",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && !name.is_empty(), "{line}");
        let base = name.split('{').next().unwrap();
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| base.strip_suffix(end)).unwrap_or(base);
        assert!(text.contains(&format!("# TYPE {base} ")), "{line} has no type");
    }
}

#[tokio::test]
async fn numbers_of_two_models_are_told_apart_and_added_up() {
    let app = app();
    for model in ["scripted", "owner/other:Q4_0"] {
        app.post("/v1/chat/completions", json!({ "model": model, "messages": user("Hi") })).await.ok();
    }
    let text = app.get("/metrics").await.text();
    let mut series: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect();
    let count = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), count, "a series is there twice:\n{text}");
    for line in ["llamacpp:tokens_predicted_total 12", "llamacpp:requests_deferred 6"] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn sums_that_are_counters_do_not_fall_when_a_model_goes() {
    let app = app();
    app.post("/v1/completions", json!({ "model": "tiny", "prompt": "x", "max_tokens": 2 })).await.ok();
    let sums = async || {
        let text = app.get("/metrics").await.text();
        let lines = text.lines().filter(|line| line.starts_with("llamacpp:") && line.contains("_total "));
        let pairs = lines.filter_map(|line| line.split_once(' '));
        pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect::<Vec<(String, f64)>>()
    };
    let before = sums().await;
    assert!(before.iter().any(|(_, value)| *value > 0.0), "{before:?}");
    app.state.models().unload("tiny").await.unwrap();
    while !app.state.models().loaded().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = sums().await;
    assert_eq!(before.len(), after.len());
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        assert!(after >= before, "{name} fell from {before} to {after}");
    }
}

#[tokio::test]
async fn numbers_are_shown_to_everybody_where_the_owner_says_so() {
    let ask = async |settings: ServerSettings, path: &str| {
        let app = App::with(settings, Some(Arc::new(Book::default())), Duration::ZERO);
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        let peer: SocketAddr = "192.0.2.1:9".parse().unwrap();
        request.extensions_mut().insert(Peer(peer));
        app.router.clone().oneshot(request).await.unwrap().status()
    };
    let open = || ServerSettings { open_metrics: true, require_key: true, ..ServerSettings::default() };
    assert_eq!(ask(ServerSettings::default(), "/metrics").await, StatusCode::UNAUTHORIZED);
    for path in ["/metrics", "/health", "/ready"] {
        assert_eq!(ask(open(), path).await, StatusCode::OK, "{path}");
    }
    for path in ["/v1/usage", "/slots", "/v1/models"] {
        assert_eq!(ask(open(), path).await, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn it_is_alive_ready_and_described() {
    let app =
        App::new(ServerSettings { pinned_models: vec!["scripted".into()], ..ServerSettings::default() });
    assert_eq!(app.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    app.state.models().load_pinned().await.unwrap();
    assert_eq!(app.get("/ready").await.ok()["status"], "ready");
    app.state.start_draining();
    assert_eq!(app.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.get("/health").await.ok()["status"], "ok");
    let description = app.get("/openapi.json").await.ok();
    assert!(description["paths"]["/v1/chat/completions"]["post"]["requestBody"].is_object());
    for page in ["/", "/docs"] {
        let page = app.get(page).await;
        assert!(
            page.text().starts_with("<!doctype html>")
                && page.headers.contains_key("content-security-policy")
        );
    }
    let head = Request::head("/").body(Body::empty()).unwrap();
    assert_eq!(app.send(head).await.status, StatusCode::OK);
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_told_in_the_familys_words() {
    let app = app();
    assert_eq!(app.get("/v1/nothing").await.json()["error"]["type"], "invalid_request_error");
    assert_eq!(app.get("/v1/messages/nothing").await.json()["type"], "error");
    assert!(app.get("/api/nothing").await.json()["error"].is_string());
    let wrong = app.get("/v1/messages").await;
    assert_eq!((wrong.status, &wrong.json()["type"]), (StatusCode::METHOD_NOT_ALLOWED, &json!("error")));
    assert!(wrong.text().contains("POST"));
    assert!(wrong.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out() {
    let origin = |app: &App, method: &str| {
        let request =
            Request::builder().method(method).uri("/v1/models").header("origin", "https://app.example");
        let request = request.body(Body::empty()).unwrap();
        let router = app.router.clone();
        async move {
            let mut request = request;
            request.extensions_mut().insert(Peer("127.0.0.1:9".parse().unwrap()));
            router.oneshot(request).await.unwrap()
        }
    };
    let closed = app();
    let preflight = origin(&closed, "OPTIONS").await;
    assert!(!preflight.headers().contains_key("access-control-allow-origin"));
    assert_eq!(origin(&closed, "GET").await.status(), StatusCode::FORBIDDEN);
    let settings =
        ServerSettings { allowed_origins: vec!["https://app.example".into()], ..ServerSettings::default() };
    let open = App::new(settings);
    assert_eq!(
        origin(&open, "OPTIONS").await.headers()["access-control-allow-origin"],
        "https://app.example"
    );
    let answer = origin(&open, "GET").await;
    assert_eq!(
        (answer.status(), &answer.headers()["access-control-allow-origin"]),
        (StatusCode::OK, &"https://app.example".parse().unwrap())
    );
}

#[tokio::test]
async fn bodies_have_a_longest_length() {
    let app = App::new(ServerSettings { max_body_bytes: 100, ..ServerSettings::default() });
    let long = app.post_bytes("/v1/chat/completions", vec![b' '; 101]).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    let pieces = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b' '; 10])));
    let request = Request::post("/v1/messages").body(Body::from_stream(pieces)).unwrap();
    let answer = app.send(request).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["type"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("request_too_large"))
    );
}

struct Listening {
    address: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
    app: App,
}

async fn listen(settings: ServerSettings, script: Script) -> Listening {
    let settings = ServerSettings { listen: vec!["127.0.0.1:0".parse().unwrap()], ..settings };
    let app = App::new(settings).script(script);
    let server = Server::bind(app.state.clone()).await.unwrap();
    let address = server.addresses()[0];
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ended = tokio::spawn(server.run(async move { drop(stopped.await) }));
    Listening { address, stop, ended, app }
}

fn raw_chat(stream: bool) -> String {
    let body = json!({ "model": "scripted", "messages": user("Hi"), "stream": stream }).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn going_down_finishes_what_is_in_the_works() {
    let server = listen(ServerSettings::default(), Script::Say("x".repeat(3000))).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(raw_chat(true).as_bytes()).await.unwrap();
    let mut first = [0; 16];
    connection.read_exact(&mut first).await.unwrap();
    // A connection that waits for nothing does not hold it up.
    let _idle = TcpStream::connect(server.address).await.unwrap();
    server.stop.send(()).unwrap();
    let mut rest = String::new();
    connection.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("data: [DONE]"), "{}", &rest[rest.len().saturating_sub(200)..]);
    tokio::time::timeout(Duration::from_secs(20), server.ended).await.expect("it ends").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn going_down_has_one_deadline_for_all() {
    let settings = ServerSettings { drain_seconds: 1, ..ServerSettings::default() };
    let server = listen(settings, Script::Endless).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(raw_chat(true).as_bytes()).await.unwrap();
    connection.read_exact(&mut [0; 16]).await.unwrap();
    server.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), server.ended).await.expect("it ends").unwrap();
    // The connection had all of the time there is: the model gets nothing on top.
    let patience = *server.app.shelf.scripted.patience.lock().unwrap();
    assert_eq!(patience, Some(Duration::ZERO));
}

#[tokio::test]
async fn a_connection_that_breaks_ends_its_job() {
    for stream in [true, false] {
        let server = listen(ServerSettings::default(), Script::Endless).await;
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        connection.write_all(raw_chat(stream).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(connection);
        let cancelled = &server.app.shelf.scripted.cancelled;
        for _ in 0..200 {
            if cancelled.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(cancelled.load(Ordering::Relaxed), "stream: {stream}");
        drop(server.stop);
    }
}

#[tokio::test]
async fn slow_clients_are_let_go() {
    let settings =
        ServerSettings { header_timeout_seconds: 1, body_timeout_seconds: 1, ..ServerSettings::default() };
    let server = listen(settings, Script::Say("x".into())).await;
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"GET /health HT").await.unwrap();
    let mut body = TcpStream::connect(server.address).await.unwrap();
    body.write_all(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{")
        .await
        .unwrap();
    let mut answer = [0; 32];
    tokio::time::timeout(Duration::from_secs(10), body.read_exact(&mut answer))
        .await
        .expect("an answer")
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), half.read_to_end(&mut rest))
        .await
        .expect("it is closed")
        .unwrap();
    // Headers without an end are not collected for ever.
    let mut long = TcpStream::connect(server.address).await.unwrap();
    let header = format!("x-long: {}\r\n", "y".repeat(1000));
    long.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    for _ in 0..200 {
        if long.write_all(header.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    // A reset is as good as an answer.
    let _reset = tokio::time::timeout(Duration::from_secs(10), long.read_to_end(&mut rest))
        .await
        .expect("it is closed");
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn tls_is_spoken_where_a_certificate_is_set() {
    let fixture = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let settings = ServerSettings {
        tls_certificate: Some(fixture("certificate.pem")),
        tls_private_key: Some(fixture("key.pem")),
        ..ServerSettings::default()
    };
    let server = listen(settings.clone(), Script::Say("x".into())).await;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(fixture("certificate.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"status\":\"ok\"}"));
    let wrong = ServerSettings { tls_private_key: Some(fixture("none.pem")), ..settings };
    let error = Server::bind(App::new(wrong).state).await.unwrap_err().to_string();
    assert!(error.contains("none.pem"), "{error}");
}

#[tokio::test]
async fn answers_of_one_prompt_find_its_beginning_in_the_cache() {
    let app = app();
    let request =
        json!({ "model": "tiny", "messages": user(&"A long beginning. ".repeat(10)), "max_tokens": 2 });
    app.post("/v1/chat/completions", request.clone()).await.ok();
    let again: Value = app.post("/v1/chat/completions", request).await.ok();
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 100);
}
