//! What a roadmap's cost depends on: futures are drawn, and every unknown moves the sums that it is a factor of.

use crate::random::{Random, quantile};
use serde::Serialize;

/// Low, likely and high.
pub type Range = (f64, f64, f64);

/// Money by what it is for, $.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Machines and network, bought.
    pub machines: f64,
    /// Buildings and power delivery.
    pub building: f64,
    /// Machines rented.
    pub rent: f64,
    /// Power.
    pub power: f64,
    /// Maintenance and people.
    pub upkeep: f64,
    /// What the capital of machines costs.
    pub interest_of_machines: f64,
    /// What the capital of buildings costs.
    pub interest_of_building: f64,
}

impl Parts {
    /// All of it, $.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.machines
            + self.building
            + self.rent
            + self.power
            + self.upkeep
            + self.interest_of_machines
            + self.interest_of_building
    }

    /// Adds other money.
    pub fn add(&mut self, other: &Parts) {
        self.machines += other.machines;
        self.building += other.building;
        self.rent += other.rent;
        self.power += other.power;
        self.upkeep += other.upkeep;
        self.interest_of_machines += other.interest_of_machines;
        self.interest_of_building += other.interest_of_building;
    }
}

/// How far one unknown moves the cost.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivity {
    /// The unknown.
    pub name: &'static str,
    /// Its low, likely and high factor.
    pub factors: Range,
    /// Cost at its low end, $.
    pub low: f64,
    /// Cost at its high end, $.
    pub high: f64,
    /// Part of the variance of the cost over the futures that it explains: the square of their correlation.
    pub share: f64,
}

/// What is not known, as a factor on the plan.
struct Unknown {
    name: &'static str,
    factors: Range,
}

const fn unknown(name: &'static str, low: f64, likely: f64, high: f64) -> Unknown {
    Unknown { name, factors: (low, likely, high) }
}

const UNKNOWNS: [Unknown; 7] = [
    // Twice the planner's own mean error on held rows.
    unknown("utilisation (MFU)", 0.85, 1.0, 1.15),
    unknown("compute needed", 0.6, 1.0, 1.6),
    unknown("price of machines", 0.8, 1.0, 1.35),
    unknown("experiments beside the run", 0.7, 1.0, 1.6),
    unknown("failures and restarts", 0.97, 1.0, 1.15),
    unknown("price of power", 0.7, 1.0, 1.8),
    unknown("building and grid connection", 0.8, 1.0, 1.6),
];

/// Factors on the plan, in the order of [`UNKNOWNS`].
type Factors = [f64; UNKNOWNS.len()];

/// How many times the machines of the plan there are: fewer where they are faster, more for more compute, experiments and
/// failures.
fn machines(factors: &Factors, experiments: f64) -> f64 {
    factors[1] / factors[0] * (1.0 + experiments * factors[3]) / (1.0 + experiments) * factors[4]
}

/// The cost with other factors: each sum follows those that are factors of it.
fn cost(parts: &Parts, factors: &Factors, experiments: f64) -> f64 {
    let price = factors[2] * (parts.machines + parts.rent + parts.upkeep + parts.interest_of_machines);
    let power = factors[5] * parts.power;
    let building = factors[6] * (parts.building + parts.interest_of_building);
    machines(factors, experiments) * (price + power + building)
}

/// Cost and power over futures, and what moves the cost.
pub(crate) struct Futures {
    pub(crate) cost: Range,
    pub(crate) power: Range,
    pub(crate) tornado: Vec<Sensitivity>,
}

/// Draws futures: every unknown from its triangle, independently.
pub(crate) fn futures(parts: &Parts, power: f64, experiments: f64, samples: usize) -> Futures {
    let mut random = Random::new(2);
    let mut drawn: Vec<(Factors, f64)> = Vec::with_capacity(samples);
    for _ in 0..samples {
        let factors: Factors = std::array::from_fn(|index| {
            let (low, likely, high) = UNKNOWNS[index].factors;
            random.triangular(low, likely, high)
        });
        drawn.push((factors, cost(parts, &factors, experiments)));
    }
    let sensitivity = |(index, unknown): (usize, &Unknown)| {
        let at = |value: f64| {
            let mut factors = [1.0; UNKNOWNS.len()];
            factors[index] = value;
            cost(parts, &factors, experiments)
        };
        let ends = (at(unknown.factors.0), at(unknown.factors.2));
        Sensitivity {
            name: unknown.name,
            factors: unknown.factors,
            low: ends.0.min(ends.1),
            high: ends.0.max(ends.1),
            share: correlation(drawn.iter().map(|it| (it.0[index], it.1))).powi(2),
        }
    };
    let mut tornado: Vec<Sensitivity> = UNKNOWNS.iter().enumerate().map(sensitivity).collect();
    tornado.sort_by(|a, b| (b.high - b.low).total_cmp(&(a.high - a.low)));
    let range = |mut values: Vec<f64>| {
        (quantile(&mut values, 0.05), quantile(&mut values, 0.5), quantile(&mut values, 0.95))
    };
    Futures {
        cost: range(drawn.iter().map(|it| it.1).collect()),
        power: range(drawn.iter().map(|it| power * machines(&it.0, experiments)).collect()),
        tornado,
    }
}

/// Pearson's correlation, 0 where one of both never changes.
fn correlation(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = pairs.clone().count().max(1) as f64;
    let mean = pairs.clone().fold((0.0, 0.0), |sum, it| (sum.0 + it.0 / count, sum.1 + it.1 / count));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        xx += (x - mean.0).powi(2);
        yy += (y - mean.1).powi(2);
        xy += (x - mean.0) * (y - mean.1);
    }
    if xx * yy > 0.0 { xy / (xx * yy).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unknown_moves_the_sums_that_it_is_a_factor_of() {
        let parts = Parts { machines: 60.0, building: 10.0, power: 20.0, upkeep: 10.0, ..Parts::default() };
        let found = futures(&parts, 1e6, 0.5, 5000);
        let of = |name: &str| found.tornado.iter().find(|it| it.name == name).unwrap();
        // Power is a fifth of the cost: 1.8 times its price is 16 more of 100.
        assert!((of("price of power").high - 116.0).abs() < 1e-9);
        assert!((of("price of machines").low - (30.0 + 0.8 * 70.0)).abs() < 1e-9);
        assert!((of("building and grid connection").high - 106.0).abs() < 1e-9);
        assert!((of("utilisation (MFU)").low - 100.0 / 1.15).abs() < 1e-9);
        assert!((of("experiments beside the run").high - 100.0 * 1.8 / 1.5).abs() < 1e-9);
        assert!((of("compute needed").high - 160.0).abs() < 1e-9);
        // Nearly linear, so that the shares are nearly all of the variance.
        let shares: f64 = found.tornado.iter().map(|it| it.share).sum();
        assert!((0.9..1.05).contains(&shares), "{shares}");
        assert_eq!(found.tornado[0].name, "compute needed");
    }
}
