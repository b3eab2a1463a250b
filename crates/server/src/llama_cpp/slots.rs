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
use alti_engine::serving::{CacheDomain, SlotAction, SlotName, Status};
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

/// llama.cpp's words for a file that is not there or no slot's, and for keys and values that there is no room for.
const NOT_RESTORED: &str = "Unable to restore slot, no available space in KV cache or invalid slot save file";

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
        let inference = &loaded.model.inference;
        let rows = rows(&inference.status(), inference.max_running(), inference.context());
        slots.extend(rows.into_iter().map(|mut row| {
            row["model"] = json!(loaded.model.facts.name);
            row
        }));
    }
    if call.query_value("fail_on_no_slot").is_some_and(|value| !value.is_empty()) {
        refuse_if_full(&slots)?;
    }
    Ok(respond::json(&slots))
}

/// What a model's slots are doing: answers in the works first, then those that could be.
fn rows(status: &Status, most: usize, context: usize) -> Vec<Value> {
    let running = status.slots.iter().map(Some).chain(std::iter::repeat(None));
    let rows = running.take(most.max(status.slots.len())).enumerate().map(|(id, slot)| {
        let mut row = json!({
            "id": id,
            "n_ctx": context,
            "speculative": status.drafted_tokens > 0,
            "is_processing": slot.is_some(),
        });
        if let Some(slot) = slot {
            row["id_task"] = json!(slot.job);
            row["choice"] = json!(slot.choice);
            row["n_prompt_tokens"] = json!(slot.prompt_tokens);
            row["n_computed"] = json!(slot.computed_tokens);
            row["n_decoded"] = json!(slot.generated_tokens);
        }
        row
    });
    rows.collect()
}

/// Refuses where there are slots, and none is idle.
fn refuse_if_full(slots: &[Value]) -> ApiResult<()> {
    match !slots.is_empty() && slots.iter().all(|slot| slot["is_processing"] == true) {
        true => Err(ApiError::new(ErrorKind::Unavailable, "no slot available").retry_after(1)),
        false => Ok(()),
    }
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
                    format!(
                        "Invalid slot ID: `id_slot` is {slot}, and it must be from 0 to {}, or -1",
                        slots - 1
                    ),
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
        .ok_or_else(|| ApiError::field("id_slot", "Invalid slot ID: the path is `/slots/` and a number"))?;
    let action = match word.as_str() {
        "erase" => Action::Erase,
        "save" => Action::Save(SlotFile::named(&call, filename)?),
        "restore" => Action::Restore(SlotFile::named(&call, filename)?),
        "delete" => Action::Delete(SlotFile::named(&call, filename)?),
        _ => {
            let message = "Invalid action: it must be `save`, `restore`, `erase` or `delete`";
            return Err(ApiError::field("action", message));
        }
    };
    let model = call.state.models().acquire(model.as_deref(), None).await?;
    let slot = named(&model, Some(id_slot))?.unwrap_or_default();
    let name = SlotName { domain: CacheDomain::of(call.principal.tenant(), model.adapter()), slot };
    // One at a time: each has a whole text's keys and values in memory.
    static ONE: Semaphore = Semaphore::const_new(1);
    let alone = ONE.acquire().await;
    let done = off_the_runtime(move || {
        // In here: it goes on where whoever asked has gone away.
        let _one_at_a_time = alone;
        action.done(&model, name)
    });
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
            ApiError::new(ErrorKind::NotSupported, message).code("no_slot_folder")
        })?;
        let name = name.ok_or_else(|| ApiError::field("filename", "Invalid filename: there is none"))?;
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
        if !(1..=128).contains(&name.len()) || name.starts_with('.') || !name.chars().all(allowed) {
            let message = "Invalid filename: it must be 1 to 128 letters, digits, `.`, `-` and `_`, and not begin with `.`";
            return Err(ApiError::field("filename", message));
        }
        // Tenants have any names; folders do not.
        let digest = Sha256::digest(call.principal.tenant());
        let own: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(SlotFile { path: folder.join(own).join(&name), name, most_bytes: settings.slot_bytes })
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Removes it, if it is there.
    fn remove(&self) -> ApiResult<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(not_saved(&self.path, &error.to_string()))
            }
            _ => Ok(()),
        }
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
                let tokens = match model.inference.slot(name, SlotAction::Save(&file.path, identity)) {
                    // Nothing is saved: what is brought back from this file may not be what was there before.
                    Err(EngineError::EmptySlot { .. }) => file.remove().map(|()| 0)?,
                    Err(EngineError::Prefixes { path, what }) => return Err(not_saved(&path, &what)),
                    saved => saved?,
                };
                Ok(json!({
                    "id_slot": slot,
                    "filename": file.name,
                    "n_saved": tokens,
                    "n_written": file.bytes(),
                    "timings": { "save_ms": milliseconds() },
                }))
            }
            Action::Restore(file) => {
                if !file.path.is_file() {
                    return Err(ApiError::field("filename", NOT_RESTORED));
                }
                let restored = model.inference.slot(name, SlotAction::Restore(&file.path, identity));
                let tokens = restored.map_err(|error| match error {
                    // Where the file lies is the owner's business.
                    EngineError::Prefixes { what, .. } => {
                        ApiError::field("filename", format!("{NOT_RESTORED}: {what}"))
                    }
                    error @ EngineError::NoRoomForSlot { .. } => {
                        ApiError::field("filename", format!("{NOT_RESTORED}: {error}"))
                    }
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
                if !file.path.is_file() {
                    let message = format!("no slot was saved as `{}`", excerpt(&file.name));
                    return Err(ApiError::not_found(message).param("filename"));
                }
                let bytes = file.bytes();
                file.remove()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use alti_engine::serving::SlotStatus;

    #[test]
    fn idle_slots_are_listed_behind_busy_ones_and_missed_where_there_are_none() {
        let busy =
            |job| SlotStatus { job, choice: 0, prompt_tokens: 5, computed_tokens: 6, generated_tokens: 2 };
        let mut status = Status { slots: vec![busy(7)], ..Status::default() };
        let slots = rows(&status, 2, 64);
        assert_eq!((&slots[0]["id"], &slots[0]["id_task"]), (&json!(0), &json!(7)));
        let idle = json!({ "id": 1, "n_ctx": 64, "speculative": false, "is_processing": false });
        assert_eq!((&slots[1], slots.len()), (&idle, 2));
        assert!(refuse_if_full(&slots).is_ok() && refuse_if_full(&[]).is_ok());
        status.slots.push(busy(8));
        let error = refuse_if_full(&rows(&status, 2, 64)).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, "no slot available"));
    }
}
