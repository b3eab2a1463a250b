//! What is recorded: operations that know one thread's share of themselves.

pub(crate) mod attention;
pub(crate) mod claims;
pub(crate) mod experts;
pub(crate) mod gather;
pub(crate) mod linear;
pub(crate) mod low_rank;
pub(crate) mod rows;
pub(crate) mod store;

use super::fences::{Access, Sharing};
use crate::Isa;
use crate::pack::{PANEL_ROWS, PackedMatrix};
use crate::pool::share;
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
        share(units, self.index, self.count)
    }

    /// Whose share of `units` this unit is in.
    pub(crate) fn owner(&self, units: usize, unit: usize) -> Worker {
        Worker { index: ((unit + 1) * self.count - 1) / units, ..*self }
    }
}

/// How what goes head by head is cut and dealt out.
///
/// Few rows are dealt out as products deal their results out, in panels of columns, so that a thread goes on with what it
/// has written and waits for nobody; where heads are no whole panels, or there are many rows, in heads of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    rows: usize,
    /// Pieces of a row.
    across: usize,
    /// Columns of a piece.
    pub(crate) width: usize,
}

/// Up to so many rows, pieces are dealt out as products deal out their panels.
const MOST_IN_PANELS: usize = 16;

impl Pieces {
    /// Of rows of heads.
    pub(crate) fn new(rows: usize, columns: usize, head_dim: usize) -> Pieces {
        let in_panels = rows <= MOST_IN_PANELS && head_dim.is_multiple_of(PANEL_ROWS);
        let width = if in_panels { PANEL_ROWS } else { head_dim };
        Pieces { rows, across: columns / width, width }
    }

    fn in_panels(&self) -> bool {
        self.rows <= MOST_IN_PANELS && self.width == PANEL_ROWS
    }

    /// How threads share a matrix that is cut so.
    pub(crate) fn sharing(&self) -> Sharing {
        match self.in_panels() {
            true => Sharing::Panels(self.across),
            false => Sharing::Units(self.rows * self.across),
        }
    }

    /// This thread's pieces: rows, and first columns.
    pub(crate) fn of(self, worker: &Worker) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (panels, units) = match self.in_panels() {
            true => (worker.share(self.across), 0..0),
            false => (0..0, worker.share(self.rows * self.across)),
        };
        let by_panel =
            (0..self.rows).flat_map(move |row| panels.clone().map(move |piece| (row, piece * self.width)));
        by_panel.chain(units.map(move |unit| (unit / self.across, unit % self.across * self.width)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_of_rows_of_heads_is_one_threads() {
        for (rows, columns, head_dim) in
            [(1, 576, 64), (3, 192, 64), (16, 96, 32), (17, 192, 64), (2, 90, 30)]
        {
            for count in [1, 2, 5] {
                let pieces = Pieces::new(rows, columns, head_dim);
                let workers = (0..count).map(|index| Worker { index, count, isa: Isa::SCALAR });
                let mut all: Vec<_> = workers.flat_map(|worker| pieces.of(&worker)).collect();
                all.sort_unstable();
                let expected: Vec<_> = (0..rows)
                    .flat_map(|row| (0..columns).step_by(pieces.width).map(move |column| (row, column)))
                    .collect();
                assert_eq!(all, expected);
                assert_eq!(head_dim % pieces.width, 0, "no piece is of two heads");
            }
        }
    }

    #[test]
    fn few_rows_are_shared_as_their_product_shares_them() {
        assert_eq!(Pieces::new(1, 576, 64).sharing(), Sharing::Panels(18));
        assert_eq!(Pieces::new(512, 576, 64).sharing(), Sharing::Units(512 * 9));
        assert_eq!(Pieces::new(1, 90, 30).sharing(), Sharing::Units(3));
    }

    #[test]
    fn every_unit_is_in_its_owners_share() {
        for (count, units) in [(1, 3), (2, 9), (3, 7), (4, 3), (5, 64)] {
            let worker = Worker { index: 0, count, isa: Isa::SCALAR };
            for unit in 0..units {
                assert!(worker.owner(units, unit).share(units).contains(&unit), "{unit} of {units}, {count}");
            }
        }
    }
}
