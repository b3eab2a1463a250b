//! What a developer can type: the one list of subcommands, from which the help, the dispatch and the check of
//! `docs/development.md` come.

use crate::{aarch64, bench_peers, bench_serve, crate_map, fuzz, peers, quality, soak_serve, test_suite};
use anyhow::Result;
use clap::{Parser, Subcommand};

/// The command line of `cargo xtask`.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Developer commands of Altiplano",
    max_term_width = 100
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check formatting, lints and documentation, and run every test
    Test(test_suite::Options),
    /// Lint for 64-bit Arm, and run the tests of kernels and models in an emulator
    Aarch64(aarch64::Options),
    /// Print the crate map as ARCHITECTURE.md carries it
    Map,
    /// Build llama.cpp and ik_llama.cpp at pinned versions into target/peers, to compare with
    Peers(peers::Options),
    /// Measure the speed of alti and of its peers on the same files, in turns
    BenchPeers(bench_peers::Options),
    /// Measure what alti and its peers serve to many clients at once, in turns
    BenchServe(bench_serve::Options),
    /// Watch alti serve thousands of idle streams and hundreds of active ones
    SoakServe(soak_serve::Options),
    /// Compare perplexity, next-token distributions and quantisation error with llama.cpp
    CompareQuality(quality::Options),
    /// Look for hostile files that do harm, with cargo-fuzz
    Fuzz(fuzz::Options),
}

impl Arguments {
    /// Runs the chosen command.
    ///
    /// # Errors
    /// What went wrong, with the command or the file it went wrong in.
    pub fn run(self) -> Result<()> {
        match self.command {
            Task::Test(options) => test_suite::run(&options),
            Task::Aarch64(options) => aarch64::run(&options),
            Task::Map => {
                print!("{}", crate_map::markdown());
                Ok(())
            }
            Task::Peers(options) => peers::run(&options),
            Task::BenchPeers(options) => bench_peers::run(&options),
            Task::BenchServe(options) => bench_serve::run(&options),
            Task::SoakServe(options) => soak_serve::run(&options),
            Task::CompareQuality(options) => quality::run(&options),
            Task::Fuzz(options) => fuzz::run(&options),
        }
    }
}
