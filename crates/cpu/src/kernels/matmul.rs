//! Matrix products: which tiles, in which order, and what happens to their results.
//!
//! A panel of 32 weight rows is the outer loop: it is read from memory once, while all rows of
//! activations pass by in tiles of a few. Each tile also asks for its share of the next panel, so
//! that a batch, too, runs at the speed of the weight stream. See [`Tile`] for what a tile computes.

use super::activations::{
    ActivationBlock, ActivationKind, Activations, prepared_len, prepared_stride, quantise_vectors,
};
#[cfg(target_arch = "x86_64")]
use super::float::TileOrder;
use super::float::{Brain, BrainFloats, F16, F32, Float};
use super::math::silu;
use super::quantised::{Format, Quantised, formats};
#[cfg(target_arch = "x86_64")]
use super::tiled::{self, TiledBrain, TiledBytes, tiles_fit};
use super::unpacked::{FromUnpacked, Unpacking, with_workspace};
use crate::isa::{Isa, Kernel};
use crate::pack::layout::BLOCK;
use crate::pack::{PANEL_ROWS, PackedMatrix};
use crate::simd::{LANES, Simd};
use alti_tensor::DType;
use std::marker::PhantomData;
use std::ops::Range;

/// Where results go: rows of floats, of which one thread writes some columns of some rows.
#[derive(Debug)]
pub struct OutputMatrix<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    /// Where the rows go as 8-bit activations, too, [`prepared_stride`] apart; or null.
    blocks: *mut ActivationBlock,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a borrow of floats, and of blocks; who shares it promises that writes do not meet
// (`OutputMatrix::share`).
unsafe impl Send for OutputMatrix<'_> {}

impl<'a> OutputMatrix<'a> {
    /// `[rows][columns]`.
    ///
    /// # Panics
    /// When `values` is not whole rows.
    pub fn new(values: &'a mut [f32], columns: usize) -> Self {
        assert_eq!(values.len() % columns.max(1), 0, "outputs are whole rows");
        let rows = values.len() / columns.max(1);
        Self { start: values.as_mut_ptr(), rows, columns, blocks: std::ptr::null_mut(), borrow: PhantomData }
    }

    /// The same matrix, for another thread.
    ///
    /// # Safety
    /// No two matmuls that run at the same time write the same panel of the same row.
    pub unsafe fn share(&self) -> Self {
        Self { ..*self }
    }

    /// `start` must be valid for `rows * columns` floats as long as the result lives.
    ///
    /// # Safety
    /// As said, and as [`OutputMatrix::share`].
    pub unsafe fn from_raw(start: *mut f32, rows: usize, columns: usize) -> Self {
        Self { start, rows, columns, blocks: std::ptr::null_mut(), borrow: PhantomData }
    }

    /// What the product that follows wants of it, made while the values are in registers: a panel of the
    /// weight is a block of activations.
    ///
    /// # Safety
    /// `blocks` must be valid for the rows' prepared activations as long as `self` lives, and nobody else
    /// touches those of the panels that are written.
    ///
    /// # Panics
    /// When a row is not whole blocks.
    pub unsafe fn and_blocks(self, blocks: *mut ActivationBlock) -> Self {
        const { assert!(PANEL_ROWS == BLOCK) };
        assert!(self.columns.is_multiple_of(BLOCK), "a row is whole blocks");
        Self { blocks, ..self }
    }
}

/// What happens to a product.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// It is the output.
    Store,
    /// It is added to the output: a residual connection.
    Add,
    /// The output is `silu(product) * (the product with this matrix)`.
    SwiGlu {
        /// A matrix of the same shape and dtype.
        up: &'a PackedMatrix,
    },
}

impl<'a> Epilogue<'a> {
    /// The matrices of a product with `weight`, and how many of them there are.
    pub(super) fn matrices(&self, weight: &'a PackedMatrix) -> ([&'a PackedMatrix; 2], usize) {
        match self {
            Epilogue::SwiGlu { up } => ([weight, up], 2),
            Epilogue::Store | Epilogue::Add => ([weight; 2], 1),
        }
    }
}

/// `out = activations * weight^T`, or a thread's share of it.
#[derive(Clone, Debug)]
pub struct Matmul<'a> {
    /// `[outputs, inputs]`.
    pub weight: &'a PackedMatrix,
    /// Panels of the weight to use: the columns of the output to write.
    pub panels: Range<usize>,
    /// All rows, prepared as [`PackedMatrix::activation_kind`] says.
    pub activations: Activations<'a>,
    /// Rows of the activations to use, and of the output to write.
    pub rows: Range<usize>,
    /// What happens to the product.
    pub epilogue: Epilogue<'a>,
    /// The panel that this thread reads after these, to be asked for ahead.
    pub next: Option<&'a [u8]>,
}

