//! Fits the planner's constants on the used half of the published rows, and shows the errors on both halves.
//!
//! `cargo run --release -p alti-plan --example calibrate -- [--fit] [--fit-serving] [--cross-validate] [--rows] [--write-docs]`
//!
//! `--fit` fits the constants of training anew and prints them as `calibration.rs` has them, `--fit-serving` those of
//! serving; `--cross-validate` fits both anew without each fifth of the jobs in turn and reports the errors on that fifth;
//! `--rows` prints every row, worst first, `--parts WORD` where the step of rows with that word goes; `--write-docs` writes
//! the tables and the picture of docs/planning.md.

use alti_plan::calibration::{CONSTANTS, Calibration};
use alti_plan::economics::Economics;
use alti_plan::hardware::HardwareCatalogue;
use alti_plan::inference::ServingCalibration;
use alti_plan::layout::Job;
use alti_plan::model::ModelCatalogue;
use alti_plan::published::{
    Comparison, Half, ServingCase, Summary, TrainingCase, built_in, carbon_rows, constant_mfu, days_rows,
    layout_choices, memory_rows, serving_cases, serving_rows, step_error_quantiles, summary, training_cases,
};
use alti_plan::report::svg::{Point, scatter};
use alti_plan::search::{Constraints, usual_batch};
use alti_plan::stack::Stack;
use alti_plan::training::{Reliability, RunRequest, plan_run};
use std::collections::BTreeMap;
use std::fmt::Write as _;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cases = training_cases();
    if arguments.iter().any(|it| it == "--fit-serving") {
        return fit_serving();
    }
    if arguments.iter().any(|it| it == "--cross-validate") {
        return println!("{}", cross_validate(&cases));
    }
    let fitted = match arguments.iter().any(|it| it == "--fit") {
        true => announce(&fit(&used(&cases), 12)),
        false => Calibration::default(),
    };
    if arguments.iter().any(|it| it == "--write-docs") {
        return write_docs(&cases, &fitted);
    }
    if let Some(place) = arguments.iter().position(|it| it == "--parts") {
        return parts(&cases, &fitted, arguments.get(place + 1).map_or("", String::as_str));
    }
    report(&cases, &fitted, arguments.iter().any(|it| it == "--rows"));
}

