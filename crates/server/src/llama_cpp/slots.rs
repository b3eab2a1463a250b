//! `/slots`: the answers in the works, and texts that are kept in files under a number.
//!
//! Answers have no fixed slots here. A request that names one (`id_slot`) has its text remembered under that number, for
//! its tenant; `POST /slots/{slot}` writes its keys and values to a file of the owner's `slot_folder`, brings them back
//! after a restart or on another machine, or gives them up.

use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, ErrorKind, excerpt};
use crate::models::Lease;
use crate::respond;
use crate::route::Call;
use alti_engine::EngineError;
use alti_engine::serving::{CacheDomain, SlotAction, SlotName};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What a save that was killed left is removed when it has not moved for so long.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

crate::wire! {
    /// What is to be done with a slot's text; the query says what (`action=save`, `restore`, `erase`, or `delete` for a
    /// file).
    pub struct SlotRequest {
        optional {
            /// The file's name: letters, digits, `.`, `-` and `_`.
            filename: String,
            /// The model's name; the server's default model where none is given.
            model: String,
        }
    }
}

/// `GET /slots`.
pub(super) async fn list(call: Call) -> ApiResult<Response<Body>> {
    let mut slots: Vec<Value> = Vec::new();
    for loaded in call.state.models().loaded() {
        for slot in loaded.model.inference.status().slots {
            slots.push(json!({
                "id": slots.len(),
                "id_task": slot.job,
                "model": loaded.model.facts.name,
                "n_ctx": loaded.model.inference.context(),
                "is_processing": true,
                "choice": slot.choice,
                "n_prompt_tokens": slot.prompt_tokens,
                "n_computed": slot.computed_tokens,
                "n_decoded": slot.generated_tokens,
            }));
        }
    }
    Ok(respond::json(&slots))
}

/// The slot that a request names with `id_slot`; -1 is none.
///
/// # Errors
/// A number that the model has no slot for.
pub(crate) fn named(model: &Lease, id_slot: Option<i64>) -> ApiResult<Option<u32>> {
    let slots = model.inference.max_running().max(1);
    match id_slot {
        None | Some(-1) => Ok(None),
        Some(slot) => {
            u32::try_from(slot).ok().filter(|&slot| (slot as usize) < slots).map(Some).ok_or_else(|| {
                ApiError::field(
                    "id_slot",
                    format!("`id_slot` is {slot}: it must be from 0 to {}, or -1", slots - 1),
                )
            })
        }
    }
}

/// What can be done.
enum Action {
    Erase,
    Save(SlotFile),
    Restore(SlotFile),
    Delete(SlotFile),
}

/// A file in the folder of the caller's tenant.
struct SlotFile {
    name: String,
    path: PathBuf,
    /// Most bytes that the tenant's files may take together.
    most_bytes: u64,
}

/// `POST /slots/{slot}`.
pub(super) async fn act(mut call: Call) -> ApiResult<Response<Body>> {
    let word = call.query_value("action").unwrap_or_default();
    let (SlotRequest { filename, model }, _) = call.json_if_any(|_| false).await?;
    let id_slot = call.path("slot").parse::<i64>().ok().filter(|slot| *slot >= 0);
    let id_slot = id_slot
        .ok_or_else(|| ApiError::field("id_slot", "the path names no slot: it is `/slots/` and a number"))?;
    let action = match word.as_str() {
        "erase" => Action::Erase,
        "save" => Action::Save(SlotFile::named(&call, filename)?),
        "restore" => Action::Restore(SlotFile::named(&call, filename)?.there()?),
        "delete" => Action::Delete(SlotFile::named(&call, filename)?.there()?),
        _ => {
            let message = "`action` must be `save`, `restore`, `erase` or `delete`";
            return Err(ApiError::field("action", message));
        }
    };
    let model = call.state.models().acquire(model.as_deref(), None).await?;
    let slot = named(&model, Some(id_slot))?.unwrap_or_default();
    let tenant = call.principal.tenant().to_owned();
    let name = SlotName { domain: CacheDomain { tenant, adapter: model.adapter() }, slot };
    // One at a time: each has a whole text's keys and values in memory.
    static ONE: Semaphore = Semaphore::const_new(1);
    let _alone = ONE.acquire().await;
    let done = off_the_runtime(move || action.done(&model, name));
    Ok(respond::json(&done.await?))
}

