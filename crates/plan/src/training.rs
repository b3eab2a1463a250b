//! A whole training run: from tokens and GPUs to days, energy, emissions and money.

use crate::calibration::{Calibration, step_error};
use crate::economics::{Bill, Economics};
use crate::error::{PlanError, between};
use crate::layout::Job;
use crate::random::{Random, quantile};
use crate::reliability::{
    Checkpointing, FailureRate, Goodput, mean_time_to_interruption, one_run, published_rates, simulate,
    spares,
};
use crate::search::{Candidate, Constraints, Found, search};
use crate::units::{DAY, HOUR};
use serde::{Deserialize, Serialize};

/// How failures are handled.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reliability {
    /// Seconds that training stands still to save.
    pub checkpoint_seconds: f64,
    /// Seconds from an interruption until training goes on.
    pub restart_seconds: f64,
    /// Rates by component; Llama 3's where empty.
    pub rates: Vec<FailureRate>,
    /// Days until a failed node is back.
    pub repair_days: f64,
    /// Runs of the Monte Carlo simulation.
    pub runs: usize,
}

impl Default for Reliability {
    fn default() -> Reliability {
        Reliability {
            checkpoint_seconds: 30.0,
            restart_seconds: 300.0,
            rates: Vec::new(),
            repair_days: 2.0,
            runs: 400,
        }
    }
}

impl Reliability {
    /// The rates to plan with.
    #[must_use]
    pub fn rates(&self) -> Vec<FailureRate> {
        if self.rates.is_empty() { published_rates() } else { self.rates.clone() }
    }

    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        between("checkpoint_seconds", self.checkpoint_seconds, 1e-3, 1e7)?;
        between("restart_seconds", self.restart_seconds, 1e-3, 1e7)?;
        between("repair_days", self.repair_days, 0.0, 1000.0)?;
        between("runs", self.runs as f64, 1.0, 100_000.0)?;
        for rate in &self.rates {
            between(&format!("per_gpu_hour of {}", rate.component), rate.per_gpu_hour, 0.0, 1.0)?;
        }
        Ok(())
    }

    /// The plan of checkpoints for a job of `gpus` that needs `work` seconds of progress.
    ///
    /// # Errors
    /// When a number is impossible.
    pub fn plan(&self, gpus: f64, work: f64) -> Result<ReliabilityPlan, PlanError> {
        let rates = self.rates();
        self.check()?;
        let mean_time = mean_time_to_interruption(&rates, gpus).min(1e12);
        let checkpointing =
            Checkpointing { cost: self.checkpoint_seconds, restart: self.restart_seconds, mean_time };
        checkpointing.check()?;
        let interval = checkpointing.best_interval();
        let runs = self.runs;
        Ok(ReliabilityPlan {
            mean_time,
            interval,
            young: checkpointing.young(),
            daly: checkpointing.daly(),
            efficiency: checkpointing.efficiency(interval),
            goodput: simulate(&checkpointing, work, interval, runs, 1),
            checkpointing,
            spares: spares(&rates, gpus, self.repair_days, 0.99),
        })
    }
}

/// What failures do to a run.
#[derive(Clone, Debug, Serialize)]
pub struct ReliabilityPlan {
    /// Mean time to interruption, s.
    pub mean_time: f64,
    /// The best interval between checkpoints, s.
    pub interval: f64,
    /// Young's, s.
    pub young: f64,
    /// Daly's, s.
    pub daly: f64,
    /// The part of time that makes progress, by formula.
    pub efficiency: f64,
    /// The same over simulated runs.
    pub goodput: Goodput,
    /// Spare nodes that are enough 99 % of the time.
    pub spares: u64,
    /// What saving and restarting cost, and how often a restart is needed.
    #[serde(skip)]
    pub checkpointing: Checkpointing,
}

/// What a run is asked for.
#[derive(Clone, Debug)]
pub struct RunRequest<'a> {
    /// Model, accelerator, batch.
    pub job: Job<'a>,
    /// GPUs.
    pub gpus: u64,
    /// Tokens trained on, all epochs.
    pub tokens: f64,
    /// Different tokens there are; as many as are trained on where absent.
    pub unique_tokens: Option<f64>,
    /// What the layout search may choose.
    pub constraints: Constraints,
    /// Failures.
    pub reliability: Reliability,
    /// Prices and site.
    pub economics: Economics,
}

