//! The operations that a tape records: how each runs, and its backward.

use super::{Operand, TapeWeight};
use crate::{AttentionShape, BackendError, Experts, RowPlan, TrainBackend};

/// A primitive of [`Backend`](crate::Backend) with all that it takes besides the activations it is
/// differentiated to. Rotations and row factors belong to positions and have no gradient.
pub(super) enum Operation<B: TrainBackend> {
    Embed { table: TapeWeight<B>, tokens: Vec<u32> },
    Linear { weight: TapeWeight<B>, rows: RowPlan },
    RmsNorm { gain: TapeWeight<B>, epsilon: f32 },
    HeadNorm { head_dim: usize, epsilon: f32 },
    Rope { rotation: B::Tensor },
    ScaleRows { factors: B::Tensor },
    Attention { shape: AttentionShape, rows: RowPlan },
    Swiglu,
    Experts { weights: Experts<TapeWeight<B>>, packed: Experts<B::Weight>, rows: RowPlan },
    Add,
    SelectRows { rows: Vec<usize> },
    AddRows { rows: Vec<usize> },
    CrossEntropy { targets: Vec<u32> },
}

impl<B: TrainBackend> Operation<B> {
    /// Whether one of its own weights is trainable.
    pub(super) fn trains(&self) -> bool {
        match self {
            Operation::Embed { table: weight, .. }
            | Operation::Linear { weight, .. }
            | Operation::RmsNorm { gain: weight, .. } => weight.is_trainable(),
            Operation::Experts { weights: Experts { router, gate, up, down, .. }, .. } => {
                [router, gate, up, down].iter().any(|weight| weight.is_trainable())
            }
            _ => false,
        }
    }

    /// Whether the backward uses the values of the operands.
    pub(super) fn needs_operands(&self) -> bool {
        match self {
            Operation::Embed { .. }
            | Operation::Rope { .. }
            | Operation::ScaleRows { .. }
            | Operation::Add
            | Operation::AddRows { .. } => false,
            Operation::Linear { weight, .. } => weight.is_trainable(),
            Operation::RmsNorm { .. }
            | Operation::HeadNorm { .. }
            | Operation::Attention { .. }
            | Operation::Swiglu
            | Operation::Experts { .. }
            | Operation::SelectRows { .. }
            | Operation::CrossEntropy { .. } => true,
        }
    }

    /// Runs the operation on as many operands as it takes.
    pub(super) fn forward(&self, inner: &mut B, operands: impl IntoIterator<Item = B::Tensor>) -> B::Tensor {
        let mut operands = operands.into_iter();
        let mut next = || operands.next().expect("as many operands as the operation takes");
        match self {
            Operation::Embed { table, tokens } => inner.embed(&table.packed(), tokens),
            Operation::Linear { weight, rows } => inner.linear(&next(), &weight.packed(), rows),
            Operation::RmsNorm { gain, epsilon } => inner.rms_norm(&next(), &gain.packed(), *epsilon),
            Operation::HeadNorm { head_dim, epsilon } => inner.head_norm(next(), *head_dim, *epsilon),
            Operation::Rope { rotation } => inner.rope(next(), rotation),
            Operation::ScaleRows { factors } => inner.scale_rows(next(), factors),
            Operation::Attention { shape, rows } => {
                let (query, key, value) = (next(), next(), next());
                inner.attention(&query, &key, &value, shape, None, rows)
            }
            Operation::Swiglu => {
                let (gate, up) = (next(), next());
                inner.swiglu(&gate, &up)
            }
            Operation::Experts { packed, rows, .. } => inner.experts(&next(), packed, rows),
            Operation::Add => {
                let (x, y) = (next(), next());
                inner.add(x, &y)
            }
            Operation::SelectRows { rows } => inner.select_rows(&next(), rows),
            Operation::AddRows { rows } => {
                let (x, y) = (next(), next());
                inner.add_rows(x, &y, rows)
            }
            Operation::CrossEntropy { targets } => inner.cross_entropy(&next(), targets),
        }
    }

