//! The formulas of a training run.

use super::{Line, line, n};
use crate::calibration::Calibration;
use crate::economics::Economics;
use crate::hardware::Accelerator;
use crate::layout::{Job, Layout, Sharding};
use crate::memory::{activations, local_parameters, training_memory};
use crate::step::{StepDetail, step_detail};
use crate::training::{RunPlan, RunRequest};
use crate::units::{DAY, GIB, HOURS_OF_YEAR};

/// The formulas of a planned run.
#[must_use]
pub fn explain_run(request: &RunRequest<'_>, plan: &RunPlan, calibration: &Calibration) -> Vec<Line> {
    let best = plan.best();
    let job = Job { batch_tokens: best.batch_tokens, ..request.job };
    let mut lines = model_lines(&job);
    lines.extend(memory_lines(&job, &best.layout));
    lines.extend(step_lines(&step_detail(&job, &best.layout, calibration)));
    lines.extend(speed_lines(&job, request, plan));
    lines.extend(failure_lines(request, plan));
    lines.extend(run_lines(request, plan));
    lines.extend(bill_lines(&request.economics, job.accelerator, plan.gpu_hours, plan.bill.total()));
    lines
}

fn model_lines(job: &Job<'_>) -> Vec<Line> {
    let model = job.model;
    let sequence = job.sequence as f64;
    let width = (model.heads * model.head_size) as f64;
    vec![
        line(
            "parameters",
            "layers' attention, dense feed-forward and norms + experts + embeddings + last norm",
            format!(
                "{} + {} + {} + {}",
                n(model.dense_parameters_of_layers()),
                n(model.routed_parameters()),
                n(model.embedding_parameters()),
                model.hidden
            ),
            (model.parameters(), ""),
            "the model's shape",
        ),
        line(
            "FLOPs of a token, training",
            "3 x (2 P + 4 a d Σ s/2): P parameters in products, a heads of d, s/2 earlier positions in each layer",
            format!(
                "3 x (2 x {} + 4 x {} x {})",
                n(model.matrix_parameters()),
                n(width),
                n(model.causal_positions(sequence))
            ),
            (model.training_flops(sequence), ""),
            "arXiv 2104.04473, appendix; 2001.08361, section 2.1",
        ),
    ]
}

fn memory_lines(job: &Job<'_>, layout: &Layout) -> Vec<Line> {
    let memory = training_memory(job, layout);
    let (dense, routed) = local_parameters(job, layout);
    let ranks = f64::from(layout.data) * f64::from(layout.context);
    let expert_ranks = layout.expert_copies();
    let state = |what: &str, bytes: f64, from: Sharding, found: f64| {
        let (over, experts_over) = if layout.sharding >= from { (ranks, expert_ranks) } else { (1.0, 1.0) };
        line(
            what,
            "(parameters / ranks they are sharded over + experts' / theirs) x bytes of each / GiB",
            format!(
                "({} / {} + {} / {}) x {bytes} / {}",
                n(dense),
                n(over),
                n(routed),
                n(experts_over),
                n(GIB)
            ),
            (found / GIB, "GiB"),
            "arXiv 1910.02054, section 3",
        )
    };
    let stack = job.stack;
    let (kept, _) = activations(job, layout);
    vec![
        state("weights", stack.weight_bytes, Sharding::Weights, memory.weights),
        state("gradients", stack.gradient_bytes, Sharding::Gradients, memory.gradients),
        state("optimizer", stack.optimizer_bytes, Sharding::Optimizer, memory.optimizer),
        line(
            "activations",
            "tokens of a microbatch x bytes a token and layer x layers of a stage x microbatches in flight / GiB",
            format!(
                "{} x {} x {} x {} / {}",
                n(kept.tokens),
                n(kept.bytes),
                n(kept.layers),
                n(kept.in_flight),
                n(GIB)
            ),
            (kept.total() / GIB, "GiB"),
            "arXiv 2205.05198, equations 1 to 4",
        ),
        line(
            "memory of a GPU",
            "weights + gradients + optimizer + activations + working set + logits + buffers",
            memory.parts().map(|part| n(part.1 / GIB)).join(" + "),
            (memory.total() / GIB, "GiB"),
            "sum",
        ),
    ]
}

