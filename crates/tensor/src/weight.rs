//! A stored tensor on its way from a file to a backend.

use crate::DType;
use std::borrow::Cow;

/// A tensor's shape, dtype and bytes, as a file holds them: rows of whole blocks, row-major,
/// little-endian. Borrowed from a memory map where the file's layout is ours already.
#[derive(Clone, Debug)]
pub struct WeightData<'a> {
    /// Encoding of the elements.
    pub dtype: DType,
    /// Outermost first: `[out, in]` for a matrix, `[experts, out, in]` for experts, `[n]` for a
    /// vector. The last dimension is a whole number of blocks.
    pub shape: Vec<usize>,
    /// `dtype.bytes_for(shape.product())` bytes.
    pub bytes: Cow<'a, [u8]>,
}

/// Why bytes, dtype and shape do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {dtype} tensor of shape {shape:?} cannot be {bytes} bytes long")]
pub struct WeightShapeError {
    /// The dtype named.
    pub dtype: DType,
    /// The shape named.
    pub shape: Vec<usize>,
    /// The bytes found.
    pub bytes: usize,
}

impl<'a> WeightData<'a> {
    /// Checks that the rows are whole blocks and that the length fits.
    ///
    /// # Errors
    /// When the last dimension is not a whole number of blocks, or the bytes are too few or too many.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Cow<'a, [u8]>) -> Result<Self, WeightShapeError> {
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let whole_rows = shape.last().is_some_and(|&columns| columns % dtype.block_len() == 0);
        let expected = elements.and_then(|n| dtype.bytes_for(n));
        if !whole_rows || expected != Some(bytes.len()) {
            return Err(WeightShapeError { dtype, shape, bytes: bytes.len() });
        }
        Ok(Self { dtype, shape, bytes })
    }

    /// Elements of one row: the last dimension.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// Rows in all, over every outer dimension.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    /// The bytes of row `index`, counted over all outer dimensions.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, index: usize) -> &[u8] {
        let row_bytes = self.columns() / self.dtype.block_len() * self.dtype.block_bytes();
        &self.bytes[index * row_bytes..][..row_bytes]
    }
}
