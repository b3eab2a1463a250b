//! One fleet over training, inference and ranking by the hour, and what it saves against three fleets.

use crate::economics::Economics;
use crate::error::{PlanError, between, fraction};
use crate::hardware::Accelerator;
use serde::{Deserialize, Serialize};

/// Load of each hour over the busiest one of a service that people of a region use: least at four in the morning, most at
/// eight in the evening (the shape of published traces, such as Azure's LLM inference trace of 2023, arXiv 2311.18677).
pub const DIURNAL: [f64; 24] = [
    0.62, 0.50, 0.42, 0.36, 0.34, 0.36, 0.42, 0.52, 0.62, 0.70, 0.75, 0.78, 0.80, 0.80, 0.80, 0.82, 0.85,
    0.89, 0.94, 0.98, 1.00, 0.97, 0.88, 0.75,
];

/// What a fleet is for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetRequest {
    /// Accelerator-hours of training a day.
    pub training_hours: f64,
    /// Accelerators for inference in its busiest hour.
    pub inference: f64,
    /// Accelerators for ranking in its busiest hour.
    pub ranking: f64,
    /// Inference's load by the hour over its busiest.
    pub inference_curve: Vec<f64>,
    /// Ranking's load by the hour over its busiest.
    pub ranking_curve: Vec<f64>,
    /// Minutes that a change costs: machines that move load another program, and training, which all of its machines do
    /// together, saves itself, stops and starts again on more or fewer.
    pub switch_minutes: f64,
    /// Least hours between two changes of training's machines.
    pub hours_between_changes: f64,
    /// Accelerators that training takes or gives at a time (a data-parallel rank); a sixteenth of training's, from 1 to 128,
    /// where absent.
    pub granule: Option<f64>,
    /// Part of the serving machines that is kept idle for surprises.
    pub reserve: f64,
}

impl Default for FleetRequest {
    fn default() -> FleetRequest {
        FleetRequest {
            training_hours: 0.0,
            inference: 0.0,
            ranking: 0.0,
            inference_curve: DIURNAL.to_vec(),
            ranking_curve: DIURNAL.to_vec(),
            switch_minutes: 15.0,
            hours_between_changes: 4.0,
            granule: None,
            reserve: 0.1,
        }
    }
}

/// Who has how many accelerators in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Hour {
    /// Training.
    pub training: f64,
    /// Inference with its reserve.
    pub inference: f64,
    /// Ranking with its reserve.
    pub ranking: f64,
    /// Accelerators that nobody uses.
    pub idle: f64,
}

/// A shared fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetPlan {
    /// The schedule, hour by hour.
    pub hours: Vec<Hour>,
    /// Whether sharing needs fewer accelerators than three fleets; else the schedule is theirs.
    pub pays: bool,
    /// Accelerators of the shared fleet.
    pub shared: f64,
    /// Accelerators of three fleets, each sized for its own busiest hour.
    pub separate: f64,
    /// Accelerators that serving frees for training in its quietest hour.
    pub freed_at_night: f64,
    /// Accelerator-hours a day lost to changes.
    pub lost: f64,
    /// Changes of training's machines a day.
    pub changes: usize,
    /// What the shared fleet saves a year, $.
    pub saved_a_year: f64,
    /// What it costs a year, $.
    pub cost_a_year: f64,
}

impl FleetRequest {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        let numbers = [
            ("training_hours", self.training_hours, 0.0, 1e12),
            ("inference", self.inference, 0.0, 1e10),
            ("ranking", self.ranking, 0.0, 1e10),
            ("switch_minutes", self.switch_minutes, 0.0, 1440.0),
            ("hours_between_changes", self.hours_between_changes, 1.0, 24.0),
            ("granule", self.granule.unwrap_or(1.0), 1.0, 1e9),
        ];
        for (field, value, least, most) in numbers {
            between(field, value, least, most)?;
        }
        fraction("reserve", self.reserve)?;
        check_curve("inference_curve", &self.inference_curve)?;
        check_curve("ranking_curve", &self.ranking_curve)
    }

    fn granule(&self) -> f64 {
        self.granule.unwrap_or_else(|| (self.training_hours / 24.0 / 16.0).floor().clamp(1.0, 128.0))
    }
}

