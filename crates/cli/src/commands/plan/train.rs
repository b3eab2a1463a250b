//! `alti plan train` and `alti plan explain`: a whole training run.

use super::inputs::{HardwareOptions, ModelOptions, count, machines};
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::output;
use alti_plan::PlanError;
use alti_plan::calibration::Calibration;
use alti_plan::explain::{Line, explain};
use alti_plan::hardware::PRECISIONS;
use alti_plan::layout::Job;
use alti_plan::report::run_report;
use alti_plan::search::{Constraints, reason};
use alti_plan::settings::Settings;
use alti_plan::stack::{STACKS, Stack};
use alti_plan::training::{RunPlan, RunRequest, pareto, plan_run};
use alti_plan::units::{GIB, digits, duration, money, short, thousands};
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;

/// A run.
#[derive(Debug, clap::Args)]
pub struct TrainOptions {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    hardware: HardwareOptions,
    /// GPUs
    #[arg(long, value_parser = machines)]
    gpus: u64,
    /// Tokens trained on, all epochs together
    #[arg(long, value_parser = count)]
    tokens: f64,
    /// Different tokens there are [default: as many as are trained on]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    unique_tokens: Option<f64>,
    /// Tokens of a sequence
    #[arg(long, default_value = "8192", value_parser = machines)]
    sequence: u64,
    /// Tokens of a batch [default: 1,024 a GPU, from 0.5M to 128M]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    batch: Option<f64>,
    /// What products are computed in
    #[arg(long, default_value = "bf16", value_parser = PossibleValuesParser::new(PRECISIONS.map(|row| row.0)))]
    precision: String,
    /// Training software
    #[arg(long, default_value = Stack::DEFAULT, value_parser = PossibleValuesParser::new(STACKS.map(|it| it.name)))]
    stack: String,
    /// Tensor-parallel ranks [default: searched]
    #[arg(long)]
    tp: Option<u32>,
    /// Context-parallel ranks [default: searched]
    #[arg(long)]
    cp: Option<u32>,
    /// Pipeline stages [default: searched]
    #[arg(long)]
    pp: Option<u32>,
    /// Expert-parallel ranks [default: searched]
    #[arg(long)]
    ep: Option<u32>,
    /// Sequences of a microbatch [default: searched]
    #[arg(long)]
    microbatch: Option<u32>,
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

impl TrainOptions {
    /// Makes the plan, and hands it on with what it was made from.
    fn plan<T>(
        &self,
        environment: &Environment,
        then: impl FnOnce(&RunRequest<'_>, &RunPlan) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let settings: Settings = self.hardware.settings()?;
        let accelerator = self.hardware.accelerator(&settings)?;
        let model = self.model.shape(environment)?;
        let sequence = self.sequence;
        let usual = (1024.0 * self.gpus as f64).clamp(524_288.0, 134_217_728.0);
        // A power of two, that most meshes divide.
        let usual = 2_f64.powf(usual.log2().round()).max(sequence as f64);
        if model.context < sequence {
            let problem = format!("{} has a context of {}", model.name, model.context);
            let remedy = format!("use {}, or a model made for more", model.context);
            return Err(PlanError::value("sequence", sequence, problem, remedy).into());
        }
        let request = RunRequest {
            job: Job {
                model: &model,
                accelerator: &accelerator,
                stack: Stack::find(&self.stack)?,
                sequence,
                batch_tokens: self.batch.unwrap_or(usual),
                precision: &self.precision,
                oversubscription: settings.cluster.oversubscription,
                pod: settings.cluster.pod,
            },
            gpus: self.gpus,
            tokens: self.tokens,
            unique_tokens: self.unique_tokens,
            constraints: Constraints {
                tensor: self.tp,
                context: self.cp,
                pipeline: self.pp,
                expert: self.ep,
                microbatch: self.microbatch,
                // A batch that the user names is taken as it is.
                batch_rounding: if self.batch.is_some() { 0.0 } else { 0.25 },
            },
            reliability: settings.reliability.clone(),
            economics: settings.economics(),
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
                let page = run_report(request, plan, &front, &explain(request, plan));
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
        let lines = self.options.plan(environment, |request, plan| Ok(explain(request, plan)))?;
        output::result(json, &lines, |lines| lines.iter().map(formula).collect())
    }
}

fn formula(line: &Line) -> String {
    let source = if line.source.is_empty() { String::new() } else { format!("   [{}]", line.source) };
    format!("{}\n    = {}{source}\n    = {}\n    = {}\n", line.what, line.formula, line.numbers, line.value)
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
    let reliability = &plan.reliability;
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
    let mut row = |label: &str, value: String| text += &format!("{label:12} {value}\n");
    let days = (digits(plan.days.0), digits(plan.days.1), digits(plan.days.2));
    row("time", format!("{} days ({} to {} in 90 of 100 runs)", days.1, days.0, days.2));
    row(
        "money",
        format!(
            "{} ({} to {})",
            money(plan.bill.total()),
            money(plan.cost_range.0),
            money(plan.cost_range.1)
        ),
    );
    row("to buy", format!("{} with network and building", money(plan.capital)));
    row(
        "compute",
        format!(
            "{:.2e} FLOPs, {} GPU-hours, MFU {:.1} %",
            plan.flops,
            short(plan.gpu_hours),
            100.0 * best.mfu
        ),
    );
    row(
        "power",
        format!(
            "{} MW, {} MWh, {} t CO2e",
            digits(plan.site_power / 1e6),
            thousands(plan.bill.energy / 1e3),
            thousands(plan.bill.carbon)
        ),
    );
    row(
        "failures",
        format!(
            "one in {}, {} in all; goodput {:.1} %, {} spare nodes",
            duration(reliability.mean_time),
            thousands(reliability.goodput.interruptions),
            100.0 * reliability.goodput.median,
            reliability.spares
        ),
    );
    row(
        "checkpoints",
        format!(
            "every {} (Young {}, Daly {})",
            duration(reliability.interval),
            duration(reliability.young),
            duration(reliability.daly)
        ),
    );
    row(
        "data",
        format!(
            "worth {} different tokens; loss by Chinchilla's law {:.3}",
            short(plan.effective_tokens),
            plan.loss
        ),
    );
    row("layout", best.layout.to_string());
    row(
        "step",
        format!(
            "{} of {} tokens: {}",
            duration(best.step.total()),
            short(best.batch_tokens),
            main_parts(&best.step.parts(), best.step.total())
        ),
    );
    let memory = main_parts(&best.memory.parts(), best.memory.total());
    row("memory", format!("{} GiB: {memory}", digits(best.memory.total() / GIB)));
    text += &format!("\nNEXT OF {} LAYOUTS THAT FIT ({} TRIED)\n", plan.layouts.fitting, plan.layouts.tried);
    for next in plan.layouts.best.iter().skip(1).take(5) {
        let slower = best.tokens_per_second / next.tokens_per_second - 1.0;
        text += &format!("{:+5.1} %  {}: {}\n", 100.0 * slower, next.layout, reason(best, next));
    }
    text
}

/// The largest parts of a whole, in per cent.
fn main_parts(parts: &[(&str, f64)], total: f64) -> String {
    let mut parts: Vec<(&str, f64)> = parts.iter().copied().filter(|it| it.1 > 0.01 * total).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let said = parts.iter().take(5).map(|it| format!("{} {:.0} %", it.0, 100.0 * it.1 / total));
    said.collect::<Vec<_>>().join(", ")
}
