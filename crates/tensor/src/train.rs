//! What a machine adds to [`Backend`] so that models can be trained on it.
//!
//! Two things: parameters, plain values that an optimiser changes, as distinct from the packed
//! weights that the forward pass multiplies with; and the backward of each primitive. A
//! [`Tape`](crate::Tape) records which primitives a forward pass used and calls these in reverse.
//!
//! Notation: `y` is an operation's result, `L` the loss, `dv` the gradient `∂L/∂v` of the same shape
//! as `v`. `<operation>_dx` turns `dy` into the gradients of the activations (the vector-Jacobian
//! product), `<operation>_dw` adds the gradient of a weight to an accumulator. What
//! [`Backend`] promises about rows holds here too; accumulators sum over rows in row order.

use crate::{AttentionShape, Backend, BackendError, Experts, RowPlan, WeightData};

/// The settings of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Step size `η`.
    pub learning_rate: f64,
    /// Decay rates `β1, β2` of the moments.
    pub betas: (f64, f64),
    /// `ε`, added to the denominator.
    pub epsilon: f64,
    /// `λ`: the share `η λ` of each value that is taken away, apart from the gradient.
    pub weight_decay: f64,
}

/// The running means that AdamW keeps for one parameter, of its shape, zero before the first step.
#[derive(Clone, Debug)]
pub struct Moments<P> {
    /// `m`: of the gradient.
    pub first: P,
    /// `v`: of its square.
    pub second: P,
}

/// A machine that can train: [`Backend`] plus parameters and the backward of each primitive.
///
/// Weights are handles here: cloning one shares it, so that a recorded operation can keep it.
pub trait TrainBackend: Backend<Weight: Clone> {
    /// Plain trainable values in the machine's element type; also what gradients and moments are
    /// kept in.
    type Param;

    /// Takes values in, decoding them if they are quantised.
    ///
    /// # Errors
    /// When the bytes do not decode, or there is no memory for them.
    fn param(&self, weight: &WeightData<'_>) -> Result<Self::Param, BackendError>;

    /// Zeros of the same shape.
    ///
    /// # Errors
    /// When there is no memory for them.
    fn zeros_like(&self, param: &Self::Param) -> Result<Self::Param, BackendError>;

    /// The weight that the forward pass uses for `param`'s values, as the operations submitted so
    /// far have left them.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn pack(&self, param: &Self::Param) -> Result<Self::Weight, BackendError>;

    /// Replaces the contents of `out` by the values, row-major, as the operations submitted so far
    /// have left them.
    fn read_param(&self, param: &Self::Param, out: &mut Vec<Self::Element>);

    /// Replaces the values, row-major.
    ///
    /// # Panics
    /// When there are too few or too many.
    fn write_param(&self, param: &mut Self::Param, values: &[Self::Element]);

    /// Backward of [`Backend::embed`]: adds row `r` of `dy` to row `tokens[r]` of `gradient`.
    fn embed_dw(&mut self, gradient: &mut Self::Param, dy: &Self::Tensor, tokens: &[u32]);

    /// Backward of [`Backend::linear`] to its input: `dx = dy W`, `[rows, out]` to `[rows, in]`. The
    /// weight may be quantised.
    fn linear_dx(&mut self, dy: &Self::Tensor, weight: &Self::Weight, rows: &RowPlan) -> Self::Tensor;

    /// Backward of [`Backend::linear`] to its weight: adds `dy^T x`, `[out, in]`.
    fn linear_dw(&mut self, gradient: &mut Self::Param, dy: &Self::Tensor, x: &Self::Tensor);

    /// Backward of [`Backend::rms_norm`] to its input: with `f = 1 / sqrt(mean(x^2) + ε)` and
    /// `u = g dy`, `dx = f u - f^3 x mean(u x)`, each row by itself.
    fn rms_norm_dx(
        &mut self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        gain: &Self::Weight,
        epsilon: f32,
    ) -> Self::Tensor;

    /// Backward of [`Backend::rms_norm`] to its gain: adds `sum over rows of dy f x`.
    fn rms_norm_dw(&mut self, gradient: &mut Self::Param, dy: &Self::Tensor, x: &Self::Tensor, epsilon: f32);

    /// Backward of [`Backend::head_norm`]: as [`TrainBackend::rms_norm_dx`] with gain 1, over each run
    /// of `head_dim` columns.
    fn head_norm_dx(
        &mut self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        head_dim: usize,
        epsilon: f32,
    ) -> Self::Tensor;

    /// Backward of [`Backend::rope`]: the transposed rotation, `(a, b)` becomes
    /// `(a cos + b sin, b cos - a sin)`.
    fn rope_dx(&mut self, dy: Self::Tensor, rotation: &Self::Tensor) -> Self::Tensor;

    /// Backward of [`Backend::attention`] over the step's own keys and values: `[dq, dk, dv]`. With
    /// `p = softmax(s)`, `s = scale q k^T` for each query head,
    /// `dv_j = sum_i p_ij dy_i`, `ds_ij = p_ij (dy_i v_j - sum_l p_il dy_i v_l)`,
    /// `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`; a key/value head sums over the
    /// query heads that it serves.
    fn attention_dx(
        &mut self,
        dy: &Self::Tensor,
        query: &Self::Tensor,
        key: &Self::Tensor,
        value: &Self::Tensor,
        shape: &AttentionShape,
        rows: &RowPlan,
    ) -> [Self::Tensor; 3];

    /// Backward of [`Backend::swiglu`]: `[dgate, dup]`. With `σ = sigmoid(gate)`,
    /// `dgate = dy up σ (1 + gate (1 - σ))` and `dup = dy gate σ`.
    fn swiglu_dx(&mut self, dy: &Self::Tensor, gate: &Self::Tensor, up: &Self::Tensor) -> [Self::Tensor; 2];

    /// Backward of [`Backend::experts`]: returns `dx` and adds the weights' gradients to those
    /// accumulators that are there. The choice of experts is a constant; the router learns through
    /// the share: with `p = sigmoid(s)` and `z = p x` of a chosen expert, `dx = p dz + ds W_router`
    /// and `ds = p (1 - p) (dz x)`.
    fn experts_dx_dw(
        &mut self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        experts: &Experts<Self::Weight>,
        gradients: &mut Experts<Option<Self::Param>>,
        rows: &RowPlan,
    ) -> Self::Tensor;

    /// Backward of [`Backend::select_rows`]: zeros of the shape of `x`, plus row `r` of `dy` in row
    /// `rows[r]`.
    fn select_rows_dx(&mut self, dy: &Self::Tensor, x: &Self::Tensor, rows: &[usize]) -> Self::Tensor;

    /// Backward of [`Backend::cross_entropy`]: `dlogits = dy (softmax(logits) - onehot(target)) /
    /// rows`, where `dy` is `[1, 1]`.
    fn cross_entropy_dx(&mut self, dy: &Self::Tensor, logits: &Self::Tensor, targets: &[u32])
    -> Self::Tensor;

    /// Step `step`, from 1, of AdamW (Loshchilov and Hutter 2019, algorithm 2), in the order in which
    /// PyTorch computes it: with gradient `g`,
    /// `w -= η λ w`, `m += (1 - β1) (g - m)`, `v = β2 v + (1 - β2) g^2`,
    /// `w -= η / (1 - β1^step) m / (sqrt(v) / sqrt(1 - β2^step) + ε)`.
    fn adamw(
        &mut self,
        param: &mut Self::Param,
        gradient: &Self::Param,
        moments: &mut Moments<Self::Param>,
        settings: &AdamW,
        step: u32,
    );
}
