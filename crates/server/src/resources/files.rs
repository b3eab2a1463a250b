//! `/v1/files`.

use super::{ask, deleted, listed_by, page, tenant};
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use alti_store::{File, FileWriter, NewFile};
use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{DefaultBodyLimit, FromRequest};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, HeaderValue};
use axum::http::{Request, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use std::io::Read;
use std::time::Duration;

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

/// The fields of a form, as far as they have come.
#[derive(Default)]
struct Form {
    file: Option<(String, FileWriter)>,
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

/// `POST /v1/files`.
async fn upload(mut call: Call) -> ApiResult<Response<Body>> {
    let patience = call.state.settings().body_timeout();
    let mut request = Request::new(call.take_body());
    *request.headers_mut() = call.headers().clone();
    // Fields have limits of their own; the whole has none that would cut a large file off.
    DefaultBodyLimit::disable().apply(&mut request);
    let mut multipart = Multipart::from_request(request, &()).await.map_err(|error| {
        ApiError::invalid(format!("a file is uploaded as multipart/form-data: {}", error.body_text()))
    })?;
    let mut form = Form::default();
    loop {
        let next = timely(patience, multipart.next_field()).await?;
        let Some(field) = next.map_err(broken)? else { break };
        match field.name().unwrap_or_default() {
            "file" if form.file.is_some() => {
                return Err(ApiError::field("file", "there is more than one `file`: send them one by one"));
            }
            "file" => form.file = Some(receive(&call, field, patience).await?),
            "purpose" => form.purpose = Some(text(field, patience).await?),
            "expires_after[anchor]" => form.anchor = Some(text(field, patience).await?),
            "expires_after[seconds]" => form.seconds = Some(text(field, patience).await?),
            _ => drop(text(field, patience).await?),
        }
    }
    let (name, writer) = form.file.take().ok_or_else(|| ApiError::field("file", "`file` is missing"))?;
    let new = NewFile { tenant: tenant(&call), name, purpose: purpose(&form)?, expires_at: expiry(&form)? };
    let file = off_the_runtime(move || Ok(writer.finish(&new)?)).await?;
    Ok(respond::json(&file_object(&file)))
}

fn purpose(form: &Form) -> ApiResult<String> {
    let purpose =
        form.purpose.as_deref().ok_or_else(|| ApiError::field("purpose", "`purpose` is missing"))?;
    if PURPOSES.contains(&purpose) {
        return Ok(purpose.to_owned());
    }
    let message = format!("`purpose` must be one of {}", PURPOSES.join(", "));
    Err(ApiError::field("purpose", message))
}

fn expiry(form: &Form) -> ApiResult<Option<i64>> {
    let (anchor, seconds) = match (&form.anchor, &form.seconds) {
        (None, None) => return Ok(None),
        (anchor, seconds) => (anchor.as_deref().unwrap_or_default(), seconds.as_deref().unwrap_or_default()),
    };
    if anchor != "created_at" {
        return Err(ApiError::field("expires_after.anchor", "`expires_after.anchor` must be `created_at`"));
    }
    let seconds: Option<i64> = seconds.parse().ok().filter(|seconds| (3600..=2_592_000).contains(seconds));
    let message = "`expires_after.seconds` must be a whole number from 3600 to 2592000";
    let seconds = seconds.ok_or_else(|| ApiError::field("expires_after.seconds", message))?;
    Ok(Some(alti_store::now() + seconds))
}

/// Waits no longer than a client may take between two pieces of a body.
async fn timely<T>(patience: Duration, next: impl Future<Output = T>) -> ApiResult<T> {
    tokio::time::timeout(patience, next)
        .await
        .map_err(|_| ApiError::new(ErrorKind::RequestTimeout, "the request's body did not arrive in time"))
}

fn broken(error: axum::extract::multipart::MultipartError) -> ApiError {
    ApiError::invalid(format!("the form cannot be read: {}", error.body_text()))
}

/// A short field.
async fn text(mut field: Field<'_>, patience: Duration) -> ApiResult<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = timely(patience, field.chunk()).await?.map_err(broken)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > 4096 {
            return Err(ApiError::new(ErrorKind::TooLarge, "a field of the form is longer than 4096 bytes"));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid("a field of the form is not UTF-8"))
}

/// The file, as it arrives: it is never in memory as a whole.
async fn receive(call: &Call, mut field: Field<'_>, patience: Duration) -> ApiResult<(String, FileWriter)> {
    let name = match field.file_name().map(base_name).filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => return Err(ApiError::field("file", "`file` must be a file with a name, not a text field")),
    };
    let most = call.state.settings().max_upload_bytes as u64;
    let mut writer = ask(&call.state, |store| store.files().writer()).await?;
    while let Some(piece) = timely(patience, field.chunk()).await?.map_err(broken)? {
        if writer.bytes() + piece.len() as u64 > most {
            let message = format!("the file is longer than the {most} bytes allowed");
            return Err(ApiError::new(ErrorKind::TooLarge, message));
        }
        writer = off_the_runtime(move || {
            writer.write(&piece)?;
            Ok(writer)
        })
        .await?;
    }
    Ok((name, writer))
}

/// A name without folders and control characters, and not too long: it comes back in headers and lists.
fn base_name(name: &str) -> String {
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
            expiry(&Form { anchor, seconds, ..Form::default() })
        };
        assert!(form("created_at", "3600").unwrap().unwrap() > alti_store::now());
        assert!(form("created_at", "3599").is_err() && form("created_at", "").is_err());
        assert_eq!(form("now", "3600").unwrap_err().param.as_deref(), Some("expires_after.anchor"));
        assert_eq!(expiry(&Form::default()).unwrap(), None);
    }
}
