//! The reference's backward: each formula of [`TrainBackend`] in plain loops.

use super::{Array, Real, Reference, decode, map_rows, ops, tensor};
use crate::train::{AdamW, Moments};
use crate::{AttentionShape, BackendError, Experts, RowPlan, TrainBackend, WeightData};
use std::sync::Arc;

impl<T: Real> TrainBackend for Reference<T> {
    type Param = Array<T>;

    fn param(&self, weight: &WeightData<'_>) -> Result<Array<T>, BackendError> {
        decode(weight)
    }

    fn zeros_like(&self, param: &Array<T>) -> Result<Array<T>, BackendError> {
        Ok(zeros(param))
    }

    fn pack(&self, param: &Array<T>) -> Result<Self::Weight, BackendError> {
        Ok(Arc::new(param.clone()))
    }

    fn read_param(&self, param: &Array<T>, out: &mut Vec<T>) {
        out.clone_from(&param.values);
    }

    fn write_param(&self, param: &mut Array<T>, values: &[T]) {
        param.values.copy_from_slice(values);
    }

    fn embed_dw(&mut self, gradient: &mut Array<T>, dy: &Self::Tensor, tokens: &[u32]) {
        for (r, &token) in tokens.iter().enumerate() {
            add_scaled(gradient.row_mut(token as usize), T::one(), dy.row(r));
        }
    }

    fn linear_dx(&mut self, dy: &Self::Tensor, weight: &Self::Weight, _rows: &RowPlan) -> Self::Tensor {
        let (_, columns, w) = weight.matrix(0);
        tensor(columns, map_rows(dy, |dy| vector_matrix(dy, w)))
    }

    fn linear_dw(&mut self, gradient: &mut Array<T>, dy: &Self::Tensor, x: &Self::Tensor) {
        for r in 0..x.rows() {
            add_outer(&mut gradient.values, dy.row(r), x.row(r));
        }
    }

    fn rms_norm_dx(
        &mut self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        gain: &Self::Weight,
        epsilon: f32,
    ) -> Self::Tensor {
        let mut dx = Vec::with_capacity(x.values.len());
        for r in 0..x.rows() {
            let scaled: Vec<T> = dy.row(r).iter().zip(&gain.values).map(|(&dy, &gain)| dy * gain).collect();
            dx.extend(norm_dx(&scaled, x.row(r), epsilon));
        }
        tensor(x.columns(), dx)
    }

    fn rms_norm_dw(&mut self, gradient: &mut Array<T>, dy: &Self::Tensor, x: &Self::Tensor, epsilon: f32) {
        for r in 0..x.rows() {
            let factor = ops::rms_factor(x.row(r), epsilon);
            for ((gradient, &dy), &x) in gradient.values.iter_mut().zip(dy.row(r)).zip(x.row(r)) {
                *gradient = *gradient + dy * factor * x;
            }
        }
    }

    fn head_norm_dx(
        &mut self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        head_dim: usize,
        epsilon: f32,
    ) -> Self::Tensor {
        let heads = dy.values.chunks_exact(head_dim).zip(x.values.chunks_exact(head_dim));
        tensor(x.columns(), heads.flat_map(|(dy, x)| norm_dx(dy, x, epsilon)).collect())
    }

    fn rope_dx(&mut self, mut dy: Self::Tensor, rotation: &Self::Tensor) -> Self::Tensor {
        let columns = dy.columns();
        for (r, row) in Arc::make_mut(&mut dy).values.chunks_exact_mut(columns).enumerate() {
            let mut transposed = rotation.row(r).to_vec();
            transposed.chunks_exact_mut(2).for_each(|angle| angle[1] = -angle[1]);
            row.chunks_exact_mut(transposed.len()).for_each(|head| ops::rotate(head, &transposed));
        }
        dy
    }

