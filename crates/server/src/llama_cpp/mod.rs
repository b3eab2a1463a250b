//! The API of llama.cpp's server.

mod answer;
mod completion;
mod embedding;
pub(crate) mod prompts;
mod rerank;
mod samplers;
mod settings;
pub(crate) mod slots;
mod state;
mod text;

use crate::error::{ApiError, ApiResult};
use crate::generate::Format;
use crate::openai::chat::ChatCompletionRequest;
use crate::route::{Family, Route, Scope, Stream, Verb};
use alti_engine::grammar::GrammarSource;
use serde_json::{Map, Value};

const LLAMA: Family = Family::LlamaCpp;

const CONTINUE: Route = Route::post("/completion", LLAMA, Scope::Inference, "Goes on with a text.", |call| {
    Box::pin(completion::create(call))
})
.takes(completion::LlamaCompletionRequest::OBJECT)
.gives(answer::LlamaCompletion::OBJECT)
.streaming(Stream::Events);

const EMBED: Route = Route::post("/embedding", LLAMA, Scope::Inference, "Makes vectors of texts.", |call| {
    Box::pin(embedding::create(call))
})
.takes(embedding::LlamaEmbeddingRequest::OBJECT);

const RERANK: Route = Route::post(
    "/rerank",
    LLAMA,
    Scope::Inference,
    "Orders documents by how well they go with a query.",
    |call| Box::pin(rerank::create(call)),
)
.takes(rerank::RerankRequest::OBJECT)
.gives(rerank::Reranked::OBJECT);

/// The routes. llama.cpp's server has several names for some of them, and OpenAI's without the version, too.
pub const ROUTES: &[Route] = &[
    CONTINUE,
    Route { path: "/completions", ..CONTINUE },
    Route::post("/infill", LLAMA, Scope::Inference, "Fills in between two texts.", |call| {
        Box::pin(completion::infill(call))
    })
    .takes(completion::InfillRequest::OBJECT)
    .gives(answer::LlamaCompletion::OBJECT)
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
    EMBED,
    Route { path: "/embeddings", ..EMBED },
    RERANK,
    Route { path: "/v1/rerank", ..RERANK },
    Route { path: "/v2/rerank", ..RERANK },
    Route { path: "/reranking", ..RERANK },
    Route { path: "/v1/reranking", ..RERANK },
    unversioned(crate::openai::ROUTES, Verb::Get, "/models"),
    unversioned(crate::openai::ROUTES, Verb::Post, "/chat/completions"),
    unversioned(crate::resources::responses::ROUTES, Verb::Post, "/responses"),
    Route::get("/props", LLAMA, Scope::Models, "Describes the default model and how it is served.", |call| {
        Box::pin(state::props(call))
    }),
    Route::post("/props", LLAMA, Scope::Manage, "Changes nothing: it says that it cannot.", |call| {
        Box::pin(state::set_props(call))
    }),
    Route::get("/lora-adapters", LLAMA, Scope::Models, "Lists a model's loaded adapters.", |call| {
        Box::pin(state::list_adapters(call))
    }),
    Route::post(
        "/lora-adapters",
        LLAMA,
        Scope::Inference,
        "Takes scales of adapters that are so already; others cannot be set.",
        |call| Box::pin(state::set_adapters(call)),
    )
    .takes_list_of(state::AdapterScale::OBJECT),
    Route::get("/slots", LLAMA, Scope::Metrics, "Lists the answers in the works, and places for more.", |call| {
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

/// The row of `routes` whose path is this behind `/v1`, under this path.
const fn unversioned(routes: &'static [Route], verb: Verb, path: &'static str) -> Route {
    const VERSION: &[u8] = b"/v1";
    let mut index = 0;
    while index < routes.len() {
        let route = routes[index];
        let is_same_verb = route.verb as u8 == verb as u8;
        if is_same_verb && is_concatenation(route.path.as_bytes(), VERSION, path.as_bytes()) {
            return Route { path, ..route };
        }
        index += 1;
    }
    panic!("there is no such route")
}

/// Whether `whole` is `begin` and then `end`.
const fn is_concatenation(whole: &[u8], begin: &[u8], end: &[u8]) -> bool {
    let mut index = 0;
    while index < whole.len() && whole.len() == begin.len() + end.len() {
        let expected = if index < begin.len() { begin[index] } else { end[index - begin.len()] };
        if whole[index] != expected {
            return false;
        }
        index += 1;
    }
    index == begin.len() + end.len()
}

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
    let has_schema = !fields.get("json_schema").is_none_or(Value::is_null);
    if let Some(grammar) = text("grammar")? {
        if has_schema {
            let message = "either `json_schema` or `grammar` can be specified, but not both";
            return Err(ApiError::field("grammar", message));
        }
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
