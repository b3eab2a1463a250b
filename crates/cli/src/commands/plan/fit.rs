//! `alti plan fit`: what this machine can run, tune or train, from what is measured on it now.

use super::inputs::{ModelOptions, count};
use crate::environment::Environment;
use crate::machine::bandwidths;
use crate::model::{available_memory, cores};
use crate::{input, output};
use alti_cpu::limits::{Operand, UNITS};
use alti_plan::local::{Fit, Machine, Outcome, compare, fit};
use alti_plan::units::{digits, short};
use std::path::PathBuf;

/// Show what this machine can run, tune or train, and how fast
#[derive(Debug, clap::Args)]
pub struct FitCommand {
    #[command(flatten)]
    model: ModelOptions,
    /// Tokens of context
    #[arg(long, default_value = "4096", value_parser = count)]
    context: f64,
    /// Compare with a run: a file that `alti bench --json` wrote
    #[arg(long, value_name = "FILE")]
    bench: Option<PathBuf>,
    /// How the weights of that run are kept
    #[arg(long, default_value = "Q4_K_M", value_parser = ["Q4_K_M", "Q8_0", "bf16"])]
    weights: String,
}

#[derive(Debug, serde::Serialize)]
struct Answer {
    machine: Machine,
    fits: Vec<Fit>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outcomes: Vec<Outcome>,
}

impl FitCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the machine cannot be measured, or there is no such model.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let model = self.model.shape(environment)?;
        let machine = measure()?;
        let fits = fit(&machine, &model, self.context)?;
        let mut outcomes = Vec::new();
        if let Some(path) = &self.bench {
            let of = fits.iter().find(|it| it.weights == self.weights);
            if let Some(of) = of {
                outcomes = compare(&path.display().to_string(), &input::text(path)?, of)?;
            }
        }
        output::result(json, &Answer { machine, fits, outcomes }, Answer::text)
    }
}

/// Measures memory bandwidth and the units that multiply, as `alti doctor` does.
fn measure() -> anyhow::Result<Machine> {
    const MOST: u64 = 512 << 20;
    let memory = available_memory();
    let threads = cores();
    let read = bandwidths((memory / 4).min(MOST) as usize, &[threads])?;
    let mut rates = (0.0_f64, 0.0_f64);
    for unit in UNITS {
        let Some(peak) = unit.peak(threads)? else { continue };
        match unit.operand {
            Operand::Int8 => rates.0 = rates.0.max(peak),
            Operand::F32 => rates.1 = rates.1.max(peak),
            Operand::Bf16 => {}
        }
    }
    let plain = if rates.1 > 0.0 { rates.1 } else { 4e9 * threads as f64 };
    Ok(Machine {
        threads,
        memory: memory as f64,
        bandwidth: read.first().map_or(0.0, |it| it.bytes_per_second),
        rate: rates.0.max(plain),
        training_rate: plain,
    })
}

impl Answer {
    fn text(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "this machine: {} threads, {} GB free, {} GB/s, {} GFLOP/s on 8-bit weights, {} in FP32\n\n",
            machine.threads,
            digits(machine.memory / 1e9),
            digits(machine.bandwidth / 1e9),
            digits(machine.rate / 1e9),
            digits(machine.training_rate / 1e9)
        );
        text += &format!(
            "{:16} {:7} {:>12} {:>7} {:>7} {:>12} {:>7} {:>12} {:>7}\n",
            "MODEL", "WEIGHTS", "RUN", "ANSWER", "PROMPT", "TUNE", "TOKEN/S", "TRAIN", "TOKEN/S"
        );
        let memory = |bytes: f64, there: bool| {
            format!("{} GB {}", digits(bytes / 1e9), if there { "fits" } else { "no" })
        };
        for it in &self.fits {
            text += &format!(
                "{:16.16} {:7} {:>12} {:>7} {:>7} {:>12} {:>7} {:>12} {:>7}\n",
                it.model,
                it.weights,
                memory(it.run_bytes, it.runs),
                digits(it.decode),
                digits(it.prefill),
                memory(it.tune_bytes, it.tunes),
                digits(it.tune),
                memory(it.train_bytes, it.trains),
                digits(it.train)
            );
        }
        if let Some(it) = self.fits.first() {
            text +=
                &format!("\ntraining on 20 tokens a parameter would take {} days\n", short(it.train_days));
        }
        for it in &self.outcomes {
            text += &format!(
                "{:8} predicted {} token/s, measured {}: {:+.0} %\n",
                it.test,
                digits(it.predicted),
                digits(it.measured),
                100.0 * it.error
            );
        }
        text
    }
}
