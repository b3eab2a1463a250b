//! Several generations of models: when to buy what, power by quarter, capital and its depreciation, budgets, and what
//! dominates the uncertainty.

use crate::calibration::Calibration;
use crate::economics::Economics;
use crate::error::{PlanError, positive};
use crate::hardware::{Accelerator, HardwareCatalogue};
use crate::layout::Job;
use crate::model::ModelShape;
use crate::random::{Random, quantile};
use crate::scaling::{ScalingLaw, for_flops};
use crate::search::{Constraints, search};
use crate::stack::Stack;
use crate::training::Reliability;
use crate::units::{DAY, HOUR, HOURS_OF_YEAR, short};
use serde::{Deserialize, Serialize};

/// One generation.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Its name.
    pub name: String,
    /// The year in which its training begins, with the quarter after the point: 2026.25 is April.
    pub start: f64,
    /// FLOPs; the generation before times `growth` where absent.
    #[serde(default)]
    pub flops: Option<f64>,
    /// Days that training may take.
    pub days: f64,
    /// The accelerator; the one that trains cheapest of those sold by then where absent.
    #[serde(default)]
    pub accelerator: Option<String>,
}

/// A roadmap as it is asked for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoadmapRequest {
    /// Generations, in order.
    pub generations: Vec<Generation>,
    /// FLOPs of the generation before the first.
    pub base_flops: f64,
    /// How many times the compute of the one before a generation takes.
    pub growth: f64,
    /// Compute beside the final run (experiments, data, post-training), part of it.
    pub experiments: f64,
    /// $ that may be spent a year on machines, building and power; none where absent.
    pub yearly_budget: Option<f64>,
    /// Prices and site.
    pub economics: Economics,
    /// Failures, in the first generation.
    pub reliability: Reliability,
    /// By how much rates of failure, and seconds to save and to restart, fall with every generation: without any, clusters
    /// ten times as large as today's would mostly restart.
    pub failures_fall: f64,
    /// Simulated futures.
    pub samples: usize,
}

impl Default for RoadmapRequest {
    fn default() -> RoadmapRequest {
        let generation = |index: u32| Generation {
            name: format!("generation {}", index + 1),
            start: 2026.0 + 1.5 * f64::from(index),
            flops: None,
            days: 100.0,
            accelerator: None,
        };
        RoadmapRequest {
            generations: (0..3).map(generation).collect(),
            base_flops: 3.8e25,
            growth: 10.0,
            experiments: 0.5,
            yearly_budget: None,
            economics: Economics { own: true, ..Economics::default() },
            reliability: Reliability::default(),
            failures_fall: 3.0,
            samples: 5000,
        }
    }
}

/// A generation, planned.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedGeneration {
    /// Its name.
    pub name: String,
    /// When training begins, year.
    pub start: f64,
    /// FLOPs of the final run.
    pub flops: f64,
    /// Parameters by Llama 3's scaling law.
    pub parameters: f64,
    /// Tokens by it.
    pub tokens: f64,
    /// The accelerator.
    pub accelerator: String,
    /// Accelerators to have.
    pub accelerators: f64,
    /// Of them, those to buy (machines of earlier generations serve and rank meanwhile).
    pub layout: String,
    /// Model FLOPs utilisation.
    pub mfu: f64,
    /// Part of the time that makes progress.
    pub goodput: f64,
    /// Power of the site for it, W.
    pub power: f64,
    /// Machines, network and building, $.
    pub capital: f64,
    /// Energy of final run and experiments, kWh.
    pub energy: f64,
    /// Emissions, t CO2e.
    pub carbon: f64,
    /// Whether the year's budget is enough; else the part of the compute that it pays for.
    pub affordable: f64,
}

/// A quarter of a year.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quarter {
    /// When it begins, year.
    pub start: f64,
    /// Power of all machines that are there, W.
    pub power: f64,
    /// $ paid for machines and buildings.
    pub capital: f64,
    /// $ written off.
    pub depreciation: f64,
    /// $ for power and upkeep.
    pub running: f64,
    /// Accelerators no longer needed for training, which serve and rank.
    pub freed: f64,
}

/// How far one unknown moves the cost.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivity {
    /// The unknown.
    pub name: &'static str,
    /// Its low, likely and high factor.
    pub factors: (f64, f64, f64),
    /// Cost at its low end, $.
    pub low: f64,
    /// Cost at its high end, $.
    pub high: f64,
    /// Part of the variance of the cost that it explains in the simulation.
    pub share: f64,
}

