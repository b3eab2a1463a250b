//! The models that are served: who loads them, which are in memory, and who uses them now.

mod adapters;
mod aliases;
mod cards;
mod facts;
mod inference;
mod keep_alive;
mod loader;
mod names;
mod pool;

pub use aliases::Alias;
pub use facts::ModelFacts;
pub use inference::{Cancel, Inference};
pub use keep_alive::KeepAlive;
pub use loader::{LoadError, ModelCard, ModelLoader, PullProgress, ServedModel};
pub(crate) use names::tagged;
pub(crate) use pool::load_error;
pub use pool::{Lease, LoadedModel, ModelPool};
