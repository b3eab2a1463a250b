//! A server over three models: `tiny`, a golden model on the reference backend that reads and writes bytes, `scripted`, which
//! says what a test wants it to say, and [`OWN`], which is `tiny` without others that use it.

use alti_engine::EngineError;
use alti_engine::adapters::Lease as AdapterLease;
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::{
    EmbeddingJob, Engine, EngineSettings, Job, Output, Rejected, Sink, SlotAction, SlotName, Status,
    TokenOutput, Usage,
};
use alti_engine::stop::FinishReason;
use alti_formats::Checkpoint;
use alti_models::Llama;
use alti_server::models::{Cancel, Inference, ModelCard};
use alti_server::{
    Accounts, AppState, LoadError, ModelFacts, ModelLoader, Peer, PullProgress, ServedModel, ServerSettings,
    Services, router,
};
use alti_store::{Store, StoreSettings};
use alti_tensor::{KvDType, Reference};
use alti_testkit::golden;
use alti_text::{BuiltinTemplate, Tokenizer};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tower::ServiceExt;

/// The tiny model on an engine that no other test uses, so that what is loaded beside it is a test's own; it can fill in.
pub const OWN: &str = "own";

/// Tokens of the tiny model's context.
pub const CONTEXT: usize = 1024;

/// GPT-2's printable character for each byte.
fn printable(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match plain(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|&it| !plain(it)).count() as u32;
            char::from_u32(256 + before).expect("a printable character")
        }
    }
}

/// Control tokens in place of bytes that UTF-8 never has.
const SPECIALS: [(u8, &str); 6] = [
    (0xf8, "<|im_start|>"),
    (0xf9, "<|im_end|>"),
    (0xfa, "<s>"),
    (0xfb, "<|fim_prefix|>"),
    (0xfc, "<|fim_suffix|>"),
    (0xfd, "<|fim_middle|>"),
];

/// A tokenizer of bytes: a token each, and three control tokens.
pub fn tokenizer() -> Tokenizer {
    tokenizer_with(&SPECIALS[..3])
}

fn tokenizer_with(specials: &[(u8, &str)]) -> Tokenizer {
    let bytes = (0u8..=255).filter(|byte| specials.iter().all(|(id, _)| id != byte));
    let vocabulary: Map<String, Value> =
        bytes.map(|byte| (printable(byte).to_string(), json!(byte))).collect();
    let added: Vec<Value> =
        specials.iter().map(|(id, text)| json!({ "id": id, "content": text, "special": true })).collect();
    let file = json!({
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "added_tokens": added,
    });
    let config = json!({ "eos_token": "<|im_end|>", "bos_token": "<s>" });
    Tokenizer::from_hugging_face(&file.to_string(), Some(&config.to_string())).expect("a tokenizer of bytes")
}

/// One engine for all tests of the process.
pub fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| new_engine(tokenizer())).clone()
}

fn new_engine(tokenizer: Tokenizer) -> Engine {
    let settings = EngineSettings {
        context: CONTEXT,
        kv_tokens: 8 * CONTEXT,
        kv_dtype: KvDType::F32,
        step_tokens: 128,
        max_running: 16,
        max_waiting: 64,
        prefix_cache: true,
        draft_tokens: 4,
        ..EngineSettings::default()
    };
    let load = || {
        let backend = Reference::<f32>::new();
        let checkpoint = Checkpoint::open(&golden("llama3-gqa")).expect("the golden model opens");
        let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
        Ok((backend, Arc::new(model)))
    };
    Engine::start(settings, tokenizer, load).expect("the engine starts")
}

/// What the scripted model does.
#[derive(Clone, Debug)]
pub enum Script {
    /// Says this, a byte at a time.
    Say(String),
    /// Fails after so many bytes.
    Fail(usize),
    /// Has no room.
    Full,
    /// Says something for ever.
    Endless,
    /// Breaks a rule: panics where it is asked.
    Panic,
}

/// A model that says what it is told to say.
pub struct Scripted {
    pub script: Mutex<Script>,
    pub jobs: Mutex<Vec<Job>>,
    pub cancelled: Arc<AtomicBool>,
    /// The time that jobs got when it was told to go.
    pub patience: Mutex<Option<Duration>>,
    pub vectors: Mutex<Vec<EmbeddingJob>>,
    /// Its adapters: what was in their files.
    pub adapters: Mutex<BTreeMap<String, String>>,
    /// What the loading of an adapter takes.
    pub adapter_time: Mutex<Duration>,
}

