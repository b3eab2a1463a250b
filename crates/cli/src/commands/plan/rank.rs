//! `alti plan rank`: machines for a ranking model and a number of users.

use super::inputs::{HardwareOptions, count};
use crate::output;
use alti_plan::calibration::Calibration;
use alti_plan::hardware::PRECISIONS;
use alti_plan::ranking::plan_ranking;
use alti_plan::units::{short, thousands};
use clap::builder::PossibleValuesParser;

/// Plan ranking: candidates a second, machines for users a day
#[derive(Debug, clap::Args)]
pub struct RankCommand {
    #[command(flatten)]
    hardware: HardwareOptions,
    /// Users a day
    #[arg(long, value_parser = count)]
    users: Option<f64>,
    /// Items scored for a page
    #[arg(long, value_parser = count)]
    candidates: Option<f64>,
    /// Parameters of the ranking model
    #[arg(long, value_parser = count)]
    parameters: Option<f64>,
    /// What products are computed in
    #[arg(long, default_value = "bf16", value_parser = PossibleValuesParser::new(PRECISIONS.map(|row| row.0)))]
    precision: String,
}

impl RankCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a number is impossible.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let settings = self.hardware.settings()?;
        let accelerator = self.hardware.accelerator(&settings)?;
        let mut load = settings.ranking;
        load.users = self.users.unwrap_or(load.users);
        load.candidates = self.candidates.unwrap_or(load.candidates);
        load.parameters = self.parameters.unwrap_or(load.parameters);
        let plan = plan_ranking(&load, &accelerator, &self.precision, &Calibration::default())?;
        output::result(json, &plan, |plan| {
            format!(
                "{} users a day, {} pages each, {} candidates a page, {} parameters\n\n\
                 one {}    {} candidates/s, bound by {}\n\
                 busiest hour    {} pages/s\n\
                 machines        {} accelerators, {} accelerator-hours a day if they follow the load\n",
                short(load.users),
                load.requests_a_user,
                short(load.candidates),
                short(load.parameters),
                accelerator.name,
                short(plan.candidates_per_second),
                if plan.memory_bound { "memory" } else { "compute" },
                thousands(plan.peak_requests),
                thousands(plan.accelerators),
                thousands(plan.hours_a_day)
            )
        })
    }
}
