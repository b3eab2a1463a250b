//! Several generations of models: when to buy what, power by quarter, capital and its depreciation, budgets, and what
//! dominates the uncertainty.

use crate::calibration::{Basis, Calibration};
use crate::economics::Economics;
use crate::error::{PlanError, between};
use crate::futures::{Parts, Range, Sensitivity, futures};
use crate::generation::{Sizing, plan_generation};
use crate::hardware::{Accelerator, HardwareCatalogue};
use crate::search::Candidate;
use crate::training::{MOST, Reliability};
use crate::units::{DAY, HOUR, HOURS_OF_YEAR};
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
    /// FLOPs of the generation before the first.
    pub base_flops: f64,
    /// How many times the compute of the one before a generation takes.
    pub growth: f64,
    /// Compute beside the final run (experiments, data, post-training), part of it: so many more machines are there.
    pub experiments: f64,
    /// $ that may be spent in a year on machines, building, power and upkeep of all generations; none where absent.
    pub yearly_budget: Option<f64>,
    /// W that the site has for all generations that are there; none where absent.
    pub power_limit: Option<f64>,
    /// By how much rates of failure, and seconds to save and to restart, fall with every generation: without any, clusters
    /// ten times as large as today's would mostly restart.
    pub failures_fall: f64,
    /// How many times more FLOP/s a dollar buys each year beyond the catalogue's last (2 in 2.1 years: Epoch AI, Trends in
    /// Machine Learning Hardware, 2023, accelerators for machine learning).
    pub flops_per_dollar_growth: f64,
    /// The same for a watt (2 in 3.0 years: the same).
    pub flops_per_watt_growth: f64,
    /// The same for memory, its bandwidth and links of an accelerator (2 in 4.1 years: the same).
    pub memory_growth: f64,
    /// Simulated futures.
    pub samples: usize,
    /// Prices and site: those of the settings.
    #[serde(skip)]
    pub economics: Economics,
    /// Failures, in the first generation: those of the settings.
    #[serde(skip)]
    pub reliability: Reliability,
    /// Generations, in order.
    pub generations: Vec<Generation>,
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
            base_flops: 3.8e25,
            growth: 10.0,
            experiments: 0.5,
            yearly_budget: None,
            power_limit: None,
            failures_fall: 3.0,
            flops_per_dollar_growth: 1.39,
            flops_per_watt_growth: 1.26,
            memory_growth: 1.18,
            samples: 5000,
            economics: Economics::default(),
            reliability: Reliability::default(),
            generations: (0..3).map(generation).collect(),
        }
    }
}

impl RoadmapRequest {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        let numbers = [
            ("growth", self.growth, 1e-3, 1e4),
            ("failures_fall", self.failures_fall, 0.1, 1e3),
            ("base_flops", self.base_flops, 1e15, 1e36),
            ("experiments", self.experiments, 0.0, 100.0),
            ("yearly_budget", self.yearly_budget.unwrap_or(1.0), 1.0, MOST),
            ("power_limit", self.power_limit.unwrap_or(1.0), 1.0, MOST),
            ("flops_per_dollar_growth", self.flops_per_dollar_growth, 1.0, 10.0),
            ("flops_per_watt_growth", self.flops_per_watt_growth, 1.0, 10.0),
            ("memory_growth", self.memory_growth, 1.0, 10.0),
            ("samples", self.samples as f64, 100.0, 1e6),
            ("generations", self.generations.len() as f64, 1.0, 12.0),
        ];
        for (field, value, least, most) in numbers {
            between(field, value, least, most)?;
        }
        for generation in &self.generations {
            let of = |field: &str| format!("{field} of {}", generation.name);
            between(&of("start"), generation.start, 2000.0, 2100.0)?;
            between(&of("days"), generation.days, 0.1, 3650.0)?;
            between(&of("flops"), generation.flops.unwrap_or(1e20), 1e15, 1e36)?;
        }
        Ok(())
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
    /// The accelerator's name.
    pub accelerator: String,
    /// How its efficiency is known.
    pub basis: Basis,
    /// What is assumed about an accelerator that nobody sells yet.
    pub assumed: Option<String>,
    /// Accelerators to have: those of the final run, and those of experiments beside it.
    pub accelerators: f64,
    /// Of them, those of the final run.
    pub of_run: f64,
    /// How the final run is laid out, and how fast that is.
    pub best: Candidate,
    /// Model FLOPs utilisation.
    pub mfu: f64,
    /// Part of the time that makes progress.
    pub goodput: f64,
    /// Days of the final run, failures included.
    pub days: f64,
    /// Power of the site for it, W.
    pub power: f64,
    /// Machines, network and building, $; nothing where they are rented.
    pub capital: f64,
    /// Energy of final run and experiments, kWh.
    pub energy: f64,
    /// Emissions, t CO2e.
    pub carbon: f64,
    /// Part of the compute asked for that budget and power leave: 1 where they are enough.
    pub affordable: f64,
    /// The accelerator as it is planned with.
    #[serde(skip)]
    pub row: Accelerator,
}

