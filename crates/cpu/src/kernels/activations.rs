//! Activations in the form that a matrix wants, prepared once and read by all matmuls.
//!
//! For block formats they become 8-bit integers with one f32 scale for 32 of them. Offsets and
//! minima of the weights multiply sums of activations, so these are made here too, and a block
//! fills one cache line.

use super::Row;
use crate::CpuError;
use crate::isa::{Isa, Kernel};
use crate::memory::{AlignedBytes, CACHE_LINE};
use crate::pack::PackedMatrix;
use crate::pack::layout::BLOCK;
use crate::simd::{LANES, Simd};

/// 32 activations as integers: `x = scale * quants`.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct ActivationBlock {
    /// The integers, -127 to 127.
    pub(crate) quants: [i8; BLOCK],
    /// Their scale. NaN where an activation was not finite, so that every output shows it.
    pub(crate) scale: f32,
    /// `scale * sum(quants)`, for minima.
    pub(crate) sum: f32,
    /// The same for each half.
    pub(crate) half_sums: [f32; 2],
    /// `-8 * sum(quants)`: where the integer dot product of 4-bit weights starts.
    pub(crate) start_8: i32,
    /// `-128 * sum(quants)`.
    pub(crate) start_128: i32,
    /// `-32 * sum(quants)` of each half.
    pub(crate) start_32: [i32; 2],
}

/// What a matrix wants its activations to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// As they are, for F32 and F16 weights.
    F32,
    /// Rounded to bf16, for BF16 weights.
    Brain,
    /// The same values as floats, for BF16 weights where vectors multiply nothing smaller.
    BrainFloats,
    /// 8-bit integers with a scale for 32 of them, for block formats.
    Int8,
}

impl ActivationKind {
    /// Bytes of an element of prepared activations: a float, a pair, a block of 32.
    fn element_bytes(self) -> usize {
        match self {
            ActivationKind::F32 | ActivationKind::Brain => 4,
            ActivationKind::BrainFloats => 8,
            ActivationKind::Int8 => size_of::<ActivationBlock>(),
        }
    }
}

