//! Matrix products: activations are prepared once and read by every matrix that wants them.

use super::Worker;
use super::claims::Claims;
use crate::backend::arena::Matrix;
use crate::backend::fences::{Access, Sharing};
use crate::kernels::{self, ActivationKind, Activations, Epilogue, OutputMatrix};
use crate::pack::PackedMatrix;
use std::ops::Range;
use std::sync::Arc;

/// Prepared activations in the memory of a tensor.
///
/// A few short rows are prepared by every thread for itself, because that takes less time than
/// waiting for one another; the copies follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared {
    /// `[copies * rows, prepared_bytes / 4]`: rows are a stride apart.
    pub(crate) memory: Matrix,
    /// Rows of activations.
    pub(crate) rows: usize,
    /// What they were made to be.
    pub(crate) kind: ActivationKind,
    /// Whether there is a copy for each thread.
    pub(crate) private: bool,
}

impl Prepared {
    fn start(&self, worker: &Worker) -> *mut f32 {
        let copy = if self.private { worker.index } else { 0 };
        self.memory.start.wrapping_add(copy * self.rows * self.memory.columns)
    }

    /// As a product's operand.
    pub(crate) fn read(&self) -> Access {
        Access::read(self.memory, if self.private { Sharing::Own } else { Sharing::Any })
    }

    /// All rows, as a matrix product wants them.
    ///
    /// # Safety
    /// They have been prepared, and nobody writes them meanwhile.
    pub(crate) unsafe fn activations<'a>(&self, worker: &Worker) -> Activations<'a> {
        // SAFETY: the memory holds `rows` rows of `columns` floats, which the caller has had prepared.
        let memory =
            unsafe { std::slice::from_raw_parts(self.start(worker), self.rows * self.memory.columns) };
        Activations::new(self.kind, memory)
    }
}

/// The norm that goes before a projection.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) gain: Arc<[f32]>,
    pub(crate) epsilon: f32,
    /// Room for the normalised rows, as many as `Prepared` has.
    pub(crate) rows: Matrix,
}

/// Makes activations ready for matrices of a kind, normalised first where there is a norm.
#[derive(Debug)]
pub(crate) struct Prepare {
    pub(crate) x: Matrix,
    pub(crate) norm: Option<Norm>,
    pub(crate) out: Prepared,
}

impl Prepare {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        let (from, to) = match self.out.private {
            true => (Sharing::Any, Sharing::Own),
            false => (Sharing::Units(self.out.rows), Sharing::Units(self.out.rows)),
        };
        list.extend([Access::read(self.x, from), Access::write(self.out.memory, to)]);
        list.extend(self.norm.as_ref().map(|norm| Access::write(norm.rows, to)));
    }

    pub(crate) fn run(&self, worker: &Worker) {
        let rows = if self.out.private { 0..self.out.rows } else { worker.share(self.out.rows) };
        let copy = if self.out.private { worker.index * self.out.rows } else { 0 };
        for row in rows {
            // SAFETY: what is read was written behind a barrier; what is written is this thread's
            // row or copy alone, and as long as `prepared_width` says.
            unsafe {
                let mut x = self.x.row(row);
                if let Some(norm) = &self.norm {
                    let normed = norm.rows.row_mut(copy + row);
                    kernels::rms_norm(worker.isa, x, &norm.gain, norm.epsilon, normed);
                    x = norm.rows.row(copy + row);
                }
                kernels::prepare_row(worker.isa, self.out.kind, x, self.out.memory.row_mut(copy + row));
            }
        }
    }
}

/// What happens to a product.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// It is the output.
    Store,
    /// It is added to the output.
    Add,
    /// It gates the product with this matrix.
    SwiGlu(Arc<PackedMatrix>),
}

impl Then {
    pub(crate) fn epilogue(&self) -> Epilogue<'_> {
        match self {
            Then::Store => Epilogue::Store,
            Then::Add => Epilogue::Add,
            Then::SwiGlu(up) => Epilogue::SwiGlu { up },
        }
    }
}

