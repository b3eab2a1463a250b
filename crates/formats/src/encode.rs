//! A weight in the type that a file is to have it in.

use crate::FormatError;
use crate::checkpoint::Checkpoint;
use crate::names::WeightName;
use alti_tensor::quant::{dequantize, quantize};
use alti_tensor::{DType, WeightData};
use std::borrow::Cow;

/// Weights converted at a time, so that a large tensor is never in memory as 32-bit floats.
const CHUNK: usize = 1 << 20;

/// The bytes of a weight, canonical layout, in `dtype`; borrowed where it is stored so.
pub(crate) fn encode<'a>(
    source: &'a Checkpoint,
    name: &WeightName,
    dtype: DType,
) -> Result<Cow<'a, [u8]>, FormatError> {
    let stored = source.load(name)?;
    if stored.dtype == dtype {
        return Ok(stored.bytes);
    }
    reencode(&stored, dtype)
        .map_err(|problem| FormatError::tensor(source.path(), &name.gguf(), problem))
        .map(Cow::Owned)
}

fn reencode(stored: &WeightData<'_>, dtype: DType) -> Result<Vec<u8>, String> {
    let columns = stored.columns();
    let rows_at_once = (CHUNK / columns.max(1)).max(1);
    let row_bytes = dtype.bytes_for(columns).ok_or_else(|| {
        format!("has rows of {columns}, which {dtype} cannot hold (blocks of {})", dtype.block_len())
    })?;
    let mut out = vec![0; row_bytes * stored.rows()];
    let mut floats = vec![0f32; rows_at_once * columns];
    let stored_row = stored.dtype.bytes_for(columns).unwrap_or(0);
    let chunks = stored.bytes.chunks(rows_at_once * stored_row).zip(out.chunks_mut(rows_at_once * row_bytes));
    for (from, to) in chunks {
        let floats = &mut floats[..to.len() / row_bytes * columns];
        dequantize(stored.dtype, from, floats).map_err(|e| e.to_string())?;
        quantize(dtype, floats, None, to).map_err(|e| e.to_string())?;
    }
    Ok(out)
}

/// Whether 32-bit floats (as bytes) survive a round trip through `dtype`, bit for bit.
pub(crate) fn is_exact(floats: &[u8], dtype: DType) -> bool {
    let values: Vec<f32> = floats.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
    let mut narrow = vec![0; dtype.bytes_for(values.len()).unwrap_or(0)];
    let mut back = vec![0f32; values.len()];
    quantize(dtype, &values, None, &mut narrow).is_ok()
        && dequantize(dtype, &narrow, &mut back).is_ok()
        && back.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits())
}
