//! Reading the K-quants: blocks of 256 weights in groups of 16 or 32, whose scales are themselves
//! quantised against one or two half-precision numbers of the block.
//!
//! Layouts as in `ggml-common.h` and `quants.py` of the Python package `gguf`.

use super::half_at;

/// Bytes of 8 six-bit scales and 8 six-bit minima.
pub(super) const SCALES_AND_MINIMA: usize = 12;

/// Unpacks the 8 scales and 8 minima of `Q4_K` and `Q5_K`. Groups 0 to 3 lie in the low 6 bits of
/// bytes 0 to 3 (scales) and 4 to 7 (minima); groups 4 to 7 have their low 4 bits in bytes 8 to 11
/// and their high 2 bits on top of the former.
pub(super) fn unpack_scales(packed: &[u8; SCALES_AND_MINIMA]) -> [(u8, u8); 8] {
    std::array::from_fn(|group| {
        let low = group % 4;
        if group < 4 {
            (packed[low] & 63, packed[low + 4] & 63)
        } else {
            let nibbles = packed[low + 8];
            (nibbles & 15 | packed[low] >> 6 << 4, nibbles >> 4 | packed[low + 4] >> 6 << 4)
        }
    })
}

/// Layout: 16 x (4-bit scale, 4-bit minimum), 64 bytes of 2-bit quants, f16 scale, f16 minimum.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let group_scale = scale * f32::from(block[group] & 15);
        let group_minimum = minimum * f32::from(block[group] >> 4);
        let (quants, shift) = two_bit_quants(&block[16..80], group);
        for (weight, &byte) in out.iter_mut().zip(quants) {
            *weight = group_scale * f32::from(byte >> shift & 3) - group_minimum;
        }
    }
}

/// Layout: 32 bytes of high bits, 64 bytes of 2 low bits, 12 bytes of 6-bit scales, f16 scale.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half_at(block, 108);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = block[96 + group % 8] >> (4 * (group / 8)) & 15;
        let high = block[104 + group % 4] >> (2 * (group / 4)) & 3;
        let group_scale = scale * f32::from((low | high << 4) as i8 - 32);
        let (quants, shift) = two_bit_quants(&block[32..96], group);
        let high_bits = &block[16 * (group % 2)..][..16];
        for ((weight, &byte), &high) in out.iter_mut().zip(quants).zip(high_bits) {
            // A set high bit means that nothing is to be subtracted.
            let missing = (high >> (group / 2) & 1 ^ 1) << 2;
            *weight = group_scale * f32::from((byte >> shift & 3) as i8 - missing as i8);
        }
    }
}

/// The 16 bytes that hold a group's 2-bit quants, and the shift that brings them down: 32 bytes
/// hold 128 weights, 32 at each of four shifts.
fn two_bit_quants(quants: &[u8], group: usize) -> (&[u8], usize) {
    (&quants[32 * (group / 8) + 16 * (group % 2)..][..16], 2 * (group % 8 / 2))
}

/// Layout: f16 scale, f16 minimum, 12 bytes of scales and minima, 128 bytes of 4-bit quants.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, minimum, groups) = block_scales(block);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let group_scale = scale * f32::from(groups[group].0);
        let group_minimum = minimum * f32::from(groups[group].1);
        let quants = &block[16 + 32 * (group / 2)..][..32];
        for (weight, &byte) in out.iter_mut().zip(quants) {
            *weight = group_scale * f32::from(byte >> (4 * (group % 2)) & 15) - group_minimum;
        }
    }
}

/// Layout: as `Q4_K`, with 32 bytes of fifth bits before the 128 bytes of low bits.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, minimum, groups) = block_scales(block);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let group_scale = scale * f32::from(groups[group].0);
        let group_minimum = minimum * f32::from(groups[group].1);
        let quants = &block[48 + 32 * (group / 2)..][..32];
        for ((weight, &byte), &high) in out.iter_mut().zip(quants).zip(&block[16..48]) {
            let quant = byte >> (4 * (group % 2)) & 15 | (high >> group & 1) << 4;
            *weight = group_scale * f32::from(quant) - group_minimum;
        }
    }
}

/// The head that `Q4_K` and `Q5_K` share: scale, minimum, and each group's two multipliers.
fn block_scales(block: &[u8]) -> (f32, f32, [(u8, u8); 8]) {
    let packed = std::array::from_fn(|i| block[4 + i]);
    (half_at(block, 0), half_at(block, 2), unpack_scales(&packed))
}

/// Layout: 128 bytes of 4 low bits, 64 bytes of 2 high bits, 16 signed scales, f16 scale.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let high_bits = &block[128 + 32 * half..][..32];
        for (quarter, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low_bits = &block[64 * half + 32 * (quarter % 2)..][..32];
            let scales = &block[192 + 8 * half + 2 * quarter..][..2];
            for (i, weight) in out.iter_mut().enumerate() {
                let low = low_bits[i] >> (4 * (quarter / 2)) & 15;
                let quant = low | (high_bits[i] >> (2 * quarter) & 3) << 4;
                let group_scale = scale * f32::from(scales[i / 16] as i8);
                *weight = group_scale * f32::from(quant as i8 - 32);
            }
        }
    }
}
