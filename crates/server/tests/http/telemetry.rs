//! Traces, as a collector gets them.

use crate::support::{App, Script};
use alti_server::{Server, ServerSettings};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus};
use prost::Message;
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SECRET: &str = "only between us";

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> (Collector, String) {
        let collector = Collector::default();
        let kept = collector.clone();
        let take = move |body: Bytes| {
            let kept = kept.clone();
            async move {
                let request = ExportTraceServiceRequest::decode(body).expect("what is sent is a request");
                kept.requests.lock().unwrap().push(request);
                StatusCode::OK
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, address)
    }

    /// Every span, the first to begin first.
    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let mut spans: Vec<Span> = scopes.flat_map(|scope| scope.spans.clone()).collect();
        spans.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
        spans
    }
}

fn plain(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => json!(number),
        Some(Any::BoolValue(yes)) => json!(yes),
        Some(Any::ArrayValue(list)) => list.values.iter().map(|value| plain(Some(value))).collect(),
        _ => Value::Null,
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> Value {
    plain(attributes.iter().find(|it| it.key == name).and_then(|it| it.value.as_ref()))
}

#[track_caller]
fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let span = found.next().unwrap_or_else(|| panic!("no `{name}` in {names:?}"));
    assert!(found.next().is_none(), "`{name}` is there twice: {names:?}");
    span
}

