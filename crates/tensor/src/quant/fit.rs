//! Least-squares fits of a quantisation grid to a group of weights, shared by every format that
//! searches for its scales.
//!
//! A group `x` with importance `w` is to become `scale * q + minimum` with integer `q`, such that
//! `Σ w·(scale·q + minimum - x)²` is small. For fixed `q` the best scale and minimum solve a linear
//! system (formula: weighted linear regression, as in `make_qx_quants` and `make_qkx2_quants` of
//! ggml's `ggml-quants.c`); for a fixed scale and minimum the best `q` is the nearest. Each fit
//! tries grids of several widths, then alternates the two steps until nothing is gained.
//!
//! Sums run in [`LANES`] lanes so that the compiler may vectorise them; the order is fixed, so the
//! result is the same on every machine.

/// Partial sums of a reduction.
const LANES: usize = 8;

/// Rounds of alternating refinement at most; few groups need more than four.
const REFINEMENTS: usize = 8;

/// Grids to try, as the number of steps between zero (or the smallest weight) and the extreme
/// weight: from two fewer than there are, which wastes levels, to four more, which clips. Wider or
/// denser choices lower the error by less than a thousandth.
fn widths(steps: f32) -> impl Iterator<Item = f32> {
    (-8..=16).map(move |quarter: i8| steps + 0.25 * f32::from(quarter))
}

/// A grid `scale * q + minimum`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) minimum: f32,
}

/// What the format can store as a group's minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Minimum {
    /// A number of its own.
    Any,
    /// A share, not negative, of what the block subtracts.
    NotPositive,
}

/// Sums `term` over the group.
#[inline(always)]
fn sums<const N: usize, const S: usize>(
    x: &[f32; N],
    w: &[f32; N],
    term: impl Fn(f32, f32) -> [f32; S],
) -> [f32; S] {
    let mut lanes = [[0.0f32; LANES]; S];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let terms = term(x[lane], w[lane]);
            for sum in 0..S {
                lanes[sum][lane] += terms[sum];
            }
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

/// Rounds to the nearest integer, ties to even, where `|value| < 2^22`: adding `1.5 * 2^23` leaves
/// no bits for a fraction. Unlike `f32::round_ties_even` it vectorises on every x86-64.
#[inline(always)]
fn round(value: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (value + NO_FRACTION) - NO_FRACTION
}

/// The integer in `low..=high` nearest to `value`.
#[inline(always)]
fn nearest(value: f32, low: f32, high: f32) -> f32 {
    let value = if value > low { value } else { low };
    round(if value < high { value } else { high })
}

/// The quants of `scale * (q - levels/2)`, stored from 0.
pub(super) fn symmetric_quants<const N: usize>(x: &[f32; N], scale: f32, levels: u8) -> [u8; N] {
    let offset = f32::from(levels / 2);
    let inverse = inverse(scale);
    x.map(|x| (nearest(x * inverse, -offset, offset - 1.0) + offset) as u8)
}

/// The quants of `scale * q + minimum`.
pub(super) fn affine_quants<const N: usize>(x: &[f32; N], grid: Affine, levels: u8) -> [u8; N] {
    let inverse = inverse(grid.scale);
    x.map(|x| nearest((x - grid.minimum) * inverse, 0.0, f32::from(levels - 1)) as u8)
}

/// `1 / scale`, or 0 where everything is to become quant 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The error that `scale` leaves, with the nearest quants.
pub(super) fn symmetric_error<const N: usize>(x: &[f32; N], w: &[f32; N], scale: f32, levels: u8) -> f32 {
    let (offset, inverse) = (f32::from(levels / 2), inverse(scale));
    let [error] = sums(x, w, |x, w| {
        let difference = scale * nearest(x * inverse, -offset, offset - 1.0) - x;
        [w * difference * difference]
    });
    error
}

/// The error that `grid` leaves, with the nearest quants.
pub(super) fn affine_error<const N: usize>(x: &[f32; N], w: &[f32; N], grid: Affine, levels: u8) -> f32 {
    let (highest, inverse) = (f32::from(levels - 1), inverse(grid.scale));
    let [error] = sums(x, w, |x, w| {
        let q = nearest((x - grid.minimum) * inverse, 0.0, highest);
        let difference = grid.scale * q + grid.minimum - x;
        [w * difference * difference]
    });
    error
}

/// `[Σwqx, Σwq²]` for the nearest quants of `scale`.
pub(super) fn symmetric_moments<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    scale: f32,
    levels: u8,
) -> [f32; 2] {
    let (offset, inverse) = (f32::from(levels / 2), inverse(scale));
    sums(x, w, |x, w| {
        let q = nearest(x * inverse, -offset, offset - 1.0);
        [w * q * x, w * q * q]
    })
}

