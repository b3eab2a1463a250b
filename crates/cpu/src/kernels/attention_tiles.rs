//! Attention over pages of bf16 in tile registers ([`crate::simd::tiles`]): up to 16 lanes together.
//!
//! The formulas are those of [`super::attention`]; scores and mixtures are tile products, whose
//! order of additions is the instruction's own, so these machines take single lanes in the same
//! way. A page is what tiles want as it lies in memory:
//!
//! ```text
//! keys    16 pairs of values x 16 tokens x 2     a tile of a step of 32 values and 16 tokens
//! values  16 pairs of tokens x 16 values x 2     a tile of a step of 32 tokens and 16 values
//! ```

use super::attention::{Ahead, Block, Running, Weights, softmax};
use super::stored::{Brain, Stored};
use crate::backend::cache::HeadLayout;
use crate::simd::Simd;
use crate::simd::tiles::{
    Configured, TILE_ROW, TILE_ROWS, Tiles, tile_dot_brain, tile_load, tile_store, tile_zero,
};
use alti_tensor::{KvDType, PAGE_TOKENS};
use std::ops::Range;

/// Values, or tokens, that a tile product sums over.
const STEP: usize = 32;

/// Widest head whose values fit the memory for masked ones.
const WIDEST: usize = 128;

/// Bytes of a lane's weights.
const WEIGHT_STRIDE: usize = 4 * PAGE_TOKENS;

/// Whether tiles attend to such heads: the decision is the cache's alone, so that all rows that
/// read it have the same bits.
pub(crate) fn tiles_fit(head: &HeadLayout) -> bool {
    head.dtype == KvDType::BF16 && head.head_dim.is_multiple_of(STEP) && head.head_dim <= WIDEST
}

/// Configures tiles for so many lanes: sums, queries or weights, and keys or values.
#[inline(always)]
pub(crate) fn configure(tiles: Tiles, lanes: usize) -> Configured {
    let (low, full) = ((lanes, TILE_ROW), (TILE_ROWS, TILE_ROW));
    tiles.configure([low, low, low, low, low, low, full, full])
}

