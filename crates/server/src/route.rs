//! The route table's rows. One row says everything about a route: where it is, whose errors it speaks, what a key needs
//! for it, what it takes and gives, and what answers it. The router, `/openapi.json`, the documentation and the tests
//! that try every route are all made of these rows.

use crate::auth::{Principal, UsageRow};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::operations::queries;
use crate::running::Hold;
use crate::settings::ServerSettings;
use crate::state::AppState;
use crate::wire::{Object, read_json};
use alti_engine::serving::Priority;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use opentelemetry::trace::SpanContext;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Whose API a route belongs to: its errors look like that API's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Ollama.
    Ollama,
    /// llama.cpp's server.
    LlamaCpp,
    /// Health, metrics and descriptions of the server itself.
    Operations,
}

impl Family {
    /// Its name in documentation.
    pub fn name(self) -> &'static str {
        match self {
            Family::OpenAi => "OpenAI",
            Family::Anthropic => "Anthropic",
            Family::Ollama => "Ollama",
            Family::LlamaCpp => "llama.cpp",
            Family::Operations => "operations",
        }
    }

    /// The family that a path without a route would belong to.
    pub fn of_path(path: &str) -> Family {
        if path.starts_with("/v1/messages") {
            Family::Anthropic
        } else if path.starts_with("/api/") {
            Family::Ollama
        } else {
            Family::OpenAi
        }
    }

    /// The family whose words a request is answered in: Anthropic's clients ask for models where OpenAI's do, too, and
    /// say who they are.
    pub fn spoken(self, path: &str, headers: &HeaderMap) -> Family {
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let is_shared = path == "/models" || path.starts_with("/models/");
        if is_shared && is_anthropics(headers) { Family::Anthropic } else { self }
    }
}

/// Whether Anthropic's client asks.
pub(crate) fn is_anthropics(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// HTTP's methods, as far as routes use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET.
    Get,
    /// POST.
    Post,
    /// DELETE.
    Delete,
}

impl Verb {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        }
    }
}

/// What a key must be allowed for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: anybody may ask.
    Open,
    /// To see which models there are.
    Models,
    /// To have text generated, tokenized and embedded.
    Inference,
    /// To store and read files, conversations and other data of its own.
    Data,
    /// To see how the server is doing.
    Metrics,
    /// To pull, create and remove models.
    Manage,
}

impl Scope {
    /// Every scope a key can have, with its name.
    pub const TABLE: [(Scope, &'static str); 5] = [
        (Scope::Models, "models"),
        (Scope::Inference, "inference"),
        (Scope::Data, "data"),
        (Scope::Metrics, "metrics"),
        (Scope::Manage, "manage"),
    ];

    /// Its name; `open` for routes that need none.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(scope, _)| *scope == self).map_or("open", |(_, name)| name)
    }
}

/// What answers a route.
pub type Handler = fn(Call) -> BoxFuture<'static, ApiResult<Response<Body>>>;

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Method.
    pub verb: Verb,
    /// Path, with `{name}` for one segment and `{*name}` for the rest.
    pub path: &'static str,
    /// Whose API it belongs to.
    pub family: Family,
    /// What a key must be allowed.
    pub scope: Scope,
    /// What it does, in a line.
    pub summary: &'static str,
    /// The JSON it takes.
    pub request: Option<&'static Object>,
    /// Whether it takes a list of such objects.
    pub takes_list: bool,
    /// The form it takes instead (`multipart/form-data`), as a JSON schema.
    pub form: Option<fn() -> Value>,
    /// The JSON it gives.
    pub response: Option<&'static Object>,
    /// How it streams, if it does.
    pub streams: Option<Stream>,
    /// Whether the owner has opened it to everybody, for routes that a setting can open.
    pub opened: Option<fn(&ServerSettings) -> bool>,
    /// What answers it.
    pub handler: Handler,
}

/// The ways of streaming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Server-sent events.
    Events,
    /// A JSON object a line.
    Lines,
}

impl Stream {
    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Stream::Events => "text/event-stream",
            Stream::Lines => "application/x-ndjson",
        }
    }
}