/// A quarter of a year.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quarter {
    /// When it begins, year.
    pub start: f64,
    /// Power of all machines that are there, W.
    pub power: f64,
    /// $ paid for machines and buildings.
    pub capital: f64,
    /// $ written off.
    pub depreciation: f64,
    /// $ for rent, power, upkeep and capital.
    pub running: f64,
    /// Accelerators no longer needed for training, which serve and rank.
    pub freed: f64,
    /// The money by what it is for.
    pub parts: Parts,
}

/// A roadmap, planned.
#[derive(Clone, Debug, Serialize)]
pub struct Roadmap {
    /// Whether machines are bought.
    pub own: bool,
    /// The generations.
    pub generations: Vec<PlannedGeneration>,
    /// Quarters from the first purchase to two years after the last.
    pub quarters: Vec<Quarter>,
    /// The money by what it is for, all quarters.
    pub parts: Parts,
    /// $ of all quarters.
    pub cost: f64,
    /// 5th, 50th and 95th percentile of the cost over simulated futures, $.
    pub cost_range: Range,
    /// The same of the power of the last generation, W.
    pub power_range: Range,
    /// What moves the cost, most first.
    pub tornado: Vec<Sensitivity>,
}

/// Plans a roadmap.
///
/// # Errors
/// When a number is impossible, or a generation fits no cluster, no budget or no power.
pub fn plan_roadmap(
    request: &RoadmapRequest,
    hardware: &HardwareCatalogue,
    calibration: &Calibration,
) -> Result<Roadmap, PlanError> {
    request.check()?;
    request.economics.check()?;
    request.reliability.check()?;
    let economics = Economics { own: Some(request.economics.own.unwrap_or(true)), ..request.economics };
    let mut flops = request.base_flops;
    let mut generations: Vec<PlannedGeneration> = Vec::new();
    for generation in &request.generations {
        flops = generation.flops.unwrap_or(flops * request.growth);
        if generations.last().is_some_and(|last| last.start > generation.start) {
            let problem = "the generation before it starts later";
            let remedy = "order generations by their start";
            return Err(PlanError::value(
                format!("start of {}", generation.name),
                generation.start,
                problem,
                remedy,
            ));
        }
        let reliability = later(request, generations.len());
        let sizing =
            Sizing { request, economics: &economics, reliability: &reliability, hardware, calibration };
        let planned = within_limits(&sizing, generation, flops, &generations)?;
        generations.push(planned);
    }
    let quarters = quarters(&generations, &economics);
    let mut parts = Parts::default();
    quarters.iter().for_each(|quarter| parts.add(&quarter.parts));
    let power = generations.last().map_or(0.0, |it| it.power);
    let futures = futures(&parts, power, request.experiments, request.samples);
    Ok(Roadmap {
        own: economics.owns(),
        generations,
        quarters,
        cost: parts.total(),
        parts,
        cost_range: futures.cost,
        power_range: futures.power,
        tornado: futures.tornado,
    })
}

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

