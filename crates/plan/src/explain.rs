//! Every formula of a plan with the numbers in it, so that a reader can check them with a pocket calculator.

use crate::layout::Job;
use crate::memory::training_memory;
use crate::training::{RunPlan, RunRequest};
use crate::units::{DAY, GIB, HOUR, digits, duration, money, short};

/// One formula: what it gives, the formula, the numbers in it, the value, and where it is from.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Line {
    /// What it gives.
    pub what: &'static str,
    /// The formula in words and symbols.
    pub formula: &'static str,
    /// The same with numbers.
    pub numbers: String,
    /// The value with its unit.
    pub value: String,
    /// Where the formula is from.
    pub source: &'static str,
}

/// The formulas of a planned run.
#[must_use]
pub fn explain(request: &RunRequest<'_>, plan: &RunPlan) -> Vec<Line> {
    let mut lines = model_lines(&request.job);
    lines.extend(memory_lines(request, plan));
    lines.extend(step_lines(request, plan));
    lines.extend(run_lines(request, plan));
    lines
}

fn line(
    what: &'static str,
    formula: &'static str,
    numbers: String,
    value: String,
    source: &'static str,
) -> Line {
    Line { what, formula, numbers, value, source }
}

fn model_lines(job: &Job<'_>) -> Vec<Line> {
    let model = job.model;
    let half = job.sequence as f64 / 2.0;
    let attention = 4.0 * (model.heads * model.head_size) as f64 * model.attended_positions(half);
    vec![
        line(
            "parameters",
            "layers x (attention + feed-forward) + embeddings",
            format!(
                "{} + {} + {}",
                short(model.dense_parameters_of_layers()),
                short(model.routed_parameters()),
                short(model.embedding_parameters())
            ),
            short(model.parameters()),
            "the model's shape",
        ),
        line(
            "FLOPs of a token, training",
            "3 x (2 P + 4 a d Σ s/2)",
            format!("3 x (2 x {} + {})", short(model.matrix_parameters()), short(attention)),
            short(model.training_flops(half)),
            "arXiv 2104.04473, appendix; 2001.08361, section 2.1",
        ),
    ]
}

fn memory_lines(request: &RunRequest<'_>, plan: &RunPlan) -> Vec<Line> {
    let best = plan.best();
    let job = Job { batch_tokens: best.batch_tokens, ..request.job };
    let memory = training_memory(&job, &best.layout);
    let stack = job.stack;
    let (dense, routed) = crate::memory::local_parameters(&job, &best.layout);
    let gib = |bytes: f64| format!("{} GiB", digits(bytes / GIB));
    vec![
        line(
            "weights, gradients, optimizer",
            "local parameters x (weight + gradient + optimizer bytes), sharded parts over DP x CP",
            format!(
                "{} x ({} + {} + {}), {:?} over {}",
                short(dense + routed),
                stack.weight_bytes,
                stack.gradient_bytes,
                stack.optimizer_bytes,
                best.layout.sharding,
                best.layout.data * best.layout.context
            ),
            gib(memory.state()),
            "arXiv 1910.02054, section 3",
        ),
        line(
            "activations",
            "tokens x bytes a token and layer x layers of a stage x microbatches in flight",
            format!("{}, {} stages", best.layout.recompute, best.layout.pipeline),
            gib(memory.activations),
            "arXiv 2205.05198, equations 1 to 4",
        ),
        line(
            "memory of a GPU",
            "state + activations + working set + logits + buffers",
            memory.parts().map(|part| digits(part.1 / GIB)).join(" + "),
            gib(memory.total()),
            "sum",
        ),
    ]
}

