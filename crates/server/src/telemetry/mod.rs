//! Traces of requests, exported by OpenTelemetry's protocol where the owner names a collector (`otlp_endpoint`). Where
//! none is named there is no thread, no queue and no span: every function here is one look at an `Option`.
//!
//! A span is made from what is measured anyway, when it is over, and goes into a bounded queue; a thread of its own sends
//! what is in there. Neither an answer nor the threads that compute ever wait for a collector. Spans say how long things
//! took and how many tokens they were, never what was said.

mod answer;
mod export;
mod request;

pub(crate) use answer::{AnswerSpan, Operation};
pub use export::SpanCounts;
pub(crate) use request::{Asked, RequestSpan};

use crate::settings::ServerSettings;
use opentelemetry::trace::{SpanContext, TracerProvider};
use opentelemetry::{Context, KeyValue, trace::TraceContextExt};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Where collectors take traces that speak the protocol over HTTP.
const TRACES_PATH: &str = "/v1/traces";

/// The traces of a server; nothing, where the owner wants none. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    exporting: Option<Arc<Exporting>>,
}

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    counts: Arc<SpanCounts>,
    /// What requests are made in: `http` or `https`.
    scheme: &'static str,
}

impl Telemetry {
    /// Begins to export to the collector of the settings, if they name one.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn start(settings: &ServerSettings) -> Result<Telemetry, String> {
        let Some(address) = traces_address(settings)? else { return Ok(Telemetry::default()) };
        let counts = Arc::<SpanCounts>::default();
        let processor = export::processor(address, counts.clone())?;
        let resource = Resource::builder()
            .with_service_name(settings.otlp_service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let mut provider =
            SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource);
        // Whose trace it is has decided; else so many of all. All is the builder's default, and
        // what OTEL_TRACES_SAMPLER changes.
        if settings.otlp_sample < 1.0 {
            let some = Sampler::TraceIdRatioBased(settings.otlp_sample);
            provider = provider.with_sampler(Sampler::ParentBased(Box::new(some)));
        }
        let provider = provider.build();
        let tracer = provider.tracer("alti");
        let scheme = if settings.tls_certificate.is_some() { "https" } else { "http" };
        Ok(Telemetry { exporting: Some(Arc::new(Exporting { provider, tracer, counts, scheme })) })
    }

    /// What became of spans, where there are any.
    pub fn counts(&self) -> Option<&SpanCounts> {
        self.exporting.as_ref().map(|exporting| exporting.counts.as_ref())
    }

    /// Sends what is in the queue, until `deadline` at most, and nothing after that.
    pub async fn shutdown(&self, deadline: Instant) {
        let Some(exporting) = self.exporting.clone() else { return };
        let patience = deadline.saturating_duration_since(Instant::now());
        let sending = tokio::task::spawn_blocking(move || exporting.provider.shutdown_with_timeout(patience));
        if !matches!(sending.await, Ok(Ok(()))) {
            tracing::warn!("the last spans were not sent: the collector did not take them in time");
        }
    }
}

/// The whole address that traces are sent to, if any are.
///
/// # Errors
/// The setting that makes no sense, and why.
pub(crate) fn traces_address(settings: &ServerSettings) -> Result<Option<String>, String> {
    if !(0.0..=1.0).contains(&settings.otlp_sample) {
        return Err(format!("otlp_sample is {}: it must be between 0 and 1", settings.otlp_sample));
    }
    let Some(endpoint) = settings.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(None);
    };
    let wrong = || {
        format!(
            "otlp_endpoint is `{endpoint}`: it must be a collector's address like http://127.0.0.1:4318, without \
             credentials (OTEL_EXPORTER_OTLP_HEADERS has those)"
        )
    };
    let address: axum::http::Uri = endpoint.parse().map_err(|_| wrong())?;
    let scheme = address.scheme_str().unwrap_or_default();
    let is_plain = |authority: &axum::http::uri::Authority| !authority.as_str().contains('@');
    if !["http", "https"].contains(&scheme)
        || !address.authority().is_some_and(is_plain)
        || address.query().is_some()
    {
        return Err(wrong());
    }
    let endpoint = endpoint.trim_end_matches('/');
    Ok(Some(match endpoint.ends_with(TRACES_PATH) {
        true => endpoint.to_owned(),
        false => format!("{endpoint}{TRACES_PATH}"),
    }))
}

/// A context in which spans have this parent.
fn under(parent: Option<&SpanContext>) -> Context {
    match parent {
        Some(parent) => Context::new().with_remote_span_context(parent.clone()),
        None => Context::new(),
    }
}

/// The time of day that this moment was.
fn time_of_day(moment: Instant) -> SystemTime {
    SystemTime::now().checked_sub(moment.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A span's time of so many seconds.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(endpoint: &str) -> Result<Option<String>, String> {
        let otlp_endpoint = Some(endpoint.to_owned());
        traces_address(&ServerSettings { otlp_endpoint, ..ServerSettings::default() })
    }

    #[test]
    fn a_collector_has_an_address() {
        let whole = Ok(Some("http://127.0.0.1:4318/v1/traces".to_owned()));
        assert_eq!(address("http://127.0.0.1:4318"), whole);
        assert_eq!(address("http://127.0.0.1:4318/"), whole);
        assert_eq!(address("http://127.0.0.1:4318/v1/traces"), whole);
        let behind = Ok(Some("https://collector.example/otlp/v1/traces".to_owned()));
        assert_eq!(address("https://collector.example/otlp"), behind);
        assert_eq!(address(""), Ok(None));
        for wrong in
            ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://", "http://a:b@c", "http://a/?b=c", " "]
        {
            assert!(address(wrong).is_err_and(|problem| problem.contains("otlp_endpoint")), "{wrong}");
        }
        let none = ServerSettings { otlp_sample: f64::NAN, ..ServerSettings::default() };
        assert!(traces_address(&none).is_err_and(|problem| problem.contains("otlp_sample")));
    }
}