/// Rows of prepared activations.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// `[rows][columns]`.
    F32(&'a [f32]),
    /// `[rows][columns / 2, rounded up]` pairs of bf16, the first in the lower half; rows are
    /// [`prepared_stride`] apart.
    Brain(&'a [u32]),
    /// The same pairs as floats.
    BrainFloats(&'a [[f32; 2]]),
    /// `[rows][columns / 32]`; rows are [`prepared_stride`] apart.
    Int8(&'a [ActivationBlock]),
}

impl<'a> Activations<'a> {
    /// Rows that [`prepare_row`] has written, [`prepared_bytes`] apart.
    ///
    /// # Panics
    /// When blocks do not begin at a cache line.
    pub(crate) fn new(kind: ActivationKind, memory: &'a [f32]) -> Self {
        match kind {
            ActivationKind::F32 => Activations::F32(memory),
            ActivationKind::Brain => Activations::Brain(bytemuck::cast_slice(memory)),
            ActivationKind::BrainFloats => Activations::BrainFloats(bytemuck::cast_slice(memory)),
            ActivationKind::Int8 => Activations::Int8(bytemuck::cast_slice(memory)),
        }
    }

    /// What they are.
    pub(super) fn kind(&self) -> ActivationKind {
        match self {
            Activations::F32(_) => ActivationKind::F32,
            Activations::Brain(_) => ActivationKind::Brain,
            Activations::BrainFloats(_) => ActivationKind::BrainFloats,
            Activations::Int8(_) => ActivationKind::Int8,
        }
    }

    /// Elements of all rows.
    pub(super) fn elements(&self) -> usize {
        match self {
            Activations::F32(x) => x.len(),
            Activations::Brain(x) => x.len(),
            Activations::BrainFloats(x) => x.len(),
            Activations::Int8(x) => x.len(),
        }
    }
}

/// Rows of activations, prepared for the products with a matrix, in memory of their own.
#[derive(Debug)]
pub struct PreparedRows {
    kind: ActivationKind,
    memory: AlignedBytes,
    bytes: usize,
}

impl PreparedRows {
    /// Of rows as long as those of `weight`, for products on this instruction set.
    ///
    /// # Errors
    /// When there is no memory for them.
    ///
    /// # Panics
    /// When `x` is not whole rows.
    pub fn new(isa: Isa, weight: &PackedMatrix, x: &[f32]) -> Result<Self, CpuError> {
        let (kind, columns) = (weight.activation_kind(isa), weight.columns());
        assert!(columns > 0 && x.len().is_multiple_of(columns), "activations are whole rows");
        let (row, rows) = (prepared_bytes(kind, columns), x.len() / columns);
        let bytes = row * rows;
        let mut memory = AlignedBytes::zeroed(bytes)?;
        for (x, out) in x.chunks_exact(columns).zip(memory.as_mut_slice().chunks_exact_mut(row)) {
            prepare_row(isa, kind, x, bytemuck::cast_slice_mut(out));
        }
        Ok(Self { kind, memory, bytes })
    }

    /// All of them.
    pub fn view(&self) -> Activations<'_> {
        Activations::new(self.kind, bytemuck::cast_slice(&self.memory.as_slice()[..self.bytes]))
    }
}

/// Elements (floats, pairs or blocks) of a prepared row.
pub(super) fn prepared_len(kind: ActivationKind, columns: usize) -> usize {
    match kind {
        ActivationKind::F32 => columns,
        ActivationKind::Brain | ActivationKind::BrainFloats => columns.div_ceil(2),
        ActivationKind::Int8 => columns / BLOCK,
    }
}

/// Elements from one prepared row to the next: an odd number of cache lines, because rows that are
/// read side by side must not all lie in the same set of a cache.
pub(super) fn prepared_stride(kind: ActivationKind, columns: usize) -> usize {
    let elements = prepared_len(kind, columns);
    match kind {
        ActivationKind::F32 => elements,
        ActivationKind::Brain | ActivationKind::BrainFloats => {
            let in_a_line = CACHE_LINE / kind.element_bytes();
            (elements.div_ceil(in_a_line) | 1) * in_a_line
        }
        ActivationKind::Int8 => elements | 1,
    }
}

/// Bytes from one prepared row to the next.
pub(crate) fn prepared_bytes(kind: ActivationKind, columns: usize) -> usize {
    kind.element_bytes() * prepared_stride(kind, columns)
}

/// Prepares a row: as it is; rounded to bf16, an odd row ending in a zero; or quantised, the largest magnitude of 32
/// becoming 127 and the others being rounded to nearest even.
///
/// # Panics
/// When `out` is not [`prepared_bytes`] long, a row to quantise is not whole blocks, or blocks do not begin at a cache
/// line.
pub(crate) fn prepare_row(isa: Isa, kind: ActivationKind, x: &[f32], out: &mut [f32]) {
    let length = prepared_len(kind, x.len());
    match kind {
        ActivationKind::F32 => out.copy_from_slice(x),
        ActivationKind::Brain => isa.run(Round { x, out: &mut bytemuck::cast_slice_mut(out)[..length] }),
        ActivationKind::BrainFloats => {
            let (whole, last) = out[..2 * length].split_at_mut(x.len());
            last.fill(0.0);
            isa.run(RoundFloats { x, out: whole });
        }
        ActivationKind::Int8 => {
            assert_eq!(x.len(), BLOCK * length, "a row to quantise is whole blocks");
            isa.run(Quantise { x, out: &mut bytemuck::cast_slice_mut(out)[..length] });
        }
    }
}

struct Quantise<'a> {
    x: &'a [f32],
    out: &'a mut [ActivationBlock],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (blocks, _) = self.x.as_chunks::<BLOCK>();
        for (x, out) in blocks.iter().zip(self.out) {
            quantise(simd, x, out);
        }
    }
}

/// Quantises 32 activations, as [`prepare_row`] does.
#[inline(always)]
pub(crate) fn quantise<S: Simd>(simd: S, x: &[f32; BLOCK], out: &mut ActivationBlock) {
    // SAFETY: both halves of the array are 16 floats.
    let (low, high) = unsafe { (simd.load(x.as_ptr()), simd.load(x.as_ptr().add(LANES))) };
    quantise_vectors(simd, low, high, out);
}

