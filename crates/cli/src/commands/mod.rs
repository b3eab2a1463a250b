//! One file a command.

mod backup;
mod bench;
mod chat;
mod completions;
mod config;
mod convert;
mod doctor;
mod keys;
mod list;
mod logits;
mod perplexity;
mod plan;
mod pull;
mod quantize;
mod run;
mod serve;
mod show;
mod tokenize;
mod usage;

use crate::environment::{Environment, VARIABLES};
use crate::exit::Failure;
use clap::Subcommand;

/// What `alti` can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Chat(Box<chat::ChatCommand>),
    Run(Box<run::RunCommand>),
    Serve(Box<serve::ServeCommand>),
    Config(config::ConfigCommand),
    Bench(bench::BenchCommand),
    Perplexity(perplexity::PerplexityCommand),
    Logits(logits::LogitsCommand),
    Pull(pull::PullCommand),
    List(list::ListCommand),
    Show(show::ShowCommand),
    #[command(name = "rm")]
    Remove(list::RemoveCommand),
    Convert(convert::ConvertCommand),
    Quantize(Box<quantize::QuantizeCommand>),
    Tokenize(tokenize::TokenizeCommand),
    Keys(Box<keys::KeysCommand>),
    Usage(Box<usage::UsageCommand>),
    Backup(backup::BackupCommand),
    Restore(backup::RestoreCommand),
    Plan(plan::PlanCommand),
    Doctor(doctor::DoctorCommand),
    Completions(completions::CompletionsCommand),
    Man(completions::ManCommand),
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// What the command says.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        match self {
            Command::Chat(command) => command.run(environment, json),
            Command::Run(command) => command.run(environment, json),
            Command::Serve(command) => command.run(environment),
            Command::Config(command) => command.run(environment, json),
            Command::Bench(command) => command.run(environment, json),
            Command::Perplexity(command) => command.run(environment, json),
            Command::Logits(command) => command.run(environment, json),
            Command::Pull(command) => command.run(environment, json),
            Command::List(command) => command.run(environment, json),
            Command::Show(command) => command.run(environment, json),
            Command::Remove(command) => command.run(environment, json),
            Command::Convert(command) => command.run(environment, json),
            Command::Quantize(command) => command.run(environment, json),
            Command::Tokenize(command) => command.run(environment, json),
            Command::Keys(command) => command.run(environment, json),
            Command::Usage(command) => command.run(environment, json),
            Command::Backup(command) => command.run(environment, json),
            Command::Restore(command) => command.run(environment, json),
            Command::Plan(command) => command.run(environment, json),
            Command::Doctor(command) => command.run(environment, json),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    }
}

/// The text of `alti help <topic>`, for topics that are no commands.
pub fn help_topic(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<String> {
    if arguments.next()? != "help" {
        return None;
    }
    match arguments.next()?.to_str()? {
        "exit-codes" => {
            let rows = Failure::TABLE.map(|(_, code, meaning)| format!("{code:>4}  {meaning}\n"));
            Some(format!("   0  the command did what it was asked\n{}", rows.concat()))
        }
        "environment" => {
            Some(VARIABLES.map(|variable| format!("{:14} {}\n", variable.name, variable.help)).concat())
        }
        _ => None,
    }
}
