//! Panels of block formats, unpacked once for all rows of activations that pass by.
//!
//! With many rows it costs less to put the codes together once than in every tile. A thread keeps a
//! workspace for a few panels:
//!
//! ```text
//! for each half of 16 rows
//!   codes   [blocks][8 steps][16 rows][4]       a byte each: for tiles i8, less the offset, else u8
//!   scales  [groups][16 rows] f32
//!   minima  [groups][16 rows] f32               (with minima)
//! ```
//!
//! Tile registers take all steps of a group at once ([`super::tiled`]), vectors one step after the
//! other with the formula, and so the bits, of [`super::quantised`].

use super::activations::{ActivationBlock, ActivationKind, prepared_len};
use super::matmul::{Panels, Prefetch, Tile};
use super::quantised::{Format, Part, Source, add_group};
use crate::memory::{AlignedBytes, CACHE_LINE};
use crate::pack::PackedMatrix;
use crate::pack::layout::BLOCK;
use crate::simd::{LANES, Simd};
use std::cell::RefCell;
use std::marker::PhantomData;

/// Bytes of a step of 16 rows.
const STEP: usize = 4 * LANES;

thread_local! {
    /// Unpacked panels; grows to the largest that the thread has seen.
    static WORKSPACE: RefCell<Option<AlignedBytes>> = const { RefCell::new(None) };
}

/// Groups of weights in a row, and where an unpacked panel has what.
#[derive(Clone, Copy)]
pub(super) struct Unpacked {
    /// Groups of weights in a row.
    pub(super) groups: usize,
    /// Bytes of a group's codes.
    pub(super) code_bytes: usize,
    /// Vectors of floats of a group: scales, and minima where the format has them.
    floats: usize,
}

impl Unpacked {
    /// Of rows of so many blocks.
    pub(super) fn new<F: Format>(blocks: usize) -> Self {
        let per_block = const { F::LAYOUT.groups_per_block() };
        let floats = const { if F::LAYOUT.minima { 2 } else { 1 } };
        Self { groups: blocks * per_block, code_bytes: BLOCK / per_block * LANES, floats }
    }

    /// Of the rows of a matrix.
    fn of<F: Format>(weight: &PackedMatrix) -> Self {
        Self::new::<F>(prepared_len(ActivationKind::Int8, weight.columns()))
    }

    /// Bytes of a half: codes, scales, minima.
    pub(super) fn half_bytes(self) -> usize {
        self.groups * (self.code_bytes + self.floats * size_of::<[f32; LANES]>())
    }

    /// Bytes of a panel.
    pub(super) fn bytes(self) -> usize {
        2 * self.half_bytes()
    }

    /// Where a half has the codes of a group.
    pub(super) fn codes(self, half: *mut u8, group: usize) -> *mut u8 {
        half.wrapping_add(group * self.code_bytes)
    }

    /// Where it has its scales.
    pub(super) fn scales(self, half: *mut u8, group: usize) -> *mut f32 {
        let at = self.groups * self.code_bytes + group * size_of::<[f32; LANES]>();
        half.wrapping_add(at).cast()
    }

    /// Where it has its minima.
    pub(super) fn minima(self, half: *mut u8, group: usize) -> *mut f32 {
        self.scales(half, self.groups + group)
    }
}

/// Bytes of an unpacked panel of `weight`.
pub(super) fn unpacked_bytes<F: Format>(weight: &PackedMatrix) -> usize {
    Unpacked::of::<F>(weight).bytes()
}

/// Runs `job` with room for `panels` unpacked panels of two matrices like `weight`, which the thread keeps.
pub(super) fn with_workspace<F: Format>(weight: &PackedMatrix, panels: usize, job: impl FnOnce(*mut u8)) {
    let wanted = 2 * panels * unpacked_bytes::<F>(weight);
    WORKSPACE.with_borrow_mut(|workspace| {
        if workspace.as_ref().is_none_or(|memory| memory.as_slice().len() < wanted) {
            *workspace = Some(AlignedBytes::zeroed(wanted).expect("memory for a few unpacked panels"));
        }
        if let Some(memory) = workspace {
            job(memory.start());
        }
    });
}