    fn attention_dx(
        &mut self,
        dy: &Self::Tensor,
        query: &Self::Tensor,
        key: &Self::Tensor,
        value: &Self::Tensor,
        shape: &AttentionShape,
        rows: &RowPlan,
    ) -> [Self::Tensor; 3] {
        let (mut dq, mut dk, mut dv) = (zeros(query), zeros(key), zeros(value));
        let mut first_row = 0;
        for span in rows.spans() {
            for row in 0..span.rows {
                // Rows of this span are seen from its first on, which need not be position 0.
                let position = span.first_position + row;
                let first_seen = shape.first_visible(position).saturating_sub(span.first_position);
                let seen = first_row + first_seen..first_row + row + 1;
                let row = first_row + row;
                for head in 0..shape.heads {
                    let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
                    let (q, dy) = (&query.row(row)[columns.clone()], &dy.row(row)[columns.clone()]);
                    let weights = ops::attention_weights(q, &key.values, head, shape, seen.clone());
                    let dweights: Vec<T> = seen
                        .clone()
                        .map(|j| ops::dot(dy, ops::kv_head(&value.values, j, head, shape)))
                        .collect();
                    let mean = ops::dot(&weights, &dweights);
                    for ((j, &weight), &dweight) in seen.clone().zip(&weights).zip(&dweights) {
                        let dscore = weight * (dweight - mean) * shape.scale.into();
                        let kv = ops::kv_columns(head, shape);
                        add_scaled(&mut dv.row_mut(j)[kv.clone()], weight, dy);
                        add_scaled(&mut dk.row_mut(j)[kv.clone()], dscore, q);
                        add_scaled(&mut dq.row_mut(row)[columns.clone()], dscore, &key.row(j)[kv]);
                    }
                }
            }
            first_row += span.rows;
        }
        [dq, dk, dv].map(Arc::new)
    }

    fn swiglu_dx(&mut self, dy: &Self::Tensor, gate: &Self::Tensor, up: &Self::Tensor) -> [Self::Tensor; 2] {
        let gradients = swiglu_dx(&dy.values, &gate.values, &up.values);
        gradients.map(|values| tensor(gate.columns(), values))
    }

    fn experts_dx_dw(
        &mut self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        experts: &Experts<Self::Weight>,
        gradients: &mut Experts<Option<Array<T>>>,
        _rows: &RowPlan,
    ) -> Self::Tensor {
        let mut dx = zeros(x);
        for r in 0..x.rows() {
            for (expert, share) in ops::route(experts, x.row(r)) {
                expert_dx_dw(dy.row(r), x.row(r), experts, gradients, (expert, share), dx.row_mut(r));
            }
        }
        Arc::new(dx)
    }

    fn select_rows_dx(&mut self, dy: &Self::Tensor, x: &Self::Tensor, rows: &[usize]) -> Self::Tensor {
        let mut dx = zeros(x);
        for (r, &row) in rows.iter().enumerate() {
            add_scaled(dx.row_mut(row), T::one(), dy.row(r));
        }
        Arc::new(dx)
    }

    fn cross_entropy_dx(
        &mut self,
        dy: &Self::Tensor,
        logits: &Self::Tensor,
        targets: &[u32],
    ) -> Self::Tensor {
        let factor = dy.values[0] / T::from_f64(targets.len() as f64);
        let mut dx = Array::clone(logits);
        for (r, &target) in targets.iter().enumerate() {
            let row = dx.row_mut(r);
            ops::softmax(row);
            row[target as usize] = row[target as usize] - T::one();
            row.iter_mut().for_each(|value| *value = *value * factor);
        }
        Arc::new(dx)
    }

    fn adamw(
        &mut self,
        param: &mut Array<T>,
        gradient: &Array<T>,
        moments: &mut Moments<Array<T>>,
        settings: &AdamW,
        step: u32,
    ) {
        let (beta1, beta2) = settings.betas;
        let correction = |beta: f64| 1.0 - beta.powf(f64::from(step));
        let kept = T::from_f64(1.0 - settings.learning_rate * settings.weight_decay);
        let step_size = T::from_f64(settings.learning_rate / correction(beta1));
        let root_correction = T::from_f64(correction(beta2).sqrt());
        let (new1, old2, new2) = (T::from_f64(1.0 - beta1), T::from_f64(beta2), T::from_f64(1.0 - beta2));
        let epsilon = T::from_f64(settings.epsilon);
        let Moments { first, second } = moments;
        let values = param.values.iter_mut().zip(&gradient.values);
        for (((w, &g), m), v) in values.zip(&mut first.values).zip(&mut second.values) {
            *w = *w * kept;
            *m = *m + new1 * (g - *m);
            *v = *v * old2 + new2 * g * g;
            *w = *w - step_size * (*m / (v.sqrt() / root_correction + epsilon));
        }
    }
}

