//! What all requests share.

use crate::auth::{Accounts, Running};
use crate::metrics::Metrics;
use crate::models::{ModelLoader, ModelPool};
use crate::settings::ServerSettings;
use crate::wire::UnknownFields;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What all requests share. Clones are the same state.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ServerSettings,
    models: ModelPool,
    accounts: Option<Arc<dyn Accounts>>,
    running: Arc<Running>,
    metrics: Metrics,
    unknown_fields: UnknownFields,
    draining: AtomicBool,
    began: Instant,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AppState").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl AppState {
    /// The state of a server with these settings, models out of `loader`, and keys and usage in `accounts`. Wants to be
    /// called inside a tokio runtime.
    pub fn new(
        settings: ServerSettings,
        loader: Arc<dyn ModelLoader>,
        accounts: Option<Arc<dyn Accounts>>,
    ) -> AppState {
        let models = ModelPool::new(loader, &settings);
        AppState {
            inner: Arc::new(Inner {
                models,
                accounts,
                running: Arc::default(),
                metrics: Metrics::default(),
                unknown_fields: UnknownFields::default(),
                draining: AtomicBool::new(false),
                began: Instant::now(),
                settings,
            }),
        }
    }

    /// The owner's settings.
    pub fn settings(&self) -> &ServerSettings {
        &self.inner.settings
    }

    /// The models.
    pub fn models(&self) -> &ModelPool {
        &self.inner.models
    }

    /// Keys and usage, where they are kept.
    pub fn accounts(&self) -> Option<&Arc<dyn Accounts>> {
        self.inner.accounts.as_ref()
    }

    /// Requests that run for each key.
    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.inner.running
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Fields that nobody knows.
    pub fn unknown_fields(&self) -> &UnknownFields {
        &self.inner.unknown_fields
    }

    /// Says that the server is going down: `/ready` no longer says yes, and balancers send nothing new.
    pub fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the server is going down.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }

    /// Seconds since the start.
    pub fn uptime_seconds(&self) -> f64 {
        self.inner.began.elapsed().as_secs_f64()
    }
}
