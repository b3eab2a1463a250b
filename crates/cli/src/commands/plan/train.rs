//! `alti plan train` and `alti plan explain`: a whole training run.

use super::inputs::{HardwareOptions, count, machines, shape};
use super::screen::row;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::output;
use alti_plan::PlanError;
use alti_plan::calibration::Calibration;
use alti_plan::error::between;
use alti_plan::explain::{Line, explain_run};
use alti_plan::layout::{Job, Recompute, Sharding};
use alti_plan::model::ModelShape;
use alti_plan::report::run_report;
use alti_plan::scaling::{ScalingLaw, for_flops, for_loss};
use alti_plan::search::{Constraints, reason, usual_batch};
use alti_plan::settings::Settings;
use alti_plan::stack::{STACKS, Stack};
use alti_plan::training::{RunPlan, RunRequest, TRAINING_PRECISIONS, pareto, plan_run};
use alti_plan::units::{GIB, digits, duration, money, short, thousands};
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;

/// What is trained, on how many tokens.
#[derive(Debug, clap::Args)]
pub struct RunOptions {
    /// Model: a name of `alti plan list`, a number of parameters (`70B`), a config.json, or a model's file
    #[arg(long, required_unless_present_any = ["flops", "loss"])]
    model: Option<String>,
    /// TOML file with models of your own
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Tokens trained on, all epochs together
    #[arg(long, value_parser = count, required_unless_present_any = ["flops", "loss", "epochs"])]
    tokens: Option<f64>,
    /// Different tokens there are [default: as many as are trained on]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    unique_tokens: Option<f64>,
    /// Times that the different tokens are trained on
    #[arg(long)]
    epochs: Option<f64>,
    /// FLOPs to spend: model and tokens by the scaling law, or the tokens of a model that is given
    #[arg(long, value_parser = count, conflicts_with_all = ["tokens", "loss", "epochs"])]
    flops: Option<f64>,
    /// Loss to reach, nats a token: model and tokens by the scaling law
    #[arg(long, conflicts_with_all = ["tokens", "model", "epochs"])]
    loss: Option<f64>,
    /// Scaling law of --flops and --loss
    #[arg(long, default_value = "llama3", value_parser = PossibleValuesParser::new(ScalingLaw::TABLE.map(|row| row.0)))]
    law: String,
}

/// The layout, where it is not searched.
#[derive(Debug, clap::Args)]
pub struct LayoutOptions {
    /// Tensor-parallel ranks [default: searched, as all that follow]
    #[arg(long)]
    tp: Option<u32>,
    /// Context-parallel ranks
    #[arg(long)]
    cp: Option<u32>,
    /// Pipeline stages
    #[arg(long)]
    pp: Option<u32>,
    /// Data-parallel ranks
    #[arg(long)]
    dp: Option<u32>,
    /// Expert-parallel ranks
    #[arg(long)]
    ep: Option<u32>,
    /// Sequences of a microbatch
    #[arg(long)]
    microbatch: Option<u32>,
    /// Model chunks of a pipeline stage
    #[arg(long)]
    interleave: Option<u32>,
    /// What is computed again in the backward pass
    #[arg(long, value_parser = PossibleValuesParser::new(Recompute::TABLE.map(|row| row.0)))]
    recompute: Option<String>,
    /// Stage of ZeRO: what is sharded over data-parallel ranks
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=3))]
    zero: Option<u8>,
}

/// A run.
#[derive(Debug, clap::Args)]
pub struct TrainOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    hardware: HardwareOptions,
    /// GPUs
    #[arg(long, value_parser = machines)]
    gpus: u64,
    /// Tokens of a sequence
    #[arg(long, default_value = "8192", value_parser = machines)]
    sequence: u64,
    /// Tokens of a batch [default: 1,024 a GPU, from 0.5M to 128M]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    batch: Option<f64>,
    /// What products are computed in
    #[arg(long, default_value = "bf16", value_parser = PossibleValuesParser::new(TRAINING_PRECISIONS))]
    precision: String,
    /// Training software
    #[arg(long, default_value = Stack::DEFAULT, value_parser = PossibleValuesParser::new(STACKS.map(|it| it.name)))]
    stack: String,
    #[command(flatten)]
    layout: LayoutOptions,
}