impl Route {
    /// A route that is asked with GET.
    pub const fn get(
        path: &'static str,
        family: Family,
        scope: Scope,
        summary: &'static str,
        handler: Handler,
    ) -> Route {
        Self::new(Verb::Get, path, family, scope, summary, handler)
    }

    /// A route that is asked with POST.
    pub const fn post(
        path: &'static str,
        family: Family,
        scope: Scope,
        summary: &'static str,
        handler: Handler,
    ) -> Route {
        Self::new(Verb::Post, path, family, scope, summary, handler)
    }

    /// A route that is asked with DELETE.
    pub const fn delete(
        path: &'static str,
        family: Family,
        scope: Scope,
        summary: &'static str,
        handler: Handler,
    ) -> Route {
        Self::new(Verb::Delete, path, family, scope, summary, handler)
    }

    const fn new(
        verb: Verb,
        path: &'static str,
        family: Family,
        scope: Scope,
        summary: &'static str,
        handler: Handler,
    ) -> Route {
        Route {
            verb,
            path,
            family,
            scope,
            summary,
            request: None,
            takes_list: false,
            form: None,
            response: None,
            streams: None,
            opened: None,
            handler,
        }
    }

    /// With the JSON it takes.
    pub const fn takes(mut self, object: &'static Object) -> Route {
        self.request = Some(object);
        self
    }

    /// With the JSON that it takes a list of.
    pub const fn takes_list_of(mut self, object: &'static Object) -> Route {
        self.request = Some(object);
        self.takes_list = true;
        self
    }

    /// With the form it takes.
    pub const fn takes_form(mut self, schema: fn() -> Value) -> Route {
        self.form = Some(schema);
        self
    }

    /// With the JSON it gives.
    pub const fn gives(mut self, object: &'static Object) -> Route {
        self.response = Some(object);
        self
    }

    /// With the way it streams.
    pub const fn streaming(mut self, stream: Stream) -> Route {
        self.streams = Some(stream);
        self
    }

    /// Open to everybody where a setting says so.
    pub const fn opened_by(mut self, setting: fn(&ServerSettings) -> bool) -> Route {
        self.opened = Some(setting);
        self
    }

    /// Whether the owner has opened it to everybody.
    pub fn is_opened(&self, settings: &ServerSettings) -> bool {
        self.opened.is_some_and(|opened| opened(settings))
    }

    /// The path as OpenAPI writes it.
    pub fn openapi_path(&self) -> String {
        self.path.replace("{*", "{")
    }

    /// The names in the path.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|segment| {
            segment.strip_prefix('{')?.strip_suffix('}').map(|name| name.trim_start_matches('*'))
        })
    }
}

/// A request on its way through a handler.
#[derive(Debug)]
pub struct Call {
    /// The server.
    pub state: AppState,
    /// The route's row.
    pub route: &'static Route,
    /// The request's id, as told to the client.
    pub id: String,
    /// Who asks.
    pub principal: Principal,
    /// When it came.
    pub began: Instant,
    pub(crate) parts: Parts,
    pub(crate) path: Vec<(String, String)>,
    /// In a lock only so that a reference to the call may go from thread to thread: a body may not.
    pub(crate) body: Mutex<Body>,
    pub(crate) errand: Errand,
    /// The span that what this call does is part of.
    pub(crate) trace: Option<SpanContext>,
}

/// How a call is treated that nobody sent over HTTP: a line of a batch, a file that is made searchable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errand {
    /// The most that it may come before others.
    pub(crate) priority: Priority,
    /// Where what it took is put, instead of being recorded: whoever runs the errand records it with its outcome.
    pub(crate) receipts: Option<Receipts>,
}

/// What calls took, and what they hold of their key's quotas until that is recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receipts(Arc<Mutex<Vec<Receipt>>>);

/// What a call took.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) row: UsageRow,
    pub(crate) _hold: Option<Hold>,
}

impl Receipts {
    pub(crate) fn put(&self, receipt: Receipt) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(receipt);
    }

    pub(crate) fn rows(&self) -> Vec<UsageRow> {
        let receipts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        receipts.iter().map(|receipt| receipt.row.clone()).collect()
    }
}

