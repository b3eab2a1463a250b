//! Matrix products of many rows in tile registers ([`crate::simd::tiles`]).
//!
//! Block formats: a panel is unpacked once ([`super::unpacked`]) into signed bytes, 8 or 4 steps of
//! which are what a tile register holds; then 16 rows of activations at a time pass by. A tile product
//! gives the exact integer dots of one group of weights, and the float formula is that of
//! [`super::quantised`], so the bits are the same as there.
//!
//! BF16: the panel is what a tile register wants, `[16 pairs of columns][16 rows][2]` at a time.
//! The product of 32 columns is one instruction, with its own order of additions, in which vectors
//! multiply a single row ([`super::float::TileOrder`]).

#![expect(clippy::needless_range_loop, reason = "indices are rows of a tile")]

use super::activations::{ActivationBlock, prepared_len, prepared_stride};
use super::matmul::{Columns, Matmul, OutputMatrix, Prefetch, finish, run_tile, widest};
use super::quantised::{Format, Quantised};
use super::unpacked::{Unpacked, unpack};
use crate::isa::Kernel;
use crate::pack::layout::BLOCK;
use crate::pack::{PANEL_ROWS, PackedMatrix};
use crate::simd::tiles::{
    TILE_ROW, TILE_ROWS, Tiles, tile_dot_brain, tile_dot_bytes, tile_load, tile_store, tile_zero,
};
use crate::simd::{LANES, Simd};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// From so many rows on, tiles of a block format are faster than vectors (`matmul_speed` shows where).
pub(super) const FEWEST_ROWS: usize = 128;

/// Rows of activations of a low tile, for what does not fill a whole one.
const LOW_ROWS: usize = 8;

/// Products of a tile, `[matrix][row of activations][row of the panel]`.
type Products = [[[f32; PANEL_ROWS]; TILE_ROWS]; 2];

/// Panels that are taken together.
pub(super) const PANELS: usize = 4;

/// Groups of weights that all panels take before any takes the next.
const RUN_GROUPS: usize = 16;

/// A product with a block format.
pub(super) struct TiledBytes<'a, 'b, 'c, F> {
    pub(super) tiles: Tiles,
    pub(super) task: &'a Matmul<'b>,
    pub(super) x: &'a [ActivationBlock],
    pub(super) out: &'a mut OutputMatrix<'c>,
    /// Of [`super::unpacked::with_workspace`].
    pub(super) workspace: *mut u8,
    pub(super) format: PhantomData<F>,
}

