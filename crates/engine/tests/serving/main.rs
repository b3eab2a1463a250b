//! What a serving engine promises, on the tiny golden models and the reference backend: an answer is the same whoever
//! else is served, with and without the prefix cache, drafts, and pages enough; and nothing is lost.

mod adapters;
mod answers;
mod conduct;
mod memory;
mod slots;

use alti_engine::EngineError;
use alti_engine::sampling::SamplerSettings;
use alti_engine::serving::{
    CacheDomain, EmbeddingJob, Engine, EngineSettings, Job, Output, Pooling, Priority, Status, Ticket,
    TokenOutput, Usage,
};
use alti_engine::stop::FinishReason;
use alti_formats::Checkpoint;
use alti_models::Llama;
use alti_tensor::{KvDType, Reference};
use alti_testkit::golden;
use alti_text::Tokenizer;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const MODEL: &str = "llama3-gqa";

/// Settings with room for everything.
fn roomy() -> EngineSettings {
    EngineSettings {
        context: 256,
        kv_tokens: 4096,
        kv_dtype: KvDType::F32,
        step_tokens: 48,
        max_running: 16,
        max_waiting: 1000,
        prefix_cache: true,
        draft_tokens: 4,
        ..EngineSettings::default()
    }
}

/// Two letters for each of the 256 tokens, so that a text tells its tokens.
fn spelling(token: u32) -> String {
    let letter = |first: u8, index: u32| char::from(first + index as u8);
    [letter(b'A', token / 16), letter(b'a', token % 16)].iter().collect()
}

/// A tokenizer of the 256 spellings; `end` is its end token.
fn tokenizer(end: Option<u32>) -> Tokenizer {
    let vocabulary: serde_json::Map<_, _> =
        (0..256).map(|token| (spelling(token), serde_json::Value::from(token))).collect();
    let file = serde_json::json!({ "model": { "type": "BPE", "vocab": vocabulary } });
    let config = serde_json::json!({ "eos_token": end.map(spelling) });
    Tokenizer::from_hugging_face(&file.to_string(), Some(&config.to_string())).expect("a small tokenizer")
}

fn engine_of(name: &'static str, settings: EngineSettings, end: Option<u32>) -> Engine {
    Engine::start(settings, tokenizer(end), move || {
        let backend = Reference::<f32>::new();
        let checkpoint = Checkpoint::open(&golden(name)).expect("the golden model opens");
        let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
        Ok((backend, Arc::new(model)))
    })
    .expect("the engine starts")
}

/// An engine whose tokens are the 256 bytes, and the last of them the end of an answer.
fn engine_of_bytes(settings: EngineSettings) -> Engine {
    let spelled = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        // GPT-2's letters for bytes that do not print are those from U+0100 on, in order.
        _ => {
            let before =
                (0..byte).filter(|other| !matches!(other, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)).count();
            char::from_u32(256 + before as u32).expect("a letter")
        }
    };
    let bytes = (0..255u8).map(|byte| (spelled(byte).to_string(), serde_json::Value::from(byte)));
    let file = serde_json::json!({
        "model": { "type": "BPE", "vocab": bytes.collect::<serde_json::Map<_, _>>(), "merges": [] },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "added_tokens": [{ "id": 255, "content": "<end>", "special": true }],
    });
    let config = serde_json::json!({ "eos_token": "<end>" });
    let tokenizer = Tokenizer::from_hugging_face(&file.to_string(), Some(&config.to_string()))
        .expect("a small tokenizer");
    Engine::start(settings, tokenizer, || {
        let backend = Reference::<f32>::new();
        let checkpoint = Checkpoint::open(&golden(MODEL)).expect("the golden model opens");
        let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
        Ok((backend, Arc::new(model)))
    })
    .expect("the engine starts")
}

