//! Operations that make a row of the same row: norms, rotations, sums, gathering.

use super::{Pieces, Worker};
use crate::backend::arena::Matrix;
use crate::backend::fences::{Access, Sharing};
use crate::isa::Kernel;
use crate::kernels::rows;
use crate::simd::Simd;
use std::sync::Arc;

/// A row operation: what it does to which matrices.
#[derive(Clone, Debug)]
pub(crate) enum RowOp {
    /// `out = x / rms(x) * gain`.
    RmsNorm { x: Matrix, gain: Arc<[f32]>, epsilon: f32, out: Matrix },
    /// Each run of `head_dim` of `x` by its own rms, in place.
    HeadNorm { x: Matrix, head_dim: usize, epsilon: f32 },
    /// Each head of `x` rotated by the row's `cos, sin` pairs, in place.
    Rope { x: Matrix, rotation: Matrix },
    /// Row `r` of `x` times `factors[r]`, in place.
    Scale { x: Matrix, factors: Matrix },
    /// `x += y`.
    Add { x: Matrix, y: Matrix },
    /// Row `rows[i]` of `x` plus row `i` of `y`, in place; no row twice.
    AddAt { x: Matrix, y: Matrix, rows: Arc<[usize]> },
    /// `out = silu(gate) * up`.
    SwiGlu { gate: Matrix, up: Matrix, out: Matrix },
    /// `to = from`.
    Copy { from: Matrix, to: Matrix },
}

impl RowOp {
    /// Rows, and equal parts of a row that can be done apart: heads, for what goes head by head, so
    /// that a thread keeps its heads from one such operation to the next.
    fn units(&self) -> (usize, usize) {
        match self {
            RowOp::HeadNorm { x, head_dim, .. } => (x.rows, x.columns / head_dim),
            // It is dealt out in pieces.
            RowOp::Rope { x, .. } => (x.rows, 1),
            RowOp::RmsNorm { x, .. }
            | RowOp::Scale { x, .. }
            | RowOp::Add { x, .. }
            | RowOp::AddAt { y: x, .. }
            | RowOp::SwiGlu { gate: x, .. }
            | RowOp::Copy { from: x, .. } => (x.rows, 1),
        }
    }

    /// What a profile calls it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            RowOp::RmsNorm { .. } => "norm",
            RowOp::HeadNorm { .. } => "head norm",
            RowOp::Rope { .. } => "rope",
            RowOp::Scale { .. } => "scale",
            RowOp::Add { .. } | RowOp::AddAt { .. } => "add",
            RowOp::SwiGlu { .. } => "swiglu",
            RowOp::Copy { .. } => "copy",
        }
    }

    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        let (rows, parts) = self.units();
        let units = Sharing::Units(rows * parts);
        match *self {
            RowOp::RmsNorm { x, out, .. } | RowOp::Copy { from: x, to: out } => {
                list.extend([Access::read(x, units), Access::write(out, units)]);
            }
            RowOp::HeadNorm { x, .. } => list.push(Access::write(x, units)),
            RowOp::Rope { x, rotation } => {
                let sharing = Pieces::new(x.rows, x.columns, rotation.columns).sharing();
                list.extend([Access::write(x, sharing), Access::read(rotation, Sharing::Any)]);
            }
            RowOp::Scale { x, factors } => {
                list.extend([Access::write(x, units), Access::read(factors, Sharing::Any)]);
            }
            RowOp::Add { x, y } => list.extend([Access::write(x, units), Access::read(y, units)]),
            RowOp::AddAt { x, y, .. } => {
                list.extend([Access::write(x, Sharing::Any), Access::read(y, units)]);
            }
            RowOp::SwiGlu { gate, up, out } => {
                list.extend([Access::read(gate, units), Access::read(up, units), Access::write(out, units)]);
            }
        }
    }

    pub(crate) fn run(&self, worker: &Worker) {
        if let RowOp::Rope { x, rotation } = *self {
            return rope(worker, x, rotation);
        }
        let (rows, parts) = self.units();
        for unit in worker.share(rows * parts) {
            worker.isa.run(OneUnit { op: self, row: unit / parts, part: unit % parts });
        }
    }
}

/// Rotates a thread's pieces of the heads of `x`.
fn rope(worker: &Worker, x: Matrix, rotation: Matrix) {
    let pieces = Pieces::new(x.rows, x.columns, rotation.columns);
    for (row, first) in pieces.of(worker) {
        let from = first % rotation.columns;
        // SAFETY: the rotations were written behind a barrier; this piece of the row is this thread's alone, which has
        // written it, too, or it was written behind a barrier.
        unsafe {
            let angles = rotation.columns(row, from..from + pieces.width);
            rows::rotate(x.columns_mut(row, first..first + pieces.width), angles);
        }
    }
}

struct OneUnit<'a> {
    op: &'a RowOp,
    row: usize,
    part: usize,
}

impl Kernel for OneUnit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (row, part) = (self.row, self.part);
        // SAFETY: what is read was written by this thread or behind a barrier; what is written is
        // this thread's unit alone.
        unsafe {
            match self.op {
                RowOp::RmsNorm { x, gain, epsilon, out } => {
                    rows::rms_norm(simd, x.row(row), gain, *epsilon, out.row_mut(row));
                }
                RowOp::HeadNorm { x, head_dim, epsilon } => {
                    rows::normalise(
                        simd,
                        x.columns_mut(row, part * head_dim..(part + 1) * head_dim),
                        *epsilon,
                    );
                }
                RowOp::Rope { .. } => unreachable!("it is dealt out in pieces"),
                RowOp::Scale { x, factors } => rows::scale(x.row_mut(row), factors.row(row)[0]),
                RowOp::Add { x, y } => rows::add(x.row_mut(row), y.row(row)),
                RowOp::AddAt { x, y, rows: at } => rows::add(x.row_mut(at[row]), y.row(row)),
                RowOp::SwiGlu { gate, up, out } => {
                    rows::swiglu(simd, gate.row(row), up.row(row), out.row_mut(row))
                }
                RowOp::Copy { from, to } => to.row_mut(row).copy_from_slice(from.row(row)),
            }
        }
    }
}
