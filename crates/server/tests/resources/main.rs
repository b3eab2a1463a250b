//! What is stored for users, route by route, in the process of the test: over a tiny model on the reference backend where
//! its answers do not matter, and over a scripted one where they do.

mod approvals;
mod batches;
mod chat_completions;
mod conversations;
mod files;
mod keys;
mod mcp;
mod moderations;
mod responses;
mod scripted;
mod uploads;
mod usage;
mod vector_stores;

use alti_engine::serving::{Engine, EngineSettings};
use alti_formats::Checkpoint;
use alti_models::Llama;
use alti_server::models::Inference;
use alti_server::{
    AppState, Classifier, LoadError, ModelFacts, ModelLoader, Peer, PullProgress, ServedModel,
    ServerSettings, Services,
};
use alti_store::{Store, StoreSettings};
use alti_tensor::{KvDType, Reference};
use alti_testkit::golden;
use alti_text::{ChatTemplate, Tokenizer};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// The model's name.
const MODEL: &str = "tiny";

/// A token for each byte, so that any text can be said.
fn tokenizer() -> Tokenizer {
    // The printable letters that byte-level vocabularies write bytes with.
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others: Vec<u8> = (0..=255u8).filter(|byte| !printable(byte)).collect();
    let letter = |byte: u8| match others.iter().position(|other| *other == byte) {
        Some(place) => char::from_u32(256 + place as u32).expect("a letter"),
        None => char::from(byte),
    };
    let vocabulary: serde_json::Map<String, Value> =
        (0..=255u8).map(|byte| (letter(byte).to_string(), json!(byte))).collect();
    let file = json!({
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "decoder": { "type": "ByteLevel" },
    });
    Tokenizer::from_hugging_face(&file.to_string(), None).expect("a small tokenizer")
}

const TEMPLATE: &str =
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:";

struct Loader {
    model: ServedModel,
}

impl ModelLoader for Loader {
    fn list(&self) -> Result<Vec<ModelFacts>, LoadError> {
        Ok(vec![self.model.facts.clone()])
    }

    fn find(&self, name: &str) -> Result<ModelFacts, LoadError> {
        match name {
            MODEL => Ok(self.model.facts.clone()),
            _ => Err(LoadError::NotFound(name.to_owned())),
        }
    }

    fn load(&self, _: &str) -> Result<ServedModel, LoadError> {
        Ok(self.model.clone())
    }

    fn pull(&self, name: &str, _: &mut (dyn FnMut(PullProgress) -> bool + Send)) -> Result<(), LoadError> {
        Err(LoadError::NotFound(name.to_owned()))
    }

    fn remove(&self, name: &str) -> Result<(), LoadError> {
        Err(LoadError::NotFound(name.to_owned()))
    }
}

fn served(inference: Arc<dyn Inference>) -> ServedModel {
    let tokenizer = tokenizer();
    let facts = ModelFacts { name: MODEL.to_owned(), ..ModelFacts::default() };
    ServedModel {
        facts,
        inference,
        template: ChatTemplate::new(TEMPLATE, &tokenizer).map_err(|error| error.to_string()),
        tokenizer,
        sampling: serde_json::Map::from_iter([("max_tokens".to_owned(), json!(24))]),
        numbers: Vec::new(),
        memory_bytes: 1,
    }
}

/// The engine over a tiny model of random weights.
fn tiny_engine() -> Arc<dyn Inference> {
    let settings = EngineSettings {
        context: 1024,
        kv_tokens: 8192,
        kv_dtype: KvDType::F32,
        step_tokens: 64,
        max_running: 8,
        max_waiting: 64,
        prefix_cache: true,
        draft_tokens: 0,
        ..EngineSettings::default()
    };
    let engine = Engine::start(settings, tokenizer(), || {
        let backend = Reference::<f32>::new();
        let checkpoint = Checkpoint::open(&golden("llama3-gqa")).expect("the golden model opens");
        let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
        Ok((backend, Arc::new(model)))
    });
    Arc::new(engine.expect("the engine starts"))
}

/// A server without a network.
struct Fixture {
    router: Router,
    state: AppState,
    store: Store,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn tiny() -> Fixture {
        Fixture::with(tiny_engine(), tempfile::tempdir().expect("a folder"), None)
    }

