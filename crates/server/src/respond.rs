//! Responses of every kind.

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use std::convert::Infallible;

use crate::route;

/// A response with `body` of this type.
pub fn text(content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A page. It runs no scripts and asks nobody else.
pub fn html(page: String) -> Response<Body> {
    let mut response = text("text/html; charset=utf-8", page);
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";
    response
        .headers_mut()
        .insert(HeaderName::from_static("content-security-policy"), HeaderValue::from_static(policy));
    response
}

/// A JSON value.
pub fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => text("application/json", body),
        Err(error) => crate::error::ApiError::internal(error).response(route::Family::OpenAi, ""),
    }
}

/// A stream.
pub fn stream(
    kind: route::Stream,
    pieces: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response<Body> {
    let mut response = text(kind.content_type(), Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect a response before they pass it on (nginx) must not.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