/// The generation as large as it is asked for, or as the year's budget and the site's power leave room for beside those
/// before it.
fn within_limits(
    sizing: &Sizing<'_>,
    generation: &Generation,
    asked: f64,
    before: &[PlannedGeneration],
) -> Result<PlannedGeneration, PlanError> {
    let mut flops = asked;
    for _ in 0..8 {
        let planned = plan_generation(sizing, generation, flops)?;
        let (share, limit) = share(sizing, &planned, before);
        if share >= 1.0 {
            return Ok(PlannedGeneration { affordable: flops / asked, ..planned });
        }
        if share * flops / asked < 1e-3 {
            let problem = format!("the {limit} leaves it {:.1} % of its compute", 100.0 * share.max(0.0));
            let remedy = format!("raise {limit}, start later, or leave the generation out");
            return Err(PlanError::value(
                format!("flops of {}", generation.name),
                format!("{asked:.2e}"),
                problem,
                remedy,
            ));
        }
        // Smaller models train a little more cheaply than in proportion; a little less than what is left converges.
        flops *= 0.995 * share;
    }
    let problem = "no size of it was found within yearly_budget and power_limit";
    Err(PlanError::value(
        format!("flops of {}", generation.name),
        format!("{asked:.2e}"),
        problem,
        "raise the limits",
    ))
}

/// The least part of a generation that a year's budget or the power of the site leaves room for, and which of them.
fn share(
    sizing: &Sizing<'_>,
    planned: &PlannedGeneration,
    before: &[PlannedGeneration],
) -> (f64, &'static str) {
    let economics = sizing.economics;
    let mut least = (1.0, "yearly_budget");
    let mut bound = |value: f64, name: &'static str| {
        if value < least.0 {
            least = (value, name);
        }
    };
    let first = bought(planned, economics);
    let life = ((economics.depreciation_years + 1.0) * 4.0) as usize;
    let (mut year, mut own, mut others) = (first.floor(), 0.0, 0.0);
    for index in 0..life {
        let start = first + index as f64 / 4.0;
        if start.floor() > year {
            (year, own, others) = (start.floor(), 0.0, 0.0);
        }
        let one = held(planned, economics, start);
        let rest: Vec<Quarter> = before.iter().map(|it| held(it, economics, start)).collect();
        if index == 0 {
            // What those before spent earlier in the year in which this one is bought.
            let quarters = ((start - year) * 4.0).round() as u32;
            let earlier = (0..quarters).map(|quarter| year + f64::from(quarter) / 4.0);
            others = earlier
                .flat_map(|start| before.iter().map(move |it| held(it, economics, start).parts.total()))
                .sum();
        }
        own += one.parts.total();
        others += rest.iter().map(|it| it.parts.total()).sum::<f64>();
        if let Some(budget) = sizing.request.yearly_budget.filter(|_| own > 0.0) {
            bound((budget - others) / own, "yearly_budget");
        }
        if let Some(limit) = sizing.request.power_limit.filter(|_| one.power > 0.0) {
            bound((limit - rest.iter().map(|it| it.power).sum::<f64>()) / one.power, "power_limit");
        }
    }
    least
}

/// The quarter in which the machines of a generation come: the one before its training where they are bought.
fn bought(generation: &PlannedGeneration, economics: &Economics) -> f64 {
    let quarter = (generation.start * 4.0).floor() / 4.0;
    if economics.owns() { quarter - 0.25 } else { quarter }
}