impl Inference for Scripted {
    fn slot(&self, name: SlotName, _: SlotAction<'_>) -> Result<usize, EngineError> {
        Err(EngineError::EmptySlot { slot: name.slot })
    }

    fn submit(&self, job: Job, mut sink: Sink) -> Result<Cancel, Rejected> {
        let script = self.script.lock().unwrap().clone();
        self.jobs.lock().unwrap().push(job.clone());
        let cancelled = self.cancelled.clone();
        let stop = cancelled.clone();
        let (text, failing) = match script {
            Script::Full => return Err(Rejected::QueueFull { waiting: 9, retry_after_seconds: 7 }),
            Script::Panic => panic!("a scripted panic"),
            Script::Say(text) => (text, false),
            Script::Fail(bytes) => ("x".repeat(bytes), true),
            Script::Endless => ("x".repeat(100_000), false),
        };
        let endless = text.len() == 100_000;
        std::thread::spawn(move || {
            let mut generated = 0;
            let usage = |generated_tokens| Usage {
                prompt_tokens: job.prompt.len(),
                generated_tokens,
                cpu_seconds: 2.0,
                ..Usage::default()
            };
            let mut reason = FinishReason::StopToken(0xf9);
            for byte in text.bytes() {
                if stop.load(Ordering::Relaxed) {
                    reason = FinishReason::Cancelled;
                    break;
                }
                if endless {
                    std::thread::sleep(Duration::from_millis(2));
                }
                let token = TokenOutput { token: u32::from(byte), logprob: None, top: Vec::new() };
                generated += 1;
                if !sink(Output::Token { choice: 0, token, text: char::from(byte).into() }) {
                    break;
                }
                if job.sampling.max_tokens == generated as i64 {
                    reason = FinishReason::Length;
                    break;
                }
            }
            sink(match failing {
                true => Output::Failed(EngineError::EmptyPrompt),
                false => Output::Finished {
                    choice: 0,
                    text: String::new(),
                    reason,
                    seed: 1,
                    usage: usage(generated),
                },
            });
        });
        Ok(Box::new(move || cancelled.store(true, Ordering::Relaxed)))
    }

    /// Computes for ever where it is to be endless, and has no vectors otherwise.
    fn embed(&self, job: EmbeddingJob, mut sink: Sink) -> Result<Cancel, Rejected> {
        let usage = Usage { prompt_tokens: job.tokens.len(), cpu_seconds: 2.0, ..Usage::default() };
        self.vectors.lock().unwrap().push(job);
        if !matches!(*self.script.lock().unwrap(), Script::Endless) {
            return Err(Rejected::ShuttingDown);
        }
        let (cancelled, stop) = (self.cancelled.clone(), self.cancelled.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
            }
            sink(Output::Failed(EngineError::Ended { reason: "cancelled", usage }));
        });
        Ok(Box::new(move || cancelled.store(true, Ordering::Relaxed)))
    }

    fn check_grammar(&self, _source: &GrammarSource) -> Result<(), EngineError> {
        Ok(())
    }

    fn status(&self) -> Status {
        let adapters = self.adapters.lock().unwrap().keys().cloned().collect();
        Status { pages: 4, used_pages: 1, waiting: 3, adapters, ..Status::default() }
    }

    fn context(&self) -> usize {
        CONTEXT
    }

    fn max_running(&self) -> usize {
        4
    }

    fn embedding_length(&self) -> usize {
        8
    }

    /// Takes every file but one that says `misfit`; what is in it is its fingerprint.
    fn load_adapter(&self, name: &str, path: &Path) -> Result<AdapterLease, EngineError> {
        std::thread::sleep(*self.adapter_time.lock().unwrap());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut adapters = self.adapters.lock().unwrap();
        if text == "misfit" || adapters.contains_key(name) {
            return Err(EngineError::AdapterExists { name: name.to_owned() });
        }
        adapters.insert(name.to_owned(), text.clone());
        Ok(AdapterLease::new(name, text))
    }

    fn drop_adapter(&self, name: &str) -> bool {
        self.adapters.lock().unwrap().remove(name).is_some()
    }

    fn shutdown(&self, patience: Duration) {
        *self.patience.lock().unwrap() = Some(patience);
    }
}

