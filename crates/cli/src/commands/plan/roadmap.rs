//! `alti plan roadmap`: several generations of models and their machines.

use super::inputs::{SettingsFile, catalogue};
use super::screen::row;
use super::train::{formula, write};
use crate::output;
use alti_plan::PlanError;
use alti_plan::calibration::{Basis, Calibration};
use alti_plan::economics::Economics;
use alti_plan::explain::explain_roadmap;
use alti_plan::report::roadmap_report;
use alti_plan::roadmap::{Generation, Roadmap, RoadmapRequest, plan_roadmap};
use alti_plan::units::{digits, money, short, thousands};
use std::path::PathBuf;

/// Plan generations of models: machines, power by quarter, money, what is uncertain
#[derive(Debug, clap::Args)]
pub struct RoadmapCommand {
    /// Accelerator of every generation: a name of `alti plan list` [default: the cheapest of its time]
    #[arg(long)]
    gpu: Option<String>,
    /// TOML file with accelerators of your own
    #[arg(long, value_name = "FILE")]
    hardware: Option<PathBuf>,
    #[command(flatten)]
    file: SettingsFile,
    /// Machines are rented, not bought
    #[arg(long)]
    rent: bool,
    /// Generations, one every eighteen months [default: those of the settings, or three]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=12))]
    generations: Option<u32>,
    /// How many times the compute of the one before a generation takes
    #[arg(long)]
    growth: Option<f64>,
    /// Write a page with charts that opens without a network
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show every formula with its numbers
    #[arg(long)]
    explain: bool,
}

impl RoadmapCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a number is impossible, or the report cannot be written.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let settings = self.file.read()?;
        let mut request = settings.roadmap.clone();
        request.reliability = settings.reliability;
        request.economics = settings.economics;
        if self.rent {
            request.economics.own = Some(false);
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
        if let Some(name) = &self.gpu {
            request.generations.iter_mut().for_each(|it| it.accelerator = Some(name.clone()));
        }
        let roadmap = plan_roadmap(&request, &catalogue(self.hardware.as_ref())?, &Calibration::default())?;
        let formulas = explain_roadmap(&request, &roadmap);
        if let Some(path) = &self.report {
            write(path, &roadmap_report(&roadmap, &formulas))?;
        }
        if self.explain {
            return output::result(json, &formulas, |lines| lines.iter().map(formula).collect());
        }
        output::result(json, &roadmap, |roadmap| text(&request, roadmap))
    }
}

fn text(request: &RoadmapRequest, roadmap: &Roadmap) -> String {
    let mut text = generations(roadmap);
    text.push('\n');
    let parts = &roadmap.parts;
    let interest = parts.interest_of_machines + parts.interest_of_building;
    let named = [
        ("machines", parts.machines),
        ("building", parts.building),
        ("rent", parts.rent),
        ("power", parts.power),
        ("upkeep", parts.upkeep),
        ("cost of capital", interest),
    ];
    let said = named.iter().filter(|it| it.1 > 0.0).map(|it| format!("{} {}", it.0, money(it.1)));
    let words = format!(
        "{} over the years ({}); {} to {} in 90 of 100 futures",
        money(roadmap.cost),
        said.collect::<Vec<_>>().join(", "),
        money(roadmap.cost_range.0),
        money(roadmap.cost_range.2)
    );
    row(&mut text, 8, "money", &words);
    let power = (digits(roadmap.power_range.0 / 1e6), digits(roadmap.power_range.2 / 1e6));
    row(&mut text, 8, "power", &format!("{} to {} MW for the last generation", power.0, power.1));
    let economics = Economics { own: Some(roadmap.own), ..request.economics };
    let beside = format!(
        "{}; {:.0} % of compute beside the final runs",
        economics.said(),
        100.0 * request.experiments
    );
    row(&mut text, 8, "counted", &beside);
    for it in &roadmap.generations {
        match &it.assumed {
            Some(assumed) => {
                row(&mut text, 8, "assumed", &format!("{}: {assumed}; {}", it.accelerator, it.basis))
            }
            None if it.basis != Basis::Measured => {
                row(&mut text, 8, "assumed", &format!("{}: {}", it.accelerator, it.basis));
            }
            None => {}
        }
    }
    text += &depends(roadmap);
    text
}

fn generations(roadmap: &Roadmap) -> String {
    let mut text = format!(
        "{:13} {:>7} {:>7} {:>6} {:>6} {:>19} {:>8} {:>6} {:>7} {:>5} {:>6}\n",
        "GENERATION",
        "START",
        "FLOPS",
        "MODEL",
        "TOKENS",
        "MACHINES",
        "FOR RUN",
        "MW",
        "CAPITAL",
        "MFU %",
        "BUDGET"
    );
    for it in &roadmap.generations {
        let budget =
            if it.affordable >= 1.0 { "-".to_owned() } else { format!("{:.0} %", 100.0 * it.affordable) };
        text += &format!(
            "{:13.13} {:>7.2} {:>7.1e} {:>6} {:>6} {:>19} {:>8} {:>6} {:>7} {:>5.1} {:>6}\n",
            it.name,
            it.start,
            it.flops,
            short(it.parameters),
            short(it.tokens),
            format!("{} {:.10}", short(it.accelerators), it.accelerator),
            short(it.of_run),
            digits(it.power / 1e6),
            if roadmap.own { money(it.capital) } else { "-".to_owned() },
            100.0 * it.mfu,
            budget
        );
    }
    text
}

fn depends(roadmap: &Roadmap) -> String {
    let mut text =
        format!("\n{:28} {:>9} {:>9} {:>10}\n", "WHAT THE COST DEPENDS ON", "FROM", "TO", "VARIANCE");
    for it in &roadmap.tornado {
        let ends = (money(it.low), money(it.high));
        text += &format!("{:28} {:>9} {:>9} {:>8.0} %\n", it.name, ends.0, ends.1, 100.0 * it.share);
    }
    text += &format!(
        "\n{:>8} {:>9} {:>9} {:>11} {:>9} {:>9}\n",
        "QUARTER", "POWER MW", "CAPITAL", "WRITTEN OFF", "RUNNING", "FREED"
    );
    // So many rows that the whole fits a screen.
    for it in roadmap.quarters.iter().step_by(roadmap.quarters.len().div_ceil(11).max(1)) {
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
