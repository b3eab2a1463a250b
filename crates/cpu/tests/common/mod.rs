//! Random stored tensors of every format, and the activations to multiply them with.

mod random;

use alti_cpu::PackedMatrix;
use alti_tensor::{DType, WeightData};
use half::f16;
pub(crate) use random::Random;
use std::borrow::Cow;

/// Where the f16 floats of a block lie.
fn float_fields(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::MXFP4 | DType::F32 | DType::F16 | DType::BF16 => &[],
    }
}

/// Any bits for codes and integer scales, floats of a sane size.
pub(crate) fn random_weight(
    random: &mut Random,
    dtype: DType,
    rows: usize,
    columns: usize,
) -> WeightData<'static> {
    weight_of(random, dtype, rows, columns, |random| random.next() as u8)
}

/// The same, with these bytes in blocks, but for their floats.
pub(crate) fn weight_of(
    random: &mut Random,
    dtype: DType,
    rows: usize,
    columns: usize,
    mut byte: impl FnMut(&mut Random) -> u8,
) -> WeightData<'static> {
    let blocks = rows * columns / dtype.block_len();
    let mut bytes = Vec::with_capacity(blocks * dtype.block_bytes());
    for _ in 0..blocks {
        let start = bytes.len();
        match dtype {
            DType::F32 => bytes.extend(random.float().to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f32(random.float()).to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f32(random.float()).to_le_bytes()),
            _ => bytes.extend((0..dtype.block_bytes()).map(|_| byte(random))),
        }
        for field in float_fields(dtype) {
            let value = f16::from_f32(0.01 * random.float());
            bytes[start + field..start + field + 2].copy_from_slice(&value.to_le_bytes());
        }
        if dtype == DType::MXFP4 {
            bytes[start] = 120 + (random.next() % 10) as u8;
        }
    }
    WeightData::new(dtype, vec![rows, columns], Cow::Owned(bytes)).expect("a whole tensor")
}

/// All rows of a packed matrix as floats.
pub(crate) fn dequantised(packed: &PackedMatrix) -> Vec<f32> {
    let mut out = vec![0.0; packed.rows() * packed.columns()];
    for (row, out) in out.chunks_exact_mut(packed.columns()).enumerate() {
        packed.dequantise_row(row, out);
    }
    out
}