impl Matmul<'_> {
    /// What is read after a panel: the next one in the order of `matrices`, one panel of each at a
    /// time, or where another product begins.
    #[inline]
    pub(super) fn following(&self, matrices: &[&PackedMatrix], index: usize, panel: usize) -> *const u8 {
        let next = match matrices.get(index + 1) {
            Some(matrix) => Some(matrix.panel_contents(panel)),
            None if panel + 1 < self.panels.end => Some(matrices[0].panel_contents(panel + 1)),
            None => self.next,
        };
        // Where nothing is known to follow, what lies behind does no harm.
        let behind = || matrices[index.min(matrices.len() - 1)].panel_contents(panel).as_ptr_range().end;
        next.map_or_else(behind, <[u8]>::as_ptr)
    }
}

/// Runs a product.
///
/// # Panics
/// When the shapes do not fit each other, or activations were prepared for another instruction set.
pub fn matmul(isa: Isa, task: &Matmul<'_>, out: &mut OutputMatrix<'_>) {
    check(isa, task, out);
    /// One compiled kernel per format.
    macro_rules! dispatch {
        ($($dtype:ident => $job:ident::<$tile:ty>, $kind:ident;)*) => {
            match (task.weight.dtype(), task.activations) {
                $((DType::$dtype, Activations::$kind(x)) => $job::<$tile>(isa, task, x, out),)*
                (dtype, _) => panic!("{dtype} weights want other activations"),
            }
        };
    }
    dispatch! {
        F32 => floats::<Float<F32>>, F32;
        F16 => floats::<Float<F16>>, F32;
        BF16 => brains::<Float<Brain>>, Brain;
        BF16 => floats::<Float<BrainFloats>>, BrainFloats;
        Q4_0 => bytes::<formats::Q4_0>, Int8;
        Q4_1 => bytes::<formats::Q4_1>, Int8;
        Q5_0 => bytes::<formats::Q5_0>, Int8;
        Q5_1 => bytes::<formats::Q5_1>, Int8;
        Q8_0 => bytes::<formats::Q8_0>, Int8;
        Q2_K => bytes::<formats::Q2_K>, Int8;
        Q3_K => bytes::<formats::Q3_K>, Int8;
        Q4_K => bytes::<formats::Q4_K>, Int8;
        Q5_K => bytes::<formats::Q5_K>, Int8;
        Q6_K => bytes::<formats::Q6_K>, Int8;
        IQ4_NL => bytes::<formats::IQ4_NL>, Int8;
        IQ4_XS => bytes::<formats::IQ4_XS>, Int8;
        MXFP4 => bytes::<formats::MXFP4>, Int8;
    }
}

fn floats<T: Tile>(isa: Isa, task: &Matmul<'_>, x: &[T::Activation], out: &mut OutputMatrix<'_>) {
    isa.run(Job::<T, Packed> { task, x, out, panels: Packed });
}

/// BF16: in tile registers, or as they would, where the machine has them.
fn brains<T: Tile<Activation = u32>>(isa: Isa, task: &Matmul<'_>, x: &[u32], out: &mut OutputMatrix<'_>) {
    #[cfg(target_arch = "x86_64")]
    if tiles_fit(task.weight) {
        // A single row is bound by memory, which vectors read faster.
        let done = match task.rows.len() {
            1 => isa.run_tiled(|_| Job::<TileOrder, _> { task, x, out: &mut *out, panels: Packed }),
            _ => isa.run_tiled(|tiles| TiledBrain { tiles, task, x, out: &mut *out }),
        };
        if done.is_some() {
            return;
        }
    }
    isa.run(Job::<T, Packed> { task, x, out, panels: Packed });
}

/// From so many rows on, a panel is unpacked before they pass by, if [`Isa::unpacks`] (`matmul_speed` shows where). Tiles read it from end to end: it need not fit into
/// a cache near the core.
const FEWEST_UNPACKED: usize = 32;