fn step_lines(request: &RunRequest<'_>, plan: &RunPlan) -> Vec<Line> {
    let best = plan.best();
    let job = Job { batch_tokens: best.batch_tokens, ..request.job };
    let (p, v) = (best.layout.pipeline, best.layout.interleave);
    let microbatches = best.layout.microbatches(&job);
    let parts = best.step.parts();
    let said = parts.iter().filter(|part| part.1 > 0.0005 * best.step.total());
    vec![
        line(
            "pipeline bubble",
            "(stages - 1) / (interleave x microbatches), and waiting for the last stage's logits",
            format!("({p} - 1) / ({v} x {microbatches:.0})"),
            format!("{} of {}", duration(best.step.bubble), duration(best.step.total())),
            "arXiv 2104.04473, section 2.2",
        ),
        line(
            "step",
            "the sum of its parts",
            said.map(|part| format!("{} {}", part.0, digits(part.1))).collect::<Vec<_>>().join(" + "),
            duration(best.step.total()),
            "docs/planning.md",
        ),
        line(
            "model FLOPs utilisation (MFU)",
            "tokens/s x FLOPs of a token / (GPUs x peak)",
            format!(
                "{} x {} / ({} x {})",
                short(best.tokens_per_second),
                short(job.model.training_flops(job.sequence as f64 / 2.0)),
                request.gpus,
                short(job.accelerator.peak(job.precision))
            ),
            format!("{:.1} %", 100.0 * best.mfu),
            "arXiv 2204.02311, appendix B, causal half of attention",
        ),
    ]
}

fn run_lines(request: &RunRequest<'_>, plan: &RunPlan) -> Vec<Line> {
    let best = plan.best();
    let reliability = &plan.reliability;
    let economics = &request.economics;
    let accelerator = request.job.accelerator;
    let rate = request.reliability.rates().iter().map(|it| it.per_gpu_hour).sum::<f64>();
    let cost = request.reliability.checkpoint_seconds;
    vec![
        line(
            "days without failures",
            "tokens / tokens a second",
            format!("{} / {}", short(request.tokens), short(best.tokens_per_second)),
            format!("{} days", digits(plan.ideal_days)),
            "",
        ),
        line(
            "mean time to interruption M",
            "1 / (interruptions a GPU-hour x GPUs)",
            format!("1 / ({rate:.3e} x {})", request.gpus),
            duration(reliability.mean_time),
            "arXiv 2407.21783, Table 5",
        ),
        line(
            "checkpoint interval t",
            "root of (1 - t/M) e^((t + C)/M) = 1",
            format!("M {}, C {cost} s", duration(reliability.mean_time)),
            format!(
                "{} (Young {}, Daly {})",
                duration(reliability.interval),
                duration(reliability.young),
                duration(reliability.daly)
            ),
            "Young 1974; Daly 2006",
        ),
        line(
            "goodput",
            "t e^(-R/M) / (M (e^((t + C)/M) - 1))",
            format!("t {}, R {} s", duration(reliability.interval), request.reliability.restart_seconds),
            format!(
                "{:.1} % ({:.1} to {:.1} % in 90 of 100 simulated runs)",
                100.0 * reliability.efficiency,
                100.0 * reliability.goodput.low,
                100.0 * reliability.goodput.high
            ),
            "Daly 2006",
        ),
        line(
            "GPU-hours",
            "GPUs x days x 24",
            format!("{} x {} x 24", request.gpus, digits(plan.days.1)),
            short(plan.gpu_hours),
            "",
        ),
        line(
            "power of the site",
            "GPUs x server share x (1 + network) x PUE",
            format!(
                "{} x {} W x {} x {}",
                request.gpus,
                digits(accelerator.share_of_server_power()),
                1.0 + economics.network_power,
                economics.pue
            ),
            format!("{} MW", digits(plan.site_power / 1e6)),
            "datasheet",
        ),
        line(
            "energy",
            "power x hours x draw",
            format!(
                "{} MW x {} h x {}",
                digits(plan.site_power / 1e6),
                digits(plan.days.1 * DAY / HOUR),
                economics.draw
            ),
            format!("{} MWh", digits(plan.bill.energy / 1e3)),
            "",
        ),
        line(
            "emissions",
            "energy x carbon intensity",
            format!("{} MWh x {} kg/kWh", digits(plan.bill.energy / 1e3), economics.carbon),
            format!("{} t CO2e", digits(plan.bill.carbon)),
            "",
        ),
        line(
            "money",
            if economics.own { "written off + upkeep + power" } else { "GPU-hours x rent" },
            match economics.own {
                true => format!(
                    "{} + {} + {}",
                    money(plan.bill.machines),
                    money(plan.bill.upkeep),
                    money(plan.bill.power)
                ),
                false => format!("{} x ${}", short(plan.gpu_hours), digits(economics.rent_of(accelerator))),
            },
            money(plan.bill.total()),
            "",
        ),
    ]
}