impl<F: Format> Kernel for TiledBytes<'_, '_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { tiles, task, x, out, workspace, .. } = self;
        let Matmul { weight, rows, epilogue, .. } = task;
        let kind = task.activations.kind();
        let (steps, stride) = (prepared_len(kind, weight.columns()), prepared_stride(kind, weight.columns()));
        let unpacked = Unpacked::new::<F>(steps);
        let (matrices, used) = epilogue.matrices(weight);
        let group = unpacked.code_bytes / LANES;
        let _configured = tiles.configure([
            (TILE_ROWS, TILE_ROW),
            (TILE_ROWS, TILE_ROW),
            (TILE_ROWS, group),
            (LOW_ROWS, TILE_ROW),
            (LOW_ROWS, TILE_ROW),
            (LOW_ROWS, group),
            (group / 4, TILE_ROW),
            (group / 4, TILE_ROW),
        ]);
        let place =
            |panel: usize, matrix: usize| workspace.wrapping_add((2 * panel + matrix) * unpacked.bytes());
        let mut products: [Products; PANELS] = [[[[0.0; PANEL_ROWS]; TILE_ROWS]; 2]; PANELS];
        for first in task.panels.clone().step_by(PANELS) {
            let panels = first..task.panels.end.min(first + PANELS);
            for panel in panels.clone() {
                for (index, matrix) in matrices.iter().enumerate().take(used) {
                    let to = place(panel - first, index);
                    let following = task.following(&matrices[..used], index, panel);
                    let panel = matrix.panel_contents(panel);
                    let prefetch = Prefetch::ahead::<S>(panel, following, 2 * unpacked.groups);
                    let offset = const { F::LAYOUT.offset as u8 };
                    // SAFETY: the workspace holds `PANELS` unpacked panels of both matrices' shape.
                    unsafe { unpack::<S, F>(simd, panel, prefetch, offset, unpacked, to) };
                }
            }
            let mut row = rows.start;
            while row < rows.end {
                let x = &x[row * stride..];
                let count = match rows.end - row {
                    TILE_ROWS.. => TILE_ROWS,
                    LOW_ROWS.. => LOW_ROWS,
                    few => few.min(widest::<S, Quantised<F>>()),
                };
                if count < LOW_ROWS {
                    for (panel, products) in panels.clone().zip(&mut products) {
                        for (matrix, products) in matrices.iter().zip(products).take(used) {
                            let columns = Columns { x: &x[..(count - 1) * stride + steps], steps, stride };
                            let bytes = matrix.panel_contents(panel);
                            run_tile::<S, Quantised<F>>(simd, bytes, columns, Prefetch::NONE, products);
                        }
                    }
                } else {
                    // A run of the activations stays in the first cache while all panels pass by.
                    for run in (0..unpacked.groups).step_by(RUN_GROUPS) {
                        let run = run..unpacked.groups.min(run + RUN_GROUPS);
                        for (panel, products) in products.iter_mut().enumerate().take(panels.len()) {
                            for (index, products) in products.iter_mut().enumerate().take(used) {
                                let (from, x, run) = (place(panel, index), x.as_ptr(), run.clone());
                                // SAFETY: the panel has been unpacked; there are `count` rows from `x` on.
                                unsafe {
                                    match count {
                                        TILE_ROWS => {
                                            tall::<S, F>(simd, unpacked, from, x, stride, run, products)
                                        }
                                        _ => low::<S, F>(simd, unpacked, from, x, stride, run, products),
                                    }
                                }
                            }
                        }
                    }
                }
                for (panel, products) in panels.clone().zip(&products) {
                    for column in 0..count {
                        let products = [&products[0][column], &products[1][column]];
                        finish(simd, *epilogue, products, panel, out, row + column);
                    }
                }
                row += count;
            }
        }
    }
}

/// Groups whose tile products are under way together: their latency is long, and sums that stay in
/// registers for several groups are loaded and stored less often.
const TOGETHER: usize = 4;

/// Rows whose sums are in registers at the same time.
const SUMS: usize = 8;

/// Room for the integer dots of some groups.
#[repr(align(64))]
struct Dots {
    _memory: [[[i32; LANES]; TILE_ROWS]; TOGETHER],
}

/// One tile kernel per height: registers are named in the instructions.
macro_rules! byte_tile {
    ($name:ident, $rows:ident, $sums:literal, $more:literal, $x:literal) => {
        /// Adds the products of a run of groups of an unpacked panel with rows of activations, `stride`
        /// blocks apart; a run of the first groups begins the sums.
        ///
        /// # Safety
        /// The panel is unpacked at `from`; the rows can be read; tiles are configured.
        #[inline(always)]
        unsafe fn $name<S: Simd, F: Format>(
            simd: S,
            unpacked: Unpacked,
            from: *mut u8,
            x: *const ActivationBlock,
            stride: usize,
            run: Range<usize>,
            products: &mut [[f32; PANEL_ROWS]; TILE_ROWS],
        ) {
            let mut dots = MaybeUninit::<Dots>::uninit();
            let dots = dots.as_mut_ptr().cast::<[[i32; LANES]; TILE_ROWS]>();
            let (x_stride, b_stride) = (stride * size_of::<ActivationBlock>(), TILE_ROW);
            let group_bytes = unpacked.code_bytes / LANES;
            for half in 0..2 {
                let from = from.wrapping_add(half * unpacked.half_bytes());
                for first in run.clone().step_by(TOGETHER) {
                    let groups = first..run.end.min(first + TOGETHER);
                    macro_rules! issue {
                        ($index:literal, $tile:literal) => {
                            if first + $index < groups.end {
                                let at = (first + $index) * group_bytes;
                                let x = x.add(at / BLOCK).cast::<u8>().add(at % BLOCK);
                                tile_load!($x, x, x_stride);
                                tile_load!(6, unpacked.codes(from, first + $index), b_stride);
                                tile_zero!($tile);
                                tile_dot_bytes!($tile, $x, 6);
                                tile_store!($tile, dots.add($index), b_stride);
                            }
                        };
                    }
                    // SAFETY: the caller's promise; the quants are the first bytes of a block.
                    unsafe {
                        issue!(0, $sums);
                        issue!(1, $more);
                        issue!(2, $sums);
                        issue!(3, $more);
                        for row in (0..$rows).step_by(SUMS) {
                            let sums = products.as_mut_ptr().add(row).cast::<f32>().add(half * LANES);
                            let x = x.add(row * stride);
                            add_dots::<S, F>(
                                simd,
                                unpacked,
                                from,
                                groups.clone(),
                                x,
                                stride,
                                dots.cast_const(),
                                row,
                                sums,
                            );
                        }
                    }
                }
            }
        }
    };
}
byte_tile!(tall, TILE_ROWS, 0, 1, 2);
byte_tile!(low, LOW_ROWS, 3, 4, 5);