/// Checks a load by the hour.
///
/// # Errors
/// When it does not hold 24 parts of the busiest hour's.
pub fn check_curve(field: &str, curve: &[f64]) -> Result<(), PlanError> {
    let parts = curve.iter().all(|it| (0.0..=1.0).contains(it)) && curve.iter().any(|it| *it > 0.0);
    if curve.len() == 24 && parts {
        return Ok(());
    }
    let problem = "it must hold 24 numbers from 0 to 1, one an hour, not all 0";
    let remedy = "divide each hour's load by the busiest hour's";
    Err(PlanError::value(field, format!("{} numbers", curve.len()), problem, remedy))
}

/// Plans a shared fleet: serving gets what each hour needs, training all else; the fleet is the smallest in which training
/// gets its hours.
///
/// # Errors
/// When a number is impossible.
pub fn plan_fleet(
    request: &FleetRequest,
    accelerator: &Accelerator,
    economics: &Economics,
) -> Result<FleetPlan, PlanError> {
    economics.check()?;
    economics.check_prices(accelerator)?;
    request.check()?;
    let demand = demand(request);
    let sums = || demand.iter().map(|(i, r)| i + r);
    let busiest = sums().fold(0.0, f64::max);
    let quietest = sums().fold(f64::INFINITY, f64::min);
    let enough = |fleet: f64| schedule(request, &demand, fleet).trained >= request.training_hours;
    // The least fleet by bisection: more machines never train less.
    let (mut low, mut high) = (busiest, busiest + request.training_hours / 24.0 + 26.0 * request.granule());
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if enough(middle) { high = middle } else { low = middle }
    }
    let shared = if enough(busiest) { busiest } else { high }.ceil();
    let peak = |of: fn(&(f64, f64)) -> f64| demand.iter().map(of).fold(0.0, f64::max);
    let training = (request.training_hours / 24.0).ceil();
    let separate = training + peak(|it| it.0) + peak(|it| it.1);
    // A fleet is there around the clock: those bought are paid for whether they work or not.
    let always = Economics { used: 1.0, ..*economics };
    let year = |count: f64| always.bill(accelerator, count * crate::units::HOURS_OF_YEAR).total();
    let pays = shared < separate;
    let day = if pays { schedule(request, &demand, shared) } else { apart(&demand, training, separate) };
    let fleet = shared.min(separate);
    Ok(FleetPlan {
        pays,
        lost: day.lost,
        changes: day.changes,
        hours: day.hours,
        shared: fleet,
        separate,
        freed_at_night: if pays { busiest - quietest } else { 0.0 },
        saved_a_year: year(separate) - year(fleet),
        cost_a_year: year(fleet),
    })
}

/// Machines that inference and ranking need in each hour, reserve included.
fn demand(request: &FleetRequest) -> Vec<(f64, f64)> {
    let more = 1.0 + request.reserve;
    let pairs = request.inference_curve.iter().zip(&request.ranking_curve);
    pairs.map(|(i, r)| ((request.inference * i * more).ceil(), (request.ranking * r * more).ceil())).collect()
}

/// A day of a fleet.
struct Day {
    hours: Vec<Hour>,
    /// Accelerator-hours of training that make progress.
    trained: f64,
    /// Accelerator-hours lost to changes.
    lost: f64,
    changes: usize,
}

/// Lengths in hours of the parts of a day in which training keeps its machines.
const PARTS_OF_A_DAY: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 24];

/// The day in which training makes the most progress: it keeps its machines for equal parts of the day, no shorter than is
/// asked, which begin at the best hour; in each part it has what its fullest hour of serving leaves.
fn schedule(request: &FleetRequest, demand: &[(f64, f64)], fleet: f64) -> Day {
    let granule = request.granule();
    let free: Vec<f64> = demand.iter().map(|(i, r)| (fleet - i - r).max(0.0)).collect();
    let with = |length: usize, first: usize| {
        let mut training = [0.0; 24];
        for part in 0..24 / length {
            let hours = (0..length).map(|hour| (first + part * length + hour) % 24);
            let least = hours.clone().map(|hour| free[hour]).fold(f64::INFINITY, f64::min);
            hours.for_each(|hour| training[hour] = (least / granule).floor() * granule);
        }
        let hours = demand.iter().zip(training).zip(&free).map(|((demand, training), free)| Hour {
            training,
            inference: demand.0,
            ranking: demand.1,
            idle: free - training,
        });
        day(request, hours.collect())
    };
    let lengths = PARTS_OF_A_DAY.iter().filter(|it| **it as f64 >= request.hours_between_changes);
    lengths
        .flat_map(|length| (0..*length).map(|first| with(*length, first)))
        .max_by(|a, b| a.trained.total_cmp(&b.trained))
        .unwrap_or_else(|| with(24, 0))
}

