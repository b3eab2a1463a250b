//! The span of an HTTP request: from its arrival to the last byte of its answer.

use super::{Exporting, Telemetry, time_of_day, under};
use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, Method, Response, Uri};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::Span;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

/// Longest path that a span repeats.
const LONGEST_PATH: usize = 256;

/// The span of an HTTP request that is being answered.
pub(crate) struct RequestSpan {
    span: Span,
    whole: bool,
}

/// What a request says that a span repeats.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    /// The row of the route table, as OpenAPI writes its path; none where there is no such path.
    pub(crate) route: Option<String>,
    pub(crate) began: Instant,
    pub(crate) id: &'a str,
    /// Probes and scrapers come every few seconds: they are traced where their own trace wants it.
    pub(crate) is_probe: bool,
}

impl Telemetry {
    /// The span of a request, which goes on the caller's trace where its `traceparent` names one.
    pub(crate) fn request<'a>(&self, asked: impl FnOnce() -> Asked<'a>) -> Option<RequestSpan> {
        let exporting = self.exporting.as_ref()?;
        RequestSpan::begin(exporting, &asked())
    }
}

impl RequestSpan {
    fn begin(exporting: &Exporting, asked: &Asked<'_>) -> Option<RequestSpan> {
        let caller = TraceContextPropagator::new()
            .extract_with_context(&opentelemetry::Context::new(), &HeaderExtractor(asked.headers));
        let caller = caller.span().span_context().clone();
        if asked.is_probe && !caller.is_valid() {
            return None;
        }
        // What is not a method of HTTP could be anything: the conventions want a fixed set of them.
        let method = match asked.method.as_str() {
            known @ ("GET" | "POST" | "DELETE" | "PUT" | "PATCH" | "HEAD" | "OPTIONS") => known.to_owned(),
            _ => "_OTHER".to_owned(),
        };
        let name = match &asked.route {
            Some(route) => format!("{method} {route}"),
            None => method.clone(),
        };
        let path: String = asked.uri.path().chars().take(LONGEST_PATH).collect();
        let id = Value::Array(Array::String(vec![StringValue::from(asked.id.to_owned())]));
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("url.path", path),
            KeyValue::new("url.scheme", exporting.scheme),
            KeyValue::new("http.response.header.x-request-id", id),
        ];
        attributes.extend(asked.route.clone().map(|route| KeyValue::new("http.route", route)));
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(time_of_day(asked.began))
            .with_attributes(attributes);
        let parent = under(caller.is_valid().then_some(&caller));
        let span = exporting.tracer.build_with_context(builder, &parent);
        Some(RequestSpan { span, whole: false })
    }

    /// What names this span to others.
    pub(crate) fn context(&self) -> SpanContext {
        self.span.span_context().clone()
    }

    /// Says what the answer is, and ends with its last byte.
    pub(crate) fn answered(mut self, method: &Method, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        self.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            self.span.set_attribute(KeyValue::new("error.type", status.as_u16().to_string()));
            self.span.set_status(Status::error(""));
        }
        // Nobody reads the body of an answer that has none.
        if method == Method::HEAD || response.body().is_end_stream() {
            self.whole = true;
            return response;
        }
        response.map(|body| Body::new(Traced { body, span: self }))
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.whole {
            self.span.set_attribute(KeyValue::new("error.type", "client_disconnected"));
        }
        self.span.end();
    }
}

/// A body at whose end, or loss, the request's span ends.
struct Traced {
    body: Body,
    span: RequestSpan,
}

impl HttpBody for Traced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // Who knows the length does not ask again behind the last frame.
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.span.whole = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
