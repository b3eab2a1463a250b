//! `alti plan failures`: interruptions, checkpoints, goodput, spares.

use super::inputs::{SettingsFile, machines};
use crate::output;
use alti_plan::training::ReliabilityPlan;
use alti_plan::units::{DAY, duration};

/// Plan for failures: checkpoint interval, goodput, spare nodes
#[derive(Debug, clap::Args)]
pub struct FailuresCommand {
    #[command(flatten)]
    file: SettingsFile,
    /// GPUs of the job
    #[arg(long, value_parser = machines)]
    gpus: u64,
    /// Seconds that training stands still to save
    #[arg(long, value_name = "SECONDS")]
    checkpoint: Option<f64>,
    /// Seconds from an interruption until training goes on
    #[arg(long, value_name = "SECONDS")]
    restart: Option<f64>,
    /// Days of work
    #[arg(long, default_value_t = 54.0)]
    days: f64,
}

impl FailuresCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a number is impossible.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let mut reliability = self.file.read()?.reliability;
        reliability.checkpoint_seconds = self.checkpoint.unwrap_or(reliability.checkpoint_seconds);
        reliability.restart_seconds = self.restart.unwrap_or(reliability.restart_seconds);
        let work = alti_plan::error::between("days", self.days, 1e-3, 3650.0)? * DAY;
        let plan = reliability.plan(self.gpus as f64, work)?;
        output::result(json, &plan, text)
    }
}

fn text(plan: &ReliabilityPlan) -> String {
    let goodput = &plan.goodput;
    format!(
        "interruptions   one in {}, {} in the run\n\
         checkpoints     every {} ({:.0} s; Young {:.0} s, Daly {:.0} s)\n\
         goodput         {:.1} % by formula; {:.1} % ({:.1} to {:.1} %) in simulated runs\n\
         spares          {} nodes are enough 99 % of the time\n",
        duration(plan.mean_time),
        goodput.interruptions,
        duration(plan.interval),
        plan.interval,
        plan.young,
        plan.daly,
        100.0 * plan.efficiency,
        100.0 * goodput.median,
        100.0 * goodput.low,
        100.0 * goodput.high,
        plan.spares
    )
}
