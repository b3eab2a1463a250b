//! `cargo xtask compare-quality`: is `alti` as exact as llama.cpp, on the same files and the same text?
//!
//! Three comparisons, each against llama.cpp in the same run: the perplexity of a text, the distance of the quantised
//! model's next-token distributions from the same weights in F32, and the error that quantisation leaves in every
//! tensor. They replace comparing generated texts, which differ after a few dozen tokens between any two engines that
//! round differently, however exact both are.

mod base_file;
mod divergence;
mod perplexity;
mod quantisation;

use crate::contestants::Alti;
use crate::default_model;
use crate::machine::Machine;
use crate::peers::Programs;
use crate::workspace;
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Context of every comparison, in tokens; published perplexities use 512.
const CONTEXT: usize = 512;

/// What to compare.
#[derive(Debug, Args)]
pub struct Options {
    /// The quantised GGUF file [default: the default model]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The text, for instance WikiText-2's wiki.test.raw [default: benches/texts/eighty-days.txt]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Run only this comparison (may be given several times)
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Comparison>,
    /// Chunks of 512 tokens whose distributions are compared; the latter half of each counts. With 8, two correct engines
    /// differ by a fifth in how often another token is the most probable one
    #[arg(long, value_name = "NUMBER", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    chunks: u32,
    /// Recipes whose error per tensor is compared
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "Q4_0,Q8_0,Q4_K_M,Q5_K_M,Q6_K")]
    recipes: Vec<String>,
    /// Write the numbers to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    alti: Alti,
    #[command(flatten)]
    programs: Programs,
}

/// The comparisons, in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Comparison {
    /// Perplexity of the text
    Perplexity,
    /// Divergence of next-token distributions from the F32 model's
    Divergence,
    /// Error per tensor of each quantisation recipe
    Quantisation,
}

/// What every comparison needs.
struct Setting<'a> {
    alti: PathBuf,
    programs: &'a Programs,
    model: PathBuf,
    text: PathBuf,
    /// A folder for files that nobody keeps.
    scratch: PathBuf,
}

/// Everything measured, as the JSON file has it.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    model: String,
    text: String,
    perplexity: Option<perplexity::Perplexities>,
    divergence: Option<divergence::Divergences>,
    quantisation: Option<Vec<quantisation::Recipe>>,
}

/// Runs the comparisons and prints each as Markdown when it is done.
///
/// # Errors
/// A program is missing or fails, or a file is not what it should be.
pub fn run(options: &Options) -> Result<()> {
    let alti = options.alti.program()?;
    let model = match &options.model {
        Some(model) => model.clone(),
        None => default_model::bring()?,
    };
    let text =
        options.text.clone().unwrap_or_else(|| workspace::root().join("benches/texts/eighty-days.txt"));
    let scratch = workspace::target().join("peers/scratch");
    fs::create_dir_all(&scratch)?;
    let setting = Setting { alti, programs: &options.programs, model, text, scratch };
    let report = compare(options, &setting)?;
    fs::remove_dir_all(&setting.scratch)?;
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn compare(options: &Options, setting: &Setting<'_>) -> Result<Report> {
    let wanted = |comparison| options.only.is_empty() || options.only.contains(&comparison);
    let mut report = Report {
        machine: Machine::describe(),
        model: file_name(&setting.model),
        text: file_name(&setting.text),
        perplexity: None,
        divergence: None,
        quantisation: None,
    };
    println!("{}\n\n{} on {}, context {CONTEXT}", report.machine, report.model, report.text);
    if wanted(Comparison::Perplexity) {
        let measured = perplexity::compare(setting)?;
        println!("\n{measured}");
        report.perplexity = Some(measured);
    }
    if wanted(Comparison::Divergence) {
        let measured = divergence::compare(setting, options.chunks)?;
        println!("\n{measured}");
        report.divergence = Some(measured);
    }
    if wanted(Comparison::Quantisation) {
        let measured = quantisation::compare(setting, &options.recipes)?;
        println!("\n{}", quantisation::markdown(&measured));
        report.quantisation = Some(measured);
    }
    Ok(report)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The number that follows `label` in what a program printed.
fn number_after(printed: &str, label: &str) -> Result<f64> {
    let (_, after) =
        printed.split_once(label).with_context(|| format!("found no `{label}` in what llama.cpp printed"))?;
    let word = after.trim_start().split(|c: char| c.is_whitespace() || c == '%').next().unwrap_or_default();
    word.parse().with_context(|| format!("`{word}` after `{label}` is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_labels() {
        let printed = "Final estimate: PPL = 16.4821 +/- 0.21\nMean    KLD:   0.001234 ±   0.00001\nSame top p: 98.765 ± 0.1 %";
        assert_eq!(number_after(printed, "PPL =").unwrap(), 16.4821);
        assert_eq!(number_after(printed, "Mean    KLD:").unwrap(), 0.001234);
        assert_eq!(number_after(printed, "Same top p:").unwrap(), 98.765);
        assert!(number_after(printed, "Median").is_err());
        assert!(number_after("PPL = nothing", "PPL =").is_err());
    }
}