/// Where the step of the rows goes whose description has `word` in it.
fn parts(cases: &[TrainingCase], fitted: &Calibration, word: &str) {
    for case in cases.iter().filter(|case| case.what.contains(word)) {
        let layout = &case.layouts[0];
        let step = alti_plan::step::step_time(&case.job(), layout, fitted);
        let published = case.published / case.quantity_of(step.total());
        println!("{}: {:.4} s, published over predicted {published:.3}", case.what, step.total());
        let said = step.parts().into_iter().filter(|it| it.1 > 0.005 * step.total());
        let said = said.map(|it| format!("{} {:.1} %", it.0, 100.0 * it.1 / step.total()));
        println!("    {}", said.collect::<Vec<_>>().join(", "));
    }
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
    let refused: Vec<&Comparison> = comparisons.iter().filter(|it| it.refused.is_some()).collect();
    println!("refused: {} of the {} rows of training", refused.len(), cases.len());
    if rows {
        for it in refused {
            println!("  {} -- {}", it.what, it.refused.as_deref().unwrap_or_default());
        }
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
        println!("layouts, {what}: {:.1} % of {} groups within 5 % of the best", 100.0 * good, choices.len());
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

/// The rows that the shipped constants are fitted to.
fn used(cases: &[TrainingCase]) -> Vec<TrainingCase> {
    cases.iter().filter(|case| case.half == Half::Used).cloned().collect()
}

/// Mean absolute error, sources weighed by the square root of their rows so that no one table decides.
fn loss(cases: &[TrainingCase], calibration: &Calibration) -> f64 {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for case in cases {
        let error = (case.quantity_of(case.seconds(calibration)) / case.published).ln().abs();
        let sum = sums.entry(&case.source).or_default();
        sum.0 += error;
        sum.1 += 1.0;
    }
    let regret = regret(cases, calibration);
    let weights: f64 = sums.values().map(|sum| sum.1.sqrt()).sum();
    sums.values().map(|sum| sum.0 / sum.1 * sum.1.sqrt()).sum::<f64>() / weights + regret
}

/// How much slower than the best measured layout of its group the planner's choice is on average. The choice is softened,
/// layouts predicted within a few per cent of each other being chosen alike, or the fit would follow single rows: counting
/// groups that are missed instead chooses better on the rows that are fitted and worse on all others.
fn regret(cases: &[TrainingCase], calibration: &Calibration) -> f64 {
    let mut groups: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    let single = cases.iter().filter(|case| case.layouts.len() == 1);
    for case in single.filter(|case| case.group.starts_with("vtrain") || case.source.contains("vTrain")) {
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
    groups.iter().map(of).sum::<f64>() / groups.len().max(1) as f64
}

/// Coordinate descent, from several starts around the shipped constants, a thread each: each constant in turn a step up or
/// down, steps made smaller when none helps. Deterministic.
fn fit(cases: &[TrainingCase], starts: usize) -> (Calibration, f64) {
    let from = |start: usize| {
        let mut trial = Calibration::default();
        for index in 0..CONSTANTS.len() {
            // The first start is the best itself; others move each constant by up to a half, by a fixed pattern.
            let pattern = ((start * 7 + index * 5) % 11) as f64 / 10.0 - 0.5;
            trial = trial.with(index, trial.value(index) * (1.0 + if start == 0 { 0.0 } else { pattern }));
        }
        descend(cases, trial)
    };
    let found: Vec<(Calibration, f64)> = std::thread::scope(|scope| {
        let from = &from;
        let threads: Vec<_> = (0..starts).map(|start| scope.spawn(move || from(start))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    // Of what was found, and the shipped constants, the one with the least loss that chooses well in four groups of five.
    let shipped = Calibration::default();
    let known = loss(cases, &shipped);
    let all: Vec<(Calibration, f64)> = found.into_iter().chain([(shipped, known)]).collect();
    let chooses = |it: &&(Calibration, f64)| {
        let choices = layout_choices(cases, &it.0, 4);
        choices.iter().filter(|it| it.1 <= 1.05).count() as f64 >= 0.8 * choices.len() as f64
    };
    let least = |a: &&(Calibration, f64), b: &&(Calibration, f64)| a.1.total_cmp(&b.1);
    let best = all.iter().filter(chooses).min_by(least).or_else(|| all.iter().min_by(least));
    best.expect("there is a start").clone()
}

fn announce((best, least): &(Calibration, f64)) -> Calibration {
    println!("loss {least:.4}");
    let values = (0..CONSTANTS.len()).map(|index| format!("{:.4e}", best.value(index)));
    println!("FITTED = [{}]", values.collect::<Vec<_>>().join(", "));
    best.clone()
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

/// Parts that cross-validation leaves out in turn.
const FOLDS: u64 = 5;

/// Which part a job is in: all its layouts are in the same.
fn fold(job: &str) -> u64 {
    job.bytes().fold(17, |hash: u64, byte| hash.wrapping_mul(1_000_003) ^ u64::from(byte)) / 7 % FOLDS
}

/// Fits without each part of the jobs in turn, and reports the errors on the part that was left out: what to expect of rows
/// that nobody here has seen.
fn cross_validate(cases: &[TrainingCase]) -> String {
    let mut found: Vec<Comparison> = Vec::new();
    let (mut groups, mut good, mut naive) = (0, 0, Vec::new());
    for part in 0..FOLDS {
        let (out, rest): (Vec<TrainingCase>, Vec<TrainingCase>) =
            cases.iter().cloned().partition(|case| fold(&case.group) == part);
        let (fitted, _) = fit(&rest, 6);
        let choices = layout_choices(&out, &fitted, 4);
        groups += choices.len();
        good += choices.iter().filter(|it| it.1 <= 1.05).count();
        let known = rest.iter().map(|case| TrainingCase { half: Half::Used, ..case.clone() });
        let judged = out.iter().map(|case| TrainingCase { half: Half::Held, ..case.clone() });
        let both: Vec<TrainingCase> = known.chain(judged).collect();
        naive.push(constant_mfu(&both, Half::Held));
        found.extend(out.iter().map(|case| case.compare(&fitted)));
    }
    let mut text = String::from(
        "| check, left out in turn | rows | mean error | median | worst | within 10 % |\n|---|--:|--:|--:|--:|--:|\n",
    );
    let mut say = |what: &str, it: Summary| {
        let percent = |part: f64| format!("{:.1} %", 100.0 * part);
        let errors = [it.mean_absolute_error, it.median, it.worst, it.within_tenth].map(percent);
        let _ = writeln!(text, "| {what} | {} | {} |", it.rows, errors.join(" | "));
    };
    let single = |it: &&Comparison| it.source.contains("single node");
    say("training", summary(found.iter().filter(|it| !single(it))));
    say("training, one node", summary(found.iter().filter(single)));
    say("serving", summary(serving_left_out().iter()));
    let _ = writeln!(
        text,
        "\nLayouts, left out in turn: in {good} of {groups} groups ({:.1} %) the first choice is within 5 % of the best \
         measured. One MFU for all runs: {:.1} %.",
        100.0 * good as f64 / groups as f64,
        100.0 * naive.iter().sum::<f64>() / naive.len() as f64
    );
    text
}

/// Whole runs whose GPU-hours a model card prints: model, tokens, precision, GPU-hours of one H100, card.
const RUNS: [(&str, f64, &str, f64, &str); 3] = [
    ("Llama-3.1-405B", 15.6e12, "bf16", 30.84e6, "llama3_1/MODEL_CARD.md"),
    ("Llama-4-Maverick", 22e12, "fp8", 2.38e6, "llama4/MODEL_CARD.md"),
    ("Llama-4-Scout", 40e12, "fp8", 5.0e6, "llama4/MODEL_CARD.md"),
];

/// What those runs come out at on 16,384 H100.
fn card_runs(fitted: &Calibration) -> String {
    let (hardware, models) = (HardwareCatalogue::built_in(), ModelCatalogue::built_in());
    let mut text = String::from(
        "| run on 16,384 H100 | tokens | GPU-hours, card | planned | over the card's | days | MFU | layout |\n\
         |---|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for (name, tokens, precision, hours, card) in RUNS {
        let model = models.find(name).expect("the model is in the catalogue");
        let request = RunRequest {
            job: Job {
                model: &model,
                accelerator: hardware.find("H100").expect("so is the accelerator"),
                stack: Stack::find(Stack::DEFAULT).expect("so is the stack"),
                sequence: 8192,
                batch_tokens: usual_batch(16_384, 8192),
                precision,
                oversubscription: 1.0,
                pod: 3072,
            },
            gpus: 16_384,
            tokens,
            unique_tokens: None,
            constraints: Constraints { batch_rounding: 0.25, ..Constraints::default() },
            reliability: Reliability::default(),
            economics: Economics::default(),
        };
        let plan = plan_run(&request, fitted).expect("the run is possible");
        let _ = writeln!(
            text,
            "| {name}, {precision} | {:.1}T | {:.2}M ({card}) | {:.2}M | {:+.0} % | {:.1} | {:.1} % | {} |",
            tokens / 1e12,
            hours / 1e6,
            plan.gpu_hours / 1e6,
            100.0 * (plan.gpu_hours / hours - 1.0),
            plan.days.1,
            100.0 * plan.best().mfu,
            plan.best().layout
        );
    }
    text
}

/// The accelerators whose serving is measured.
const SERVED: [&str; 2] = ["H100-80GB", "H200"];

/// Predictions of serving rows by constants fitted without their part.
fn serving_left_out() -> Vec<Comparison> {
    let rows = serving_rows(&built_in("inference_truth.csv"));
    let cases = serving_cases(&built_in("inference_truth.csv"));
    let mut found = Vec::new();
    for name in SERVED {
        for part in 0..FOLDS {
            let out = |index: &usize| fold(&format!("{index}")) == part;
            let here: Vec<usize> =
                (0..cases.len()).filter(|it| cases[*it].accelerator.name == name).collect();
            let rest: Vec<&ServingCase> = here.iter().filter(|it| !out(it)).map(|it| &cases[*it]).collect();
            let (fitted, _) = best_serving(&rest);
            let predicted = |index: usize| Comparison {
                predicted: cases[index].predicted(fitted),
                ..rows[index].clone()
            };
            found.extend(here.iter().filter(|it| out(it)).map(|it| predicted(*it)));
        }
    }
    found
}

/// The efficiency and batch cap with the least mean error on some rows, out of a grid.
fn best_serving(cases: &[&ServingCase]) -> (ServingCalibration, f64) {
    let mut best = (ServingCalibration { efficiency: 0.5, batch_cap: 256.0 }, f64::INFINITY);
    for efficiency in (30..=95).map(|it| f64::from(it) / 100.0) {
        for batch_cap in (4..=64).map(|it| f64::from(it) * 32.0) {
            let trial = ServingCalibration { efficiency, batch_cap };
            let error = |it: &&ServingCase| (it.predicted(trial) / it.published).ln().abs();
            let loss = cases.iter().map(error).sum::<f64>() / cases.len() as f64;
            if loss < best.1 {
                best = (trial, loss);
            }
        }
    }
    best
}

/// The constants of serving of each accelerator, fitted to its used rows.
fn fit_serving() {
    let cases = serving_cases(&built_in("inference_truth.csv"));
    for name in SERVED {
        let used: Vec<&ServingCase> =
            cases.iter().filter(|it| it.half == Half::Used && it.accelerator.name == name).collect();
        let (best, error) = best_serving(&used);
        println!("{name}: {best:?}, mean error {:.1} %", 100.0 * error);
        for it in cases.iter().filter(|it| it.accelerator.name == name) {
            let predicted = it.predicted(best);
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
    let (cross, runs) = (cross_validate(cases), card_runs(fitted));
    let marks =
        [("summary", summaries), ("cross", cross), ("runs", runs), ("constants", constants), ("rows", rows)];
    for (mark, text) in marks {
        let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end {mark} -->\n"));
        let first = page.find(&begin).expect("the page has the mark") + begin.len();
        let last = page.find(&end).expect("the page has the end mark");
        page.replace_range(first..last, &text);
    }
    std::fs::write(&path, page).expect("the page can be written");
}
