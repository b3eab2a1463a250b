//! Listening: connections, TLS, the limits on both, and going down without dropping anybody.

use crate::auth::Peer;
use crate::settings::ServerSettings;
use crate::state::AppState;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

mod text_log;

/// How long the end of responses may take to be stored, and the last spans to be sent.
const TO_STORE: Duration = Duration::from_secs(1);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Settings that cannot be.
    #[error("{0}")]
    Settings(String),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A certificate or key that is none.
    #[error("{setting} is {path}: {problem}")]
    Tls {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A server that listens and does not answer yet.
pub struct Server {
    state: AppState,
    listeners: Vec<TcpListener>,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Server").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// Settings that exclude each other, an address that is taken, a certificate that cannot be read.
    pub async fn bind(state: AppState) -> Result<Server, ServeError> {
        let settings = state.settings();
        settings.check_values().map_err(ServeError::Settings)?;
        let tls = tls(settings)?;
        let mut listeners = Vec::new();
        for &address in &settings.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| ServeError::Listen { address, source })?);
        }
        Ok(Server { state, listeners, tls })
    }

    /// Where it listens: the ports that were given for port 0 among them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Answers until `stop` is done; then takes no more connections, finishes what is in the works, and returns when
    /// that is done or the settings' deadline has passed.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let settings = self.state.settings().clone();
        crate::resources::start(&self.state);
        let graceful = Arc::new(GracefulShutdown::new());
        let router = crate::router(self.state.clone());
        let shared = Arc::new(Shared {
            router: if settings.log_text { text_log::with_text(router) } else { router },
            tls: self.tls,
            places: Arc::new(Semaphore::new(settings.max_connections)),
            header_timeout: Duration::from_secs(settings.header_timeout_seconds),
            write_timeout: settings.body_timeout(),
            max_header_bytes: settings.max_header_bytes,
        });
        let (stopping, _) = watch::channel(false);
        let listening: Vec<_> = self
            .listeners
            .into_iter()
            .map(|listener| {
                tokio::spawn(listen(listener, shared.clone(), graceful.clone(), stopping.subscribe()))
            })
            .collect();
        stop.await;
        // One deadline for all that is in the works, whoever waits for it.
        let deadline = Instant::now() + Duration::from_secs(settings.drain_seconds);
        self.state.start_draining();
        stopping.send_replace(true);
        futures_util::future::join_all(listening).await;
        // The listeners, which are gone, had the only clones.
        let drained = async {
            match Arc::into_inner(graceful) {
                Some(graceful) => graceful.shutdown().await,
                None => tracing::error!("a listener is still there"),
            }
        };
        if tokio::time::timeout_at(deadline, drained).await.is_err() {
            tracing::warn!("answers in the works were cut off: they took longer than drain_seconds");
        }
        self.state.models().shutdown(deadline.into_std()).await;
        // What the models have said is stored by those who told it: that takes a moment, in which nothing is computed.
        self.state.work().settle(deadline.max(Instant::now() + TO_STORE)).await;
        let deadline = deadline.max(Instant::now() + TO_STORE);
        self.state.ledger().settle(deadline).await;
        self.state.telemetry().shutdown(deadline.into_std()).await;
    }
}

/// What connections share.
struct Shared {
    router: Router,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    header_timeout: Duration,
    write_timeout: Duration,
    max_header_bytes: usize,
}

/// Takes connections until told to stop. Beyond the limit they wait in the system's queue.
async fn listen(
    listener: TcpListener,
    shared: Arc<Shared>,
    graceful: Arc<GracefulShutdown>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let accepted = async {
            let place = shared.places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (shared, watcher) = (shared.clone(), graceful.watcher());
                tokio::spawn(async move {
                    let _place = place;
                    connection(stream, peer, &shared, watcher).await;
                });
            }
            Err(error) => {
                // No file descriptors left, most likely: it passes when connections end.
                tracing::warn!(%error, "a connection was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: &Shared, watcher: Watcher) {
    // Tokens are small and each counts: none waits for the next.
    let _only_slower = stream.set_nodelay(true);
    let stream = PatientWriter::new(stream, shared.write_timeout);
    match &shared.tls {
        None => serve(stream, peer, shared, watcher).await,
        Some(tls) => match tokio::time::timeout(shared.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve(stream, peer, shared, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
            Err(_) => tracing::debug!("no TLS in time"),
        },
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    shared: &Shared,
    watcher: Watcher,
) {
    let router = shared.router.clone().map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        request.map(Body::new)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.header_timeout)
        .max_buf_size(shared.max_header_bytes)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// TLS with the certificate and the key of the settings, if they name any.
///
/// # Errors
/// When a file is none of these.
pub(crate) fn tls(settings: &ServerSettings) -> Result<Option<TlsAcceptor>, ServeError> {
    let (Some(certificate), Some(key)) = (&settings.tls_certificate, &settings.tls_private_key) else {
        return Ok(None);
    };
    let wrong = |setting: &'static str, path: &Path, problem: String| ServeError::Tls {
        setting,
        path: path.display().to_string(),
        problem,
    };
    let wrong_certificate = |problem| wrong("tls_certificate", certificate, problem);
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong_certificate("there is no certificate in it: it must be in PEM".to_owned()));
    }
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong("tls_private_key", key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
        .map_err(|error| wrong_certificate(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// A stream whose other end has to take what is written within a time: a client that stops reading for good must not
/// hold its place, nor the answer that waits for it.
struct PatientWriter<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> PatientWriter<S> {
    fn new(stream: S, patience: Duration) -> Self {
        PatientWriter { stream, patience, waiting: None }
    }

    fn timed<T>(&mut self, context: &mut Context, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientWriter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        into: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientWriter<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        slices: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.timed(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.timed(context, result)
    }
}
