//! Weights as the kernels want them.

use crate::CpuError;
use crate::pack::PackedMatrix;
use alti_tensor::{DType, WeightData, quant};
use bytes::Bytes;
use std::sync::Arc;

/// A weight of the CPU backend. Cheap to clone; the weights themselves are shared.
#[derive(Clone, Debug)]
pub struct CpuWeight(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Vector(Arc<[f32]>),
    Matrix(Arc<PackedMatrix>),
    Experts(Arc<[Arc<PackedMatrix>]>),
}

impl CpuWeight {
    /// Packs a vector, a matrix or the matrices of experts, on `threads` threads.
    pub(crate) fn new(weight: &WeightData<'_>, threads: usize) -> Result<CpuWeight, CpuError> {
        let not_a_matrix =
            |reason| CpuError::NotAMatrix { dtype: weight.dtype, shape: weight.shape.clone(), reason };
        let kind = match weight.shape[..] {
            [length] => {
                let mut values = vec![0.0; length];
                quant::dequantize(weight.dtype, &weight.bytes, &mut values)
                    .map_err(|_| not_a_matrix("its values cannot be decoded"))?;
                Kind::Vector(values.into())
            }
            [rows, _] => Kind::Matrix(Arc::new(PackedMatrix::pack(weight, 0..rows, threads)?)),
            [experts, rows, _] => {
                let expert =
                    |e: usize| PackedMatrix::pack(weight, e * rows..(e + 1) * rows, threads).map(Arc::new);
                Kind::Experts((0..experts).map(expert).collect::<Result<_, _>>()?)
            }
            _ => return Err(not_a_matrix("it has no dimension, or more than three")),
        };
        Ok(CpuWeight(kind))
    }

    /// Takes what [`CpuWeight::packed`] gave for a weight of this dtype and shape.
    ///
    /// # Errors
    /// When it is of another size.
    pub fn from_packed(dtype: DType, shape: &[usize], packed: Bytes) -> Result<CpuWeight, CpuError> {
        let matrix =
            |rows, columns, packed| PackedMatrix::from_packed(dtype, rows, columns, packed).map(Arc::new);
        let kind = match *shape {
            [rows, columns] => Kind::Matrix(matrix(rows, columns, packed)?),
            [experts, rows, columns] if experts > 0 => {
                let each = packed.len() / experts;
                let expert = |e: usize| matrix(rows, columns, packed.slice(e * each..(e + 1) * each));
                Kind::Experts((0..experts).map(expert).collect::<Result<_, _>>()?)
            }
            _ => {
                let reason = "packed before, it is neither a matrix nor matrices of experts";
                return Err(CpuError::NotAMatrix { dtype, shape: shape.to_vec(), reason });
            }
        };
        Ok(CpuWeight(kind))
    }

    /// The panels of a matrix, or those of each expert's; nothing of a vector, which is as the file has it.
    pub fn packed(&self) -> Vec<&[u8]> {
        match &self.0 {
            Kind::Vector(_) => Vec::new(),
            Kind::Matrix(matrix) => vec![matrix.contents()],
            Kind::Experts(matrices) => matrices.iter().map(|matrix| matrix.contents()).collect(),
        }
    }

    /// The values of a vector.
    ///
    /// # Panics
    /// When it is none.
    pub(crate) fn vector(&self) -> &Arc<[f32]> {
        match &self.0 {
            Kind::Vector(values) => values,
            _ => panic!("an operation wants a vector"),
        }
    }

    /// The matrix.
    ///
    /// # Panics
    /// When it is none.
    pub(crate) fn matrix(&self) -> &Arc<PackedMatrix> {
        match &self.0 {
            Kind::Matrix(matrix) => matrix,
            _ => panic!("an operation wants a matrix"),
        }
    }

    /// The experts' matrices.
    ///
    /// # Panics
    /// When there are none.
    pub(crate) fn experts(&self) -> &Arc<[Arc<PackedMatrix>]> {
        match &self.0 {
            Kind::Experts(matrices) => matrices,
            _ => panic!("an operation wants experts"),
        }
    }
}
