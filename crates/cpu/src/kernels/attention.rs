//! Attention of one query head over one page of keys and values, with online softmax.
//!
//! A row's result is built page by page (Milakov and Gimelshein 2018; Dao et al. 2022): with the
//! page's scores `s_j`, the running maximum `m`, sum `l` and mixture `o` become
//!
//! ```text
//! m' = max(m, max_j s_j)      p_j = e^(s_j - m')      c = e^(m - m')
//! l' = c l + sum_j p_j        o' = c o + sum_j p_j v_j
//! ```
//!
//! Pages are at fixed absolute positions, so that a row has the same bits whether it comes in a
//! prefill or alone. `R` rows of one head go together only to share the loads; none sees another.

#![expect(clippy::needless_range_loop, reason = "indices are rows, vectors and tokens, as in the formulas")]

use crate::backend::cache::{HeadLayout, SCALE_GROUP};
use crate::kernels::math::exp;
use crate::simd::{LANES, Simd};
use alti_tensor::PAGE_TOKENS;
use std::ops::Range;

/// Vectors of scores in a page.
const VECTORS: usize = PAGE_TOKENS / LANES;

/// The running softmax of one row of one head.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    maximum: f32,
    sum: f32,
    /// `[width]`: the mixture so far.
    mixture: &'a mut [f32],
}

impl<'a> Running<'a> {
    /// In this memory, `[width]` (whole vectors); [`Running::reset`] comes before the first use.
    pub(crate) fn new(mixture: &'a mut [f32]) -> Running<'a> {
        Running { maximum: f32::NEG_INFINITY, sum: 0.0, mixture }
    }

    /// Nothing seen yet.
    pub(crate) fn reset(&mut self) {
        self.maximum = f32::NEG_INFINITY;
        self.sum = 0.0;
        self.mixture.fill(0.0);
    }

    /// The attention of what was seen.
    pub(crate) fn finish(&self, out: &mut [f32]) {
        for (out, mixture) in out.iter_mut().zip(self.mixture.iter()) {
            *out = mixture / self.sum;
        }
    }
}

/// How 16 stored keys or values become floats.
pub(crate) trait Stored: Copy {
    /// 16 of the values at `start`, from index `at` on.
    ///
    /// # Safety
    /// They are within what `start` points to.
    unsafe fn load<S: Simd>(simd: S, start: *const u8, at: usize) -> S::F32;
    /// Whether groups of 32 share a scale.
    const SCALED: bool;
}

/// 4 bytes a value.
#[derive(Clone, Copy)]
pub(crate) struct Single;
/// 2 bytes a value, bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Brain;
/// 1 byte a value, and scales.
#[derive(Clone, Copy)]
pub(crate) struct Scaled;

impl Stored for Single {
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, start: *const u8, at: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(start.cast::<f32>().add(at)) }
    }
}

impl Stored for Brain {
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, start: *const u8, at: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_brain(start.cast::<u16>().add(at)) }
    }
}

impl Stored for Scaled {
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, start: *const u8, at: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        simd.to_f32(unsafe { simd.load_i8(start.cast::<i8>().add(at)) })
    }
}

/// One head's block of a page, and the tokens of it that rows see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// The block, laid out as `head` says.
    pub(crate) start: *const u8,
    /// Its layout.
    pub(crate) head: HeadLayout,
}

