//! Fits the planner's constants on the used half of the published rows, and shows the errors on both halves.
//!
//! `cargo run --release -p alti-plan --example calibrate -- [--fit] [--fit-serving] [--rows] [--write-docs]`
//!
//! `--fit` fits the constants of training anew and prints them as `calibration.rs` has them, `--fit-serving` those of
//! serving; `--rows` prints every row, worst first; `--write-docs` writes the tables and the picture of docs/planning.md.

use alti_plan::calibration::{CONSTANTS, Calibration};
use alti_plan::inference::ServingCalibration;
use alti_plan::published::{
    Comparison, Half, TrainingCase, built_in, carbon_rows, constant_mfu, days_rows, layout_choices,
    memory_rows, serving_cases, serving_rows, step_error_quantiles, summary, training_cases,
};
use alti_plan::report::svg::{Point, scatter};
use std::collections::BTreeMap;
use std::fmt::Write as _;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cases = training_cases();
    if arguments.iter().any(|it| it == "--fit-serving") {
        return fit_serving();
    }
    let fitted = match arguments.iter().any(|it| it == "--fit") {
        true => fit(&cases),
        false => Calibration::default(),
    };
    if arguments.iter().any(|it| it == "--write-docs") {
        return write_docs(&cases, &fitted);
    }
    report(&cases, &fitted, arguments.iter().any(|it| it == "--rows"));
}

