//! The kernels: matrix products, attention and what goes row by row.
//!
//! Each is written once over `Simd`. They are safe functions on slices that a
//! thread calls for its own share of the work; who calls them with what is the executor's matter.
//! An output is one sum in one order, so no result depends on how work is shared or batched.

mod activations;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
pub(crate) mod attention_tiles;
mod float;
mod math;
mod matmul;
mod quantised;
pub(crate) mod rows;
pub(crate) mod stored;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod unpacked;

pub use activations::{ActivationBlock, ActivationKind, Activations, PreparedRows};
pub(crate) use activations::{prepare_row, prepared_bytes, quantise};
pub use matmul::{Epilogue, Matmul, OutputMatrix, matmul};

use crate::isa::{Isa, Kernel};
use crate::simd::{LANES, Simd};

/// `out = x / sqrt(mean(x^2) + epsilon) * gain`, on one row.
pub fn rms_norm(isa: Isa, x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    isa.run(RmsNorm { x, gain, epsilon, out });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        rows::rms_norm(simd, self.x, self.gain, self.epsilon, self.out);
    }
}

/// A row of floats, in vectors and a tail.
#[derive(Clone, Copy)]
struct Row<'a>(&'a [f32]);

impl<'a> Row<'a> {
    #[inline(always)]
    fn new(values: &'a [f32]) -> Self {
        Self(values)
    }

    /// Whole vectors.
    #[inline(always)]
    fn whole(self) -> usize {
        self.0.len() / LANES
    }

    /// Values after them.
    #[inline(always)]
    fn tail(self) -> usize {
        self.0.len() % LANES
    }

    /// Vector `chunk`.
    #[inline(always)]
    fn load<S: Simd>(self, simd: S, chunk: usize) -> S::F32 {
        let values = &self.0[chunk * LANES..][..LANES];
        // SAFETY: the slice is 16 floats.
        unsafe { simd.load(values.as_ptr()) }
    }

    /// The tail, filled up.
    #[inline(always)]
    fn load_tail<S: Simd>(self, simd: S, fill: f32) -> S::F32 {
        let values = &self.0[self.whole() * LANES..];
        // SAFETY: the slice is as long as is said.
        unsafe { simd.load_partial(values.as_ptr(), values.len(), fill) }
    }
}
