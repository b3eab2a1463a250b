//! `alti plan rank`: machines for a ranking model and a number of users.

use super::inputs::{HardwareOptions, count};
use super::screen::row;
use super::train::write;
use crate::output;
use alti_plan::calibration::Calibration;
use alti_plan::hardware::PRECISIONS;
use alti_plan::ranking::{RankingPlan, plan_ranking};
use alti_plan::report::ranking_report;
use alti_plan::units::{digits, money, short, thousands};
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;

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
    /// Write a page with charts that opens without a network
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, serde::Serialize)]
struct Answer {
    #[serde(flatten)]
    plan: RankingPlan,
    cost_a_day: f64,
    power: f64,
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
        let economics = &settings.economics;
        economics.check_prices(&accelerator)?;
        if let Some(path) = &self.report {
            write(path, &ranking_report(&load, &plan, &accelerator.name))?;
        }
        let answer = Answer {
            cost_a_day: economics.bill(&accelerator, plan.hours_a_day).total(),
            power: economics.site_power(&accelerator, plan.accelerators),
            plan,
        };
        output::result(json, &answer, |answer| {
            let plan = &answer.plan;
            let mut text = format!(
                "{} users a day, {} pages each, {} candidates a page, {} parameters\n\n",
                short(load.users),
                load.requests_a_user,
                short(load.candidates),
                short(load.parameters)
            );
            let mut row = |label: &str, words: String| row(&mut text, 16, label, &words);
            let bound = if plan.memory_bound { "memory" } else { "compute" };
            row(
                &format!("one {}", accelerator.name),
                format!(
                    "{} candidates/s, bound by {bound}; {}",
                    short(plan.candidates_per_second),
                    Calibration::basis(&accelerator.family)
                ),
            );
            row("busiest hour", format!("{} pages/s", thousands(plan.peak_requests)));
            let hours = thousands(plan.hours_a_day);
            row(
                "machines",
                format!(
                    "{} accelerators, {hours} accelerator-hours a day if they follow the load",
                    thousands(plan.accelerators)
                ),
            );
            let power = digits(answer.power / 1e3);
            row(
                "money",
                format!("{} a day for those hours; {power} kW at the busiest", money(answer.cost_a_day)),
            );
            text
        })
    }
}
