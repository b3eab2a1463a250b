//! Block-quantised formats: rows of floats to blocks of bytes and back.
//!
//! Everything that turns stored bytes into `f32`, or `f32` into stored bytes, goes through
//! [`dequantize`] and [`quantize`], so that a file reader, a converter and a kernel's test oracle
//! cannot disagree about a format. Reading agrees bit for bit with `quants.py` of the Python package
//! `gguf`; so does writing the formats that have one agreed encoder (`Q4_0` to `Q8_0`, `BF16`,
//! `F16`). The K-quants, and all 4- and 5-bit formats when columns differ in importance, have no
//! canonical encoder: there this module searches for the block with the smallest squared error.
//!
//! One file per family: plain floats, 32-weight blocks, K-quants (reading, writing), codebooks, and
//! the least-squares fits that the searches share.

mod block32;
mod codebook;
mod fit;
mod float;
mod k_read;
mod k_write;

use crate::DType;

/// The types [`quantize`] can write.
pub const WRITABLE: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

/// Why weights could not be read or written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// The two slices do not describe the same weights.
    #[error("{bytes} bytes are not {elements} {dtype} weights ({} bytes hold {})", .dtype.block_bytes(), .dtype.block_len())]
    Length {
        /// The format.
        dtype: DType,
        /// Length of the float slice.
        elements: usize,
        /// Length of the byte slice.
        bytes: usize,
    },
    /// A NaN or an infinity, which no block format can hold.
    #[error("weight {element} is {value}: {dtype} holds finite numbers only; the source tensor is damaged")]
    NotFinite {
        /// The format asked for.
        dtype: DType,
        /// Index into the values.
        element: usize,
        /// What stands there.
        value: f32,
    },
    /// A finite number that the format would turn into an infinity.
    #[error("weight {element} is {value:e}, beyond the range of {dtype}; F32 can hold it")]
    OutOfRange {
        /// The format asked for.
        dtype: DType,
        /// Index into the values.
        element: usize,
        /// What stands there.
        value: f32,
    },
    /// A format that is read only.
    #[error(
        "{0} can be read but not written; choose one of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16, F16, F32"
    )]
    ReadOnly(DType),
    /// Importance weights of another row length.
    #[error("{importance} importance weights do not fit a row of {columns} columns")]
    ImportanceLength {
        /// Columns of the row.
        columns: usize,
        /// Importance weights given.
        importance: usize,
    },
    /// An importance weight that is negative, infinite or NaN.
    #[error("the importance of column {column} is {value}; it must be finite and not negative")]
    Importance {
        /// Index into the importance weights.
        column: usize,
        /// What stands there.
        value: f32,
    },
}

/// The block cannot be encoded: its scale exceeds what the format's own scale type holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScaleOverflow;

/// Decodes whole blocks: `out[i]` is weight `i` of the row (or rows) that `bytes` holds.
///
/// Bit-exact with `gguf.quants.dequantize`. Any bytes of the right length decode; a damaged scale
/// gives infinities or NaN, never an error.
///
/// # Errors
/// [`QuantError::Length`] unless `bytes` holds exactly `out.len()` weights.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    check_lengths(dtype, out.len(), bytes.len())?;
    match dtype {
        DType::F32 => float::read_f32(bytes, out),
        DType::F16 => float::read_f16(bytes, out),
        DType::BF16 => float::read_bf16(bytes, out),
        DType::Q4_0 => decode(bytes, out, block32::read_q4_0),
        DType::Q4_1 => decode(bytes, out, block32::read_q4_1),
        DType::Q5_0 => decode(bytes, out, block32::read_q5_0),
        DType::Q5_1 => decode(bytes, out, block32::read_q5_1),
        DType::Q8_0 => decode(bytes, out, block32::read_q8_0),
        DType::Q2_K => decode(bytes, out, k_read::q2_k),
        DType::Q3_K => decode(bytes, out, k_read::q3_k),
        DType::Q4_K => decode(bytes, out, k_read::q4_k),
        DType::Q5_K => decode(bytes, out, k_read::q5_k),
        DType::Q6_K => decode(bytes, out, k_read::q6_k),
        DType::IQ4_NL => decode(bytes, out, codebook::iq4_nl),
        DType::IQ4_XS => decode(bytes, out, codebook::iq4_xs),
        DType::MXFP4 => decode(bytes, out, codebook::mxfp4),
    }
    Ok(())
}

