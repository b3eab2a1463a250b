//! One HTTP request to the Hub: credentials, redirects, and what a failure means.
//!
//! Redirects are followed here and not by the HTTP library, for two reasons: the token must go to
//! the Hub's own origin (scheme, host and port) and nowhere else, and the Hub's first answer
//! carries the file's digest, which the content server's answer does not.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use ureq::http::header::{self, HeaderMap};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::{HubError, IoContext};
use crate::progress::{Event, Observer};
use crate::settings::HubSettings;

const MAX_REDIRECTS: usize = 8;
/// No description of a repository is larger; an endless one is refused.
const MAX_DOCUMENT: u64 = 64 << 20;
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Why a request failed, as far as it matters for what to do next.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Repeating it may help.
    Transient {
        /// What went wrong.
        reason: String,
        /// How long the server asked to wait.
        pause: Option<Duration>,
    },
    /// Repeating it cannot help.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Failure::Final(error)
    }
}

impl Failure {
    pub(crate) fn transient(reason: impl ToString) -> Self {
        Failure::Transient { reason: reason.to_string(), pause: None }
    }
}

/// A successful answer.
pub(crate) struct Answer {
    /// 200 or 206.
    pub(crate) status: u16,
    /// Headers of the answer that has the contents.
    pub(crate) headers: HeaderMap,
    /// The contents' digest as the Hub itself announced it, before any redirect.
    pub(crate) linked_etag: Option<String>,
    /// The contents' size as the Hub itself announced it.
    pub(crate) linked_size: Option<u64>,
    /// The contents.
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What is being asked for; errors quote it.
pub(crate) struct Subject<'a> {
    /// "repository `a/b`".
    pub(crate) what: &'a str,
    /// The repository's page, where access is requested.
    pub(crate) page: &'a str,
}

/// A connection pool to the Hub and the content servers behind it.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    retries: u32,
    retry_pause: Duration,
    /// Whether any answer ever came. Until then a failure is more likely a missing network than
    /// a hiccup, and is not repeated for long.
    reached: AtomicBool,
}