/// One line for every part of a step, from the seconds of a layer for a microbatch.
fn step_lines(detail: &StepDetail) -> Vec<Line> {
    let time = detail.time();
    let before = time.total() - time.other + detail.constant;
    let numbers = part_numbers(detail, before);
    let parts = time.parts().into_iter().zip(numbers);
    let mut lines: Vec<Line> = parts
        .filter(|(part, _)| part.1 > 0.0)
        .map(|((name, seconds), (formula, numbers))| {
            line(&format!("step: {name}"), formula, numbers, (seconds, "s"), "docs/planning.md")
        })
        .collect();
    let sum: Vec<String> = time.parts().iter().filter(|part| part.1 > 0.0).map(|part| n(part.1)).collect();
    lines.push(line(
        "step",
        "the sum of its parts",
        sum.join(" + "),
        (time.total(), "s"),
        "docs/planning.md",
    ));
    lines
}

/// The formula and the numbers of every part of a step, in the order of [`StepTime::parts`](crate::step::StepTime::parts);
/// `before` is what stragglers make longer, s.
fn part_numbers(detail: &StepDetail, before: f64) -> [(&'static str, String); 13] {
    let layer = &detail.layer;
    let each = format!("{} x {}", n(detail.microbatches), n(detail.layers));
    let own = detail.stages <= 1.0;
    let head = |seconds: f64| match own {
        true => format!(" + {} x {}", n(detail.microbatches), n(seconds)),
        false => String::new(),
    };
    let pass = |forward: f64, backward: f64| format!("{each} x ({} + {})", n(forward), n(backward));
    let once = |seconds: f64| format!("{each} x {}", n(seconds));
    const KERNELS: &str =
        "microbatches x layers of a stage x (forward + backward) s, and the output's on one stage";
    const EXPOSED: &str = "microbatches x layers of a stage x seconds that are not hidden";
    let nodes = n(detail.nodes.log2());
    let (forward, backward) = (&layer.forward, &layer.backward);
    let bubble = format!(
        "({} - 1) x ({} x {} + {}) / {}{}",
        n(detail.stages),
        n(detail.layers),
        n(layer.total()),
        n(detail.sends),
        n(detail.interleave),
        if own {
            String::new()
        } else {
            format!(" + {} x {}", n(detail.microbatches), n(detail.head.products + detail.head.elementwise))
        }
    );
    [
        (KERNELS, pass(forward.products, backward.products) + &head(detail.head.products)),
        (KERNELS, pass(forward.attention, backward.attention)),
        (KERNELS, pass(forward.elementwise, backward.elementwise) + &head(detail.head.elementwise)),
        ("microbatches x layers of a stage x seconds computed again", once(layer.recompute)),
        ("microbatches x layers of a stage x seconds of waiting for the host", once(layer.host)),
        (EXPOSED, once(layer.tensor)),
        (EXPOSED, once(layer.context)),
        (EXPOSED, once(layer.expert)),
        ("microbatches x seconds of a send", format!("{} x {}", n(detail.microbatches), n(detail.sends))),
        (
            "(stages - 1) x (layers x seconds + sends) / interleave + microbatches x the last stage's output",
            bubble,
        ),
        ("traffic - what is hidden", format!("{} - {}", n(detail.traffic), n(detail.hidden))),
        (
            "30 bytes x parameters of a rank / (0.8 of the memory bandwidth)",
            format!("30 x {} / {}", n(detail.shard), n(detail.update_bandwidth)),
        ),
        (
            "constant + slowdown x doublings of nodes x all of the above",
            format!("{} + {} x {nodes} x {}", n(detail.constant), n(detail.straggler), n(before)),
        ),
    ]
}

fn speed_lines(job: &Job<'_>, request: &RunRequest<'_>, plan: &RunPlan) -> Vec<Line> {
    let best = plan.best();
    vec![
        line(
            "tokens a second",
            "tokens of a batch / step",
            format!("{} / {}", n(best.batch_tokens), n(best.step.total())),
            (best.tokens_per_second, "token/s"),
            "",
        ),
        line(
            "model FLOPs utilisation (MFU)",
            "100 x tokens/s x FLOPs of a token / (GPUs used x peak)",
            format!(
                "100 x {} x {} / ({} x {})",
                n(best.tokens_per_second),
                n(job.model.training_flops(job.sequence as f64)),
                plan.gpus_used,
                n(job.accelerator.peak(job.precision))
            ),
            (100.0 * best.mfu, "%"),
            format!(
                "arXiv 2204.02311, appendix B, causal half of attention; peak: {}",
                job.accelerator.source_of("compute")
            ),
        ),
        line(
            "days without failures",
            "tokens / tokens a second / seconds of a day",
            format!("{} / {} / {DAY}", n(request.tokens), n(best.tokens_per_second)),
            (plan.ideal_days, "days"),
            "",
        ),
    ]
}

fn failure_lines(request: &RunRequest<'_>, plan: &RunPlan) -> Vec<Line> {
    let reliability = &plan.reliability;
    let rate = request.reliability.rates().iter().map(|it| it.per_gpu_hour).sum::<f64>();
    let (m, t) = (reliability.mean_time, reliability.interval);
    let cost = request.reliability.checkpoint_seconds;
    let restart = request.reliability.restart_seconds;
    vec![
        line(
            "mean time to interruption M",
            "3600 / (interruptions a GPU-hour x GPUs used)",
            format!("3600 / ({} x {})", n(rate), plan.gpus_used),
            (m, "s"),
            "arXiv 2407.21783, Table 5",
        ),
        line(
            "checkpoint interval t: what it makes 1",
            "(1 - t/M) e^((t + C)/M)",
            format!("(1 - {} / {}) x e^(({} + {cost}) / {})", n(t), n(m), n(t), n(m)),
            (1.0, ""),
            "the exact optimum",
        ),
        line(
            "Young's interval",
            "sqrt(2 C M)",
            format!("(2 x {cost} x {})^0.5", n(m)),
            (reliability.young, "s"),
            "Young 1974",
        ),
        line(
            "goodput of a long run",
            "100 t e^(-R/M) / (M (e^((t + C)/M) - 1))",
            format!(
                "100 x {} x e^(-{restart} / {}) / ({} x (e^(({} + {cost}) / {}) - 1))",
                n(t),
                n(m),
                n(m),
                n(t),
                n(m)
            ),
            (100.0 * reliability.efficiency, "%"),
            "Daly 2006",
        ),
    ]
}

fn run_lines(request: &RunRequest<'_>, plan: &RunPlan) -> Vec<Line> {
    let economics = &request.economics;
    let accelerator = request.job.accelerator;
    vec![
        line(
            "days",
            "days without failures / median goodput of simulated runs",
            format!("{} / {}", n(plan.ideal_days), n(plan.reliability.goodput.median)),
            (plan.days.1, "days"),
            "",
        ),
        line(
            "GPU-hours",
            "GPUs x days x 24",
            format!("{} x {} x 24", request.gpus, n(plan.days.1)),
            (plan.gpu_hours, ""),
            "",
        ),
        line(
            "power of the site",
            "GPUs x W of a server / GPUs of it x (1 + spares) x (1 + network) x PUE / 1e6",
            format!(
                "{} x {} / {} x (1 + {}) x (1 + {}) x {} / 1e6",
                request.gpus,
                n(accelerator.server_power),
                accelerator.per_node,
                n(economics.spares),
                n(economics.network_power),
                n(economics.pue)
            ),
            (plan.site_power / 1e6, "MW"),
            accelerator.source_of("power").to_owned(),
        ),
        line(
            "energy",
            "power x days x 24 x draw over design power",
            format!("{} x {} x 24 x {}", n(plan.site_power / 1e6), n(plan.days.1), n(economics.draw)),
            (plan.bill.energy / 1e3, "MWh"),
            "",
        ),
        line(
            "emissions",
            "energy x kg CO2e a kWh",
            format!("{} x {}", n(plan.bill.energy / 1e3), n(economics.carbon)),
            (plan.bill.carbon, "t CO2e"),
            "",
        ),
    ]
}

/// What accelerator-hours cost, from the prices.
pub(super) fn bill_lines(
    economics: &Economics,
    accelerator: &Accelerator,
    hours: f64,
    total: f64,
) -> Vec<Line> {
    if !economics.owns() {
        let rent = economics.rent_of(accelerator).unwrap_or(0.0);
        let numbers = format!("{} x {}", n(hours), n(rent));
        let source = match (economics.price_hour, accelerator.price_hour) {
            (Some(_), _) => "rent: [economics] of the settings".to_owned(),
            (None, Some(_)) => format!("rent: {}", accelerator.source_of("price to rent")),
            (None, None) => "rent: what owning costs and a quarter".to_owned(),
        };
        return vec![line("money", "GPU-hours x rent of one", numbers, (total, "$"), source)];
    }
    let bill = economics.bill(accelerator, hours);
    let years = hours / economics.used / HOURS_OF_YEAR;
    let price = economics.price_of(accelerator).unwrap_or(0.0);
    let machine = price * (1.0 + economics.network_share) * (1.0 + economics.spares);
    let watts =
        accelerator.share_of_server_power() * (1.0 + economics.network_power) * (1.0 + economics.spares);
    let building = watts * economics.facility_per_watt;
    let (life, facility) = (economics.depreciation_years, economics.facility_years);
    let annuity = |years: f64| match economics.interest > 0.0 {
        true => format!("({0} / (1 - (1 + {0})^(-{1})) - 1 / {1})", n(economics.interest), n(years)),
        false => "0".to_owned(),
    };
    let last = format!(
        "{} + {} + {} + {} + {}",
        n(bill.machines),
        n(bill.building),
        n(bill.interest),
        n(bill.upkeep),
        n(bill.power)
    );
    vec![
        line(
            "machine",
            "price x (1 + network) x (1 + spares)",
            format!("{} x (1 + {}) x (1 + {})", n(price), n(economics.network_share), n(economics.spares)),
            (machine, "$"),
            match economics.price_buy {
                Some(_) => "price: [economics] of the settings".to_owned(),
                None => format!("price: {}", accelerator.source_of("price to buy")),
            },
        ),
        line(
            "building of a machine",
            "W of its share of a server x (1 + network) x (1 + spares) x $ a W",
            format!(
                "{} x (1 + {}) x (1 + {}) x {}",
                n(accelerator.share_of_server_power()),
                n(economics.network_power),
                n(economics.spares),
                n(economics.facility_per_watt)
            ),
            (building, "$"),
            "",
        ),
        line(
            "machine-years",
            "GPU-hours / part of the time in use / hours of a year",
            format!("{} / {} / {HOURS_OF_YEAR}", n(hours), n(economics.used)),
            (years, ""),
            "",
        ),
        line(
            "written off",
            "machine-years x (machine / years + building / years)",
            format!("{} x ({} / {} + {} / {})", n(years), n(machine), n(life), n(building), n(facility)),
            (bill.machines + bill.building, "$"),
            "",
        ),
        line(
            "cost of capital",
            "machine-years x what an annuity takes beyond it: price x (r / (1 - (1 + r)^-n) - 1/n)",
            format!(
                "{} x ({} x {} + {} x {})",
                n(years),
                n(machine),
                annuity(life),
                n(building),
                annuity(facility)
            ),
            (bill.interest, "$"),
            "",
        ),
        line(
            "upkeep",
            "machine-years x machine x part a year",
            format!("{} x {} x {}", n(years), n(machine), n(economics.upkeep)),
            (bill.upkeep, "$"),
            "",
        ),
        line(
            "power",
            "kWh x $ a kWh",
            format!("{} x {}", n(bill.energy), n(economics.power_price)),
            (bill.power, "$"),
            "",
        ),
        line("money", "machines + building + capital + upkeep + power", last, (total, "$"), ""),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::model::ModelCatalogue;
    use crate::search::{Constraints, usual_batch};
    use crate::stack::Stack;
    use crate::training::{Reliability, plan_run};

    fn check(model: &str, gpus: u64, change: impl FnOnce(&mut RunRequest<'_>)) {
        let model = ModelCatalogue::built_in().find(model).unwrap();
        let hardware = HardwareCatalogue::built_in();
        let mut request = RunRequest {
            job: Job {
                model: &model,
                accelerator: hardware.find("H100").unwrap(),
                stack: Stack::find(Stack::DEFAULT).unwrap(),
                sequence: 8192,
                batch_tokens: usual_batch(gpus, 8192),
                precision: "bf16",
                oversubscription: 1.0,
                pod: 3072,
            },
            gpus,
            tokens: 1e12,
            unique_tokens: None,
            constraints: Constraints { batch_rounding: 0.25, ..Constraints::default() },
            reliability: Reliability { runs: 50, ..Reliability::default() },
            economics: Economics::default(),
        };
        change(&mut request);
        let calibration = Calibration::default();
        let plan = plan_run(&request, &calibration).unwrap();
        let lines = explain_run(&request, &plan, &calibration);
        super::super::tests::check(&lines);
        let step: f64 = lines.iter().filter(|it| it.what.starts_with("step: ")).map(|it| it.result).sum();
        assert!((step / plan.best().step.total() - 1.0).abs() < 1e-9);
        assert!(lines.last().is_some_and(|it| it.what == "money"));
    }

    #[test]
    fn every_line_gives_its_value_by_hand() {
        check("Llama-3.1-405B", 16_384, |_| {});
        check("Llama-3.1-8B", 64, |request| request.economics.own = Some(true));
        check("Mixtral-8x7B", 256, |request| {
            request.economics = Economics { own: Some(true), interest: 0.0, ..Economics::default() };
        });
        check("Llama-3.1-70B", 1024, |request| request.constraints.pipeline = Some(8));
    }
}