/// A whole run, planned.
#[derive(Clone, Debug, Serialize)]
pub struct RunPlan {
    /// The layouts found, best first.
    pub layouts: Found,
    /// Steps of the run.
    pub steps: f64,
    /// FLOPs of the run: forward and backward of every token.
    pub flops: f64,
    /// GPUs that the layout uses; the others are spares.
    pub gpus_used: u64,
    /// Days if nothing failed.
    pub ideal_days: f64,
    /// Failures.
    pub reliability: ReliabilityPlan,
    /// Days with failures by chance alone: 5th, 50th and 95th percentile.
    pub days: (f64, f64, f64),
    /// Days with what is not known about the step's time and the rates of failure, too: the same percentiles.
    pub days_uncertain: (f64, f64, f64),
    /// GPU-hours at the median.
    pub gpu_hours: f64,
    /// Power of the site at full load, W.
    pub site_power: f64,
    /// Cost of the machines if bought, with network and building, $; nothing where no price is known.
    pub capital: Option<f64>,
    /// Money, energy and emissions.
    pub bill: Bill,
    /// Money at the ends of [`RunPlan::days_uncertain`], $.
    pub cost_range: (f64, f64),
    /// What the tokens are worth, different ones counted (epochs).
    pub effective_tokens: f64,
    /// Chinchilla's loss for them, nats a token.
    pub loss: f64,
}

impl RunPlan {
    /// The layout that the plan is made with.
    #[must_use]
    pub fn best(&self) -> &Candidate {
        &self.layouts.best[0]
    }
}

/// Plans a run.
///
/// # Errors
/// When an input is impossible or nothing fits: what, and the nearest that works.
pub fn plan_run(request: &RunRequest<'_>, calibration: &Calibration) -> Result<RunPlan, PlanError> {
    check_request(request)?;
    let layouts = search(&request.job, request.gpus, &request.constraints, calibration, 8)?;
    let best = &layouts.best[0];
    let work = request.tokens / best.tokens_per_second;
    let gpus = request.gpus as f64;
    let gpus_used = best.layout.gpus();
    let reliability = request.reliability.plan(gpus_used as f64, work)?;
    let goodput = reliability.goodput;
    check_goodput(goodput.median, gpus_used)?;
    let days = |part: f64| work / part / DAY;
    let days_uncertain = uncertain_days(&reliability, work, request.reliability.runs);
    // All machines are paid for, spares included.
    let gpu_hours = gpus * work / goodput.median / HOUR;
    let economics = &request.economics;
    let bill = economics.bill(request.job.accelerator, gpu_hours);
    let unique = request.unique_tokens.unwrap_or(request.tokens);
    let effective_tokens = crate::scaling::worth(request.tokens, unique);
    let of_median = |days: f64| bill.total() * days * DAY * goodput.median / work;
    Ok(RunPlan {
        steps: (request.tokens / best.batch_tokens).ceil(),
        flops: request.tokens * request.job.model.training_flops(request.job.sequence as f64),
        gpus_used,
        ideal_days: work / DAY,
        days: (days(goodput.high), days(goodput.median), days(goodput.low)),
        cost_range: (of_median(days_uncertain.0), of_median(days_uncertain.2)),
        days_uncertain,
        gpu_hours,
        site_power: economics.site_power(request.job.accelerator, gpus),
        capital: economics.capital(request.job.accelerator, gpus),
        bill,
        effective_tokens,
        loss: crate::scaling::loss(request.job.model.active_parameters(), effective_tokens),
        reliability,
        layouts,
    })
}

/// The most tokens, FLOPs and the like that a plan takes: far beyond what there is, and still finite when multiplied.
pub const MOST: f64 = 1e20;

fn check_request(request: &RunRequest<'_>) -> Result<(), PlanError> {
    between("tokens", request.tokens, 1.0, MOST)?;
    between("unique tokens", request.unique_tokens.unwrap_or(request.tokens), 1.0, MOST)?;
    between("batch tokens", request.job.batch_tokens, 1.0, 1e12)?;
    between("GPUs", request.gpus as f64, 1.0, 1e8)?;
    between("cluster.oversubscription", request.job.oversubscription, 1.0, 1000.0)?;
    request.economics.check()?;
    request.economics.check_prices(request.job.accelerator)?;
    request.reliability.check()?;
    check_sequence(&request.job)
}

/// The least part of the time that may make progress: below, a run would mostly restart, and its end be a guess.
pub const LEAST_GOODPUT: f64 = 0.05;

