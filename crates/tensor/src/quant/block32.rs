//! The formats of 32-weight blocks: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`.
//!
//! A `_0` block is `scale * (quant - offset)`, a `_1` block `scale * quant + minimum`. `write_*`
//! derive the scale from the extreme weights, in exactly the arithmetic of `quants.py` of the Python
//! package `gguf` (the encoders every tool agrees on); `search_*` choose the scale that minimises
//! the importance-weighted squared error.

use super::fit::{self, Affine};
use super::{ScaleOverflow, half_at, half_bytes};

type Weights = [f32; 32];
type Quants = [u8; 32];

/// Splits 16 bytes into 32 quants: the low nibbles, then the high ones.
fn unpack_nibbles(bytes: &[u8]) -> Quants {
    let mut quants = [0; 32];
    let (low, high) = quants.split_at_mut(16);
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
    quants
}

/// As [`unpack_nibbles`], with the fifth bit of quant `i` in bit `i` of the four bytes before.
fn unpack_five_bits(bytes: &[u8]) -> Quants {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let mut quants = unpack_nibbles(&bytes[4..]);
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant |= ((high >> i & 1) as u8) << 4;
    }
    quants
}

fn pack_nibbles(quants: &Quants, out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = quants[i] & 15 | quants[i + 16] << 4;
    }
}

fn pack_five_bits(quants: &Quants, out: &mut [u8]) {
    let high = quants.iter().rev().fold(0u32, |bits, &quant| bits << 1 | u32::from(quant >> 4));
    out[..4].copy_from_slice(&high.to_le_bytes());
    pack_nibbles(quants, &mut out[4..]);
}

pub(super) fn read_q4_0(block: &[u8; 18], out: &mut Weights) {
    let scale = half_at(block, 0);
    let quants = unpack_nibbles(&block[2..]);
    *out = quants.map(|quant| scale * f32::from(quant as i8 - 8));
}

pub(super) fn read_q4_1(block: &[u8; 20], out: &mut Weights) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let quants = unpack_nibbles(&block[4..]);
    *out = quants.map(|quant| scale * f32::from(quant) + minimum);
}

pub(super) fn read_q5_0(block: &[u8; 22], out: &mut Weights) {
    let scale = half_at(block, 0);
    let quants = unpack_five_bits(&block[2..]);
    *out = quants.map(|quant| scale * f32::from(quant as i8 - 16));
}

pub(super) fn read_q5_1(block: &[u8; 24], out: &mut Weights) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let quants = unpack_five_bits(&block[4..]);
    *out = quants.map(|quant| scale * f32::from(quant) + minimum);
}

pub(super) fn read_q8_0(block: &[u8; 34], out: &mut Weights) {
    let scale = half_at(block, 0);
    for (weight, &byte) in out.iter_mut().zip(&block[2..]) {
        *weight = f32::from(byte as i8) * scale;
    }
}

/// `1 / scale`, and 0 for a block of zeros.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Truncates to a quant in `0..=largest`. What is not finite (the inverse of a scale below the
/// normal range overflows) becomes 0, as it does in NumPy on every common machine; such a block's
/// stored scale is 0 in any case.
fn truncate(value: f32, largest: u8) -> u8 {
    if value.is_finite() { (value as u8).min(largest) } else { 0 }
}

/// Quants around the middle of the range: the weight of largest magnitude (the first, if several)
/// becomes quant 0, whatever its sign.
fn offset_quants(weights: &Weights, levels: u8) -> (f32, Quants) {
    let offset = f32::from(levels / 2);
    let extreme = weights.iter().fold(weights[0], |a, &b| if b.abs() > a.abs() { b } else { a });
    let scale = extreme / -offset;
    let inverse = inverse(scale);
    (scale, weights.map(|weight| truncate(weight * inverse + (offset + 0.5), levels - 1)))
}

/// Quants counted from the smallest weight. Of zeros of both signs the first decides the sign of
/// the stored minimum, as in ggml; NumPy's choice there depends on the machine.
fn affine_quants(weights: &Weights, levels: u8) -> (f32, f32, Quants) {
    let largest = weights.iter().fold(weights[0], |a, &b| if b > a { b } else { a });
    let smallest = weights.iter().fold(weights[0], |a, &b| if b < a { b } else { a });
    let scale = (largest - smallest) / f32::from(levels - 1);
    let inverse = inverse(scale);
    let quants = weights.map(|weight| truncate((weight - smallest) * inverse + 0.5, levels - 1));
    (scale, smallest, quants)
}

pub(super) fn write_q4_0(weights: &Weights, block: &mut [u8; 18]) -> Result<(), ScaleOverflow> {
    let (scale, quants) = offset_quants(weights, 16);
    block[..2].copy_from_slice(&half_bytes(scale)?);
    pack_nibbles(&quants, &mut block[2..]);
    Ok(())
}