/// Zeros of the same shape.
fn zeros<T: Real>(like: &Array<T>) -> Array<T> {
    Array::new(like.shape.clone(), vec![T::zero(); like.values.len()])
}

/// `sum += factor x`, rounded once.
fn add_scaled<T: Real>(sum: &mut [T], factor: T, x: &[T]) {
    sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum = factor.mul_add(x, *sum));
}

/// `x^T W` for a row-major `W` of `x.len()` rows.
fn vector_matrix<T: Real>(x: &[T], matrix: &[T]) -> Vec<T> {
    let columns = matrix.len() / x.len();
    let mut out = vec![T::zero(); columns];
    for (&x, row) in x.iter().zip(matrix.chunks_exact(columns)) {
        add_scaled(&mut out, x, row);
    }
    out
}

/// `matrix += column row^T`, row-major.
fn add_outer<T: Real>(matrix: &mut [T], column: &[T], row: &[T]) {
    for (matrix, &factor) in matrix.chunks_exact_mut(row.len()).zip(column) {
        add_scaled(matrix, factor, row);
    }
}

/// Backward of the norm without gain of one row or head.
fn norm_dx<T: Real>(dy: &[T], x: &[T], epsilon: f32) -> Vec<T> {
    let factor = ops::rms_factor(x, epsilon);
    let mean = ops::dot(dy, x) / T::from_f64(x.len() as f64);
    dy.iter().zip(x).map(|(&dy, &x)| factor * dy - factor.powi(3) * x * mean).collect()
}

/// Backward of `ops::swiglu`.
fn swiglu_dx<T: Real>(dy: &[T], gate: &[T], up: &[T]) -> [Vec<T>; 2] {
    let (mut dgate, mut dup) = (Vec::with_capacity(dy.len()), Vec::with_capacity(dy.len()));
    for ((&dy, &gate), &up) in dy.iter().zip(gate).zip(up) {
        let sigmoid = ops::sigmoid(gate);
        dgate.push(dy * up * sigmoid * (T::one() + gate * (T::one() - sigmoid)));
        dup.push(dy * gate * sigmoid);
    }
    [dgate, dup]
}

/// Backward of one expert for one row.
fn expert_dx_dw<T: Real>(
    dy: &[T],
    x: &[T],
    experts: &Experts<Arc<Array<T>>>,
    gradients: &mut Experts<Option<Array<T>>>,
    (expert, share): (usize, T),
    dx: &mut [T],
) {
    let [gate_matrix, up_matrix, down_matrix] =
        [&experts.gate, &experts.up, &experts.down].map(|weight| weight.matrix(expert).2);
    let z: Vec<T> = x.iter().map(|&x| share * x).collect();
    let gate = ops::matrix_vector(gate_matrix, &z);
    let up = ops::matrix_vector(up_matrix, &z);
    let [dgate, dup] = swiglu_dx(&vector_matrix(dy, down_matrix), &gate, &up);
    let mut dz = vector_matrix(&dgate, gate_matrix);
    add_scaled(&mut dz, T::one(), &vector_matrix(&dup, up_matrix));
    let dscore = share * (T::one() - share) * ops::dot(&dz, x);
    add_scaled(dx, share, &dz);
    add_scaled(dx, dscore, experts.router.row(expert));

    let add = |gradient: &mut Option<Array<T>>, column: &[T], row: &[T]| {
        if let Some(gradient) = gradient {
            let size = column.len() * row.len();
            add_outer(&mut gradient.values[expert * size..][..size], column, row);
        }
    };
    add(&mut gradients.gate, &dgate, &z);
    add(&mut gradients.up, &dup, &z);
    add(&mut gradients.down, dy, &ops::swiglu(&gate, &up));
    // The router's matrix for one expert is one row.
    add(&mut gradients.router, &[dscore], x);
}
