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

use super::attention::{Ahead, Block, Running, Weights, raise_maxima, softmax};
use super::stored::{Brain, Stored};
use crate::backend::cache::HeadLayout;
use crate::simd::Simd;
use crate::simd::tiles::{
    Configured, TILE_ROW, TILE_ROWS, Tiles, tile_dot_brain, tile_load, tile_store, tile_zero,
};
use alti_tensor::{KvDType, PAGE_TOKENS};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values, or tokens, that a tile product sums over.
const STEP: usize = 32;

/// Such steps of a page.
const STEPS: usize = PAGE_TOKENS / STEP;

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
    let mut memory = MaybeUninit::<Weights<TILE_ROWS>>::uninit();
    // Between all tile products and lanes.
    let portion = ahead.lines().div_ceil(block.head.head_dim / 8 + seen.len());
    let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
    // SAFETY: the caller's promise; tiles write the weights of as many lanes as there are.
    let weights = unsafe {
        scores(simd, block, queries, last, memory.as_mut_ptr(), (&mut ahead, portion));
        std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<[f32; PAGE_TOKENS]>(), seen.len())
    };
    for ((weights, seen), lane) in weights.iter_mut().zip(seen).zip(running) {
        ahead.ask(simd, portion);
        raise_maxima(simd, std::array::from_ref(weights), std::array::from_ref(seen), &mut [&mut *lane]);
        softmax(simd, weights, seen, lane);
        Brain::round_weights(simd, weights);
    }
    // SAFETY: the caller's promise.
    unsafe { mix_page(simd, block, weights.as_ptr().cast(), seen, mixtures, (&mut ahead, portion)) };
    ahead.ask(simd, usize::MAX);
}

