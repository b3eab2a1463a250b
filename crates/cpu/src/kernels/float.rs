//! The matmul tiles of F32, F16 and BF16 weights.
//!
//! An output is, over the columns in order, `sum = fma(weight, activation, sum)` with f32
//! activations; for BF16, over pairs of columns, [`Simd::dot_brain`] with bf16 activations.
//! The layouts of the panels are drawn in [`crate::pack`].

#![allow(clippy::needless_range_loop)] // indices are rows and columns of a tile

use super::matmul::{Prefetch, Tile};
use crate::pack::PANEL_ROWS;
use crate::simd::{LANES, Simd};

/// One step of a tile: what 16 rows hold for one activation, and how it is added.
pub(super) trait Step {
    /// One activation (or a pair).
    type Activation: Copy;
    /// What 16 rows hold for it.
    type Weights<S: Simd>: Copy;
    /// Bytes of it in a row.
    const BYTES: usize;
    /// 16 rows from memory.
    ///
    /// # Safety
    /// At least 16 times `BYTES` can be read at `from`.
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> Self::Weights<S>;
    /// Adds the products.
    fn add<S: Simd>(simd: S, sum: S::F32, weights: Self::Weights<S>, x: Self::Activation) -> S::F32;
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
    fn add<S: Simd>(simd: S, sum: S::F32, weights: S::F32, x: f32) -> S::F32 {
        simd.mul_add(weights, simd.splat(x), sum)
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
    fn add<S: Simd>(simd: S, sum: S::F32, weights: S::F32, x: f32) -> S::F32 {
        simd.mul_add(weights, simd.splat(x), sum)
    }
}

pub(super) struct Brain;
impl Step for Brain {
    type Activation = u32;
    type Weights<S: Simd> = S::Bytes;
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bytes(from) }
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, sum: S::F32, weights: S::Bytes, x: u32) -> S::F32 {
        simd.dot_brain(sum, weights, x)
    }
}

/// The tile of a float format.
pub(super) struct Float<F>(std::marker::PhantomData<F>);

/// Activations between two prefetches.
const RUN: usize = 8;

impl<F: Step> Tile for Float<F> {
    type Activation = F::Activation;
    const RUN: usize = RUN;

    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const C: usize>(
        simd: S,
        panel: *const u8,
        first_half: usize,
        steps: usize,
        x: [*const F::Activation; C],
        mut prefetch: Prefetch,
    ) -> [[S::F32; C]; R] {
        let mut sums = [[simd.splat(0.0); C]; R];
        for run in (0..steps).step_by(RUN) {
            prefetch.advance(simd);
            for k in run..steps.min(run + RUN) {
                for r in 0..R {
                    let row = k * PANEL_ROWS + (first_half + r) * LANES;
                    // SAFETY: the caller's promise: the panel and each of `x` have `steps` steps.
                    unsafe {
                        let weights = F::load(simd, panel.add(row * F::BYTES));
                        for c in 0..C {
                            sums[r][c] = F::add(simd, sums[r][c], weights, *x[c].add(k));
                        }
                    }
                }
            }
        }
        sums
    }
}
