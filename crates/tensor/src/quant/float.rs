//! Plain floats: `F32`, `F16` and `BF16`, little-endian.
//!
//! They are formats like the others to a converter, so they live behind the same two functions.
//! NaN and infinities pass; a finite number that would become an infinity does not.

use super::QuantError;
use crate::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Weights converted at a time: enough for the vector instructions the `half` crate picks.
const CHUNK: usize = 64;

/// The smallest magnitude that rounds to an infinity: half a step above the largest finite number.
const F16_OVERFLOW: f32 = 65_520.0;
const BF16_OVERFLOW: f32 = f32::from_bits(0x7f7f_8000);

pub(super) fn read_f32(bytes: &[u8], out: &mut [f32]) {
    for (weight, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *weight = f32::from_le_bytes(*bytes);
    }
}

pub(super) fn write_f32(values: &[f32], out: &mut [u8]) {
    for (value, bytes) in values.iter().zip(out.as_chunks_mut().0) {
        *bytes = value.to_le_bytes();
    }
}

pub(super) fn read_f16(bytes: &[u8], out: &mut [f32]) {
    let mut halves = [f16::ZERO; CHUNK];
    for (weights, bytes) in out.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
        let halves = &mut halves[..weights.len()];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves.convert_to_f32_slice(weights);
    }
}

pub(super) fn write_f16(values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    check_range(DType::F16, values, F16_OVERFLOW)?;
    let mut halves = [f16::ZERO; CHUNK];
    for (values, bytes) in values.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)) {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = half.to_le_bytes();
        }
    }
    Ok(())
}

pub(super) fn read_bf16(bytes: &[u8], out: &mut [f32]) {
    for (weight, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *weight = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

pub(super) fn write_bf16(values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    check_range(DType::BF16, values, BF16_OVERFLOW)?;
    for (value, bytes) in values.iter().zip(out.as_chunks_mut().0) {
        *bytes = bf16_bits(*value).to_le_bytes();
    }
    Ok(())
}

/// Rounds to the nearest bfloat16, ties to even; a NaN keeps its sign and becomes quiet.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let quiet = bits >> 16 | 0x40;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

/// Refuses a finite value that would be rounded to an infinity.
fn check_range(dtype: DType, values: &[f32], overflow: f32) -> Result<(), QuantError> {
    match values.iter().position(|value| value.abs() >= overflow && value.is_finite()) {
        Some(element) => Err(QuantError::OutOfRange { dtype, element, value: values[element] }),
        None => Ok(()),
    }
}