impl Client {
    pub(crate) fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_string();
        if origin(&endpoint).is_none() {
            let reason = "the Hub's address must begin with http:// or https://".to_string();
            return Err(HubError::BadSpec { spec: endpoint, reason });
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_per_read(Some(settings.idle_timeout))
            .timeout_per_write(Some(settings.idle_timeout))
            .user_agent(concat!("altiplano/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy(settings)?);
        if let Some(roots) = root_certificates(settings)? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Client {
            agent: config.build().new_agent(),
            endpoint,
            token: settings.token.clone(),
            retries: settings.retries,
            retry_pause: settings.retry_pause,
            reached: AtomicBool::new(false),
        })
    }

    /// The Hub's base address, without a trailing slash.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Breaks every connection off; requests under way fail at once.
    pub(crate) fn shutdown(&self) {
        self.agent.clone().shutdown();
    }

    /// Runs `work`, breaking its connections off as soon as the caller wants to stop.
    pub(crate) fn stoppable<T>(
        &self,
        observer: Observer<'_>,
        work: impl FnOnce() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let finished = AtomicBool::new(false);
        let outcome = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !finished.load(Ordering::Relaxed) {
                    if observer.cancelled() {
                        return self.shutdown();
                    }
                    thread::park_timeout(Duration::from_millis(50));
                }
            });
            let _done = Done { finished: &finished, watcher: watcher.thread().clone() };
            work()
        });
        if outcome.is_err() && observer.cancelled() { Err(HubError::Cancelled) } else { outcome }
    }

    /// Sends a request and follows its redirects. `headers` are sent to every server on the way.
    pub(crate) fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
        subject: &Subject<'_>,
    ) -> Result<Answer, Failure> {
        let mut url = url.to_string();
        let (mut linked_etag, mut linked_size) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let at_hub = origin(&url) == origin(&self.endpoint);
            let response = self.send_once(method, &url, headers, at_hub)?;
            let status = response.status().as_u16();
            let (parts, body) = response.into_parts();
            let text = |name: &str| {
                parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string)
            };
            if at_hub {
                linked_etag = text("x-linked-etag").or(linked_etag);
                linked_size = text("x-linked-size").and_then(|size| size.parse().ok()).or(linked_size);
            }
            match status {
                200 | 206 => {
                    return Ok(Answer { status, headers: parts.headers, linked_etag, linked_size, body });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let target = text("location").unwrap_or_default();
                    url = self.redirected(&url, &target)?;
                }
                _ => return Err(self.refused(&url, at_hub, status, &parts.headers, body, subject)),
            }
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(HubError::Protocol { url, reason }.into())
    }

    fn send_once(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
        at_hub: bool,
    ) -> Result<ureq::http::Response<Body>, Failure> {
        let mut request = if method == "HEAD" { self.agent.head(url) } else { self.agent.get(url) };
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let (true, Some(token)) = (at_hub, &self.token) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.header(header::ACCEPT_ENCODING, "identity").call();
        let response = response.map_err(|error| connection_failure(url, &error))?;
        self.reached.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// The address that a redirect leads to. Leaving encryption is refused.
    fn redirected(&self, from: &str, location: &str) -> Result<String, HubError> {
        let fault = |reason: &str| HubError::Protocol { url: from.to_string(), reason: reason.to_string() };
        let target = join(from, location).ok_or_else(|| fault("a redirect to nowhere"))?;
        if from.starts_with("https://") && !target.starts_with("https://") {
            return Err(fault("a redirect to an unencrypted address"));
        }
        Ok(target)
    }

    /// What an answer that is neither contents nor a redirect means.
    fn refused(
        &self,
        url: &str,
        at_hub: bool,
        status: u16,
        headers: &HeaderMap,
        mut body: Body,
        subject: &Subject<'_>,
    ) -> Failure {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
        let url = without_query(url);
        let mut message = || text("x-error-message").or_else(|| error_in_json(&mut body)).unwrap_or_default();
        match status {
            // A content server's refusal usually means that its signed address has expired.
            401 | 403 | 404 if !at_hub => {
                Failure::transient(format!("HTTP {status} from the content server"))
            }
            401 | 403 => Failure::Final(HubError::AccessDenied {
                url,
                repo_page: subject.page.to_string(),
                status,
                had_token: self.token.is_some(),
                message: message(),
            }),
            404 | 410 => {
                Failure::Final(HubError::NotFound { what: subject.what.to_string(), url, message: message() })
            }
            408 | 425 | 429 | 500.. => {
                let pause = text("retry-after").and_then(|seconds| seconds.trim().parse().ok());
                Failure::Transient {
                    reason: format!("HTTP {status}"),
                    pause: pause.map(|seconds: u64| Duration::from_secs(seconds.min(300))),
                }
            }
            _ => Failure::Final(HubError::Protocol { url, reason: format!("HTTP {status} {}", message()) }),
        }
    }

    /// Reads a small JSON document, repeating failed attempts, and gives it with its headers.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
        subject: &Subject<'_>,
        observer: Observer<'_>,
    ) -> Result<(T, HeaderMap), HubError> {
        self.persist(url, observer, || {
            let mut answer = self.send("GET", url, &[], subject)?;
            let bytes = answer.body.with_config().limit(MAX_DOCUMENT).read_to_vec();
            let bytes = bytes.map_err(|error| connection_failure(url, &error))?;
            let value = serde_json::from_slice(&bytes)
                .map_err(|error| HubError::Protocol { url: without_query(url), reason: error.to_string() })?;
            Ok((value, answer.headers))
        })
    }

    /// Repeats an operation as long as its failures are transient and attempts are left.
    pub(crate) fn persist<T>(
        &self,
        what: &str,
        observer: Observer<'_>,
        mut operation: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            observer.check()?;
            match operation() {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    failed += 1;
                    self.pause_after(failure, what, failed, observer)?;
                }
            }
        }
    }

    /// Waits before the next attempt, or gives the error up to the caller if there is none.
    pub(crate) fn pause_after(
        &self,
        failure: Failure,
        what: &str,
        failed: u32,
        observer: Observer<'_>,
    ) -> Result<(), HubError> {
        let (reason, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Transient { reason, pause } => (reason, pause),
        };
        observer.check()?;
        let retries = if self.reached.load(Ordering::Relaxed) { self.retries } else { self.retries.min(1) };
        if failed > retries {
            return Err(HubError::Network { url: without_query(what), attempts: failed, reason });
        }
        let doubled = self.retry_pause.saturating_mul(1 << (failed - 1).min(16)).min(MAX_PAUSE);
        let pause = asked.unwrap_or(doubled);
        observer.emit(Event::Retrying {
            what: &without_query(what),
            attempt: failed,
            reason: &reason,
            pause,
        });
        observer.sleep(pause)
    }
}

