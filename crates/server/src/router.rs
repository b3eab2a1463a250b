//! From the route table to a router: who asks, which id the request has, whose errors it speaks, what it is counted as.

use crate::auth::{authorize, origin_allowed};
use crate::error::{ApiError, ErrorKind};
use crate::ids;
use crate::route::{Call, Family, Route, Verb};
use crate::state::AppState;
use crate::telemetry::{Asked, RequestSpan};
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderName, HeaderValue, ORIGIN, VARY,
};
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::{MethodFilter, MethodRouter, on};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

/// The header that carries a request's id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The router over every row of [`crate::routes::table`].
pub fn router(state: AppState) -> Router {
    let mut router: Router<()> = Router::new();
    let table = crate::routes::table();
    let mut paths: Vec<&'static str> = table.iter().map(|route| route.path).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        let mut methods = MethodRouter::new();
        let routes = table.iter().copied().filter(|route| route.path == path);
        for route in routes.clone() {
            let filter = match route.verb {
                Verb::Get => MethodFilter::GET,
                Verb::Post => MethodFilter::POST,
                Verb::Delete => MethodFilter::DELETE,
            };
            let state = state.clone();
            methods = methods.merge(on(filter, move |request| dispatch(state.clone(), route, request)));
        }
        let state = state.clone();
        let family = routes.clone().next().map_or(Family::OpenAi, |route| route.family);
        let allowed: Vec<&str> = routes.map(|route| route.verb.name()).collect();
        let allowed = allowed.join(", ");
        methods =
            methods.fallback(move |request| refuse(state.clone(), Some((family, allowed.clone())), request));
        router = router.route(path, methods);
    }
    router.fallback(move |request| refuse(state.clone(), None, request))
}

/// Answers what no row of the table does: preflights, methods and paths that are not there.
async fn refuse(state: AppState, known: Option<(Family, String)>, request: Request<Body>) -> Response<Body> {
    let began = Instant::now();
    let origin = request.headers().get(ORIGIN).cloned();
    if request.method() == Method::OPTIONS && known.is_some() {
        return preflight(&state, origin);
    }
    let id = ids::new("req_");
    let span = state.telemetry().request(|| Asked {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        route: None,
        began,
        id: &id,
        is_probe: false,
    });
    let (family, error) = match known {
        Some((family, allowed)) => {
            let message = format!("{} is not a method of this path; it has {allowed}", request.method());
            (family, ApiError::new(ErrorKind::MethodNotAllowed, message))
        }
        None => {
            let path = crate::error::excerpt(request.uri().path());
            let message =
                format!("there is no {} {path}; /openapi.json lists what there is", request.method());
            (Family::of_path(request.uri().path()), ApiError::not_found(message).code("unknown_url"))
        }
    };
    let family = family.spoken(request.uri().path(), request.headers());
    traced(span, request.method(), finish(&state, error.response(family, &id), origin, &id))
}

/// One request to a route of the table.
async fn dispatch(state: AppState, route: &'static Route, request: Request<Body>) -> Response<Body> {
    let began = Instant::now();
    let (mut parts, body) = request.into_parts();
    let id = request_id(&parts.headers);
    let origin = parts.headers.get(ORIGIN).cloned();
    let family = route.family.spoken(parts.uri.path(), &parts.headers);
    let span = state.telemetry().request(|| Asked {
        method: &parts.method,
        uri: &parts.uri,
        headers: &parts.headers,
        route: Some(route.openapi_path()),
        began,
        id: &id,
        is_probe: route.family == Family::Operations,
    });
    let (method, trace) = (parts.method.clone(), span.as_ref().map(RequestSpan::context));
    let path = match RawPathParams::from_request_parts(&mut parts, &()).await {
        Ok(path) => path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        Err(_) => {
            let error = ApiError::invalid("the path is not UTF-8");
            return traced(span, &method, finish(&state, error.response(family, &id), origin, &id));
        }
    };
    let answer = async {
        let principal = authorize(state.accounts(), state.running(), state.settings(), route, &parts).await?;
        let call = Call {
            state: state.clone(),
            route,
            id: id.clone(),
            principal,
            began,
            parts,
            path,
            body: body.into(),
            errand: crate::route::Errand::default(),
            trace: trace.clone(),
        };
        (route.handler)(call).await
    };
    // A bug in a handler is one request's failure: hyper would drop the connection without a word.
    let answer = AssertUnwindSafe(answer).catch_unwind().await;
    let answer = answer.unwrap_or_else(|_| Err(ApiError::internal("a handler panicked")));
    let response = match answer {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(request = id, path = route.path, kind = ?error.kind, "refused");
            error.response(family, &id)
        }
    };
    state.metrics().count_request(route, response.status().as_u16(), began.elapsed());
    tracing::info!(
        request = id,
        method = route.verb.name(),
        path = route.path,
        status = response.status().as_u16(),
        milliseconds = began.elapsed().as_millis() as u64,
        trace = trace.map(|span| tracing::field::display(span.trace_id())),
        "answered"
    );
    traced(span, &method, finish(&state, response, origin, &id))
}

/// The response, at whose end the request's span ends, if it has one.
fn traced(span: Option<RequestSpan>, method: &Method, response: Response<Body>) -> Response<Body> {
    match span {
        Some(span) => span.answered(method, response),
        None => response,
    }
}

/// The id that the client gave, if it is a harmless one, or a new one.
fn request_id(headers: &axum::http::HeaderMap) -> String {
    let harmless = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(harmless);
    given.map_or_else(|| ids::new("req_"), str::to_owned)
}

/// Headers that every response carries.
fn finish(
    state: &AppState,
    mut response: Response<Body>,
    origin: Option<HeaderValue>,
    id: &str,
) -> Response<Body> {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        // The name that OpenAI's clients read, and the one that Anthropic's do.
        headers.insert(REQUEST_ID, id.clone());
        headers.insert(HeaderName::from_static("request-id"), id);
    }
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    if let Some(origin) =
        origin.filter(|origin| origin_allowed(state.settings(), origin.to_str().unwrap_or_default()))
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// The answer to a browser that asks whether a page may ask.
fn preflight(state: &AppState, origin: Option<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let allowed =
        origin.as_ref().is_some_and(|it| origin_allowed(state.settings(), it.to_str().unwrap_or_default()));
    if allowed {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, authorization"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    finish(state, response, origin, &ids::new("req_"))
}
