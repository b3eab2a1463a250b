//! Failures: how often a job is interrupted, how often it should save itself, and what is left of its time.

use crate::error::{PlanError, between, positive};
use crate::published::built_in;
use crate::random::{Random, quantile};
use crate::units::{DAY, HOUR};
use serde::{Deserialize, Serialize};

/// GPU-hours behind Llama 3's table of interruptions: 16,384 GPUs for 54 days (arXiv 2407.21783, section 3.3.4).
pub const OBSERVED_GPU_HOURS: f64 = 16_384.0 * 54.0 * 24.0;

/// Categories of causes that a spare node helps against.
const HARDWARE: [&str; 3] = ["GPU", "Host", "Network"];

/// How often one cause interrupts.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct FailureRate {
    /// What fails.
    pub component: String,
    /// Its kind.
    pub category: String,
    /// Interruptions a GPU-hour.
    pub per_gpu_hour: f64,
}

/// Rates of Llama 3 405B's run by component, interruptions a GPU-hour (arXiv 2407.21783, Table 5).
#[must_use]
pub fn published_rates() -> Vec<FailureRate> {
    let rows = built_in("reliability_truth.csv");
    let rate = |row: &crate::published::Row| FailureRate {
        component: row.text("component").to_owned(),
        category: row.text("category").to_owned(),
        per_gpu_hour: row.number_or("count", 0.0) / OBSERVED_GPU_HOURS,
    };
    rows.iter().map(rate).collect()
}

/// Mean time to interruption of a job, s: causes of all GPUs are independent, so rates add.
#[must_use]
pub fn mean_time_to_interruption(rates: &[FailureRate], gpus: f64) -> f64 {
    let rate: f64 = rates.iter().map(|it| it.per_gpu_hour).sum();
    HOUR / (rate * gpus)
}

/// What saving and restarting cost.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Checkpointing {
    /// Seconds that training stands still to save.
    pub cost: f64,
    /// Seconds from an interruption until training goes on from the last checkpoint.
    pub restart: f64,
    /// Mean time to interruption, s.
    pub mean_time: f64,
}

impl Checkpointing {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        between("checkpoint seconds", self.cost, 1e-3, 1e7)?;
        between("restart seconds", self.restart, 1e-3, 1e7)?;
        positive("mean time to interruption", self.mean_time)?;
        Ok(())
    }

    /// The part of time that makes progress when a checkpoint follows every `interval` seconds of work: failures come
    /// exponentially, also while saving and restarting; `t e^(-R/M) / (M (e^((t+C)/M) - 1))`.
    #[must_use]
    pub fn efficiency(&self, interval: f64) -> f64 {
        let m = self.mean_time;
        interval * (-self.restart / m).exp() / (m * ((interval + self.cost) / m).exp_m1())
    }

    /// The interval that makes the most progress, s: the root of `(1 - t/M) e^((t+C)/M) = 1` between 0 and M.
    #[must_use]
    pub fn best_interval(&self) -> f64 {
        let m = self.mean_time;
        let slope = |t: f64| (1.0 - t / m) * ((t + self.cost) / m).exp() - 1.0;
        let (mut low, mut high) = (0.0, m);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if slope(middle) > 0.0 { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    /// Young's interval, s: `sqrt(2 C M)` (Comm. ACM 17, 1974).
    #[must_use]
    pub fn young(&self) -> f64 {
        (2.0 * self.cost * self.mean_time).sqrt()
    }

    /// Daly's interval, s: Young's with the next two terms (Future Generation Computer Systems 22, 2006).
    #[must_use]
    pub fn daly(&self) -> f64 {
        let ratio = self.cost / (2.0 * self.mean_time);
        if ratio >= 1.0 {
            return self.mean_time;
        }
        self.young() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - self.cost
    }
}

/// What is left of a run's time, over many simulated runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goodput {
    /// Part of the time that makes progress: one run in twenty has less, half have less, one in twenty has more.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The high end.
    pub high: f64,
    /// Median number of interruptions.
    pub interruptions: f64,
}

/// Simulates `runs` runs that need `work` seconds of progress, saving after every `interval` seconds of it but after the
/// last.
#[must_use]
pub fn simulate(checkpointing: &Checkpointing, work: f64, interval: f64, runs: usize, seed: u64) -> Goodput {
    let mut random = Random::new(seed);
    let (mut parts, mut counts) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    for _ in 0..runs {
        let run = one_run(checkpointing, work, interval, &mut random);
        parts.push(run.goodput());
        counts.push(run.interruptions);
    }
    Goodput {
        low: quantile(&mut parts, 0.05),
        median: quantile(&mut parts, 0.5),
        high: quantile(&mut parts, 0.95),
        interruptions: quantile(&mut counts, 0.5),
    }
}

/// Interruptions after which a simulated run is cut off, so that absurd inputs end too: its goodput is known well enough by
/// then, since each interruption is a sample of it.
const CUT_OFF: f64 = 1e5;

/// What became of one simulated run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimulatedRun {
    /// Seconds of progress that it made: all of the work, or less where it was cut off.
    progress: f64,
    /// Seconds that this took.
    time: f64,
    /// Times that it was interrupted.
    interruptions: f64,
}

impl SimulatedRun {
    /// The part of its time that made progress.
    pub(crate) fn goodput(&self) -> f64 {
        self.progress / self.time
    }
}

