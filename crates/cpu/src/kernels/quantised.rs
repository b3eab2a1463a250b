//! The one matmul tile of all block formats: 16 or 32 rows of a panel by a few rows of activations.
//!
//! An output is, over blocks of 32 weights in order,
//! ```text
//! sum = fma(f32(dot(codes - offset, quants)), weight_scale * activation_scale, sum)
//! sum = fma(weight_minimum, activation_scale * sum(quants), sum)          (with minima)
//! ```
//! with an exact integer `dot`; where scales are per 16 weights both lines run for each half. A lane
//! is a row, so there is nothing to add up at the end. One row of activations and many compute the
//! same bits. The layout of a superblock is drawn in [`QuantLayout`].

#![allow(clippy::needless_range_loop)] // indices are rows and columns of a tile

use super::activations::ActivationBlock;
use super::matmul::{Prefetch, Tile};
use crate::pack::PANEL_ROWS;
use crate::pack::layout::{GroupScales, QuantLayout, WIDE_OFFSET, quant_layout};
use crate::simd::{LANES, Simd};
use alti_tensor::DType;
use std::mem::MaybeUninit;

/// A block format, as a type.
pub(super) trait Format {
    /// How it is packed.
    const LAYOUT: QuantLayout;
}

macro_rules! formats {
    ($($name:ident)*) => {
        $(
            pub(in crate::kernels) struct $name;
            impl Format for $name {
                const LAYOUT: QuantLayout = quant_layout(DType::$name).expect("a block format");
            }
        )*
    };
}
#[allow(non_camel_case_types)] // the field's own spelling
pub(super) mod formats {
    use super::*;
    formats!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4);
}

/// The tile of a format.
pub(super) struct Quantised<F>(std::marker::PhantomData<F>);

impl<F: Format> Tile for Quantised<F> {
    type Activation = ActivationBlock;
    const RUN: usize = 1;

    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const C: usize>(
        simd: S,
        panel: *const u8,
        first_half: usize,
        blocks: usize,
        x: [*const ActivationBlock; C],
        mut prefetch: Prefetch,
    ) -> [[S::F32; C]; R] {
        let layout = const { F::LAYOUT };
        let mut sums = [[simd.splat(0.0); C]; R];
        let mut start = panel;
        for first in (0..blocks).step_by(layout.blocks()) {
            for index in 0..layout.blocks() {
                // SAFETY: the caller's promise: the panel has `blocks` blocks of codes, and so has
                // each of `x`.
                unsafe {
                    prefetch.advance(simd);
                    let mut block_x = x;
                    for x in &mut block_x {
                        *x = x.add(first + index);
                    }
                    for group in 0..layout.groups_per_block() {
                        let part = Part { start, index, group };
                        add_group::<S, F, _, R, C>(simd, part, group, first_half, block_x, &mut sums);
                    }
                }
            }
            // SAFETY: at most one past the end of the panel.
            start = unsafe { start.add(layout.super_bytes()) };
        }
        sums
    }
}

/// Where a group of weights of a panel is read from: the panel itself, or what was unpacked of it.
pub(super) trait Source<F: Format>: Copy {
    /// The codes of a step of the group's block, of 16 rows.
    ///
    /// # Safety
    /// The group is where it says, `half < 2`, and the step is one of the group's.
    unsafe fn codes<S: Simd>(self, simd: S, half: usize, step: usize) -> S::Bytes;

    /// The scales of 16 rows.
    ///
    /// # Safety
    /// As for [`Source::codes`].
    unsafe fn scale<S: Simd>(self, simd: S, half: usize) -> S::F32;

    /// The minima of 16 rows.
    ///
    /// # Safety
    /// As for [`Source::codes`]; the format has minima.
    unsafe fn minimum<S: Simd>(self, simd: S, half: usize) -> S::F32;
}

/// A group of weights of a packed panel: a group of a block of a superblock.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) start: *const u8,
    pub(super) index: usize,
    pub(super) group: usize,
}