/// The same of two vectors.
#[inline(always)]
pub(super) fn quantise_vectors<S: Simd>(simd: S, low: S::F32, high: S::F32, out: &mut ActivationBlock) {
    let largest = simd.largest_magnitude(low, high);
    let finite = largest < f32::INFINITY;
    // Below this the inverse of the scale is not finite; such activations are zero.
    let smallest = 256.0 * f32::MIN_POSITIVE;
    if !finite || largest < smallest {
        *out = bytemuck::Zeroable::zeroed();
        if !finite {
            (out.scale, out.sum, out.half_sums) = (f32::NAN, f32::NAN, [f32::NAN; 2]);
        }
        return;
    }
    let scale = largest / 127.0;
    let inverse = simd.splat(1.0 / scale);
    let low = simd.round_to_i32(simd.mul(low, inverse));
    let high = simd.round_to_i32(simd.mul(high, inverse));
    // SAFETY: both halves of the array are 16 bytes.
    unsafe {
        simd.store_i8(out.quants.as_mut_ptr(), low);
        simd.store_i8(out.quants.as_mut_ptr().add(LANES), high);
    }
    let sums = simd.sums(low, high);
    let total = sums[0] + sums[1];
    out.scale = scale;
    // Sums of at most 32 integers of 7 bits are exact in f32.
    out.sum = scale * total as f32;
    out.half_sums = [scale * sums[0] as f32, scale * sums[1] as f32];
    out.start_8 = -8 * total;
    out.start_128 = -128 * total;
    out.start_32 = [-32 * sums[0], -32 * sums[1]];
}

/// To bf16, in pairs.
struct Round<'a> {
    x: &'a [f32],
    out: &'a mut [u32],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (x, out) = (Row::new(self.x), self.out.as_mut_ptr().cast::<u16>());
        for chunk in 0..x.whole() {
            // SAFETY: `out` holds at least as many bf16 as `x` has floats.
            unsafe { simd.store_brain(out.add(chunk * LANES), x.load(simd, chunk)) };
        }
        if x.tail() > 0 {
            let mut last = [0u16; LANES];
            // SAFETY: 16 bf16 go into the array; then `out` gets what is left of it, in pairs.
            unsafe {
                simd.store_brain(last.as_mut_ptr(), x.load_tail(simd, 0.0));
                let at = out.add(x.whole() * LANES);
                std::ptr::copy_nonoverlapping(last.as_ptr(), at, x.tail().next_multiple_of(2));
            }
        }
    }
}

/// The same, kept as floats.
struct RoundFloats<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for RoundFloats<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (x, out) in self.x.chunks(LANES).zip(self.out.chunks_mut(LANES)) {
            // SAFETY: chunks of the same length.
            unsafe {
                let rounded = simd.round_to_brain(simd.load_partial(x.as_ptr(), x.len(), 0.0));
                simd.store_partial(out.as_mut_ptr(), out.len(), rounded);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::pair_floats;

    /// Whatever was in the memory: an odd row ends in a zero, and floats are what pairs stand for.
    #[test]
    fn rounded_rows_are_the_same_in_both_forms_and_end_in_a_zero() {
        for columns in [1, 2, 15, 16, 17, 33] {
            let x: Vec<f32> = (0..columns).map(|k| (k as f32 + 0.7) * 1.37).collect();
            let pairs = prepared_len(ActivationKind::Brain, columns);
            for isa in Isa::available() {
                let prepared = |kind| {
                    let mut out = vec![f32::NAN; prepared_bytes(kind, columns) / 4];
                    prepare_row(isa, kind, &x, &mut out);
                    out
                };
                let (brain, floats) =
                    (prepared(ActivationKind::Brain), prepared(ActivationKind::BrainFloats));
                let widened: Vec<f32> =
                    brain[..pairs].iter().flat_map(|pair| pair_floats(pair.to_bits())).collect();
                assert_eq!(widened, floats[..2 * pairs], "{columns} columns on {}", isa.name());
                let expected = x.iter().map(|&x| half::bf16::from_f32(x).to_f32());
                assert_eq!(widened[..columns], expected.collect::<Vec<_>>());
                assert!(widened[columns..].iter().all(|&end| end.to_bits() == 0));
            }
        }
    }
}
