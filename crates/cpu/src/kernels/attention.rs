//! Attention of a few query heads over one page of keys and values, with online softmax.
//!
//! A lane is one query head of one row. Its result is built page by page (Milakov and Gimelshein
//! 2018; Dao et al. 2022): with the page's scores `s_j` (in units of `log2`, so that the exponential
//! is a power of two), the running maximum `m`, sum `l` and mixture `o` become
//!
//! ```text
//! m' = max(m, max_j s_j)      p_j = 2^(s_j - m')      c = 2^(m - m')
//! l' = c l + sum_j p_j        o' = c o + sum_j p_j v_j
//! ```
//!
//! Pages are at fixed absolute positions, and a lane's sums run over the tokens in their order, so
//! that it has the same bits whether it comes in a prefill or alone. The `R` lanes that go together
//! share a key/value head: each key and value is loaded once for all of them (the query heads of a
//! group, neighbouring rows), and none sees another.

use super::stored::Stored;
use crate::backend::cache::HeadLayout;
use crate::kernels::math::exp2;
use crate::kernels::rows::scale;
use crate::memory::CACHE_LINE;
use crate::simd::{LANES, Simd};
use alti_tensor::PAGE_TOKENS;
use std::ops::Range;

/// Most lanes that share the loads of a page, on any instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// Vectors of scores in a page.
const VECTORS: usize = PAGE_TOKENS / LANES;

/// Scores of a page, then weights, of some lanes.
pub(super) type Weights<const R: usize> = [[f32; PAGE_TOKENS]; R];

/// In whole cache lines, so that no vector lies in two.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Lines<T>(pub(super) T);

/// The running softmax of one lane.
#[derive(Debug)]
#[repr(C, align(64))] // the sums in a cache line
pub(crate) struct Running<'a> {
    /// The sum of weights, spread over the lanes of a vector.
    sums: [f32; LANES],
    maximum: f32,
    /// `[width]`: the mixture so far.
    mixture: &'a mut [f32],
}

impl<'a> Running<'a> {
    /// Floats that [`Running::save`] writes beside the mixture.
    pub(crate) const SAVED: usize = LANES;

    /// In this memory, `[width]` (whole vectors); [`Running::reset`] comes before the first use.
    pub(crate) fn new(mixture: &'a mut [f32]) -> Running<'a> {
        Running { maximum: f32::NEG_INFINITY, sums: [0.0; LANES], mixture }
    }

    /// Nothing seen yet.
    pub(crate) fn reset(&mut self) {
        self.maximum = f32::NEG_INFINITY;
        self.sums = [0.0; LANES];
        self.mixture.fill(0.0);
    }

    /// What another saw.
    pub(crate) fn copy_from(&mut self, other: &Running<'_>) {
        (self.maximum, self.sums) = (other.maximum, other.sums);
        self.mixture.copy_from_slice(other.mixture);
    }

    /// Where the mixture is.
    #[cfg(target_arch = "x86_64")] // for tile registers
    pub(crate) fn mixture(&mut self) -> *mut f32 {
        self.mixture.as_mut_ptr()
    }

    /// The attention of what was seen.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(&self, simd: S, out: &mut [f32]) {
        // SAFETY: an array of 16.
        let factor = 1.0 / simd.sum(unsafe { simd.load(self.sums.as_ptr()) });
        for (out, mixture) in out.iter_mut().zip(self.mixture.iter()) {
            // A zero loses its sign: it depends on who else was in the tile.
            *out = mixture * factor + 0.0;
        }
    }

    /// Takes in what another saw after this: the same formulas, of a whole segment at once.
    #[inline(always)]
    pub(crate) fn merge<S: Simd>(&mut self, simd: S, other: &Running<'_>) {
        let maximum = if other.maximum > self.maximum { other.maximum } else { self.maximum };
        let before = share(simd, self.maximum, maximum);
        let after = share(simd, other.maximum, maximum);
        let both = |to: &mut f32, from: &f32| *to = from.mul_add(after, *to * before);
        self.sums.iter_mut().zip(&other.sums).for_each(|(to, from)| both(to, from));
        self.mixture.iter_mut().zip(other.mixture.iter()).for_each(|(to, from)| both(to, from));
        self.maximum = maximum;
    }

    /// Writes the state down, all but the maximum in `[SAVED + width]`.
    pub(crate) fn save(&self, maximum: &mut f32, to: &mut [f32]) {
        let (sums, mixture) = to.split_at_mut(Self::SAVED);
        *maximum = self.maximum;
        sums.copy_from_slice(&self.sums);
        mixture[..self.mixture.len()].copy_from_slice(self.mixture);
    }