/// What changes cost: a job that all machines do together stands still on all that it keeps, and those that move do
/// nothing meanwhile.
fn day(request: &FleetRequest, hours: Vec<Hour>) -> Day {
    let pairs = || (0..24).map(|hour| (hours[hour].training, hours[(hour + 1) % 24].training));
    let changed = || pairs().filter(|(before, after)| before != after);
    let still: f64 = changed().map(|(before, after)| before.min(after) + (after - before).abs()).sum();
    let lost = still * request.switch_minutes / 60.0;
    let changes = changed().count();
    Day { trained: hours.iter().map(|hour| hour.training).sum::<f64>() - lost, lost, changes, hours }
}

/// The day of three fleets, none of which ever changes.
fn apart(demand: &[(f64, f64)], training: f64, fleet: f64) -> Day {
    let hour = |demand: &(f64, f64)| Hour {
        training,
        inference: demand.0,
        ranking: demand.1,
        idle: fleet - training - demand.0 - demand.1,
    };
    Day { hours: demand.iter().map(hour).collect(), trained: 24.0 * training, lost: 0.0, changes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;

    #[test]
    fn a_shared_fleet_is_smaller_and_does_the_same() {
        let hardware = HardwareCatalogue::built_in();
        let request = FleetRequest {
            training_hours: 24.0 * 16_000.0,
            inference: 8000.0,
            ranking: 12_000.0,
            ..FleetRequest::default()
        };
        let plan = plan_fleet(&request, hardware.find("H100").unwrap(), &Economics::default()).unwrap();
        assert!(plan.shared < plan.separate && plan.saved_a_year > 0.0, "{plan:?}");
        let trained: f64 = plan.hours.iter().map(|hour| hour.training).sum();
        assert!(trained - plan.lost >= request.training_hours);
        for hour in &plan.hours {
            let sum = hour.training + hour.inference + hour.ranking + hour.idle;
            assert!((sum - plan.shared).abs() < 1e-6);
        }
        let bad = FleetRequest { ranking_curve: vec![0.5; 23], ..request };
        let error = plan_fleet(&bad, hardware.find("H100").unwrap(), &Economics::default()).unwrap_err();
        assert!(error.to_string().contains("24 numbers"));
    }

    #[test]
    fn sharing_that_does_not_pay_is_not_done() {
        let hardware = HardwareCatalogue::built_in();
        let h100 = hardware.find("H100").unwrap();
        let of = |training: f64, inference: f64, ranking: f64| {
            let request = FleetRequest {
                training_hours: 24.0 * training,
                inference,
                ranking,
                ..FleetRequest::default()
            };
            plan_fleet(&request, h100, &Economics::default()).unwrap()
        };
        for (training, inference, ranking) in
            [(8.0, 4.0, 2.0), (0.0, 4.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
        {
            let plan = of(training, inference, ranking);
            assert!(plan.shared <= plan.separate && plan.saved_a_year >= 0.0, "{plan:?}");
            let trained: f64 = plan.hours.iter().map(|hour| hour.training).sum::<f64>() - plan.lost;
            assert!(trained >= 24.0 * training && plan.hours.iter().all(|hour| hour.idle >= 0.0));
        }
        assert!(of(8.0, 4.0, 2.0).shared <= 17.0);
    }

    #[test]
    fn a_job_stands_still_as_a_whole_when_it_changes() {
        let request = FleetRequest { switch_minutes: 30.0, ..FleetRequest::default() };
        let hour = |training: f64| Hour { training, inference: 0.0, ranking: 0.0, idle: 0.0 };
        let mut hours = vec![hour(100.0); 24];
        hours[12..].fill(hour(60.0));
        // Twice a day 60 stand still and 40 move, half an hour each time.
        let of = day(&request, hours);
        assert!(of.changes == 2 && (of.lost - 2.0 * 100.0 * 0.5).abs() < 1e-9, "{}", of.lost);
        let hardware = HardwareCatalogue::built_in();
        let request = FleetRequest {
            training_hours: 24.0 * 16_000.0,
            inference: 8000.0,
            ranking: 12_000.0,
            ..FleetRequest::default()
        };
        let plan = plan_fleet(&request, hardware.find("H100").unwrap(), &Economics::default()).unwrap();
        assert!(plan.changes <= 6, "{} changes a day, four hours apart", plan.changes);
    }
}