/// Plan a training run: layout, time, failures, energy, money
#[derive(Debug, clap::Args)]
pub struct TrainCommand {
    #[command(flatten)]
    options: TrainOptions,
    /// Write a page with charts that opens without a network
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Show every formula of a training plan with its numbers
#[derive(Debug, clap::Args)]
pub struct ExplainCommand {
    #[command(flatten)]
    options: TrainOptions,
}

/// A model, its tokens, and how many of them are different.
struct Run {
    model: ModelShape,
    tokens: f64,
    unique: Option<f64>,
}

impl RunOptions {
    fn resolve(&self, environment: &Environment, sequence: u64) -> anyhow::Result<Run> {
        let found = ScalingLaw::TABLE.into_iter().find(|row| row.0 == self.law);
        let law = found.map_or(ScalingLaw::Llama3, |row| row.1);
        let optimum = match (&self.model, self.flops, self.loss) {
            (None, Some(flops), _) => Some(for_flops(law, flops)?),
            (None, None, Some(loss)) => Some(for_loss(law, loss)?),
            _ => None,
        };
        if let Some(optimum) = optimum {
            let model = ModelShape::of_parameters(optimum.parameters)?;
            return Ok(Run { model, tokens: optimum.tokens, unique: self.unique_tokens });
        }
        let model = shape(self.model.as_deref().unwrap_or_default(), self.models.as_ref(), environment)?;
        if let Some(flops) = self.flops {
            let tokens = flops / model.training_flops(sequence as f64);
            return Ok(Run { model, tokens, unique: self.unique_tokens });
        }
        let (tokens, unique) = self.counted()?;
        Ok(Run { model, tokens, unique })
    }

    /// Tokens and different tokens, of which either follows from the other and the epochs.
    fn counted(&self) -> Result<(f64, Option<f64>), PlanError> {
        let epochs = self.epochs.map(|it| between("epochs", it, 1.0, 1e6)).transpose()?;
        match (self.tokens, self.unique_tokens, epochs) {
            (Some(tokens), unique, None) => Ok((tokens, unique)),
            (Some(tokens), None, Some(epochs)) => Ok((tokens, Some(tokens / epochs))),
            (None, Some(unique), Some(epochs)) => Ok((unique * epochs, Some(unique))),
            (Some(_), Some(_), Some(epochs)) => {
                let problem = "it follows from --tokens and --unique-tokens";
                Err(PlanError::value("epochs", epochs, problem, "give two of the three"))
            }
            (None, ..) => {
                let problem = "there are no tokens";
                Err(PlanError::value(
                    "tokens",
                    "absent",
                    problem,
                    "give --tokens, or --unique-tokens with --epochs",
                ))
            }
        }
    }
}

impl LayoutOptions {
    fn constraints(&self, batch: Option<f64>) -> Constraints {
        let recompute =
            |name: &String| Recompute::TABLE.into_iter().find(|row| row.0 == name).map(|row| row.1);
        Constraints {
            tensor: self.tp,
            context: self.cp,
            pipeline: self.pp,
            data: self.dp,
            expert: self.ep,
            microbatch: self.microbatch,
            interleave: self.interleave,
            recompute: self.recompute.as_ref().and_then(recompute),
            sharding: self.zero.map(|stage| Sharding::TABLE[usize::from(stage.min(3))]),
            // A batch that the user names is taken as it is.
            batch_rounding: if batch.is_some() { 0.0 } else { 0.25 },
        }
    }
}

impl TrainOptions {
    /// Makes the plan, and hands it on with what it was made from.
    fn plan<T>(
        &self,
        environment: &Environment,
        then: impl FnOnce(&RunRequest<'_>, &RunPlan) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let settings: Settings = self.hardware.settings()?;
        let accelerator = self.hardware.accelerator(&settings)?;
        let run = self.run.resolve(environment, self.sequence)?;
        let (model, sequence) = (&run.model, self.sequence);
        if model.context < sequence {
            let problem = format!("{} has a context of {}", model.name, model.context);
            let remedy = format!("use {}, or a model made for more", model.context);
            return Err(PlanError::value("sequence", sequence, problem, remedy).into());
        }
        let request = RunRequest {
            job: Job {
                model,
                accelerator: &accelerator,
                stack: Stack::find(&self.stack)?,
                sequence,
                batch_tokens: self.batch.unwrap_or_else(|| usual_batch(self.gpus, sequence)),
                precision: &self.precision,
                oversubscription: settings.cluster.oversubscription,
                pod: settings.cluster.pod,
            },
            gpus: self.gpus,
            tokens: run.tokens,
            unique_tokens: run.unique,
            constraints: self.layout.constraints(self.batch),
            reliability: settings.reliability.clone(),
            economics: settings.economics,
        };
        let plan = plan_run(&request, &Calibration::default())?;
        then(&request, &plan)
    }
}

impl TrainCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When no such run is possible, or the report cannot be written.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        self.options.plan(environment, |request, plan| {
            if let Some(path) = &self.report {
                let front = pareto(request, &Calibration::default());
                let page =
                    run_report(request, plan, &front, &explain_run(request, plan, &Calibration::default()));
                write(path, &page)?;
            }
            output::result(json, plan, |plan| text(request, plan))
        })
    }
}