    /// What was saved.
    pub(crate) fn restore(maximum: f32, from: &'a mut [f32]) -> Running<'a> {
        let (saved, mixture) = from.split_at_mut(Self::SAVED);
        let mut sums = [0.0; LANES];
        sums.copy_from_slice(saved);
        Running { maximum, sums, mixture }
    }
}

/// One head's block of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// The block, laid out as `head` says.
    pub(crate) start: *const u8,
    /// Its layout.
    pub(crate) head: HeadLayout,
}

/// A block that is read next, to be asked for while another is worked on: line by line, because a core waits when it
/// asks for more at once than it can have under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    at: *const u8,
    lines: usize,
}

impl Ahead {
    /// Nothing is known to be read next.
    pub(crate) const NOTHING: Ahead = Ahead { at: std::ptr::null(), lines: 0 };

    /// This block, of which the first `tokens` tokens are stored: without the values behind them.
    pub(crate) fn block(block: Block, tokens: usize) -> Ahead {
        let bytes = match tokens < PAGE_TOKENS {
            true => block.head.values + block.head.value_bytes(tokens),
            false => block.head.bytes,
        };
        Ahead { at: block.start, lines: bytes.div_ceil(CACHE_LINE) }
    }

    /// Lines that are left.
    #[cfg(any(target_arch = "x86_64", test))] // for tile registers
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// Asks for so many more lines of it.
    #[inline(always)]
    pub(crate) fn ask<S: Simd>(&mut self, simd: S, lines: usize) {
        for _ in 0..lines {
            if self.lines == 0 {
                return;
            }
            simd.prefetch_second(self.at);
            self.at = self.at.wrapping_add(CACHE_LINE);
            self.lines -= 1;
        }
    }
}

