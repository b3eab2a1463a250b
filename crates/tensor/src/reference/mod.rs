//! The executable specification: every operation in plain scalar Rust, executed at once.
//!
//! Slow and obvious on purpose: other backends are tested against it. `Reference<f32>` is the
//! oracle for values; `Reference<f64>` is the oracle for gradients, because central differences
//! need the digits. Sums run in index order in the element type, so a row's result never depends on
//! the rows beside it; products of vectors and matrices round once per product and sum, as fused
//! multiply-adds do, which is how PyTorch's round.

mod cache;
mod ops;
mod train;

pub use cache::ReferenceCache;

use crate::{
    AttentionShape, Backend, BackendError, CacheLayer, CacheLayout, DType, Experts, RowPlan, WeightData,
    quant,
};
use num_traits::Float;
use std::marker::PhantomData;
use std::sync::Arc;

/// What the reference computes in: f32 or f64.
pub trait Real:
    Float + From<f32> + Into<f64> + std::iter::Sum + std::fmt::Debug + Send + Sync + 'static
{
    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    fn from_f64(value: f64) -> f32 {
        value as f32
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> f64 {
        value
    }
}

/// The scalar backend over `T` = f32 or f64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference<T = f32>(PhantomData<T>);

impl<T> Reference<T> {
    /// The backend; it has no state.
    pub fn new() -> Self {
        Reference(PhantomData)
    }
}

/// A dense row-major array: an activation `[rows, columns]` or a weight of any rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// `shape.product()` values.
    pub values: Vec<T>,
}

impl<T: Copy> Array<T> {
    /// An array of the given shape.
    ///
    /// # Panics
    /// When the number of values is not the shape's product.
    pub fn new(shape: Vec<usize>, values: Vec<T>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values of an array of shape {shape:?}");
        Array { shape, values }
    }

    /// Values in a row: the last dimension.
    pub fn columns(&self) -> usize {
        *self.shape.last().expect("an array has a dimension")
    }

    /// Rows, over every outer dimension.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Row `index`, counted over every outer dimension.
    pub fn row(&self, index: usize) -> &[T] {
        let columns = self.columns();
        &self.values[index * columns..][..columns]
    }

    /// Row `index`, to be changed.
    pub fn row_mut(&mut self, index: usize) -> &mut [T] {
        let columns = self.columns();
        &mut self.values[index * columns..][..columns]
    }

    /// Matrix `index` of an array of matrices, as `(rows, columns, values)`.
    pub fn matrix(&self, index: usize) -> (usize, usize, &[T]) {
        let [.., rows, columns] = self.shape[..] else { panic!("no matrix in shape {:?}", self.shape) };
        (rows, columns, &self.values[index * rows * columns..][..rows * columns])
    }
}

/// A value of the reference: shared, copied when it is changed while shared.
pub type ReferenceTensor<T> = Arc<Array<T>>;

/// The weight's values as `T`, whatever its encoding.
///
/// # Errors
/// When the bytes do not decode.
pub(crate) fn decode<T: Real>(weight: &WeightData<'_>) -> Result<Array<T>, BackendError> {
    let mut values = vec![0f32; weight.shape.iter().product()];
    quant::dequantize(weight.dtype, &weight.bytes, &mut values)
        .map_err(|error| BackendError::Weight { what: error.to_string() })?;
    Ok(Array::new(weight.shape.clone(), values.into_iter().map(<T as From<f32>>::from).collect()))
}

impl<T: Real> Backend for Reference<T> {
    type Tensor = ReferenceTensor<T>;
    type Weight = ReferenceTensor<T>;
    type Cache = ReferenceCache<T>;
    type Element = T;

    fn load(&self, weight: WeightData<'_>) -> Result<Self::Weight, BackendError> {
        decode(&weight).map(Arc::new)
    }

    fn cache(&self, layout: &CacheLayout) -> Result<Self::Cache, BackendError> {
        Ok(ReferenceCache::new(layout.clone()))
    }

    fn read_page(&self, cache: &Self::Cache, page: u32, out: &mut Vec<u8>) {
        cache.read_page(page as usize, out);
    }

    fn write_page(&mut self, cache: &Self::Cache, page: u32, bytes: &[u8]) -> Result<(), BackendError> {
        cache.write_page(page as usize, bytes)
    }