/// Knows the two models, and counts how often they are loaded, and their cards read.
pub struct Shelf {
    pub scripted: Arc<Scripted>,
    pub loads: AtomicUsize,
    pub cards: AtomicUsize,
    /// Cards that are being read.
    pub reading: AtomicUsize,
    /// What a load takes, and the reading of a card.
    pub load_time: Duration,
    /// What a loaded model takes, whatever was foreseen.
    pub taken: AtomicU64,
}

const MODELS: [&str; 3] = ["tiny", "scripted", "owner/other:Q4_0"];

impl ModelLoader for Shelf {
    fn list(&self) -> Result<Vec<ModelFacts>, LoadError> {
        MODELS.iter().map(|name| self.find(name)).collect()
    }

    fn find(&self, name: &str) -> Result<ModelFacts, LoadError> {
        if name != OWN && !MODELS.contains(&name) {
            return Err(LoadError::NotFound(name.to_owned()));
        }
        Ok(ModelFacts {
            name: name.to_owned(),
            digest: "0".repeat(64),
            size: 1000,
            memory_bytes: 600,
            created: 1_700_000_000,
            owner: "tests".into(),
            format: "safetensors".into(),
            architecture: "llama".into(),
            parameters: Some(134_515_008),
            ..ModelFacts::default()
        })
    }

    fn card(&self, name: &str) -> Result<ModelCard, LoadError> {
        self.find(name)?;
        self.cards.fetch_add(1, Ordering::Relaxed);
        assert_eq!(self.reading.fetch_add(1, Ordering::SeqCst), 0, "two cards are read at once");
        std::thread::sleep(self.load_time);
        self.reading.fetch_sub(1, Ordering::SeqCst);
        Ok(ModelCard { template: Some(format!("{{# {name} #}}")), ..ModelCard::default() })
    }

