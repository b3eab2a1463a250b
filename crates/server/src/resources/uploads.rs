//! `/v1/uploads`: files that come in parts, which may be sent again or side by side.

use super::files::{base_name, check_purpose, file_object, kept_for};
use super::form::Form;
use super::{ask, tenant};
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use alti_store::{NewUpload, Upload, UploadPart};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const OPENAI: Family = Family::OpenAi;

/// Most bytes of a part, as with OpenAI.
const LARGEST_PART: u64 = 64 << 20;

crate::wire! {
    /// A file to be uploaded in parts.
    pub struct CreateUploadRequest {
        required {
            /// The file's name.
            filename: String,
            /// What it is for.
            purpose: String,
            /// Its size in bytes.
            bytes: u64,
        }
        optional {
            /// How long it is kept: `{"anchor": "created_at", "seconds": 3600}`.
            expires_after: Value,
        }
        ignored {
            /// What its content is.
            mime_type: String,
        }
    }
    /// The parts that a file is made of.
    pub struct CompleteUploadRequest {
        required {
            /// The parts' ids, in the order in which they make the file.
            part_ids: Vec<String>,
        }
        optional {
            /// The file's MD5 digest, in hexadecimal digits.
            md5: String,
        }
    }
}

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/v1/uploads", OPENAI, Scope::Data, "Announces a file that comes in parts.", |call| {
        Box::pin(create(call))
    })
    .takes(CreateUploadRequest::OBJECT),
    Route::post(
        "/v1/uploads/{upload}/parts",
        OPENAI,
        Scope::Data,
        "Adds a part (multipart/form-data).",
        |call| Box::pin(add_part(call)),
    )
    .takes_form(part_form),
    Route::post(
        "/v1/uploads/{upload}/complete",
        OPENAI,
        Scope::Data,
        "Makes the file of its parts.",
        |call| Box::pin(complete(call)),
    )
    .takes(CompleteUploadRequest::OBJECT),
    Route::post("/v1/uploads/{upload}/cancel", OPENAI, Scope::Data, "Gives an upload up.", |call| {
        Box::pin(cancel(call))
    }),
];

/// What a part is made of.
fn part_form() -> Value {
    json!({
        "type": "object",
        "properties": { "data": { "type": "string", "format": "binary" } },
        "required": ["data"],
    })
}

fn upload_object(upload: &Upload) -> Value {
    json!({
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": upload.status.name(),
        "file": upload.file.as_ref().map(file_object),
    })
}

fn part_object(part: &UploadPart) -> Value {
    json!({
        "id": part.id,
        "object": "upload.part",
        "created_at": part.created_at,
        "upload_id": part.upload,
    })
}

/// The tenant and the upload that a call names.
fn named(call: &Call) -> (String, String) {
    (tenant(call), call.path("upload").to_owned())
}

/// `POST /v1/uploads`.
async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<CreateUploadRequest>(|_| false).await?;
    let most = call.state.settings().max_upload_bytes as u64;
    if request.bytes > most {
        let message = format!("a file of {} bytes is longer than the {most} bytes allowed", request.bytes);
        return Err(ApiError::new(ErrorKind::TooLarge, message).param("bytes"));
    }
    let name = base_name(&request.filename);
    if name.is_empty() {
        return Err(ApiError::field("filename", "`filename` has no letters that a name could have"));
    }
    let file_seconds = match &request.expires_after {
        None => None,
        Some(after) => Some(kept_for(after["anchor"].as_str(), after["seconds"].as_i64())?),
    };
    check_purpose(&request.purpose)?;
    let CreateUploadRequest { purpose, bytes, .. } = request;
    let new = NewUpload { tenant: tenant(&call), name, purpose, bytes, file_seconds };
    let made = ask(&call.state, move |store| store.uploads().create(&new)).await?;
    Ok(respond::json(&upload_object(&made)))
}

/// `POST /v1/uploads/{upload}/parts`.
async fn add_part(mut call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let most = call.state.settings().max_upload_bytes as u64;
    // An upload that is over is told before its part has come.
    let (whose, upload) = (tenant.clone(), id.clone());
    let writer = ask(&call.state, move |store| store.uploads().part_writer(&whose, &upload)).await?;
    let mut writer = Some(writer);
    let mut written = None;
    let mut form = Form::of(&mut call).await?;
    while let Some(field) = form.next().await? {
        match (field.name(), writer.take()) {
            ("data", Some(writer)) => written = Some(field.write_to(writer, most.min(LARGEST_PART)).await?),
            ("data", None) => {
                let message = "there is more than one `data`: send parts one by one";
                return Err(ApiError::field("data", message));
            }
            (_, unused) => {
                writer = unused;
                field.text().await?;
            }
        }
    }
    let written = written.ok_or_else(|| ApiError::field("data", "`data` is missing"))?;
    let part = off_the_runtime(move || Ok(written.finish_part(&tenant, &id, most)?)).await?;
    Ok(respond::json(&part_object(&part)))
}

/// `POST /v1/uploads/{upload}/complete`.
async fn complete(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<CompleteUploadRequest>(|_| false).await?;
    let (tenant, id) = named(&call);
    let CompleteUploadRequest { part_ids, md5 } = request;
    // Who asks again while a file is made finds it made, instead of making another.
    static JOINING: Semaphore = Semaphore::const_new(1);
    let alone = JOINING.acquire().await;
    let done = ask(&call.state, move |store| {
        // In here: it goes on where whoever asked has gone away.
        let _one_at_a_time = alone;
        store.uploads().complete(&tenant, &id, &part_ids, md5.as_deref().filter(|md5| !md5.is_empty()))
    });
    Ok(respond::json(&upload_object(&done.await?)))
}

/// `POST /v1/uploads/{upload}/cancel`.
async fn cancel(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let ended = ask(&call.state, move |store| store.uploads().cancel(&tenant, &id)).await?;
    Ok(respond::json(&upload_object(&ended)))
}
