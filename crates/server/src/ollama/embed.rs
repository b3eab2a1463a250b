//! `POST /api/embed` and the older `/api/embeddings`.

use super::shared::{Clock, required};
use crate::error::ApiResult;
use crate::generate::{embed, normalized};
use crate::models::KeepAlive;
use crate::openai::embeddings::inputs;
use crate::respond;
use crate::route::Call;
use crate::wire::{OneOrMany, TextOrTokens};
use alti_engine::serving::Pooling;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value};

crate::wire! {
    /// A request for texts' vectors.
    pub struct EmbedRequest {
        required {
            /// The model's name.
            model: String,
        }
        optional {
            /// One or several texts; none, or an empty one, loads the model.
            input: OneOrMany<String>,
            /// Whether texts that are too long are cut; yes if it does not say.
            truncate: bool,
            /// The first so many values only, of length 1 again; all of them if there are fewer, and for 0.
            dimensions: u32,
            /// How long the model stays in memory after this.
            keep_alive: KeepAlive,
        }
        ignored {
            /// Sampler settings.
            options: Map<String, Value>,
        }
    }
    /// Vectors, of length 1.
    pub struct Embedded {
        required {
            /// The model, as it was asked for.
            model: String,
            /// The vectors.
            embeddings: Vec<Vec<f32>>,
            /// Nanoseconds in all.
            total_duration: u64,
            /// Nanoseconds until the model was there.
            load_duration: u64,
            /// Tokens of the texts.
            prompt_eval_count: usize,
        }
    }
    /// A request for a text's vector.
    pub struct EmbedOneRequest {
        required {
            /// The model's name.
            model: String,
        }
        optional {
            /// The text; nothing loads the model.
            prompt: String,
            /// How long the model stays in memory after this.
            keep_alive: KeepAlive,
        }
        ignored {
            /// Sampler settings.
            options: Map<String, Value>,
        }
    }
    /// A vector, as the model gives it.
    pub struct EmbeddedOne {
        required {
            /// The values.
            embedding: Vec<f32>,
        }
    }
}

/// `POST /api/embed`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (EmbedRequest, _) = call.json(|_| false).await?;
    required(&request.model)?;
    let model = call.state.models().acquire(Some(&request.model), request.keep_alive).await?;
    let clock = Clock { began: call.began, loading: call.began.elapsed() };
    // None of them, and more than there are, are all of them.
    let dimensions = request.dimensions.filter(|&wanted| wanted > 0).map(|wanted| wanted as usize);
    let mut texts = match request.input {
        // Nothing loads the model.
        None => Vec::new(),
        Some(OneOrMany::One(text)) if text.is_empty() => Vec::new(),
        Some(OneOrMany::Many(texts)) if texts.is_empty() => Vec::new(),
        Some(texts) => inputs(&call, &model, TextOrTokens::Texts(texts.into_vec()).into_inputs())?,
    };
    if request.truncate.unwrap_or(true) {
        texts.iter_mut().for_each(|tokens| tokens.truncate(model.inference.context()));
    }
    let (vectors, usage) = embed(&call, &model, texts, Pooling::Mean).await?;
    Ok(respond::json(&Embedded {
        model: model.requested.clone(),
        embeddings: vectors.into_iter().map(|values| normalized(values, dimensions)).collect(),
        total_duration: clock.began.elapsed().as_nanos() as u64,
        load_duration: clock.loading.as_nanos() as u64,
        prompt_eval_count: usage.prompt_tokens,
    }))
}

/// `POST /api/embeddings`.
pub(super) async fn create_one(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (EmbedOneRequest, _) = call.json(|_| false).await?;
    required(&request.model)?;
    let model = call.state.models().acquire(Some(&request.model), request.keep_alive).await?;
    let Some(prompt) = request.prompt.filter(|prompt| !prompt.is_empty()) else {
        return Ok(respond::json(&EmbeddedOne { embedding: Vec::new() }));
    };
    let mut texts = inputs(&call, &model, TextOrTokens::Text(prompt).into_inputs())?;
    texts.iter_mut().for_each(|tokens| tokens.truncate(model.inference.context()));
    let (mut vectors, _) = embed(&call, &model, texts, Pooling::Mean).await?;
    Ok(respond::json(&EmbeddedOne { embedding: vectors.pop().unwrap_or_default() }))
}
