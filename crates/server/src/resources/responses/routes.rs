//! The routes.

use super::body::body;
use super::compact::{CompactRequest, compact};
use super::keep::{CUT_OFF, keep_new, recover};
use super::live::{Listener, Live};
use super::plan::{RESULTS, plan};
use super::request::CreateResponseRequest;
use super::search::without_results;
use super::write::{Start, begin, renamed, write};
use super::writer::fail;
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult};
use crate::generate::{self, Tally, check_chat, render_chat};
use crate::resources::work::Written;
use crate::resources::{ask, deleted, listed, page, tenant};
use crate::respond;
use crate::route::{Call, Family, Route, Scope, Stream};
use crate::state::AppState;
use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

const OPENAI: Family = Family::OpenAi;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::post("/v1/responses", OPENAI, Scope::Inference, "Answers, and keeps the answer.", |call| {
        Box::pin(create(call))
    })
    .takes(CreateResponseRequest::OBJECT)
    .streaming(Stream::Events),
    Route::post(
        "/v1/responses/input_tokens",
        OPENAI,
        Scope::Inference,
        "Counts the tokens that a response would read.",
        |call| Box::pin(count(call)),
    )
    .takes(CreateResponseRequest::OBJECT),
    Route::post(
        "/v1/responses/compact",
        OPENAI,
        Scope::Inference,
        "Makes a long conversation short: what the user said, and a summary of the rest.",
        |call| Box::pin(compact(call)),
    )
    .takes(CompactRequest::OBJECT),
    Route::get(
        "/v1/responses/{response}",
        OPENAI,
        Scope::Inference,
        "A response, or its events again.",
        |call| Box::pin(show(call)),
    )
    .streaming(Stream::Events),
    Route::delete("/v1/responses/{response}", OPENAI, Scope::Inference, "Deletes a response.", |call| {
        Box::pin(delete(call))
    }),
    Route::post(
        "/v1/responses/{response}/cancel",
        OPENAI,
        Scope::Inference,
        "Ends a response in the background.",
        |call| Box::pin(cancel(call)),
    ),
    Route::get(
        "/v1/responses/{response}/input_items",
        OPENAI,
        Scope::Inference,
        "Lists what a response was asked for with.",
        |call| Box::pin(input_items(call)),
    ),
];

/// `POST /v1/responses`.
async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others) = call.json::<CreateResponseRequest>(generate::is_setting).await?;
    let stream = request.stream.unwrap_or(false);
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let plan = plan(&call, &model, request, others).await?;
    let tally = Tally::new(&call, &model.facts.name);
    let start = match plan.background || !plan.approved.is_empty() {
        // Nobody waits for what will be wrong with it; or calls are made before the model is asked, and told when they are.
        true => {
            let chat = plan.chat(&[])?;
            let checked = off_the_runtime(move || check_chat(&model, &chat).map(|()| model)).await;
            Start::Model(Box::new(checked.map_err(renamed)?))
        }
        false => begin(&call, &tally, model, &plan).await.inspect_err(|_| tally.failed())?,
    };
    let live = Arc::new(Live::new(tenant(&call), plan.background, body(&plan)));
    // Known before it is stored: what is stored and not known is taken for broken off.
    let written = plan.store.then(|| Written::begin(&call.state, &plan.id, live.clone()));
    if plan.store {
        keep_new(&call, &plan, &live).await?;
    }
    let (state, background, tells_results) = (call.state.clone(), plan.background, plan.tells_results);
    let listener = Listener(live.clone());
    let writing = tokio::spawn(write(call, plan, tally, start, live.clone(), written));
    watch_over(state.clone(), live.clone(), writing);
    if stream {
        return Ok(stream_events(&state, listener, 0));
    }
    if !background {
        live.finished().await;
        if let Some(failure) = live.failure() {
            return Err(failure.clone());
        }
    }
    Ok(shown(live.body(), tells_results))
}

/// A response object as it is answered.
fn shown(body: Value, tells_results: bool) -> Response<Body> {
    respond::json(&if tells_results { body } else { without_results(body) })
}

/// Whether a call's query asks for what searches found. Clients write lists with brackets and without.
fn asks_for_results(call: &Call) -> bool {
    call.query()
        .iter()
        .any(|(name, value)| matches!(name.as_str(), "include" | "include[]") && value == RESULTS)
}

/// A bug must not leave those waiting who listen, or who ask again and again.
fn watch_over(state: AppState, live: Arc<Live>, writing: tokio::task::JoinHandle<()>) {
    tokio::spawn(async move {
        if let Err(error) = writing.await {
            live.fail(ApiError::internal(error));
            let mut body = live.body();
            fail(&mut body, "server_error", CUT_OFF);
            live.show(body);
            live.finish();
            if state.store().is_ok()
                && let Err(error) = recover(&state).await
            {
                tracing::warn!(%error, "a response that broke off could not be ended yet");
            }
        }
    });
}