/// A block format: in tile registers where the machine has them and there are enough rows.
fn bytes<F: Format>(isa: Isa, task: &Matmul<'_>, x: &[ActivationBlock], out: &mut OutputMatrix<'_>) {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles().is_some() && task.rows.len() >= tiled::FEWEST_ROWS {
        return with_workspace::<F>(task.weight, tiled::PANELS, |workspace| {
            isa.run_tiled(|tiles| TiledBytes::<F> { tiles, task, x, out, workspace, format: PhantomData });
        });
    }
    if isa.unpacks(task.weight.dtype()) && task.rows.len() >= FEWEST_UNPACKED {
        return with_workspace::<F>(task.weight, 1, |workspace| {
            // SAFETY: the workspace is for one panel of each matrix, and for this job.
            let panels = unsafe { Unpacking::<F>::into(workspace) };
            isa.run(Job::<FromUnpacked<F>, _> { task, x, out, panels });
        });
    }
    isa.run(Job::<Quantised<F>, _> { task, x, out, panels: Packed });
}

/// What the kernels' pointers rely on.
fn check(isa: Isa, task: &Matmul<'_>, out: &OutputMatrix<'_>) {
    let weight = task.weight;
    let (kind, prepared) = (task.activations.kind(), task.activations.elements());
    assert_eq!(
        kind,
        weight.activation_kind(isa),
        "{} weights want other activations on {}",
        weight.dtype(),
        isa.name()
    );
    let stride = prepared_stride(kind, weight.columns());
    assert!(task.panels.end <= weight.panels(), "no such panels");
    assert!(task.rows.end.checked_mul(stride).is_some_and(|n| n <= prepared), "no such activations");
    assert!(task.rows.end <= out.rows && weight.rows() == out.columns, "the output does not fit");
    if let Epilogue::SwiGlu { up } = task.epilogue {
        let shape = |m: &PackedMatrix| (m.dtype(), m.rows(), m.columns());
        assert_eq!(shape(up), shape(weight), "gate and up differ");
    }
}

/// The inner kernel of a format.
pub(super) trait Tile {
    /// An element of prepared activations.
    type Activation: Copy;
    /// Prepared activations between two prefetches.
    const RUN: usize;
    /// Whether what it adds to are the sums alone, without integers beside them.
    const FLOATS: bool = false;

    /// The products of `16 R` rows of a panel, from half `first_half` on, with `C` rows of `steps`
    /// prepared activations each. Output `[r][c]` depends on `x[c]` alone, and not on `R` and `C`.
    ///
    /// # Safety
    /// The panel and every `x` must hold `steps` steps.
    unsafe fn run<S: Simd, const R: usize, const C: usize>(
        simd: S,
        panel: *const u8,
        first_half: usize,
        steps: usize,
        x: [*const Self::Activation; C],
        prefetch: Prefetch,
    ) -> [[S::F32; C]; R];
}

/// Most columns of a tile that is 32 rows high.
const fn tall_columns<S: Simd, T: Tile>() -> usize {
    if T::FLOATS { S::TALL_FLOAT_COLUMNS } else { S::TALL_COLUMNS }
}

/// Most columns of a tile that is 16 rows high.
const fn low_columns<S: Simd, T: Tile>() -> usize {
    if T::FLOATS { S::LOW_FLOAT_COLUMNS } else { S::LOW_COLUMNS }
}

/// Most columns of a tile.
pub(super) const fn widest<S: Simd, T: Tile>() -> usize {
    let (tall, low) = (tall_columns::<S, T>(), low_columns::<S, T>());
    if tall > low { tall } else { low }
}

/// Cache lines to ask for while a tile runs, some at each of its steps: those of a stretch of
/// memory, then those of another.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    at: *const u8,
    /// Where the first stretch ends.
    end: *const u8,
    /// Where the other begins.
    then: *const u8,
    lines: usize,
}

impl Prefetch {
    /// Asks for nothing.
    pub(super) const NONE: Prefetch =
        Prefetch { at: std::ptr::null(), end: std::ptr::null(), then: std::ptr::null(), lines: 0 };

    /// All lines of a panel that is read once, [`Simd::READ_AHEAD`] bytes ahead, and the beginning of the one
    /// that is read after it.
    pub(super) fn ahead<S: Simd>(panel: &[u8], following: *const u8, steps: usize) -> Self {
        let end = panel.as_ptr_range().end;
        let (at, then) = match S::READ_AHEAD < panel.len() {
            true => (panel.as_ptr().wrapping_add(S::READ_AHEAD), following),
            false => (following, end),
        };
        Self { at, end, then, lines: panel.len().div_ceil(64).div_ceil(steps) }
    }

