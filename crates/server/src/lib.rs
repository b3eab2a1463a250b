#![forbid(unsafe_code)]
//! HTTP: the APIs that apps speak already, over one engine.
//!
//! [`routes::table`] is the list of everything there is. A request comes to its row's handler as a [`Call`]; the
//! handler reads the API's wire type, turns it into what all APIs have in common, and answers in the API's words.
//! Models come from a [`ModelLoader`], keys and usage from [`Accounts`]: both are given by the command line.

pub mod accounts;
pub mod anthropic;
pub mod auth;
mod costs;
pub mod error;
pub mod generate;
pub mod ids;
mod ledger;
pub mod llama_cpp;
pub mod mcp;
pub mod metrics;
pub mod models;
pub mod ollama;
pub mod openai;
pub mod operations;
pub mod resources;
pub mod respond;
pub mod route;
pub mod router;
pub mod routes;
pub mod running;
pub mod serve;
pub mod settings;
pub mod state;
pub mod telemetry;
pub mod wire;

pub use accounts::StoreAccounts;
pub use auth::{Accounts, Key, Peer, Principal, UsageRow};
pub use costs::ModelPrices;
pub use error::{ApiError, ApiResult, ErrorKind};
pub use models::{LoadError, ModelFacts, ModelLoader, PullProgress, ServedModel};
pub use resources::{Classifier, Judgement};
pub use route::{Call, Family, Route, Scope};
pub use router::router;
pub use running::Held;
pub use serve::{ServeError, Server};
pub use settings::ServerSettings;
pub use state::{AppState, Services};
pub use telemetry::{SpanCounts, Telemetry};
