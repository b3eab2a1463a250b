//! The matmul tiles of F32, F16 and BF16 weights.
//!
//! An output is, over the columns in order, `sum = fma(weight, activation, sum)` with f32
//! activations; for BF16, over pairs of columns, [`Simd::dot_brain`] with activations rounded to bf16, or the same in
//! floats ([`TileOrder`] says what else machines with tile registers do).
//! The layouts of the panels are drawn in [`crate::pack`].

#![allow(clippy::needless_range_loop)] // indices are rows and columns of a tile

use super::matmul::{Prefetch, Tile};
use crate::pack::PANEL_ROWS;
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;

/// One step of a tile: what 16 rows hold for one activation, and how it is added.
pub(super) trait Step {
    /// One activation (or a pair).
    type Activation: Copy;
    /// What 16 rows hold for it.
    type Weights<S: Simd>: Copy;
    /// Bytes of it in a row.
    const BYTES: usize;
    /// Where it is for one of the two values of [`Simd::KEEPS_BRAIN_FLOATS`] alone.
    const FOR_BRAIN_FLOATS: Option<bool> = None;
    /// 16 rows from memory.
    ///
    /// # Safety
    /// At least 16 times `BYTES` can be read at `from`.
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> Self::Weights<S>;
    /// Adds the products with what `x` points to: one that is taken apart is loaded in parts.
    ///
    /// # Safety
    /// It can be read.
    unsafe fn add<S: Simd>(
        simd: S,
        sum: S::F32,
        weights: Self::Weights<S>,
        x: *const Self::Activation,
    ) -> S::F32;
}

pub(super) struct F32;
impl Step for F32 {
    type Activation = f32;
    type Weights<S: Simd> = S::F32;
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add<S: Simd>(simd: S, sum: S::F32, weights: S::F32, x: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        simd.mul_add(weights, simd.splat(unsafe { *x }), sum)
    }
}

pub(super) struct F16;
impl Step for F16 {
    type Activation = f32;
    type Weights<S: Simd> = S::F32;
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_half(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add<S: Simd>(simd: S, sum: S::F32, weights: S::F32, x: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        simd.mul_add(weights, simd.splat(unsafe { *x }), sum)
    }
}

pub(super) struct Brain;
impl Step for Brain {
    type Activation = u32;
    type Weights<S: Simd> = S::Bytes;
    const BYTES: usize = 4;
    const FOR_BRAIN_FLOATS: Option<bool> = Some(false);

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bytes(from) }
    }
    #[inline(always)]
    unsafe fn add<S: Simd>(simd: S, sum: S::F32, weights: S::Bytes, x: *const u32) -> S::F32 {
        // SAFETY: the caller's promise.
        simd.dot_brain(sum, weights, unsafe { *x })
    }
}

/// BF16 as floats, with the bits of [`Brain`] where that keeps denormals.
pub(super) struct BrainFloats;
impl Step for BrainFloats {
    type Activation = [f32; 2];
    type Weights<S: Simd> = [S::F32; 2];
    const BYTES: usize = 4;
    const FOR_BRAIN_FLOATS: Option<bool> = Some(true);

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> [S::F32; 2] {
        // SAFETY: the caller's promise.
        simd.brain_floats(unsafe { simd.load_bytes(from) })
    }
    #[inline(always)]
    unsafe fn add<S: Simd>(simd: S, sum: S::F32, [low, high]: [S::F32; 2], x: *const [f32; 2]) -> S::F32 {
        let x: *const f32 = x.cast();
        // SAFETY: the caller's promise.
        let [x_low, x_high] = unsafe { [simd.splat(*x), simd.splat(*x.add(1))] };
        simd.mul_add(low, x_low, simd.mul_add(high, x_high, sum))
    }
}

/// The tile of a float format.
pub(super) struct Float<F>(std::marker::PhantomData<F>);

/// Activations between two prefetches.
const RUN: usize = 8;

/// The same of a single row, which is as fast as memory: lines are asked for a few at a time, as they are used.
const RUN_ALONE: usize = 2;