impl<F: Format> Source<F> for Part {
    #[inline(always)]
    unsafe fn codes<S: Simd>(self, simd: S, half: usize, step: usize) -> S::Bytes {
        let layout = const { F::LAYOUT };
        // SAFETY: the caller's promise.
        unsafe {
            let planes = layout.codes_at() + (2 * self.index + half) * layout.half_bytes();
            load_codes::<S, F>(simd, self.start.add(planes), step)
        }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(self, simd: S, half: usize) -> S::F32 {
        let layout = const { F::LAYOUT };
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.start.add(2 * LANES * half).cast();
            let scale = if layout.brain_scale { simd.load_brain(at) } else { simd.load_half(at) };
            if let GroupScales::None = layout.groups {
                return scale;
            }
            let factors = load_group::<S, F>(simd, self, half, layout.group_scales_at());
            simd.mul(scale, factors)
        }
    }

    #[inline(always)]
    unsafe fn minimum<S: Simd>(self, simd: S, half: usize) -> S::F32 {
        let layout = const { F::LAYOUT };
        // SAFETY: the caller's promise.
        unsafe {
            let minimum = simd.load_half(self.start.add(layout.minimum_at() + 2 * LANES * half).cast());
            if let GroupScales::None = layout.groups {
                return minimum;
            }
            let factors = load_group::<S, F>(simd, self, half, layout.group_minima_at());
            simd.mul(minimum, factors)
        }
    }
}

/// Adds the products of one group of weights: the `index`-th of its block.
///
/// # Safety
/// `weights` are where they say, and each of `x` points to a block.
#[inline(always)]
pub(super) unsafe fn add_group<S: Simd, F: Format, W: Source<F>, const R: usize, const C: usize>(
    simd: S,
    weights: W,
    index: usize,
    first_half: usize,
    x: [*const ActivationBlock; C],
    sums: &mut [[S::F32; C]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let layout = const { F::LAYOUT };
        let mut dots = [[simd.splat_i32(0); C]; R];
        for c in 0..C {
            let first = dot_start::<S, F>(simd, &*x[c], index);
            for row in &mut dots {
                row[c] = first;
            }
        }
        let mut run = [[MaybeUninit::uninit(); C]; R];
        // Written out, so that every shift is a constant, and what is a run.
        macro_rules! steps {
            ($($step:literal)*) => {
                $(add_step::<S, F, W, R, C, $step>(simd, weights, first_half, x, &mut run, &mut dots);)*
            };
        }
        if const { F::LAYOUT.groups_per_block() == 1 } {
            steps!(0 1 2 3 4 5 6 7);
        } else if index == 0 {
            steps!(0 1 2 3);
        } else {
            steps!(4 5 6 7);
        }
        for r in 0..R {
            let scale = weights.scale(simd, first_half + r);
            for c in 0..C {
                let scales = simd.mul(scale, simd.splat((*x[c]).scale));
                sums[r][c] = simd.mul_add(simd.to_f32(dots[r][c]), scales, sums[r][c]);
            }
            if layout.minima {
                let minimum = weights.minimum(simd, first_half + r);
                for c in 0..C {
                    let sum = match layout.groups_per_block() {
                        1 => (*x[c]).sum,
                        _ => (*x[c]).half_sums[index],
                    };
                    sums[r][c] = simd.mul_add(minimum, simd.splat(sum), sums[r][c]);
                }
            }
        }
    }
}

/// Steps whose dots are added up before they are made whole: as many as they hold, of one group.
const fn run_steps<S: Simd, F: Format>() -> usize {
    let (holds, group) = (S::DOT_STEPS[F::LAYOUT.bits as usize], 8 / F::LAYOUT.groups_per_block());
    if holds < group { holds } else { group }
}

/// The order in which a tile takes the steps of a block; sums of integers do not depend on it.
const fn order<S: Simd, F: Format>() -> [usize; 8] {
    if S::SPLITS_BYTES_AT_ONCE && F::LAYOUT.groups_per_block() == 1 {
        [0, 4, 1, 5, 2, 6, 3, 7]
    } else {
        [0, 1, 2, 3, 4, 5, 6, 7]
    }
}

/// `-offset * sum(quants)`, so that codes need not be offset one by one.
#[inline(always)]
fn dot_start<S: Simd, F: Format>(simd: S, x: &ActivationBlock, group: usize) -> S::I32 {
    let layout = const { F::LAYOUT };
    let start = match (layout.offset, layout.groups_per_block()) {
        (0, 1) => 0,
        (0, 2) => 0,
        (8, 1) => x.start_8,
        (16, 1) => 2 * x.start_8,
        (WIDE_OFFSET, 1) if S::WIDE_IS_UNSIGNED => x.start_128,
        (WIDE_OFFSET, 1) => 0,
        (32, 2) => x.start_32[group],
        (4, 2) => x.start_32[group] / 8,
        _ => unreachable!("no format has this offset"),
    };
    simd.splat_i32(start)
}