/// Adds some groups' products to the sums of [`SUMS`] rows: the formula of [`super::quantised`].
///
/// # Safety
/// As for the tile that calls it; `dots` are of these groups, as many as there are, those of the rows from `row` on;
/// `at` is the first of as many vectors of sums, a panel's rows apart.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the inside of a loop")]
unsafe fn add_dots<S: Simd, F: Format>(
    simd: S,
    unpacked: Unpacked,
    from: *mut u8,
    groups: Range<usize>,
    x: *const ActivationBlock,
    stride: usize,
    dots: *const [[i32; LANES]; TILE_ROWS],
    row: usize,
    at: *mut f32,
) {
    let layout = const { F::LAYOUT };
    let per_block = const { F::LAYOUT.groups_per_block() };
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [simd.splat(0.0); SUMS];
        // The first groups begin the sums, whatever is left there of others.
        if groups.start > 0 {
            for m in 0..SUMS {
                sums[m] = simd.load(at.add(m * PANEL_ROWS));
            }
        }
        for (index, group) in groups.enumerate() {
            let x = x.add(group / per_block);
            let dots = dots.add(index).cast::<[i32; LANES]>().add(row);
            let scale = simd.load(unpacked.scales(from, group));
            for m in 0..SUMS {
                let scales = simd.mul(scale, simd.splat((*x.add(m * stride)).scale));
                let dot = simd.to_f32(simd.load_i32(dots.add(m).cast()));
                sums[m] = simd.mul_add(dot, scales, sums[m]);
            }
            if layout.minima {
                let minimum = simd.load(unpacked.minima(from, group));
                for m in 0..SUMS {
                    let x = &*x.add(m * stride);
                    let sum = if per_block == 1 { x.sum } else { x.half_sums[group % 2] };
                    sums[m] = simd.mul_add(minimum, simd.splat(sum), sums[m]);
                }
            }
        }
        for m in 0..SUMS {
            simd.store(at.add(m * PANEL_ROWS), sums[m]);
        }
    }
}

/// Columns of a BF16 matrix that one tile product takes.
const BRAIN_COLUMNS: usize = 32;
/// Bytes of a pair of columns of a panel.
const PAIR_BYTES: usize = 4 * PANEL_ROWS;
/// Bytes of what a tile product takes of both halves of a panel.
const STEP_BYTES: usize = BRAIN_COLUMNS / 2 * PAIR_BYTES;
/// How far ahead a panel that lies in the second cache is asked for.
const RUN_BYTES: usize = 2 * STEP_BYTES;

/// Whether this BF16 matrix is multiplied as tiles do it: the decision is the matrix's alone, so that
/// all products with it have the same bits.
pub(super) fn tiles_fit(weight: &PackedMatrix) -> bool {
    weight.columns().is_multiple_of(BRAIN_COLUMNS)
}

/// A product with BF16.
pub(super) struct TiledBrain<'a, 'b, 'c> {
    pub(super) tiles: Tiles,
    pub(super) task: &'a Matmul<'b>,
    /// Rows of pairs.
    pub(super) x: &'a [u32],
    pub(super) out: &'a mut OutputMatrix<'c>,
}