/// An engine whose model is guessed for by `draft`.
fn engine_with_draft(draft: &'static str, settings: EngineSettings) -> Result<Engine, EngineError> {
    Engine::start_with_draft(settings, tokenizer(None), move || {
        let backend = Reference::<f32>::new();
        let load = |name| {
            let checkpoint = Checkpoint::open(&golden(name)).expect("the golden model opens");
            Arc::new(Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads"))
        };
        let (model, draft) = (load(MODEL), load(draft));
        Ok((backend, model, Some(draft)))
    })
}

fn engine(settings: EngineSettings) -> Engine {
    engine_of(MODEL, settings, None)
}

/// A prompt of so many tokens, another for each seed.
fn prompt(seed: u32, tokens: usize) -> Vec<u32> {
    (0..tokens as u32)
        .map(|index| (index * index * 7 + index * (seed * 2 + 1) * 31 + seed * 101) % 256)
        .collect()
}

/// Settings that draw `tokens` tokens at random from everything.
fn random(seed: i64, tokens: i64) -> SamplerSettings {
    SamplerSettings {
        seed,
        max_tokens: tokens,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        ..Default::default()
    }
}

/// Tokens with the bits of their log-probabilities, text, and end.
type Told<'a> = (Vec<(u32, Option<u32>)>, &'a str, &'a Option<FinishReason>);

/// One choice, as heard.
#[derive(Clone, Debug, Default, PartialEq)]
struct Heard {
    tokens: Vec<TokenOutput>,
    text: String,
    reason: Option<FinishReason>,
    usage: Usage,
}

impl Heard {
    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.token).collect()
    }

    /// What must not depend on company: tokens with the bits of their log-probabilities, text, end.
    fn answer(&self) -> Told<'_> {
        let tokens = self.tokens.iter().map(|token| (token.token, token.logprob.map(f32::to_bits)));
        (tokens.collect(), &self.text, &self.reason)
    }
}

/// Submits a job; its outputs come through the channel.
fn submit(engine: &Engine, job: Job) -> (Ticket, Receiver<Output>) {
    let (sender, receiver) = mpsc::channel();
    let ticket =
        engine.submit(job, Box::new(move |output| sender.send(output).is_ok())).expect("the job is taken");
    (ticket, receiver)
}

/// Hears a job to its end.
fn hear(outputs: &Receiver<Output>, choices: usize) -> Result<Vec<Heard>, EngineError> {
    let mut heard = vec![Heard::default(); choices];
    while heard.iter().any(|choice| choice.reason.is_none()) {
        match outputs.recv_timeout(Duration::from_secs(120)).expect("an answer goes on") {
            Output::Token { choice, token, text } => {
                let choice = &mut heard[choice as usize];
                assert!(choice.reason.is_none(), "nothing comes behind the end");
                choice.tokens.push(token);
                choice.text.push_str(&text);
            }
            Output::Finished { choice, text, reason, usage, .. } => {
                let choice = &mut heard[choice as usize];
                choice.text.push_str(&text);
                (choice.reason, choice.usage) = (Some(reason), usage);
            }
            Output::Failed(error) => return Err(error),
            Output::Prompt(_) => (),
            Output::Embedding { .. } => panic!("nobody asked for a vector"),
        }
    }
    Ok(heard)
}

/// A text to be made a vector.
fn embedding(tokens: Vec<u32>) -> EmbeddingJob {
    EmbeddingJob {
        tokens,
        pooling: Pooling::Mean,
        priority: Priority::Interactive,
        deadline: None,
        adapter: None,
        domain: CacheDomain::default(),
    }
}

/// Submits a text to be made a vector.
fn embed(engine: &Engine, job: EmbeddingJob) -> (Ticket, Receiver<Output>) {
    let (sender, receiver) = mpsc::channel();
    let sink = Box::new(move |output| sender.send(output).is_ok());
    (engine.embed(job, sink).expect("the job is taken"), receiver)
}

/// The vector, and what it took.
fn hear_vector(outputs: &Receiver<Output>) -> Result<(Vec<f32>, Usage), EngineError> {
    match outputs.recv_timeout(Duration::from_secs(120)).expect("an answer") {
        Output::Embedding { values, usage } => Ok((values, usage)),
        Output::Failed(error) => Err(error),
        other => panic!("a vector was asked for: {other:?}"),
    }
}

/// A status is published behind the step whose outcome was heard: it may be a moment late.
#[track_caller]
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All jobs at once, each with one choice.
fn together(engine: &Engine, jobs: &[Job]) -> Vec<Heard> {
    let running: Vec<_> = jobs.iter().map(|job| submit(engine, job.clone())).collect();
    running.iter().map(|(_, outputs)| hear(outputs, 1).expect("it works").remove(0)).collect()
}

/// Each job in an engine of its own, without prefix cache and drafts.
fn alone(jobs: &[Job]) -> Vec<Heard> {
    let settings = EngineSettings { prefix_cache: false, draft_tokens: 0, ..roomy() };
    jobs.iter().map(|job| together(&engine(settings.clone()), std::slice::from_ref(job)).remove(0)).collect()
}

#[track_caller]
fn same(found: &[Heard], expected: &[Heard]) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.answer(), expected.answer(), "answer {index}");
    }
    assert_eq!(found.len(), expected.len());
}

/// What an engine did in all, once it is done.
fn at_the_end(engine: &Engine) -> Status {
    engine.shutdown(Duration::from_secs(60));
    engine.status()
}
