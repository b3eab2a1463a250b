//! `cargo xtask bench-peers`: the speed of `alti` and of llama.cpp on the same files, in one run.
//!
//! Machines differ and drift (clocks, neighbours, heat), so the number that travels is a ratio: both engines take
//! turns, round after round, and medians are compared. Both measure what `llama-bench` defines: `pp512` processes 512
//! tokens as one prompt in an empty context and wants the logits of the last; `tg128` feeds 128 tokens one at a time
//! from an empty context and wants logits each time. Tokens are arbitrary, sampling and tokenization are not counted.
//! Each run warms up first. llama.cpp runs with flash attention on and off, and the better of the two counts.

use crate::contestants::{self, Alti};
use crate::default_model;
use crate::machine::Machine;
use crate::peers::LlamaCpp;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// A GGUF file (may be given several times) [default: the default model as it comes and in the usual quantisations]
    #[arg(long = "model", value_name = "FILE")]
    models: Vec<PathBuf>,
    /// Numbers of threads
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Rounds; in each, every engine runs once
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prompt: usize,
    /// Tokens generated
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    generate: usize,
    /// Write the measurement, with every sample, to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    alti: Alti,
    #[command(flatten)]
    llama: LlamaCpp,
}

/// Samples in tokens a second, by test (`pp512`, `tg128`).
type Samples = BTreeMap<String, Vec<f64>>;

/// Flash attention of llama.cpp: the spelling of its flag.
const FLASH_ATTENTION: [&str; 2] = ["off", "on"];

/// One test on one file with one number of threads.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    threads: usize,
    test: String,
    alti: Vec<f64>,
    llama_flash_attention_off: Vec<f64>,
    llama_flash_attention_on: Vec<f64>,
}

/// The whole measurement, as the JSON file has it.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    peer: String,
    alti: String,
    rounds: u32,
    rows: Vec<Row>,
}