/// Bytes of a product's weights that may be asked for before it begins: no more than second caches hold.
const UPCOMING_BYTES: usize = 256 << 10;

/// `out = activations * weight^T`.
#[derive(Debug)]
pub(crate) struct Matmul {
    pub(crate) weight: Arc<PackedMatrix>,
    pub(crate) x: Prepared,
    pub(crate) then: Then,
    pub(crate) out: Matrix,
    /// The output's rows prepared for the product that follows, if that wants them as 8-bit blocks.
    pub(crate) prepared: Option<Prepared>,
    /// The matrix of the next product in the list, whose weights are asked for ahead.
    pub(crate) next: Option<Arc<PackedMatrix>>,
    /// Where there is much to do, threads take panels as they get to them.
    pub(crate) claims: Option<Claims>,
}

/// From so many rows on, a panel takes long enough that threads may take them one by one.
const FEWEST_CLAIMED: usize = 32;

/// Runs in which a large share is taken.
const RUNS: usize = 32;

/// A thread's share of so many panels, as that of the output matrix, is taken in [`RUNS`] even with one row: cores that
/// share their caches and clocks with others do not end equal shares at the same time.
const LARGE_SHARE: usize = 2 * RUNS;

/// Rows of a prompt that a thread takes at once of a [`SMALL_MATRIX`].
const ROWS_OF_BLOCK: usize = 64;

/// Bytes of a matrix that is read again for each [block of rows](ROWS_OF_BLOCK): it comes from a cache.
const SMALL_MATRIX: usize = 2 << 20;

/// Panels that a thread takes at once where it has tile registers, which go through several together.
#[cfg(target_arch = "x86_64")]
const CLAIMED_FOR_TILES: usize = 4;

impl Matmul {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        let panels = self.weight.panels();
        let (values, blocks) = match self.claims {
            Some(_) => (Sharing::Any, Sharing::Any),
            None => (Sharing::Panels(panels), Sharing::Blocks(panels)),
        };
        list.extend([self.x.read(), Access::write(self.out, values)]);
        list.extend(self.prepared.map(|prepared| Access::write(prepared.memory, blocks)));
    }

    /// What so many panels are taken from, for so many rows.
    pub(crate) fn claims(rows: usize, panels: usize, threads: usize) -> Option<Claims> {
        let much = rows >= FEWEST_CLAIMED || panels >= LARGE_SHARE * threads;
        (much && threads > 1).then(|| Claims::new(threads))
    }

    /// What the thread's next product reads first (of a gated one, of the gate), behind what a single row asks for
    /// ([`Isa::read_ahead`](crate::Isa)); as far as it is worth asking for early.
    pub(crate) fn upcoming(&self, worker: &Worker) -> &[u8] {
        let Some(next) = &self.next else { return &[] };
        let contents = next.contents_of(worker.share(next.panels()));
        contents.get(worker.isa.read_ahead()..contents.len().min(UPCOMING_BYTES)).unwrap_or_default()
    }

    pub(crate) fn run(&self, worker: &Worker) {
        let (all, rows) = (self.weight.panels(), self.x.rows);
        let Some(claims) = &self.claims else {
            return self.run_part(worker, worker.share(all), 0..rows);
        };
        if let Some(blocks) = self.row_blocks(worker) {
            let block = |index: usize| rows * index / blocks..rows * (index + 1) / blocks;
            return claims.take(worker, blocks, 1, |it| self.run_part(worker, 0..all, block(it.start)));
        }
        let run = run_of_panels(worker, rows, all);
        claims.take(worker, all, run, |it| self.run_part(worker, it, 0..rows));
    }

    /// In how many blocks of rows threads take a small matrix's product with a prompt. They are the same blocks in each
    /// operation, so that a thread mostly reads what it has written itself; the weights it reads again for each block.
    fn row_blocks(&self, worker: &Worker) -> Option<usize> {
        #[cfg(target_arch = "x86_64")]
        if worker.isa.tiles().is_some() {
            return None; // They unpack each panel for all rows.
        }
        let blocks = self.x.rows / ROWS_OF_BLOCK;
        let small = self.weight.bytes() <= SMALL_MATRIX && !worker.isa.unpacks(self.weight.dtype());
        (small && blocks >= 2 * worker.count).then_some(blocks)
    }

    fn run_part(&self, worker: &Worker, panels: Range<usize>, rows: Range<usize>) {
        let next = self.next.as_deref();
        // SAFETY: the activations were prepared by this thread or behind a barrier; threads write
        // different panels; the prepared output has room for the rows.
        unsafe {
            let mut out = self.out.output();
            if let Some(prepared) = self.prepared {
                out = out.and_blocks(prepared.memory.start.cast());
            }
            product(worker, &self.weight, &self.then, &self.x, panels, rows, out, next);
        }
    }
}