impl<F: Step> Tile for Float<F> {
    type Activation = F::Activation;
    const RUN: usize = RUN;
    const FLOATS: bool = true;

    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const C: usize>(
        simd: S,
        panel: *const u8,
        first_half: usize,
        steps: usize,
        x: [*const F::Activation; C],
        prefetch: Prefetch,
    ) -> [[S::F32; C]; R] {
        let mut sums = [[simd.splat(0.0); C]; R];
        // What `check` has ruled out is not even compiled.
        if const {
            matches!((F::FOR_BRAIN_FLOATS, S::KEEPS_BRAIN_FLOATS), (Some(true), false) | (Some(false), true))
        } {
            unreachable!("activations have another form on this instruction set");
        }
        let length = const { if C == 1 { RUN_ALONE } else { RUN } };
        let mut prefetch = prefetch.in_parts(RUN / length);
        for run in (0..steps).step_by(length) {
            prefetch.advance(simd);
            for k in run..steps.min(run + length) {
                // SAFETY: the caller's promise: the panel and each of `x` have `steps` steps.
                unsafe {
                    let mut weights = [MaybeUninit::uninit(); R];
                    for r in 0..R {
                        let row = k * PANEL_ROWS + (first_half + r) * LANES;
                        weights[r].write(F::load(simd, panel.add(row * F::BYTES)));
                    }
                    // Columns outside: an activation is loaded once for all rows.
                    for c in 0..C {
                        for r in 0..R {
                            sums[r][c] = F::add(simd, sums[r][c], weights[r].assume_init(), x[c].add(k));
                        }
                    }
                }
            }
        }
        sums
    }
}

/// BF16 in the order of the tile instruction, for a single row: vectors read a panel faster than tiles do.
///
/// `tdpbf16ps` adds the products of even and of odd columns up by themselves, 16 of each, and their sum to the output:
/// ```text
/// even = fma(weight[2k], x[2k], even)    odd = fma(weight[2k + 1], x[2k + 1], odd)    for k in 0..16
/// sum = sum + (even + odd)
/// ```
/// with denormals flushed to zero everywhere, as `vdpbf16ps` does, too (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2).
#[cfg(target_arch = "x86_64")] // for machines with tile registers
pub(super) struct TileOrder;

#[cfg(target_arch = "x86_64")]
impl Tile for TileOrder {
    type Activation = u32;
    /// Pairs of columns that a tile instruction takes.
    const RUN: usize = 16;
    const FLOATS: bool = true;

    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const C: usize>(
        simd: S,
        panel: *const u8,
        first_half: usize,
        steps: usize,
        x: [*const u32; C],
        mut prefetch: Prefetch,
    ) -> [[S::F32; C]; R] {
        /// The lower or the upper half of a pair; the other is zero, whose products change nothing.
        const HALVES: [u32; 2] = [0x0000_ffff, 0xffff_0000];
        let mut sums = [[simd.splat(0.0); C]; R];
        for run in (0..steps).step_by(Self::RUN) {
            prefetch.advance(simd);
            let mut parts = [[[simd.splat(0.0); 2]; C]; R];
            for k in run..run + Self::RUN {
                for r in 0..R {
                    let row = k * PANEL_ROWS + (first_half + r) * LANES;
                    // SAFETY: the caller's promise: the panel and each of `x` have `steps` steps, whole runs of them.
                    let weights = unsafe { simd.load_bytes(panel.add(4 * row)) };
                    let weights =
                        [simd.keep_halves(weights, true, false), simd.keep_halves(weights, false, true)];
                    for c in 0..C {
                        // SAFETY: as above.
                        let pair = unsafe { *x[c].add(k) };
                        for half in 0..2 {
                            let x = pair & HALVES[half];
                            parts[r][c][half] = simd.dot_brain(parts[r][c][half], weights[half], x);
                        }
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    let both = simd.add_flushed(parts[r][c][0], parts[r][c][1]);
                    sums[r][c] = simd.add_flushed(sums[r][c], both);
                }
            }
        }
        sums
    }
}