/// What a generation's machines draw and cost in the quarter that begins at `start`.
fn held(generation: &PlannedGeneration, economics: &Economics, start: f64) -> Quarter {
    let age = start - bought(generation, economics);
    let mut quarter = Quarter { start, ..Quarter::default() };
    let (row, count) = (&generation.row, generation.accelerators);
    let hours = HOURS_OF_YEAR / 4.0;
    if !economics.owns() {
        // Rented for the days of the final run, experiments beside it.
        let first = (generation.start - start) * HOURS_OF_YEAR;
        let last = first + generation.days * DAY / HOUR;
        let hours = (last.min(hours) - first.max(0.0)).max(0.0);
        if hours > 0.0 {
            quarter.power = generation.power;
            quarter.parts.rent = economics.bill(row, count * hours).machines;
        }
    } else if (0.0..economics.depreciation_years).contains(&age) {
        let owning = economics.owning(row);
        let each = count / 4.0;
        quarter.power = generation.power;
        quarter.depreciation = each * (owning.machines + owning.building);
        quarter.parts = Parts {
            power: economics.bill(row, count * hours).power,
            upkeep: each * owning.upkeep,
            interest_of_machines: each * owning.interest_of_machines,
            interest_of_building: each * owning.interest_of_building,
            ..Parts::default()
        };
        if age == 0.0 {
            let (machines, building) = economics.capital_parts(row, count).unwrap_or_default();
            (quarter.parts.machines, quarter.parts.building) = (machines, building);
        }
    }
    quarter.capital = quarter.parts.machines + quarter.parts.building;
    quarter.running = quarter.parts.total() - quarter.capital;
    quarter
}

