#![forbid(unsafe_code)]
//! The local model store: where models come from, under which licence, and where they are kept.
//!
//! Everything that brings a model file to this machine is here, and nothing that reads one: the
//! rest of the project opens a path that [`Store::resolve`] or [`Store::pull`] returned. The
//! crate is the only one below the server that speaks HTTP, with a blocking client. It reads no
//! environment variables and prints nothing; the command line passes a [`HubSettings`] in and
//! hears [`Event`]s.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use alti_hub::{HubSettings, ModelSpec, Observer, PullRequest, Silent, Store};
//!
//! let store = Store::open("models-folder")?;
//! let cancel = AtomicBool::new(false);
//! let request = PullRequest::new(ModelSpec::parse(alti_hub::catalogue::DEFAULT_MODEL)?);
//! let pulled = store.pull(&request, &HubSettings::default(), Observer::new(&Silent, &cancel))?;
//! println!("{}", pulled.path.display());
//! # Ok::<(), alti_hub::HubError>(())
//! ```

pub mod catalogue;
mod digest;
mod error;
pub mod license;
mod paths;
mod progress;
mod pull;
mod remote;
mod select;
mod settings;
mod spec;
mod store;

pub use digest::Sha256Hex;
pub use error::{HubError, human_bytes};
pub use progress::{Event, Observer, Progress, Silent};
pub use pull::{ImportMode, PullRequest, Pulled, pip_command};
pub use remote::reach;
pub use select::PREFERRED as PREFERRED_QUANTIZATIONS;
pub use settings::HubSettings;
pub use spec::ModelSpec;
pub use store::{FileEntry, FileState, Listing, Manifest, Removed, Resolved, Source, Store, Usage, Verified};
