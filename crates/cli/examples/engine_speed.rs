//! What the engine itself reaches with so many clients at once, without HTTP:
//! `cargo run --release -p alti-cli --example engine_speed -- FILE CLIENTS PROMPT ANSWER [ROUNDS] [THREADS]`.

use alti_cpu::{Cpu, Isa};
use alti_engine::EngineError;
use alti_engine::sampling::SamplerSettings;
use alti_engine::serving::{Engine, EngineSettings, Job, Output};
use alti_formats::Checkpoint;
use alti_models::Llama;
use alti_tensor::KvDType;
use alti_text::Tokenizer;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default| arguments.get(index).map_or(Ok(default), |text| text.parse::<usize>());
    let (clients, prompt, answer) = (number(1, 8)?, number(2, 128)?, number(3, 128)?);
    let (rounds, threads) = (number(4, 3)?, number(5, 2)?);
    let file = arguments.first().ok_or("usage: FILE [CLIENTS] [PROMPT] [ANSWER] [ROUNDS] [THREADS]")?.clone();
    let checkpoint = Checkpoint::open(file.as_ref())?;
    let tokenizer = Tokenizer::for_checkpoint(&checkpoint)?;
    let settings = EngineSettings {
        context: 2048,
        kv_tokens: clients.max(8) * 512,
        kv_dtype: KvDType::BF16,
        step_tokens: 256,
        max_running: 64,
        max_waiting: 1000,
        prefix_cache: true,
        draft_tokens: 0,
        ..EngineSettings::default()
    };
    let engine = Engine::start(settings, tokenizer, move || {
        let failed = |what: String| EngineError::Stopped { what };
        let backend = Cpu::new(Isa::detect(), threads).map_err(|error| failed(error.to_string()))?;
        let model =
            Llama::load(&backend, &checkpoint, |_, _| ()).map_err(|error| failed(error.to_string()))?;
        Ok((backend, Arc::new(model)))
    })?;
    for round in 0..rounds {
        let before = engine.status();
        let started = Instant::now();
        let (sender, outputs) = mpsc::channel();
        for client in 0..clients {
            let tokens = (0..prompt)
                .map(|i| ((i * 7919 + client * 104_729 + round * 1_299_709) % 30_000) as u32 + 100);
            let sampling = SamplerSettings { max_tokens: answer as i64, ..SamplerSettings::greedy() };
            let job = Job { ignore_end: true, ..Job::new(tokens.collect(), sampling) };
            let sender = sender.clone();
            engine.submit(job, Box::new(move |output| sender.send(output).is_ok()))?;
        }
        drop(sender);
        let finished = outputs.iter().filter(|output| matches!(output, Output::Finished { .. })).count();
        let seconds = started.elapsed().as_secs_f64();
        let after = engine.status();
        println!(
            "{finished} clients: {:.0} generated token/s, {:.0} with prompts, {} steps, {:.1} % of the time in steps",
            (clients * answer) as f64 / seconds,
            (clients * (answer + prompt)) as f64 / seconds,
            after.steps - before.steps,
            100.0 * (after.step_seconds - before.step_seconds) / seconds
        );
    }
    Ok(())
}
