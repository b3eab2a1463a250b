//! `cargo xtask test`: everything that must hold before a change lands, in one command that needs nothing installed
//! beyond what building the project needs. `.ci/run` calls it, so that "works here" and "passes there" are one thing.
//!
//! The steps run to the end even if one fails, so that one run shows everything there is to mend; the tests come
//! last, because their closing lines are what a reader wants to see.

use crate::{aarch64, chart, clients, default_model, process};
use anyhow::{Result, bail};
use clap::Args;
use std::process::Command;
use std::time::{Duration, Instant};

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Run only this step (may be given several times)
    #[arg(long, value_name = "STEP", value_parser = step_names())]
    only: Vec<String>,
    /// Passed on to `cargo test`: a filter, or `-- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "TEST ARGUMENTS")]
    arguments: Vec<String>,
}

/// One step of the suite.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Options) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "formatting", about: "cargo fmt", run: |_| formatting() },
    Step { name: "lints", about: "clippy, warnings are errors", run: |_| lints() },
    Step { name: "documentation", about: "rustdoc, warnings are errors", run: |_| documentation() },
    Step {
        name: "model",
        about: "the default model, fetched once",
        run: |_| default_model::bring().map(drop),
    },
    Step { name: "chart", about: "the Helm chart, rendered", run: |_| chart::run() },
    Step { name: "clients", about: "official clients against alti serve", run: |_| clients::run() },
    Step {
        name: "aarch64",
        about: "the tests of kernels and models on 64-bit Arm, emulated",
        run: |_| aarch64::run_if_possible(),
    },
    Step { name: "tests", about: "every test of the workspace", run: tests },
];

fn step_names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

fn headline(index: usize, count: usize, step: &Step) -> String {
    format!("==> {} of {count}: {} ({})", index + 1, step.name, step.about)
}

/// Runs the suite (or the steps chosen) and prints a summary.
///
/// # Errors
/// Names the steps that failed.
pub fn run(options: &Options) -> Result<()> {
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| options.only.is_empty() || options.only.iter().any(|name| name == step.name))
        .collect();
    let begin = Instant::now();
    let mut outcomes = Vec::new();
    for (index, step) in chosen.iter().enumerate() {
        eprintln!("\n{}", headline(index, chosen.len(), step));
        let begin = Instant::now();
        let result = (step.run)(options);
        if let Err(error) = &result {
            eprintln!("{}: {error:#}", step.name);
        }
        outcomes.push((step.name, result.is_ok(), begin.elapsed()));
    }
    eprintln!("\n==> summary");
    for (name, passed, took) in &outcomes {
        eprintln!("{:<16}{:<8}{}", name, if *passed { "ok" } else { "FAILED" }, human(*took));
    }
    eprintln!("{:<24}{}", "together", human(begin.elapsed()));
    let failed: Vec<&str> =
        outcomes.iter().filter(|(_, passed, _)| !passed).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn formatting() -> Result<()> {
    process::run(cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    process::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

fn documentation() -> Result<()> {
    let mut command = cargo();
    command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings");
    process::run(&mut command)
}

fn tests(options: &Options) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).args(&options.arguments);
    process::run(command.env("ALTI_HOME", default_model::home()))
}

/// Cargo, in the root of the checkout wherever we were called from.
fn cargo() -> Command {
    let mut command = process::cargo();
    command.current_dir(crate::workspace::root());
    command
}

fn human(took: Duration) -> String {
    let seconds = took.as_secs();
    if seconds < 60 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_what_the_suite_prints() {
        let readme = std::fs::read_to_string(crate::workspace::root().join("README.md")).unwrap();
        let shown: Vec<&str> = readme.lines().filter(|line| line.starts_with("==> ")).collect();
        let printed: Vec<String> =
            STEPS.iter().enumerate().map(|(index, step)| headline(index, STEPS.len(), step)).collect();
        assert_eq!(shown, printed);
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(human(Duration::from_secs(754)), "12 min 34 s");
    }
}
