//! Elementary functions, lane by lane.

use crate::simd::Simd;

/// e^x to 1 ulp for results in the normal range; 0 below it, and no more than e^88.02.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r (coefficients of Cephes `expf`), times 2^n.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // The constant first: a NaN in x stays one.
    let x = simd.min(simd.splat(88.02), simd.max(simd.splat(-88.0), x));
    let n = simd.round_to_i32(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let steps = simd.to_f32(n);
    let r = simd.mul_add(steps, simd.splat(-0.693_359_4), x);
    let r = simd.mul_add(steps, simd.splat(2.121_944_4e-4), r);
    let mut p = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let p = simd.mul_add(p, simd.mul(r, r), simd.add(r, simd.splat(1.0)));
    simd.mul(p, simd.power_of_two(n))
}

/// 2^x for x <= 0, to 2 ulp; no less than 2^-120, so that no result is denormal.
///
/// x = n + r with |r| <= 1/2, a polynomial in r (minimax of relative error 9.2e-8 with p(0) = 1, by
/// reweighted least squares), times 2^n.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // The constant first: a NaN in x stays one.
    let x = simd.max(simd.splat(-120.0), x);
    let n = simd.round(x);
    let r = simd.sub(x, n);
    #[expect(clippy::approx_constant, reason = "near ln 2, and better here")]
    const COEFFICIENTS: [f32; 5] = [9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0];
    let mut p = simd.splat(1.326_472_6e-3);
    for coefficient in COEFFICIENTS {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    simd.times_power_of_two(p, n)
}

/// x / (1 + e^-x).
#[inline(always)]
pub(super) fn silu<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let one = simd.splat(1.0);
    simd.div(x, simd.add(one, exp(simd, simd.sub(simd.splat(0.0), x))))
}
