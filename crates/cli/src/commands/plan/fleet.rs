//! `alti plan fleet`: one fleet for training, inference and ranking.

use super::inputs::{HardwareOptions, count_or_none};
use super::train::write;
use crate::output;
use alti_plan::fleet::{FleetPlan, plan_fleet};
use alti_plan::report::fleet_report;
use alti_plan::units::{money, thousands};
use std::path::PathBuf;

/// Plan one fleet for training, inference and ranking by the hour
#[derive(Debug, clap::Args)]
pub struct FleetCommand {
    #[command(flatten)]
    hardware: HardwareOptions,
    /// Accelerators that training would keep busy around the clock
    #[arg(long, value_parser = count_or_none)]
    training: Option<f64>,
    /// Accelerators for inference in its busiest hour
    #[arg(long, value_parser = count_or_none)]
    inference: Option<f64>,
    /// Accelerators for ranking in its busiest hour
    #[arg(long, value_parser = count_or_none)]
    ranking: Option<f64>,
    /// Write a page with charts that opens without a network
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl FleetCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a number is impossible.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let settings = self.hardware.settings()?;
        let accelerator = self.hardware.accelerator(&settings)?;
        let mut request = settings.fleet.clone();
        request.training_hours = self.training.map_or(request.training_hours, |count| 24.0 * count);
        request.inference = self.inference.unwrap_or(request.inference);
        request.ranking = self.ranking.unwrap_or(request.ranking);
        let plan = plan_fleet(&request, &accelerator, &settings.economics)?;
        if let Some(path) = &self.report {
            write(path, &fleet_report(&plan))?;
        }
        output::result(json, &plan, text)
    }
}

fn text(plan: &FleetPlan) -> String {
    let mut text = match plan.pays {
        true => format!(
            "shared fleet    {} accelerators, {} a year\n\
             three fleets    {} accelerators: {} a year more\n\
             at night        serving frees {} accelerators for training\n\
             changes         {} a day, which cost {} accelerator-hours of training\n",
            thousands(plan.shared),
            money(plan.cost_a_year),
            thousands(plan.separate),
            money(plan.saved_a_year),
            thousands(plan.freed_at_night),
            plan.changes,
            thousands(plan.lost)
        ),
        false => format!(
            "three fleets    {} accelerators, {} a year: one shared fleet would not be smaller\n",
            thousands(plan.separate),
            money(plan.cost_a_year)
        ),
    };
    text +=
        &format!("\n{:>5} {:>10} {:>10} {:>10} {:>8}\n", "HOUR", "TRAINING", "INFERENCE", "RANKING", "IDLE");
    // Every second hour, so that it fits a screen.
    for (hour, it) in plan.hours.iter().enumerate().step_by(2) {
        text += &format!(
            "{hour:>5} {:>10} {:>10} {:>10} {:>8}\n",
            thousands(it.training),
            thousands(it.inference),
            thousands(it.ranking),
            thousands(it.idle)
        );
    }
    text
}