impl Call {
    /// A call that nobody sent over HTTP, with this JSON as its body.
    pub(crate) fn errand(
        state: AppState,
        route: &'static Route,
        principal: Principal,
        body: impl Into<Body>,
        errand: Errand,
    ) -> Call {
        let (parts, ()) = axum::http::Request::new(()).into_parts();
        let (id, began, body) = (crate::ids::new("req_"), Instant::now(), Mutex::new(body.into()));
        Call { state, route, id, principal, began, parts, path: Vec::new(), body, errand, trace: None }
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// The part of the path that the route calls `name`, percent-decoded; empty if it has none.
    pub fn path(&self, name: &str) -> &str {
        self.path.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// The query's values that this route is described to read, percent-decoded, in order.
    pub fn query(&self) -> Vec<(String, String)> {
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
        };
        let query = self.parts.uri.query().unwrap_or_default();
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(1000);
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(key, value)| (decode(key), decode(value)))
            .filter(|(key, _)| queries::reads(self.route, key))
            .collect()
    }

    /// The query's value of this name, which the route has to be described with.
    pub fn query_value(&self, name: &str) -> Option<String> {
        debug_assert!(queries::reads(self.route, name), "{} is not said to read {name}", self.route.path);
        self.query().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The whole body, of at most as many bytes as the settings allow.
    ///
    /// # Errors
    /// When it is longer, or does not arrive in time.
    pub async fn bytes(&mut self) -> ApiResult<Bytes> {
        let most = self.state.settings().max_body_bytes;
        self.bytes_up_to(most).await
    }

    /// The whole body, of at most `most` bytes.
    ///
    /// # Errors
    /// When it is longer, or does not arrive in time.
    pub async fn bytes_up_to(&mut self, most: usize) -> ApiResult<Bytes> {
        let too_large = || {
            ApiError::new(
                ErrorKind::TooLarge,
                format!("the request's body is longer than the {most} bytes allowed"),
            )
        };
        let patience = self.state.settings().body_timeout();
        let mut body = self.take_body();
        let announced = axum::body::HttpBody::size_hint(&body).lower();
        if announced > most as u64 {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(patience, body.frame()).await.map_err(|_| {
                ApiError::new(ErrorKind::RequestTimeout, "the request's body did not arrive in time")
            })?;
            let Some(frame) = frame else { return Ok(bytes.freeze()) };
            let frame = frame.map_err(|_| ApiError::invalid("the request's body ended early"))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > most {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
    }

    /// The body as it arrives, for handlers that do not want it in memory. What takes longer than the settings allow
    /// between two pieces is theirs to notice.
    pub fn take_body(&mut self) -> Body {
        std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// The request that the route's row describes, and its further fields, of which the log hears; `known` says which
    /// of them the handler reads itself.
    ///
    /// # Errors
    /// When the body is none, or a field has the wrong type.
    pub async fn json<T: DeserializeOwned>(
        &mut self,
        known: fn(&str) -> bool,
    ) -> ApiResult<(T, Map<String, Value>)> {
        let body = self.bytes().await?;
        self.read(&body, known)
    }

    /// The same, of clients that may send no body at all where they have nothing to say.
    ///
    /// # Errors
    /// As there.
    pub async fn json_if_any<T: DeserializeOwned>(
        &mut self,
        known: fn(&str) -> bool,
    ) -> ApiResult<(T, Map<String, Value>)> {
        let body = self.bytes().await?;
        let is_none = body.iter().all(u8::is_ascii_whitespace);
        self.read(if is_none { b"{}" } else { &body }, known)
    }

    fn read<T: DeserializeOwned>(
        &self,
        body: &[u8],
        known: fn(&str) -> bool,
    ) -> ApiResult<(T, Map<String, Value>)> {
        let object =
            self.route.request.ok_or_else(|| ApiError::internal("a route without a request reads one"))?;
        let read = read_json(body, object)?;
        read.tell_unknown(object, self.state.unknown_fields(), known);
        Ok((read.value, read.others))
    }
}