impl SlotFile {
    /// The file of this name.
    ///
    /// # Errors
    /// A server that saves none, a name that is none.
    fn named(call: &Call, name: Option<String>) -> ApiResult<SlotFile> {
        let settings = call.state.settings();
        let folder = settings.slot_folder.as_ref().ok_or_else(|| {
            let message =
                "this server keeps no slots in files: its setting server.slot_folder names no folder";
            ApiError::not_found(message).code("no_slot_folder")
        })?;
        let name = name.ok_or_else(|| ApiError::field("filename", "`filename` is missing"))?;
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
        if !(1..=128).contains(&name.len()) || name.starts_with('.') || !name.chars().all(allowed) {
            let message =
                "`filename` must be 1 to 128 letters, digits, `.`, `-` and `_`, and not begin with `.`";
            return Err(ApiError::field("filename", message));
        }
        // Tenants have any names; folders do not.
        let digest = Sha256::digest(call.principal.tenant());
        let own: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(SlotFile { path: folder.join(own).join(&name), name, most_bytes: settings.slot_bytes })
    }

    /// The same, if it is there.
    fn there(self) -> ApiResult<SlotFile> {
        if self.path.is_file() {
            return Ok(self);
        }
        let message = format!("no slot was saved as `{}`", excerpt(&self.name));
        Err(ApiError::not_found(message).param("filename"))
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Makes the folder, which nobody else on the machine may look into, and checks that there is room in it.
    fn make_room(&self) -> ApiResult<()> {
        let folder = self.path.parent().unwrap_or(&self.path);
        private_folder(folder).map_err(|error| not_saved(&self.path, &error.to_string()))?;
        let mut bytes = 0;
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let age = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            // No slot's own name begins with a dot.
            let is_unfinished = entry.file_name().as_encoded_bytes().starts_with(b".");
            if is_unfinished && age > ABANDONED {
                // Another request may have removed it just now.
                let _ = std::fs::remove_file(entry.path());
            } else if entry.path() != self.path {
                bytes += metadata.len();
            }
        }
        if bytes < self.most_bytes {
            return Ok(());
        }
        let message = format!(
            "the saved slots take {bytes} bytes, and {} are allowed: delete some (`action=delete`)",
            self.most_bytes
        );
        Err(ApiError::new(ErrorKind::StorageFull, message).code("slots_full"))
    }
}

impl Action {
    /// Does it, and tells what was done.
    fn done(self, model: &Lease, name: SlotName) -> ApiResult<Value> {
        let (slot, began) = (name.slot, Instant::now());
        let identity = &model.facts.digest;
        let milliseconds = || began.elapsed().as_secs_f64() * 1e3;
        match self {
            Action::Erase => {
                let tokens = model.inference.slot(name, SlotAction::Erase)?;
                Ok(json!({ "id_slot": slot, "n_erased": tokens }))
            }
            Action::Save(file) => {
                file.make_room()?;
                let saved = model.inference.slot(name, SlotAction::Save(&file.path, identity));
                let tokens = saved.map_err(|error| match error {
                    EngineError::Prefixes { path, what } => not_saved(&path, &what),
                    error => error.into(),
                })?;
                Ok(json!({
                    "id_slot": slot,
                    "filename": file.name,
                    "n_saved": tokens,
                    "n_written": file.bytes(),
                    "timings": { "save_ms": milliseconds() },
                }))
            }
            Action::Restore(file) => {
                let restored = model.inference.slot(name, SlotAction::Restore(&file.path, identity));
                let tokens = restored.map_err(|error| match error {
                    // Where the file lies is the owner's business.
                    EngineError::Prefixes { what, .. } => ApiError::field("filename", what),
                    error => error.into(),
                })?;
                Ok(json!({
                    "id_slot": slot,
                    "filename": file.name,
                    "n_restored": tokens,
                    "n_read": file.bytes(),
                    "timings": { "restore_ms": milliseconds() },
                }))
            }
            Action::Delete(file) => {
                let bytes = file.bytes();
                std::fs::remove_file(&file.path)
                    .map_err(|error| not_saved(&file.path, &error.to_string()))?;
                Ok(json!({ "id_slot": slot, "filename": file.name, "n_deleted": bytes }))
            }
        }
    }
}

/// What a client hears of a folder that cannot be written; the log hears which it is.
fn not_saved(path: &Path, what: &str) -> ApiError {
    tracing::error!(path = %path.display(), what, "a slot's file could not be written");
    let message = "the server cannot write its folder of slots; its log says why";
    ApiError::new(ErrorKind::StorageFull, message).code("slot_not_saved")
}

/// Makes a folder that only this user may look into: saved texts are in it in clear.
fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
