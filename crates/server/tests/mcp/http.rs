//! The same over HTTP: a server that answers in JSON or in events, and wants a token.

use super::{arguments, servers};
use alti_server::mcp::McpServerSettings;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

const TOKEN: &str = "secret";

/// Answers one message of the protocol.
fn answer(headers: &HeaderMap, message: &Value, events: bool) -> Response<Body> {
    let status = |status: StatusCode| Response::builder().status(status).body(Body::empty()).unwrap();
    if headers
        .get("authorization")
        .is_none_or(|value| value.as_bytes() != format!("Bearer {TOKEN}").as_bytes())
    {
        return status(StatusCode::UNAUTHORIZED);
    }
    let result = match message["method"].as_str().unwrap() {
        "initialize" => json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "web", "version": "1"}}),
        "tools/list" => json!({"tools": [{"name": "add", "inputSchema": {"type": "object"}},
            {"name": "huge", "inputSchema": {"type": "object"}}]}),
        "tools/call" if message["params"]["name"] == "huge" => {
            json!({"content": [{"type": "text", "text": "x".repeat(20 << 20)}]})
        }
        "tools/call" => {
            let arguments = &message["params"]["arguments"];
            let sum = arguments["a"].as_i64().unwrap() + arguments["b"].as_i64().unwrap();
            json!({"content": [], "structuredContent": {"sum": sum}})
        }
        _ => return status(StatusCode::ACCEPTED),
    };
    let reply = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
    let (kind, body) = if events {
        ("text/event-stream", format!("event: message\ndata: {reply}\n\n"))
    } else {
        ("application/json", reply)
    };
    Response::builder().header("content-type", kind).body(Body::from(body)).unwrap()
}

/// The address of a server that runs as long as the test.
async fn serve(events: bool) -> String {
    let handler = async move |headers: HeaderMap, body: String| {
        answer(&headers, &serde_json::from_str(&body).unwrap(), events)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/mcp", post(handler))).await });
    format!("http://{address}/mcp")
}

fn web(url: String, token: &str) -> McpServerSettings {
    McpServerSettings {
        name: "web".into(),
        url: Some(url),
        token: Some(token.into()),
        timeout_seconds: 10,
        ..McpServerSettings::default()
    }
}

#[tokio::test]
async fn tools_over_http() {
    for events in [false, true] {
        let servers = servers(web(serve(events).await, TOKEN));
        let tools = servers.tools("web").await.unwrap();
        assert_eq!(tools[0].name, "add");
        let result = servers.call("web", "add", arguments(&json!({"a": 2, "b": 40}))).await.unwrap();
        assert_eq!((result.text.as_str(), result.is_error), (r#"{"sum":42}"#, false));
        // More than this machine takes.
        let result = servers.call("web", "huge", arguments(&json!({}))).await.unwrap();
        assert!(result.is_error, "a result of 20 MB");
    }
}

#[tokio::test]
async fn a_wrong_token_is_an_error() {
    let error = servers(web(serve(false).await, "wrong")).tools("web").await.unwrap_err().to_string();
    assert!(error.contains("MCP server `web`") && !error.contains("wrong"), "{error}");
}
