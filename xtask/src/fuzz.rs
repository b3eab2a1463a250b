//! `cargo xtask fuzz`: looks for hostile files that do harm, with cargo-fuzz. What a target does is
//! `alti_testkit::hostile`; here is only how long and where from.

use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;

/// What to fuzz, and how long.
#[derive(Debug, Args)]
pub struct Options {
    /// Targets [default: all]
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 180)]
    seconds: u32,
}

/// Runs the targets one after the other.
///
/// # Errors
/// When cargo-fuzz is missing, a target does not build, or one found something.
pub fn run(options: &Options) -> Result<()> {
    if process::find("cargo-fuzz").is_none() {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz --locked");
    }
    let folder = workspace::root().join("fuzz");
    let mut known = Vec::new();
    for entry in fs::read_dir(folder.join("fuzz_targets")).context("fuzz/fuzz_targets")? {
        let path = entry?.path();
        known.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    known.sort();
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown}; there are {}", known.join(", "));
    }
    let chosen = if options.targets.is_empty() { &known } else { &options.targets };
    for target in chosen {
        let corpus = folder.join("target/corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        eprintln!("\n==> {target}, {} seconds", options.seconds);
        // Sanitizers want an unstable flag; the pinned compiler takes it when told so.
        let mut fuzz = process::cargo();
        fuzz.current_dir(&folder)
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--fuzz-dir", ".", target])
            .args([&corpus, &folder.join("seeds").join(target)])
            .args(["--", "-timeout=5", "-rss_limit_mb=2048", "-max_len=65536"])
            .arg(format!("-max_total_time={}", options.seconds));
        process::run(&mut fuzz)?;
    }
    Ok(())
}