/// A roadmap, planned.
#[derive(Clone, Debug, Serialize)]
pub struct Roadmap {
    /// The generations.
    pub generations: Vec<PlannedGeneration>,
    /// Quarters from the first purchase to two years after the last.
    pub quarters: Vec<Quarter>,
    /// $ of all capital, power and upkeep.
    pub cost: f64,
    /// 5th, 50th and 95th percentile of the cost over simulated futures, $.
    pub cost_range: (f64, f64, f64),
    /// The same of the power of the last generation, W.
    pub power_range: (f64, f64, f64),
    /// What moves the cost, most first.
    pub tornado: Vec<Sensitivity>,
}

/// What is not known.
struct Unknown {
    name: &'static str,
    /// Factors on the plan: low, likely, high.
    factors: Range,
    /// The powers of the factor that capital and running cost follow with.
    powers: (f64, f64),
}

const fn unknown(name: &'static str, factors: Range, capital: f64, running: f64) -> Unknown {
    Unknown { name, factors, powers: (capital, running) }
}

const UNKNOWNS: [Unknown; 7] = [
    // Twice the planner's own mean error on held rows.
    unknown("utilisation (MFU)", (0.85, 1.0, 1.15), -1.0, -1.0),
    unknown("compute needed", (0.6, 1.0, 1.6), 1.0, 1.0),
    unknown("price of machines", (0.8, 1.0, 1.35), 0.85, 0.3),
    unknown("experiments beside the run", (0.85, 1.0, 1.3), 0.0, 0.4),
    unknown("failures and restarts", (0.97, 1.0, 1.15), 1.0, 1.0),
    unknown("price of power", (0.7, 1.0, 1.8), 0.0, 0.6),
    unknown("building and grid connection", (0.8, 1.0, 1.6), 0.15, 0.0),
];

/// Plans a roadmap.
///
/// # Errors
/// When a number is impossible, or a generation fits no cluster.
pub fn plan_roadmap(
    request: &RoadmapRequest,
    hardware: &HardwareCatalogue,
    calibration: &Calibration,
) -> Result<Roadmap, PlanError> {
    positive("growth", request.growth)?;
    positive("failures_fall", request.failures_fall)?;
    positive("base_flops", request.base_flops)?;
    request.economics.check()?;
    if request.generations.is_empty() || request.generations.len() > 12 {
        let problem = "a roadmap has 1 to 12 generations";
        return Err(PlanError::value("generations", request.generations.len(), problem, "name 1 to 12"));
    }
    let mut flops = request.base_flops;
    let mut generations: Vec<PlannedGeneration> = Vec::new();
    for generation in &request.generations {
        flops = generation.flops.unwrap_or(flops * request.growth);
        if !(2000.0..2100.0).contains(&generation.start) {
            let problem = "it is no year";
            return Err(PlanError::value("start", generation.start, problem, "write one such as 2026.25"));
        }
        if generations.last().is_some_and(|last| generation.start < last.start) {
            let problem = "it begins before the generation that it follows";
            return Err(PlanError::value("start", generation.start, problem, "put generations in order"));
        }
        let reliability = later(request, generations.len());
        generations.push(plan_generation(request, generation, flops, &reliability, hardware, calibration)?);
    }
    let quarters = quarters(&generations, request, hardware)?;
    let capital: f64 = quarters.iter().map(|it| it.capital).sum();
    let running: f64 = quarters.iter().map(|it| it.running).sum();
    let power = generations.last().map_or(0.0, |it| it.power);
    let (cost_range, power_range, tornado) = futures(capital, running, power, request.samples);
    Ok(Roadmap { generations, quarters, cost: capital + running, cost_range, power_range, tornado })
}

/// Largest cluster that layouts are searched for; beyond, data-parallel copies of it are added and the batch grows.
const LARGEST: f64 = 65_536.0;

/// How failures are handled some generations later.
fn later(request: &RoadmapRequest, generations: usize) -> Reliability {
    let fall = request.failures_fall.powi(generations as i32);
    let mut reliability = request.reliability.clone();
    reliability.runs = 1;
    reliability.checkpoint_seconds /= fall;
    reliability.restart_seconds /= fall;
    reliability.rates = request.reliability.rates();
    reliability.rates.iter_mut().for_each(|rate| rate.per_gpu_hour /= fall);
    reliability
}

