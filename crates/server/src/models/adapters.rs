//! The adapters that a model in memory has, each for an alias of its name. What is listed here and what the engine has are
//! the same, whoever goes away in the middle of a change: changes are made by tasks that run to their end.

use super::ServedModel;
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult};
use alti_engine::adapters::{Lease as AdapterLease, Stamp};
use std::path::PathBuf;
use std::sync::Arc;

/// Adapters in memory.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    loaded: tokio::sync::Mutex<Vec<Loaded>>,
}

/// Where an adapter is, and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdapterFile {
    pub(super) path: PathBuf,
    stamp: Stamp,
}

#[derive(Debug)]
struct Loaded {
    /// The alias's name.
    name: String,
    /// As it was before it was read.
    file: AdapterFile,
    lease: AdapterLease,
}

impl AdapterFile {
    /// What is at `path` now.
    pub(super) fn at(path: PathBuf) -> AdapterFile {
        AdapterFile { stamp: Stamp::of(&path), path }
    }
}

impl Adapters {
    /// Has the adapter in a file loaded under a name, in place of another of that name: also of what was in the file before.
    /// `is_wanted` is asked when all earlier changes are done; if it says no, nothing is loaded, and there is none.
    ///
    /// # Errors
    /// When it cannot be read or is for another model.
    pub(super) async fn ensure(
        &self,
        model: &Arc<ServedModel>,
        name: &str,
        file: AdapterFile,
        is_wanted: impl FnOnce() -> bool,
    ) -> ApiResult<Option<AdapterLease>> {
        let mut loaded = self.loaded.lock().await;
        if !is_wanted() {
            return Ok(None);
        }
        let known = loaded.iter().position(|known| known.name == name);
        if let Some(known) = known.map(|known| &loaded[known]).filter(|known| known.file == file) {
            return Ok(Some(known.lease.clone()));
        }
        // Whatever comes of the load, the one before it is gone.
        let before = known.map(|known| loaded.swap_remove(known));
        let (model, name) = (model.clone(), name.to_owned());
        let now = off_the_runtime(move || load(&model, name, file.path, before)).await?;
        let lease = now.lease.clone();
        loaded.push(now);
        Ok(Some(lease))
    }

    /// Drops the adapter of this name, if it was loaded: answers in the works go on with it.
    pub(super) async fn forget(&self, model: &ServedModel, name: &str) {
        let mut loaded = self.loaded.lock().await;
        loaded.retain(|known| known.name != name);
        model.inference.drop_adapter(name);
    }
}

/// Loads what is at `path` now in place of what was loaded under the name before.
fn load(model: &ServedModel, name: String, path: PathBuf, before: Option<Loaded>) -> ApiResult<Loaded> {
    // Looked at before it is read: what is written meanwhile is noticed at the next use.
    let file = AdapterFile::at(path);
    let is_overwritten = before.as_ref().is_some_and(|before| before.file.path == file.path);
    // Somebody else may have noticed while this one waited.
    if let Some(before) = before.filter(|before| before.file == file) {
        return Ok(before);
    }
    model.inference.drop_adapter(&name);
    let lease = model.inference.load_adapter(&name, &file.path).map_err(|error| {
        let mut error = ApiError::from(error);
        if is_overwritten {
            let what = "was overwritten, and what is there now cannot be used";
            error.message = format!("the adapter of `{name}` {what}: {}", error.message);
        }
        error
    })?;
    Ok(Loaded { name, file, lease })
}

/// Does something to its end, even if whoever waits for it goes away.
///
/// # Errors
/// What `work` returns, or that it panicked.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = ApiResult<T>> + Send + 'static,
) -> ApiResult<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(ApiError::internal(error)))
}
