//! `alti plan`: the compute planner. Questions come in through flags and one TOML file, answers go out as a screen of text,
//! JSON, or an HTML page.

mod check;
mod failures;
mod fit;
mod fleet;
mod infer;
mod inputs;
mod rank;
mod roadmap;
mod scale;
mod screen;
mod train;

use crate::environment::Environment;
use clap::Subcommand;

/// Plan compute: clusters, time, power, money
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti plan train --model Llama-3.1-405B --gpu H100 --gpus 16384 --tokens 15.6T
  alti plan train --model 70B --gpus 1024 --tokens 15T --own --report plan.html
  alti plan train --flops 3.8e25 --gpus 16384
  alti plan explain --model Llama-3.1-8B --gpus 64 --tokens 1T
  alti plan scale --flops 3.8e26
  alti plan infer --model Llama-3.1-70B --gpu H200 --tp 4 --requests 50 --input 1000 --output 300
  alti plan infer --model Llama-3.1-8B --trace requests.csv --report serving.html
  alti plan rank --gpu MTIA --users 500M
  alti plan fleet --gpu H100 --training 16000 --inference 8000 --ranking 12000
  alti plan roadmap --generations 3 --growth 10
  alti plan failures --gpus 100000 --checkpoint 30
  alti plan fit --model SmolLM2-135M
  alti plan check

Prices, failure rates, traffic and the network are in a TOML file for --settings; `alti plan
settings` prints one with every default. Accelerators and models of your own go into --hardware
and --models.")]
pub struct PlanCommand {
    #[command(subcommand)]
    question: Question,
}

/// What can be planned.
#[derive(Debug, Subcommand)]
enum Question {
    Train(Box<train::TrainCommand>),
    Explain(Box<train::ExplainCommand>),
    Scale(scale::ScaleCommand),
    Infer(Box<infer::InferCommand>),
    Rank(rank::RankCommand),
    Fleet(fleet::FleetCommand),
    Roadmap(roadmap::RoadmapCommand),
    Failures(failures::FailuresCommand),
    Fit(fit::FitCommand),
    Check(check::CheckCommand),
    Settings(inputs::SettingsCommand),
    List(inputs::ListCommand),
}

impl PlanCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When an input is impossible: what, where, and the nearest that works.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        match &self.question {
            Question::Train(command) => command.run(environment, json),
            Question::Explain(command) => command.run(environment, json),
            Question::Scale(command) => command.run(json),
            Question::Infer(command) => command.run(environment, json),
            Question::Rank(command) => command.run(json),
            Question::Fleet(command) => command.run(json),
            Question::Roadmap(command) => command.run(json),
            Question::Failures(command) => command.run(json),
            Question::Fit(command) => command.run(environment, json),
            Question::Check(command) => command.run(json),
            Question::Settings(command) => command.run(json),
            Question::List(command) => command.run(json),
        }
    }
}
