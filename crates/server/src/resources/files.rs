//! `/v1/files`.

use super::form::{Form, FormField};
use super::{ask, deleted, listed_by, page, tenant};
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use alti_store::{File, FileWriter, NewFile};
use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, HeaderValue};
use bytes::Bytes;
use serde_json::{Value, json};
use std::io::Read;

const OPENAI: Family = Family::OpenAi;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/v1/files", OPENAI, Scope::Data, "Uploads a file (multipart/form-data).", |call| {
        Box::pin(upload(call))
    })
    .takes_form(upload_form),
    Route::get("/v1/files", OPENAI, Scope::Data, "Lists the files.", |call| Box::pin(list(call))),
    Route::get("/v1/files/{file}", OPENAI, Scope::Data, "Describes a file.", |call| Box::pin(show(call))),
    Route::delete("/v1/files/{file}", OPENAI, Scope::Data, "Deletes a file.", |call| Box::pin(delete(call))),
    Route::get("/v1/files/{file}/content", OPENAI, Scope::Data, "A file's content.", |call| {
        Box::pin(content(call))
    }),
];

/// What files may be uploaded for.
const PURPOSES: [&str; 6] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];

/// What an upload is made of.
fn upload_form() -> Value {
    json!({
        "type": "object",
        "properties": {
            "file": { "type": "string", "format": "binary" },
            "purpose": { "type": "string", "enum": PURPOSES },
        },
        "required": ["file", "purpose"],
    })
}

/// The file as clients see it.
pub(super) fn file_object(file: &File) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": null,
    })
}

/// The fields of an upload, as far as they have come.
#[derive(Default)]
struct Fields {
    file: Option<(String, FileWriter)>,
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

/// `POST /v1/files`.
async fn upload(mut call: Call) -> ApiResult<Response<Body>> {
    let mut form = Form::of(&mut call).await?;
    let mut fields = Fields::default();
    while let Some(field) = form.next().await? {
        match field.name() {
            "file" if fields.file.is_some() => {
                return Err(ApiError::field("file", "there is more than one `file`: send them one by one"));
            }
            "file" => fields.file = Some(receive(&call, field).await?),
            "purpose" => fields.purpose = Some(field.text().await?),
            "expires_after[anchor]" => fields.anchor = Some(field.text().await?),
            "expires_after[seconds]" => fields.seconds = Some(field.text().await?),
            _ => drop(field.text().await?),
        }
    }
    let (name, writer) = fields.file.take().ok_or_else(|| ApiError::field("file", "`file` is missing"))?;
    let expires_at = expiry(&fields)?;
    let purpose = fields.purpose.ok_or_else(|| ApiError::field("purpose", "`purpose` is missing"))?;
    check_purpose(&purpose)?;
    let new = NewFile { tenant: tenant(&call), name, purpose, expires_at };
    let file = off_the_runtime(move || Ok(writer.finish(&new)?)).await?;
    Ok(respond::json(&file_object(&file)))
}

/// Checks what a file is for.
///
/// # Errors
/// When it is nothing that files are for.
pub(super) fn check_purpose(purpose: &str) -> ApiResult<()> {
    if PURPOSES.contains(&purpose) {
        return Ok(());
    }
    let message = format!("`purpose` must be one of {}", PURPOSES.join(", "));
    Err(ApiError::field("purpose", message))
}

fn expiry(fields: &Fields) -> ApiResult<Option<i64>> {
    if fields.anchor.is_none() && fields.seconds.is_none() {
        return Ok(None);
    }
    let seconds = fields.seconds.as_deref().and_then(|seconds| seconds.parse().ok());
    Ok(Some(alti_store::now() + kept_for(fields.anchor.as_deref(), seconds)?))
}

/// Reads `expires_after`: for how many seconds a file is kept.
///
/// # Errors
/// Another beginning than the file's own, less than an hour, more than 30 days.
pub(super) fn kept_for(anchor: Option<&str>, seconds: Option<i64>) -> ApiResult<i64> {
    if anchor != Some("created_at") {
        return Err(ApiError::field("expires_after.anchor", "`expires_after.anchor` must be `created_at`"));
    }
    let message = "`expires_after.seconds` must be a whole number from 3600 to 2592000";
    seconds
        .filter(|seconds| (3600..=2_592_000).contains(seconds))
        .ok_or_else(|| ApiError::field("expires_after.seconds", message))
}

/// The file, as it arrives.
async fn receive(call: &Call, field: FormField<'_>) -> ApiResult<(String, FileWriter)> {
    let name = match field.file_name().map(base_name).filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => return Err(ApiError::field("file", "`file` must be a file with a name, not a text field")),
    };
    let writer = ask(&call.state, |store| store.files().writer()).await?;
    let most = call.state.settings().max_upload_bytes as u64;
    Ok((name, field.write_to(writer, most).await?))
}

/// A name without folders and control characters, and not too long: it comes back in headers and lists.
pub(super) fn base_name(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    name.chars().filter(|letter| !letter.is_control()).take(255).collect()
}

/// `GET /v1/files`.
async fn list(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, page) = (tenant(&call), page(&call, 10_000, 10_000, false)?);
    let purpose = call.query_value("purpose");
    let found = ask(&call.state, move |store| store.files().list(&tenant, purpose.as_deref(), &page)).await?;
    Ok(respond::json(&listed_by(found, file_object)))
}

/// `GET /v1/files/{file}`.
async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = (tenant(&call), call.path("file").to_owned());
    let file = ask(&call.state, move |store| store.files().get(&tenant, &id)).await?;
    Ok(respond::json(&file_object(&file)))
}

/// `DELETE /v1/files/{file}`.
async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = (tenant(&call), call.path("file").to_owned());
    let answer = deleted(&id, "file");
    ask(&call.state, move |store| store.files().delete(&tenant, &id)).await?;
    Ok(respond::json(&answer))
}

/// `GET /v1/files/{file}/content`.
async fn content(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = (tenant(&call), call.path("file").to_owned());
    let (file, reader) = ask(&call.state, move |store| store.files().open(&tenant, &id)).await?;
    let pieces = futures_util::stream::unfold(reader, |mut reader| async move {
        let piece = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; 64 << 10];
            let read = reader.read(&mut buffer).map(|count| {
                buffer.truncate(count);
                buffer
            });
            (read, reader)
        });
        match piece.await {
            Ok((Ok(buffer), _)) if buffer.is_empty() => None,
            Ok((read, reader)) => Some((read.map(Bytes::from), reader)),
            Err(_) => None,
        }
    });
    let mut response = respond::text("application/octet-stream", Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(file.bytes));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_only_a_name() {
        for (name, base) in
            [("a.txt", "a.txt"), ("../../etc/passwd", "passwd"), ("C:\\x\\y.md", "y.md"), ("a\r\nb", "ab")]
        {
            assert_eq!(base_name(name), base);
        }
        assert_eq!(base_name(&"é".repeat(1000)).chars().count(), 255);
    }

    #[test]
    fn files_end_when_their_form_says() {
        let form = |anchor: &str, seconds: &str| {
            let (anchor, seconds) = (Some(anchor.to_owned()), Some(seconds.to_owned()));
            expiry(&Fields { anchor, seconds, ..Fields::default() })
        };
        assert!(form("created_at", "3600").unwrap().unwrap() > alti_store::now());
        assert!(form("created_at", "3599").is_err() && form("created_at", "").is_err());
        assert_eq!(form("now", "3600").unwrap_err().param.as_deref(), Some("expires_after.anchor"));
        assert_eq!(expiry(&Fields::default()).unwrap(), None);
    }
}