pub(super) fn write_q4_1(weights: &Weights, block: &mut [u8; 20]) -> Result<(), ScaleOverflow> {
    let (scale, minimum, quants) = affine_quants(weights, 16);
    block[..2].copy_from_slice(&half_bytes(scale)?);
    block[2..4].copy_from_slice(&half_bytes(minimum)?);
    pack_nibbles(&quants, &mut block[4..]);
    Ok(())
}

pub(super) fn write_q5_0(weights: &Weights, block: &mut [u8; 22]) -> Result<(), ScaleOverflow> {
    let (scale, quants) = offset_quants(weights, 32);
    block[..2].copy_from_slice(&half_bytes(scale)?);
    pack_five_bits(&quants, &mut block[2..]);
    Ok(())
}

pub(super) fn write_q5_1(weights: &Weights, block: &mut [u8; 24]) -> Result<(), ScaleOverflow> {
    let (scale, minimum, quants) = affine_quants(weights, 32);
    block[..2].copy_from_slice(&half_bytes(scale)?);
    block[2..4].copy_from_slice(&half_bytes(minimum)?);
    pack_five_bits(&quants, &mut block[4..]);
    Ok(())
}

/// Signed quants; ties round away from zero.
pub(super) fn write_q8_0(weights: &Weights, block: &mut [u8; 34]) -> Result<(), ScaleOverflow> {
    let largest = weights.iter().fold(0.0f32, |a, &b| if b.abs() > a { b.abs() } else { a });
    let scale = largest / 127.0;
    let inverse = inverse(scale);
    block[..2].copy_from_slice(&half_bytes(scale)?);
    for (byte, &weight) in block[2..].iter_mut().zip(weights) {
        let scaled = weight * inverse;
        *byte = if scaled.is_finite() { round_half_away(scaled) as i8 as u8 } else { 0 };
    }
    Ok(())
}

/// C's `roundf` for numbers of up to 23 bits, in operations that vectorise on any machine.
fn round_half_away(value: f32) -> f32 {
    let magnitude = value.abs();
    let whole = magnitude as i32 as f32;
    let rounded = if magnitude - whole >= 0.5 { whole + 1.0 } else { whole };
    rounded.copysign(value)
}

/// Writes a `_0` block for the scale that serves the weighted error best, refined against the
/// rounding of that scale to half precision.
fn search_offset(
    weights: &Weights,
    importance: &Weights,
    levels: u8,
) -> Result<([u8; 2], Quants), ScaleOverflow> {
    let scale = fit::symmetric(weights, importance, levels);
    let bytes = half_bytes(scale)?;
    let quants = fit::symmetric_quants(weights, half_at(&bytes, 0), levels);
    Ok((bytes, quants))
}

/// Writes a `_1` block for the scale and minimum that serve the weighted error best.
fn search_affine(
    weights: &Weights,
    importance: &Weights,
    levels: u8,
) -> Result<([u8; 2], [u8; 2], Quants), ScaleOverflow> {
    let Affine { scale, minimum } = fit::affine(weights, importance, levels, fit::Minimum::Any);
    let (scale, minimum) = (half_bytes(scale)?, half_bytes(minimum)?);
    let stored = Affine { scale: half_at(&scale, 0), minimum: half_at(&minimum, 0) };
    Ok((scale, minimum, fit::affine_quants(weights, stored, levels)))
}

pub(super) fn search_q4_0(
    weights: &Weights,
    importance: &Weights,
    block: &mut [u8; 18],
) -> Result<(), ScaleOverflow> {
    let (scale, quants) = search_offset(weights, importance, 16)?;
    block[..2].copy_from_slice(&scale);
    pack_nibbles(&quants, &mut block[2..]);
    Ok(())
}

pub(super) fn search_q4_1(
    weights: &Weights,
    importance: &Weights,
    block: &mut [u8; 20],
) -> Result<(), ScaleOverflow> {
    let (scale, minimum, quants) = search_affine(weights, importance, 16)?;
    block[..2].copy_from_slice(&scale);
    block[2..4].copy_from_slice(&minimum);
    pack_nibbles(&quants, &mut block[4..]);
    Ok(())
}

pub(super) fn search_q5_0(
    weights: &Weights,
    importance: &Weights,
    block: &mut [u8; 22],
) -> Result<(), ScaleOverflow> {
    let (scale, quants) = search_offset(weights, importance, 32)?;
    block[..2].copy_from_slice(&scale);
    pack_five_bits(&quants, &mut block[2..]);
    Ok(())
}

pub(super) fn search_q5_1(
    weights: &Weights,
    importance: &Weights,
    block: &mut [u8; 24],
) -> Result<(), ScaleOverflow> {
    let (scale, minimum, quants) = search_affine(weights, importance, 32)?;
    block[..2].copy_from_slice(&scale);
    block[2..4].copy_from_slice(&minimum);
    pack_five_bits(&quants, &mut block[4..]);
    Ok(())
}