impl ExplainCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When no such run is possible.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let lines = self
            .options
            .plan(environment, |request, plan| Ok(explain_run(request, plan, &Calibration::default())))?;
        output::result(json, &lines, |lines| lines.iter().map(formula).collect())
    }
}

/// A formula on a few lines.
pub fn formula(line: &Line) -> String {
    let source = if line.source.is_empty() { String::new() } else { format!(" [{}]", line.source) };
    let mut text = format!("{}\n", line.what);
    row(&mut text, 6, "    =", &format!("{}{source}", line.formula));
    row(&mut text, 6, "    =", &line.numbers);
    row(&mut text, 6, "    =", &line.value);
    text
}

/// Writes a page, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &std::path::Path, page: &str) -> anyhow::Result<()> {
    let failed = |error: std::io::Error| {
        Exit::new(Failure::Failed, format!("{}: cannot be written: {error}", path.display()))
    };
    let beside = path.with_extension("html.part");
    std::fs::write(&beside, page).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)?;
    Ok(())
}

fn text(request: &RunRequest<'_>, plan: &RunPlan) -> String {
    let best = plan.best();
    let job = &request.job;
    let mut text = format!(
        "{} ({} parameters, {} active) on {} {}, {} tokens, {}\n\n",
        job.model.name,
        short(job.model.parameters()),
        short(job.model.active_parameters()),
        thousands(request.gpus as f64),
        job.accelerator.name,
        short(request.tokens),
        job.precision
    );
    for (label, value) in facts(request, plan) {
        row(&mut text, 13, label, &value);
    }
    text += &format!("\nNEXT OF {} LAYOUTS THAT FIT ({} TRIED)\n", plan.layouts.fitting, plan.layouts.tried);
    for next in plan.layouts.best.iter().skip(1).take(5) {
        let slower = format!("{:+.1} %", 100.0 * (best.tokens_per_second / next.tokens_per_second - 1.0));
        row(&mut text, 9, &slower, &format!("{}: {}", next.layout, reason(best, next)));
    }
    text
}

/// Tokens of the largest batch that a run of the catalogue's models is published with: DeepSeek-V3's 15,360 sequences of 4,096
/// (arXiv 2412.19437, section 4.2).
const LARGEST_BATCH: f64 = 15_360.0 * 4096.0;

