//! Element types: plain floats and the GGML block-quantised formats.
//!
//! A block format stores a fixed number of consecutive weights of one row in a fixed number of
//! bytes. [`DType::TABLE`] is the only list of them: names, GGML ids and block shapes elsewhere
//! are read from it. Block layouts: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::fmt;

/// How the elements of a stored tensor are encoded.
#[allow(non_camel_case_types)] // the field's own spelling
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// 32 weights: f16 scale, 4-bit quants offset by 8.
    Q4_0,
    /// 32 weights: f16 scale and minimum, 4-bit quants.
    Q4_1,
    /// 32 weights: f16 scale, 5-bit quants offset by 16.
    Q5_0,
    /// 32 weights: f16 scale and minimum, 5-bit quants.
    Q5_1,
    /// 32 weights: f16 scale, signed 8-bit quants.
    Q8_0,
    /// 256 weights: 16 groups with 4-bit scales and minima, 2-bit quants.
    Q2_K,
    /// 256 weights: 16 groups with 6-bit scales, 3-bit quants.
    Q3_K,
    /// 256 weights: 8 groups with 6-bit scales and minima, 4-bit quants.
    Q4_K,
    /// 256 weights: 8 groups with 6-bit scales and minima, 5-bit quants.
    Q5_K,
    /// 256 weights: 16 groups with 8-bit scales, 6-bit quants.
    Q6_K,
    /// 32 weights: f16 scale, 4-bit index into a non-linear table.
    IQ4_NL,
    /// 256 weights: 8 groups with 6-bit scales, 4-bit index into the table of `IQ4_NL`.
    IQ4_XS,
    /// 32 weights: power-of-two scale (E8M0), 4-bit floats (E2M1), of the OCP microscaling formats.
    MXFP4,
}

/// One row of [`DType::TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct DTypeInfo {
    /// The type.
    pub dtype: DType,
    /// The name as GGUF tools print it.
    pub name: &'static str,
    /// `ggml_type` in a GGUF tensor header.
    pub ggml_id: u32,
    /// Weights in one block (1 for plain floats).
    pub block_len: usize,
    /// Bytes of one block.
    pub block_bytes: usize,
}

const fn row(
    dtype: DType,
    name: &'static str,
    ggml_id: u32,
    block_len: usize,
    block_bytes: usize,
) -> DTypeInfo {
    DTypeInfo { dtype, name, ggml_id, block_len, block_bytes }
}

impl DType {
    /// Every type, in the order of the enum.
    pub const TABLE: [DTypeInfo; 16] = [
        row(DType::F32, "F32", 0, 1, 4),
        row(DType::F16, "F16", 1, 1, 2),
        row(DType::BF16, "BF16", 30, 1, 2),
        row(DType::Q4_0, "Q4_0", 2, 32, 18),
        row(DType::Q4_1, "Q4_1", 3, 32, 20),
        row(DType::Q5_0, "Q5_0", 6, 32, 22),
        row(DType::Q5_1, "Q5_1", 7, 32, 24),
        row(DType::Q8_0, "Q8_0", 8, 32, 34),
        row(DType::Q2_K, "Q2_K", 10, 256, 84),
        row(DType::Q3_K, "Q3_K", 11, 256, 110),
        row(DType::Q4_K, "Q4_K", 12, 256, 144),
        row(DType::Q5_K, "Q5_K", 13, 256, 176),
        row(DType::Q6_K, "Q6_K", 14, 256, 210),
        row(DType::IQ4_NL, "IQ4_NL", 20, 32, 18),
        row(DType::IQ4_XS, "IQ4_XS", 23, 256, 136),
        row(DType::MXFP4, "MXFP4", 39, 32, 17),
    ];

    /// This type's row of the table.
    pub const fn info(self) -> &'static DTypeInfo {
        const TABLE: &[DTypeInfo; 16] = &DType::TABLE;
        &TABLE[self as usize]
    }

    /// The type with this `ggml_type` id, if it is one we read.
    pub fn from_ggml_id(id: u32) -> Option<DType> {
        Self::TABLE.iter().find(|row| row.ggml_id == id).map(|row| row.dtype)
    }

    /// The type with this name, in any case (`q4_k` and `Q4_K` alike).
    pub fn from_name(name: &str) -> Option<DType> {
        Self::TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.dtype)
    }

    /// The name as GGUF tools print it.
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// Weights in one block (1 for plain floats).
    pub const fn block_len(self) -> usize {
        self.info().block_len
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.info().block_bytes
    }

    /// Whether this is a block-quantised format and not a plain float.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes that `elements` consecutive weights take, or `None` where they do not fill whole
    /// blocks or the number overflows.
    pub const fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_enum_order_and_names_round_trip() {
        for (index, row) in DType::TABLE.iter().enumerate() {
            assert_eq!(row.dtype as usize, index);
            assert_eq!(DType::from_name(&row.name.to_lowercase()), Some(row.dtype));
            assert_eq!(DType::from_ggml_id(row.ggml_id), Some(row.dtype));
        }
    }

    #[test]
    fn bytes_want_whole_blocks() {
        assert_eq!(DType::Q4_0.bytes_for(64), Some(36));
        assert_eq!(DType::Q4_0.bytes_for(65), None);
        assert_eq!(DType::F32.bytes_for(usize::MAX), None);
    }
}
