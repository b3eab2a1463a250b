//! The search for layouts: every mesh that is possible, ranked by predicted time, with the reason why the next one is
//! slower.

use crate::calibration::Calibration;
use crate::error::PlanError;
use crate::layout::{Job, Layout, Recompute, Sharding};
use crate::memory::{TrainingMemory, USABLE, fits, training_memory};
use crate::step::{StepTime, step_time};
use serde::Serialize;

/// What the search may choose from.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// Tensor-parallel ranks, where they are given.
    pub tensor: Option<u32>,
    /// Context-parallel ranks, where they are given.
    pub context: Option<u32>,
    /// Pipeline stages, where they are given.
    pub pipeline: Option<u32>,
    /// Expert-parallel ranks, where they are given.
    pub expert: Option<u32>,
    /// Sequences of a microbatch, where they are given.
    pub microbatch: Option<u32>,
    /// How far a batch may be rounded so that ranks divide it, part of it.
    pub batch_rounding: f64,
}

/// A layout that fits, and how fast it is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Candidate {
    /// The layout.
    pub layout: Layout,
    /// Tokens of a batch, rounded so that the mesh divides it.
    pub batch_tokens: f64,
    /// The step by cause, s.
    pub step: StepTime,
    /// Memory of the fullest GPU, byte.
    pub memory: TrainingMemory,
    /// Tokens a second, all GPUs.
    pub tokens_per_second: f64,
    /// Model FLOPs utilisation: FLOPs of forward and backward (attention to earlier tokens only) over the peak.
    pub mfu: f64,
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The best layouts, fastest first, each of another mesh.
    pub best: Vec<Candidate>,
    /// Layouts that were tried.
    pub tried: usize,
    /// Of them, those that fit the memory.
    pub fitting: usize,
}

/// Model FLOPs utilisation of a step of `seconds`: tokens a second times FLOPs of a token's forward and backward pass,
/// over the peak of all GPUs (arXiv 2204.02311, appendix B, with the causal half of attention).
#[must_use]
pub fn mfu(job: &Job<'_>, gpus: f64, batch_tokens: f64, seconds: f64) -> f64 {
    let flops = job.model.training_flops(job.sequence as f64 / 2.0) * batch_tokens;
    flops / (seconds * gpus * job.accelerator.peak(job.precision))
}

/// One layout as a candidate: its time, whether or not it fits.
#[must_use]
pub fn evaluate(job: &Job<'_>, layout: &Layout, calibration: &Calibration) -> Candidate {
    let step = step_time(job, layout, calibration);
    let seconds = step.total();
    Candidate {
        layout: *layout,
        batch_tokens: job.batch_tokens,
        step,
        memory: training_memory(job, layout),
        tokens_per_second: job.batch_tokens / seconds,
        mfu: mfu(job, layout.gpus() as f64, job.batch_tokens, seconds),
    }
}

/// The fastest layouts of a job on `gpus` GPUs, at most `keep`, each of another mesh.
///
/// # Errors
/// When none is possible or fits: what is nearest.
pub fn search(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
    keep: usize,
) -> Result<Found, PlanError> {
    let mut found = Found { best: Vec::new(), tried: 0, fitting: 0 };
    let mut nearest: Option<(f64, Layout, f64)> = None;
    for mesh in meshes(job, gpus, constraints) {
        let Some((mesh, batch_tokens)) = with_batch(job, mesh, constraints.batch_rounding) else { continue };
        let job = Job { batch_tokens, ..*job };
        let mut best: Option<Candidate> = None;
        for layout in variants(&job, mesh) {
            found.tried += 1;
            let memory = training_memory(&job, &layout).total();
            if memory > job.accelerator.memory * USABLE {
                if nearest.as_ref().is_none_or(|it| memory < it.0) {
                    nearest = Some((memory, layout, batch_tokens));
                }
                continue;
            }
            found.fitting += 1;
            let candidate = evaluate(&job, &layout, calibration);
            if best.as_ref().is_none_or(|it| candidate.tokens_per_second > it.tokens_per_second) {
                best = Some(candidate);
            }
        }
        found.best.extend(best);
    }
    found.best.sort_by(|a, b| b.tokens_per_second.total_cmp(&a.tokens_per_second));
    one_of_each_mesh(&mut found.best);
    found.best.truncate(keep.max(1));
    if found.best.is_empty() {
        return Err(nothing(job, gpus, constraints, nearest));
    }
    Ok(found)
}

