//! Requests that nobody should send, on every route of the table: each is answered, none with a failure of the
//! server's, and the server goes on.

use crate::support::App;
use alti_server::route::{Route, Verb};
use alti_server::wire::{Object, Support};
use alti_server::{ServerSettings, routes};
use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::time::Duration;

/// Settings with which slots can be saved, too.
fn with_slots(folder: &std::path::Path) -> ServerSettings {
    ServerSettings { slot_folder: Some(folder.join("slots")), ..ServerSettings::default() }
}

/// The route's path with something in place of its names.
fn path(route: &Route, value: &str) -> String {
    let segments =
        route.path.split('/').map(|segment| if segment.starts_with('{') { value } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

async fn check(app: &App, route: &Route, path: &str, body: Vec<u8>) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    let request =
        Request::builder().method(route.verb.name()).uri(path).header("content-type", "application/json");
    let Ok(request) = request.body(Body::from(body)) else { return };
    let answer = tokio::time::timeout(Duration::from_secs(60), app.send(request)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{} {path} hangs: {shown}", route.verb.name()));
    let text = String::from_utf8_lossy(&answer.bytes);
    assert!(
        !answer.status.is_server_error(),
        "{} {path}: {}: {text}\n{shown}",
        route.verb.name(),
        answer.status
    );
    if answer.status.is_client_error() {
        let error: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: no JSON: {text}"));
        assert!(!error["error"].is_null(), "{path}: {error}");
    }
}

fn routes_with_bodies() -> impl Iterator<Item = &'static Route> {
    routes::table().iter().copied().filter(|route| route.verb != Verb::Get)
}

/// `/ready` says by its status what is so.
fn tells_by_status(route: &Route) -> bool {
    route.path == "/ready"
}

#[tokio::test]
async fn bodies_that_are_no_requests() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::with_store(with_slots(folder.path()), folder.path());
    let deep = |open: &str, close: &str| [open.repeat(20_000), close.repeat(20_000)].concat().into_bytes();
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\0".to_vec(),
        vec![0xff; 100],
        b"{\"model\": \"\xff\xfe\"}".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"text\"".to_vec(),
        b"{".to_vec(),
        b"{}".to_vec(),
        b"{\"model\": 1e999}".to_vec(),
        b"{\"model\": NaN}".to_vec(),
        deep("[", "]"),
        deep("{\"a\":", "}"),
        deep("{\"messages\":[", "]}"),
        [b"{\"model\": \"".to_vec(), vec![b'm'; 1 << 20], b"\"}".to_vec()].concat(),
        json!({ "model": "\u{0}\u{202e}../../etc/passwd" }).to_string().into_bytes(),
    ];
    for route in routes_with_bodies() {
        for body in &bodies {
            check(&app, route, &path(route, "x"), body.clone()).await;
        }
    }
}

#[tokio::test]
async fn paths_that_are_no_names() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::with_store(with_slots(folder.path()), folder.path());
    for route in routes::table().iter().filter(|route| !tells_by_status(route)) {
        for value in ["x", "..%2f..%2fetc", "%00", "%ff", "a%20b", "%F0%9F%A6%99", &"n".repeat(4000)] {
            check(&app, route, &path(route, value), b"{}".to_vec()).await;
            check(&app, route, &format!("{}?model=%ff&a&=&b=%", path(route, value)), b"{}".to_vec()).await;
        }
    }
}

/// Values that are seldom meant.
fn nonsense() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(1e308),
        json!(-1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(4_294_967_296u64),
        json!(""),
        json!("x"),
        json!("\u{0}<|im_end|>\u{ffff}"),
        json!([]),
        json!([null]),
        json!([-1, 2.5, "x"]),
        json!([[[[]]]]),
        json!([{ "type": "x" }]),
        json!({}),
        json!({ "a": { "b": [1] } }),
        json!({ "": null }),
        json!({ "type": "object", "properties": { "a": { "$ref": "#" } } }),
        json!("a".repeat(5000)),
    ]
}

/// A request that a route takes, if one field is known to be right.
fn valid(object: &Object) -> Map<String, Value> {
    let mut request = Map::new();
    for field in object.fields {
        let value = match field.name() {
            "model" => json!("tiny"),
            "messages" => json!([{ "role": "user", "content": "Hi" }]),
            "prompt" | "content" | "input" | "query" | "input_prefix" | "input_suffix" => json!("Hi"),
            "tokens" => json!([65, 66]),
            "documents" => json!(["one"]),
            "max_tokens" => json!(2),
            "options" => json!({ "num_predict": 2 }),
            "source" | "from" => json!("tiny"),
            "destination" | "name" => json!("fuzzed"),
            _ if field.support == Support::Required => json!("x"),
            _ => continue,
        };
        request.insert(field.name().to_owned(), value);
    }
    // What has no such field has llama.cpp's.
    request.entry("n_predict").or_insert(json!(2));
    request
}

/// The body that a route takes, with this object in it.
fn body(route: &Route, object: Map<String, Value>) -> Vec<u8> {
    let object = Value::Object(object);
    if route.takes_list { json!([object]) } else { object }.to_string().into_bytes()
}

#[tokio::test]
async fn every_field_with_every_kind_of_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::with_store(ServerSettings { max_choices: 4, ..ServerSettings::default() }, folder.path());
    let mut seen = HashSet::new();
    for route in routes_with_bodies() {
        let Some(object) = route.request else { continue };
        // A second path to the same is not asked all of it again.
        if !seen.insert((route.summary, object.name)) {
            continue;
        }
        let path = path(route, "x");
        check(&app, route, &path, body(route, valid(object))).await;
        // The settings are read in one place: two ways to it are enough.
        let with_settings = ["/v1/completions", "/api/generate"].contains(&route.path);
        let settings =
            alti_engine::sampling::SETTINGS.iter().filter(|_| with_settings).map(|setting| setting.name);
        let names: Vec<&str> = object.fields.iter().map(|field| field.name()).chain(settings).collect();
        let mut bodies = Vec::new();
        for (name, value) in
            names.iter().flat_map(|name| nonsense().into_iter().map(move |value| (*name, value)))
        {
            let mut request = valid(object);
            if route.path == "/api/generate" && !object.has(name) {
                request.insert("options".into(), json!({ name: value, "num_predict": 2 }));
            } else {
                request.insert(name.to_owned(), value);
            }
            bodies.push(body(route, request));
        }
        // Several at once, as they come in life.
        for bodies in bodies.chunks(12) {
            join_all(bodies.iter().map(|body| check(&app, route, &path, body.clone()))).await;
        }
    }
    app.get("/health").await.ok();
    app.post("/v1/completions", json!({ "model": "tiny", "prompt": "x", "max_tokens": 2 })).await.ok();
}

/// JSON of any shape, with words in it that requests have.
fn any_json() -> impl Strategy<Value = Value> {
    let words =
        ["type", "text", "function", "name", "tool_use", "image", "json_schema", "object", "user", "content"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(words.to_vec()), inner, 0..4)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn requests_with_fields_of_any_shape(values in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let app = App::with_store(ServerSettings { max_choices: 4, ..ServerSettings::default() }, folder.path());
            for route in routes_with_bodies() {
                let Some(object) = route.request.filter(|object| !object.fields.is_empty()) else { continue };
                let mut request = valid(object);
                for (index, value) in &values {
                    request.insert(object.fields[index.index(object.fields.len())].name().to_owned(), value.clone());
                }
                check(&app, route, &path(route, "x"), body(route, request)).await;
            }
        });
    }
}
