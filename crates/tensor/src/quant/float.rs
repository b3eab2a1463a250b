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
    let mut halves = [f16::ZERO; CHUNK];
    for (index, (values, bytes)) in values.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)).enumerate() {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = half.to_le_bytes();
        }
        check_range(DType::F16, index * CHUNK, values, |i| halves[i].is_infinite())?;
    }
    Ok(())
}

pub(super) fn read_bf16(bytes: &[u8], out: &mut [f32]) {
    for (weight, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *weight = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

pub(super) fn write_bf16(values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    for (index, (values, bytes)) in values.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)).enumerate() {
        for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = bf16_bits(*value).to_le_bytes();
        }
        check_range(DType::BF16, index * CHUNK, values, |i| bf16_bits(values[i]) & 0x7fff == 0x7f80)?;
    }
    Ok(())
}

/// Rounds to the nearest bfloat16, ties to even; a NaN keeps its sign and becomes quiet.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let quiet = (bits >> 16) | 0x40;
    let rounded = (u64::from(bits) + 0x7fff + u64::from((bits >> 16) & 1)) >> 16;
    (if value.is_nan() { quiet } else { rounded as u32 }) as u16
}

/// Refuses a finite value that `is_infinite` says was rounded to an infinity.
fn check_range(
    dtype: DType,
    first: usize,
    values: &[f32],
    is_infinite: impl Fn(usize) -> bool,
) -> Result<(), QuantError> {
    match (0..values.len()).find(|&i| is_infinite(i) && values[i].is_finite()) {
        Some(i) => Err(QuantError::OutOfRange { dtype, element: first + i, value: values[i] }),
        None => Ok(()),
    }
}