/// Adds the products of the 4 weights of a step of each row to a run, which starts where the last one ended and goes to
/// `dots` when it is whole: the step at `POSITION` of the [`order`].
///
/// # Safety
/// As for [`add_group`]; `POSITION < 8` is one of the group's, and those of its run before it have been added to `run`.
#[inline(always)]
unsafe fn add_step<
    S: Simd,
    F: Format,
    W: Source<F>,
    const R: usize,
    const C: usize,
    const POSITION: usize,
>(
    simd: S,
    weights: W,
    first_half: usize,
    x: [*const ActivationBlock; C],
    run: &mut [[MaybeUninit<S::Dots>; C]; R],
    dots: &mut [[S::I32; C]; R],
) {
    let step = const { order::<S, F>()[POSITION] };
    for r in 0..R {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = weights.codes(simd, first_half + r, step);
            for c in 0..C {
                let quants = simd.load_quants((*x[c]).quants.as_ptr(), step / 4 * 4);
                if const { F::LAYOUT.offset == WIDE_OFFSET } {
                    dots[r][c] = simd.dot_wide(dots[r][c], codes, quants, step);
                } else if const { POSITION.is_multiple_of(run_steps::<S, F>()) } {
                    run[r][c].write(simd.first_dot(dots[r][c], codes, quants, step));
                } else {
                    run[r][c].write(simd.dot(run[r][c].assume_init(), codes, quants, step));
                }
                if const { F::LAYOUT.offset != WIDE_OFFSET && (POSITION + 1).is_multiple_of(run_steps::<S, F>()) }
                {
                    dots[r][c] = simd.whole(run[r][c].assume_init(), dots[r][c]);
                }
            }
        }
    }
}

/// The codes of step `step`, put together from the planes of a half.
///
/// # Safety
/// All planes of a half lie at `planes`, and `step < 8`.
#[inline(always)]
unsafe fn load_codes<S: Simd, F: Format>(simd: S, planes: *const u8, step: usize) -> S::Bytes {
    let layout = const { F::LAYOUT };
    // SAFETY: the caller's promise: all planes of a half lie at `planes`.
    unsafe {
        let mut codes = None;
        if let Some(at) = layout.plane(8) {
            codes = Some(simd.load_bytes(planes.add(at + 64 * step)));
        }
        if let Some(at) = layout.plane(4) {
            let packed = simd.load_bytes(planes.add(at + 64 * (step % 4)));
            codes = Some(simd.field(packed, 4 * (step / 4) as u32, 15));
        }
        if let Some(at) = layout.plane(2) {
            let packed = simd.load_bytes(planes.add(at + 64 * (step / 4)));
            let bits = simd.field(packed, 2 * (step % 4) as u32, 3);
            codes = Some(match codes {
                Some(low) => simd.or_shifted(low, bits, 4),
                None => bits,
            });
        }
        let mut codes = codes.expect("every format has a plane of 2, 4 or 8 bits");
        if let Some(at) = layout.plane(1) {
            let mask = planes.add(at + 8 * step).cast::<u64>().read_unaligned();
            codes = simd.add_where(codes, mask, 1 << (layout.bits - 1));
        }
        match layout.table {
            Some(table) => simd.lookup(table, codes),
            None => codes,
        }
    }
}

/// The integer scales or minima of 16 rows for a group.
///
/// # Safety
/// `part` lies within a packed panel of `F`, whose table of them starts at `table_at`.
#[inline(always)]
unsafe fn load_group<S: Simd, F: Format>(simd: S, part: Part, half: usize, table_at: usize) -> S::F32 {
    let group = part.index * const { F::LAYOUT.groups_per_block() } + part.group;
    // SAFETY: the caller's promise: `part` lies in a panel.
    unsafe {
        let at = part.start.add(table_at + group * PANEL_ROWS + half * LANES);
        simd.to_f32(simd.load_i8(at.cast()))
    }
}