impl Kernel for TiledBrain<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { tiles, task, x, out } = self;
        let Matmul { weight, rows, epilogue, .. } = task;
        let stride = prepared_stride(task.activations.kind(), weight.columns());
        let (matrices, used) = epilogue.matrices(weight);
        let rest = rows.len() % TILE_ROWS;
        let full = (TILE_ROWS, TILE_ROW);
        let _configured = tiles.configure([
            full,
            full,
            full,
            (rest, TILE_ROW),
            (rest, TILE_ROW),
            (rest, TILE_ROW),
            full,
            full,
        ]);
        let steps = weight.columns() / BRAIN_COLUMNS;
        let alone = rows.len() <= TILE_ROWS;
        for first in task.panels.clone().step_by(PANELS) {
            let panels = first..task.panels.end.min(first + PANELS);
            for row in rows.clone().step_by(TILE_ROWS) {
                let count = TILE_ROWS.min(rows.end - row);
                let x = x[row * stride..].as_ptr();
                let mut products: [Products; PANELS] = [[[[0.0; PANEL_ROWS]; TILE_ROWS]; 2]; PANELS];
                // Alone, a panel is read from memory, in one piece.
                let length = if alone { steps } else { RUN_GROUPS };
                for run in (0..steps).step_by(length) {
                    let run = run..steps.min(run + length);
                    for (panel, products) in panels.clone().zip(&mut products) {
                        for (index, products) in products.iter_mut().enumerate().take(used) {
                            let following = task.following(&matrices[..used], index, panel);
                            let panel = matrices[index].panel_contents(panel);
                            let prefetch = match alone {
                                true => {
                                    Ahead { bytes: S::READ_AHEAD, end: panel.as_ptr_range().end, following }
                                }
                                false => Ahead { bytes: RUN_BYTES, end: std::ptr::null(), following },
                            };
                            // SAFETY: a panel has `steps` times 16 pairs of columns, and so has each row.
                            unsafe {
                                match count {
                                    TILE_ROWS => {
                                        tall_brain(simd, panel, x, stride, run.clone(), prefetch, products)
                                    }
                                    _ => rest_brain(simd, panel, x, stride, run.clone(), prefetch, products),
                                }
                            }
                        }
                    }
                }
                for (panel, products) in panels.clone().zip(&products) {
                    for column in 0..count {
                        let products = [&products[0][column], &products[1][column]];
                        finish(simd, *epilogue, products, panel, out, row + column);
                    }
                }
            }
        }
    }
}

/// What a step asks for: what lies some bytes ahead, beyond the end of a panel the following one.
#[derive(Clone, Copy)]
struct Ahead {
    bytes: usize,
    /// The end of the panel, or null where panels that follow are in a cache already.
    end: *const u8,
    following: *const u8,
}

impl Ahead {
    #[inline(always)]
    fn of(self, from: *const u8) -> *const u8 {
        let at = from.wrapping_add(self.bytes);
        match self.end.is_null() || at < self.end {
            true => at,
            false => self.following.wrapping_add(at as usize - self.end as usize),
        }
    }
}

/// One tile kernel for whole tiles and one for what is left.
macro_rules! brain_tile {
    ($name:ident, $low:literal, $high:literal, $x:literal) => {
        /// Adds the products of a run of steps of a panel with rows of pairs, `stride` pairs apart.
        ///
        /// # Safety
        /// Panel and rows have the run's steps, of 16 pairs each; tiles are configured.
        #[inline(always)]
        unsafe fn $name<S: Simd>(
            simd: S,
            panel: &[u8],
            x: *const u32,
            stride: usize,
            run: Range<usize>,
            prefetch: Ahead,
            products: &mut [[f32; PANEL_ROWS]; TILE_ROWS],
        ) {
            let to = products.as_mut_ptr().cast::<u8>();
            // SAFETY: the caller's promise; a row of products is as long as a pair's column.
            unsafe {
                tile_load!($low, to, PAIR_BYTES);
                tile_load!($high, to.add(TILE_ROW), PAIR_BYTES);
                for step in run {
                    let from = panel.as_ptr().add(step * STEP_BYTES);
                    let ahead = prefetch.of(from);
                    for line in (0..STEP_BYTES).step_by(TILE_ROW) {
                        simd.prefetch(ahead.wrapping_add(line));
                    }
                    tile_load!($x, x.add(step * TILE_ROWS), 4 * stride);
                    tile_load!(6, from, PAIR_BYTES);
                    tile_load!(7, from.add(TILE_ROW), PAIR_BYTES);
                    tile_dot_brain!($low, $x, 6);
                    tile_dot_brain!($high, $x, 7);
                }
                tile_store!($low, to, PAIR_BYTES);
                tile_store!($high, to.add(TILE_ROW), PAIR_BYTES);
            }
        }
    };
}
brain_tile!(tall_brain, 0, 1, 2);
brain_tile!(rest_brain, 3, 4, 5);