    /// For tile `index` of `tiles` that share a panel with the same number of `steps`: alone, it
    /// runs ahead of itself; several ask for the panel of the same size that follows together.
    pub(super) fn new<S: Simd>(
        panel: &[u8],
        following: *const u8,
        steps: usize,
        index: usize,
        tiles: usize,
    ) -> Self {
        if tiles == 1 {
            return Self::ahead::<S>(panel, following, steps);
        }
        let lines = panel.len().div_ceil(64);
        let share = lines.div_ceil(tiles).div_ceil(steps) * steps;
        let first = share * index;
        let at = following.wrapping_add(64 * first);
        Self { at, lines: if first < lines { share / steps } else { 0 }, ..Self::NONE }
    }

    /// The same lines where a step is taken in so many parts.
    pub(super) fn in_parts(self, parts: usize) -> Self {
        Self { lines: self.lines.div_ceil(parts), ..self }
    }

    /// Asks for the lines of one step.
    #[inline(always)]
    pub(super) fn advance<S: Simd>(&mut self, simd: S) {
        for _ in 0..self.lines {
            simd.prefetch_second(self.at);
            self.at = self.at.wrapping_add(64);
            if self.at == self.end {
                self.at = self.then;
            }
        }
    }
}

/// Most columns of a tile on any instruction set.
const MAX_COLUMNS: usize = 12;

/// Products of a tile, `[matrix][column][row]`, in cache lines: no vector lies in two of them.
#[repr(align(64))]
struct Scratch([[[f32; PANEL_ROWS]; MAX_COLUMNS]; 2]);

/// What tiles read of a panel.
pub(super) trait Panels {
    /// The contents of a panel of the first `used` matrices of a product.
    fn contents<'a, S: Simd>(
        &'a mut self,
        simd: S,
        matrices: [&'a PackedMatrix; 2],
        used: usize,
        panel: usize,
    ) -> [&'a [u8]; 2];
}

/// Panels as they are packed.
struct Packed;

impl Panels for Packed {
    #[inline(always)]
    fn contents<'a, S: Simd>(
        &'a mut self,
        _: S,
        matrices: [&'a PackedMatrix; 2],
        _: usize,
        panel: usize,
    ) -> [&'a [u8]; 2] {
        // No closure: it would be called for each panel.
        [matrices[0].panel_contents(panel), matrices[1].panel_contents(panel)]
    }
}

struct Job<'a, 'b, 'c, T: Tile, P> {
    task: &'a Matmul<'b>,
    x: &'a [T::Activation],
    out: &'a mut OutputMatrix<'c>,
    panels: P,
}

impl<T: Tile, P: Panels> Kernel for Job<'_, '_, '_, T, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Matmul { weight, panels, rows, epilogue, activations, .. } = self.task;
        let kind = activations.kind();
        let (steps, stride) = (prepared_len(kind, weight.columns()), prepared_stride(kind, weight.columns()));
        let (matrices, used) = epilogue.matrices(weight);
        let Scratch(scratch) = &mut Scratch([[[0.0; PANEL_ROWS]; MAX_COLUMNS]; 2]);
        let tiles = rows.len().div_ceil(widest::<S, T>());
        for panel in panels.clone() {
            let contents = self.panels.contents(simd, matrices, used, panel);
            let mut row = rows.start;
            for tile in 0..tiles {
                let count = (rows.end - row).div_ceil(tiles - tile);
                let x = &self.x[row * stride..(row + count - 1) * stride + steps];
                for (index, products) in scratch.iter_mut().enumerate().take(used) {
                    let bytes = matrices[index].panel_contents(panel);
                    // Tiles that share a panel pass by all matrices before the next panel.
                    let following = match tiles {
                        1 => self.task.following(&matrices[..used], index, panel),
                        _ => self.task.following(&matrices[index..=index], 0, panel),
                    };
                    let prefetch = Prefetch::new::<S>(bytes, following, steps.div_ceil(T::RUN), tile, tiles);
                    let columns = Columns { x, steps, stride };
                    run_tile::<S, T>(simd, contents[index], columns, prefetch, products);
                }
                for (column, out_row) in (row..row + count).enumerate() {
                    let products = [&scratch[0][column], &scratch[1][column]];
                    finish(simd, *epilogue, products, panel, self.out, out_row);
                }
                row += count;
            }
        }
    }
}

