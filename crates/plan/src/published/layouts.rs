//! Whether the planner's first choice among measured layouts is the fastest of them.

use super::TrainingCase;
use crate::calibration::Calibration;
use std::collections::BTreeMap;

/// Groups of `least` or more measured layouts of one job, each with the measured time of the planner's first choice over
/// the best measured.
#[must_use]
pub fn layout_choices(cases: &[TrainingCase], calibration: &Calibration, least: usize) -> Vec<(String, f64)> {
    let mut groups: BTreeMap<&str, Vec<&TrainingCase>> = BTreeMap::new();
    for case in cases.iter().filter(|case| case.layouts.len() == 1) {
        groups.entry(&case.group).or_default().push(case);
    }
    let measured = |case: &TrainingCase| match case.quantity {
        super::training::Quantity::Seconds => case.published,
        _ => 1.0 / case.published,
    };
    let mut found = Vec::new();
    for (name, group) in groups.iter().filter(|(_, group)| group.len() >= least) {
        let first = group.iter().min_by(|a, b| a.seconds(calibration).total_cmp(&b.seconds(calibration)));
        let best = group.iter().map(|case| measured(case)).min_by(f64::total_cmp);
        if let (Some(first), Some(best)) = (first, best) {
            found.push(((*name).to_owned(), measured(first) / best));
        }
    }
    found
}
