//! OpenAI's API.

pub(crate) mod chat;
mod completions;
pub(crate) mod embeddings;
mod models;
pub(crate) mod shared;
mod tools;

use crate::route::{Family, Route, Scope, Stream};
use chat::{ChatCompletion, ChatCompletionRequest};
use completions::{Completion, CompletionRequest};
use embeddings::{EmbeddingList, EmbeddingRequest};
use models::{DeletedModel, Model, ModelList};

const OPENAI: Family = Family::OpenAi;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::get("/v1/models", OPENAI, Scope::Models, "Lists the models.", |call| Box::pin(models::list(call)))
        .gives(ModelList::OBJECT),
    Route::get("/v1/models/{*model}", OPENAI, Scope::Models, "Describes a model.", |call| {
        Box::pin(models::show(call))
    })
    .gives(Model::OBJECT),
    Route::delete("/v1/models/{*model}", OPENAI, Scope::Manage, "Removes a model.", |call| {
        Box::pin(models::delete(call))
    })
    .gives(DeletedModel::OBJECT),
    Route::post("/v1/chat/completions", OPENAI, Scope::Inference, "Answers a chat.", |call| {
        Box::pin(chat::create(call))
    })
    .takes(ChatCompletionRequest::OBJECT)
    .gives(ChatCompletion::OBJECT)
    .streaming(Stream::Events),
    Route::post("/v1/completions", OPENAI, Scope::Inference, "Goes on with a text.", |call| {
        Box::pin(completions::create(call))
    })
    .takes(CompletionRequest::OBJECT)
    .gives(Completion::OBJECT)
    .streaming(Stream::Events),
    Route::post("/v1/embeddings", OPENAI, Scope::Inference, "Makes vectors of texts.", |call| {
        Box::pin(embeddings::create(call))
    })
    .takes(EmbeddingRequest::OBJECT)
    .gives(EmbeddingList::OBJECT),
];
