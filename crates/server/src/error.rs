//! What goes wrong, and how each family of APIs says so.

use crate::route::Family;
use alti_engine::EngineError;
use alti_engine::serving::Rejected;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

/// The kinds of failures: one table says what each is called where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong and will be wrong again.
    InvalidRequest,
    /// No key, or one that is none.
    Authentication,
    /// The key may not do this.
    Permission,
    /// There is no such thing.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// It took too long to arrive.
    RequestTimeout,
    /// It does not go with the state of things.
    Conflict,
    /// The body is too long.
    TooLarge,
    /// Too much at once, or the queue is full.
    RateLimit,
    /// The key's quota is used up.
    Quota,
    /// Something broke here.
    Internal,
    /// Nobody can be served now.
    Unavailable,
    /// There is no room to write.
    StorageFull,
    /// What the model or the settings of this server do not allow, however it is asked for.
    NotSupported,
}

struct Row {
    kind: ErrorKind,
    status: StatusCode,
    openai: &'static str,
    anthropic: &'static str,
    llama_cpp: &'static str,
}

impl ErrorKind {
    const TABLE: [Row; 14] = [
        row(
            ErrorKind::InvalidRequest,
            StatusCode::BAD_REQUEST,
            ["invalid_request_error", "invalid_request_error", "invalid_request_error"],
        ),
        row(
            ErrorKind::Authentication,
            StatusCode::UNAUTHORIZED,
            ["authentication_error", "authentication_error", "authentication_error"],
        ),
        row(
            ErrorKind::Permission,
            StatusCode::FORBIDDEN,
            ["permission_error", "permission_error", "permission_error"],
        ),
        row(
            ErrorKind::NotFound,
            StatusCode::NOT_FOUND,
            ["invalid_request_error", "not_found_error", "not_found_error"],
        ),
        row(
            ErrorKind::MethodNotAllowed,
            StatusCode::METHOD_NOT_ALLOWED,
            ["invalid_request_error", "invalid_request_error", "invalid_request_error"],
        ),
        row(
            ErrorKind::RequestTimeout,
            StatusCode::REQUEST_TIMEOUT,
            ["timeout_error", "timeout_error", "timeout_error"],
        ),
        row(
            ErrorKind::Conflict,
            StatusCode::CONFLICT,
            ["invalid_request_error", "invalid_request_error", "invalid_request_error"],
        ),
        row(
            ErrorKind::TooLarge,
            StatusCode::PAYLOAD_TOO_LARGE,
            ["invalid_request_error", "request_too_large", "invalid_request_error"],
        ),
        row(
            ErrorKind::RateLimit,
            StatusCode::TOO_MANY_REQUESTS,
            ["rate_limit_error", "rate_limit_error", "rate_limit_error"],
        ),
        row(
            ErrorKind::Quota,
            StatusCode::TOO_MANY_REQUESTS,
            ["insufficient_quota", "rate_limit_error", "insufficient_quota"],
        ),
        row(
            ErrorKind::Internal,
            StatusCode::INTERNAL_SERVER_ERROR,
            ["server_error", "api_error", "server_error"],
        ),
        row(
            ErrorKind::Unavailable,
            StatusCode::SERVICE_UNAVAILABLE,
            ["server_error", "overloaded_error", "unavailable_error"],
        ),
        row(
            ErrorKind::StorageFull,
            StatusCode::INSUFFICIENT_STORAGE,
            ["server_error", "api_error", "server_error"],
        ),
        row(
            ErrorKind::NotSupported,
            StatusCode::BAD_REQUEST,
            ["invalid_request_error", "invalid_request_error", "not_supported_error"],
        ),
    ];

    fn row(self) -> &'static Row {
        &Self::TABLE[self as usize]
    }

    /// The status it is answered with.
    pub fn status(self) -> StatusCode {
        self.row().status
    }
}

/// A row: what OpenAI, Anthropic and llama.cpp call it.
const fn row(kind: ErrorKind, status: StatusCode, [openai, anthropic, llama_cpp]: [&'static str; 3]) -> Row {
    Row { kind, status, openai, anthropic, llama_cpp }
}

/// What families have words of their own for: their clients look for them in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// There is no model of this name.
    NoModel(String),
    /// A prompt longer than the context.
    ContextFull {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens there is room for.
        context: usize,
    },
}

impl Known {
    /// The family's own words, where it has some.
    fn message(&self, family: Family) -> Option<String> {
        Some(match (self, family) {
            // Clients of old look for the hint, others for `not found`.
            (Known::NoModel(name), Family::Ollama) => {
                format!("model '{name}' not found, try pulling it first")
            }
            (Known::ContextFull { tokens, context }, Family::OpenAi) => format!(
                "This model's maximum context length is {context} tokens, and the request has {tokens}: shorten it \
                 or enlarge the context"
            ),
            (Known::ContextFull { tokens, context }, Family::Anthropic) => {
                format!("prompt is too long: {tokens} tokens > {context} maximum")
            }
            (Known::ContextFull { tokens, context }, Family::LlamaCpp) => format!(
                "request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
            ),
            _ => return None,
        })
    }
}