/// Takes a page into the running softmax of some lanes, whose queries ([`Stored::query`] of
/// [`Brain`]) and mixtures follow each other. Lane `r` sees the tokens `seen[r]` of the page. `ahead` is asked for
/// meanwhile.
///
/// # Safety
/// `block` points to a block of its layout, for which [`tiles_fit`]; every token in `seen` has been
/// stored in it; there are as many queries, mixtures and `running` as `seen`, and tiles are
/// configured for them.
#[inline(always)]
pub(crate) unsafe fn attend_page_tiled<S: Simd>(
    simd: S,
    block: Block,
    queries: *const f32,
    seen: &[Range<usize>],
    running: &mut [Running<'_>],
    mixtures: *mut f32,
    mut ahead: Ahead,
) {
    let mut weights: Weights<TILE_ROWS> = [[0.0; PAGE_TOKENS]; TILE_ROWS];
    // Between all tile products and lanes.
    let portion = ahead.lines().div_ceil(block.head.head_dim / 8 + seen.len());
    let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
    // SAFETY: the caller's promise.
    unsafe { scores(simd, block, queries, last, &mut weights, (&mut ahead, portion)) };
    for ((weights, seen), lane) in weights.iter_mut().zip(seen).zip(running) {
        ahead.ask(simd, portion);
        softmax(simd, weights, seen, lane);
        Brain::round_weights(simd, weights);
    }
    let head = block.head;
    for step in 0..PAGE_TOKENS / STEP {
        let tokens = step * STEP..(step + 1) * STEP;
        let within = |seen: &Range<usize>| seen.start.max(tokens.start)..seen.end.min(tokens.end);
        let weights = weights.as_ptr().cast::<u8>().wrapping_add(step * TILE_ROW);
        let values = block.start.wrapping_add(head.values + step * TILE_ROWS * 4 * head.width);
        // SAFETY: the caller's promise.
        unsafe {
            if seen.iter().all(|seen| within(seen) == tokens) {
                mix(simd, head, weights, values, mixtures, (&mut ahead, portion));
            } else if !seen.iter().all(|seen| within(seen).is_empty()) {
                let seen = seen.iter().map(|seen| {
                    let within = within(seen);
                    if within.is_empty() {
                        0..0
                    } else {
                        within.start - tokens.start..within.end - tokens.start
                    }
                });
                mix_masked(simd, head, weights, values, seen, mixtures, (&mut ahead, portion));
            }
        }
    }
    ahead.ask(simd, usize::MAX);
}

/// The scores of the first `tokens` tokens of a page, and perhaps of more.
///
/// # Safety
/// As for [`attend_page_tiled`].
#[inline(always)]
unsafe fn scores<S: Simd>(
    simd: S,
    block: Block,
    queries: *const f32,
    tokens: usize,
    scores: &mut Weights<TILE_ROWS>,
    (ahead, portion): (&mut Ahead, usize),
) {
    const TOKEN_STRIDE: usize = 4 * PAGE_TOKENS;
    let to = scores.as_mut_ptr().cast::<u8>();
    let stride = 4 * block.head.width;
    // SAFETY: the caller's promise.
    unsafe {
        tile_zero!(0);
        tile_zero!(1);
        tile_zero!(2);
        tile_zero!(3);
        for step in 0..block.head.head_dim / STEP {
            let keys = block.start.add(step * TILE_ROWS * TOKEN_STRIDE);
            tile_load!(4, queries.cast::<u8>().add(step * TILE_ROW), stride);
            tile_load!(6, keys, TOKEN_STRIDE);
            tile_load!(7, keys.add(TILE_ROW), TOKEN_STRIDE);
            ahead.ask(simd, portion);
            tile_dot_brain!(0, 4, 6);
            tile_dot_brain!(1, 4, 7);
            if tokens > PAGE_TOKENS / 2 {
                tile_load!(6, keys.add(2 * TILE_ROW), TOKEN_STRIDE);
                tile_load!(7, keys.add(3 * TILE_ROW), TOKEN_STRIDE);
                ahead.ask(simd, portion);
                tile_dot_brain!(2, 4, 6);
                tile_dot_brain!(3, 4, 7);
            }
        }
        tile_store!(0, to, WEIGHT_STRIDE);
        tile_store!(1, to.add(TILE_ROW), WEIGHT_STRIDE);
        tile_store!(2, to.add(2 * TILE_ROW), WEIGHT_STRIDE);
        tile_store!(3, to.add(3 * TILE_ROW), WEIGHT_STRIDE);
    }
}

/// `o += sum_j p_j v_j` over a step of tokens.
///
/// # Safety
/// As for [`attend_page_tiled`]; `weights` and `values` are those of the step.
#[inline(always)]
unsafe fn mix<S: Simd>(
    simd: S,
    head: HeadLayout,
    weights: *const u8,
    values: *const u8,
    mixtures: *mut f32,
    (ahead, portion): (&mut Ahead, usize),
) {
    let stride = 4 * head.width;
    // SAFETY: the caller's promise; the width of a head is a multiple of two tiles.
    unsafe {
        tile_load!(4, weights, WEIGHT_STRIDE);
        for column in (0..stride).step_by(2 * TILE_ROW) {
            let to = mixtures.cast::<u8>().add(column);
            tile_load!(0, to, stride);
            tile_load!(1, to.add(TILE_ROW), stride);
            tile_load!(6, values.add(column), stride);
            tile_load!(7, values.add(column + TILE_ROW), stride);
            ahead.ask(simd, portion);
            tile_dot_brain!(0, 4, 6);
            tile_dot_brain!(1, 4, 7);
            tile_store!(0, to, stride);
            tile_store!(1, to.add(TILE_ROW), stride);
        }
    }
}

/// Pairs of values of a step, those that no lane sees zero.
struct Masked([u32; TILE_ROWS * WIDEST]);

impl Masked {
    /// The pairs at `values` whose tokens are in `seen`; whether all of them are finite.
    ///
    /// # Safety
    /// `values` are a step's, of this width; those in `seen` have been stored.
    #[inline(always)]
    unsafe fn copy(&mut self, values: *const u8, width: usize, seen: Range<usize>) -> bool {
        const EXPONENT: u32 = 0x7f80;
        let mut finite = true;
        for (pair, to) in self.0.chunks_exact_mut(width).take(TILE_ROWS).enumerate() {
            let half = |token: usize| u32::from(u16::MAX) * u32::from(seen.contains(&token));
            let mask = half(2 * pair) | half(2 * pair + 1) << 16;
            for (d, to) in to.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *to = unsafe { *values.cast::<u32>().add(pair * width + d) } & mask;
                finite &= *to & EXPONENT != EXPONENT && *to >> 16 & EXPONENT != EXPONENT;
            }
        }
        finite
    }
}

/// As [`mix`], where some lanes do not see all tokens: their weights are zero, and what no lane
/// sees may be anything. A value that is not finite must reach only the lanes that see it.
///
/// # Safety
/// As for [`mix`]; lane `r` sees the tokens `seen[r]` of the step.
#[inline(always)]
unsafe fn mix_masked<S: Simd>(
    simd: S,
    head: HeadLayout,
    weights: *const u8,
    values: *const u8,
    seen: impl Iterator<Item = Range<usize>> + Clone,
    mixtures: *mut f32,
    (ahead, portion): (&mut Ahead, usize),
) {
    let mut masked = Masked([0; TILE_ROWS * WIDEST]);
    let visible = seen.clone().filter(|seen| !seen.is_empty());
    let first = visible.clone().map(|seen| seen.start).min().unwrap_or(0);
    let last = visible.map(|seen| seen.end).max().unwrap_or(0);
    // SAFETY: the caller's promise.
    unsafe {
        if masked.copy(values, head.width, first..last) {
            return mix(simd, head, weights, masked.0.as_ptr().cast(), mixtures, (ahead, portion));
        }
        for (lane, seen) in seen.enumerate() {
            let mut all = [0f32; TILE_ROWS * WIDEST];
            std::ptr::copy_nonoverlapping(mixtures, all.as_mut_ptr(), (lane + 1) * head.width);
            masked.copy(values, head.width, seen);
            mix(simd, head, weights, masked.0.as_ptr().cast(), all.as_mut_ptr(), (&mut *ahead, portion));
            let at = lane * head.width;
            std::ptr::copy_nonoverlapping(all.as_ptr().add(at), mixtures.add(at), head.width);
        }
    }
}
