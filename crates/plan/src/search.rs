//! The search for layouts: every mesh that is possible, ranked by predicted time, with the reason why the next one is
//! slower.

use crate::calibration::Calibration;
use crate::error::PlanError;
use crate::layout::{Job, Layout, Recompute, Sharding};
use crate::memory::{TrainingMemory, USABLE, training_memory};
use crate::step::{StepTime, step_time};
use serde::Serialize;
use std::collections::BTreeSet;

/// What the search may choose from.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// Tensor-parallel ranks, where they are given.
    pub tensor: Option<u32>,
    /// Context-parallel ranks, where they are given.
    pub context: Option<u32>,
    /// Pipeline stages, where they are given.
    pub pipeline: Option<u32>,
    /// Data-parallel ranks, where they are given.
    pub data: Option<u32>,
    /// Expert-parallel ranks, where they are given.
    pub expert: Option<u32>,
    /// Sequences of a microbatch, where they are given.
    pub microbatch: Option<u32>,
    /// Model chunks of a pipeline stage, where they are given.
    pub interleave: Option<u32>,
    /// What is computed again, where it is given.
    pub recompute: Option<Recompute>,
    /// What is split over data-parallel ranks, where it is given.
    pub sharding: Option<Sharding>,
    /// How far a batch may be rounded so that ranks divide it, part of it; 0 where it was asked for as it is.
    pub batch_rounding: f64,
}

/// Part of the GPUs that a mesh must use at least; the rest are spares. Within a twentieth of every number there is one that
/// good meshes divide.
const LEAST_USED: f64 = 0.95;

/// Tokens of a sequence that each context-parallel rank should have: on fewer, the exchange of keys and values is longer
/// than the attention that hides it (arXiv 2407.21783 has 8,192 on its 16 ranks). The second holds where nothing else fits.
const CONTEXT_TOKENS: [u64; 2] = [4096, 2048];

/// Layers that the fullest stages of a pipeline may have too many, all together, over the layers that there are.
const UNEVEN: f64 = 0.07;

/// Tokens of a batch that fit a cluster where none is asked for: 1,024 a GPU, from 0.5 M to 128 M, a power of two that most
/// meshes divide (Llama 3's 16 M on 16,384 GPUs).
#[must_use]
pub fn usual_batch(gpus: u64, sequence: u64) -> f64 {
    let usual = (1024.0 * gpus as f64).clamp(524_288.0, 134_217_728.0);
    2_f64.powf(usual.log2().round()).max(sequence as f64)
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
    let flops = job.model.training_flops(job.sequence as f64) * batch_tokens;
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

/// The fastest layouts of a job on at most `gpus` GPUs and at least 95 % of them, at most `keep`, each of another mesh.
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
    crate::refusal::check_constraints(job, gpus, constraints, calibration)?;
    let (mut found, nearest) = attempt(job, gpus, constraints, calibration);
    if found.best.is_empty() {
        return Err(crate::refusal::nothing(job, gpus, constraints, calibration, nearest));
    }
    found.best.truncate(keep.max(1));
    Ok(found)
}

/// The layout that needs least memory of those that do not fit, with its batch.
pub(crate) type Nearest = Option<(f64, Layout, f64)>;

/// All layouts that fit, the fastest of each mesh, and the one nearest to fitting.
pub(crate) fn attempt(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
) -> (Found, Nearest) {
    let mut found = Found { best: Vec::new(), tried: 0, fitting: 0 };
    let mut nearest: Nearest = None;
    for tokens in CONTEXT_TOKENS {
        for (mesh, batch_tokens) in meshes(job, gpus, constraints, tokens) {
            let job = Job { batch_tokens, ..*job };
            let best = best_of_mesh(&job, mesh, constraints, calibration, &mut found, &mut nearest);
            found.best.extend(best);
        }
        if !found.best.is_empty() {
            break;
        }
    }
    found.best.sort_by(|a, b| b.tokens_per_second.total_cmp(&a.tokens_per_second));
    one_of_each_mesh(&mut found.best);
    (found, nearest)
}