/// `[Σwq, Σwq², Σwqx, Σwx, Σw]` for the nearest quants of `grid`.
pub(super) fn affine_moments<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    grid: Affine,
    levels: u8,
) -> [f32; 5] {
    let (highest, inverse) = (f32::from(levels - 1), inverse(grid.scale));
    sums(x, w, |x, w| {
        let q = nearest((x - grid.minimum) * inverse, 0.0, highest);
        [w * q, w * q * q, w * q * x, w * x, w]
    })
}

/// A scale that nearly minimises the error of `scale * q`, `q` in `-levels/2 .. levels/2`. It may be
/// negative: the range reaches one step further down than up.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], levels: u8) -> f32 {
    let offset = f32::from(levels / 2);
    let extreme = x.iter().fold(0.0f32, |a, &b| if b.abs() > a.abs() { b } else { a });
    if extreme == 0.0 {
        return 0.0;
    }
    let refit = |inverse: f32| {
        let [xq, qq] = sums(x, w, |x, w| {
            let q = nearest(x * inverse, -offset, offset - 1.0);
            [w * q * x, w * q * q]
        });
        // `xq²/qq` is by how much the best scale for these quants lowers the error.
        if qq > 0.0 { (xq / qq, xq * xq / qq) } else { (0.0, 0.0) }
    };
    // The fallback stands where squares leave the range of f32 and nothing can be compared.
    let mut best = (extreme / -offset, 0.0);
    for width in widths(offset) {
        let width = width / extreme;
        for candidate in [refit(-width), refit(width)] {
            if candidate.1 > best.1 {
                best = candidate;
            }
        }
    }
    for _ in 0..REFINEMENTS {
        let candidate = refit(inverse(best.0));
        if candidate.1 <= best.1 {
            break;
        }
        best = candidate;
    }
    best.0
}

/// A grid that nearly minimises the error of `scale * q + minimum`, `q` in `0..levels`.
pub(super) fn affine<const N: usize>(x: &[f32; N], w: &[f32; N], levels: u8, allowed: Minimum) -> Affine {
    let highest = f32::from(levels - 1);
    let largest = x.iter().fold(x[0], |a, &b| if b > a { b } else { a });
    let mut smallest = x.iter().fold(x[0], |a, &b| if b < a { b } else { a });
    if allowed == Minimum::NotPositive {
        smallest = smallest.min(0.0);
    }
    let range = largest - smallest;
    if range <= 0.0 {
        return Affine { scale: 0.0, minimum: smallest };
    }
    let [sum_w, sum_x] = sums(x, w, |x, w| [w, w * x]);
    let refit = |grid_inverse: f32, grid_minimum: f32| {
        let [q1, q2, xq] = sums(x, w, |x, w| {
            let q = nearest((x - grid_minimum) * grid_inverse, 0.0, highest);
            [w * q, w * q * q, w * q * x]
        });
        let determinant = sum_w * q2 - q1 * q1;
        let mut grid = Affine {
            scale: (sum_w * xq - sum_x * q1) / determinant,
            minimum: (q2 * sum_x - q1 * xq) / determinant,
        };
        if allowed == Minimum::NotPositive && grid.minimum > 0.0 {
            grid = Affine { scale: xq / q2, minimum: 0.0 };
        }
        (grid, determinant > 0.0)
    };
    let mut best = Affine { scale: range / highest, minimum: smallest };
    let mut best_error = affine_error(x, w, best, levels);
    let consider = |(grid, sound): (Affine, bool), best: &mut Affine, best_error: &mut f32| {
        let error = affine_error(x, w, grid, levels);
        let better = sound && error < *best_error;
        if better {
            (*best, *best_error) = (grid, error);
        }
        better
    };
    for width in widths(highest) {
        consider(refit(width / range, smallest), &mut best, &mut best_error);
    }
    for _ in 0..REFINEMENTS {
        if !consider(refit(inverse(best.scale), best.minimum), &mut best, &mut best_error) {
            break;
        }
    }
    best
}