    /// Adds the gradients of the operands and of the weights, given that of the result.
    pub(super) fn backward(
        self,
        inner: &mut B,
        operands: Vec<Operand<B>>,
        dy: B::Tensor,
        gradients: &mut Gradients<B>,
    ) -> Result<(), BackendError> {
        let node = |index: usize| operands[index].node;
        let value = |index: usize| operands[index].value.as_ref().expect("kept for the backward");
        match self {
            Operation::Embed { table, tokens } => {
                accumulate(inner, &table, |inner, gradient| inner.embed_dw(gradient, &dy, &tokens))?;
            }
            Operation::Linear { weight, rows } => {
                accumulate(inner, &weight, |inner, gradient| inner.linear_dw(gradient, &dy, value(0)))?;
                gradients.add_with(inner, node(0), |inner| inner.linear_dx(&dy, &weight.packed(), &rows));
            }
            Operation::RmsNorm { gain, epsilon } => {
                let x = value(0);
                accumulate(inner, &gain, |inner, gradient| inner.rms_norm_dw(gradient, &dy, x, epsilon))?;
                gradients
                    .add_with(inner, node(0), |inner| inner.rms_norm_dx(&dy, x, &gain.packed(), epsilon));
            }
            Operation::HeadNorm { head_dim, epsilon } => {
                gradients
                    .add_with(inner, node(0), |inner| inner.head_norm_dx(&dy, value(0), head_dim, epsilon));
            }
            Operation::Rope { rotation } => {
                gradients.add_with(inner, node(0), |inner| inner.rope_dx(dy, &rotation));
            }
            Operation::ScaleRows { factors } => {
                gradients.add_with(inner, node(0), |inner| inner.scale_rows(dy, &factors));
            }
            Operation::Attention { shape, rows } => {
                let operands = inner.attention_dx(&dy, value(0), value(1), value(2), &shape, &rows);
                operands.into_iter().enumerate().for_each(|(i, dx)| gradients.add(inner, node(i), dx));
            }
            Operation::Swiglu => {
                let operands = inner.swiglu_dx(&dy, value(0), value(1));
                operands.into_iter().enumerate().for_each(|(i, dx)| gradients.add(inner, node(i), dx));
            }
            Operation::Experts { weights, packed, rows } => {
                let mut sums = Experts {
                    router: weights.router.take_gradient(inner)?,
                    gate: weights.gate.take_gradient(inner)?,
                    up: weights.up.take_gradient(inner)?,
                    down: weights.down.take_gradient(inner)?,
                    used: weights.used,
                };
                let dx = inner.experts_dx_dw(&dy, value(0), &packed, &mut sums, &rows);
                gradients.add(inner, node(0), dx);
                weights.router.put_gradient(sums.router);
                weights.gate.put_gradient(sums.gate);
                weights.up.put_gradient(sums.up);
                weights.down.put_gradient(sums.down);
            }
            Operation::Add => {
                gradients.add(inner, node(0), dy.clone());
                gradients.add(inner, node(1), dy);
            }
            Operation::SelectRows { rows } => {
                gradients.add_with(inner, node(0), |inner| inner.select_rows_dx(&dy, value(0), &rows));
            }
            Operation::AddRows { rows } => {
                gradients.add_with(inner, node(1), |inner| inner.select_rows(&dy, &rows));
                gradients.add(inner, node(0), dy);
            }
            Operation::CrossEntropy { targets } => {
                gradients.add_with(inner, node(0), |inner| inner.cross_entropy_dx(&dy, value(0), &targets));
            }
        }
        Ok(())
    }
}

/// Runs `add` on a weight's accumulator, if it is trainable.
fn accumulate<B: TrainBackend>(
    inner: &mut B,
    weight: &TapeWeight<B>,
    add: impl FnOnce(&mut B, &mut B::Param),
) -> Result<(), BackendError> {
    if let Some(mut gradient) = weight.take_gradient(inner)? {
        add(inner, &mut gradient);
        weight.put_gradient(Some(gradient));
    }
    Ok(())
}

/// The gradients, so far, of the results that the walk has not come to yet.
pub(super) struct Gradients<B: TrainBackend> {
    first: usize,
    sums: Vec<Option<B::Tensor>>,
}

impl<B: TrainBackend> Gradients<B> {
    pub(super) fn new(first: usize, nodes: usize) -> Self {
        Gradients { first, sums: vec![None; nodes] }
    }

    /// Adds to the gradient of a node's result; of a constant, nothing.
    pub(super) fn add(&mut self, inner: &mut B, node: Option<usize>, gradient: B::Tensor) {
        self.add_with(inner, node, |_| gradient);
    }

    /// As `add`, of what is computed only if it is wanted.
    fn add_with(&mut self, inner: &mut B, node: Option<usize>, gradient: impl FnOnce(&mut B) -> B::Tensor) {
        let Some(id) = node else { return };
        let sum = &mut self.sums[id - self.first];
        let gradient = gradient(inner);
        *sum = Some(match sum.take() {
            Some(sum) => inner.add(sum, &gradient),
            None => gradient,
        });
    }

    pub(super) fn take(&mut self, id: usize) -> Option<B::Tensor> {
        self.sums[id - self.first].take()
    }
}
