//! How spans leave: a bounded queue, a thread that sends what is in it in batches, and a count of what became of them.

use axum::http::{Request, Response};
use bytes::Bytes;
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Spans that wait to be sent, or are being sent; more are dropped. About a kilobyte each.
const MOST_WAITING: usize = 4096;

/// How long a collector may take for a batch, attempts at it together.
const PATIENCE: Duration = Duration::from_secs(10);

/// No collector has more to say about a batch.
const LONGEST_ANSWER_BYTES: u64 = 64 << 10;

/// What became of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    waiting: AtomicUsize,
}

impl SpanCounts {
    /// Spans that the collector took.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that were sent to no avail.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Spans for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What sends spans to the collector at `address`, and counts.
pub(super) fn processor(address: String, counts: Arc<SpanCounts>) -> Result<impl SpanProcessor, String> {
    let reason = Arc::<Mutex<String>>::default();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new(reason.clone()))
        .with_endpoint(address.clone())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| format!("traces cannot be exported: {error}"))?;
    let counted =
        Counted { exporter, address, reason, counts: counts.clone(), failing: AtomicBool::new(false) };
    let queue = BatchConfigBuilder::default().with_max_queue_size(MOST_WAITING).build();
    let sender = BatchSpanProcessor::builder(counted).with_batch_config(queue).build();
    Ok(Bounded { sender, counts })
}

/// Lets no more spans wait than [`MOST_WAITING`], and counts those that it drops: the processor behind it, whose queue has
/// as many places, would not say.
#[derive(Debug)]
struct Bounded {
    sender: BatchSpanProcessor,
    counts: Arc<SpanCounts>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.sender.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let room = |waiting: usize| (waiting < MOST_WAITING).then_some(waiting + 1);
        match self.counts.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => self.sender.on_end(span),
            Err(_) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.sender.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.sender.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.sender.set_resource(resource);
    }
}

/// Counts what is sent, and says once when it cannot be.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    address: String,
    /// Why the last attempt failed: the exporter itself says no more than that it did.
    reason: Arc<Mutex<String>>,
    counts: Arc<SpanCounts>,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.exporter.export(batch).await;
        let count = if outcome.is_ok() { &self.counts.exported } else { &self.counts.failed };
        count.fetch_add(spans as u64, Ordering::Relaxed);
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        // One line when it begins and one when it is over, however many requests there are meanwhile.
        if self.failing.swap(outcome.is_err(), Ordering::Relaxed) == outcome.is_err() {
            return outcome;
        }
        match outcome {
            Ok(()) => tracing::info!(collector = self.address, "spans are taken again"),
            Err(_) => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tracing::warn!(
                    collector = self.address,
                    reason,
                    "spans are not taken, and dropped until they are; /metrics counts them"
                );
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The HTTP client of the thread that sends. It may block that thread, which has nothing else to do.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    reason: Arc<Mutex<String>>,
}

impl Client {
    fn new(reason: Arc<Mutex<String>>) -> Client {
        let configuration = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            // What the owner has not said is not done: no proxy out of the environment.
            .proxy(None)
            .user_agent(concat!("alti/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: configuration.into(), reason }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let response = self.agent.run(request.map(Vec::from))?;
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(LONGEST_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outcome = self.send(request);
        let reason = match &outcome {
            Ok(response) if response.status().is_success() => return outcome.map_err(HttpError::from),
            Ok(response) => format!("it answers {}", response.status()),
            Err(ureq::Error::Protocol(error)) => {
                format!("it does not speak HTTP ({error}); port 4317 is for gRPC, 4318 for HTTP")
            }
            Err(error) => error.to_string(),
        };
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        outcome.map_err(HttpError::from)
    }
}
