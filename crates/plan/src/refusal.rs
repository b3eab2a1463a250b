//! Why no layout is possible, and the nearest that is: every number that is proposed has been searched with.

use crate::calibration::Calibration;
use crate::error::PlanError;
use crate::layout::{Job, Layout};
use crate::memory::{USABLE, fits};
use crate::search::{Candidate, Constraints, Nearest, attempt, usual_batch};
use crate::units::significant;

/// Checks what is given by itself: whatever the rest may be, the model must allow it, and the GPUs be enough.
pub(crate) fn check_constraints(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
) -> Result<(), PlanError> {
    let given = Layout {
        tensor: constraints.tensor.unwrap_or(1),
        context: constraints.context.unwrap_or(1),
        pipeline: constraints.pipeline.unwrap_or(1),
        data: constraints.data.unwrap_or(1),
        expert: constraints.expert.unwrap_or(1),
        microbatch: constraints.microbatch.unwrap_or(1),
        interleave: constraints.interleave.unwrap_or(1),
        ..Layout::SINGLE
    };
    given.check_model(job)?;
    if given.gpus() <= gpus {
        return Ok(());
    }
    let problem = format!("TP x CP x PP x DP is at least {}, which is more", given.gpus());
    let remedy = match more_gpus(job, given.gpus(), constraints, calibration) {
        Some(best) => format!("use {} GPUs, or smaller ranks", best.layout.gpus()),
        None => "use smaller ranks".to_owned(),
    };
    Err(PlanError::value("GPUs", gpus, problem, remedy))
}

/// Why a search found nothing.
pub(crate) fn nothing(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
    nearest: Nearest,
) -> PlanError {
    if let Some((memory, layout, batch_tokens)) = nearest {
        return too_large(&Job { batch_tokens, ..*job }, gpus, constraints, calibration, (memory, layout));
    }
    let blamed = wrong_batch(job, gpus, constraints, calibration)
        .or_else(|| wrong_constraint(job, gpus, constraints, calibration));
    blamed.unwrap_or_else(|| wrong_count(job, gpus, constraints, calibration))
}

/// The best layout at a number of GPUs, with the batch that is usual there where the batch is free.
fn at(job: &Job<'_>, gpus: u64, constraints: &Constraints, calibration: &Calibration) -> Option<Candidate> {
    let batch_tokens = match constraints.batch_rounding > 0.0 {
        true => usual_batch(gpus, job.sequence),
        false => job.batch_tokens,
    };
    attempt(&Job { batch_tokens, ..*job }, gpus, constraints, calibration).0.best.first().copied()
}

/// The best layout at the least number of GPUs from `gpus` on that has any: whole nodes, a tenth more each time.
fn more_gpus(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
) -> Option<Candidate> {
    let node = u64::from(job.accelerator.per_node);
    let mut count = gpus;
    for _ in 0..40 {
        if let Some(found) = at(job, count, constraints, calibration) {
            return Some(found);
        }
        count = ((count as f64 * 1.1).ceil() as u64).div_ceil(node) * node;
    }
    None
}

/// No layout fits the memory: the one that is nearest, and the GPUs on which the model does fit.
fn too_large(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
    (memory, layout): (f64, Layout),
) -> PlanError {
    let more = (gpus as f64 * memory / (job.accelerator.memory * USABLE)).ceil() as u64;
    let enough = more_gpus(job, more.max(gpus + 1), constraints, calibration);
    match (fits(job, &layout), enough) {
        (Err(PlanError::Memory { what, needed_gib, available_gib, .. }), Some(best)) => {
            let remedy = format!(
                "it needs about {} GPUs ({}), or ones with more memory",
                best.layout.gpus(),
                best.layout
            );
            PlanError::Memory { what, needed_gib, available_gib, remedy }
        }
        (Err(error), None) => error,
        // What was too large does not fit.
        (Err(error), Some(_)) => error,
        (Ok(_), _) => wrong_count(job, gpus, constraints, calibration),
    }
}

/// A batch that was asked for as it is, and that no mesh divides.
fn wrong_batch(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
) -> Option<PlanError> {
    if constraints.batch_rounding > 0.0 {
        return None;
    }
    let off = |it: &Candidate| (it.batch_tokens / job.batch_tokens - 1.0).abs();
    let near = [0.02, 0.25, 4.0].iter().find_map(|rounding| {
        let free = Constraints { batch_rounding: *rounding, ..constraints.clone() };
        let best = attempt(job, gpus, &free, calibration).0.best;
        // Of the faster half, so that the proposal is no oddity.
        let good = best.len().div_ceil(2);
        best.into_iter().take(good).min_by(|a, b| off(a).total_cmp(&off(b)))
    })?;
    let problem = format!(
        "no mesh of {gpus} GPUs divides {} sequences of {} tokens",
        significant(job.batch_tokens / job.sequence as f64, 8),
        job.sequence
    );
    let remedy = format!("the nearest that works is {:.0} ({})", near.batch_tokens, near.layout);
    Some(PlanError::value("batch tokens", job.batch_tokens, problem, remedy))
}

/// One of the numbers that were given, without which a layout is possible.
fn wrong_constraint(
    job: &Job<'_>,
    gpus: u64,
    constraints: &Constraints,
    calibration: &Calibration,
) -> Option<PlanError> {
    type Given = (&'static str, fn(&mut Constraints) -> Option<u32>, fn(&Layout) -> u32);
    let given: [Given; 7] = [
        ("data parallel", |it| it.data.take(), |it| it.data),
        ("microbatch", |it| it.microbatch.take(), |it| it.microbatch),
        ("interleave", |it| it.interleave.take(), |it| it.interleave),
        ("expert parallel", |it| it.expert.take(), |it| it.expert),
        ("pipeline parallel", |it| it.pipeline.take(), |it| it.pipeline),
        ("context parallel", |it| it.context.take(), |it| it.context),
        ("tensor parallel", |it| it.tensor.take(), |it| it.tensor),
    ];
    given.into_iter().find_map(|(field, take, of)| {
        let mut without = constraints.clone();
        let value = take(&mut without)?;
        let best = attempt(job, gpus, &without, calibration).0.best.first().copied()?;
        let problem = format!("no layout of {gpus} GPUs has it with the rest that is given");
        let remedy = format!("use {} ({})", of(&best.layout), best.layout);
        Some(PlanError::value(field, value, problem, remedy))
    })
}

/// A number of GPUs that no mesh divides: the largest below it that one does.
fn wrong_count(job: &Job<'_>, gpus: u64, constraints: &Constraints, calibration: &Calibration) -> PlanError {
    let mut count = gpus as f64;
    let mut below = None;
    while count > 1.0 && below.is_none() {
        // A search covers a twentieth of what is below its number.
        count = (count * 0.95).ceil() - 1.0;
        below = at(job, count as u64, constraints, calibration);
    }
    let problem = format!("no mesh of about as many divides a batch of {:.0} sequences", job.sequences());
    let remedy = match below {
        Some(best) => format!("use {} GPUs ({})", best.layout.gpus(), best.layout),
        None => "use another model, or give fewer constraints".to_owned(),
    };
    PlanError::value("GPUs", gpus, problem, remedy)
}
