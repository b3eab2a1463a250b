//! A plan as one HTML file with charts that opens without a network.

mod service;
pub mod svg;

pub use service::{fleet_report, ranking_report, serving_report};

use crate::explain::Line;
use crate::memory::USABLE;
use crate::roadmap::Roadmap;
use crate::search::reason;
use crate::training::{ParetoPoint, RunPlan, RunRequest};
use crate::units::{GIB, digits, duration, money, short, thousands};
use std::fmt::Write as _;
use svg::{Bar, Point, Swing, bars, escape, lines, scatter, tornado};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:920px;margin:2rem auto;padding:0 1rem;\
color:#222;background:#fff}h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}table{border-collapse:collapse;\
width:100%;font-size:13px}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884;vertical-align:top}\
svg{width:100%;height:auto}.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:.6rem}\
.facts div{border:1px solid #8884;border-radius:6px;padding:.5rem .8rem}.facts b{display:block;font-size:1.15rem}\
small{color:#777}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}";

fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

fn facts(rows: &[(&str, String)]) -> String {
    let fact = |(what, value): &(&str, String)| {
        format!("<div><small>{}</small><b>{}</b></div>\n", escape(what), escape(value))
    };
    format!("<div class=\"facts\">\n{}</div>\n", rows.iter().map(fact).collect::<String>())
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, row: &mut dyn Iterator<Item = &str>| {
        row.fold(String::new(), |mut text, cell| {
            let _ = write!(text, "<{tag}>{}</{tag}>", escape(cell));
            text
        })
    };
    let mut text = format!("<table>\n<tr>{}</tr>\n", cells("th", &mut head.iter().copied()));
    for row in rows {
        let _ = writeln!(text, "<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)));
    }
    text + "</table>\n"
}

/// The report of a training run.
#[must_use]
pub fn run_report(
    request: &RunRequest<'_>,
    plan: &RunPlan,
    front: &[ParetoPoint],
    formulas: &[Line],
) -> String {
    let best = plan.best();
    let title = format!(
        "{} on {} {}",
        request.job.model.name,
        thousands(request.gpus as f64),
        request.job.accelerator.name
    );
    let mut body = facts(&[
        ("time, with failures", format!("{} days", digits(plan.days.1))),
        (
            "90 of 100, by chance of failures",
            format!("{} to {} days", digits(plan.days.0), digits(plan.days.2)),
        ),
        (
            "90 of 100, with the planner's own error",
            format!("{} to {} days", digits(plan.days_uncertain.0), digits(plan.days_uncertain.2)),
        ),
        ("money", money(plan.bill.total())),
        ("GPU-hours", short(plan.gpu_hours)),
        ("MFU", format!("{:.1} %", 100.0 * best.mfu)),
        ("goodput", format!("{:.1} %", 100.0 * plan.reliability.goodput.median)),
        ("power of the site", format!("{} MW", digits(plan.site_power / 1e6))),
        ("emissions", format!("{} t CO2e", thousands(plan.bill.carbon))),
    ]);
    body += &best_layouts(request, plan);
    let _ = write!(body, "<h2>Layouts, and why the next is slower</h2>\n{}", layout_table(plan));
    if front.len() > 1 {
        let point = |it: &ParetoPoint| Point {
            at: (it.days, it.cost),
            label: format!("{} GPUs", thousands(it.gpus as f64)),
            labelled: true,
            group: usize::from(!it.best),
        };
        let points: Vec<Point> = front.iter().map(point).collect();
        let groups = ["nothing is better in both", "another is better in both"];
        let chart = scatter("Cost against time", ("days", "$"), &groups, &points, false);
        let _ = write!(body, "<h2>Cost against time</h2>\n{chart}");
    }
    body += &over_time(request, plan);
    body += &formula_table(formulas);
    page(&title, &body)
}

/// Where the step and the memory of the best layouts go.
fn best_layouts(request: &RunRequest<'_>, plan: &RunPlan) -> String {
    let best = plan.best();
    let mut body = String::new();
    let candidates = &plan.layouts.best;
    let shown = &candidates[..candidates.len().min(6)];
    let label = |index: usize| format!("{}. {}", index + 1, shown[index].layout);
    let _ = write!(body, "<h2>Where the step goes</h2>\n{}", {
        let names = best.step.parts().map(|part| part.0);
        let rows: Vec<Bar> = (0..shown.len())
            .map(|index| Bar {
                label: label(index),
                parts: shown[index].step.parts().iter().map(|part| part.1).collect(),
            })
            .collect();
        bars("Seconds of a step by cause", "s", &names, &rows, None)
    });
    let _ = write!(body, "<h2>Memory of the fullest GPU</h2>\n{}", {
        let names = best.memory.parts().map(|part| part.0);
        let rows: Vec<Bar> = (0..shown.len())
            .map(|index| Bar {
                label: label(index),
                parts: shown[index].memory.parts().iter().map(|part| part.1 / GIB).collect(),
            })
            .collect();
        let usable = request.job.accelerator.memory * USABLE / GIB;
        bars("GiB of a GPU by use", "GiB", &names, &rows, Some(usable))
    });
    body
}

/// Money spent and power drawn over the days of a run.
fn over_time(request: &RunRequest<'_>, plan: &RunPlan) -> String {
    let days = plan.days.1;
    let total = plan.bill.total();
    let spent = [
        ("money so far", vec![(0.0, 0.0), (days, total)]),
        ("of it power", vec![(0.0, 0.0), (days, plan.bill.power)]),
    ];
    let mean = plan.site_power * request.economics.draw / 1e6;
    let full = plan.site_power / 1e6;
    let drawn = [("mean", vec![(0.0, mean), (days, mean)]), ("full load", vec![(0.0, full), (days, full)])];
    // Rent holds the power.
    let spent = if plan.bill.power > 0.0 { &spent[..] } else { &spent[..1] };
    format!(
        "<h2>Cost and power over time</h2>\n{}{}",
        lines("Money over the days of the run", "day", "$", spent),
        lines("Power over the days of the run", "day", "MW", &drawn)
    )
}

/// Formulas as a table.
fn formula_table(formulas: &[Line]) -> String {
    let rows: Vec<Vec<String>> = formulas
        .iter()
        .map(|it| {
            let words = [&it.what, it.formula, &it.numbers, &it.value, &*it.source];
            words.iter().map(|word| (*word).to_owned()).collect()
        })
        .collect();
    let head = ["what", "formula", "numbers", "value", "source"];
    format!("<h2>Every formula with its numbers</h2>\n{}", table(&head, &rows))
}

fn layout_table(plan: &RunPlan) -> String {
    let best = plan.best();
    let rows: Vec<Vec<String>> = plan
        .layouts
        .best
        .iter()
        .enumerate()
        .map(|(index, it)| {
            vec![
                it.layout.to_string(),
                duration(it.step.total()),
                format!("{:.1} %", 100.0 * it.mfu),
                format!("{} GiB", digits(it.memory.total() / GIB)),
                if index == 0 { "the fastest".to_owned() } else { reason(best, it) },
            ]
        })
        .collect();
    table(&["layout", "step", "MFU", "memory", "why slower"], &rows)
}

/// The report of a roadmap.
#[must_use]
pub fn roadmap_report(roadmap: &Roadmap, formulas: &[Line]) -> String {
    let mut body = facts(&[
        ("money, all years", money(roadmap.cost)),
        ("90 of 100 futures", format!("{} to {}", money(roadmap.cost_range.0), money(roadmap.cost_range.2))),
        (
            "power of the last generation",
            format!("{} to {} MW", digits(roadmap.power_range.0 / 1e6), digits(roadmap.power_range.2 / 1e6)),
        ),
    ]);
    let rows: Vec<Vec<String>> = roadmap
        .generations
        .iter()
        .map(|it| {
            vec![
                it.name.clone(),
                format!("{:.2}", it.start),
                format!("{:.1e}", it.flops),
                format!("{} on {} tokens", short(it.parameters), short(it.tokens)),
                format!(
                    "{} {} ({} for the final run)",
                    thousands(it.accelerators),
                    it.accelerator,
                    thousands(it.of_run)
                ),
                it.assumed.clone().unwrap_or_else(|| it.basis.to_string()),
                format!("{} MW", digits(it.power / 1e6)),
                money(it.capital),
            ]
        })
        .collect();
    let head = ["generation", "start", "FLOPs", "model", "machines", "known from", "power", "capital"];
    let _ = write!(body, "<h2>Generations</h2>\n{}", table(&head, &rows));
    let over = |of: fn(&crate::roadmap::Quarter) -> f64| {
        roadmap.quarters.iter().map(|it| (it.start, of(it))).collect::<Vec<_>>()
    };
    let power = [("power, MW", over(|it| it.power / 1e6))];
    let _ = write!(body, "<h2>Power by quarter</h2>\n{}", lines("Power", "year", "MW", &power));
    let cost = [
        ("capital", over(|it| it.capital)),
        ("written off", over(|it| it.depreciation)),
        ("rent, power, upkeep, interest", over(|it| it.running)),
    ];
    let _ = write!(body, "<h2>Money by quarter</h2>\n{}", lines("Money", "year", "$", &cost));
    let freed = [("freed accelerators", over(|it| it.freed))];
    let chart = lines("Machines free to serve and rank", "year", "accelerators", &freed);
    let _ = write!(body, "<h2>Machines that training frees</h2>\n{chart}");
    let swings = roadmap.tornado.iter().map(|it| Swing {
        label: format!("{} ({:.0} % of the variance)", it.name, 100.0 * it.share),
        ends: (it.low.min(it.high), it.low.max(it.high)),
    });
    let chart = tornado("What the cost depends on", roadmap.cost, &swings.collect::<Vec<_>>(), money);
    let _ = write!(body, "<h2>What dominates the uncertainty</h2>\n{chart}");
    body += &formula_table(formulas);
    page("Roadmap of compute", &body)
}
