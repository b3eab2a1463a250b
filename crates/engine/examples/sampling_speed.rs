//! Microseconds that a sampler chain takes per token at the vocabulary sizes of the Llama family:
//! `cargo run --release -p alti-engine --example sampling_speed`. One core; the model that makes
//! the logits is not part of it.

use alti_engine::sampling::{PRESETS, Sampler, SamplerName, SamplerSettings, Workspace};
use std::sync::Arc;
use std::time::Instant;

const DRAWS: u64 = 200;

/// Normally distributed logits (a sum of uniform numbers), about as wide as a real model's.
fn logits(vocabulary_size: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..vocabulary_size).map(|_| 2.5 * (0..12).map(|_| uniform() - 0.5).sum::<f32>()).collect()
}

fn microseconds(settings: &SamplerSettings, logits: &[f32]) -> Result<f64, alti_engine::EngineError> {
    let mut sampler = Sampler::new(settings, logits.len(), 0, &Arc::default())?;
    let mut workspace = Workspace::default();
    sampler.sample(&mut workspace, logits, 0, None)?;
    let start = Instant::now();
    for position in 1..=DRAWS {
        let sampled = sampler.sample(&mut workspace, logits, position, None)?;
        sampler.accept(sampled.token);
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / DRAWS as f64)
}

fn main() -> Result<(), alti_engine::EngineError> {
    let default = SamplerSettings::default();
    let mut chains: Vec<_> = PRESETS.iter().map(|preset| (preset.name, (preset.settings)())).collect();
    chains.push((
        "all penalties",
        SamplerSettings { repeat_penalty: 1.1, dry_multiplier: 0.8, ..default.clone() },
    ));
    chains.push(("typical-p first", {
        let samplers = vec![SamplerName::TypicalP, SamplerName::Temperature];
        SamplerSettings { samplers, typical_p: 0.9, ..default.clone() }
    }));
    chains.push(("mirostat 1", SamplerSettings { mirostat: 1, ..default.clone() }));
    chains.push(("mirostat 2", SamplerSettings { mirostat: 2, ..default }));
    for vocabulary_size in [49_152, 128_256, 202_048] {
        let logits = logits(vocabulary_size);
        for (name, settings) in &chains {
            let time = microseconds(settings, &logits)?;
            println!("{vocabulary_size:7} tokens  {name:15} {time:8.1} us");
        }
    }
    Ok(())
}