/// A server that listens and exports.
struct Exporting {
    app: App,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Exporting {
    async fn start(collector: &str, settings: ServerSettings) -> Exporting {
        let settings = ServerSettings {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            otlp_endpoint: Some(collector.to_owned()),
            otlp_service_name: "a test".into(),
            ..settings
        };
        let app = App::new(settings);
        let server = Server::bind(app.state.clone()).await.unwrap();
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(server.run(async move { drop(stopped.await) }));
        Exporting { app, address, stop, ended }
    }

    /// Sends a request as it stands on the wire, and reads the whole answer.
    async fn send(&self, head: &str, body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Goes down, which sends what is left; how long that takes.
    async fn stop(self) -> Duration {
        let began = Instant::now();
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(30), self.ended).await.expect("it ends").unwrap();
        began.elapsed()
    }
}

fn chat(model: &str, stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": SECRET }]);
    json!({ "model": model, "messages": messages, "max_tokens": 5, "stream": stream })
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_phases_are_part_of_the_callers_trace() {
    for stream in [false, true] {
        let (collector, address) = Collector::start().await;
        let server = Exporting::start(&address, ServerSettings::default()).await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nx-request-id: req-7\r\ntraceparent: 00-{TRACE}-{CALLER}-01"
        );
        let answer = server.send(&head, &chat("tiny", stream)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.stop().await;
        let spans = collector.spans();
        let request = named(&spans, "POST /v1/chat/completions");
        assert_eq!(hexadecimal(&request.parent_span_id), CALLER);
        assert_eq!(request.kind, SpanKind::Server as i32);
        for (name, value) in [
            ("http.request.method", json!("POST")),
            ("http.route", json!("/v1/chat/completions")),
            ("http.response.status_code", json!(200)),
            ("http.response.header.x-request-id", json!(["req-7"])),
            ("error.type", Value::Null),
        ] {
            assert_eq!(attribute(&request.attributes, name), value, "{name}, stream: {stream}");
        }
        let answer = named(&spans, "chat tiny");
        assert_eq!(answer.parent_span_id, request.span_id);
        let prompt = attribute(&answer.attributes, "gen_ai.usage.input_tokens");
        assert!(prompt.as_i64().unwrap() > 10, "{prompt}");
        for (name, value) in [
            ("gen_ai.operation.name", json!("chat")),
            ("gen_ai.provider.name", json!("altiplano")),
            ("gen_ai.request.model", json!("tiny")),
            ("gen_ai.usage.output_tokens", json!(5)),
            ("gen_ai.response.finish_reasons", json!(["length"])),
        ] {
            assert_eq!(attribute(&answer.attributes, name), value, "{name}");
        }
        let phases = ["queue", "prefill", "decode"].map(|name| named(&spans, name));
        for phase in phases {
            assert_eq!((&phase.parent_span_id, &phase.trace_id), (&answer.span_id, &answer.trace_id));
            assert_eq!(attribute(&phase.attributes, "gen_ai.request.model"), json!("tiny"));
        }
        assert_eq!(attribute(&phases[1].attributes, "gen_ai.usage.input_tokens"), prompt);
        assert_eq!(attribute(&phases[2].attributes, "gen_ai.usage.output_tokens"), json!(5));
        assert!(phases.is_sorted_by(|one, next| one.end_time_unix_nano == next.start_time_unix_nano));
        // A stream's span ends with its last byte.
        assert!(request.end_time_unix_nano >= answer.end_time_unix_nano);
        assert!(spans.iter().all(|span| hexadecimal(&span.trace_id) == TRACE));
        let everything = format!("{:?}", collector.requests.lock().unwrap());
        assert!(everything.contains("a test") && !everything.contains(SECRET), "{everything}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_and_what_is_not_there_is_traced_and_probes_are_not() {
    let (collector, address) = Collector::start().await;
    let server = Exporting::start(&address, ServerSettings::default()).await;
    let server = Exporting { app: server.app.script(Script::Fail(2)), ..server };
    server.send("POST /v1/chat/completions HTTP/1.1", &chat("scripted", false)).await;
    server.send("GET /nothing/of/the/kind HTTP/1.1", &Value::Null).await;
    server.send("GET /health HTTP/1.1", &Value::Null).await;
    server.send(&format!("GET /ready HTTP/1.1\r\ntraceparent: 00-{TRACE}-{CALLER}-01"), &Value::Null).await;
    let embeddings = json!({ "model": "tiny", "input": [SECRET, "two"] });
    server.send("POST /v1/embeddings HTTP/1.1", &embeddings).await;
    // A trace that its owner does not want is none.
    server
        .send(&format!("GET /v1/models HTTP/1.1\r\ntraceparent: 00-{TRACE}-{CALLER}-00"), &Value::Null)
        .await;
    let metrics = server.send("GET /metrics HTTP/1.1", &Value::Null).await;
    assert!(metrics.contains("\nalti_trace_spans_total{outcome=\"dropped\"} 0\n"), "{metrics}");
    server.stop().await;
    let spans = collector.spans();
    let failed = named(&spans, "chat scripted");
    assert_eq!(attribute(&failed.attributes, "error.type"), json!("failed"));
    assert_eq!(failed.status.as_ref().map(|status| status.code), Some(SpanStatus::Error as i32));
    assert!(named(&spans, "POST /v1/chat/completions").parent_span_id.is_empty());
    let missing = named(&spans, "GET");
    assert_eq!(attribute(&missing.attributes, "http.response.status_code"), json!(404));
    assert_eq!(attribute(&missing.attributes, "http.route"), Value::Null);
    let vectors = named(&spans, "embeddings tiny");
    assert_eq!(attribute(&vectors.attributes, "gen_ai.usage.output_tokens"), json!(0));
    assert_eq!(spans.iter().filter(|span| span.name == "prefill").count(), 2, "one for each text");
    assert_eq!(hexadecimal(&named(&spans, "GET /ready").parent_span_id), CALLER);
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert!(!names.contains(&"GET /health") && !names.contains(&"GET /v1/models"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_told_from_one_that_reads_to_the_end() {
    let (collector, address) = Collector::start().await;
    let server = Exporting::start(&address, ServerSettings::default()).await;
    let server = Exporting { app: server.app.script(Script::Endless), ..server };
    let mut body = chat("scripted", true);
    body.as_object_mut().unwrap().remove("max_tokens");
    let body = body.to_string();
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length:";
    connection.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    connection.read_exact(&mut [0; 64]).await.unwrap();
    drop(connection);
    let cancelled = server.app.shelf.scripted.cancelled.clone();
    for _ in 0..500 {
        if cancelled.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
    let spans = collector.spans();
    let request = named(&spans, "POST /v1/chat/completions");
    assert_eq!(attribute(&request.attributes, "error.type"), json!("client_disconnected"));
    let answer = named(&spans, "chat scripted");
    assert_eq!(attribute(&answer.attributes, "gen_ai.response.finish_reasons"), json!(["cancelled"]));
}

/// What has been logged in this process.
fn log() -> Arc<Mutex<Vec<u8>>> {
    #[derive(Clone)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let kept = Log(Arc::default());
        let writer = kept.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        kept.0
    })
    .clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_one_line() {
    let log = log();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let server = Exporting::start(&address, ServerSettings::default()).await;
    for _ in 0..2 {
        let answer = server.send("POST /v1/chat/completions HTTP/1.1", &chat("tiny", false)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Longer than a batch waits.
        tokio::time::sleep(Duration::from_millis(5200)).await;
    }
    let counts = server.app.state.clone();
    server.stop().await;
    let counts = counts.telemetry().counts().unwrap();
    assert_eq!((counts.exported(), counts.failed(), counts.dropped()), (0, 10, 0));
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains(&address) && line.contains("WARN")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("refused"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_takes_for_ever_holds_nothing_up() {
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let settings = ServerSettings { drain_seconds: 1, ..ServerSettings::default() };
    let server = Exporting::start(&address, settings).await;
    for _ in 0..1500 {
        server.app.get("/v1/models/tiny").await.ok();
    }
    // The first batch is on its way; what comes now finds its places taken.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..4000 {
        server.app.get("/v1/models/tiny").await.ok();
    }
    let counts = server.app.state.clone();
    let took = server.stop().await;
    assert!(took < Duration::from_secs(8), "{took:?}");
    let dropped = counts.telemetry().counts().unwrap().dropped();
    assert!((1000..5500).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn without_a_collector_there_is_nothing() {
    let app = App::new(ServerSettings::default());
    assert!(app.state.telemetry().counts().is_none());
    assert!(!app.get("/metrics").await.text().contains("alti_trace_spans_total"));
}