fn check_goodput(goodput: f64, gpus: u64) -> Result<(), PlanError> {
    if goodput >= LEAST_GOODPUT {
        return Ok(());
    }
    let problem = format!("failures of {gpus} GPUs leave that part of the time");
    let remedy = "use fewer GPUs, or save and restart faster (checkpoint_seconds, restart_seconds)";
    Err(PlanError::value("goodput", format!("{:.2} %", 100.0 * goodput), problem, remedy))
}

/// How far rates of failure may be off, as a factor either way: Meta's research clusters have a mean time to interruption
/// of 1.8 hours on 16,384 GPUs as their rates project (arXiv 2410.21680), Llama 3's run had 3.1.
const RATE_SPREAD: f64 = 1.7;

/// Days over simulated runs of which each draws the error of the step's time, a factor on the rates of failure, and the
/// failures: 5th, 50th and 95th percentile.
fn uncertain_days(reliability: &ReliabilityPlan, work: f64, runs: usize) -> (f64, f64, f64) {
    let mut random = Random::new(4);
    let mut days: Vec<f64> = Vec::with_capacity(runs.max(200));
    for _ in 0..runs.max(200) {
        let work = work * step_error(random.uniform());
        let rate = random.triangular(-RATE_SPREAD.ln(), 0.0, RATE_SPREAD.ln()).exp();
        let drawn = Checkpointing {
            mean_time: reliability.checkpointing.mean_time / rate,
            ..reliability.checkpointing
        };
        let goodput = one_run(&drawn, work, reliability.interval, &mut random).goodput();
        days.push(work / goodput.max(1e-6) / DAY);
    }
    (quantile(&mut days, 0.05), quantile(&mut days, 0.5), quantile(&mut days, 0.95))
}

/// What training multiplies in, of [`crate::hardware::PRECISIONS`]: for the others no run is published to measure with, and
/// what they keep in memory differs.
pub const TRAINING_PRECISIONS: [&str; 2] = ["bf16", "fp8"];

fn check_sequence(job: &Job<'_>) -> Result<(), PlanError> {
    if job.sequence == 0 || job.sequence > 1 << 30 {
        return Err(PlanError::value("sequence", job.sequence, "it is no length", "write 8192"));
    }
    crate::hardware::bytes_of(job.precision)?;
    if !TRAINING_PRECISIONS.contains(&job.precision) {
        let problem = "training is planned in mixed precision";
        return Err(PlanError::value("precision", job.precision, problem, "use bf16 or fp8"));
    }
    if job.batch_tokens < job.sequence as f64 {
        let problem = format!("a batch holds at least one sequence of {} tokens", job.sequence);
        return Err(PlanError::value(
            "batch tokens",
            job.batch_tokens,
            problem,
            format!("use {}", job.sequence),
        ));
    }
    Ok(())
}

/// Cost and days over numbers of GPUs: halves and doubles of `request.gpus` that fit, with those that no other beats in
/// both marked (the Pareto front).
#[must_use]
pub fn pareto(request: &RunRequest<'_>, calibration: &Calibration) -> Vec<ParetoPoint> {
    let sizes = (-4..=4).map(|power: i32| request.gpus as f64 * 2_f64.powi(power));
    let sizes = sizes.filter(|size| *size >= 1.0 && size.fract() == 0.0);
    let mut found: Vec<ParetoPoint> = Vec::new();
    for gpus in sizes {
        let mut request = request.clone();
        request.gpus = gpus as u64;
        request.constraints = Constraints { batch_rounding: 0.25, ..Constraints::default() };
        request.reliability.runs = 50;
        if let Ok(plan) = plan_run(&request, calibration) {
            let (days, cost) = (plan.days.1, plan.bill.total());
            found.push(ParetoPoint { gpus: request.gpus, days, cost, mfu: plan.best().mfu, best: false });
        }
    }
    let all = found.clone();
    for point in &mut found {
        point.best = !all.iter().any(|it| {
            it.days <= point.days && it.cost <= point.cost && (it.days < point.days || it.cost < point.cost)
        });
    }
    found
}

/// A run of some size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ParetoPoint {
    /// GPUs.
    pub gpus: u64,
    /// Days at the median.
    pub days: f64,
    /// Money, $.
    pub cost: f64,
    /// Model FLOPs utilisation.
    pub mfu: f64,
    /// Whether no other size is both faster and cheaper.
    pub best: bool,
}