/// One run: whole intervals with a checkpoint after each, then what is left of the work, after which nothing is saved but
/// the result.
pub(crate) fn one_run(
    checkpointing: &Checkpointing,
    work: f64,
    interval: f64,
    random: &mut Random,
) -> SimulatedRun {
    let segment = interval + checkpointing.cost;
    let saved = ((work / interval).ceil() - 1.0).max(0.0);
    let last = work - saved * interval;
    let mut run = SimulatedRun { progress: 0.0, time: 0.0, interruptions: 0.0 };
    let mut done = 0.0;
    while run.interruptions < CUT_OFF {
        let left = (saved - done) * segment + last;
        let until = random.exponential(checkpointing.mean_time);
        if until >= left {
            return SimulatedRun { progress: work, time: run.time + left, ..run };
        }
        done += (until / segment).floor().min(saved - done);
        run.time += until;
        run.interruptions += 1.0;
        restart(checkpointing, &mut run, random);
    }
    SimulatedRun { progress: done * interval, ..run }
}

/// A restart, which can be interrupted, too.
fn restart(checkpointing: &Checkpointing, run: &mut SimulatedRun, random: &mut Random) {
    loop {
        let next = random.exponential(checkpointing.mean_time);
        if next >= checkpointing.restart || run.interruptions >= CUT_OFF {
            run.time += checkpointing.restart;
            return;
        }
        run.time += next;
        run.interruptions += 1.0;
    }
}

/// Spare nodes that are enough with a given certainty: of nodes that fail and are away for `repair_days`, more are away at
/// a time with a probability below `1 - certainty` (Poisson).
#[must_use]
pub fn spares(rates: &[FailureRate], gpus: f64, repair_days: f64, certainty: f64) -> u64 {
    let hardware: f64 =
        rates.iter().filter(|it| HARDWARE.contains(&it.category.as_str())).map(|it| it.per_gpu_hour).sum();
    let mean = hardware * gpus * repair_days * DAY / HOUR;
    if mean > 700.0 {
        // Beyond, the normal approximation is exact enough, and e^-mean would be zero.
        return (mean + 2.33 * mean.sqrt()).ceil() as u64;
    }
    let (mut term, mut count) = ((-mean).exp(), 0_u64);
    let mut sum = term;
    while sum < certainty && count < 10_000 {
        count += 1;
        term *= mean / count as f64;
        sum += term;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_best_there_is() {
        // Cost, interval and efficiency on 16,384 and on 100,000 GPUs, from the exact optimum.
        let expected = [
            (
                16_384.0,
                [(10.0, 465.0, 0.933), (30.0, 798.0, 0.904), (60.0, 1116.0, 0.876), (300.0, 2389.0, 0.765)],
            ),
            (
                100_000.0,
                [(10.0, 184.0, 0.763), (30.0, 311.0, 0.704), (60.0, 429.0, 0.649), (300.0, 857.0, 0.450)],
            ),
        ];
        let rates = published_rates();
        for (gpus, rows) in expected {
            for (cost, interval, efficiency) in rows {
                let mean_time = mean_time_to_interruption(&rates, gpus);
                let it = Checkpointing { cost, restart: 300.0, mean_time };
                let found = it.best_interval();
                assert!((found / interval - 1.0).abs() < 0.01, "{gpus} {cost}: {found}");
                assert!((it.efficiency(found) / efficiency - 1.0).abs() < 0.01, "{}", it.efficiency(found));
            }
        }
    }

    #[test]
    fn simulation_and_formula_agree() {
        let it = Checkpointing { cost: 60.0, restart: 300.0, mean_time: 11_135.0 };
        let interval = it.best_interval();
        let goodput = simulate(&it, 54.0 * DAY, interval, 400, 7);
        assert!((goodput.median / it.efficiency(interval) - 1.0).abs() < 0.01, "{goodput:?}");
        assert!(goodput.low < goodput.median && goodput.median < goodput.high);
    }

    #[test]
    fn short_runs_pay_for_their_own_length_only() {
        let it = Checkpointing { cost: 30.0, restart: 300.0, mean_time: 2.28e7 };
        let interval = it.best_interval();
        // A tenth of an interval, and a tenth more than one: nothing but one checkpoint is lost.
        for (work, lost) in [(0.1 * interval, 0.0), (1.1 * interval, it.cost)] {
            let goodput = simulate(&it, work, interval, 100, 3);
            assert!((goodput.median - work / (work + lost)).abs() < 1e-9, "{goodput:?}");
        }
    }

    #[test]
    fn a_run_that_cannot_progress_says_so() {
        let it = Checkpointing { cost: 300.0, restart: 3000.0, mean_time: 60.0 };
        let goodput = simulate(&it, 54.0 * DAY, it.best_interval(), 2, 3);
        assert!(goodput.median < 0.01, "{goodput:?}");
    }

    #[test]
    fn four_hundred_and_nineteen_interruptions() {
        let rates = published_rates();
        let interruptions = 54.0 * DAY / mean_time_to_interruption(&rates, 16_384.0);
        assert!((interruptions - 419.0).abs() < 0.5, "{interruptions}");
        assert!(spares(&rates, 16_384.0, 1.0, 0.99) > spares(&rates, 1024.0, 1.0, 0.99));
    }
}