/// Adds a page's values, weighted, to the mixtures of its lanes.
///
/// # Safety
/// As for [`attend_page_tiled`]; `weights` are rounded, [`WEIGHT_STRIDE`] bytes a lane.
#[inline(always)]
unsafe fn mix_page<S: Simd>(
    simd: S,
    block: Block,
    weights: *const u8,
    seen: &[Range<usize>],
    mixtures: *mut f32,
    (ahead, portion): (&mut Ahead, usize),
) {
    let head = block.head;
    let mut masked = [const { MaybeUninit::<Masked>::uninit() }; STEPS];
    let mut steps = [(std::ptr::null(), std::ptr::null()); STEPS];
    let mut count = 0;
    for (step, masked) in masked.iter_mut().enumerate() {
        let tokens = step * STEP..(step + 1) * STEP;
        let within = |seen: &Range<usize>| {
            let (start, end) = (seen.start.max(tokens.start), seen.end.min(tokens.end));
            if start < end { start - tokens.start..end - tokens.start } else { 0..0 }
        };
        let weights = weights.wrapping_add(step * TILE_ROW);
        let values = block.start.wrapping_add(head.values + step * TILE_ROWS * 4 * head.width);
        let visible = seen.iter().map(within).filter(|seen| !seen.is_empty());
        let (first, last) = visible.fold((STEP, 0), |(a, b), seen| (a.min(seen.start), b.max(seen.end)));
        if seen.iter().all(|seen| within(seen) == (0..STEP)) {
            steps[count] = (weights, values);
        } else if first >= last {
            continue;
        // SAFETY: the caller's promise.
        } else if let Some(values) = unsafe { copy_masked(masked, values, head.width, first..last) } {
            steps[count] = (weights, values);
        } else {
            let seen = seen.iter().map(within);
            // SAFETY: the caller's promise.
            unsafe {
                mix(simd, head, &steps[..count], mixtures, (&mut *ahead, portion));
                mix_apart(simd, head, (weights, values), seen, mixtures, (&mut *ahead, portion));
            }
            count = 0;
            continue;
        }
        count += 1;
    }
    // SAFETY: the caller's promise.
    unsafe { mix(simd, head, &steps[..count], mixtures, (ahead, portion)) };
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
    scores: *mut Weights<TILE_ROWS>,
    (ahead, portion): (&mut Ahead, usize),
) {
    const TOKEN_STRIDE: usize = 4 * PAGE_TOKENS;
    let to = scores.cast::<u8>();
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

/// `o += sum_j p_j v_j` over steps of tokens, given where their weights and values are.
///
/// # Safety
/// As for [`attend_page_tiled`].
#[inline(always)]
unsafe fn mix<S: Simd>(
    simd: S,
    head: HeadLayout,
    steps: &[(*const u8, *const u8)],
    mixtures: *mut f32,
    (ahead, portion): (&mut Ahead, usize),
) {
    const PAIR: usize = 2 * TILE_ROW;
    if steps.is_empty() {
        return;
    }
    let stride = 4 * head.width;
    // SAFETY: the caller's promise; the width of a head is a multiple of two tiles.
    unsafe {
        for column in (0..stride).step_by(2 * PAIR) {
            let to = mixtures.cast::<u8>().add(column);
            let both = column + PAIR < stride;
            tile_load!(0, to, stride);
            tile_load!(1, to.add(TILE_ROW), stride);
            if both {
                tile_load!(2, to.add(PAIR), stride);
                tile_load!(3, to.add(PAIR + TILE_ROW), stride);
            }
            for &(weights, values) in steps {
                let values = values.add(column);
                tile_load!(4, weights, WEIGHT_STRIDE);
                tile_load!(6, values, stride);
                tile_load!(7, values.add(TILE_ROW), stride);
                ahead.ask(simd, portion);
                tile_dot_brain!(0, 4, 6);
                tile_dot_brain!(1, 4, 7);
                if both {
                    tile_load!(6, values.add(PAIR), stride);
                    tile_load!(7, values.add(PAIR + TILE_ROW), stride);
                    ahead.ask(simd, portion);
                    tile_dot_brain!(2, 4, 6);
                    tile_dot_brain!(3, 4, 7);
                }
            }
            tile_store!(0, to, stride);
            tile_store!(1, to.add(TILE_ROW), stride);
            if both {
                tile_store!(2, to.add(PAIR), stride);
                tile_store!(3, to.add(PAIR + TILE_ROW), stride);
            }
        }
    }
}

/// Pairs of values of a step, those that no lane sees zero: their weights are zero, and what no lane sees may be anything.
type Masked = [u32; TILE_ROWS * WIDEST];

/// The pairs at `values` whose tokens are in `seen`; none where one of them is not finite, which must reach only
/// the lanes that see it.
///
/// # Safety
/// `values` are a step's, of this width; those in `seen` have been stored.
#[inline(always)]
unsafe fn copy_masked(
    to: &mut MaybeUninit<Masked>,
    values: *const u8,
    width: usize,
    seen: Range<usize>,
) -> Option<*const u8> {
    const EXPONENT: u32 = 0x7f80;
    let to = to.as_mut_ptr().cast::<u32>();
    let mut largest = 0;
    for pair in 0..TILE_ROWS {
        let half = |token: usize| u32::from(u16::MAX) * u32::from(seen.contains(&token));
        let mask = half(2 * pair) | half(2 * pair + 1) << 16;
        for at in pair * width..(pair + 1) * width {
            // SAFETY: the caller's promise; a head is no wider than `WIDEST`.
            let value = unsafe { *values.cast::<u32>().add(at) } & mask;
            // SAFETY: as above.
            unsafe { *to.add(at) = value };
            largest = (value & EXPONENT).max(value >> 16 & EXPONENT).max(largest);
        }
    }
    (largest < EXPONENT).then_some(to.cast_const().cast())
}

/// As [`mix`] of one step, where lanes must not see one another's tokens at all: each by itself. Lane `r` sees the
/// tokens `seen[r]` of the step.
///
/// # Safety
/// As for [`mix`].
#[inline(always)]
unsafe fn mix_apart<S: Simd>(
    simd: S,
    head: HeadLayout,
    (weights, values): (*const u8, *const u8),
    seen: impl Iterator<Item = Range<usize>>,
    mixtures: *mut f32,
    (ahead, portion): (&mut Ahead, usize),
) {
    for (lane, seen) in seen.enumerate() {
        let mut all = [0f32; TILE_ROWS * WIDEST];
        let mut masked = MaybeUninit::<Masked>::uninit();
        // SAFETY: the caller's promise; the copy is whole, finite or not.
        unsafe {
            std::ptr::copy_nonoverlapping(mixtures, all.as_mut_ptr(), (lane + 1) * head.width);
            let _ = copy_masked(&mut masked, values, head.width, seen);
            let step = [(weights, masked.as_ptr().cast())];
            mix(simd, head, &step, all.as_mut_ptr(), (&mut *ahead, portion));
            let at = lane * head.width;
            std::ptr::copy_nonoverlapping(all.as_ptr().add(at), mixtures.add(at), head.width);
        }
    }
}
