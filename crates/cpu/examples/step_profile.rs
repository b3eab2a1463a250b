//! Where the time of a step goes, operation by operation.
//!
//! `cargo run --release -p alti-cpu --example step_profile -- FILE [THREADS] [PREFILL] [DECODE] [BATCH] [DEPTH]`
//! loads a GGUF file, prefills `PREFILL` tokens (512) and decodes `DECODE` (128) with `BATCH` (1) sequences behind
//! `DEPTH` (0) tokens each, and prints thread 0's clock for each kind of operation: microseconds a step, the share
//! of them spent waiting at a barrier, and how many operations a step has.

use alti_cpu::{Cpu, Isa, Profile};
use alti_formats::Checkpoint;
use alti_models::{Llama, Step, memory};
use alti_tensor::{Backend, KvDType, PAGE_TOKENS, RowPlan, Span};
use std::path::PathBuf;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = PathBuf::from(arguments.first().ok_or("name a GGUF file")?);
    let number =
        |index: usize, default| arguments.get(index).map_or(Ok(default), |text| text.parse::<usize>());
    let [threads, prefill, decode] = [number(1, 2)?, number(2, 512)?, number(3, 128)?];
    let [batch, depth] = [number(4, 1)?, number(5, 0)?];
    let isa = match std::env::var("ALTI_ISA") {
        Ok(name) => Isa::from_name(&name)?,
        Err(_) => Isa::detect(),
    };
    let mut backend = Cpu::new(isa, threads)?;
    let started = Instant::now();
    let model = Llama::load(&backend, &Checkpoint::open(&file)?, |_, _| ())?;
    println!("{} on {threads} threads; loaded in {} ms", isa.name(), started.elapsed().as_millis());
    let each = prefill.max(depth + decode).div_ceil(PAGE_TOKENS);
    let layout = memory::cache_layout(&model.config, batch * each * PAGE_TOKENS, KvDType::BF16);
    let cache = backend.cache(&layout)?;
    let spans = |first: usize, rows: usize| -> Vec<Span> {
        (0..batch).map(|b| Span::in_order(&layout, b * each, first..first + rows)).collect()
    };
    if prefill > 0 {
        let plan = || RowPlan::new(vec![Span::in_order(&layout, 0, 0..prefill)]);
        measure(&mut backend, &model, &cache, 5, prefill, plan)?;
    }
    for position in (0..depth).step_by(512) {
        let rows = 512.min(depth - position);
        for span in spans(position, rows) {
            step(&mut backend, &model, &cache, RowPlan::new(vec![span]), &[rows - 1])?;
        }
    }
    if decode > 0 {
        let mut position = depth;
        let plan = || {
            position += 1;
            RowPlan::new(spans((position - 1).min(depth + decode - 1), 1))
        };
        measure(&mut backend, &model, &cache, decode, batch, plan)?;
    }
    Ok(())
}

/// Runs `steps` steps of `rows` rows without a profile, then with one, and prints both.
fn measure(
    backend: &mut Cpu,
    model: &Llama<<Cpu as Backend>::Weight>,
    cache: &<Cpu as Backend>::Cache,
    steps: usize,
    rows: usize,
    mut plan: impl FnMut() -> RowPlan,
) -> Outcome<()> {
    let half = steps.div_ceil(2);
    let mut run = |backend: &mut Cpu, count: usize| -> Outcome<f64> {
        let started = Instant::now();
        for _ in 0..count {
            let plan = plan();
            let last = if plan.spans().len() == 1 { vec![plan.len() - 1] } else { (0..plan.len()).collect() };
            step(backend, model, cache, plan, &last)?;
        }
        Ok(started.elapsed().as_secs_f64() / count as f64)
    };
    run(backend, 1)?;
    let seconds = run(backend, half)?;
    println!("\n{rows} rows a step: {:.0} µs, {:.1} rows a second", seconds * 1e6, rows as f64 / seconds);
    backend.start_profile();
    let seconds = run(backend, half)?;
    let profile = backend.start_profile().unwrap_or_default();
    print(&profile, half as f64, seconds);
    Ok(())
}

fn step(
    backend: &mut Cpu,
    model: &Llama<<Cpu as Backend>::Weight>,
    cache: &<Cpu as Backend>::Cache,
    plan: RowPlan,
    wanted: &[usize],
) -> Outcome<()> {
    let tokens: Vec<u32> =
        (0..plan.len()).map(|row| (row * 7919 % model.config.vocabulary_size) as u32).collect();
    let step = Step { tokens: &tokens, rows: &plan, cache: Some(cache), adapters: &[] };
    let logits = model.logits(backend, &step, wanted);
    let mut values = Vec::new();
    Ok(backend.fetch(&logits, &mut values)?)
}

fn print(profile: &Profile, steps: f64, seconds: f64) {
    let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6 / steps;
    let mut lines: Vec<_> = profile.lines.iter().collect();
    lines.sort_by_key(|(_, line)| std::cmp::Reverse(line.running + line.waiting));
    let inside: f64 = profile.lines.values().map(|line| micros(line.running + line.waiting)).sum();
    println!("{:>10} {:>10} {:>6}  operation", "running", "waiting", "count");
    println!("{:10.1} {:10.1} {:6}  outside of the parallel region", seconds * 1e6 - inside, 0.0, 1);
    for (name, line) in lines {
        let count = line.count as f64 / steps;
        println!("{:10.1} {:10.1} {count:6.0}  {name}", micros(line.running), micros(line.waiting));
    }
}
