//! What the command line decides and this crate obeys: addresses, credentials, limits.
//!
//! No environment variable is read here. Whoever builds [`HubSettings`] maps `HF_ENDPOINT`,
//! `HF_TOKEN`, `HTTPS_PROXY`, `PATH` and the flags to its fields.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the sources of models.
#[derive(Clone)]
pub struct HubSettings {
    /// Base address of the Hub, without a trailing slash.
    pub endpoint: String,
    /// Access token; sent to `endpoint` only, never to another origin.
    pub token: Option<String>,
    /// Connections per large file (at least 1).
    pub connections: usize,
    /// How often a failing request is repeated before giving up.
    pub retries: u32,
    /// The pause before the first repetition; it doubles each time, up to 30 s.
    pub retry_pause: Duration,
    /// A connection on which nothing arrives for this long counts as failed.
    pub idle_timeout: Duration,
    /// Time to establish a connection.
    pub connect_timeout: Duration,
    /// Address of an HTTP proxy, if requests go through one.
    pub proxy: Option<String>,
    /// A PEM file of certificate authorities to trust instead of the built-in ones.
    pub certificate_bundle: Option<PathBuf>,
    /// Reserve the disk space of a file before fetching it. Off, files grow as they arrive.
    pub preallocate: bool,
    /// The executable search path (`PATH`) in which pip is looked for.
    pub search_path: Option<OsString>,
}

impl Default for HubSettings {
    fn default() -> Self {
        HubSettings {
            endpoint: "https://huggingface.co".to_string(),
            token: None,
            connections: 4,
            retries: 5,
            retry_pause: Duration::from_millis(500),
            idle_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(15),
            proxy: None,
            certificate_bundle: None,
            preallocate: true,
            search_path: None,
        }
    }
}

impl fmt::Debug for HubSettings {
    /// Everything but the secret, so that a debug print cannot leak a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("connections", &self.connections)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}