    fn load(&self, name: &str) -> Result<ServedModel, LoadError> {
        let facts = self.find(name)?;
        self.loads.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.load_time);
        let tokenizer = if name == OWN { tokenizer_with(&SPECIALS) } else { tokenizer() };
        let inference: Arc<dyn Inference> = match name {
            "tiny" => Arc::new(Kept(engine())),
            OWN => Arc::new(Kept(new_engine(tokenizer.clone()))),
            _ => self.scripted.clone(),
        };
        Ok(ServedModel {
            facts,
            inference,
            template: Ok(BuiltinTemplate::ChatMl.compile(&tokenizer).expect("a template")),
            tokenizer,
            sampling: Map::from_iter([("temperature".to_owned(), json!(0))]),
            numbers: vec![("llama.block_count".to_owned(), 2)],
            memory_bytes: self.taken.load(Ordering::Relaxed),
        })
    }

    fn pull(
        &self,
        name: &str,
        progress: &mut (dyn FnMut(PullProgress) -> bool + Send),
    ) -> Result<(), LoadError> {
        if name != "tiny" {
            return Err(LoadError::NotFound(name.to_owned()));
        }
        for completed in [0, 500, 1000] {
            let status = "pulling 000000000000".to_owned();
            let digest = Some("sha256:00".to_owned());
            if !progress(PullProgress { status, digest, total: Some(1000), completed: Some(completed) }) {
                return Err(LoadError::Cancelled);
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), LoadError> {
        Err(LoadError::Refused(format!("{name} stays")))
    }
}

/// The shared engine, which outlives the pools of single tests.
struct Kept(Engine);

impl Inference for Kept {
    fn slot(&self, name: SlotName, action: SlotAction<'_>) -> Result<usize, EngineError> {
        Inference::slot(&self.0, name, action)
    }

    fn submit(&self, job: Job, sink: Sink) -> Result<Cancel, Rejected> {
        Inference::submit(&self.0, job, sink)
    }
    fn embed(&self, job: EmbeddingJob, sink: Sink) -> Result<Cancel, Rejected> {
        Inference::embed(&self.0, job, sink)
    }
    fn check_grammar(&self, source: &GrammarSource) -> Result<(), EngineError> {
        self.0.check_grammar(source)
    }
    fn status(&self) -> Status {
        self.0.status()
    }
    fn context(&self) -> usize {
        CONTEXT
    }
    fn max_running(&self) -> usize {
        16
    }
    fn embedding_length(&self) -> usize {
        self.0.config().embedding_length
    }
    fn load_adapter(&self, name: &str, path: &Path) -> Result<AdapterLease, EngineError> {
        self.0.load_adapter(name, path)
    }
    fn drop_adapter(&self, name: &str) -> bool {
        self.0.drop_adapter(name)
    }
    fn shutdown(&self, _deadline: Duration) {}
}

/// A server and what stands behind it.
pub struct App {
    pub router: Router,
    pub state: AppState,
    pub shelf: Arc<Shelf>,
}

impl App {
    pub fn new(settings: ServerSettings) -> App {
        App::with(settings, None, Duration::ZERO)
    }

    pub fn with(settings: ServerSettings, accounts: Option<Arc<dyn Accounts>>, load_time: Duration) -> App {
        App::with_services(settings, Services { accounts, ..Services::default() }, load_time)
    }

    /// A server with a database in `folder`.
    pub fn with_store(settings: ServerSettings, folder: &Path) -> App {
        let store = Store::open(&folder.join("alti.db"), StoreSettings::default()).expect("a new database");
        let services = Services { store: Some(store), ..Services::default() };
        App::with_services(settings, services, Duration::ZERO)
    }

    fn with_services(settings: ServerSettings, services: Services, load_time: Duration) -> App {
        let scripted = Arc::new(Scripted {
            script: Mutex::new(Script::Say("Hello.".into())),
            jobs: Mutex::default(),
            cancelled: Arc::default(),
            patience: Mutex::default(),
            vectors: Mutex::default(),
            adapters: Mutex::default(),
            adapter_time: Mutex::default(),
        });
        let shelf = Arc::new(Shelf {
            scripted,
            loads: AtomicUsize::new(0),
            cards: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
            load_time,
            taken: AtomicU64::new(600),
        });
        let state = AppState::with_services(settings, shelf.clone(), services);
        App { router: router(state.clone()), state, shelf }
    }

    pub fn says(self, text: &str) -> App {
        self.script(Script::Say(text.into()))
    }

    pub fn script(self, script: Script) -> App {
        *self.shelf.scripted.script.lock().unwrap() = script;
        self
    }

    /// The last job that the scripted model was given.
    pub fn last_job(&self) -> Job {
        self.shelf.scripted.jobs.lock().unwrap().last().cloned().expect("a job")
    }

    pub async fn send(&self, mut request: Request<Body>) -> Answer {
        let peer: SocketAddr = "127.0.0.1:50000".parse().unwrap();
        request.extensions_mut().insert(Peer(peer));
        let response = self.router.clone().oneshot(request).await.expect("the router answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("the body ends").to_bytes();
        Answer { status: parts.status, headers: parts.headers, bytes: bytes.to_vec() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_bytes(path, body.to_string().into_bytes()).await
    }

    pub async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Answer {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request.body(Body::from(body)).unwrap()).await
    }
}

pub fn app() -> App {
    App::new(ServerSettings::default())
}

/// What a server answered.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes.clone()).expect("answers are UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The JSON of an answer that is one.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }

    /// The `data` of server-sent events that are JSON; the stream's last line where it is not is told, too.
    #[track_caller]
    pub fn events(&self) -> (Vec<Value>, Option<String>) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let text = self.text();
        assert!(text.ends_with("\n\n"), "an event is not complete: {text:?}");
        let mut last = None;
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.filter_map(|data| match serde_json::from_str(data) {
            Ok(event) => Some(event),
            Err(_) => {
                last = Some(data.to_owned());
                None
            }
        });
        (events.collect(), last)
    }

    /// The lines of a stream of JSON objects.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/x-ndjson");
        self.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// A user's one message.
pub fn user(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

/// Whether a number is told with no more digits than single precision has.
pub fn is_single(value: &Value) -> bool {
    let number = value.as_f64().expect("a number");
    (number as f32).to_string().parse() == Ok(number)
}
