//! Ranking: how many candidates a second a ranking model scores on an accelerator, and machines for a number of users.

use crate::calibration::Calibration;
use crate::error::{PlanError, fraction, positive};
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
            peak: 1.6,
            utilisation: 0.6,
        }
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
    let numbers = [
        ("users", load.users),
        ("requests_a_user", load.requests_a_user),
        ("candidates", load.candidates),
        ("parameters", load.parameters),
        ("utilisation", load.utilisation),
    ];
    for (field, value) in numbers {
        positive(field, value)?;
    }
    fraction("history_cached", load.history_cached)?;
    fraction("utilisation", load.utilisation)?;
    crate::hardware::bytes_of(precision)?;
    if !(load.peak.is_finite() && load.peak >= 1.0) {
        return Err(PlanError::value(
            "peak",
            load.peak,
            "the busiest hour is above the mean",
            "write 1 or more",
        ));
    }
    let tokens = load.history * (1.0 - load.history_cached) + load.candidates;
    let flops = 2.0 * load.parameters * tokens;
    let rate = accelerator.peak(precision) * calibration.matmul(&accelerator.family, precision);
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
        memory_bound: gathering > computing,
    })
}
