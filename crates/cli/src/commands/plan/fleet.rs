//! `alti plan fleet`: one fleet for training, inference and ranking.

use super::inputs::{HardwareOptions, count};
use crate::output;
use alti_plan::fleet::{FleetPlan, plan_fleet};
use alti_plan::units::{money, thousands};

/// Plan one fleet for training, inference and ranking by the hour
#[derive(Debug, clap::Args)]
pub struct FleetCommand {
    #[command(flatten)]
    hardware: HardwareOptions,
    /// Accelerators that training would keep busy around the clock
    #[arg(long, value_parser = count)]
    training: Option<f64>,
    /// Accelerators for inference in its busiest hour
    #[arg(long, value_parser = count)]
    inference: Option<f64>,
    /// Accelerators for ranking in its busiest hour
    #[arg(long, value_parser = count)]
    ranking: Option<f64>,
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
        let plan = plan_fleet(&request, &accelerator, &settings.economics())?;
        output::result(json, &plan, text)
    }
}

fn text(plan: &FleetPlan) -> String {
    let mut text = format!(
        "shared fleet    {} accelerators, {} a year\n\
         three fleets    {} accelerators: {} a year more\n\
         at night        serving frees {} accelerators for training\n\
         moves           cost {} accelerator-hours a day\n\n{:>5} {:>10} {:>10} {:>10} {:>8}\n",
        thousands(plan.shared),
        money(plan.cost_a_year),
        thousands(plan.separate),
        money(plan.saved_a_year),
        thousands(plan.freed_at_night),
        thousands(plan.lost),
        "HOUR",
        "TRAINING",
        "INFERENCE",
        "RANKING",
        "IDLE"
    );
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
