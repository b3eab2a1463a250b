//! `alti plan roadmap`: several generations of models and their machines.

use super::inputs::HardwareOptions;
use super::train::write;
use crate::output;
use alti_plan::PlanError;
use alti_plan::calibration::Calibration;
use alti_plan::report::roadmap_report;
use alti_plan::roadmap::{Generation, Roadmap, plan_roadmap};
use alti_plan::units::{digits, money, short, thousands};
use std::path::PathBuf;

/// Plan generations of models: machines, power by quarter, money, what is uncertain
#[derive(Debug, clap::Args)]
pub struct RoadmapCommand {
    #[command(flatten)]
    hardware: HardwareOptions,
    /// Generations, one every eighteen months [default: those of the settings, or three]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=12))]
    generations: Option<u32>,
    /// How many times the compute of the one before a generation takes
    #[arg(long)]
    growth: Option<f64>,
    /// Write a page with charts that opens without a network
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl RoadmapCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a number is impossible, or the report cannot be written.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let settings = self.hardware.settings()?;
        let mut request = settings.roadmap.clone();
        request.reliability = settings.reliability.clone();
        if let Some(economics) = settings.economics {
            request.economics = economics;
        }
        if let Some(count) = self.generations {
            let first = request.generations.first().cloned().ok_or_else(|| {
                PlanError::value("generations", 0, "the settings name none", "name the first there")
            })?;
            let generation = |index: u32| Generation {
                name: format!("generation {}", index + 1),
                start: first.start + 1.5 * f64::from(index),
                ..first.clone()
            };
            request.generations = (0..count).map(generation).collect();
        }
        request.growth = self.growth.unwrap_or(request.growth);
        let roadmap = plan_roadmap(&request, &self.hardware.catalogue()?, &Calibration::default())?;
        if let Some(path) = &self.report {
            write(path, &roadmap_report(&roadmap))?;
        }
        output::result(json, &roadmap, text)
    }
}

fn text(roadmap: &Roadmap) -> String {
    let mut text = format!(
        "{:14} {:>8} {:>9} {:>8} {:>8} {:>18} {:>9} {:>8} {:>6} {:>7}\n",
        "GENERATION",
        "START",
        "FLOPS",
        "MODEL",
        "TOKENS",
        "MACHINES",
        "POWER MW",
        "CAPITAL",
        "MFU %",
        "BUDGET"
    );
    for it in &roadmap.generations {
        let budget =
            if it.affordable >= 1.0 { "-".to_owned() } else { format!("{:.0} %", 100.0 * it.affordable) };
        text += &format!(
            "{:14} {:>8.2} {:>9.1e} {:>8} {:>8} {:>18} {:>9} {:>8} {:>6.1} {:>7}\n",
            it.name,
            it.start,
            it.flops,
            short(it.parameters),
            short(it.tokens),
            format!("{} {}", thousands(it.accelerators), it.accelerator),
            digits(it.power / 1e6),
            money(it.capital),
            100.0 * it.mfu,
            budget
        );
    }
    text += &format!(
        "\nmoney   {} over the years; {} to {} in 90 of 100 futures\npower   {} to {} MW for the last generation\n\n",
        money(roadmap.cost),
        money(roadmap.cost_range.0),
        money(roadmap.cost_range.2),
        digits(roadmap.power_range.0 / 1e6),
        digits(roadmap.power_range.2 / 1e6)
    );
    text += &format!("{:28} {:>9} {:>9} {:>10}\n", "WHAT THE COST DEPENDS ON", "FROM", "TO", "VARIANCE");
    for it in &roadmap.tornado {
        let ends = (money(it.low), money(it.high));
        text += &format!("{:28} {:>9} {:>9} {:>8.0} %\n", it.name, ends.0, ends.1, 100.0 * it.share);
    }
    text += &format!(
        "\n{:>8} {:>9} {:>9} {:>11} {:>9} {:>9}\n",
        "QUARTER", "POWER MW", "CAPITAL", "WRITTEN OFF", "RUNNING", "FREED"
    );
    for it in roadmap.quarters.iter().step_by(2) {
        text += &format!(
            "{:>8.2} {:>9} {:>9} {:>11} {:>9} {:>9}\n",
            it.start,
            digits(it.power / 1e6),
            money(it.capital),
            money(it.depreciation),
            money(it.running),
            thousands(it.freed)
        );
    }
    text
}
