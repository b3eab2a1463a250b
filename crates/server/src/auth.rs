//! Who may ask for what. Keys live in the store; here is what is asked of it, and the rules for requests without one.
//!
//! Without a key only this machine is served, and only for requests that a person on it could have meant: a web page
//! that a browser on this machine shows must not reach the server by a name of its own (DNS rebinding) or by posting to
//! it across origins.

use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::route::{Route, Scope};
use crate::running::{Held, Hold, Running};
use crate::settings::ServerSettings;
use alti_store::Money;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What the server asks of whoever keeps keys and usage. Calls may wait for a disk: they are made off the async threads.
pub trait Accounts: Send + Sync + 'static {
    /// Whether there are any keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn has_keys(&self) -> ApiResult<bool>;

    /// The key that was presented, if it is one and has not expired.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn find_key(&self, secret: &str) -> ApiResult<Option<Key>>;

    /// Whether the key has quota left for one more request, beside those in the works, which hold so much of it.
    ///
    /// # Errors
    /// [`ErrorKind::Quota`] when it is used up, with when there is more; [`ErrorKind::RateLimit`] when what is left is held;
    /// or when the store cannot be read.
    fn admit(&self, key: &Key, held: &Held) -> ApiResult<()>;

    /// Keeps what requests took: all of it or nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    fn record(&self, usage: &[&UsageRow]) -> ApiResult<()>;
}

/// A key, as far as the server is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its number or name in the store; not a secret.
    pub id: String,
    /// Whose data it sees: keys of one tenant share it.
    pub tenant: String,
    /// Scopes by name, see [`Scope::TABLE`].
    pub scopes: Vec<String>,
    /// Requests at once; none is no limit.
    pub max_concurrent: Option<u32>,
    /// Whether it has quotas of a day.
    pub has_quotas: bool,
}

/// What one request took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsageRow {
    /// The request's id.
    pub request_id: String,
    /// The key, if one was used.
    pub key: Option<String>,
    /// The model's name.
    pub model: String,
    /// Path of the route.
    pub route: &'static str,
    /// When the request came, in milliseconds since 1970.
    pub began_unix_millis: i64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens that were cached.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Seconds waited.
    pub queue_seconds: f64,
    /// Seconds for the prompt.
    pub prefill_seconds: f64,
    /// Seconds for the answer.
    pub decode_seconds: f64,
    /// Seconds of all cores' time.
    pub cpu_seconds: f64,
    /// What that cost the owner.
    pub cost: Money,
    /// How it ended: `stop`, `length`, `tool_calls`, `cancelled`, `failed`, ...
    pub outcome: &'static str,
}

/// Where a connection comes from; a request without it is treated as coming from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Principal {
    /// The key, if there is one.
    pub key: Option<Key>,
    /// Held while the request runs: the key's place among those it may have at once.
    _place: Option<Arc<Hold>>,
}

impl Principal {
    /// Whose data and cached prefixes a request may see.
    pub fn tenant(&self) -> &str {
        self.key.as_ref().map_or("", |key| &key.tenant)
    }

    /// Who works for a key while no request of it waits.
    pub(crate) fn acting_for(key: Option<Key>) -> Principal {
        Principal { key, _place: None }
    }

    /// The key's id.
    pub fn key_id(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.id.as_str())
    }
}

/// Finds out who asks and whether they may.
///
/// # Errors
/// No key where one is needed, one that is none, one that may not do this or has used up what it may.
pub(crate) async fn authorize(
    accounts: Option<&Arc<dyn Accounts>>,
    running: &Arc<Running>,
    settings: &ServerSettings,
    route: &Route,
    parts: &Parts,
) -> ApiResult<Principal> {
    if route.scope == Scope::Open || route.is_opened(settings) {
        return Ok(Principal::default());
    }
    let secret = presented(parts);
    let found = match (accounts, secret) {
        (Some(accounts), Some(secret)) => look_up(accounts.clone(), secret).await?,
        _ => Found::NoKeys,
    };
    let key = match found {
        Found::Key(key) => key,
        Found::Unknown => {
            return Err(unauthorized("this key is not known here, or it has expired").code("invalid_api_key"));
        }
        Found::NoKeys => return keyless(settings, parts).map(|()| Principal::default()),
    };
    if !key.scopes.iter().any(|scope| scope == route.scope.name()) {
        let message = format!("this key may not do this: it lacks the scope `{}`", route.scope.name());
        return Err(ApiError::new(ErrorKind::Permission, message).code("insufficient_permissions"));
    }
    let place = running.take_place(&key)?;
    if matches!(route.scope, Scope::Inference | Scope::Data)
        && key.has_quotas
        && let Some(accounts) = accounts.cloned()
    {
        // What it needs is not known yet: this spares the work where nothing is left.
        let admitted = key.clone();
        off_the_runtime(move || accounts.admit(&admitted, &Held::default())).await?;
    }
    Ok(Principal { key: Some(key), _place: Some(Arc::new(place)) })
}