/// Machines are bought a quarter before training begins, serve and rank after it until they are written off; rented ones go
/// when it is done.
fn quarters(generations: &[PlannedGeneration], economics: &Economics) -> Vec<Quarter> {
    let first = generations.first().map_or(2026.0, |it| bought(it, economics));
    let last = generations.last().map_or(2026.0, |it| it.start) + 2.0;
    let count = ((last - first) * 4.0).round() as usize;
    let sum = |index: usize| {
        let start = first + index as f64 / 4.0;
        let mut quarter = Quarter { start, ..Quarter::default() };
        for (position, generation) in generations.iter().enumerate() {
            let one = held(generation, economics, start);
            quarter.power += one.power;
            quarter.capital += one.capital;
            quarter.depreciation += one.depreciation;
            quarter.running += one.running;
            quarter.parts.add(&one.parts);
            let next = generations.get(position + 1).map_or(f64::INFINITY, |it| it.start);
            if start >= next && one.power > 0.0 {
                quarter.freed += generation.accelerators;
            }
        }
        quarter
    };
    (0..count).map(sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut RoadmapRequest)) -> Result<Roadmap, PlanError> {
        let mut request = RoadmapRequest { samples: 2000, ..RoadmapRequest::default() };
        change(&mut request);
        plan_roadmap(&request, &HardwareCatalogue::built_in(), &Calibration::default())
    }

    fn years(roadmap: &Roadmap) -> Vec<f64> {
        let mut sums = std::collections::BTreeMap::new();
        for it in &roadmap.quarters {
            *sums.entry(it.start.floor() as u32).or_insert(0.0) += it.parts.total();
        }
        sums.into_values().collect()
    }

    #[test]
    fn three_generations_of_ten_times_the_compute() {
        let roadmap = plan(|_| {}).unwrap();
        assert_eq!(roadmap.generations.len(), 3);
        let flops: Vec<f64> = roadmap.generations.iter().map(|it| it.flops).collect();
        assert!((flops[1] / flops[0] - 10.0).abs() < 1e-9);
        assert!(roadmap.cost_range.0 < roadmap.cost && roadmap.cost < roadmap.cost_range.2);
        let shares: f64 = roadmap.tornado.iter().map(|it| it.share).sum();
        assert!((0.8..1.1).contains(&shares), "{shares}");
        assert!(roadmap.quarters.iter().any(|it| it.freed > 0.0));
        let days: Vec<f64> = roadmap.generations.iter().map(|it| it.days).collect();
        assert!(days.iter().all(|it| (90.0..=100.0).contains(it)), "{days:?}");
        // Machines that nobody sells yet are said to be assumed, and are better than today's.
        assert!(roadmap.generations[0].assumed.is_none());
        let last = &roadmap.generations[2];
        assert!(last.assumed.as_ref().is_some_and(|it| it.contains("2029")), "{:?}", last.assumed);
        assert!(last.row.peak("bf16") > 1.5 * roadmap.generations[0].row.peak("bf16"));
        // What no published run shows is not bought because of a guess.
        assert!(roadmap.generations.iter().all(|it| it.basis != Basis::Assumed));
        let error = plan(|it| it.generations[1].start = 1999.0).unwrap_err().to_string();
        assert!(error.contains("start of generation 2"), "{error}");
    }

    #[test]
    fn the_first_machines_are_those_that_a_run_would_take() {
        use crate::search::Constraints;
        use crate::training::{RunRequest, plan_run};
        let roadmap = plan(|it| {
            it.generations.truncate(1);
            it.generations[0].flops = Some(3.8e25);
            it.generations[0].accelerator = Some("H100".to_owned());
        })
        .unwrap();
        let generation = &roadmap.generations[0];
        let model = crate::model::ModelShape::of_parameters(generation.parameters).unwrap();
        let plan = plan_run(
            &RunRequest {
                job: crate::layout::Job {
                    model: &model,
                    accelerator: &generation.row,
                    stack: crate::stack::Stack::find(crate::stack::Stack::DEFAULT).unwrap(),
                    sequence: 8192,
                    batch_tokens: generation.best.batch_tokens,
                    precision: "bf16",
                    oversubscription: 1.0,
                    pod: u32::MAX,
                },
                gpus: generation.of_run as u64,
                tokens: generation.tokens,
                unique_tokens: None,
                constraints: Constraints { batch_rounding: 0.25, ..Constraints::default() },
                reliability: Reliability { runs: 50, ..Reliability::default() },
                economics: Economics::default(),
            },
            &Calibration::default(),
        )
        .unwrap();
        assert!(
            (plan.best().mfu / generation.mfu - 1.0).abs() < 0.01,
            "{} {}",
            plan.best().mfu,
            generation.mfu
        );
        assert!((plan.days.1 / generation.days - 1.0).abs() < 0.02, "{} {}", plan.days.1, generation.days);
        assert_eq!(plan.gpus_used as f64, generation.of_run);
    }

    #[test]
    fn experiments_are_bought_and_billed() {
        let (none, half) = (plan(|it| it.experiments = 0.0).unwrap(), plan(|_| {}).unwrap());
        assert!((half.cost / none.cost - 1.5).abs() < 0.01, "{} {}", half.cost, none.cost);
        let of = |roadmap: &Roadmap| (roadmap.generations[0].accelerators, roadmap.generations[0].of_run);
        assert!(of(&none).0 == of(&none).1 && (of(&half).0 / of(&half).1 - 1.5).abs() < 0.01);
    }

    #[test]
    fn rented_machines_have_rent_and_no_capital() {
        let rented = plan(|it| {
            it.generations.truncate(1);
            it.economics.own = Some(false);
        })
        .unwrap();
        assert!(!rented.own && rented.parts.rent == rented.cost && rented.cost > 0.0, "{:?}", rented.parts);
        let hours = rented.generations[0].accelerators * rented.generations[0].days * 24.0;
        let rent = rented.generations[0].row.price_hour.unwrap();
        assert!((rented.cost / (hours * rent) - 1.0).abs() < 0.01);
        assert!(rented.generations[0].capital == 0.0 && rented.quarters.iter().all(|it| it.capital == 0.0));
    }

    #[test]
    fn a_budget_and_the_power_of_a_site_shrink_generations() {
        let free = plan(|_| {}).unwrap();
        let most = years(&free).into_iter().fold(0.0, f64::max);
        let budget = 0.3 * most;
        let poor = plan(|it| it.yearly_budget = Some(budget)).unwrap();
        assert!(years(&poor).iter().all(|year| *year <= budget * 1.0001), "{:?} of {budget}", years(&poor));
        assert!(poor.generations[2].affordable < 0.9 && poor.generations[0].affordable == 1.0);
        let dark = plan(|it| it.power_limit = Some(2e9)).unwrap();
        assert!(dark.quarters.iter().all(|it| it.power <= 2e9));
        assert!(dark.generations[2].affordable < 1.0);
        let error = plan(|it| it.yearly_budget = Some(100.0)).unwrap_err().to_string();
        assert!(error.contains("yearly_budget"), "{error}");
    }
}
