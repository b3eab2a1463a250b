//! Whether every answer obeys its schema: so many answers of a model at temperature 1, drawn from all its tokens, judged
//! by a validator of its own, streamed text compared with the tokens'. Answers that were cut are counted and not judged:
//! `cargo run --release -p alti-cli --example structured_output -- MODEL [ANSWERS] [THREADS]`. Fails if one does not obey.

use alti_cpu::{Cpu, Isa};
use alti_engine::EngineError;
use alti_engine::grammar::GrammarSource;
use alti_engine::sampling::SamplerSettings;
use alti_engine::serving::{Engine, EngineSettings, Job, Output};
use alti_engine::stop::FinishReason;
use alti_formats::Checkpoint;
use alti_models::Llama;
use alti_tensor::KvDType;
use alti_text::{ChatTemplate, Conversation, Message, Tokenizer};
use serde_json::{Value, json};
use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

/// Most tokens of an answer.
const LONGEST: i64 = 300;

/// What is asked, and the schema of the answer: unbounded strings and arrays, enums, nesting, references.
fn tasks() -> Vec<(&'static str, Value)> {
    let string = json!({"type": "string"});
    vec![
        (
            "Describe a person as JSON.",
            json!({"type": "object", "properties": {"name": string, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                "hobbies": {"type": "array", "items": string}}, "required": ["name", "age", "hobbies"],
                "additionalProperties": false}),
        ),
        (
            "Write a recipe as JSON.",
            json!({"type": "object", "properties": {"title": string, "difficulty": {"enum": ["easy", "medium", "hard"]},
                "ingredients": {"type": "array", "items": {"type": "object", "properties": {"name": string,
                "amount": {"type": "number", "minimum": 0, "maximum": 10000}, "unit": {"enum": ["g", "ml", "pieces"]}},
                "required": ["name", "amount", "unit"], "additionalProperties": false}},
                "steps": {"type": "array", "items": string, "minItems": 1}},
                "required": ["title", "difficulty", "ingredients", "steps"], "additionalProperties": false}),
        ),
        (
            "Show the folders of a small project as JSON.",
            json!({"$defs": {"node": {"type": "object", "properties": {"name": string, "kind": {"enum": ["file", "folder"]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3}},
                "required": ["name", "kind", "children"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        ),
        (
            "Answer the question as JSON: is the sky blue?",
            json!({"anyOf": [{"type": "object", "properties": {"ok": {"const": true}, "answer": string},
                "required": ["ok", "answer"], "additionalProperties": false}, {"type": "object", "properties":
                {"ok": {"const": false}, "reason": {"type": ["string", "null"]}}, "required": ["ok", "reason"],
                "additionalProperties": false}]}),
        ),
        (
            "Give an order as JSON.",
            json!({"type": "object", "properties": {"date": {"type": "string", "format": "date"},
                "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"}, "paid": {"type": "boolean"},
                "note": {"type": "string", "maxLength": 40}, "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
                "required": ["date", "code", "paid", "lines"], "additionalProperties": false,
                "$defs": {"line": {"type": "object", "properties": {"item": string, "count": {"type": "integer"}},
                "required": ["item", "count"], "additionalProperties": false}}}),
        ),
    ]
}

fn engine(file: &str, threads: usize) -> Result<Engine, Box<dyn Error>> {
    let checkpoint = Checkpoint::open(file.as_ref())?;
    let tokenizer = Tokenizer::for_checkpoint(&checkpoint)?;
    let settings = EngineSettings {
        context: 1024,
        kv_tokens: 32 * 512,
        kv_dtype: KvDType::BF16,
        step_tokens: 256,
        max_running: 32,
        max_waiting: 1_000_000,
        prefix_cache: true,
        draft_tokens: 4,
        ..EngineSettings::default()
    };
    Ok(Engine::start(settings, tokenizer, move || {
        let failed = |what: String| EngineError::Stopped { what };
        let backend = Cpu::new(Isa::detect(), threads).map_err(|error| failed(error.to_string()))?;
        let model =
            Llama::load(&backend, &checkpoint, |_, _| ()).map_err(|error| failed(error.to_string()))?;
        Ok((backend, Arc::new(model)))
    })?)
}

/// An answer: its streamed text, its tokens, and whether it was cut.
#[derive(Default)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
    cut: bool,
}

fn answer(outputs: &mpsc::Receiver<Output>) -> Result<Answer, Box<dyn Error>> {
    let mut answer = Answer::default();
    for output in outputs {
        match output {
            Output::Token { token, text, .. } => {
                answer.tokens.push(token.token);
                answer.text.push_str(&text);
            }
            Output::Finished { text, reason, .. } => {
                answer.text.push_str(&text);
                answer.cut = reason == FinishReason::Length;
                return Ok(answer);
            }
            Output::Failed(error) => return Err(error.into()),
            Output::Prompt(_) | Output::Embedding { .. } => {}
        }
    }
    Err("the engine stopped".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default| arguments.get(index).map_or(Ok(default), |text| text.parse::<usize>());
    let (wanted, threads) = (number(1, 500)?, number(2, 2)?);
    let file = arguments.first().ok_or("usage: MODEL [ANSWERS] [THREADS]")?;
    let engine = engine(file, threads)?;
    let tokenizer = engine.tokenizer();
    let template = ChatTemplate::for_checkpoint(&Checkpoint::open(file.as_ref())?, tokenizer)?;
    let everything = SamplerSettings {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        max_tokens: LONGEST,
        ..SamplerSettings::default()
    };
    let tasks = tasks();
    let started = Instant::now();
    let mut receivers = Vec::new();
    for index in 0..wanted {
        let (question, schema) = &tasks[index % tasks.len()];
        let prompt = template.render(&Conversation::new(vec![Message::text("user", *question)]))?;
        let sampling = SamplerSettings { seed: index as i64, ..everything.clone() };
        let grammar = Some(GrammarSource::JsonSchema(schema.to_string()));
        let job = Job { grammar, ..Job::new(prompt.tokens(tokenizer), sampling) };
        let (sender, receiver) = mpsc::channel();
        engine.submit(job, Box::new(move |output| sender.send(output).is_ok()))?;
        receivers.push(receiver);
    }
    let (mut valid, mut cut, mut wrong, mut tokens) = (0, 0, 0, 0);
    for (index, receiver) in receivers.iter().enumerate() {
        let (_, schema) = &tasks[index % tasks.len()];
        let answer = answer(receiver)?;
        tokens += answer.tokens.len();
        if answer.text != tokenizer.decode(&answer.tokens) {
            wrong += 1;
            println!("answer {index}: streamed differs from whole: {}", answer.text);
        }
        let obeys = || {
            let value: Value = serde_json::from_str(&answer.text)?;
            Ok::<_, Box<dyn Error>>(jsonschema::validator_for(schema)?.is_valid(&value))
        };
        match answer.cut {
            true => cut += 1,
            false if obeys().unwrap_or(false) => valid += 1,
            false => {
                wrong += 1;
                println!("answer {index} does not obey: {}\n{schema}", answer.text);
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{wanted} answers: {valid} obey their schemas, {cut} were cut at {LONGEST} tokens, {wrong} are wrong; {tokens} tokens \
         in {seconds:.1} s, {} of them drafted right",
        engine.status().accepted_tokens
    );
    if wrong > 0 { Err("not every answer obeys".into()) } else { Ok(()) }
}