fn plan_generation(
    request: &RoadmapRequest,
    generation: &Generation,
    flops: f64,
    reliability: &Reliability,
    hardware: &HardwareCatalogue,
    calibration: &Calibration,
) -> Result<PlannedGeneration, PlanError> {
    let days = positive("days", generation.days)?;
    let optimum = for_flops(ScalingLaw::Llama3, flops)?;
    let model = ModelShape::of_parameters(optimum.parameters)?;
    let accelerator = match &generation.accelerator {
        Some(name) => hardware.find(name)?,
        None => cheapest(hardware, generation.start, &request.economics, calibration)?,
    };
    let stack = Stack::find(Stack::DEFAULT)?;
    // Batches grow with the cluster, as Llama 3's 16 M tokens on 16,384 GPUs did.
    let peak = accelerator.peak("bf16");
    let count = power_of_two_times_eight(flops / (peak * 0.36 * days * DAY)).min(LARGEST);
    let sequences = 2_f64.powf((1024.0 * count.max(4096.0) / 8192.0).log2().round());
    let job = Job {
        model: &model,
        accelerator,
        stack,
        sequence: 8192,
        batch_tokens: sequences * 8192.0,
        precision: "bf16",
        oversubscription: 1.0,
        pod: u32::MAX,
    };
    let constraints =
        Constraints { batch_rounding: 0.3, microbatch: Some(1), context: Some(1), ..Constraints::default() };
    let best = search(&job, count as u64, &constraints, calibration, 1)?.best[0];
    // More machines fail more often, so that need and goodput follow from each other.
    let mut need = flops / (peak * best.mfu * 0.9 * days * DAY);
    let mut goodput = 0.9;
    for _ in 0..40 {
        goodput = reliability.plan(need, HOUR)?.efficiency;
        need = 0.5 * need + 0.5 * flops / (peak * best.mfu * goodput.max(1e-3) * days * DAY);
    }
    if goodput < 0.05 {
        let problem =
            format!("failures would leave {:.1} % of the time of {need:.0} machines", 100.0 * goodput);
        let remedy = "give it more days, or let failures_fall be larger";
        return Err(PlanError::value(format!("days of {}", generation.name), days, problem, remedy));
    }
    // The layout is of a round number of machines near by; machines are bought for what is needed, in servers.
    let node = f64::from(accelerator.per_node);
    let accelerators = (need / node).ceil() * node;
    let economics = &request.economics;
    let hours = accelerators * days * 24.0 * (1.0 + request.experiments);
    let bill = economics.bill(accelerator, hours);
    let capital = economics.capital(accelerator, accelerators);
    let yearly = capital + economics.bill(accelerator, accelerators * HOURS_OF_YEAR).power;
    Ok(PlannedGeneration {
        name: generation.name.clone(),
        start: generation.start,
        flops,
        parameters: optimum.parameters,
        tokens: optimum.tokens,
        accelerator: accelerator.name.clone(),
        accelerators,
        layout: format!("{} on {}", best.layout, short(count)),
        mfu: best.mfu,
        goodput,
        power: economics.site_power(accelerator, accelerators),
        capital,
        energy: bill.energy,
        carbon: bill.carbon,
        affordable: request.yearly_budget.map_or(1.0, |budget| (budget / yearly).clamp(0.0, 1.0)),
    })
}

/// The number 8 times a power of two that is next to `count`, at least 8.
fn power_of_two_times_eight(count: f64) -> f64 {
    8.0 * 2_f64.powf((count / 8.0).max(1.0).log2().round())
}

/// Of accelerators that can be bought by `year`, the one whose FLOPs cost least, power of their life included.
fn cheapest<'a>(
    hardware: &'a HardwareCatalogue,
    year: f64,
    economics: &Economics,
    calibration: &Calibration,
) -> Result<&'a Accelerator, PlanError> {
    let sold = hardware.accelerators.iter().filter(|it| {
        // A year passes until a new part comes in the numbers that a cluster takes.
        it.price_buy.is_some() && f64::from(it.year) + 0.75 <= year && year < f64::from(it.year) + 4.0
    });
    let trains = |it: &&Accelerator| !["cpu", "mtia"].contains(&it.family.as_str());
    let cost = |it: &Accelerator| {
        let rate = it.peak("bf16") * calibration.matmul(&it.family, "bf16");
        let owned = Economics { own: true, ..*economics };
        owned.bill(it, 1.0).total() / (rate * HOUR)
    };
    let newest = hardware.accelerators.iter().filter(|it| it.price_buy.is_some()).filter(trains);
    sold.filter(trains)
        .min_by(|a, b| cost(a).total_cmp(&cost(b)))
        // Beyond the catalogue the newest there is stands in for what is not announced.
        .or_else(|| newest.max_by_key(|it| it.year))
        .ok_or_else(|| PlanError::value("start", year, "no accelerator has a price", "add one to the table"))
}

