//! Pages of serving, fleet and ranking plans.

use super::svg::{Bar, bars, lines};
use super::{facts, formula_table, page};
use crate::explain::Line;
use crate::fleet::{DIURNAL, FleetPlan, Hour};
use crate::inference::SERVED;
use crate::ranking::{RankingLoad, RankingPlan};
use crate::serve::{ServePlan, ServeRequest};
use crate::units::{GIB, digits, duration, money, short, thousands};
use std::fmt::Write as _;

/// A line over the hours of a day.
fn over_hours(values: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
    values.enumerate().map(|(hour, value)| (hour as f64, value)).collect()
}

/// The report of a serving plan.
#[must_use]
pub fn serving_report(request: &ServeRequest<'_>, plan: &ServePlan, formulas: &[Line]) -> String {
    let server = &request.server;
    let waits = plan.trace.as_ref().map_or(plan.latency, |trace| trace.latency);
    let wait = |median: f64, p99: f64| format!("{}, 99 of 100: {}", duration(median), duration(p99));
    let mut body = facts(&[
        ("servers", format!("{} of {} {}", thousands(plan.servers), server.tensor, server.accelerator.name)),
        ("first token", wait(waits.first_token_median, waits.first_token_p99)),
        ("between tokens", wait(waits.between_median, waits.between_p99)),
        ("money a day", money(plan.cost_a_day)),
        ("a million tokens of answers", format!("${}", digits(plan.per_million_output))),
        ("power of the site", format!("{} kW", digits(plan.power / 1e3))),
    ]);
    let gpu = f64::from(server.tensor);
    let weights = server.weight_bytes() / gpu / GIB;
    let memory = Bar { label: "a GPU".to_owned(), parts: vec![weights, server.cache_room() / gpu / GIB] };
    let usable = server.accelerator.memory * SERVED / GIB;
    let chart = bars("GiB of a GPU by use", "GiB", &["weights", "keys and values"], &[memory], Some(usable));
    let _ = write!(body, "<h2>Memory of a GPU</h2>\n{chart}");
    if plan.trace.is_none() {
        let peak = request.traffic.peak_requests;
        let capacity = plan.servers * plan.requests_a_server;
        let series = [
            ("asked", over_hours(request.traffic.curve.iter().map(|it| it * peak))),
            ("within the targets", over_hours((0..24).map(|_| capacity))),
        ];
        let chart = lines("Requests over the day", "hour", "requests/s", &series);
        let _ = write!(body, "<h2>Load over the day</h2>\n{chart}");
    }
    body += &formula_table(formulas);
    page(&format!("Serving {}", server.model.name), &body)
}

/// The report of a mixed fleet.
#[must_use]
pub fn fleet_report(plan: &FleetPlan) -> String {
    let mut body = facts(&[
        (
            if plan.pays { "shared fleet" } else { "three fleets: sharing does not pay" },
            thousands(plan.shared),
        ),
        ("three fleets", thousands(plan.separate)),
        ("saved a year", money(plan.saved_a_year)),
        ("money a year", money(plan.cost_a_year)),
        ("changes of training a day", plan.changes.to_string()),
        ("lost to changes, accelerator-hours a day", thousands(plan.lost)),
    ]);
    let over = |of: fn(&Hour) -> f64| over_hours(plan.hours.iter().map(of));
    let series = [
        ("training", over(|it| it.training)),
        ("inference", over(|it| it.inference)),
        ("ranking", over(|it| it.ranking)),
        ("idle", over(|it| it.idle)),
    ];
    let chart = lines("Accelerators over the day", "hour", "accelerators", &series);
    let _ = write!(body, "<h2>Who has how many</h2>\n{chart}");
    page("One fleet for training, inference and ranking", &body)
}

/// The report of a ranking plan.
#[must_use]
pub fn ranking_report(load: &RankingLoad, plan: &RankingPlan, accelerator: &str) -> String {
    let mut body = facts(&[
        ("accelerators", format!("{} {accelerator}", thousands(plan.accelerators))),
        ("users a day", short(load.users)),
        ("candidates a second of one", short(plan.candidates_per_second)),
        ("pages a second at the busiest", thousands(plan.peak_requests)),
    ]);
    let bar = |label: &str, seconds: f64| Bar { label: label.to_owned(), parts: vec![1e3 * seconds] };
    let rows = [bar("computing", plan.computing), bar("gathering features", plan.gathering)];
    let chart = bars("Milliseconds of a page: the longer sets the pace", "ms", &["time"], &rows, None);
    let _ = write!(body, "<h2>Time of a page</h2>\n{chart}");
    let series = [("accelerators at work", over_hours(DIURNAL.iter().map(|it| it * plan.accelerators)))];
    let chart = lines("Accelerators over the day", "hour", "accelerators", &series);
    let _ = write!(body, "<h2>Load over the day</h2>\n{chart}");
    page("Ranking", &body)
}