    fn scripted() -> Fixture {
        Fixture::with(Arc::new(scripted::Scripted), tempfile::tempdir().expect("a folder"), None)
    }

    fn with(
        inference: Arc<dyn Inference>,
        folder: tempfile::TempDir,
        classifier: Option<Arc<dyn Classifier>>,
    ) -> Fixture {
        Fixture::with_settings(inference, folder, classifier, ServerSettings::default())
    }

    fn with_settings(
        inference: Arc<dyn Inference>,
        folder: tempfile::TempDir,
        classifier: Option<Arc<dyn Classifier>>,
        server: ServerSettings,
    ) -> Fixture {
        let settings = StoreSettings { survive_power_failure: false, ..StoreSettings::default() };
        let store = Store::open(&folder.path().join("alti.db"), settings).expect("the database opens");
        let loader = Arc::new(Loader { model: served(inference) });
        let services = Services { store: Some(store.clone()), classifier, ..Services::default() };
        let state = AppState::with_services(server, loader, services);
        alti_server::resources::start(&state);
        Fixture { router: alti_server::router(state.clone()), state, store, folder }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.expect("the router answers")
    }

    fn request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path).body(body.into()).expect("a request");
        request.extensions_mut().insert(Peer(SocketAddr::from(([127, 0, 0, 1], 9))));
        request
    }

    /// Status and JSON.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.send(Fixture::request(method, path, body)).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    #[track_caller]
    fn post(&self, path: &str, body: Value) -> impl Future<Output = Value> {
        self.good("POST", path, body)
    }

    #[track_caller]
    fn get(&self, path: &str) -> impl Future<Output = Value> {
        self.good("GET", path, Value::Null)
    }

    #[track_caller]
    fn delete(&self, path: &str) -> impl Future<Output = Value> {
        self.good("DELETE", path, Value::Null)
    }

    /// The JSON of an answer that must be good.
    async fn good(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// The events of a stream.
    async fn events(&self, method: &str, path: &str, body: Value) -> Vec<Value> {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.send(Fixture::request(method, path, body)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let blocks = text.split("\n\n").filter(|block| block.starts_with("event: "));
        blocks
            .map(|block| {
                let (name, data) = block.split_once('\n').expect("two lines");
                let event: Value =
                    serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
                assert_eq!(name.strip_prefix("event: "), event["type"].as_str());
                event
            })
            .collect()
    }

    /// What a key has used today, when so many requests of it are recorded.
    async fn settled(&self, key: &str, requests: u64) -> alti_store::Totals {
        for _ in 0..600 {
            let used = self.store.usage().of_key(key, alti_store::now().div_euclid(86_400)).expect("sums");
            if used.requests >= requests {
                assert_eq!(used.requests, requests);
                return used;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not {requests} requests of {key} were recorded");
    }

    /// Uploads a file and returns its id.
    async fn upload(&self, name: &str, purpose: &str, content: &str) -> String {
        let (status, file) = self
            .upload_form(&[
                &format!("name=\"purpose\"\r\n\r\n{purpose}"),
                &format!("name=\"file\"; filename=\"{name}\"\r\n\r\n{content}"),
            ])
            .await;
        assert_eq!(status, 200, "{file}");
        file["id"].as_str().expect("an id").to_owned()
    }

    async fn upload_form(&self, fields: &[&str]) -> (u16, Value) {
        self.send_form("/v1/files", fields).await
    }

    async fn send_form(&self, path: &str, fields: &[&str]) -> (u16, Value) {
        let mut body = String::new();
        for field in fields {
            body.push_str(&format!("--XX\r\ncontent-disposition: form-data; {field}\r\n"));
        }
        body.push_str("--XX--\r\n");
        let mut request = Fixture::request("POST", path, body);
        let kind = "multipart/form-data; boundary=XX".parse().expect("a header");
        request.headers_mut().insert("content-type", kind);
        let response = self.send(request).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Asks again until an answer is as wished.
    async fn until(&self, path: &str, wished: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let answer = self.get(path).await;
            if wished(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} did not become as wished: {}", self.get(path).await);
    }
}

/// The ids of a list.
fn ids(list: &Value) -> Vec<&str> {
    assert_eq!(list["object"], "list");
    let data = list["data"].as_array().expect("a list");
    data.iter().map(|item| item["id"].as_str().expect("an id")).collect()
}
