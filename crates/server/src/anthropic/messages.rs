//! `POST /v1/messages` and `/v1/messages/count_tokens`.

use super::answer::{Events, TokenCount, message};
use super::request::{CountTokensRequest, MessagesRequest, has_model};
use crate::auth::off_the_runtime;
use crate::error::ApiResult;
use crate::generate::{Options, collect, is_setting, render_chat, start_chat, stream};
use crate::respond;
use crate::route::{Call, Family, Stream};
use axum::body::Body;
use axum::http::Response;
use std::time::Duration;

/// `POST /v1/messages`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others): (MessagesRequest, _) = call.json(is_setting).await?;
    has_model(&request.model)?;
    let model = call.state.models().acquire(Some(&request.model), None).await?;
    let (streams, marks_cache) = (request.stream == Some(true), request.marks_cache());
    let common = request.into_common(&model, &others)?;
    let generation = start_chat(&call, model, common).await?;
    if streams {
        let keep_alive = Duration::from_secs(call.state.settings().keep_alive_seconds);
        let renderer = Events::new(&generation, marks_cache);
        return Ok(stream(generation, renderer, Stream::Events, keep_alive));
    }
    let model = generation.model.clone();
    let answer = collect(generation).await?;
    Ok(respond::json(&message(&model, answer, marks_cache)))
}

/// `POST /v1/messages/count_tokens`.
pub(super) async fn count_tokens(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (CountTokensRequest, _) = call.json(|_| false).await?;
    has_model(&request.model)?;
    let model = call.state.models().acquire(Some(&request.model), None).await?;
    let count = off_the_runtime(move || {
        let request = request.into_common(Options::new(model.base_sampling(Family::Anthropic)?))?;
        Ok(render_chat(&model, &request)?.tokens(&model.tokenizer).len())
    });
    Ok(respond::json(&TokenCount { input_tokens: count.await? }))
}