/// Rows of prepared activations: the columns of a tile.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a, A> {
    /// From the first element of the first to the last of the last.
    pub(super) x: &'a [A],
    /// Elements of a row.
    pub(super) steps: usize,
    /// Elements from one row to the next.
    pub(super) stride: usize,
}

/// Runs the tile of as many columns as there are.
#[inline(always)]
pub(super) fn run_tile<S: Simd, T: Tile>(
    simd: S,
    panel: &[u8],
    columns: Columns<'_, T::Activation>,
    prefetch: Prefetch,
    products: &mut [[f32; PANEL_ROWS]],
) {
    macro_rules! widths {
        ($($columns:literal)*) => {
            match (columns.x.len() - columns.steps) / columns.stride + 1 {
                // Shapes that the machine has no registers for are not even compiled.
                $($columns => {
                    if const { $columns <= tall_columns::<S, T>() } {
                        tile::<S, T, 2, $columns>(simd, panel, 0, columns, prefetch, products);
                    } else if const { $columns <= low_columns::<S, T>() } {
                        tile::<S, T, 1, $columns>(simd, panel, 0, columns, prefetch, products);
                        let none = Prefetch { lines: 0, ..prefetch };
                        tile::<S, T, 1, $columns>(simd, panel, 1, columns, none, products);
                    } else {
                        unreachable!("a tile is as wide as registers allow")
                    }
                })*
                width => unreachable!("tiles are not {width} wide"),
            }
        };
    }
    widths!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// Runs a tile and writes its products down.
#[inline(always)]
fn tile<S: Simd, T: Tile, const R: usize, const C: usize>(
    simd: S,
    panel: &[u8],
    first_half: usize,
    columns: Columns<'_, T::Activation>,
    prefetch: Prefetch,
    products: &mut [[f32; PANEL_ROWS]],
) {
    let Columns { x, steps, stride } = columns;
    let mut pointers = [x.as_ptr(); C];
    for (c, pointer) in pointers.iter_mut().enumerate() {
        *pointer = x[c * stride..c * stride + steps].as_ptr();
    }
    // SAFETY: a panel of the matrix has a step for each prepared activation of a row (`check`), and
    // each pointer is to a row of `steps`.
    let sums = unsafe { T::run::<S, R, C>(simd, panel.as_ptr(), first_half, steps, pointers, prefetch) };
    for c in 0..C {
        for r in 0..R {
            let (vectors, _) = products[c].as_chunks_mut::<LANES>();
            // SAFETY: a vector of the scratch is 16 floats.
            unsafe { simd.store(vectors[first_half + r].as_mut_ptr(), sums[r][c]) };
        }
    }
}

/// Brings the products of a panel with one row of activations to their place in the output.
#[inline(always)]
pub(super) fn finish<S: Simd>(
    simd: S,
    epilogue: Epilogue<'_>,
    products: [&[f32; PANEL_ROWS]; 2],
    panel: usize,
    out: &mut OutputMatrix<'_>,
    row: usize,
) {
    let mut values = [simd.splat(0.0); PANEL_ROWS / LANES];
    let whole = (panel + 1) * PANEL_ROWS <= out.columns;
    for (half, value) in values.iter_mut().enumerate() {
        let first = panel * PANEL_ROWS + half * LANES;
        let count = if whole { LANES } else { out.columns.saturating_sub(first).min(LANES) };
        // SAFETY: `check` has compared the output with rows and panels, `count` ends at its last
        // column, and no other thread writes this panel of this row (`OutputMatrix::share`).
        unsafe {
            let product = simd.load(products[0].as_ptr().add(half * LANES));
            let to = out.start.add(row * out.columns + first.min(out.columns));
            *value = match epilogue {
                Epilogue::Store => product,
                Epilogue::Add if whole => simd.add(simd.load(to), product),
                Epilogue::Add => simd.add(simd.load_partial(to, count, 0.0), product),
                Epilogue::SwiGlu { .. } => {
                    let up = simd.load(products[1].as_ptr().add(half * LANES));
                    simd.mul(silu(simd, product), up)
                }
            };
            if whole {
                simd.store(to, *value);
            } else {
                simd.store_partial(to, count, *value);
            }
        }
    }
    if !out.blocks.is_null() {
        let stride = prepared_stride(ActivationKind::Int8, out.columns);
        // SAFETY: the promise of `OutputMatrix::and_blocks`; the row has this panel (`check`).
        let block = unsafe { &mut *out.blocks.add(row * stride + panel) };
        quantise_vectors(simd, values[0], values[1], block);
    }
}
