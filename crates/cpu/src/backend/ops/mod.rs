//! What is recorded: operations that know one thread's share of themselves.

pub(crate) mod attention;
pub(crate) mod claims;
pub(crate) mod experts;
pub(crate) mod gather;
pub(crate) mod linear;
pub(crate) mod low_rank;
pub(crate) mod rows;
pub(crate) mod store;

use super::fences::Access;
use crate::Isa;
use crate::pack::PackedMatrix;
use std::ops::Range;

/// One thread in the parallel region of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker {
    /// Which thread.
    pub(crate) index: usize,
    /// Of how many.
    pub(crate) count: usize,
    /// The instruction set.
    pub(crate) isa: Isa,
}

impl Worker {
    /// This thread's run of `units` equal units of work.
    pub(crate) fn share(&self, units: usize) -> Range<usize> {
        units * self.index / self.count..units * (self.index + 1) / self.count
    }
}

/// An operation of a step.
#[derive(Debug)]
pub(crate) enum Op {
    /// Rows of the same rows.
    Rows(rows::RowOp),
    /// Host values, table rows, selected rows.
    Gather(gather::Gather),
    /// Activations made ready for a matrix.
    Prepare(linear::Prepare),
    /// A matrix times prepared activations.
    Matmul(linear::Matmul),
    /// The first half of what adapters add to products.
    LowRankDown(low_rank::Down),
    /// The second half.
    LowRankUp(low_rank::Up),
    /// Keys and values to their pages.
    Store(store::Store),
    /// Attention over stored pages.
    Attend(attention::Attend),
    /// The parts of it, where segments of the context were dealt out.
    Merge(attention::Merge),
    /// Which rows go to which experts.
    Route(experts::Route),
    /// The experts' matrices, each for its rows.
    ExpertMatmul(experts::ExpertMatmul),
    /// The experts' results, back in their rows.
    Combine(experts::Combine),
    /// The mean cross-entropy.
    CrossEntropy(gather::CrossEntropy),
}

impl Op {
    /// The memory of tensors and caches that it touches.
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        match self {
            Op::Rows(op) => op.accesses(list),
            Op::Gather(op) => op.accesses(list),
            Op::Prepare(op) => op.accesses(list),
            Op::Matmul(op) => op.accesses(list),
            Op::LowRankDown(op) => op.accesses(list),
            Op::LowRankUp(op) => op.accesses(list),
            Op::Store(op) => op.accesses(list),
            Op::Attend(op) => op.accesses(list),
            Op::Merge(op) => op.accesses(list),
            Op::Route(op) => op.accesses(list),
            Op::ExpertMatmul(op) => op.accesses(list),
            Op::Combine(op) => op.accesses(list),
            Op::CrossEntropy(op) => op.accesses(list),
        }
    }

    /// Whether it multiplies by weights.
    pub(crate) fn is_product(&self) -> bool {
        matches!(self, Op::Matmul(_) | Op::ExpertMatmul(_) | Op::LowRankDown(_) | Op::LowRankUp(_))
    }

    /// What a profile calls it: its kind, and the shape and encoding of its weights.
    pub(crate) fn label(&self) -> String {
        let matrix =
            |kind: &str, m: &PackedMatrix| format!("{kind} {} {}x{}", m.dtype(), m.rows(), m.columns());
        match self {
            Op::Rows(op) => op.label().to_owned(),
            Op::Gather(_) => "gather".to_owned(),
            Op::Prepare(op) => match op.norm {
                Some(_) => format!("norm, prepare {}", op.x.columns),
                None => format!("prepare {}", op.x.columns),
            },
            Op::Matmul(op) => match op.then {
                linear::Then::SwiGlu(_) => matrix("matmul, swiglu", &op.weight),
                _ => matrix("matmul", &op.weight),
            },
            Op::LowRankDown(op) => format!("adapters, down {}", op.x.columns),
            Op::LowRankUp(_) => "adapters, up".to_owned(),
            Op::Store(_) => "store keys, values".to_owned(),
            Op::Attend(_) => "attention".to_owned(),
            Op::Merge(_) => "attention, merge".to_owned(),
            Op::Route(_) => "route".to_owned(),
            Op::ExpertMatmul(op) => matrix("experts", &op.weights[0]),
            Op::Combine(_) => "combine".to_owned(),
            Op::CrossEntropy(_) => "cross entropy".to_owned(),
        }
    }

    /// Does this thread's share.
    pub(crate) fn run(&self, worker: &Worker) {
        match self {
            Op::Rows(op) => op.run(worker),
            Op::Gather(op) => op.run(worker),
            Op::Prepare(op) => op.run(worker),
            Op::Matmul(op) => op.run(worker),
            Op::LowRankDown(op) => op.run(worker),
            Op::LowRankUp(op) => op.run(worker),
            Op::Store(op) => op.run(worker),
            Op::Attend(op) => op.run(worker),
            Op::Merge(op) => op.run(worker),
            Op::Route(op) => op.run(worker),
            Op::ExpertMatmul(op) => op.run(worker),
            Op::Combine(op) => op.run(worker),
            Op::CrossEntropy(op) => op.run(worker),
        }
    }
}
