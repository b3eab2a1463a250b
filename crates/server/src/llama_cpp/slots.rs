//! `/slots`: the answers in the works, and texts that are kept in files under a number.
//!
//! Answers have no fixed slots here. A request that names one (`id_slot`) has its text remembered under that number, by
//! whoever's key asked; `POST /slots/{slot}` writes its keys and values to a file of the owner's `slot_folder`, brings
//! them back after a restart or on another machine, or gives them up.

use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::models::Lease;
use crate::respond;
use crate::route::Call;
use alti_engine::EngineError;
use alti_engine::serving::{CacheDomain, SlotAction, SlotName};
use axum::body::Body;
use axum::http::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

crate::wire! {
    /// What is to be done with a slot's text; the query says what (`action=save`, `restore` or `erase`).
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
    let slots = model.inference.max_running();
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

/// `POST /slots/{slot}`.
pub(super) async fn act(mut call: Call) -> ApiResult<Response<Body>> {
    let action = call.query_value("action").unwrap_or_default();
    // An erasure needs no body.
    let body = call.bytes().await?;
    let body = if body.iter().all(u8::is_ascii_whitespace) { bytes::Bytes::from_static(b"{}") } else { body };
    let read = crate::wire::read_json::<SlotRequest>(&body, SlotRequest::OBJECT)?;
    read.tell_unknown(SlotRequest::OBJECT, call.state.unknown_fields(), |_| false);
    let SlotRequest { filename, model } = read.value;
    let model = call.state.models().acquire(model.as_deref(), None).await?;
    let id_slot = call.path("slot").parse::<i64>().ok().filter(|slot| *slot >= 0);
    let slot = named(&model, id_slot)?
        .ok_or_else(|| ApiError::field("id_slot", "the path names no slot: it is `/slots/` and a number"))?;
    let tenant = call.principal.tenant().to_owned();
    let path = match action.as_str() {
        "erase" => None,
        "save" | "restore" => Some(file(&call, &tenant, filename.as_deref())?),
        _ => return Err(ApiError::field("action", "`action` must be `save`, `restore` or `erase`")),
    };
    let name = SlotName { domain: CacheDomain { tenant, adapter: model.adapter() }, slot };
    off_the_runtime(move || done(&model, name, &action, path.as_deref(), filename)).await
}

/// The file of this name, in the caller's own folder.
fn file(call: &Call, tenant: &str, name: Option<&str>) -> ApiResult<PathBuf> {
    let folder = call.state.settings().slot_folder.as_ref().ok_or_else(|| {
        let message = "this server keeps no slots in files: its setting server.slot_folder names no folder";
        ApiError::not_found(message).code("no_slot_folder")
    })?;
    let name = name.ok_or_else(|| ApiError::field("filename", "`filename` is missing"))?;
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    if !(1..=128).contains(&name.len()) || name.starts_with('.') || !name.chars().all(allowed) {
        let message = "`filename` must be 1 to 128 letters, digits, `.`, `-` and `_`, and not begin with `.`";
        return Err(ApiError::field("filename", message));
    }
    let tenant = utf8_percent_encode(tenant, NON_ALPHANUMERIC);
    Ok(folder.join(format!("of-{tenant}")).join(name))
}

fn done(
    model: &Lease,
    name: SlotName,
    action: &str,
    path: Option<&Path>,
    filename: Option<String>,
) -> ApiResult<Response<Body>> {
    let (slot, began) = (name.slot, Instant::now());
    let identity = &model.facts.digest;
    let act = |action| {
        model.inference.slot(name, action).map_err(|error| match error {
            // The file's place is the owner's business.
            EngineError::Prefixes { what, .. } => ApiError::field("filename", what),
            error => error.into(),
        })
    };
    let Some(path) = path else {
        return Ok(respond::json(&json!({ "id_slot": slot, "n_erased": act(SlotAction::Erase)? })));
    };
    let saves = action == "save";
    let tokens = if saves {
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder)
            .map_err(|error| ApiError::internal(format!("the folder for slots cannot be made: {error}")))?;
        act(SlotAction::Save(path, identity))?
    } else {
        if !path.is_file() {
            let shown = excerpt(filename.as_deref().unwrap_or_default());
            return Err(ApiError::not_found(format!("no slot was saved as `{shown}`")).param("filename"));
        }
        act(SlotAction::Restore(path, identity))?
    };
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    Ok(respond::json(&match saves {
        true => json!({
            "id_slot": slot,
            "filename": filename,
            "n_saved": tokens,
            "n_written": bytes,
            "timings": { "save_ms": milliseconds },
        }),
        false => json!({
            "id_slot": slot,
            "filename": filename,
            "n_restored": tokens,
            "n_read": bytes,
            "timings": { "restore_ms": milliseconds },
        }),
    }))
}