enum Found {
    Key(Key),
    Unknown,
    /// There are no keys at all: apps that insist on sending one are served as if they had not.
    NoKeys,
}

async fn look_up(accounts: Arc<dyn Accounts>, secret: String) -> ApiResult<Found> {
    off_the_runtime(move || match accounts.find_key(&secret)? {
        Some(key) => Ok(Found::Key(key)),
        None if accounts.has_keys()? => Ok(Found::Unknown),
        None => Ok(Found::NoKeys),
    })
    .await
}

/// Does something that may wait for a disk or compute for long.
///
/// # Errors
/// What `work` returns, or that it panicked.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(ApiError::internal(error)))
}

/// The key that a request presents: as a bearer token, or as Anthropic's clients do.
fn presented(parts: &Parts) -> Option<String> {
    let bearer = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    let other = || {
        parts.headers.get("x-api-key").and_then(|value| value.to_str().ok()).map(|key| key.trim().to_owned())
    };
    bearer.or_else(other).filter(|key| !key.is_empty() && key.len() <= 512)
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ErrorKind::Authentication, message)
}

/// Whether a request without a key is served.
fn keyless(settings: &ServerSettings, parts: &Parts) -> ApiResult<()> {
    if settings.require_key {
        return Err(
            unauthorized("a key is needed: send it as `Authorization: Bearer KEY`").code("invalid_api_key")
        );
    }
    let local = parts.extensions.get::<Peer>().is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
    // A proxy on this machine speaks for others.
    let forwarded =
        ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| parts.headers.contains_key(*name));
    if !local || forwarded {
        let message = "without a key only this machine is served: make one with `alti keys create NAME` and send it as \
                       `Authorization: Bearer KEY`";
        return Err(unauthorized(message).code("invalid_api_key"));
    }
    let host = parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or(parts.uri.authority().map(|it| it.as_str()));
    if !host.is_none_or(|host| is_local_name(host_name(host), settings)) {
        let message = "requests without a key must be addressed to this machine by its own name (`localhost`): set \
                       allowed_hosts to allow another";
        return Err(ApiError::new(ErrorKind::Permission, message));
    }
    if let Some(origin) = parts.headers.get(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let name = origin.split_once("://").map_or("", |(_, host)| host_name(host));
        if !is_local_page(name) && !origin_allowed(settings, origin) {
            let message = "web pages of other origins may not use this server without a key: set allowed_origins to \
                           allow one";
            return Err(ApiError::new(ErrorKind::Permission, message));
        }
    }
    Ok(())
}

/// Whether pages of this origin may use the server.
pub(crate) fn origin_allowed(settings: &ServerSettings, origin: &str) -> bool {
    settings.allowed_origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

/// The name in `name:port`.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Whether a page of this host is of this machine: another machine's address is a host, too.
fn is_local_page(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let address = name.parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn is_local_name(name: &str, settings: &ServerSettings) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    // An address cannot be rebound: only names are looked up.
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok()
        || settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn parts(peer: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(Peer(peer.parse().unwrap()));
        parts
    }

    #[test]
    fn without_a_key_only_this_machine_is_served_and_only_by_its_own_name() {
        let settings = ServerSettings::default();
        let serves = |peer: &str, headers: &[(&str, &str)]| keyless(&settings, &parts(peer, headers)).is_ok();
        assert!(serves("127.0.0.1:9", &[]));
        assert!(serves("[::1]:9", &[("host", "[::1]:8080")]));
        assert!(serves("[::ffff:127.0.0.1]:9", &[("host", "localhost:8080")]));
        assert!(serves("127.0.0.1:9", &[("host", "localhost"), ("origin", "http://127.0.0.1:5173")]));
        assert!(!serves("192.168.0.7:9", &[]));
        assert!(!serves("127.0.0.1:9", &[("x-forwarded-for", "203.0.113.9")]));
        assert!(!serves("127.0.0.1:9", &[("host", "rebound.example")]));
        assert!(!serves("127.0.0.1:9", &[("origin", "https://rebound.example")]));
        assert!(!serves("127.0.0.1:9", &[("origin", "null")]));
        let open = ServerSettings {
            allowed_hosts: vec!["box.lan".into()],
            allowed_origins: vec!["https://app.example".into()],
            ..ServerSettings::default()
        };
        let headers = [("host", "box.lan:80"), ("origin", "https://app.example")];
        assert!(keyless(&open, &parts("127.0.0.1:9", &headers)).is_ok());
        let strict = ServerSettings { require_key: true, ..ServerSettings::default() };
        assert!(keyless(&strict, &parts("127.0.0.1:9", &[])).is_err());
    }
}