/// Takes a page into `R` rows' running softmax. Row `r` sees the tokens `seen[r]` of the page, at
/// least one; its query is `queries[r]`, `[head_dim]`, the factor on the scores in it already.
///
/// # Safety
/// `block` points to a block of its layout; every token in `seen` has been stored in it.
#[inline(always)]
pub(crate) unsafe fn attend_page<S: Simd, K: Stored, const R: usize>(
    simd: S,
    block: Block,
    queries: [&[f32]; R],
    seen: [Range<usize>; R],
    mut rows: [&mut Running<'_>; R],
) {
    // SAFETY: the caller's promise.
    let mut weights = unsafe { scores::<S, K, R>(simd, block, queries) };
    let mut corrections = [0f32; R];
    for r in 0..R {
        corrections[r] = softmax(simd, &mut weights[r], &seen[r], rows[r]);
    }
    let first = seen.iter().map(|seen| seen.start).min().unwrap_or(0);
    let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
    let mixtures = rows.each_mut().map(|row| row.mixture.as_mut_ptr());
    // SAFETY: the caller's promise; a mixture has `width` floats.
    unsafe { mix::<S, K, R>(simd, block, &weights, first..last, corrections, mixtures) };
}

/// The scores of all tokens of the page, those that nobody stored undefined.
///
/// # Safety
/// `block` is a page of one head stored as `K`, and each query has the head's width.
#[inline(always)]
unsafe fn scores<S: Simd, K: Stored, const R: usize>(
    simd: S,
    block: Block,
    queries: [&[f32]; R],
) -> [[f32; PAGE_TOKENS]; R] {
    let head = block.head;
    let mut out = [[0f32; PAGE_TOKENS]; R];
    let group = if K::SCALED { SCALE_GROUP } else { head.head_dim };
    // Two vectors of tokens at a time: with four rows, eight sums hide the latency of one.
    for pair in 0..VECTORS / 2 {
        let mut sums = [[simd.splat(0.0); 2]; R];
        for (index, from) in (0..head.head_dim).step_by(group).enumerate() {
            let mut partial = [[simd.splat(0.0); 2]; R];
            for d in from..(from + group).min(head.head_dim) {
                for vector in 0..2 {
                    let at = d * PAGE_TOKENS + (2 * pair + vector) * LANES;
                    // SAFETY: keys are `head_dim` runs of `PAGE_TOKENS`.
                    let key = unsafe { K::load(simd, block.start, at) };
                    for r in 0..R {
                        partial[r][vector] = simd.mul_add(simd.splat(queries[r][d]), key, partial[r][vector]);
                    }
                }
            }
            for vector in 0..2 {
                let at = index * PAGE_TOKENS + (2 * pair + vector) * LANES;
                for r in 0..R {
                    sums[r][vector] = match K::SCALED {
                        false => partial[r][vector],
                        true => {
                            let scales = block.start.wrapping_add(head.key_scales).cast::<u16>();
                            // SAFETY: scales are `groups` runs of `PAGE_TOKENS`.
                            let scale = unsafe { simd.load_half(scales.add(at)) };
                            simd.mul_add(partial[r][vector], scale, sums[r][vector])
                        }
                    };
                }
            }
        }
        for r in 0..R {
            for vector in 0..2 {
                let to = out[r][(2 * pair + vector) * LANES..][..LANES].as_mut_ptr();
                // SAFETY: a slice of 16.
                unsafe { simd.store(to, sums[r][vector]) };
            }
        }
    }
    out
}

/// Turns one row's scores into weights (0 where it sees nothing) and returns the correction `c`.
#[inline(always)]
fn softmax<S: Simd>(
    simd: S,
    scores: &mut [f32; PAGE_TOKENS],
    seen: &Range<usize>,
    row: &mut Running<'_>,
) -> f32 {
    let maximum =
        scores[seen.clone()].iter().fold(row.maximum, |max, &score| if score > max { score } else { max });
    let correction = match row.maximum == f32::NEG_INFINITY {
        true => 0.0,
        false => first_lane(simd, exp(simd, simd.splat(row.maximum - maximum))),
    };
    let mut sums = simd.splat(0.0);
    for vector in 0..VECTORS {
        let lanes = scores[vector * LANES..][..LANES].as_mut_ptr();
        // SAFETY: a slice of 16, loaded and stored.
        let weights = exp(simd, simd.sub(unsafe { simd.load(lanes) }, simd.splat(maximum)));
        // SAFETY: the same slice.
        unsafe { simd.store(lanes, weights) };
        let visible = seen.start.max(vector * LANES)..seen.end.min((vector + 1) * LANES);
        for lane in (vector * LANES..(vector + 1) * LANES).filter(|lane| !visible.contains(lane)) {
            scores[lane] = 0.0;
        }
        let lanes = scores[vector * LANES..][..LANES].as_ptr();
        // SAFETY: as above.
        sums = simd.add(sums, unsafe { simd.load(lanes) });
    }
    row.maximum = maximum;
    row.sum = row.sum.mul_add(correction, simd.sum(sums));
    correction
}

#[inline(always)]
fn first_lane<S: Simd>(simd: S, value: S::F32) -> f32 {
    let mut lanes = [0f32; LANES];
    // SAFETY: an array of 16.
    unsafe { simd.store(lanes.as_mut_ptr(), value) };
    lanes[0]
}

/// `o' = c o + sum_j p_j v_j`, for the tokens in `seen` in order; a weight of 0 adds nothing.
///
/// # Safety
/// `block` is a page of one head stored as `K`; each mixture has the head's width and no other writer.
#[inline(always)]
unsafe fn mix<S: Simd, K: Stored, const R: usize>(
    simd: S,
    block: Block,
    weights: &[[f32; PAGE_TOKENS]; R],
    seen: Range<usize>,
    corrections: [f32; R],
    mixtures: [*mut f32; R],
) {
    let head = block.head;
    let values = block.start.wrapping_add(head.values);
    let scales = block.start.wrapping_add(head.value_scales).cast::<u16>();
    for column in (0..head.width).step_by(2 * LANES) {
        let vectors = ((head.width - column) / LANES).min(2);
        let mut sums = [[simd.splat(0.0); 2]; R];
        for r in 0..R {
            for vector in 0..vectors {
                // SAFETY: a mixture has `width` floats, a multiple of 16.
                let old = unsafe { simd.load(mixtures[r].add(column + vector * LANES)) };
                sums[r][vector] = simd.mul(old, simd.splat(corrections[r]));
            }
        }
        for token in seen.clone() {
            let scale = match K::SCALED {
                true => {
                    // SAFETY: scales are `PAGE_TOKENS` runs of `groups`.
                    unsafe { half::f16::from_bits(*scales.add(token * head.groups + column / SCALE_GROUP)) }
                        .to_f32()
                }
                false => 1.0,
            };
            for vector in 0..vectors {
                // SAFETY: values are `PAGE_TOKENS` runs of `width`.
                let value = unsafe { K::load(simd, values, token * head.width + column + vector * LANES) };
                let value = if K::SCALED { simd.mul(value, simd.splat(scale)) } else { value };
                for r in 0..R {
                    sums[r][vector] = simd.mul_add(simd.splat(weights[r][token]), value, sums[r][vector]);
                }
            }
        }
        for r in 0..R {
            for vector in 0..vectors {
                // SAFETY: as for the loads.
                unsafe { simd.store(mixtures[r].add(column + vector * LANES), sums[r][vector]) };
            }
        }
    }
}