fn report(cases: &[TrainingCase], fitted: &Calibration, rows: bool) {
    for (index, constant) in CONSTANTS.iter().enumerate() {
        println!("{:20} {:<12.5e} {}", constant.name, fitted.value(index), constant.meaning);
    }
    let comparisons = comparisons(cases, fitted);
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
            for it in found.iter().take(1000) {
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
    println!("STEP_ERRORS = {:.3?}", step_error_quantiles(cases, fitted));
    for half in [Half::Used, Half::Held] {
        println!("a constant MFU {half:?}: mean {:.1} %", 100.0 * constant_mfu(cases, half));
    }
    let of = |half: Half| cases.iter().filter(|it| it.half == half).cloned().collect::<Vec<_>>();
    let all = [("used rows", of(Half::Used)), ("held rows", of(Half::Held)), ("all rows", cases.to_vec())];
    let mut choices = Vec::new();
    for (what, cases) in all {
        choices = layout_choices(&cases, fitted, 4);
        let good = choices.iter().filter(|it| it.1 <= 1.05).count() as f64 / choices.len() as f64;
        println!("layouts, {what}: {:.0} % of {} groups within 5 % of the best", 100.0 * good, choices.len());
    }
    if rows {
        for (name, ratio) in choices.iter().filter(|it| it.1 > 1.05) {
            println!("  {ratio:.3} {name}");
        }
        for (name, _) in choices.iter().filter(|it| it.1 > 1.1) {
            println!("group {name}");
            for case in cases.iter().filter(|it| it.group == *name) {
                println!("    {:.4} {:.4} {}", case.published, case.seconds(fitted), case.layouts[0]);
            }
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
    let regret = regret(cases, calibration);
    let weights: f64 = sums.values().map(|sum| sum.1.sqrt()).sum();
    sums.values().map(|sum| sum.0 / sum.1 * sum.1.sqrt()).sum::<f64>() / weights + regret
}

/// How much slower than the best measured layout of its group the planner's choice is on average, over used rows. The
/// choice is softened, layouts predicted within a few per cent of each other being chosen alike, or the fit would follow
/// single rows.
fn regret(cases: &[TrainingCase], calibration: &Calibration) -> f64 {
    let mut groups: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    let used = cases.iter().filter(|case| case.half == Half::Used && case.layouts.len() == 1);
    for case in used.filter(|case| case.group.starts_with("vtrain") || case.source.contains("vTrain")) {
        groups.entry(&case.group).or_default().push((case.seconds(calibration), case.published));
    }
    let groups: Vec<Vec<(f64, f64)>> = groups.into_values().filter(|group| group.len() > 2).collect();
    let of = |group: &Vec<(f64, f64)>| {
        let least = group.iter().map(|it| it.0).fold(f64::INFINITY, f64::min);
        let best = group.iter().map(|it| it.1).fold(f64::INFINITY, f64::min);
        let weight = |it: &(f64, f64)| (-(it.0 / least - 1.0) / 0.02).exp();
        let chosen: f64 = group.iter().map(|it| weight(it) * (it.1 / best - 1.0).min(0.2)).sum();
        chosen / group.iter().map(weight).sum::<f64>()
    };
    groups.iter().map(of).sum::<f64>() / groups.len() as f64
}

/// Coordinate descent, from several starts around the best so far: each constant in turn a step up or down, steps made
/// smaller when none helps. Deterministic.
fn fit(cases: &[TrainingCase]) -> Calibration {
    let mut best = Calibration::default();
    let mut least = loss(cases, &best);
    for start in 0..12_usize {
        let mut trial = best.clone();
        for index in 0..CONSTANTS.len() {
            // The first start is the best itself; others move each constant by up to a half, by a fixed pattern.
            let pattern = ((start * 7 + index * 5) % 11) as f64 / 10.0 - 0.5;
            trial = trial.with(index, trial.value(index) * (1.0 + if start == 0 { 0.0 } else { pattern }));
        }
        let (found, loss) = descend(cases, trial);
        if loss < least {
            (least, best) = (loss, found);
        }
    }
    println!("loss {least:.4}");
    let values = (0..CONSTANTS.len()).map(|index| format!("{:.4e}", best.value(index)));
    println!("FITTED = [{}]", values.collect::<Vec<_>>().join(", "));
    best
}

fn descend(cases: &[TrainingCase], start: Calibration) -> (Calibration, f64) {
    let mut best = start;
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
    (best, least)
}

/// The efficiency and batch cap of each accelerator with the least mean error on its used rows, out of a grid.
fn fit_serving() {
    let cases = serving_cases(&built_in("inference_truth.csv"));
    for name in ["H100-80GB", "H200"] {
        let used: Vec<_> =
            cases.iter().filter(|it| it.half == Half::Used && it.accelerator.name == name).collect();
        let mut best = (f64::INFINITY, ServingCalibration { efficiency: 0.5, batch_cap: 256.0 });
        for efficiency in (30..=95).map(|it| f64::from(it) / 100.0) {
            for batch_cap in (4..=64).map(|it| f64::from(it) * 32.0) {
                let trial = ServingCalibration { efficiency, batch_cap };
                let error = |it: &&_| {
                    let it: &alti_plan::published::ServingCase = it;
                    (it.predicted(trial) / it.published).ln().abs()
                };
                let loss = used.iter().map(error).sum::<f64>() / used.len() as f64;
                if loss < best.0 {
                    best = (loss, trial);
                }
            }
        }
        println!("{name}: {:?}, mean error {:.1} %", best.1, 100.0 * best.0);
        for it in cases.iter().filter(|it| it.accelerator.name == name) {
            let predicted = it.predicted(best.1);
            println!(
                "  {:?} {:+5.1} % {predicted:8.0} of {:8.0} {} x{} {:?}",
                it.half,
                100.0 * (predicted / it.published - 1.0),
                it.published,
                it.model.name,
                it.tensor,
                it.shape
            );
        }
    }
}

/// Every comparison that the published tables allow.
fn comparisons(cases: &[TrainingCase], fitted: &Calibration) -> Vec<Comparison> {
    let planner = built_in("planner_truth.csv");
    let mut found: Vec<Comparison> = cases.iter().map(|case| case.compare(fitted)).collect();
    for comparison in found.iter_mut().filter(|it| it.source.contains("single node")) {
        comparison.check = "training, one node";
    }
    found.extend(memory_rows(&built_in("memory_truth.csv")));
    found.extend(days_rows(&planner));
    found.extend(carbon_rows(&planner));
    found.extend(serving_rows(&built_in("inference_truth.csv")));
    found
}

/// Writes the picture of docs/planning.md, and its tables between their marks.
fn write_docs(cases: &[TrainingCase], fitted: &Calibration) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
    let mut all = comparisons(cases, fitted);
    let checks = ["training", "training, one node", "memory", "serving", "days", "carbon"];
    let point = |it: &Comparison| Point {
        at: (it.published, it.predicted),
        label: format!("{} {:+.1} %", it.what, 100.0 * it.error()),
        labelled: false,
        group: checks.iter().position(|check| *check == it.check).unwrap_or(0),
    };
    let points: Vec<Point> = all.iter().map(point).collect();
    let labels = ("published, in each row's own unit", "predicted");
    let picture = scatter("Predicted against published", labels, &checks, &points, true);
    std::fs::write(format!("{root}/planning.svg"), picture.replace("currentColor", "#555"))
        .expect("the picture can be written");
    let mut summaries = String::from(
        "| check | rows used | mean error | within 10 % | rows held | mean error | within 10 % | worst held |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for check in checks {
        let of = |half: Half| summary(all.iter().filter(|it| it.check == check && it.half == half));
        let (used, held) = (of(Half::Used), of(Half::Held));
        let percent = |part: f64| format!("{:.1} %", 100.0 * part);
        let _ = writeln!(
            summaries,
            "| {check} | {} | {} | {} | {} | {} | {} | {} |",
            used.rows,
            percent(used.mean_absolute_error),
            percent(used.within_tenth),
            held.rows,
            percent(held.mean_absolute_error),
            percent(held.within_tenth),
            percent(held.worst)
        );
    }
    let _ = writeln!(
        summaries,
        "\nA planner that knows one MFU for all runs: {:.1} % on used rows of training, {:.1} % on held ones.",
        100.0 * constant_mfu(cases, Half::Used),
        100.0 * constant_mfu(cases, Half::Held)
    );
    for (what, half) in [("used", Some(Half::Used)), ("held", Some(Half::Held)), ("all", None)] {
        let of = |it: &&TrainingCase| half.is_none_or(|half| it.half == half);
        let cases: Vec<TrainingCase> = cases.iter().filter(of).cloned().collect();
        let choices = layout_choices(&cases, fitted, 4);
        let good = choices.iter().filter(|it| it.1 <= 1.05).count();
        let _ = writeln!(
            summaries,
            "\nLayouts, {what} rows: in {good} of {} groups ({:.1} %) the first choice is within 5 % of the best measured.",
            choices.len(),
            100.0 * good as f64 / choices.len() as f64
        );
    }
    let mut constants = String::from("| constant | value | what it is |\n|---|--:|---|\n");
    for (index, constant) in CONSTANTS.iter().enumerate() {
        let _ = writeln!(
            constants,
            "| `{}` | {:.4e} | {} |",
            constant.name,
            fitted.value(index),
            constant.meaning
        );
    }
    all.sort_by(|a, b| b.error().abs().total_cmp(&a.error().abs()));
    let mut rows = String::from(
        "| error | predicted | published | unit | half | check | what |\n|--:|--:|--:|---|---|---|---|\n",
    );
    for it in &all {
        let _ = writeln!(
            rows,
            "| {:+.1} % | {:.4} | {:.4} | {} | {} | {} | {}{} |",
            100.0 * it.error(),
            it.predicted,
            it.published,
            it.unit,
            if it.half == Half::Used { "used" } else { "held" },
            it.check,
            it.what,
            if it.refused.is_some() { " (refused)" } else { "" }
        );
    }
    let path = format!("{root}/planning.md");
    let mut page = std::fs::read_to_string(&path).expect("docs/planning.md is there");
    for (mark, text) in [("summary", summaries), ("constants", constants), ("rows", rows)] {
        let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end {mark} -->\n"));
        let first = page.find(&begin).expect("the page has the mark") + begin.len();
        let last = page.find(&end).expect("the page has the end mark");
        page.replace_range(first..last, &text);
    }
    std::fs::write(&path, page).expect("the page can be written");
}