/// The events of a response from number `from` on, as they come.
fn stream_events(state: &AppState, listener: Listener, from: usize) -> Response<Body> {
    let keep_alive = std::time::Duration::from_secs(state.settings().keep_alive_seconds.max(1));
    let pieces = futures_util::stream::unfold(Some((listener, from)), move |next| async move {
        let (listener, from) = next?;
        let live = &listener.0;
        let mut text = String::new();
        let Ok(events) = tokio::time::timeout(keep_alive, live.events(from)).await else {
            return Some((Ok::<_, Infallible>(Bytes::from_static(b": waiting\n\n")), Some((listener, from))));
        };
        events.iter().for_each(|event| push_event(&mut text, event));
        if events.is_empty() {
            text.push_str(END);
            return Some((Ok(Bytes::from(text)), None));
        }
        let from = from + events.len();
        Some((Ok(Bytes::from(text)), Some((listener, from))))
    });
    respond::stream(Stream::Events, pieces)
}

/// What the specification of Open Responses wants at the end; OpenAI's clients read over it.
const END: &str = "data: [DONE]\n\n";

fn push_event(text: &mut String, event: &Value) {
    text.push_str("event: ");
    text.push_str(event["type"].as_str().unwrap_or_default());
    text.push_str("\ndata: ");
    text.push_str(&event.to_string());
    text.push_str("\n\n");
}

/// The response that a call names, while it is being written.
fn live(call: &Call) -> Option<Arc<Live>> {
    call.state.work().live(call.path("response")).filter(|live| live.tenant == call.principal.tenant())
}

async fn stored(call: &Call) -> ApiResult<alti_store::Response> {
    let (tenant, id) = (tenant(call), call.path("response").to_owned());
    ask(&call.state, move |store| store.responses().get(&tenant, &id)).await
}

/// `GET /v1/responses/{response}`.
async fn show(call: Call) -> ApiResult<Response<Body>> {
    let streamed = matches!(call.query_value("stream").as_deref(), Some("true" | "True" | "1"));
    let after = match call.query_value("starting_after") {
        None => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            ApiError::field("starting_after", "`starting_after` must be the number of an event")
        })?),
    };
    let from = after.map_or(0, |after| usize::try_from(after).unwrap_or(usize::MAX).saturating_add(1));
    if let Some(live) = live(&call) {
        if !streamed {
            return Ok(shown(live.body(), asks_for_results(&call)));
        }
        if !live.background {
            return Err(ApiError::field(
                "stream",
                "only a response in the background is told to a second listener",
            ));
        }
        return Ok(stream_events(&call.state, Listener(live), from));
    }
    let response = stored(&call).await?;
    if !streamed {
        return Ok(shown(response.body, asks_for_results(&call)));
    }
    let (tenant, id) = (tenant(&call), response.id.clone());
    let (events, any) = ask(&call.state, move |store| {
        let events = store.responses().events(&tenant, &id, after)?;
        let any = !events.is_empty() || !store.responses().events(&tenant, &id, None)?.is_empty();
        Ok((events, any))
    })
    .await?;
    if !any {
        let message = "this response has no events: it was made without `stream` and not in the background";
        return Err(ApiError::field("stream", message));
    }
    let mut text = String::new();
    events.iter().for_each(|(_, event)| push_event(&mut text, event));
    text.push_str(END);
    Ok(respond::text(Stream::Events.content_type(), text))
}

/// `DELETE /v1/responses/{response}`.
async fn delete(call: Call) -> ApiResult<Response<Body>> {
    if let Some(live) = live(&call) {
        live.cancel();
        live.finished().await;
    }
    let (tenant, id) = (tenant(&call), call.path("response").to_owned());
    let answer = deleted(&id, "response");
    ask(&call.state, move |store| store.responses().delete(&tenant, &id)).await?;
    Ok(respond::json(&answer))
}

/// `POST /v1/responses/{response}/cancel`.
async fn cancel(call: Call) -> ApiResult<Response<Body>> {
    let response = stored(&call).await?;
    if !response.background {
        let message = "only a response in the background can be cancelled; one in the foreground ends when its \
                       connection is closed";
        return Err(ApiError::invalid(message));
    }
    if let Some(live) = live(&call) {
        live.cancel();
        live.finished().await;
        // What the store does not take yet is told all the same.
        return Ok(shown(live.body(), asks_for_results(&call)));
    }
    Ok(shown(stored(&call).await?.body, asks_for_results(&call)))
}

/// `GET /v1/responses/{response}/input_items`.
async fn input_items(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id, page) = (tenant(&call), call.path("response").to_owned(), page(&call, 20, 100, false)?);
    let found = ask(&call.state, move |store| store.responses().input(&tenant, &id, &page)).await?;
    Ok(respond::json(&listed(found)))
}

/// `POST /v1/responses/input_tokens`.
async fn count(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others) = call.json::<CreateResponseRequest>(generate::is_setting).await?;
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let request = CreateResponseRequest { store: None, background: None, ..request };
    let plan = plan(&call, &model, request, others).await?;
    let chat = plan.chat(&[])?;
    let count = off_the_runtime(move || Ok(render_chat(&model, &chat)?.tokens(&model.tokenizer).len()));
    let tokens = count.await?;
    Ok(respond::json(&json!({ "object": "response.input_tokens", "input_tokens": tokens })))
}
