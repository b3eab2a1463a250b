//! Ranking: how many candidates a second a ranking model scores on an accelerator, and machines for a number of users.

use crate::calibration::Calibration;
use crate::error::{PlanError, between, fraction};
use crate::fleet::DIURNAL;
use crate::hardware::Accelerator;
use crate::kernel::STREAM;
use serde::{Deserialize, Serialize};

/// Who is served, and with what model: a transformer reads the user's history once and scores every candidate against it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankingLoad {
    /// Users a day.
    pub users: f64,
    /// Ranked pages a user asks for a day.
    pub requests_a_user: f64,
    /// Items scored for a page.
    pub candidates: f64,
    /// Parameters that every token of history and every candidate goes through.
    pub parameters: f64,
    /// Tokens of history read for a page.
    pub history: f64,
    /// Part of the history whose keys and values are cached from the page before.
    pub history_cached: f64,
    /// Bytes of embeddings and features gathered for a candidate.
    pub candidate_bytes: f64,
    /// The busiest hour over the mean.
    pub peak: f64,
    /// Part of a machine's speed that is planned with, so that queues stay short.
    pub utilisation: f64,
}

impl Default for RankingLoad {
    fn default() -> RankingLoad {
        RankingLoad {
            users: 500e6,
            requests_a_user: 40.0,
            candidates: 1000.0,
            parameters: 1e9,
            history: 512.0,
            history_cached: 0.8,
            candidate_bytes: 32_768.0,
            // The busiest hour of the curve that serving is planned with, over its mean.
            peak: 24.0 / DIURNAL.iter().sum::<f64>(),
            utilisation: 0.6,
        }
    }
}

impl RankingLoad {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        let numbers = [
            ("users", self.users, 1e-3, 1e12),
            ("requests_a_user", self.requests_a_user, 1e-6, 1e6),
            ("candidates", self.candidates, 1.0, 1e9),
            ("parameters", self.parameters, 1.0, 1e14),
            ("history", self.history, 0.0, 1e9),
            ("candidate_bytes", self.candidate_bytes, 0.0, 1e12),
            ("peak", self.peak, 1.0, 1000.0),
            ("utilisation", self.utilisation, 1e-3, 1.0),
        ];
        for (field, value, least, most) in numbers {
            between(field, value, least, most)?;
        }
        fraction("history_cached", self.history_cached).map(|_| ())
    }
}

/// Machines for a ranking load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RankingPlan {
    /// FLOPs of one page.
    pub flops_a_request: f64,
    /// Candidates a second of one accelerator at full speed.
    pub candidates_per_second: f64,
    /// Pages a second in the busiest hour.
    pub peak_requests: f64,
    /// Accelerators for the busiest hour.
    pub accelerators: f64,
    /// Accelerator-hours a day if machines follow the load.
    pub hours_a_day: f64,
    /// Seconds of computing a page.
    pub computing: f64,
    /// Seconds of gathering its features, beside it.
    pub gathering: f64,
    /// Whether gathering features, not computing, sets the pace.
    pub memory_bound: bool,
}

/// Plans a ranking load on an accelerator: time of a page is the longer of its FLOPs over the rate that products reach and
/// of its bytes over the memory bandwidth.
///
/// # Errors
/// When a number is impossible.
pub fn plan_ranking(
    load: &RankingLoad,
    accelerator: &Accelerator,
    precision: &str,
    calibration: &Calibration,
) -> Result<RankingPlan, PlanError> {
    load.check()?;
    crate::hardware::bytes_of(precision)?;
    let tokens = load.history * (1.0 - load.history_cached) + load.candidates;
    let flops = 2.0 * load.parameters * tokens;
    let rate = accelerator.peak(precision)
        * accelerator.throttle
        * calibration.matmul(&accelerator.family, precision);
    // Small products of a ranking model reach about half of what those of training do.
    let computing = flops / (0.5 * rate);
    let gathering = load.candidates * load.candidate_bytes / (STREAM * accelerator.memory_bandwidth);
    let seconds = computing.max(gathering);
    let mean = load.users * load.requests_a_user / 86_400.0;
    let peak_requests = mean * load.peak;
    Ok(RankingPlan {
        flops_a_request: flops,
        candidates_per_second: load.candidates / seconds,
        peak_requests,
        accelerators: (peak_requests * seconds / load.utilisation).ceil(),
        hours_a_day: 24.0 * mean * seconds / load.utilisation,
        computing,
        gathering,
        memory_bound: gathering > computing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;

    #[test]
    fn a_power_limit_slows_ranking_too() {
        let hardware = HardwareCatalogue::built_in();
        let h100 = hardware.find("H100").unwrap();
        let load = RankingLoad::default();
        let of = |accelerator: &Accelerator| {
            plan_ranking(&load, accelerator, "bf16", &Calibration::default()).unwrap().accelerators
        };
        let slow = Accelerator { throttle: 0.5, ..h100.clone() };
        assert!((of(&slow) / of(h100) - 2.0).abs() < 0.01);
        let bad = RankingLoad { history: -5000.0, ..load };
        assert!(bad.check().unwrap_err().to_string().contains("history is -5000"));
    }
}