    fn submit(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn fetch(&mut self, x: &Self::Tensor, out: &mut Vec<T>) -> Result<(), BackendError> {
        out.clear();
        out.extend_from_slice(&x.values);
        Ok(())
    }

    fn input(&mut self, values: &[f32], columns: usize) -> Self::Tensor {
        let values: Vec<T> = values.iter().map(|&value| value.into()).collect();
        tensor(columns, values)
    }

    fn embed(&mut self, table: &Self::Weight, tokens: &[u32]) -> Self::Tensor {
        let rows = tokens.iter().flat_map(|&token| table.row(token as usize));
        tensor(table.columns(), rows.copied().collect())
    }

    fn linear(&mut self, x: &Self::Tensor, weight: &Self::Weight, _rows: &RowPlan) -> Self::Tensor {
        let (out, _, w) = weight.matrix(0);
        tensor(out, map_rows(x, |row| ops::matrix_vector(w, row)))
    }

    fn rms_norm(&mut self, x: &Self::Tensor, gain: &Self::Weight, epsilon: f32) -> Self::Tensor {
        let norm = |row: &[T]| {
            let factor = ops::rms_factor(row, epsilon);
            row.iter().zip(&gain.values).map(|(&x, &g)| x * factor * g).collect()
        };
        tensor(x.columns(), map_rows(x, norm))
    }

    fn head_norm(&mut self, mut x: Self::Tensor, head_dim: usize, epsilon: f32) -> Self::Tensor {
        for head in Arc::make_mut(&mut x).values.chunks_exact_mut(head_dim) {
            let factor = ops::rms_factor(head, epsilon);
            head.iter_mut().for_each(|value| *value = *value * factor);
        }
        x
    }

    fn rope(&mut self, mut x: Self::Tensor, rotation: &Self::Tensor) -> Self::Tensor {
        let columns = x.columns();
        for (r, row) in Arc::make_mut(&mut x).values.chunks_exact_mut(columns).enumerate() {
            for head in row.chunks_exact_mut(rotation.columns()) {
                ops::rotate(head, rotation.row(r));
            }
        }
        x
    }

    fn scale_rows(&mut self, mut x: Self::Tensor, factors: &Self::Tensor) -> Self::Tensor {
        let columns = x.columns();
        for (row, &factor) in Arc::make_mut(&mut x).values.chunks_exact_mut(columns).zip(&factors.values) {
            row.iter_mut().for_each(|value| *value = *value * factor);
        }
        x
    }

    fn attention(
        &mut self,
        query: &Self::Tensor,
        key: &Self::Tensor,
        value: &Self::Tensor,
        shape: &AttentionShape,
        memory: Option<CacheLayer<'_, Self::Cache>>,
        rows: &RowPlan,
    ) -> Self::Tensor {
        let mut out = Vec::with_capacity(query.values.len());
        let mut first_row = 0;
        if let Some(layer) = &memory {
            layer.cache.store(layer.group, layer.layer, rows, key, value);
        }
        for span in rows.spans() {
            // The span's keys and values by position; `offset` is the position of the first.
            let (keys, values, offset) = match &memory {
                Some(layer) => {
                    let length = span.first_position + span.rows;
                    let (keys, values) = layer.cache.read(layer.group, layer.layer, span, length);
                    (keys, values, 0)
                }
                None => {
                    let slice = |x: &Array<T>| {
                        x.values[first_row * x.columns()..][..span.rows * x.columns()].to_vec()
                    };
                    (slice(key), slice(value), span.first_position)
                }
            };
            for row in 0..span.rows {
                let position = span.first_position + row;
                let seen = shape.first_visible(position).max(offset) - offset..position + 1 - offset;
                let query = query.row(first_row + row);
                out.extend(ops::attend(query, &keys, &values, shape, seen));
            }
            first_row += span.rows;
        }
        tensor(query.columns(), out)
    }

    fn swiglu(&mut self, gate: &Self::Tensor, up: &Self::Tensor) -> Self::Tensor {
        tensor(gate.columns(), ops::swiglu(&gate.values, &up.values))
    }

    fn experts(
        &mut self,
        x: &Self::Tensor,
        experts: &Experts<Self::Weight>,
        _rows: &RowPlan,
    ) -> Self::Tensor {
        let route = |row: &[T]| {
            let mut sum = vec![T::zero(); row.len()];
            for (expert, share) in ops::route(experts, row) {
                let z: Vec<T> = row.iter().map(|&x| share * x).collect();
                let gate = ops::matrix_vector(experts.gate.matrix(expert).2, &z);
                let up = ops::matrix_vector(experts.up.matrix(expert).2, &z);
                let down = ops::matrix_vector(experts.down.matrix(expert).2, &ops::swiglu(&gate, &up));
                sum.iter_mut().zip(down).for_each(|(sum, value)| *sum = *sum + value);
            }
            sum
        };
        tensor(x.columns(), map_rows(x, route))
    }

    fn add(&mut self, mut x: Self::Tensor, y: &Self::Tensor) -> Self::Tensor {
        for (x, &y) in Arc::make_mut(&mut x).values.iter_mut().zip(&y.values) {
            *x = *x + y;
        }
        x
    }

    fn select_rows(&mut self, x: &Self::Tensor, rows: &[usize]) -> Self::Tensor {
        tensor(x.columns(), rows.iter().flat_map(|&row| x.row(row)).copied().collect())
    }

    fn add_rows(&mut self, mut x: Self::Tensor, y: &Self::Tensor, rows: &[usize]) -> Self::Tensor {
        let sums = Arc::make_mut(&mut x);
        for (index, &row) in rows.iter().enumerate() {
            for (x, &y) in sums.row_mut(row).iter_mut().zip(y.row(index)) {
                *x = *x + y;
            }
        }
        x
    }

    fn cross_entropy(&mut self, logits: &Self::Tensor, targets: &[u32]) -> Self::Tensor {
        let losses = targets.iter().enumerate().map(|(row, &target)| {
            let logits = logits.row(row);
            ops::log_sum_exp(logits) - logits[target as usize]
        });
        let sum: T = losses.sum();
        tensor(1, vec![sum / T::from_f64(targets.len() as f64)])
    }
}

/// A matrix of activations.
fn tensor<T: Real>(columns: usize, values: Vec<T>) -> ReferenceTensor<T> {
    Arc::new(Array::new(vec![values.len() / columns, columns], values))
}

/// The rows that `f` makes of the rows of `x`, one after the other.
fn map_rows<T: Real>(x: &Array<T>, f: impl FnMut(&[T]) -> Vec<T>) -> Vec<T> {
    x.values.chunks_exact(x.columns()).flat_map(f).collect()
}

impl<T: Real> Reference<T> {
    /// A plain f32 array as a weight, for tests that make their own.
    ///
    /// # Errors
    /// When shape and values do not fit.
    pub fn weight(&self, shape: &[usize], values: &[f32]) -> Result<ReferenceTensor<T>, BackendError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let data = WeightData::new(DType::F32, shape.to_vec(), bytes.into())
            .map_err(|error| BackendError::Weight { what: error.to_string() })?;
        self.load(data)
    }
}