/// Takes a page into `R` lanes' running softmax. Lane `r` sees the tokens `seen[r]` of the page
/// (perhaps none); its query is what [`Stored::query`] made. `ahead` is asked for meanwhile.
///
/// # Safety
/// `block` points to a block of its layout, stored as `K`; every token in `seen` has been stored in
/// it; each query has the head's width.
#[inline(always)]
pub(crate) unsafe fn attend_page<S: Simd, K: Stored, const R: usize>(
    simd: S,
    block: Block,
    queries: [*const f32; R],
    seen: [Range<usize>; R],
    mut lanes: [&mut Running<'_>; R],
    mut ahead: Ahead,
) {
    let Lines(weights) = &mut Lines([[0.0; PAGE_TOKENS]; R]);
    // SAFETY: the caller's promise.
    unsafe { K::scores(simd, block, queries, weights, &mut ahead) };
    raise_maxima(simd, weights, &seen, &mut lanes);
    for r in 0..R {
        softmax(simd, &mut weights[r], &seen[r], lanes[r]);
        K::round_weights(simd, &mut weights[r]);
    }
    let mut mixtures = [std::ptr::null_mut(); R];
    for r in 0..R {
        mixtures[r] = lanes[r].mixture.as_mut_ptr();
    }
    // What all lanes see goes together; before and after it, each lane has at most a few tokens of
    // its own. Values that a lane does not see are not even multiplied by zero: they may be NaN.
    let first = seen.iter().map(|seen| seen.start.next_multiple_of(2)).max().unwrap_or(0);
    let last = seen.iter().map(|seen| seen.end / 2 * 2).min().unwrap_or(0);
    let common = if first < last { first..last } else { PAGE_TOKENS..PAGE_TOKENS };
    // SAFETY: the caller's promise; a mixture has `width` floats.
    unsafe {
        for r in 0..R {
            let own = seen[r].start..seen[r].end.min(common.start);
            K::mix::<S, 1, false>(simd, block, [&weights[r]], own, [mixtures[r]], &mut ahead);
        }
        if !common.is_empty() {
            K::mix::<S, R, true>(simd, block, weights.each_ref(), common.clone(), mixtures, &mut ahead);
        }
        for r in 0..R {
            let own = seen[r].start.max(common.end)..seen[r].end;
            K::mix::<S, 1, false>(simd, block, [&weights[r]], own, [mixtures[r]], &mut ahead);
        }
    }
    // What is left: the scales, and all that this page had too few tokens for.
    ahead.ask(simd, usize::MAX);
}

/// Brings the lanes' maxima up to their scores, and what they have so far to their new maxima: of all lanes together,
/// because one after the other each would wait for itself.
#[inline(always)]
pub(super) fn raise_maxima<S: Simd, const R: usize>(
    simd: S,
    scores: &Weights<R>,
    seen: &[Range<usize>; R],
    lanes: &mut [&mut Running<'_>; R],
) {
    let (mut steps, mut raised) = ([0.0; LANES], false);
    for r in 0..R {
        let largest = match is_whole(&seen[r]) {
            true => largest::<S, true>(simd, &scores[r], &seen[r]),
            false => largest::<S, false>(simd, &scores[r], &seen[r]),
        };
        let before = lanes[r].maximum;
        let maximum = if largest > before { largest } else { before };
        lanes[r].maximum = maximum;
        // A lane that has nothing yet has nothing to bring anywhere.
        if maximum != before && before != f32::NEG_INFINITY {
            (steps[r], raised) = (before - maximum, true);
        }
    }
    if raised {
        let mut factors = [0.0; LANES];
        // SAFETY: arrays of 16.
        unsafe { simd.store(factors.as_mut_ptr(), exp2(simd, simd.load(steps.as_ptr()))) };
        for r in 0..R {
            scale(&mut lanes[r].sums, factors[r]);
            scale(lanes[r].mixture, factors[r]);
        }
    }
}

/// Whether a lane sees all tokens of a page.
#[inline(always)]
fn is_whole(seen: &Range<usize>) -> bool {
    *seen == (0..PAGE_TOKENS)
}

/// The largest score that a lane sees, of a `WHOLE` page or of a part of it.
#[inline(always)]
fn largest<S: Simd, const WHOLE: bool>(simd: S, scores: &[f32; PAGE_TOKENS], seen: &Range<usize>) -> f32 {
    let mut largest = visible::<S, WHOLE>(simd, scores, seen, 0);
    for v in 1..VECTORS {
        largest = simd.max(largest, visible::<S, WHOLE>(simd, scores, seen, v));
    }
    simd.largest(largest)
}

/// Vector `v` of a lane's scores, minus infinity where it sees nothing.
#[inline(always)]
fn visible<S: Simd, const WHOLE: bool>(
    simd: S,
    scores: &[f32; PAGE_TOKENS],
    seen: &Range<usize>,
    v: usize,
) -> S::F32 {
    let vector = &scores[v * LANES..][..LANES];
    // SAFETY: a slice of 16, or that much of it.
    unsafe {
        match WHOLE {
            true => simd.load(vector.as_ptr()),
            false => keep(simd, simd.load(vector.as_ptr()), f32::NEG_INFINITY, seen, v),
        }
    }
}

/// The lanes of vector `v` of a page that are `seen`, `fill` in the others.
#[inline(always)]
fn keep<S: Simd>(simd: S, values: S::F32, fill: f32, seen: &Range<usize>, v: usize) -> S::F32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: an array of 16.
    unsafe {
        simd.store(lanes.as_mut_ptr(), values);
        for (lane, value) in lanes.iter_mut().enumerate() {
            let token = v * LANES + lane;
            *value = if token < seen.start || token >= seen.end { fill } else { *value };
        }
        simd.load(lanes.as_ptr())
    }
}

/// Turns one lane's scores into weights relative to its maximum, which [`raise_maxima`] has brought up to them; 0 where
/// it sees nothing.
#[inline(always)]
pub(super) fn softmax<S: Simd>(
    simd: S,
    scores: &mut [f32; PAGE_TOKENS],
    seen: &Range<usize>,
    lane: &mut Running<'_>,
) {
    match is_whole(seen) {
        true => weigh::<S, true>(simd, scores, seen, lane),
        false if seen.is_empty() => scores.fill(0.0),
        false => weigh::<S, false>(simd, scores, seen, lane),
    }
}

/// The same of a `WHOLE` page or of a part of it.
#[inline(always)]
fn weigh<S: Simd, const WHOLE: bool>(
    simd: S,
    scores: &mut [f32; PAGE_TOKENS],
    seen: &Range<usize>,
    lane: &mut Running<'_>,
) {
    let maximum = simd.splat(lane.maximum);
    // SAFETY: here and below, a slice or array of 16.
    let mut sums = unsafe { simd.load(lane.sums.as_ptr()) };
    for v in 0..VECTORS {
        let mut weight = exp2(simd, simd.sub(visible::<S, WHOLE>(simd, scores, seen, v), maximum));
        if !WHOLE {
            weight = keep(simd, weight, 0.0, seen, v);
        }
        // SAFETY: as above.
        unsafe { simd.store(scores[v * LANES..][..LANES].as_mut_ptr(), weight) };
        sums = simd.add(sums, weight);
    }
    // SAFETY: as above.
    unsafe { simd.store(lane.sums.as_mut_ptr(), sums) };
}

/// What weights relative to one maximum are relative to another. No closure around vector code: the compiler would
/// make a function of it that lacks the instruction set.
#[inline(always)]
fn share<S: Simd>(simd: S, maximum: f32, of: f32) -> f32 {
    match maximum == f32::NEG_INFINITY {
        true => 0.0,
        false => first_lane(simd, exp2(simd, simd.splat(maximum - of))),
    }
}

#[inline(always)]
fn first_lane<S: Simd>(simd: S, value: S::F32) -> f32 {
    let mut lanes = [0f32; LANES];
    // SAFETY: an array of 16.
    unsafe { simd.store(lanes.as_mut_ptr(), value) };
    lanes[0]
}