/// Unpacks a panel, `offset` taken off each code.
///
/// # Safety
/// The panel is one of `F`, whose shape is that of `unpacked`, and `to` has room for it.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, F: Format>(
    simd: S,
    panel: &[u8],
    mut prefetch: Prefetch,
    offset: u8,
    unpacked: Unpacked,
    to: *mut u8,
) {
    let layout = const { F::LAYOUT };
    let steps = unpacked.code_bytes / STEP;
    for half in 0..2 {
        let to = to.wrapping_add(half * unpacked.half_bytes());
        for group in 0..unpacked.groups {
            prefetch.advance(simd);
            let block = group / layout.groups_per_block();
            let part = Part {
                start: panel.as_ptr().wrapping_add(block / layout.blocks() * layout.super_bytes()),
                index: block % layout.blocks(),
                group: group % layout.groups_per_block(),
            };
            // SAFETY: the caller's promise: the panel has this group.
            unsafe {
                for step in 0..steps {
                    let codes = Source::<F>::codes(part, simd, half, part.group * steps + step);
                    let codes = if offset == 0 { codes } else { simd.sub_bytes(codes, offset) };
                    simd.store_bytes(unpacked.codes(to, group).add(step * STEP), codes);
                }
                simd.store(unpacked.scales(to, group), Source::<F>::scale(part, simd, half));
                if layout.minima {
                    simd.store(unpacked.minima(to, group), Source::<F>::minimum(part, simd, half));
                }
            }
        }
    }
}

/// Panels that are unpacked into a workspace of one panel for each of two matrices.
pub(super) struct Unpacking<F> {
    /// Of [`with_workspace`].
    workspace: *mut u8,
    format: PhantomData<F>,
}

impl<F: Format> Unpacking<F> {
    /// Into this workspace.
    ///
    /// # Safety
    /// It has room for a panel of each matrix of the products for which this is used, and is nobody else's.
    pub(super) unsafe fn into(workspace: *mut u8) -> Self {
        Self { workspace, format: PhantomData }
    }
}

impl<F: Format> Panels for Unpacking<F> {
    #[inline(always)]
    fn contents<'a, S: Simd>(
        &'a mut self,
        simd: S,
        matrices: [&'a PackedMatrix; 2],
        used: usize,
        panel: usize,
    ) -> [&'a [u8]; 2] {
        let mut contents = [&[][..]; 2];
        for (index, weight) in matrices.into_iter().enumerate().take(used) {
            let unpacked = Unpacked::of::<F>(weight);
            let to = self.workspace.wrapping_add(index * unpacked.bytes());
            // SAFETY: the promise of `into`; what was unpacked before is borrowed no more.
            contents[index] = unsafe {
                unpack::<S, F>(simd, weight.panel_contents(panel), Prefetch::NONE, 0, unpacked, to);
                std::slice::from_raw_parts(to, unpacked.bytes())
            };
        }
        contents
    }
}

/// The tile of a format whose panels are unpacked.
pub(super) struct FromUnpacked<F>(PhantomData<F>);

impl<F: Format> Tile for FromUnpacked<F> {
    type Activation = ActivationBlock;
    const RUN: usize = 1;

    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const C: usize>(
        simd: S,
        panel: *const u8,
        first_half: usize,
        blocks: usize,
        mut x: [*const ActivationBlock; C],
        mut prefetch: Prefetch,
    ) -> [[S::F32; C]; R] {
        let per_block = const { F::LAYOUT.groups_per_block() };
        let shape = Unpacked::new::<F>(blocks);
        let mut sums = [[simd.splat(0.0); C]; R];
        for block in 0..blocks {
            prefetch.advance(simd);
            for index in 0..per_block {
                let part = UnpackedPart { panel, shape, block, group: block * per_block + index };
                // SAFETY: the caller's promise: the panel has `blocks` blocks, and so has each of `x`.
                unsafe { add_group::<S, F, _, R, C>(simd, part, index, first_half, x, &mut sums) };
            }
            for x in &mut x {
                *x = x.wrapping_add(1);
            }
        }
        sums
    }
}

/// A group of an unpacked panel.
#[derive(Clone, Copy)]
struct UnpackedPart {
    panel: *const u8,
    shape: Unpacked,
    block: usize,
    group: usize,
}

impl UnpackedPart {
    /// Where a half of the panel begins.
    fn half(self, half: usize) -> *mut u8 {
        self.panel.wrapping_add(half * self.shape.half_bytes()).cast_mut()
    }
}

impl<F: Format> Source<F> for UnpackedPart {
    #[inline(always)]
    unsafe fn codes<S: Simd>(self, simd: S, half: usize, step: usize) -> S::Bytes {
        let at = self.block * BLOCK * LANES + step * STEP;
        // SAFETY: the caller's promise.
        unsafe { simd.load_bytes(self.half(half).add(at)) }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(self, simd: S, half: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(self.shape.scales(self.half(half), self.group)) }
    }

    #[inline(always)]
    unsafe fn minimum<S: Simd>(self, simd: S, half: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(self.shape.minima(self.half(half), self.group)) }
    }
}

const _: () = assert!(STEP == CACHE_LINE, "a step is a cache line");
