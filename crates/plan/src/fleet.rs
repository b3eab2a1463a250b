//! One fleet over training, inference and ranking by the hour, and what it saves against three fleets.

use crate::economics::Economics;
use crate::error::{PlanError, fraction};
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
    /// Minutes of an accelerator that a move between workloads costs.
    pub switch_minutes: f64,
    /// Accelerators that training takes or gives at a time (a data-parallel rank).
    pub granule: f64,
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
            granule: 128.0,
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
    /// Accelerators of the shared fleet.
    pub shared: f64,
    /// Accelerators of three fleets, each sized for its own busiest hour.
    pub separate: f64,
    /// Accelerators that serving frees for training in its quietest hour.
    pub freed_at_night: f64,
    /// Accelerator-hours a day lost to moves.
    pub lost: f64,
    /// What the shared fleet saves a year, $.
    pub saved_a_year: f64,
    /// What it costs a year, $.
    pub cost_a_year: f64,
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
    for (field, value) in [
        ("training_hours", request.training_hours),
        ("inference", request.inference),
        ("ranking", request.ranking),
    ] {
        if !(value.is_finite() && (0.0..1e12).contains(&value)) {
            return Err(PlanError::value(field, value, "it is no number of machines", "write 0 or more"));
        }
    }
    fraction("reserve", request.reserve)?;
    let granule = request.granule.max(1.0);
    let demand = demand(request)?;
    let busiest = demand.iter().map(|(i, r)| i + r).fold(0.0, f64::max);
    let quietest = demand.iter().map(|(i, r)| i + r).fold(f64::INFINITY, f64::min);
    let schedule = |fleet: f64| schedule(&demand, fleet, granule);
    let lost = |hours: &[Hour]| {
        let moved = (0..24).map(|hour| (hours[(hour + 1) % 24].training - hours[hour].training).abs());
        moved.sum::<f64>() * request.switch_minutes.max(0.0) / 60.0
    };
    let trained = |hours: &[Hour]| hours.iter().map(|hour| hour.training).sum::<f64>() - lost(hours);
    // The least fleet by bisection: more machines never train less.
    let (mut low, mut high) = (busiest, busiest + request.training_hours / 24.0 + 26.0 * granule);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if trained(&schedule(middle)) >= request.training_hours { high = middle } else { low = middle }
    }
    let shared = if trained(&schedule(busiest)) >= request.training_hours { busiest } else { high }.ceil();
    let hours = schedule(shared);
    let peak = |of: fn(&(f64, f64)) -> f64| demand.iter().map(of).fold(0.0, f64::max);
    let separate = (request.training_hours / 24.0).ceil() + peak(|it| it.0) + peak(|it| it.1);
    let year = |count: f64| economics.bill(accelerator, count * crate::units::HOURS_OF_YEAR).total();
    Ok(FleetPlan {
        lost: lost(&hours),
        hours,
        shared,
        separate,
        freed_at_night: busiest - quietest,
        saved_a_year: year(separate - shared),
        cost_a_year: year(shared),
    })
}

/// Machines that inference and ranking need in each hour, reserve included.
fn demand(request: &FleetRequest) -> Result<Vec<(f64, f64)>, PlanError> {
    for (field, curve) in
        [("inference_curve", &request.inference_curve), ("ranking_curve", &request.ranking_curve)]
    {
        let right = curve.len() == 24 && curve.iter().all(|it| (0.0..=1.0).contains(it));
        if !right {
            let problem = "it must hold 24 numbers from 0 to 1, one an hour";
            let remedy = "divide each hour's load by the busiest hour's";
            return Err(PlanError::value(field, format!("{} numbers", curve.len()), problem, remedy));
        }
    }
    let more = 1.0 + request.reserve;
    let pairs = request.inference_curve.iter().zip(&request.ranking_curve);
    Ok(pairs
        .map(|(i, r)| ((request.inference * i * more).ceil(), (request.ranking * r * more).ceil()))
        .collect())
}

fn schedule(demand: &[(f64, f64)], fleet: f64, granule: f64) -> Vec<Hour> {
    let hour = |&(inference, ranking): &(f64, f64)| {
        let free = (fleet - inference - ranking).max(0.0);
        let training = (free / granule).floor() * granule;
        Hour { training, inference, ranking, idle: free - training }
    };
    demand.iter().map(hour).collect()
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
}
