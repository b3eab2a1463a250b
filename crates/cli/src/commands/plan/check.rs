//! `alti plan check`: predictions beside what was published.

use super::screen::row;
use crate::exit::{Exit, Failure};
use crate::{input, output};
use alti_plan::calibration::Calibration;
use alti_plan::published::{
    Comparison, Half, Row, Summary, TABLES, built_in, carbon_rows, days_rows, layout_choices, memory_rows,
    rows, serving_rows, summary, training_rows,
};
use alti_plan::units::significant;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Compare predictions with published results, worst first
#[derive(Debug, clap::Args)]
pub struct CheckCommand {
    /// CSV files in the form of those in crates/plan/data/published [default: those]
    files: Vec<PathBuf>,
    /// Rows to show of each check, worst first
    #[arg(long, default_value_t = 3)]
    rows: usize,
}

#[derive(Debug, serde::Serialize)]
struct Answer {
    checks: Vec<Check>,
    layouts: Vec<(String, f64)>,
    layouts_within: f64,
    #[serde(skip)]
    shown: usize,
}

#[derive(Debug, serde::Serialize)]
struct Check {
    check: &'static str,
    used: Summary,
    held: Summary,
    comparisons: Vec<Comparison>,
}

impl CheckCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file is no such table.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let mut all: Vec<Row> = Vec::new();
        for path in &self.files {
            let name = path.display().to_string();
            all.extend(rows(&name, &input::text(path)?)?);
        }
        if self.files.is_empty() {
            all = TABLES.iter().flat_map(|(name, _)| built_in(name)).collect();
        }
        let answer = compare(&all, self.rows);
        if answer.checks.is_empty() {
            let message =
                "the files hold no row that can be checked; see crates/plan/data/published for the form";
            return Err(Exit::new(Failure::BadFile, message).into());
        }
        output::result(json, &answer, Answer::text)
    }
}

fn compare(all: &[Row], shown: usize) -> Answer {
    let calibration = Calibration::default();
    let cases = training_rows(all);
    let mut comparisons: Vec<Comparison> = cases.iter().map(|case| case.compare(&calibration)).collect();
    comparisons.extend(memory_rows(all));
    comparisons.extend(days_rows(all));
    comparisons.extend(carbon_rows(all));
    comparisons.extend(serving_rows(all));
    let mut checks: BTreeMap<&'static str, Vec<Comparison>> = BTreeMap::new();
    for comparison in comparisons {
        checks.entry(comparison.check).or_default().push(comparison);
    }
    let check = |(check, mut comparisons): (&'static str, Vec<Comparison>)| {
        comparisons.sort_by(|a, b| b.error().abs().total_cmp(&a.error().abs()));
        let of = |half: Half| summary(comparisons.iter().filter(|it| it.half == half));
        Check { check, used: of(Half::Used), held: of(Half::Held), comparisons }
    };
    let layouts = layout_choices(&cases, &calibration, 4);
    let good = layouts.iter().filter(|it| it.1 <= 1.05).count();
    Answer {
        checks: checks.into_iter().map(check).collect(),
        layouts_within: good as f64 / layouts.len().max(1) as f64,
        layouts,
        shown,
    }
}

impl Answer {
    fn text(&self) -> String {
        let mut text = format!(
            "{:10} {:>6} {:>12} {:>14} {:>6} {:>12} {:>14}\n",
            "CHECK", "USED", "MEAN ERROR", "WITHIN 10 %", "HELD", "MEAN ERROR", "WITHIN 10 %"
        );
        for it in &self.checks {
            let of = |summary: &Summary| {
                let error = format!("{:.1} %", 100.0 * summary.mean_absolute_error);
                let within = format!("{:.0} %", 100.0 * summary.within_tenth);
                format!("{:>6} {error:>12} {within:>14}", summary.rows)
            };
            text += &format!("{:10} {} {}\n", it.check, of(&it.used), of(&it.held));
        }
        if !self.layouts.is_empty() {
            text += &format!(
                "layouts: the first choice is within 5 % of the best measured in {:.0} % of {} groups\n",
                100.0 * self.layouts_within,
                self.layouts.len()
            );
        }
        let refused =
            self.checks.iter().flat_map(|check| &check.comparisons).filter(|it| it.refused.is_some());
        let refused = refused.count();
        if refused > 0 {
            let words = format!(
                "{refused} rows were measured in layouts that the planner would refuse, for memory or divisors \
                 (REFUSED; --json says why)"
            );
            row(&mut text, 0, "", &words);
        }
        for check in &self.checks {
            for it in check.comparisons.iter().take(self.shown) {
                let numbers = format!(
                    "{:+.1} %  {} for {} {}  {}{}",
                    100.0 * it.error(),
                    significant(it.predicted, 4),
                    significant(it.published, 4),
                    it.unit,
                    it.what,
                    if it.refused.is_some() { "  (REFUSED)" } else { "" }
                );
                row(&mut text, 10, check.check, &numbers);
            }
        }
        text
    }
}
