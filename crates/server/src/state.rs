//! What all requests share.

use crate::accounts::StoreAccounts;
use crate::auth::Accounts;
use crate::costs::Costs;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::ledger::Ledger;
use crate::mcp::McpServers;
use crate::metrics::Metrics;
use crate::models::{ModelLoader, ModelPool};
use crate::resources::{Classifier, Work};
use crate::running::Running;
use crate::settings::ServerSettings;
use crate::telemetry::Telemetry;
use crate::wire::UnknownFields;
use alti_store::Store;
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
    store: Option<Store>,
    classifier: Option<Arc<dyn Classifier>>,
    work: Work,
    mcp: McpServers,
    running: Arc<Running>,
    ledger: Arc<Ledger>,
    costs: Costs,
    metrics: Metrics,
    telemetry: Telemetry,
    unknown_fields: UnknownFields,
    draining: AtomicBool,
    began: Instant,
}

/// What an owner may or may not give a server.
#[derive(Clone, Default)]
pub struct Services {
    /// Keys and usage; those of `store`, if this is none.
    pub accounts: Option<Arc<dyn Accounts>>,
    /// The database: without it there are no files, batches, conversations, stored responses and vector stores.
    pub store: Option<Store>,
    /// What judges texts for `/v1/moderations`.
    pub classifier: Option<Arc<dyn Classifier>>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Services").field("store", &self.store).finish_non_exhaustive()
    }
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
        AppState::with_services(settings, loader, Services { accounts, ..Services::default() })
    }

    /// The same, with all that an owner may or may not give. Wants to be called inside a tokio runtime.
    pub fn with_services(
        settings: ServerSettings,
        loader: Arc<dyn ModelLoader>,
        services: Services,
    ) -> AppState {
        let models = ModelPool::new(loader, &settings);
        let Services { accounts, store, classifier } = services;
        let stored = || Some(Arc::new(StoreAccounts::new(store.clone()?)) as Arc<dyn Accounts>);
        AppState {
            inner: Arc::new(Inner {
                models,
                accounts: accounts.or_else(stored),
                store,
                classifier,
                work: Work::default(),
                // Settings that are wrong were refused before.
                mcp: McpServers::new(settings.mcp_servers.clone()).unwrap_or_default(),
                running: Arc::default(),
                ledger: Arc::default(),
                costs: Costs::new(&settings).unwrap_or_default(),
                metrics: Metrics::default(),
                telemetry: Telemetry::start(&settings).unwrap_or_default(),
                unknown_fields: UnknownFields::default(),
                draining: AtomicBool::new(false),
                began: Instant::now(),
                settings,
            }),
        }
    }

    /// What is stored.
    ///
    /// # Errors
    /// When the server was started without a database.
    pub fn store(&self) -> ApiResult<&Store> {
        self.inner.store.as_ref().ok_or_else(|| {
            let message = "this server keeps nothing: it was started without a database";
            ApiError::new(ErrorKind::NotFound, message).code("no_database")
        })
    }

    /// The MCP servers of the settings.
    pub fn mcp(&self) -> &McpServers {
        &self.inner.mcp
    }

    /// What judges texts, if anything does.
    pub fn classifier(&self) -> Option<&Arc<dyn Classifier>> {
        self.inner.classifier.as_ref()
    }

    /// What goes on while no request waits for it.
    pub(crate) fn work(&self) -> &Work {
        &self.inner.work
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

    /// What requests cost the owner.
    pub(crate) fn costs(&self) -> &Costs {
        &self.inner.costs
    }

    /// What is in the works for each key.
    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.inner.running
    }

    /// What requests took, on its way to the store.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Traces.
    pub fn telemetry(&self) -> &Telemetry {
        &self.inner.telemetry
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
