//! Forms (`multipart/form-data`), read as they arrive: a file in one is never in memory as a whole.

use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::route::Call;
use alti_store::FileWriter;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest};
use axum::http::Request;
use std::time::Duration;

/// Longest field that is not a file.
const LONGEST_TEXT: usize = 4096;

/// A form on its way in.
pub(super) struct Form {
    multipart: Multipart,
    /// How long a client may take between two pieces.
    patience: Duration,
}

/// A field of a form on its way in.
pub(super) struct FormField<'form> {
    field: Field<'form>,
    patience: Duration,
}

impl Form {
    /// The form that a call brings.
    ///
    /// # Errors
    /// When it brings something else.
    pub(super) async fn of(call: &mut Call) -> ApiResult<Form> {
        let patience = call.state.settings().body_timeout();
        let mut request = Request::new(call.take_body());
        *request.headers_mut() = call.headers().clone();
        // Fields have limits of their own; the whole has none that would cut a large file off.
        DefaultBodyLimit::disable().apply(&mut request);
        let multipart = Multipart::from_request(request, &()).await.map_err(|error| {
            ApiError::invalid(format!("a file is uploaded as multipart/form-data: {}", error.body_text()))
        })?;
        Ok(Form { multipart, patience })
    }

    /// The next field.
    ///
    /// # Errors
    /// When the form cannot be read, or does not arrive in time.
    pub(super) async fn next(&mut self) -> ApiResult<Option<FormField<'_>>> {
        let patience = self.patience;
        let field = timely(patience, self.multipart.next_field()).await?;
        Ok(field.map(|field| FormField { field, patience }))
    }
}

impl FormField<'_> {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    /// The name of the file that it is.
    pub(super) fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// The text that it is.
    ///
    /// # Errors
    /// When it is long, or none.
    pub(super) async fn text(mut self) -> ApiResult<String> {
        let mut bytes = Vec::new();
        while let Some(piece) = timely(self.patience, self.field.chunk()).await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LONGEST_TEXT {
                let message = format!("a field of the form is longer than {LONGEST_TEXT} bytes");
                return Err(ApiError::new(ErrorKind::TooLarge, message));
            }
        }
        String::from_utf8(bytes).map_err(|_| ApiError::invalid("a field of the form is not UTF-8"))
    }

    /// Writes its content, of at most `most` bytes.
    ///
    /// # Errors
    /// When it is longer, does not arrive in time, or cannot be written.
    pub(super) async fn write_to(mut self, mut writer: FileWriter, most: u64) -> ApiResult<FileWriter> {
        while let Some(piece) = timely(self.patience, self.field.chunk()).await? {
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
        Ok(writer)
    }
}

/// Waits no longer than a client may take between two pieces of a body.
async fn timely<T>(
    patience: Duration,
    next: impl Future<Output = Result<T, MultipartError>>,
) -> ApiResult<T> {
    let next = tokio::time::timeout(patience, next)
        .await
        .map_err(|_| ApiError::new(ErrorKind::RequestTimeout, "the request's body did not arrive in time"))?;
    next.map_err(|error| ApiError::invalid(format!("the form cannot be read: {}", error.body_text())))
}
