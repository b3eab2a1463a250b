//! What the comparisons run: the release build of `alti`, and the default model in the quantisations people use.
//!
//! Both engines always read the same file. The files are derived from the default model, which comes as Q4_1: its
//! weights are written out as F32 and quantised again by llama.cpp, so that neither side brings its own.

use crate::peers::LlamaCpp;
use crate::{process, workspace};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Quantisations of the default model that the speed comparison measures besides the file as it comes.
pub const QUANTISATIONS: [&str; 4] = ["Q4_0", "Q4_K_M", "Q8_0", "F16"];

/// Which `alti` to run.
#[derive(Debug, Args)]
pub struct Alti {
    /// The program to compare [default: the release build of this checkout]
    #[arg(long, value_name = "FILE")]
    alti: Option<PathBuf>,
}

impl Alti {
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

/// `model` in another quantisation, made by llama.cpp in `target/peers/models/` and kept there.
///
/// # Errors
/// llama-quantize is missing or refuses.
pub fn quantised(llama: &LlamaCpp, model: &Path, quantisation: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("peers/models");
    fs::create_dir_all(&folder)?;
    let stem = model.file_stem().context("a model file has a name")?.to_string_lossy();
    let made = folder.join(format!("{stem}-{quantisation}.gguf"));
    if made.is_file() {
        return Ok(made);
    }
    // From F32, so that no variant is quantised twice on the way.
    let source = if quantisation == "F32" { model.to_path_buf() } else { quantised(llama, model, "F32")? };
    let unfinished = made.with_extension("unfinished");
    let mut command = llama.tool("llama-quantize")?;
    process::capture(command.arg("--allow-requantize").arg(&source).arg(&unfinished).arg(quantisation))?;
    fs::rename(&unfinished, &made)?;
    Ok(made)
}