/// Encodes one row. `importance`, if given, has one weight per column (the mean square of the
/// activation that meets it): the search then minimises `Σ importance·(decoded - value)²`.
///
/// Without importance `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `BF16` and `F16` are byte-exact with
/// `gguf.quants.quantize`, and several rows may be encoded in one call. `Q8_0` and the plain floats
/// take no notice of importance. The plain floats carry NaN and infinities over unchanged.
///
/// # Errors
/// Lengths that do not match, a format that is [read only](QuantError::ReadOnly), values that are
/// not finite or beyond the format's range, importance that is not finite or negative. `out` is then
/// partly written.
pub fn quantize(
    dtype: DType,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantError> {
    check_lengths(dtype, values.len(), out.len())?;
    check_importance(values, importance)?;
    if dtype.is_quantised() {
        check_finite(dtype, values)?;
    }
    match (dtype, importance) {
        (DType::F32, _) => float::write_f32(values, out),
        (DType::F16, _) => float::write_f16(values, out)?,
        (DType::BF16, _) => float::write_bf16(values, out)?,
        (DType::Q8_0, _) => encode(dtype, values, out, block32::write_q8_0)?,
        (DType::Q4_0, None) => encode(dtype, values, out, block32::write_q4_0)?,
        (DType::Q4_1, None) => encode(dtype, values, out, block32::write_q4_1)?,
        (DType::Q5_0, None) => encode(dtype, values, out, block32::write_q5_0)?,
        (DType::Q5_1, None) => encode(dtype, values, out, block32::write_q5_1)?,
        (DType::Q4_0, Some(w)) => encode_weighted(dtype, values, w, out, block32::search_q4_0)?,
        (DType::Q4_1, Some(w)) => encode_weighted(dtype, values, w, out, block32::search_q4_1)?,
        (DType::Q5_0, Some(w)) => encode_weighted(dtype, values, w, out, block32::search_q5_0)?,
        (DType::Q5_1, Some(w)) => encode_weighted(dtype, values, w, out, block32::search_q5_1)?,
        (DType::Q4_K, None) => encode(dtype, values, out, unweighted(k_write::q4_k))?,
        (DType::Q5_K, None) => encode(dtype, values, out, unweighted(k_write::q5_k))?,
        (DType::Q6_K, None) => encode(dtype, values, out, unweighted(k_write::q6_k))?,
        (DType::Q4_K, Some(w)) => encode_weighted(dtype, values, w, out, k_write::q4_k)?,
        (DType::Q5_K, Some(w)) => encode_weighted(dtype, values, w, out, k_write::q5_k)?,
        (DType::Q6_K, Some(w)) => encode_weighted(dtype, values, w, out, k_write::q6_k)?,
        (DType::Q2_K | DType::Q3_K | DType::IQ4_NL | DType::IQ4_XS | DType::MXFP4, _) => {
            return Err(QuantError::ReadOnly(dtype));
        }
    }
    Ok(())
}

fn check_lengths(dtype: DType, elements: usize, bytes: usize) -> Result<(), QuantError> {
    if dtype.bytes_for(elements) == Some(bytes) {
        Ok(())
    } else {
        Err(QuantError::Length { dtype, elements, bytes })
    }
}

fn check_finite(dtype: DType, values: &[f32]) -> Result<(), QuantError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(element) => Err(QuantError::NotFinite { dtype, element, value: values[element] }),
        None => Ok(()),
    }
}

