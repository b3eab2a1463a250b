//! What the comparisons run: the release build of `alti`, and models that every engine reads from the same file.
//!
//! The default model comes as Q4_1. For other encodings its weights are written out as F32 and quantised again by
//! llama.cpp, so that `alti` does not bring its own. The larger model is in the shape of Llama 3.2 1B, with random
//! weights. Files are made once, in `target/peers/models/`.

use crate::peers::{LLAMA_CPP, Programs};
use crate::{default_model, process, random_model, workspace};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A model of the speed comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// What tables call it, and `--models`.
    pub name: &'static str,
    source: Source,
    /// Its encoding, as llama-quantize names it.
    encoding: &'static str,
}

/// What a model's file is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The default model.
    Default,
    /// Random weights in the shape of Llama 3.2 1B.
    Random1B,
}

/// The encoding in which the default model comes.
const DEFAULT_ENCODING: &str = "Q4_1";
/// The encoding in which random weights are drawn.
const RANDOM_ENCODING: &str = "BF16";

const fn model(name: &'static str, source: Source, encoding: &'static str) -> Model {
    Model { name, source, encoding }
}

/// Every model of the speed comparison.
pub const MODELS: [Model; 8] = [
    model("SmolLM2-135M-Q4_1", Source::Default, DEFAULT_ENCODING),
    model("SmolLM2-135M-Q4_0", Source::Default, "Q4_0"),
    model("SmolLM2-135M-Q8_0", Source::Default, "Q8_0"),
    model("SmolLM2-135M-BF16", Source::Default, "BF16"),
    model("1B-Q4_0", Source::Random1B, "Q4_0"),
    model("1B-Q4_K_M", Source::Random1B, "Q4_K_M"),
    model("1B-Q8_0", Source::Random1B, "Q8_0"),
    model("1B-BF16", Source::Random1B, RANDOM_ENCODING),
];

impl Model {
    /// The model's file, made if it is not there.
    ///
    /// # Errors
    /// The default model cannot be fetched, llama-quantize is missing or refuses, or a file cannot be written.
    pub fn file(&self, programs: &Programs) -> Result<PathBuf> {
        match self.source {
            Source::Default if self.encoding == DEFAULT_ENCODING => default_model::bring(),
            Source::Default => quantised(programs, &default_model::bring()?, self.encoding),
            Source::Random1B if self.encoding == RANDOM_ENCODING => random_1b(),
            Source::Random1B => requantised(
                programs,
                &random_1b()?,
                &made(&format!("random-1b-{}", self.encoding))?,
                self.encoding,
            ),
        }
    }
}

/// Which `alti` to run.
#[derive(Debug, Args)]
pub struct Alti {
    /// The program to compare [default: the release build of this checkout]
    #[arg(long, value_name = "FILE")]
    alti: Option<PathBuf>,
}

impl Alti {
    /// What a measurement says of it: the revision that a report names is the checkout's, and a given program may be
    /// of any.
    #[must_use]
    pub fn origin(&self) -> &'static str {
        if self.alti.is_some() { "a given program, of any revision" } else { "built from this revision" }
    }

    /// The program, built if it is this checkout's.
    ///
    /// # Errors
    /// The build fails, or the given file is not there.
    pub fn program(&self) -> Result<PathBuf> {
        if let Some(program) = &self.alti {
            ensure!(program.is_file(), "{} is not a file", program.display());
            return Ok(program.clone());
        }
        process::run(process::cargo().current_dir(workspace::root()).args([
            "build",
            "--release",
            "--package",
            "alti-cli",
        ]))?;
        Ok(workspace::target().join("release").join(format!("alti{}", std::env::consts::EXE_SUFFIX)))
    }
}

/// Runs `command` and parses what it prints as JSON.
///
/// # Errors
/// The command fails or prints anything else.
pub fn json(command: &mut Command) -> Result<Value> {
    let (printed, _) = process::capture(command)?;
    serde_json::from_str(&printed)
        .with_context(|| format!("{} did not print JSON", command.get_program().to_string_lossy()))
}

/// Runs `command` and returns all that it prints.
///
/// # Errors
/// The command fails or prints what is not UTF-8.
pub fn text(command: &mut Command) -> Result<String> {
    let (printed, logged) = process::capture(command)?;
    Ok(printed + &logged)
}

/// `model` in another encoding, made by llama.cpp in `target/peers/models/` and kept there.
///
/// # Errors
/// llama-quantize is missing or refuses.
pub fn quantised(programs: &Programs, model: &Path, encoding: &str) -> Result<PathBuf> {
    let stem = model.file_stem().context("a model file has a name")?.to_string_lossy();
    let target = made(&format!("{stem}-{encoding}"))?;
    if target.is_file() {
        return Ok(target);
    }
    // From F32, so that no variant is quantised twice on the way.
    let source = if encoding == "F32" { model.to_path_buf() } else { quantised(programs, model, "F32")? };
    requantised(programs, &source, &target, encoding)
}

/// Where the file that is made under this name is kept.
fn made(stem: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("peers/models");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.join(format!("{stem}.gguf")))
}

/// Writes `source` in another encoding to `target`, which appears only when it is complete.
fn requantised(programs: &Programs, source: &Path, target: &Path, encoding: &str) -> Result<PathBuf> {
    if !target.is_file() {
        let unfinished = target.with_extension("unfinished");
        let mut command = programs.tool(&LLAMA_CPP, "llama-quantize")?;
        process::capture(command.arg("--allow-requantize").arg(source).arg(&unfinished).arg(encoding))?;
        fs::rename(&unfinished, target)?;
    }
    Ok(target.to_path_buf())
}

fn random_1b() -> Result<PathBuf> {
    let target = made(&format!("random-1b-{RANDOM_ENCODING}"))?;
    if !target.is_file() {
        eprintln!("drawing the weights of {}", target.display());
        random_model::write(&target, &random_model::llama_3_2_1b())?;
    }
    Ok(target)
}
