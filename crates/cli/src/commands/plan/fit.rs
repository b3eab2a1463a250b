//! `alti plan fit`: what this machine can run, tune or train, from what is measured on it now.

use super::inputs::{ModelOptions, count};
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::machine::bandwidths;
use crate::model::{available_memory, cores};
use crate::rehearsal::rehearse;
use crate::{input, output};
use alti_cpu::limits::{Operand, UNITS};
use alti_formats::recipes::{RECIPES, Recipe};
use alti_plan::local::{Fit, Machine, Outcome, compare, fit};
use alti_plan::model::ModelShape;
use alti_plan::units::{digits, short};
use anyhow::Context as _;
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
    /// How weights are kept: a recipe of `alti quantize`; those of the run, where there is one [default: Q4_K_M,
    /// Q8_0 and BF16]
    #[arg(long, value_name = "RECIPE", value_parser = recipe)]
    weights: Option<&'static Recipe>,
}

/// Ways to keep weights that are shown where nobody asks for another.
const USUAL: [&str; 3] = ["Q4_K_M", "Q8_0", "BF16"];

fn recipe(name: &str) -> Result<&'static Recipe, String> {
    let names = || RECIPES.map(|recipe| recipe.name).join(", ");
    Recipe::by_name(name).ok_or_else(|| format!("the recipes are {}", names()))
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
        if self.bench.is_some() && self.weights.is_none() {
            let message =
                "--bench needs --weights RECIPE: how the weights of that run are kept, such as Q4_1";
            return Err(Exit::new(Failure::Usage, message).into());
        }
        let bench = self.bench.as_ref().map(|path| Ok::<_, anyhow::Error>((path, input::text(path)?)));
        let bench = bench.transpose()?;
        let machine = self.measure(environment, &model)?;
        let fits = fit(&machine, &model, self.context)?;
        let outcomes = match (&bench, machine.speeds.first()) {
            (Some((path, text)), Some(speed)) => {
                compare(&path.display().to_string(), text, &machine, &model, speed)?
            }
            _ => Vec::new(),
        };
        output::result(json, &Answer { machine, fits, outcomes }, Answer::text)
    }

    /// Measures what the machine could do, as `alti doctor` does, and rehearses the model.
    fn measure(&self, environment: &Environment, model: &ModelShape) -> anyhow::Result<Machine> {
        const MOST: u64 = 512 << 20;
        let memory = available_memory();
        let threads = cores();
        let read = bandwidths((memory / 4).min(MOST) as usize, &[threads])?;
        let mut peak = 0.0_f64;
        for unit in UNITS.iter().filter(|unit| matches!(unit.operand, Operand::Int4 | Operand::Int8)) {
            peak = peak.max(unit.peak(threads)?.unwrap_or(0.0));
        }
        let usual = || USUAL.iter().filter_map(|name| Recipe::by_name(name)).collect();
        let recipes: Vec<_> = self.weights.map_or_else(usual, |recipe| vec![recipe]);
        let speeds = recipes.into_iter().map(|recipe| rehearse(environment, model, recipe));
        let speeds = speeds.collect::<anyhow::Result<Vec<_>>>()?;
        let plain = Recipe::by_name("F32").context("there is no recipe F32")?;
        Ok(Machine {
            threads,
            memory: memory as f64,
            bandwidth: read.first().map_or(0.0, |it| it.bytes_per_second),
            peak,
            speeds,
            training_rate: rehearse(environment, model, plain)?.rate,
        })
    }
}

impl Answer {
    fn text(&self) -> String {
        let machine = &self.machine;
        let gigas = |value: f64| digits(value / 1e9);
        let mut text = format!(
            "this machine: {} threads, {} GB free, reads {} GB/s, multiplies integers at {} Top/s\n",
            machine.threads,
            gigas(machine.memory),
            gigas(machine.bandwidth),
            digits(machine.peak / 1e12)
        );
        for it in &machine.speeds {
            text += &format!(
                "rehearsed {} with {} layers: an answer reads {} GB/s, a prompt computes {} GFLOP/s\n",
                it.weights,
                it.layers,
                gigas(it.read),
                gigas(it.rate)
            );
        }
        text +=
            &format!("rehearsed F32 for tuning and training: {} GFLOP/s\n\n", gigas(machine.training_rate));
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
