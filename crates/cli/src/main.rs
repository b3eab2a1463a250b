//! `alti`: parse, wire up, print, exit code. What commands do is in the crates below; here is how a
//! person asks for it. One file a command, in [`commands`].
#![forbid(unsafe_code)]
#![expect(unreachable_pub, reason = "nothing is outside of a binary: pub says that other modules use it")]

mod commands;
mod database;
mod environment;
#[cfg(test)]
mod examples;
mod exit;
mod fitting;
mod input;
mod interrupt;
mod machine;
mod model;
mod model_files;
mod options;
mod output;
mod packed;
mod pulling;
mod rehearsal;
mod runner;
mod serving;

use clap::{CommandFactory, FromArgMatches, Parser};
use environment::Environment;
use std::process::ExitCode;

/// Run open Llama models on your own hardware.
#[derive(Debug, Parser)]
#[command(name = "alti", version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,

    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  alti chat                                   talk to the default model (fetched once)
  alti run \"Name three rivers of Peru.\"       one answer, on stdout
  alti pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M
  alti serve                                  the APIs of OpenAI, Anthropic, Ollama and llama.cpp
  alti bench                                  how fast this machine is
  alti help exit-codes                        what exit codes mean
  alti help environment                       which variables are read";

fn main() -> ExitCode {
    if let Some(topic) = commands::help_topic(std::env::args_os().skip(1)) {
        return output::text(&topic).map_or_else(|error| report(&error), |()| ExitCode::SUCCESS);
    }
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = Environment::read().and_then(|environment| cli.command.run(&environment, cli.json));
    done.map_or_else(|error| report(&error), |()| ExitCode::SUCCESS)
}

/// Says what went wrong, in one line, and returns its exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if output::is_closed_pipe(error) {
        // Whoever read our output has enough.
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", exit::message_of(error));
    exit::code_of(error)
}
