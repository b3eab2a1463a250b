//! Rows brought together from elsewhere: host values, the embedding table, other rows; and the one
//! number that a loss is.

use super::Worker;
use crate::backend::arena::Matrix;
use crate::backend::fences::{Access, Sharing};
use crate::pack::PackedMatrix;
use std::sync::Arc;

/// Where the rows of a tensor come from.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) from: Source,
    pub(crate) out: Matrix,
}

/// A source of rows.
#[derive(Debug)]
pub(crate) enum Source {
    /// Host values, row after row.
    Host(Vec<f32>),
    /// Rows of a packed matrix.
    Table(Arc<PackedMatrix>, Vec<u32>),
    /// Rows of another tensor.
    Rows(Matrix, Vec<usize>),
}

impl Gather {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        list.push(Access::write(self.out, Sharing::Units(self.out.rows)));
        if let Source::Rows(x, _) = &self.from {
            list.push(Access::read(*x, Sharing::Any));
        }
    }

    pub(crate) fn run(&self, worker: &Worker) {
        for row in worker.share(self.out.rows) {
            // SAFETY: this thread alone writes the row; what is read was written behind a barrier.
            let (out, from) = unsafe {
                let from = match &self.from {
                    Source::Rows(x, rows) => x.row(rows[row]),
                    _ => &[],
                };
                (self.out.row_mut(row), from)
            };
            match &self.from {
                Source::Host(values) => out.copy_from_slice(&values[row * out.len()..][..out.len()]),
                Source::Table(table, tokens) => table.dequantise_row(tokens[row] as usize, out),
                Source::Rows(..) => out.copy_from_slice(from),
            }
        }
    }
}

/// The mean over rows of `-ln softmax(logits)[target]`.
#[derive(Debug)]
pub(crate) struct CrossEntropy {
    pub(crate) logits: Matrix,
    pub(crate) targets: Vec<u32>,
    /// `[1, 1]`.
    pub(crate) out: Matrix,
}

impl CrossEntropy {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        list.extend([Access::read(self.logits, Sharing::Any), Access::write(self.out, Sharing::Any)]);
    }

    /// On the first thread, in row order: one sum, in f64.
    pub(crate) fn run(&self, worker: &Worker) {
        if worker.index > 0 {
            return;
        }
        let loss = |(row, &target): (usize, &u32)| {
            // SAFETY: the logits were written behind a barrier.
            let logits = unsafe { self.logits.row(row) };
            let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|&x| f64::from(x - maximum).exp()).sum();
            sum.ln() - f64::from(logits[target as usize] - maximum)
        };
        let sum: f64 = self.targets.iter().enumerate().map(loss).sum();
        // SAFETY: this thread alone writes it.
        unsafe { self.out.row_mut(0)[0] = (sum / self.targets.len() as f64) as f32 };
    }
}