/// Keeps the fastest microbatch of every mesh.
fn one_of_each_mesh(candidates: &mut Vec<Candidate>) {
    let mut seen = Vec::new();
    candidates.retain(|it| {
        let mesh = (it.layout.tensor, it.layout.context, it.layout.pipeline, it.layout.expert);
        let new = !seen.contains(&mesh);
        if new {
            seen.push(mesh);
        }
        new
    });
}

fn nothing(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    nearest: Option<(f64, Layout, f64)>,
) -> PlanError {
    if let Some((_, layout, batch_tokens)) = nearest {
        let job = Job { batch_tokens, ..*job };
        if let Err(error) = fits(&job, &layout) {
            return error;
        }
    }
    let given = [
        ("tensor parallel", constraints.tensor, job.model.heads),
        ("pipeline parallel", constraints.pipeline, u64::from(job.model.layers)),
    ];
    for (field, value, of) in given {
        if let Some(value) = value {
            let layout = match field {
                "tensor parallel" => Layout { tensor: value, ..Layout::SINGLE },
                _ => Layout { pipeline: value, ..Layout::SINGLE },
            };
            let total = layout.gpus();
            if let Err(error) = layout.check(&Job { batch_tokens: job.sequence as f64, ..*job }, total) {
                return error;
            }
            if value == 0 || of < u64::from(value) || !gpus.is_multiple_of(u64::from(value)) {
                let nearest = (1..=value).rev().find(|it| gpus.is_multiple_of(u64::from(*it))).unwrap_or(1);
                let problem = format!("it does not divide the {gpus} GPUs");
                return PlanError::value(field, value, problem, format!("use {nearest}"));
            }
        }
    }
    let sequences = job.sequences();
    let power = 1_u64 << gpus.max(1).ilog2();
    let problem = format!("no mesh of {gpus} GPUs divides a batch of {sequences:.0} sequences");
    let remedy = format!("use {power} GPUs, or a batch of {:.0} tokens", (gpus * job.sequence) as f64);
    PlanError::value("GPUs", gpus, problem, remedy)
}

/// Meshes with a microbatch: all divisors that the model, the node and the GPUs allow.
fn meshes(job: &Job<'_>, gpus: u64, constraints: &Constraints) -> Vec<Layout> {
    let model = job.model;
    let widest = model.experts.as_ref().map_or(model.feed_forward, |experts| experts.feed_forward).max(1);
    // Beyond twice a node, tensor parallelism has never paid.
    let most = (2 * job.accelerator.per_node).min(64);
    let tensor =
        choices(constraints.tensor, most, |t| model.heads.is_multiple_of(t) && widest.is_multiple_of(t));
    let context = choices(constraints.context, 64, |c| {
        c == 1 || (c.is_power_of_two() && job.sequence.is_multiple_of(c) && job.sequence / c >= 2048)
    });
    let pipeline = choices(constraints.pipeline, model.layers.min(256), |_| true);
    let expert = match &model.experts {
        None => vec![1],
        Some(experts) => choices(constraints.expert, experts.count.min(256), |e| {
            e.is_power_of_two() && u64::from(experts.count).is_multiple_of(e)
        }),
    };
    let microbatch = constraints.microbatch.map_or_else(|| vec![1, 2, 4, 8], |it| vec![it]);
    let mut found = Vec::new();
    for &t in &tensor {
        for &c in &context {
            for &p in &pipeline {
                let ranks = u64::from(t) * u64::from(c) * u64::from(p);
                if !gpus.is_multiple_of(ranks) {
                    continue;
                }
                let data = (gpus / ranks).min(u64::from(u32::MAX)) as u32;
                for &e in &expert {
                    if !(u64::from(data) * u64::from(c)).is_multiple_of(u64::from(e)) {
                        continue;
                    }
                    found.extend(microbatch.iter().map(|m| Layout {
                        tensor: t,
                        context: c,
                        pipeline: p,
                        data,
                        expert: e,
                        microbatch: *m,
                        ..Layout::SINGLE
                    }));
                }
            }
        }
    }
    found
}

fn choices(given: Option<u32>, most: u32, possible: impl Fn(u64) -> bool) -> Vec<u32> {
    match given {
        Some(given) => [given].into_iter().filter(|it| *it > 0 && possible(u64::from(*it))).collect(),
        None => (1..=most).filter(|it| possible(u64::from(*it))).collect(),
    }
}

/// The mesh with the batch nearest to the one asked for that it divides, if that is near enough.
fn with_batch(job: &Job<'_>, mesh: Layout, rounding: f64) -> Option<(Layout, f64)> {
    let unit = f64::from(mesh.data) * f64::from(mesh.microbatch);
    let microbatches = (job.sequences() / unit).round().max(1.0);
    let batch_tokens = microbatches * unit * job.sequence as f64;
    let off = (batch_tokens / job.batch_tokens - 1.0).abs();
    (off <= rounding.max(1e-9)).then_some((mesh, batch_tokens))
}