fn check_importance(values: &[f32], importance: Option<&[f32]>) -> Result<(), QuantError> {
    let Some(importance) = importance else { return Ok(()) };
    if importance.len() != values.len() {
        return Err(QuantError::ImportanceLength { columns: values.len(), importance: importance.len() });
    }
    match importance.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
        Some(column) => Err(QuantError::Importance { column, value: importance[column] }),
        None => Ok(()),
    }
}

/// Runs `block` over the row's blocks of `BYTES` bytes and `LEN` weights; lengths are checked.
fn decode<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (weights, _) = out.as_chunks_mut::<LEN>();
    for (block_bytes, block_weights) in blocks.iter().zip(weights) {
        block(block_bytes, block_weights);
    }
}

/// Runs `block` over the row's blocks; an overflow is reported at the block's largest weight.
fn encode<const BYTES: usize, const LEN: usize>(
    dtype: DType,
    values: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; LEN], &mut [u8; BYTES]) -> Result<(), ScaleOverflow>,
) -> Result<(), QuantError> {
    let (weights, _) = values.as_chunks::<LEN>();
    let (blocks, _) = out.as_chunks_mut::<BYTES>();
    for (index, (block_weights, block_bytes)) in weights.iter().zip(blocks).enumerate() {
        block(block_weights, block_bytes)
            .map_err(|ScaleOverflow| out_of_range(dtype, index * LEN, block_weights))?;
    }
    Ok(())
}

/// As [`encode`], with the block's part of the importance weights, scaled into `[0, 1]`.
fn encode_weighted<const BYTES: usize, const LEN: usize>(
    dtype: DType,
    values: &[f32],
    importance: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; LEN], &[f32; LEN], &mut [u8; BYTES]) -> Result<(), ScaleOverflow>,
) -> Result<(), QuantError> {
    let (weights, _) = values.as_chunks::<LEN>();
    let (importance, _) = importance.as_chunks::<LEN>();
    let (blocks, _) = out.as_chunks_mut::<BYTES>();
    let parts = weights.iter().zip(importance).zip(blocks).enumerate();
    for (index, ((block_weights, block_importance), block_bytes)) in parts {
        block(block_weights, &relative_importance(block_importance), block_bytes)
            .map_err(|ScaleOverflow| out_of_range(dtype, index * LEN, block_weights))?;
    }
    Ok(())
}

/// Gives a weighted block encoder equal weights.
fn unweighted<const BYTES: usize, const LEN: usize>(
    block: impl Fn(&[f32; LEN], &[f32; LEN], &mut [u8; BYTES]) -> Result<(), ScaleOverflow>,
) -> impl Fn(&[f32; LEN], &mut [u8; BYTES]) -> Result<(), ScaleOverflow> {
    move |weights, bytes| block(weights, &[1.0; LEN], bytes)
}

/// Importance within one block, its largest being 1, so that sums of squares stay in range. Where
/// nothing is known (all zero) every weight counts the same.
fn relative_importance<const LEN: usize>(importance: &[f32; LEN]) -> [f32; LEN] {
    let largest = importance.iter().fold(0.0f32, |a, &b| a.max(b));
    if largest == 0.0 { [1.0; LEN] } else { importance.map(|weight| weight / largest) }
}

fn out_of_range(dtype: DType, first: usize, block: &[f32]) -> QuantError {
    let offset =
        (0..block.len()).fold(0, |best, i| if block[i].abs() > block[best].abs() { i } else { best });
    QuantError::OutOfRange { dtype, element: first + offset, value: block[offset] }
}

/// The little-endian half-precision number at `bytes[at..at + 2]`.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// `scale` in half precision, little-endian.
fn half_bytes(scale: f32) -> Result<[u8; 2], ScaleOverflow> {
    let rounded = half::f16::from_f32(scale);
    if rounded.is_finite() { Ok(rounded.to_le_bytes()) } else { Err(ScaleOverflow) }
}
