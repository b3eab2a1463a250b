//! The formulas on single rows and vectors that the reference's operations are made of.

use super::{Array, Real};
use crate::{AttentionShape, Experts};
use std::ops::Range;

/// `sum_i a_i b_i`, in index order, rounded once per term.
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(T::zero(), |sum, (&a, &b)| a.mul_add(b, sum))
}

/// `W x` for a row-major `W` of `x.len()` columns.
pub(crate) fn matrix_vector<T: Real>(matrix: &[T], x: &[T]) -> Vec<T> {
    matrix.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

/// `1 / sqrt(mean(x^2) + epsilon)`.
pub(crate) fn rms_factor<T: Real>(x: &[T], epsilon: f32) -> T {
    let mean = dot(x, x) / T::from_f64(x.len() as f64);
    (mean + epsilon.into()).sqrt().recip()
}

/// Rotates the consecutive pairs of one head by the angles whose `cos, sin` pairs are given.
pub(crate) fn rotate<T: Real>(head: &mut [T], rotation: &[T]) {
    for (pair, angle) in head.chunks_exact_mut(2).zip(rotation.chunks_exact(2)) {
        let (a, b, cos, sin) = (pair[0], pair[1], angle[0], angle[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}

/// `1 / (1 + e^-x)`.
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    (T::one() + (-x).exp()).recip()
}

/// `silu(gate) * up`, with `silu(x) = x sigmoid(x)`.
pub(crate) fn swiglu<T: Real>(gate: &[T], up: &[T]) -> Vec<T> {
    gate.iter().zip(up).map(|(&gate, &up)| gate * sigmoid(gate) * up).collect()
}

/// `ln sum_i e^(x_i)`, without overflow.
pub(crate) fn log_sum_exp<T: Real>(x: &[T]) -> T {
    let max = x.iter().copied().fold(T::neg_infinity(), T::max);
    max + x.iter().map(|&x| (x - max).exp()).sum::<T>().ln()
}

/// `softmax(x)`, in place.
pub(crate) fn softmax<T: Real>(x: &mut [T]) {
    let max = x.iter().copied().fold(T::neg_infinity(), T::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: T = x.iter().copied().sum();
    x.iter_mut().for_each(|x| *x = *x / sum);
}

/// The weights with which one query head sees the keys `seen`: `softmax(scale q k^T)`.
pub(crate) fn attention_weights<T: Real>(
    query: &[T],
    keys: &[T],
    head: usize,
    shape: &AttentionShape,
    seen: Range<usize>,
) -> Vec<T> {
    let mut scores: Vec<T> =
        seen.map(|j| dot(query, kv_head(keys, j, head, shape)) * shape.scale.into()).collect();
    softmax(&mut scores);
    scores
}

/// The part of row `j` of `keys_or_values` that query head `head` sees.
pub(crate) fn kv_head<'a, T>(
    keys_or_values: &'a [T],
    j: usize,
    head: usize,
    shape: &AttentionShape,
) -> &'a [T] {
    let columns = shape.kv_heads * shape.head_dim;
    &keys_or_values[j * columns..][kv_columns(head, shape)]
}

/// The columns of a row of keys or values that query head `head` sees.
pub(crate) fn kv_columns(head: usize, shape: &AttentionShape) -> Range<usize> {
    let kv_head = head * shape.kv_heads / shape.heads;
    kv_head * shape.head_dim..(kv_head + 1) * shape.head_dim
}

/// One row of attention: every query head over the rows `seen` of `keys` and `values`, each
/// `[positions, kv_heads * head_dim]`.
pub(crate) fn attend<T: Real>(
    query: &[T],
    keys: &[T],
    values: &[T],
    shape: &AttentionShape,
    seen: Range<usize>,
) -> Vec<T> {
    let mut out = vec![T::zero(); query.len()];
    let heads = query.chunks_exact(shape.head_dim).zip(out.chunks_exact_mut(shape.head_dim));
    for (head, (query, out)) in heads.enumerate() {
        let weights = attention_weights(query, keys, head, shape, seen.clone());
        for (j, weight) in seen.clone().zip(weights) {
            let value = kv_head(values, j, head, shape);
            out.iter_mut().zip(value).for_each(|(out, &value)| *out = weight.mul_add(value, *out));
        }
    }
    out
}

/// The experts that serve a row, best first, each with its share `sigmoid(score)`.
pub(crate) fn route<T: Real, W: std::ops::Deref<Target = Array<T>>>(
    experts: &Experts<W>,
    row: &[T],
) -> Vec<(usize, T)> {
    let scores = matrix_vector(&experts.router.values, row);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // A stable sort: the lower index wins a tie.
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(std::cmp::Ordering::Equal));
    order.truncate(experts.used);
    order.into_iter().map(|expert| (expert, sigmoid(scores[expert]))).collect()
}
