//! `POST /tokenize`, `/detokenize` and `/apply-template`.

use super::prompts::mixed;
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult};
use crate::generate::{is_setting, render_chat};
use crate::openai::chat::ChatCompletionRequest;
use crate::respond;
use crate::route::Call;
use alti_text::Specials;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

crate::wire! {
    /// A text to be turned into tokens.
    pub struct TokenizeRequest {
        optional {
            /// The text; or a list of texts and tokens, which are put together. Nothing has no tokens.
            content: Value,
            /// The model's name; the server's default model where none is given.
            model: String,
            /// Whether the token is put in front that the model wants there.
            add_special: bool,
            /// Whether spellings of control tokens are those tokens; yes if it does not say.
            parse_special: bool,
            /// Whether tokens come with their texts.
            with_pieces: bool,
        }
    }
    /// Tokens.
    pub struct Tokens {
        required {
            /// Ids; or objects with `id` and `piece`, where that was asked for.
            tokens: Vec<Value>,
        }
    }
    /// Tokens to be turned into text.
    pub struct DetokenizeRequest {
        optional {
            /// Ids; none are no text.
            tokens: Vec<u32>,
            /// The model's name; the server's default model where none is given.
            model: String,
        }
    }
    /// Text.
    pub struct Detokenized {
        required {
            /// The text.
            content: String,
        }
    }
    /// A chat's prompt.
    pub struct Rendered {
        required {
            /// The prompt.
            prompt: String,
        }
    }
}

/// `POST /tokenize`.
pub(super) async fn tokenize(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (TokenizeRequest, _) = call.json(|_| false).await?;
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let tokens = off_the_runtime(move || {
        let tokenizer = &model.tokenizer;
        let specials = if request.parse_special.unwrap_or(true) { Specials::Parse } else { Specials::AsText };
        let begins = request.add_special == Some(true);
        let tokens = match &request.content {
            Some(content) => mixed(tokenizer, content, "content", specials, begins)?,
            None => Vec::new(),
        };
        let piece = |token: u32| match std::str::from_utf8(tokenizer.token_bytes(token)) {
            Ok(text) => json!({ "id": token, "piece": text }),
            Err(_) => json!({ "id": token, "piece": tokenizer.token_bytes(token) }),
        };
        Ok(match request.with_pieces {
            Some(true) => tokens.into_iter().map(piece).collect(),
            _ => tokens.into_iter().map(Value::from).collect(),
        })
    });
    Ok(respond::json(&Tokens { tokens: tokens.await? }))
}

/// `POST /detokenize`.
pub(super) async fn detokenize(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (DetokenizeRequest, _) = call.json(|_| false).await?;
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let size = model.tokenizer.vocabulary_size();
    let tokens = request.tokens.unwrap_or_default();
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= size) {
        let message = format!("token {token} is not in the model's vocabulary of {size}");
        return Err(ApiError::field("tokens", message));
    }
    let content = off_the_runtime(move || Ok(model.tokenizer.decode_spelling_specials(&tokens))).await?;
    Ok(respond::json(&Detokenized { content }))
}

/// `POST /apply-template`.
pub(super) async fn apply_template(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others): (ChatCompletionRequest, _) = call.json(is_setting).await?;
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let prompt = off_the_runtime(move || {
        let common = request.into_common(&model, others)?;
        Ok(render_chat(&model, &common)?.text())
    });
    Ok(respond::json(&Rendered { prompt: prompt.await? }))
}