/// What is said about a run, with labels.
fn facts(request: &RunRequest<'_>, plan: &RunPlan) -> Vec<(&'static str, String)> {
    let (best, job) = (plan.best(), &request.job);
    let days = |(low, _, high): (f64, f64, f64)| format!("{} to {}", digits(low), digits(high));
    let mut facts = vec![
        (
            "time",
            format!(
                "{} days; 90 of 100 runs take {} by chance of failures, {} with the error of the step's time and of the rates",
                digits(plan.days.1),
                days(plan.days),
                days(plan.days_uncertain)
            ),
        ),
        (
            "money",
            format!(
                "{} ({} to {} with those errors); {}",
                money(plan.bill.total()),
                money(plan.cost_range.0),
                money(plan.cost_range.1),
                request.economics.said()
            ),
        ),
    ];
    facts.extend(
        plan.capital.map(|it| ("to buy", format!("{} with spares, network and building", money(it)))),
    );
    if plan.gpus_used < request.gpus {
        let used = thousands(plan.gpus_used as f64);
        let all = thousands(request.gpus as f64);
        facts.push(("GPUs", format!("uses {used} of {all}; the others are spares, and billed")));
    }
    facts.push((
        "compute",
        format!(
            "{:.2e} FLOPs, {} GPU-hours, MFU {:.1} % ({})",
            plan.flops,
            short(plan.gpu_hours),
            100.0 * best.mfu,
            Calibration::basis(&job.accelerator.family)
        ),
    ));
    facts.push((
        "power",
        format!(
            "{} MW, {} MWh, {} t CO2e",
            digits(plan.site_power / 1e6),
            digits_of_many(plan.bill.energy / 1e3),
            digits_of_many(plan.bill.carbon)
        ),
    ));
    facts.extend(failures(plan));
    facts.push((
        "data",
        format!(
            "worth {} different tokens; loss by Chinchilla's law {:.3}",
            short(plan.effective_tokens),
            plan.loss
        ),
    ));
    facts.push(("layout", best.layout.to_string()));
    let step = main_parts(&best.step.parts(), best.step.total());
    let tokens = short(best.batch_tokens);
    facts.push(("step", format!("{} of {tokens} tokens: {step}", duration(best.step.total()))));
    if best.batch_tokens > LARGEST_BATCH {
        let words = format!(
            "{tokens} tokens are more than any published run here took ({}, arXiv 2412.19437): a token may teach less; \
             --batch sets another",
            short(LARGEST_BATCH)
        );
        facts.push(("batch", words));
    }
    let memory = main_parts(&best.memory.parts(), best.memory.total());
    facts.push(("memory", format!("{} GiB: {memory}", digits(best.memory.total() / GIB))));
    facts
}

fn failures(plan: &RunPlan) -> [(&'static str, String); 2] {
    let reliability = &plan.reliability;
    [
        (
            "failures",
            format!(
                "one in {}, {} in all; goodput {:.1} %, {} spare nodes",
                duration(reliability.mean_time),
                thousands(reliability.goodput.interruptions),
                100.0 * reliability.goodput.median,
                reliability.spares
            ),
        ),
        (
            "checkpoints",
            format!(
                "every {} (Young {}, Daly {})",
                duration(reliability.interval),
                duration(reliability.young),
                duration(reliability.daly)
            ),
        ),
    ]
}

/// A quantity with commas where it is large, and with digits after the point where it is small.
fn digits_of_many(value: f64) -> String {
    if value >= 100.0 { thousands(value) } else { digits(value) }
}

/// The largest parts of a whole, in per cent.
fn main_parts(parts: &[(&str, f64)], total: f64) -> String {
    let mut parts: Vec<(&str, f64)> = parts.iter().copied().filter(|it| it.1 > 0.01 * total).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let said = parts.iter().take(5).map(|it| format!("{} {:.0} %", it.0, 100.0 * it.1 / total));
    said.collect::<Vec<_>>().join(", ")
}
