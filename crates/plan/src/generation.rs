//! The machines of one generation: which accelerator, how many of it, in what layout.

use crate::calibration::Calibration;
use crate::economics::Economics;
use crate::error::PlanError;
use crate::hardware::{Accelerator, HardwareCatalogue};
use crate::layout::Job;
use crate::model::ModelShape;
use crate::roadmap::{Generation, PlannedGeneration, RoadmapRequest};
use crate::scaling::{Optimum, ScalingLaw, for_flops};
use crate::search::{Candidate, Constraints, search};
use crate::stack::Stack;
use crate::training::{LEAST_GOODPUT, Reliability};
use crate::units::{DAY, HOUR};

/// What all generations are sized with.
pub(crate) struct Sizing<'a> {
    pub(crate) request: &'a RoadmapRequest,
    /// Prices and site, bought or rented being settled.
    pub(crate) economics: &'a Economics,
    /// Failures of the generation.
    pub(crate) reliability: &'a Reliability,
    pub(crate) hardware: &'a HardwareCatalogue,
    pub(crate) calibration: &'a Calibration,
}

/// An accelerator that a generation may have, and what is assumed of it.
struct Offer {
    row: Accelerator,
    assumed: Option<String>,
}

/// Plans a generation on the accelerator that it names, or on the cheapest of those sold by then on which it fits.
///
/// # Errors
/// When it fits none: why not the first.
pub(crate) fn plan_generation(
    sizing: &Sizing<'_>,
    generation: &Generation,
    flops: f64,
) -> Result<PlannedGeneration, PlanError> {
    let offers = offers(sizing, generation)?;
    let mut first = None;
    for offer in offers {
        match on(sizing, generation, flops, offer) {
            Ok(planned) => return Ok(planned),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let problem = "no accelerator has a price and can train";
    Err(first.unwrap_or_else(|| PlanError::value("start", generation.start, problem, "add one to the table")))
}

/// The accelerators to try, cheapest first.
fn offers(sizing: &Sizing<'_>, generation: &Generation) -> Result<Vec<Offer>, PlanError> {
    if let Some(name) = &generation.accelerator {
        let row = sizing.hardware.find(name)?.clone();
        sizing.economics.check_prices(&row)?;
        return Ok(vec![Offer { row, assumed: None }]);
    }
    let trains = |it: &&Accelerator| it.price_buy.is_some() && !["cpu", "mtia"].contains(&it.family.as_str());
    let all: Vec<&Accelerator> = sizing.hardware.accelerators.iter().filter(trains).collect();
    let newest = all.iter().map(|it| it.year).max().unwrap_or(0);
    // A year passes until a new part comes in the numbers that a cluster takes; then it is sold for three more.
    let horizon = f64::from(newest) + 1.0;
    let year = generation.start.min(horizon);
    let sold = |it: &&&Accelerator| f64::from(it.year) + 0.75 <= year && year < f64::from(it.year) + 4.0;
    let mut found: Vec<Accelerator> = all.iter().filter(sold).map(|it| (*it).clone()).collect();
    found.sort_by(|a, b| cost(sizing, a).total_cmp(&cost(sizing, b)));
    let years = generation.start - horizon;
    Ok(found
        .into_iter()
        .map(|row| {
            if years > 0.0 { of_the_future(sizing.request, row, years) } else { Offer { row, assumed: None } }
        })
        .collect())
}

/// $ a FLOP of large products, power and capital included.
fn cost(sizing: &Sizing<'_>, row: &Accelerator) -> f64 {
    let rate = row.peak("bf16") * row.throttle * sizing.calibration.matmul(&row.family, "bf16");
    sizing.economics.bill(row, 1.0).total() / (rate * HOUR)
}

/// What stands in for accelerators that are not announced: one of today's at its price, with the progress of the years since.
fn of_the_future(request: &RoadmapRequest, row: Accelerator, years: f64) -> Offer {
    let faster = request.flops_per_dollar_growth.powf(years);
    let hungrier = faster / request.flops_per_watt_growth.powf(years);
    let larger = request.memory_growth.powf(years);
    let year = (f64::from(row.year) + 1.0 + years).floor();
    let assumed = format!(
        "{}'s price with {faster:.2}x its FLOP/s, {hungrier:.2}x its power and {larger:.2}x its memory, as of {year}",
        row.name
    );
    let mut better = row;
    better.flops.values_mut().for_each(|rate| *rate *= faster);
    better.power *= hungrier;
    better.server_power *= hungrier;
    better.memory *= larger;
    better.memory_bandwidth *= larger;
    better.node_link *= larger;
    better.network_link *= larger;
    better.name = format!("{}+{years:.1}y", better.name);
    Offer { row: better, assumed: Some(assumed) }
}

/// The final run on some number of machines.
#[derive(Clone, Copy)]
struct Run {
    best: Candidate,
    goodput: f64,
    days: f64,
}

fn on(
    sizing: &Sizing<'_>,
    generation: &Generation,
    flops: f64,
    offer: Offer,
) -> Result<PlannedGeneration, PlanError> {
    let optimum = for_flops(ScalingLaw::Llama3, flops)?;
    let model = ModelShape::of_parameters(optimum.parameters)?;
    let run = smallest(sizing, generation, &model, &optimum, &offer.row)?;
    let row = offer.row;
    let node = f64::from(row.per_node);
    let of_run = run.best.layout.gpus() as f64;
    let accelerators = (of_run * (1.0 + sizing.request.experiments) / node).ceil() * node;
    let economics = sizing.economics;
    let bill = economics.bill(&row, accelerators * run.days * DAY / HOUR);
    let capital = economics.capital(&row, accelerators).filter(|_| economics.owns());
    Ok(PlannedGeneration {
        name: generation.name.clone(),
        start: generation.start,
        flops,
        parameters: optimum.parameters,
        tokens: optimum.tokens,
        accelerator: row.name.clone(),
        basis: Calibration::basis(&row.family),
        assumed: offer.assumed,
        accelerators,
        of_run,
        mfu: run.best.mfu,
        best: run.best,
        goodput: run.goodput,
        days: run.days,
        power: economics.site_power(&row, accelerators),
        capital: capital.unwrap_or(0.0),
        energy: bill.energy,
        carbon: bill.carbon,
        affordable: 1.0,
        row,
    })
}

/// The fewest machines on which the run takes no longer than its days. Each number is searched for its own best layout, so
/// that what is bought is what a run of that size is planned with; the next follows from how far its days are off.
fn smallest(
    sizing: &Sizing<'_>,
    generation: &Generation,
    model: &ModelShape,
    optimum: &Optimum,
    row: &Accelerator,
) -> Result<Run, PlanError> {
    let node = f64::from(row.per_node);
    let mut need = optimum.flops / (row.peak("bf16") * 0.38 * 0.9 * generation.days * DAY);
    let mut found: Option<Run> = None;
    for attempt in 0..16 {
        let count = (need / node).ceil().clamp(1.0, 1e9 / node) * node;
        let run = at(sizing, model, optimum, row, count as u64)?;
        let used = run.best.layout.gpus() as f64;
        let late = run.days / generation.days;
        let fewer = found.as_ref().is_none_or(|it| used < it.best.layout.gpus() as f64);
        if late <= 1.0 && fewer {
            found = Some(run);
        }
        if (0.985..=1.0).contains(&late) || (found.is_some() && attempt >= 8) {
            break;
        }
        // Failures grow with the machines: a little more than in proportion.
        need = used * late.max(0.7) * (1.003 + if late > 1.0 { 0.002 * f64::from(attempt) } else { 0.0 });
    }
    found.ok_or_else(|| {
        let problem =
            format!("no number of {} trains {:.2e} FLOPs in it, failures included", row.name, optimum.flops);
        let remedy = "give it more days, or let failures_fall be larger";
        PlanError::value(format!("days of {}", generation.name), generation.days, problem, remedy)
    })
}

/// The run on about `count` machines.
fn at(
    sizing: &Sizing<'_>,
    model: &ModelShape,
    optimum: &Optimum,
    row: &Accelerator,
    count: u64,
) -> Result<Run, PlanError> {
    // Batches grow with the cluster, as Llama 3's 16 M tokens on 16,384 GPUs did.
    let sequences = 2_f64.powf((1024.0 * (count as f64).max(4096.0) / 8192.0).log2().round());
    let job = Job {
        model,
        accelerator: row,
        stack: Stack::find(Stack::DEFAULT)?,
        sequence: 8192,
        batch_tokens: sequences * 8192.0,
        precision: "bf16",
        oversubscription: 1.0,
        pod: u32::MAX,
    };
    let constraints = Constraints { batch_rounding: 0.25, ..Constraints::default() };
    let best = search(&job, count, &constraints, sizing.calibration, 1)?.best[0];
    let gpus = best.layout.gpus() as f64;
    let goodput = sizing.reliability.plan(gpus, HOUR)?.efficiency;
    if goodput < LEAST_GOODPUT {
        let problem = format!("failures of {gpus} machines leave that part of the time");
        let remedy = "give the generation more days, or let failures_fall be larger";
        return Err(PlanError::value("goodput", format!("{:.1} %", 100.0 * goodput), problem, remedy));
    }
    Ok(Run { best, goodput, days: optimum.tokens / best.tokens_per_second / goodput / DAY })
}
