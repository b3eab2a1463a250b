//! Ollama's API.

mod chat;
mod embed;
mod fit;
mod generate;
mod manage;
mod modelfile;
mod shared;
mod show;
mod thinking;

use crate::route::{Family, Route, Scope, Stream};

const OLLAMA: Family = Family::Ollama;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/api/generate", OLLAMA, Scope::Inference, "Answers a prompt.", |call| {
        Box::pin(generate::create(call))
    })
    .takes(generate::GenerateRequest::OBJECT)
    .streaming(Stream::Lines),
    Route::post("/api/chat", OLLAMA, Scope::Inference, "Answers a chat.", |call| {
        Box::pin(chat::create(call))
    })
    .takes(chat::OllamaChatRequest::OBJECT)
    .streaming(Stream::Lines),
    Route::post("/api/embed", OLLAMA, Scope::Inference, "Makes vectors of texts.", |call| {
        Box::pin(embed::create(call))
    })
    .takes(embed::EmbedRequest::OBJECT)
    .gives(embed::Embedded::OBJECT),
    Route::post("/api/embeddings", OLLAMA, Scope::Inference, "Makes a vector of a text.", |call| {
        Box::pin(embed::create_one(call))
    })
    .takes(embed::EmbedOneRequest::OBJECT)
    .gives(embed::EmbeddedOne::OBJECT),
    Route::get("/api/tags", OLLAMA, Scope::Models, "Lists the models.", |call| Box::pin(manage::tags(call))),
    Route::post("/api/show", OLLAMA, Scope::Models, "Describes a model.", |call| Box::pin(show::show(call)))
        .takes(show::ShowRequest::OBJECT),
    Route::get("/api/ps", OLLAMA, Scope::Models, "Lists the models in memory.", |call| {
        Box::pin(manage::ps(call))
    }),
    Route::get("/api/version", OLLAMA, Scope::Open, "The version of Ollama's API that is spoken.", |_| {
        Box::pin(async { Ok(manage::version()) })
    }),
    Route::post("/api/pull", OLLAMA, Scope::Manage, "Fetches a model.", |call| Box::pin(manage::pull(call)))
        .takes(manage::PullRequest::OBJECT)
        .streaming(Stream::Lines),
    Route::post("/api/create", OLLAMA, Scope::Manage, "Names a model with settings of its own.", |call| {
        Box::pin(manage::create(call))
    })
    .takes(manage::CreateRequest::OBJECT)
    .streaming(Stream::Lines),
    Route::post("/api/copy", OLLAMA, Scope::Manage, "Gives a model another name.", |call| {
        Box::pin(manage::copy(call))
    })
    .takes(manage::CopyRequest::OBJECT),
    Route::delete("/api/delete", OLLAMA, Scope::Manage, "Removes a model.", |call| {
        Box::pin(manage::delete(call))
    })
    .takes(manage::DeleteRequest::OBJECT),
];