/// A request that is refused or that failed, before a family has put it in its words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind it is.
    pub kind: ErrorKind,
    /// What is wrong and what to do.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// Seconds after which it is worth trying again.
    pub retry_after: Option<u64>,
    /// What it is, if families have words of their own for it.
    pub known: Option<Known>,
}

/// This crate's result.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A failure of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ApiError { kind, message: message.into(), param: None, code: None, retry_after: None, known: None }
    }

    /// A request that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// A field that is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).param(param)
    }

    /// Something that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A model that is not there.
    pub fn model_not_found(name: &str) -> Self {
        let name = excerpt(name);
        Self::not_found(format!("the model `{name}` does not exist here"))
            .param("model")
            .code("model_not_found")
            .known(Known::NoModel(name))
    }

    /// Something that broke here. The cause goes to the log and not to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(ErrorKind::Internal, "the request failed inside the server; its log says why")
    }

    /// Names the field.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Gives a word for programs.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Says what it is, for families that have words of their own for it.
    #[must_use]
    pub fn known(mut self, known: Known) -> Self {
        self.known = Some(known);
        self
    }

    /// What is wrong, in the family's own words where it has some.
    pub fn message_for(&self, family: Family) -> String {
        self.known.as_ref().and_then(|known| known.message(family)).unwrap_or_else(|| self.message.clone())
    }

    /// The error as the family's clients read it.
    pub fn body(&self, family: Family) -> Value {
        let row = self.kind.row();
        debug_assert_eq!(row.kind, self.kind);
        let message = self.message_for(family);
        match family {
            Family::OpenAi | Family::Operations => json!({ "error": {
                "message": message,
                "type": row.openai,
                "param": self.param,
                "code": self.code,
            } }),
            Family::Anthropic => json!({
                "type": "error",
                "error": { "type": row.anthropic, "message": message },
            }),
            Family::Ollama => json!({ "error": message }),
            Family::LlamaCpp => match self.known {
                Some(Known::ContextFull { tokens, context }) => json!({ "error": {
                    "code": row.status.as_u16(),
                    "message": message,
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": tokens,
                    "n_ctx": context,
                } }),
                _ => json!({ "error": {
                    "code": row.status.as_u16(),
                    "message": message,
                    "type": row.llama_cpp,
                } }),
            },
        }
    }

    /// The whole response to the request `id`.
    pub fn response(&self, family: Family, id: &str) -> Response<Body> {
        let mut body = self.body(family);
        if family == Family::Anthropic {
            body["request_id"] = id.into();
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A name out of a request, short enough to be repeated.
pub(crate) fn excerpt(text: &str) -> String {
    let mut line: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    if line.len() < text.len() {
        line.push_str("...");
    }
    line
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match &error {
            &EngineError::ContextFull { tokens, context } => Self::invalid(error.to_string())
                .code("context_length_exceeded")
                .known(Known::ContextFull { tokens, context }),
            EngineError::Backend(_) | EngineError::LogitCount { .. } | EngineError::BadLogit { .. } => {
                Self::internal(error)
            }
            EngineError::Ended { .. } | EngineError::Stopped { .. } => {
                Self::new(ErrorKind::Unavailable, error.to_string()).retry_after(5)
            }
            EngineError::InvalidSetting { name, .. } => Self::field(*name, error.to_string()),
            _ => Self::invalid(error.to_string()),
        }
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::QueueFull { retry_after_seconds, .. } => {
                Self::new(ErrorKind::RateLimit, rejected.to_string())
                    .code("rate_limit_exceeded")
                    .retry_after(retry_after_seconds.max(1))
            }
            Rejected::Invalid(error) => error.into(),
            Rejected::ShuttingDown => Self::new(ErrorKind::Unavailable, rejected.to_string()).retry_after(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_kinds() {
        for (index, row) in ErrorKind::TABLE.iter().enumerate() {
            assert_eq!(row.kind as usize, index);
        }
    }

    #[test]
    fn every_family_says_it_its_own_way() {
        let error = ApiError::model_not_found("x");
        assert_eq!(error.body(Family::OpenAi)["error"]["code"], "model_not_found");
        assert_eq!(error.body(Family::Anthropic)["error"]["type"], "not_found_error");
        assert_eq!(error.body(Family::Ollama)["error"], "model 'x' not found, try pulling it first");
        assert_eq!(error.body(Family::LlamaCpp)["error"]["code"], 404);
        assert_eq!(error.body(Family::LlamaCpp)["error"]["type"], "not_found_error");
    }

    #[test]
    fn a_prompt_that_is_too_long_is_refused_in_the_words_that_clients_look_for() {
        let error = ApiError::from(EngineError::ContextFull { tokens: 70, context: 64 });
        let said = |family| error.body(family)["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(said(Family::OpenAi).contains("maximum context length is 64 tokens"));
        assert_eq!(error.body(Family::OpenAi)["error"]["code"], "context_length_exceeded");
        assert_eq!(said(Family::Anthropic), "prompt is too long: 70 tokens > 64 maximum");
        assert!(
            said(Family::LlamaCpp).contains("(70 tokens) exceeds the available context size (64 tokens)")
        );
        let body = error.body(Family::LlamaCpp);
        assert_eq!(body["error"]["type"], "exceed_context_size_error");
        assert_eq!((&body["error"]["n_prompt_tokens"], &body["error"]["n_ctx"]), (&json!(70), &json!(64)));
    }
}