/// Measures and prints Markdown; with `--json`, writes the samples too.
///
/// # Errors
/// A program is missing or fails, or prints what it should not.
pub fn run(options: &Options) -> Result<()> {
    let alti = options.alti.program()?;
    let models = if options.models.is_empty() { default_models(options)? } else { options.models.clone() };
    let mut report = Report {
        machine: Machine::describe(),
        peer: String::new(),
        alti: String::new(),
        rounds: options.rounds,
        rows: Vec::new(),
    };
    for model in &models {
        for &threads in &options.threads {
            compare(options, &alti, model, threads, &mut report)?;
        }
    }
    print!("{}", markdown(&report)?);
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn default_models(options: &Options) -> Result<Vec<PathBuf>> {
    let original = default_model::bring()?;
    let mut models = vec![original.clone()];
    for quantisation in contestants::QUANTISATIONS {
        models.push(contestants::quantised(&options.llama, &original, quantisation)?);
    }
    Ok(models)
}

/// Takes turns on one file: alti, llama.cpp without and with flash attention, and again.
fn compare(options: &Options, alti: &Path, model: &Path, threads: usize, report: &mut Report) -> Result<()> {
    let mut ours = Samples::new();
    let mut theirs = [Samples::new(), Samples::new()];
    for _ in 0..options.rounds {
        report.alti = run_alti(options, alti, model, threads, &mut ours)?;
        for (samples, flash_attention) in theirs.iter_mut().zip(FLASH_ATTENTION) {
            report.peer = run_llama(options, model, threads, flash_attention, samples)?;
        }
    }
    let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (test, alti) in ours {
        let [off, on] = theirs.each_mut().map(|samples| samples.remove(&test).unwrap_or_default());
        ensure!(!off.is_empty() && !on.is_empty(), "llama-bench did not run {test}, which alti ran");
        report.rows.push(Row {
            model: name.clone(),
            threads,
            test,
            alti,
            llama_flash_attention_off: off,
            llama_flash_attention_on: on,
        });
    }
    Ok(())
}

/// Runs `alti bench` once, adds its samples, and returns what it says of itself.
fn run_alti(
    options: &Options,
    alti: &Path,
    model: &Path,
    threads: usize,
    samples: &mut Samples,
) -> Result<String> {
    let mut command = Command::new(alti);
    command.arg("bench").arg(model).args(["--json", "-r", "1", "-t", &threads.to_string()]);
    command.args(["-p", &options.prompt.to_string(), "-n", &options.generate.to_string()]);
    let printed = contestants::json(&mut command)?;
    let results = printed["results"].as_array().context("`alti bench --json` must have `results`")?;
    for result in results {
        let test = result["test"].as_str().context("a result of `alti bench --json` must name its `test`")?;
        add(samples, test, &result["tokens_per_second"])?;
    }
    Ok(format!(
        "alti: backend {}, {}, batch {}",
        shown(&printed["backend"]),
        shown(&printed["isa"]),
        shown(&printed["batch"])
    ))
}

/// Runs `llama-bench` once, adds its samples, and returns what it says of itself.
fn run_llama(
    options: &Options,
    model: &Path,
    threads: usize,
    flash_attention: &str,
    samples: &mut Samples,
) -> Result<String> {
    let mut command = options.llama.tool("llama-bench")?;
    command.arg("--model").arg(model).args([
        "--output",
        "json",
        "--repetitions",
        "1",
        "--flash-attn",
        flash_attention,
    ]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--n-prompt", &options.prompt.to_string(), "--n-gen", &options.generate.to_string()]);
    let printed = contestants::json(&mut command)?;
    let results = printed.as_array().context("llama-bench must print an array")?;
    for result in results {
        let test = match (result["n_prompt"].as_u64(), result["n_gen"].as_u64()) {
            (Some(prompt), Some(0)) => format!("pp{prompt}"),
            (Some(0), Some(generate)) => format!("tg{generate}"),
            other => anyhow::bail!("llama-bench ran a test that was not asked for: {other:?}"),
        };
        add(samples, &test, &result["samples_ts"])?;
    }
    let first = results.first().context("llama-bench measured nothing")?;
    Ok(format!(
        "llama.cpp: {} {}, backend {}, batch {}, K/V {}",
        crate::peers::PACKAGE,
        crate::peers::VERSION,
        shown(&first["backends"]),
        shown(&first["n_ubatch"]),
        shown(&first["type_k"])
    ))
}

fn add(samples: &mut Samples, test: &str, values: &Value) -> Result<()> {
    let values = values.as_array().with_context(|| format!("{test} has no samples"))?;
    let rates =
        values.iter().map(|value| value.as_f64().with_context(|| format!("{test}: {value} is no rate")));
    samples.entry(test.to_string()).or_default().extend(rates.collect::<Result<Vec<f64>>>()?);
    Ok(())
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn markdown(report: &Report) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{}", report.machine)?;
    writeln!(text, "\n{}; {}. Medians of {} rounds, in turns.\n", report.alti, report.peer, report.rounds)?;
    writeln!(
        text,
        "| file | threads | test | alti, tokens/s | llama.cpp, tokens/s | flash attention | ratio |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for row in &report.rows {
        let alti = median(&row.alti);
        let [off, on] = [median(&row.llama_flash_attention_off), median(&row.llama_flash_attention_on)];
        let (llama, flag) = if on > off { (on, "on") } else { (off, "off") };
        writeln!(
            text,
            "| {} | {} | {} | {alti:.1} | {llama:.1} | {flag} | {:.2} |",
            row.model,
            row.threads,
            row.test,
            alti / llama
        )?;
    }
    Ok(text)
}

/// The median of at least one sample.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_table_takes_the_better_of_the_peers_settings() {
        let row = |test: &str, alti, off, on| Row {
            model: "m.gguf".into(),
            threads: 2,
            test: test.into(),
            alti: vec![alti],
            llama_flash_attention_off: vec![off],
            llama_flash_attention_on: vec![on],
        };
        let report = Report {
            machine: Machine::describe(),
            peer: "peer".into(),
            alti: "alti".into(),
            rounds: 1,
            rows: vec![row("pp512", 300.0, 200.0, 150.0), row("tg128", 50.0, 80.0, 100.0)],
        };
        let text = markdown(&report).unwrap();
        assert!(text.contains("| m.gguf | 2 | pp512 | 300.0 | 200.0 | off | 1.50 |"), "{text}");
        assert!(text.contains("| m.gguf | 2 | tg128 | 50.0 | 100.0 | on | 0.50 |"), "{text}");
    }
}
