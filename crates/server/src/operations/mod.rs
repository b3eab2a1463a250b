//! What an owner and a cluster need: whether it lives, whether it is ready, how it does, what it can.

mod describe;
pub(crate) mod queries;

use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use axum::body::Body;
use axum::http::Response;
use serde_json::json;

pub use describe::{documentation, openapi};

const OPERATIONS: Family = Family::Operations;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::get("/", OPERATIONS, Scope::Open, "A page that says what this is and how to use it.", |call| {
        Box::pin(async move { Ok(respond::html(describe::status_page(&call.state))) })
    }),
    Route::get("/health", OPERATIONS, Scope::Open, "Whether the server lives.", |call| {
        Box::pin(health(call))
    }),
    Route::get("/v1/health", OPERATIONS, Scope::Open, "Whether the server lives.", |call| {
        Box::pin(health(call))
    }),
    Route::get(
        "/ready",
        OPERATIONS,
        Scope::Open,
        "Whether it takes requests: its pinned models are loaded.",
        |call| Box::pin(ready(call)),
    ),
    Route::get(
        "/metrics",
        OPERATIONS,
        Scope::Metrics,
        "Numbers for Prometheus; without a key where `open_metrics` is set.",
        |call| {
            Box::pin(async move {
                let state = &call.state;
                let mut text = state.metrics().prometheus(state.uptime_seconds(), &state.models().loaded());
                if let Some(spans) = state.telemetry().counts() {
                    crate::metrics::write_spans(&mut text, spans);
                }
                Ok(respond::text("text/plain; version=0.0.4; charset=utf-8", text))
            })
        },
    )
    .opened_by(|settings| settings.open_metrics),
    Route::get("/openapi.json", OPERATIONS, Scope::Open, "What there is, for programs.", |_| {
        Box::pin(async { Ok(respond::json(&openapi())) })
    }),
    Route::get("/docs", OPERATIONS, Scope::Open, "What there is, for people.", |_| {
        Box::pin(async { Ok(respond::html(describe::page())) })
    }),
];

async fn health(_call: Call) -> ApiResult<Response<Body>> {
    Ok(respond::json(&json!({ "status": "ok" })))
}

async fn ready(call: Call) -> ApiResult<Response<Body>> {
    if call.state.is_draining() {
        return Err(ApiError::new(ErrorKind::Unavailable, "the server is going down"));
    }
    if !call.state.models().is_ready() {
        return Err(ApiError::new(ErrorKind::Unavailable, "models are being loaded").retry_after(1));
    }
    Ok(respond::json(&json!({ "status": "ready" })))
}