/// What can be chosen on a mesh: interleaving, recomputation, sharding.
fn variants(job: &Job<'_>, mesh: Layout) -> Vec<Layout> {
    let per_stage = job.model.layers / mesh.pipeline;
    let interleave: Vec<u32> = match mesh.pipeline {
        1 => vec![1],
        _ => [1, 2, 4, 8].into_iter().filter(|v| *v <= per_stage).collect(),
    };
    let recompute: &[Recompute] = match job.stack.flash {
        true => &[Recompute::None, Recompute::EveryOther, Recompute::Full],
        false => &[Recompute::None, Recompute::Selective, Recompute::Full],
    };
    let sharding: &[Sharding] = match (mesh.data * mesh.context, mesh.pipeline) {
        (1, _) => &[Sharding::None],
        // Gathering weights for every microbatch of a pipeline keeps them all: nobody runs that but where it must fit.
        (_, 1) => &[Sharding::Optimizer, Sharding::Weights],
        _ => &[Sharding::Optimizer],
    };
    let mut found = Vec::with_capacity(interleave.len() * recompute.len() * sharding.len());
    for &interleave in &interleave {
        for &recompute in recompute {
            found.extend(sharding.iter().map(|it| Layout { interleave, recompute, sharding: *it, ..mesh }));
        }
    }
    found
}

/// Why `slower` is slower than `best`: the lines of the step that grew most for each token.
#[must_use]
pub fn reason(best: &Candidate, slower: &Candidate) -> String {
    let scale = best.batch_tokens / slower.batch_tokens;
    let best_total = best.step.total();
    let pairs = best.step.parts().into_iter().zip(slower.step.parts());
    let mut grown: Vec<(&str, f64)> =
        pairs.map(|(a, b)| (a.0, (b.1 * scale - a.1) / best_total)).filter(|it| it.1 > 0.002).collect();
    grown.sort_by(|a, b| b.1.total_cmp(&a.1));
    let said: Vec<String> =
        grown.iter().take(2).map(|(name, part)| format!("{name} +{:.1} %", 100.0 * part)).collect();
    if said.is_empty() { "as fast".to_owned() } else { said.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::model::ModelCatalogue;
    use crate::stack::Stack;

    fn check(gpus: u64, constraints: &Constraints, expected: Result<u32, &[&str]>) {
        let model = ModelCatalogue::built_in().find("Llama-3.1-405B").unwrap();
        let hardware = HardwareCatalogue::built_in();
        let job = Job {
            model: &model,
            accelerator: hardware.find("H100").unwrap(),
            stack: Stack::find(Stack::DEFAULT).unwrap(),
            sequence: 8192,
            batch_tokens: 16_777_216.0,
            precision: "bf16",
            oversubscription: 1.0,
            pod: 4096,
        };
        match (search(&job, gpus, constraints, &Calibration::default(), 5), expected) {
            (Ok(found), Ok(tensor)) => {
                let best = &found.best[0];
                assert_eq!(best.layout.tensor, tensor, "{}", best.layout);
                best.layout.check(&Job { batch_tokens: best.batch_tokens, ..job }, gpus).unwrap();
                assert!((0.3..0.5).contains(&best.mfu), "{}", best.mfu);
                assert!(found.best.len() > 1 && !reason(best, &found.best[1]).is_empty());
            }
            (Err(error), Err(parts)) => {
                let text = error.to_string();
                assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            }
            (Ok(found), Err(_)) => panic!("found {}", found.best[0].layout),
            (Err(error), Ok(_)) => panic!("{error}"),
        }
    }

    #[test]
    fn the_best_layout_of_405b_is_llama_3_s_tensor_parallelism() {
        check(16_384, &Constraints::default(), Ok(8));
        // A number that no power of two divides takes a batch that is a little off.
        check(16_000, &Constraints { batch_rounding: 0.1, ..Constraints::default() }, Ok(8));
    }

    #[test]
    fn what_cannot_be_is_explained() {
        check(8, &Constraints::default(), Err(&["GiB", "needs about"]));
        let seven = Constraints { tensor: Some(7), ..Constraints::default() };
        check(16_384, &seven, Err(&["tensor parallel is 7", "use 4 or 8"]));
        check(16_007, &Constraints::default(), Err(&["16007", "use 8192"]));
    }
}