/// Machines are bought a quarter before training begins, serve and rank after it until they are written off.
fn quarters(
    generations: &[PlannedGeneration],
    request: &RoadmapRequest,
    hardware: &HardwareCatalogue,
) -> Result<Vec<Quarter>, PlanError> {
    let economics = &request.economics;
    let first = generations.first().map_or(2026.0, |it| it.start) - 0.25;
    let last = generations.last().map_or(2026.0, |it| it.start) + 2.0;
    let first = (first * 4.0).floor() / 4.0;
    let count = ((last - first) * 4.0).round() as usize;
    let mut found = Vec::with_capacity(count);
    for index in 0..count {
        let start = first + index as f64 / 4.0;
        let mut quarter =
            Quarter { start, power: 0.0, capital: 0.0, depreciation: 0.0, running: 0.0, freed: 0.0 };
        for (position, generation) in generations.iter().enumerate() {
            let bought = (generation.start * 4.0).floor() / 4.0 - 0.25;
            let age = start - bought;
            if age < 0.0 || age >= economics.depreciation_years {
                continue;
            }
            let accelerator = hardware.find(&generation.accelerator)?;
            let bill = economics.bill(accelerator, generation.accelerators * HOURS_OF_YEAR / 4.0);
            quarter.power += generation.power;
            quarter.running += bill.power + bill.upkeep;
            quarter.depreciation += if economics.own { bill.machines } else { 0.0 };
            if age == 0.0 {
                quarter.capital += generation.capital;
            }
            let next = generations.get(position + 1).map_or(f64::INFINITY, |it| it.start);
            if start >= next {
                quarter.freed += generation.accelerators;
            }
        }
        found.push(quarter);
    }
    Ok(found)
}

type Range = (f64, f64, f64);

/// Draws futures: every unknown from its triangle, and sees what becomes of cost and power.
fn futures(capital: f64, running: f64, power: f64, samples: usize) -> (Range, Range, Vec<Sensitivity>) {
    let cost = |factors: &[f64; UNKNOWNS.len()]| {
        let mut parts = (capital, running);
        for (factor, unknown) in factors.iter().zip(&UNKNOWNS) {
            parts.0 *= factor.powf(unknown.powers.0);
            parts.1 *= factor.powf(unknown.powers.1);
        }
        parts.0 + parts.1
    };
    let samples = samples.clamp(100, 1_000_000);
    let mut random = Random::new(2);
    let (mut costs, mut powers) = (Vec::with_capacity(samples), Vec::with_capacity(samples));
    for _ in 0..samples {
        let factors = std::array::from_fn(|index| {
            let (low, likely, high) = UNKNOWNS[index].factors;
            random.triangular(low, likely, high)
        });
        costs.push(cost(&factors));
        powers.push(power * factors[1] * factors[4] / factors[0]);
    }
    let mut tornado: Vec<Sensitivity> = Vec::new();
    for (index, unknown) in UNKNOWNS.iter().enumerate() {
        let at = |value: f64| {
            let mut factors = [1.0; UNKNOWNS.len()];
            factors[index] = value;
            cost(&factors)
        };
        let ends = (at(unknown.factors.0), at(unknown.factors.2));
        tornado.push(Sensitivity {
            name: unknown.name,
            factors: unknown.factors,
            low: ends.0.min(ends.1),
            high: ends.0.max(ends.1),
            share: (ends.1 - ends.0).powi(2),
        });
    }
    let all: f64 = tornado.iter().map(|it| it.share).sum();
    tornado.iter_mut().for_each(|it| it.share /= all.max(1e-9));
    tornado.sort_by(|a, b| (b.high - b.low).total_cmp(&(a.high - a.low)));
    let range =
        |values: &mut Vec<f64>| (quantile(values, 0.05), quantile(values, 0.5), quantile(values, 0.95));
    (range(&mut costs), range(&mut powers), tornado)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_generations_of_ten_times_the_compute() {
        let hardware = HardwareCatalogue::built_in();
        let roadmap = plan_roadmap(&RoadmapRequest::default(), &hardware, &Calibration::default()).unwrap();
        assert_eq!(roadmap.generations.len(), 3);
        let flops: Vec<f64> = roadmap.generations.iter().map(|it| it.flops).collect();
        assert!((flops[1] / flops[0] - 10.0).abs() < 1e-9);
        assert!(roadmap.cost_range.0 < roadmap.cost && roadmap.cost < roadmap.cost_range.2);
        assert!((roadmap.tornado.iter().map(|it| it.share).sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(roadmap.quarters.iter().any(|it| it.freed > 0.0));
        let mut bad = RoadmapRequest::default();
        bad.generations[1].start = 1999.0;
        let error = plan_roadmap(&bad, &hardware, &Calibration::default()).unwrap_err().to_string();
        assert!(error.contains("no year"), "{error}");
    }
}
