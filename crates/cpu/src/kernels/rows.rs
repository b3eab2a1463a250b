//! Kernels on single rows. Sums run over 16 lanes and then across them, on every instruction set, so
//! that a row has the same bits everywhere.

use crate::kernels::math::silu;
use crate::simd::{LANES, Simd};

/// `1 / sqrt(mean(x^2) + epsilon)`.
#[inline(always)]
pub(crate) fn rms_factor<S: Simd>(simd: S, x: &[f32], epsilon: f32) -> f32 {
    let mut sums = simd.splat(0.0);
    for chunk in x.chunks(LANES) {
        // SAFETY: a chunk has its length of floats.
        let values = unsafe { simd.load_partial(chunk.as_ptr(), chunk.len(), 0.0) };
        sums = simd.mul_add(values, values, sums);
    }
    let mean = simd.sum(sums) / x.len() as f32;
    1.0 / (mean + epsilon).sqrt()
}

/// `out = x * rms_factor(x) * gain`.
#[inline(always)]
pub(crate) fn rms_norm<S: Simd>(simd: S, x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let factor = rms_factor(simd, x, epsilon);
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * factor * gain;
    }
}

/// `x *= rms_factor(x)`.
#[inline(always)]
pub(crate) fn normalise<S: Simd>(simd: S, x: &mut [f32], epsilon: f32) {
    let factor = rms_factor(simd, x, epsilon);
    scale(x, factor);
}

/// Rotates the consecutive pairs of one head by the angles whose `cos, sin` pairs are given.
#[inline(always)]
pub(crate) fn rotate(head: &mut [f32], rotation: &[f32]) {
    for (pair, angle) in head.chunks_exact_mut(2).zip(rotation.chunks_exact(2)) {
        let (a, b, cos, sin) = (pair[0], pair[1], angle[0], angle[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}

/// `x *= factor`.
#[inline(always)]
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// `x += y`.
#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `out = silu(gate) * up`.
#[inline(always)]
pub(crate) fn swiglu<S: Simd>(simd: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.chunks(LANES).zip(up.chunks(LANES)).zip(out.chunks_mut(LANES)) {
        // SAFETY: the three chunks have the same length.
        unsafe {
            let gate = simd.load_partial(gate.as_ptr(), out.len(), 0.0);
            let up = simd.load_partial(up.as_ptr(), out.len(), 0.0);
            simd.store_partial(out.as_mut_ptr(), out.len(), simd.mul(silu(simd, gate), up));
        }
    }
}