/// The fastest layout of a mesh that fits. Recomputation and sharding are tried from the fastest on: what does more of
/// either than memory asks for is only slower.
fn best_of_mesh(
    job: &Job<'_>,
    mesh: Layout,
    constraints: &Constraints,
    calibration: &Calibration,
    found: &mut Found,
    nearest: &mut Nearest,
) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    let sharding = shardings(mesh, constraints);
    for interleave in interleaves(job, mesh, constraints) {
        for recompute in recomputations(job, constraints) {
            let of = |sharding: &Sharding| Layout { interleave, recompute, sharding: *sharding, ..mesh };
            let mut fitting = None;
            for layout in sharding.iter().map(of) {
                found.tried += 1;
                let memory = training_memory(job, &layout).total();
                if memory <= job.accelerator.memory * USABLE {
                    fitting = Some(layout);
                    break;
                }
                if nearest.as_ref().is_none_or(|it| memory < it.0) {
                    *nearest = Some((memory, layout, job.batch_tokens));
                }
            }
            let Some(layout) = fitting else { continue };
            found.fitting += 1;
            let candidate = evaluate(job, &layout, calibration);
            if best.as_ref().is_none_or(|it| candidate.tokens_per_second > it.tokens_per_second) {
                best = Some(candidate);
            }
            if layout.sharding == sharding[0] {
                break;
            }
        }
    }
    best
}

/// Keeps the fastest microbatch of every mesh.
fn one_of_each_mesh(candidates: &mut Vec<Candidate>) {
    let mut seen = BTreeSet::new();
    candidates.retain(|it| {
        seen.insert((it.layout.tensor, it.layout.context, it.layout.pipeline, it.layout.expert))
    });
}

/// Meshes with a microbatch and the batch that they divide: all ranks that the model and the node allow, each with as many
/// data-parallel copies as there are GPUs for.
fn meshes(job: &Job<'_>, gpus: u64, constraints: &Constraints, context_tokens: u64) -> Vec<(Layout, f64)> {
    let model = job.model;
    let widest = model.experts.as_ref().map_or(model.feed_forward, |experts| experts.feed_forward).max(1);
    // Beyond twice a node, tensor parallelism has never paid, and no group lies across a part of one.
    let node = u64::from(job.accelerator.per_node);
    let most = (2 * job.accelerator.per_node).min(64);
    let tensor = choices(constraints.tensor, most, |t| {
        let whole = node.is_multiple_of(t) || t.is_multiple_of(node);
        whole && model.heads.is_multiple_of(t) && widest.is_multiple_of(t)
    });
    let context = choices(constraints.context, 64, |c| {
        c == 1
            || (c.is_power_of_two() && job.sequence.is_multiple_of(c) && job.sequence / c >= context_tokens)
    });
    let layers = u64::from(model.layers);
    let pipeline = choices(constraints.pipeline, model.layers.min(256), |p| {
        (layers.div_ceil(p) * p - layers) as f64 <= (UNEVEN * layers as f64).max(2.0)
    });
    let expert = match &model.experts {
        None => vec![1],
        Some(experts) => choices(constraints.expert, experts.count.min(256), |e| {
            e.is_power_of_two() && u64::from(experts.count).is_multiple_of(e)
        }),
    };
    let microbatch = constraints.microbatch.map_or_else(|| vec![1, 2, 4, 8], |it| vec![it]);
    let mut found = Vec::new();
    for &tensor in &tensor {
        for &context in &context {
            for &pipeline in &pipeline {
                for &expert in &expert {
                    for &microbatch in &microbatch {
                        let mesh = Layout { tensor, context, pipeline, expert, microbatch, ..Layout::SINGLE };
                        found.extend(with_data(job, mesh, gpus, constraints));
                    }
                }
            }
        }
    }
    found
}

fn choices(given: Option<u32>, most: u32, possible: impl Fn(u64) -> bool) -> Vec<u32> {
    match given {
        Some(given) => vec![given],
        None => (1..=most).filter(|it| possible(u64::from(*it))).collect(),
    }
}

/// The mesh with the most data-parallel ranks that fill whole nodes, or all GPUs, and divide a batch near enough to the one
/// asked for; with that batch.
fn with_data(job: &Job<'_>, mesh: Layout, gpus: u64, constraints: &Constraints) -> Option<(Layout, f64)> {
    let ranks = mesh.gpus();
    let rounding = constraints.batch_rounding.max(1e-9);
    let sequences = job.sequences();
    // More ranks than a batch has microbatches for would idle.
    let most = (gpus / ranks).min((sequences * (1.0 + rounding) / f64::from(mesh.microbatch)) as u64);
    let least = ((LEAST_USED * gpus as f64 / ranks as f64).ceil() as u64).max(1);
    let node = u64::from(job.accelerator.per_node);
    let possible = |data: u64| {
        let used = data * ranks;
        let whole = used == gpus || used.is_multiple_of(node);
        let experts = (data * u64::from(mesh.context * mesh.tensor)).is_multiple_of(u64::from(mesh.expert));
        if !whole || !experts {
            return None;
        }
        let unit = data as f64 * f64::from(mesh.microbatch);
        let batch = (sequences / unit).round().max(1.0) * unit;
        let near = (batch / sequences - 1.0).abs() <= rounding;
        near.then_some((Layout { data: data as u32, ..mesh }, batch * job.sequence as f64))
    };
    match constraints.data.map(u64::from) {
        Some(data) if (least..=most.min(u64::from(u32::MAX))).contains(&data) => possible(data),
        Some(_) => None,
        None => (least..=most.min(u64::from(u32::MAX))).rev().find_map(possible),
    }
}

