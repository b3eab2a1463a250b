//! The adapters that a model in memory has, each for an alias of its name. What is listed here and what the engine has are
//! the same, whoever goes away in the middle of a change: changes are made by tasks that run to their end.

use super::ServedModel;
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult};
use std::path::PathBuf;
use std::sync::Arc;

/// Adapters in memory.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    /// By the alias's name, and from where.
    loaded: tokio::sync::Mutex<Vec<(String, PathBuf)>>,
}

impl Adapters {
    /// Has the adapter at `path` loaded under a name, in place of another of that name. `is_wanted` is asked when all earlier
    /// changes are done; if it says no, nothing is loaded. Returns what it said.
    ///
    /// # Errors
    /// When it cannot be read or is for another model.
    pub(super) async fn ensure(
        &self,
        model: &Arc<ServedModel>,
        name: &str,
        path: PathBuf,
        is_wanted: impl FnOnce() -> bool,
    ) -> ApiResult<bool> {
        let mut loaded = self.loaded.lock().await;
        if !is_wanted() {
            return Ok(false);
        }
        if loaded.iter().any(|(known, from)| known == name && *from == path) {
            return Ok(true);
        }
        // Whatever comes of the load, the one before it is gone.
        loaded.retain(|(known, _)| known != name);
        let (model, owned, from) = (model.clone(), name.to_owned(), path.clone());
        let load = move || {
            model.inference.drop_adapter(&owned);
            Ok(model.inference.load_adapter(&owned, &from)?)
        };
        off_the_runtime(load).await?;
        loaded.push((name.to_owned(), path));
        Ok(true)
    }

    /// Drops the adapter of this name, if it was loaded: answers in the works go on with it.
    pub(super) async fn forget(&self, model: &ServedModel, name: &str) {
        let mut loaded = self.loaded.lock().await;
        loaded.retain(|(known, _)| known != name);
        model.inference.drop_adapter(name);
    }
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
