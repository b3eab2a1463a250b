//! What adapters add to products: `scale B (A x)` for the rows of each. First all `A x`, dealt out by rows and panels
//! because A has few rows; then all `B`, dealt out by panels as the products were that they are added to, so that each
//! thread adds to what it wrote itself.

use super::Worker;
use super::linear::{Prepared, Then, product};
use crate::backend::arena::Matrix;
use crate::backend::fences::{Access, Sharing};
use crate::kernels::ActivationKind;
use crate::pack::PackedMatrix;
use std::ops::Range;
use std::sync::Arc;

/// Consecutive rows with one adapter, and one product of theirs.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Their inputs.
    pub(crate) x: Matrix,
    /// `[rows, rank]`: `scale A x`.
    pub(crate) low: Matrix,
    /// Their products, added to.
    pub(crate) out: Matrix,
    pub(crate) down: Arc<PackedMatrix>,
    pub(crate) up: Arc<PackedMatrix>,
    pub(crate) scale: f32,
}

/// Rows of a run that one thread takes at a time through A.
const CHUNK_ROWS: usize = 24;

/// `low = scale A x` of every run.
#[derive(Debug)]
pub(crate) struct Down {
    pub(crate) runs: Arc<[Run]>,
    /// All inputs.
    pub(crate) x: Matrix,
    /// All of `low`.
    pub(crate) low: Matrix,
}

impl Down {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        list.extend([Access::read(self.x, Sharing::Any), Access::write(self.low, Sharing::Any)]);
    }

    pub(crate) fn run(&self, worker: &Worker) {
        let units = |run: &Run| run.x.rows.div_ceil(CHUNK_ROWS) * run.down.panels();
        let mine = worker.share(self.runs.iter().map(units).sum());
        let mut first = 0;
        for run in &*self.runs {
            let here = first..first + units(run);
            for unit in mine.start.max(here.start)..mine.end.min(here.end) {
                let (chunk, panel) = ((unit - first) / run.down.panels(), (unit - first) % run.down.panels());
                let rows = chunk * CHUNK_ROWS..run.x.rows.min((chunk + 1) * CHUNK_ROWS);
                run.down(worker, rows, panel);
            }
            first = here.end;
        }
    }
}

impl Run {
    /// A panel of A for some rows.
    fn down(&self, worker: &Worker, rows: Range<usize>, panel: usize) {
        let (x, then) = (plain(self.x), Then::Store);
        // SAFETY: the inputs were written behind a barrier; this thread alone writes the panel of these rows.
        unsafe {
            product(worker, &self.down, &then, &x, panel..panel + 1, rows.clone(), self.low.output(), None)
        };
        let width = crate::pack::PANEL_ROWS;
        let columns = panel * width..self.low.columns.min((panel + 1) * width);
        for row in rows {
            // SAFETY: as above.
            let low = unsafe { self.low.columns_mut(row, columns.clone()) };
            low.iter_mut().for_each(|value| *value *= self.scale);
        }
    }
}

/// `out += B low` of every run.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) runs: Arc<[Run]>,
    /// All of `low`.
    pub(crate) low: Matrix,
    /// The products, whole.
    pub(crate) products: Vec<Matrix>,
}

impl Up {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        list.push(Access::read(self.low, Sharing::Any));
        list.extend(self.products.iter().map(|&product| {
            let panels = product.columns.div_ceil(crate::pack::PANEL_ROWS);
            Access::write(product, Sharing::Panels(panels))
        }));
    }

    pub(crate) fn run(&self, worker: &Worker) {
        for run in &*self.runs {
            let (low, panels) = (plain(run.low), worker.share(run.up.panels()));
            // SAFETY: `low` was written behind a barrier; threads write different panels, and runs of one product
            // different rows.
            unsafe {
                product(worker, &run.up, &Then::Add, &low, panels, 0..run.low.rows, run.out.output(), None)
            };
        }
    }
}

/// Activations as they are.
fn plain(memory: Matrix) -> Prepared {
    Prepared { memory, rows: memory.rows, kind: ActivationKind::F32, private: false }
}