fn interleaves(job: &Job<'_>, mesh: Layout, constraints: &Constraints) -> Vec<u32> {
    let per_stage = job.model.layers / mesh.pipeline.max(1);
    let usual: &[u32] = if mesh.pipeline == 1 { &[1] } else { &[1, 2, 4, 8] };
    let given = constraints.interleave.map(|it| vec![it]);
    given.unwrap_or_else(|| usual.to_vec()).into_iter().filter(|it| *it <= per_stage.max(1)).collect()
}

/// What may be computed again, from nothing to all.
fn recomputations(job: &Job<'_>, constraints: &Constraints) -> Vec<Recompute> {
    match (constraints.recompute, job.stack.flash) {
        (Some(given), _) => vec![given],
        (None, true) => {
            vec![Recompute::None, Recompute::Activation, Recompute::EveryOther, Recompute::Full]
        }
        (None, false) => vec![Recompute::None, Recompute::Activation, Recompute::Selective, Recompute::Full],
    }
}

/// What may be sharded, from the least to all.
fn shardings(mesh: Layout, constraints: &Constraints) -> Vec<Sharding> {
    match (constraints.sharding, mesh.data * mesh.context, mesh.pipeline) {
        (Some(given), ..) => vec![given],
        (None, 1, _) => vec![Sharding::None],
        (None, _, 1) => vec![Sharding::Optimizer, Sharding::Gradients, Sharding::Weights],
        // Gathering weights for every microbatch of a pipeline keeps them all: nobody runs that but where it must fit.
        _ => vec![Sharding::Optimizer, Sharding::Gradients],
    }
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

    fn with_job<T>(gpus: u64, then: impl FnOnce(&Job<'_>) -> T) -> T {
        let model = ModelCatalogue::built_in().find("Llama-3.1-405B").unwrap();
        let hardware = HardwareCatalogue::built_in();
        then(&Job {
            model: &model,
            accelerator: hardware.find("H100").unwrap(),
            stack: Stack::find(Stack::DEFAULT).unwrap(),
            sequence: 8192,
            batch_tokens: usual_batch(gpus, 8192),
            precision: "bf16",
            oversubscription: 1.0,
            pod: 4096,
        })
    }

    /// The constraints of a run whose batch is free.
    fn free() -> Constraints {
        Constraints { batch_rounding: 0.25, ..Constraints::default() }
    }

    fn check(gpus: u64, constraints: &Constraints, expected: Result<u32, &[&str]>) {
        with_job(gpus, |job| match (search(job, gpus, constraints, &Calibration::default(), 5), expected) {
            (Ok(found), Ok(tensor)) => {
                let best = &found.best[0];
                assert_eq!(best.layout.tensor, tensor, "{}", best.layout);
                let job = Job { batch_tokens: best.batch_tokens, ..*job };
                best.layout.check(&job, best.layout.gpus()).unwrap();
                assert!((0.3..0.5).contains(&best.mfu), "{}", best.mfu);
                assert!(found.best.len() > 1 && !reason(best, &found.best[1]).is_empty());
            }
            (Err(error), Err(parts)) => {
                let text = error.to_string();
                assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            }
            (Ok(found), Err(_)) => panic!("found {}", found.best[0].layout),
            (Err(error), Ok(_)) => panic!("{error}"),
        });
    }

    #[test]
    fn the_best_layout_of_405b_is_llama_3_s_tensor_parallelism() {
        check(16_384, &Constraints::default(), Ok(8));
        // A number that no power of two divides takes a batch that is a little off.
        check(16_000, &free(), Ok(8));
    }

    #[test]
    fn a_few_machines_more_or_less_change_little() {
        let speed = |gpus: u64| {
            with_job(gpus, |job| {
                let best = search(job, gpus, &free(), &Calibration::default(), 1).unwrap().best[0];
                let used = best.layout.gpus();
                assert!(used <= gpus && used as f64 >= 0.95 * gpus as f64, "{used} of {gpus}");
                best.tokens_per_second / gpus as f64
            })
        };
        let usual = speed(16_384);
        for gpus in [16_096, 16_001, 16_007, 15_808, 16_376, 17_000] {
            let found = speed(gpus);
            assert!((found / usual - 1.0).abs() < 0.07, "{gpus}: {found} for {usual} token/s a GPU");
        }
    }

    #[test]
    fn llama_3_s_published_layout_fits_and_is_fast() {
        let published =
            Constraints { tensor: Some(8), context: Some(1), pipeline: Some(16), ..Constraints::default() };
        with_job(16_384, |job| {
            let found = search(job, 16_384, &published, &Calibration::default(), 1).unwrap().best[0];
            let free = search(job, 16_384, &free(), &Calibration::default(), 1).unwrap().best[0];
            // 400 TFLOP/s of 989 are published (arXiv 2407.21783, Table 4).
            let published = 400.0 / 989.0;
            assert!(found.layout.data == 128 && (found.mfu / published - 1.0).abs() < 0.05, "{found:?}");
            assert!(found.mfu > 0.88 * free.mfu, "{found:?} {free:?}");
        });
    }

    #[test]
    fn more_sharding_and_recomputation_make_room() {
        let with = |sharding: Sharding, recompute: Recompute| {
            with_job(16_384, |job| {
                let layout = Layout {
                    tensor: 8,
                    pipeline: 16,
                    data: 128,
                    interleave: 8,
                    sharding,
                    recompute,
                    ..Layout::SINGLE
                };
                let memory = training_memory(job, &layout);
                (memory.total(), step_time(job, &layout, &Calibration::default()).total())
            })
        };
        let plain = with(Sharding::Optimizer, Recompute::None);
        let zero = with(Sharding::Gradients, Recompute::None);
        let activation = with(Sharding::Optimizer, Recompute::Activation);
        let full = with(Sharding::Optimizer, Recompute::Full);
        assert!(zero.0 < plain.0 && zero.1 >= plain.1, "{zero:?} {plain:?}");
        // A sixth of the activations for less than a hundredth of the time.
        assert!(activation.0 < 0.9 * plain.0 && activation.1 < 1.01 * plain.1, "{activation:?} {plain:?}");
        assert!(full.0 < activation.0 && full.1 > 1.1 * activation.1);
    }

    #[test]
    fn what_cannot_be_is_explained() {
        check(8, &free(), Err(&["GiB", "needs about"]));
        let with = |change: fn(&mut Constraints)| {
            let mut constraints = free();
            change(&mut constraints);
            constraints
        };
        check(16_384, &with(|it| it.tensor = Some(7)), Err(&["tensor parallel is 7", "use 4 or 8"]));
        check(16_384, &with(|it| it.context = Some(3)), Err(&["context parallel is 3", "2 or 4"]));
        check(16_384, &with(|it| it.microbatch = Some(0)), Err(&["microbatch is 0", "use 1"]));
        check(16_384, &with(|it| it.expert = Some(3)), Err(&["expert parallel is 3", "no experts"]));
        let wide = with(|it| (it.tensor, it.pipeline) = (Some(8), Some(16)));
        check(64, &wide, Err(&["TP x CP x PP x DP is at least 128", "use"]));
    }

    #[test]
    fn what_is_proposed_works() {
        with_job(8, |job| {
            let error = search(job, 8, &free(), &Calibration::default(), 1).unwrap_err().to_string();
            let (_, after) = error.split_once("needs about ").unwrap();
            let gpus: u64 = after.split(' ').next().unwrap().parse().unwrap();
            let job = Job { batch_tokens: usual_batch(gpus, 8192), ..*job };
            search(&job, gpus, &free(), &Calibration::default(), 1).unwrap();
        });
        with_job(16_384, |job| {
            let exact = Constraints::default();
            let job = Job { batch_tokens: 16e6, ..*job };
            let error = search(&job, 16_384, &exact, &Calibration::default(), 1).unwrap_err().to_string();
            let (_, after) = error.split_once("nearest that works is ").unwrap();
            let batch_tokens: f64 = after.split([' ', ',']).next().unwrap().parse().unwrap();
            let job = Job { batch_tokens, ..job };
            search(&job, 16_384, &exact, &Calibration::default(), 1).unwrap();
        });
    }
}
