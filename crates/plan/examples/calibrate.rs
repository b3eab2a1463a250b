//! Fits the planner's constants on the used half of the published rows, and shows the errors on both halves.
//!
//! `cargo run --release -p alti-plan --example calibrate [-- --fit | --rows]`

use alti_plan::calibration::{CONSTANTS, Calibration};
use alti_plan::published::{
    Comparison, Half, TrainingCase, built_in, carbon_rows, days_rows, layout_choices, memory_rows,
    serving_rows, summary, training_cases,
};
use std::collections::BTreeMap;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cases = training_cases();
    let fitted = match arguments.iter().any(|it| it == "--fit") {
        true => fit(&cases),
        false => Calibration::default(),
    };
    report(&cases, &fitted, arguments.iter().any(|it| it == "--rows"));
}

fn report(cases: &[TrainingCase], fitted: &Calibration, rows: bool) {
    for (index, constant) in CONSTANTS.iter().enumerate() {
        println!("{:20} {:<12.5e} {}", constant.name, fitted.value(index), constant.meaning);
    }
    let planner = built_in("planner_truth.csv");
    let mut comparisons: Vec<Comparison> = cases.iter().map(|case| case.compare(fitted)).collect();
    for comparison in &mut comparisons {
        if comparison.source.contains("single node") {
            comparison.check = "training, single node";
        }
    }
    comparisons.extend(memory_rows(&built_in("memory_truth.csv")));
    comparisons.extend(days_rows(&planner));
    comparisons.extend(carbon_rows(&planner));
    comparisons.extend(serving_rows(&built_in("inference_truth.csv")));
    let mut checks: BTreeMap<&str, Vec<&Comparison>> = BTreeMap::new();
    for comparison in &comparisons {
        checks.entry(comparison.check).or_default().push(comparison);
    }
    for (check, mut found) in checks {
        for half in [Half::Used, Half::Held] {
            let it = summary(found.iter().copied().filter(|it| it.half == half));
            println!(
                "{check:24} {half:?}: {:4} rows, mean {:5.1} %, median {:5.1} %, worst {:6.1} %, within 10 %: {:3.0} %",
                it.rows,
                100.0 * it.mean_absolute_error,
                100.0 * it.median,
                100.0 * it.worst,
                100.0 * it.within_tenth
            );
        }
        if rows {
            found.sort_by(|a, b| b.error().abs().total_cmp(&a.error().abs()));
            for it in found.iter().take(if check.contains("single") { 40 } else { 300 }) {
                let source: String = it.source.chars().take(24).collect();
                println!(
                    "  {:+6.1} % {:9.3} of {:9.3} {} {source} {}",
                    100.0 * it.error(),
                    it.predicted,
                    it.published,
                    it.unit,
                    it.what
                );
            }
        }
    }
    let mut sources: BTreeMap<&str, Vec<&Comparison>> = BTreeMap::new();
    for comparison in comparisons.iter().filter(|it| it.check.starts_with("training")) {
        sources.entry(&comparison.source).or_default().push(comparison);
    }
    for (source, found) in sources {
        let it = summary(found.iter().copied());
        let bias = found.iter().map(|it| it.error()).sum::<f64>() / found.len() as f64;
        println!(
            "  {:60.60} {:4} rows {:5.1} % bias {:+5.1} %",
            source,
            it.rows,
            100.0 * it.mean_absolute_error,
            100.0 * bias
        );
    }
    let choices = layout_choices(cases, fitted, 4);
    let good = choices.iter().filter(|it| it.1 <= 1.05).count();
    println!(
        "layouts: {good} of {} groups within 5 % of the best: {:.0} %",
        choices.len(),
        100.0 * good as f64 / choices.len() as f64
    );
    if rows {
        for (name, ratio) in choices.iter().filter(|it| it.1 > 1.05) {
            println!("  {ratio:.3} {name}");
        }
    }
}

/// Mean absolute error on the used half, sources weighed by the square root of their rows so that no one table decides.
fn loss(cases: &[TrainingCase], calibration: &Calibration) -> f64 {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for case in cases.iter().filter(|case| case.half == Half::Used) {
        let error = (case.quantity_of(case.seconds(calibration)) / case.published).ln().abs();
        let sum = sums.entry(&case.source).or_default();
        sum.0 += error;
        sum.1 += 1.0;
    }
    let weights: f64 = sums.values().map(|sum| sum.1.sqrt()).sum();
    sums.values().map(|sum| sum.0 / sum.1 * sum.1.sqrt()).sum::<f64>() / weights
}

/// Coordinate descent: each constant in turn a step up or down, steps halved when none helps.
fn fit(cases: &[TrainingCase]) -> Calibration {
    let mut best = Calibration::default();
    let mut least = loss(cases, &best);
    let mut step = 0.3;
    while step > 0.01 {
        let before = least;
        for (index, constant) in CONSTANTS.iter().enumerate() {
            for factor in [1.0 + step, 1.0 / (1.0 + step)] {
                let floor = 1e-3 * (constant.most - constant.least);
                let trial = best.with(index, best.value(index).max(floor) * factor);
                let loss = loss(cases, &trial);
                if loss < least - 1e-6 {
                    (least, best) = (loss, trial);
                }
            }
        }
        if before - least < 1e-4 {
            step /= 1.7;
        }
    }
    println!("loss {least:.4}");
    best
}