/// Panels of `all` that a thread takes at once, for so many rows.
fn run_of_panels(worker: &Worker, rows: usize, all: usize) -> usize {
    if rows < FEWEST_CLAIMED {
        return (all / worker.count / RUNS).max(1);
    }
    #[cfg(target_arch = "x86_64")]
    if worker.isa.tiles().is_some() {
        return CLAIMED_FOR_TILES;
    }
    1
}

/// One thread's panels of a product, for some rows.
///
/// # Safety
/// The activations have been prepared, and nobody else touches these panels of these rows of `out`.
#[expect(clippy::too_many_arguments, reason = "a product and its place")]
pub(crate) unsafe fn product(
    worker: &Worker,
    weight: &PackedMatrix,
    then: &Then,
    x: &Prepared,
    panels: Range<usize>,
    rows: Range<usize>,
    mut out: OutputMatrix<'_>,
    next: Option<&PackedMatrix>,
) {
    if panels.is_empty() || rows.is_empty() {
        return;
    }
    // SAFETY: the caller's promise.
    let activations = unsafe { x.activations(worker) };
    // The panel behind these, or, behind the last one of a share, the first of the thread's next product.
    let owner = worker.owner(weight.panels(), panels.start);
    let next = match panels.end < owner.share(weight.panels()).end {
        true => Some((weight, panels.end..panels.end + 1)),
        false => next.map(|next| (next, worker.share(next.panels()))),
    };
    let next = next.filter(|(_, share)| !share.is_empty());
    let next = next.map(|(next, share)| next.panel_contents(share.start));
    let task = kernels::Matmul { weight, panels, activations, rows, epilogue: then.epilogue(), next };
    kernels::matmul(worker.isa, &task, &mut out);
}

/// The f32 that it takes to hold a prepared row.
pub(crate) fn prepared_width(kind: ActivationKind, columns: usize) -> usize {
    kernels::prepared_bytes(kind, columns) / size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn much_work_is_taken_and_little_is_dealt_out() {
        let claimed = |rows, panels, threads| Matmul::claims(rows, panels, threads).is_some();
        assert!(claimed(1, 1536, 2), "the output matrix of the default model");
        assert!(claimed(1, 4008, 32), "that of Llama 3 with many threads");
        assert!(claimed(FEWEST_CLAIMED, 2, 2), "a prompt");
        assert!(!claimed(1, 48, 2), "a layer's product is over before it is worth it");
        assert!(!claimed(512, 4008, 1), "there is nobody else");
    }

    #[test]
    fn a_run_is_at_least_a_panel() {
        let worker = |count| Worker { index: 0, count, isa: Isa::SCALAR };
        assert_eq!(run_of_panels(&worker(2), 1, 1536), 24);
        assert_eq!(run_of_panels(&worker(64), 1, 48), 1);
        assert_eq!(run_of_panels(&worker(2), FEWEST_CLAIMED, 1536), 1);
    }
}
