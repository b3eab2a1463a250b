//! The API of llama.cpp's server.

mod completion;
mod embedding;
mod rerank;
mod samplers;
pub(crate) mod slots;
mod state;
mod text;

use crate::error::{ApiError, ApiResult};
use crate::generate::Format;
use crate::openai::chat::ChatCompletionRequest;
use crate::route::{Family, Route, Scope, Stream};
use alti_engine::grammar::GrammarSource;
use serde_json::{Map, Value};

const LLAMA: Family = Family::LlamaCpp;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/completion", LLAMA, Scope::Inference, "Goes on with a text.", |call| {
        Box::pin(completion::create(call))
    })
    .takes(completion::LlamaCompletionRequest::OBJECT)
    .gives(completion::LlamaCompletion::OBJECT)
    .streaming(Stream::Events),
    Route::post("/infill", LLAMA, Scope::Inference, "Fills in between two texts.", |call| {
        Box::pin(completion::infill(call))
    })
    .takes(completion::InfillRequest::OBJECT)
    .gives(completion::LlamaCompletion::OBJECT)
    .streaming(Stream::Events),
    Route::post("/tokenize", LLAMA, Scope::Inference, "Turns text into tokens.", |call| {
        Box::pin(text::tokenize(call))
    })
    .takes(text::TokenizeRequest::OBJECT)
    .gives(text::Tokens::OBJECT),
    Route::post("/detokenize", LLAMA, Scope::Inference, "Turns tokens into text.", |call| {
        Box::pin(text::detokenize(call))
    })
    .takes(text::DetokenizeRequest::OBJECT)
    .gives(text::Detokenized::OBJECT),
    Route::post("/apply-template", LLAMA, Scope::Inference, "Renders a chat's prompt.", |call| {
        Box::pin(text::apply_template(call))
    })
    .takes(ChatCompletionRequest::OBJECT)
    .gives(text::Rendered::OBJECT),
    Route::post("/embedding", LLAMA, Scope::Inference, "Makes vectors of texts.", |call| {
        Box::pin(embedding::create(call))
    })
    .takes(embedding::LlamaEmbeddingRequest::OBJECT),
    Route::post(
        "/rerank",
        LLAMA,
        Scope::Inference,
        "Orders documents by how well they go with a query.",
        |call| Box::pin(rerank::create(call)),
    )
    .takes(rerank::RerankRequest::OBJECT)
    .gives(rerank::Reranked::OBJECT),
    Route::post(
        "/v1/rerank",
        LLAMA,
        Scope::Inference,
        "Orders documents by how well they go with a query.",
        |call| Box::pin(rerank::create(call)),
    )
    .takes(rerank::RerankRequest::OBJECT)
    .gives(rerank::Reranked::OBJECT),
    Route::get("/props", LLAMA, Scope::Models, "Describes the default model and how it is served.", |call| {
        Box::pin(state::props(call))
    }),
    Route::get("/slots", LLAMA, Scope::Metrics, "Lists the answers in the works.", |call| {
        Box::pin(slots::list(call))
    }),
    Route::post(
        "/slots/{slot}",
        LLAMA,
        Scope::Inference,
        "Saves, restores or erases (`?action=`) what was computed last with this `id_slot`, or deletes a file.",
        |call| Box::pin(slots::act(call)),
    )
    .takes(slots::SlotRequest::OBJECT),
];

/// Reads llama.cpp's ways of saying what an answer has to obey: `grammar` (GBNF), `json_schema`, and here `regex`.
///
/// # Errors
/// One of the wrong type.
pub(crate) fn grammar_fields(fields: &Map<String, Value>) -> ApiResult<Format> {
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::field(name, format!("`{name}` must be a string"))),
    };
    if let Some(grammar) = text("grammar")? {
        return Ok(Format::Grammar(GrammarSource::Gbnf(grammar)));
    }
    if let Some(regex) = text("regex")? {
        return Ok(Format::Grammar(GrammarSource::Regex(regex)));
    }
    match fields.get("json_schema") {
        None | Some(Value::Null) => Ok(Format::Text),
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Format::schema(schema)),
        Some(_) => Err(ApiError::field("json_schema", "`json_schema` must be a JSON schema")),
    }
}
