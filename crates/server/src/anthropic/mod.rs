//! Anthropic's API.

mod answer;
mod blocks;
mod messages;
mod request;
mod turns;

pub(crate) use turns::join_turns;

use crate::route::{Family, Route, Scope, Stream};

const ANTHROPIC: Family = Family::Anthropic;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/v1/messages", ANTHROPIC, Scope::Inference, "Answers a chat.", |call| {
        Box::pin(messages::create(call))
    })
    .takes(request::MessagesRequest::OBJECT)
    .gives(answer::MessageAnswer::OBJECT)
    .streaming(Stream::Events),
    Route::post(
        "/v1/messages/count_tokens",
        ANTHROPIC,
        Scope::Inference,
        "Counts a chat's tokens.",
        |call| Box::pin(messages::count_tokens(call)),
    )
    .takes(request::CountTokensRequest::OBJECT)
    .gives(answer::TokenCount::OBJECT),
];