/// Ends the watcher when dropped, so that it ends however its subject ends.
struct Done<'a> {
    finished: &'a AtomicBool,
    watcher: Thread,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Relaxed);
        self.watcher.unpark();
    }
}

fn proxy(settings: &HubSettings) -> Result<Option<ureq::Proxy>, HubError> {
    let Some(address) = &settings.proxy else { return Ok(None) };
    ureq::Proxy::new(address).map(Some).map_err(|error| HubError::BadSpec {
        spec: "the proxy's address".to_string(),
        reason: error.to_string(),
    })
}

fn root_certificates(settings: &HubSettings) -> Result<Option<RootCerts>, HubError> {
    let Some(path) = &settings.certificate_bundle else { return Ok(None) };
    let pem = fs::read(path).context("read", path)?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::Damaged { path: path.clone(), reason: "it has no certificates".to_string() });
    }
    Ok(Some(RootCerts::Specific(Arc::new(certificates))))
}

/// A failure below HTTP. Everything but a wrong certificate or a malformed address may pass.
pub(crate) fn connection_failure(url: &str, error: &ureq::Error) -> Failure {
    let is_final = match error {
        ureq::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => false,
        ureq::Error::Protocol(_) => false,
        _ => true,
    };
    if is_final {
        Failure::Final(HubError::Protocol { url: without_query(url), reason: error.to_string() })
    } else {
        Failure::transient(error)
    }
}

/// The Hub puts its reasons into `{"error": "..."}`.
fn error_in_json(body: &mut Body) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        error: String,
    }
    let bytes = body.with_config().limit(1 << 16).read_to_vec().ok()?;
    serde_json::from_slice(&bytes).ok().map(|document: Document| document.error)
}

/// Scheme, host and port of an address, with the default port filled in.
pub(crate) fn origin(url: &str) -> Option<(String, String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?.rsplit('@').next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, default_port),
    };
    if host.is_empty() {
        return None;
    }
    Some((scheme.to_ascii_lowercase(), host.to_ascii_lowercase(), port))
}

/// Resolves a redirect's target against the address it came from (RFC 3986, section 5, for the
/// forms that servers send: absolute, other host, absolute path, relative path).
fn join(base: &str, location: &str) -> Option<String> {
    if origin(location).is_some() {
        return Some(location.to_string());
    }
    let (scheme, rest) = base.split_once("://")?;
    if location.is_empty() {
        return None;
    }
    if let Some(other_host) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{other_host}"));
    }
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
    Some(format!("{scheme}://{authority}{folder}{location}"))
}

/// Addresses in messages go without their query: content servers put signatures there.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443/y?z"));
        for other in [
            "http://hub.example/",
            "https://hub.example:444/",
            "https://cdn.example/",
            "https://hub.example.evil/",
        ] {
            assert_ne!(origin("https://hub.example/"), origin(other), "{other}");
        }
        assert_eq!(origin("https://hub.example@evil.example/").unwrap().1, "evil.example");
        assert_eq!(origin("ftp://hub.example/"), None);
        assert_eq!(origin("http://[::1]:80/"), origin("http://[::1]/"));
    }

    #[test]
    fn redirect_targets_are_resolved() {
        let base = "https://a.example/o/r/file?x=1";
        for (location, expected) in [
            ("https://b.example/y", "https://b.example/y"),
            ("//b.example/y", "https://b.example/y"),
            ("/y?z", "https://a.example/y?z"),
            ("y", "https://a.example/o/r/y"),
        ] {
            assert_eq!(join(base, location).as_deref(), Some(expected));
        }
        assert_eq!(join(base, ""), None);
    }
}
