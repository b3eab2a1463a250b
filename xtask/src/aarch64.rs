//! `cargo xtask aarch64`: builds the workspace for 64-bit Arm and runs the tests of the kernels and of models under
//! qemu's emulation of a processor, on any machine. What it cannot tell is speed.
//!
//! The compiler is that of the cargo that runs this command, or `RUSTC`: any that has the target's standard library.

use crate::process;
use anyhow::{Result, bail};
use clap::Args;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";

/// Where cargo is told another linker, or another way to run programs.
const LINKER_VARIABLE: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER";
const RUNNER_VARIABLE: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER";

/// The target's shared libraries, where Debian and its descendants put them.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// The crates whose tests say whether kernels compute the right thing.
const TESTED: &[&str] = &["alti-cpu", "alti-tensor", "alti-models", "alti-testkit"];

/// What else computes the same bits everywhere: passes over logits.
const SAMPLING: &[&str] = &["--package", "alti-engine", "--lib", "sampling::"];

/// Those of them that take a minute or two; whole models take an emulator very much longer.
const QUICK: &[&str] =
    &["--package", "alti-cpu", "--lib", "--test", "matmul", "--test", "attention", "--test", "pool"];

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Lints only: nothing is linked or run
    #[arg(long)]
    lints: bool,
    /// Passed on to `cargo test`: a filter, or `-- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "TEST ARGUMENTS")]
    arguments: Vec<String>,
}

/// Runs lints, then tests.
///
/// # Errors
/// What is not installed, or what failed.
pub fn run(options: &Options) -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        bail!("this needs\n  {}", missing.join("\n  "));
    }
    let mut lints = cargo();
    lints.args(["clippy", "--workspace", "--all-targets", "--target", TARGET, "--", "--deny", "warnings"]);
    process::run(&mut lints)?;
    if options.lints {
        return Ok(());
    }
    let mut command = tests();
    command.args(TESTED.iter().flat_map(|package| ["--package", package])).args(&options.arguments);
    process::run(&mut command)?;
    if options.arguments.is_empty() { process::run(tests().args(SAMPLING)) } else { Ok(()) }
}

/// Runs the quick tests where all that it takes is installed, and says so where it is not: the part of
/// `cargo xtask test`, which must need nothing but what building takes.
///
/// # Errors
/// What failed.
pub fn run_if_possible() -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        eprintln!("skipped: `cargo xtask aarch64` needs\n  {}", missing.join("\n  "));
        return Ok(());
    }
    process::run(tests().args(QUICK))
}

fn tests() -> Command {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast", "--target", TARGET]);
    command
}

/// Cargo with a linker, and an emulator that has every instruction that kernels may want.
fn cargo() -> Command {
    let mut command = process::cargo();
    command.current_dir(crate::workspace::root());
    if !cfg!(target_arch = "aarch64") {
        command.env(LINKER_VARIABLE, given(LINKER_VARIABLE, LINKER));
        let runner = format!("{EMULATOR} -cpu max -L {LIBRARIES}");
        command.env(RUNNER_VARIABLE, given(RUNNER_VARIABLE, &runner));
    }
    command
}

fn given(variable: &str, otherwise: &str) -> OsString {
    env::var_os(variable).unwrap_or_else(|| otherwise.into())
}

/// What is not installed, and where it comes from.
fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !has_standard_library() {
        missing.push(format!("Rust's standard library for {TARGET}: rustup target add {TARGET}"));
    }
    if cfg!(target_arch = "aarch64") {
        return missing;
    }
    if env::var_os(LINKER_VARIABLE).is_none() && process::find(LINKER).is_none() {
        missing.push(format!("{LINKER}: on Debian, apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"));
    }
    if env::var_os(RUNNER_VARIABLE).is_none() {
        if process::find(EMULATOR).is_none() {
            missing.push(format!("{EMULATOR}: on Debian, apt install qemu-user"));
        }
        if !Path::new(LIBRARIES).is_dir() {
            missing.push(format!("{LIBRARIES}: on Debian, apt install libc6-dev-arm64-cross"));
        }
    }
    missing
}

/// Whether the compiler can build for the target: where it would look for the standard library, there is one.
fn has_standard_library() -> bool {
    let mut rustc = Command::new(given("RUSTC", "rustc"));
    rustc.current_dir(crate::workspace::root()).args(["--print", "target-libdir", "--target", TARGET]);
    let Ok(output) = rustc.output() else { return false };
    let folder = String::from_utf8_lossy(&output.stdout).into_owned();
    fs::read_dir(folder.trim()).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
    })
}
