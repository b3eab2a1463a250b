//! The seam between models and machines: transformer-sized operations.
//!
//! Model code calls these once, on one thread, for one step. A backend may compute at once
//! (`Reference`) or append to a command list that [`Backend::submit`] runs as
//! one parallel region; model code cannot tell, because values come back only through
//! [`Backend::fetch`].
//!
//! A tensor is a matrix `[rows, columns]` of activations, row-major. Operations that take a tensor
//! by value may reuse its memory; dropping the last clone of a handle releases it, in program
//! order.
//!
//! What every backend owes its callers: row `r` of a result depends on row `r` of the operands and
//! (in attention) on the keys and values of its own sequence, and not on which other rows are in
//! the step, nor on the number of threads. The same row computed in another step gives the same
//! bits.

use crate::{Profile, RowPlan, WeightData};
use std::ops::Range;

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A weight that the backend cannot use.
    #[error("{what}")]
    Weight {
        /// What is wrong with it, and what would be right.
        what: String,
    },
    /// Memory that the system did not grant.
    #[error("no memory for {what}: {bytes} bytes; a smaller context, batch or model needs less")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// How much it would have been.
        bytes: usize,
    },
    /// A step that failed while it ran; its results are lost, the backend is still usable.
    #[error("the step failed: {what}")]
    Step {
        /// What happened.
        what: String,
    },
}

impl BackendError {
    /// Checks the length of what is to be a page of keys and values.
    ///
    /// # Errors
    /// When it is another.
    pub fn check_page(bytes: usize, expected: usize) -> Result<(), BackendError> {
        if bytes == expected {
            return Ok(());
        }
        let what = format!(
            "a page of keys and values has {expected} bytes here, not {bytes}: it was saved by another model, backend \
             or type of cache"
        );
        Err(BackendError::Step { what })
    }
}

/// How keys and values are stored between steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDType {
    /// 4 bytes a value: exact, for parity with a reference.
    F32,
    /// 2 bytes a value.
    BF16,
    /// 32 values share an f16 scale: 1.0625 bytes a value.
    Q8_0,
}

impl KvDType {
    /// Every type with its name.
    pub const TABLE: [(KvDType, &'static str); 3] =
        [(KvDType::F32, "f32"), (KvDType::BF16, "bf16"), (KvDType::Q8_0, "q8_0")];

    /// The name users write.
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// The type with this name, in any case.
    pub fn from_name(name: &str) -> Option<KvDType> {
        Self::TABLE.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(dtype, _)| *dtype)
    }

    /// Bytes of `values` consecutive values (rounded up to whole groups of 32 for Q8_0).
    pub fn bytes_for(self, values: usize) -> usize {
        match self {
            KvDType::F32 => 4 * values,
            KvDType::BF16 => 2 * values,
            KvDType::Q8_0 => 34 * values.div_ceil(32),
        }
    }
}

/// Tokens in one page of keys and values.
pub const PAGE_TOKENS: usize = 64;

/// Layers whose keys and values live and die together, and so share block tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheGroup {
    /// Layers in the group.
    pub layers: usize,
    /// Pages in the group's pool; a page holds [`PAGE_TOKENS`] tokens of every layer of the group.
    pub pages: usize,
}

/// The shape of a paged key/value cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// The layer groups; block tables of a [`Span`](crate::plan::Span) are in this order.
    pub groups: Vec<CacheGroup>,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// How they are stored.
    pub dtype: KvDType,
}

impl CacheLayout {
    /// Bytes of keys and values together, over all groups; the largest number where they are more.
    pub fn bytes(&self) -> usize {
        let token = 2 * self.kv_heads * self.dtype.bytes_for(self.head_dim);
        let group = |g: &CacheGroup| {
            g.pages.saturating_mul(PAGE_TOKENS).saturating_mul(g.layers).saturating_mul(token)
        };
        self.groups.iter().map(group).fold(0, usize::saturating_add)
    }
}

/// One layer's place in a cache.
#[derive(Debug)]
pub struct CacheLayer<'a, C> {
    /// The cache.
    pub cache: &'a C,
    /// Index of the layer's group.
    pub group: usize,
    /// Index of the layer in its group.
    pub layer: usize,
}

/// The shape of one attention operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; key/value head `j` serves query heads `j * heads / kv_heads ..`.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Factor on the scores: `1 / sqrt(head_dim)` in the Llama family.
    pub scale: f32,
    /// With `Some(c)` position `i` sees position `j <= i` only where `i / c == j / c`.
    pub chunk: Option<usize>,
}

impl AttentionShape {
    /// The first position that `position` sees; it sees all from there to itself.
    pub fn first_visible(&self, position: usize) -> usize {
        self.chunk.map_or(0, |chunk| position / chunk * chunk)
    }
}

/// The weights of a routed mixture of experts (Llama 4).
#[derive(Debug)]
pub struct Experts<W> {
    /// `[experts, dim]`: the router.
    pub router: W,
    /// `[experts, hidden, dim]`: W1.
    pub gate: W,
    /// `[experts, hidden, dim]`: W3.
    pub up: W,
    /// `[experts, dim, hidden]`: W2.
    pub down: W,
    /// Experts that serve one row.
    pub used: usize,
}

impl<W> Experts<W> {
    /// The same experts with `f` of each weight.
    pub fn map<V>(&self, f: impl Fn(&W) -> V) -> Experts<V> {
        let Experts { router, gate, up, down, used } = self;
        Experts { router: f(router), gate: f(gate), up: f(up), down: f(down), used: *used }
    }
}

/// A matrix of low rank that is added to one of a model's matrices: `scale up down` (LoRA, Hu et al. 2021).
#[derive(Clone, Debug)]
pub struct LowRank<W> {
    /// `[rank, in]`: A. F32 or F16.
    pub down: W,
    /// `[out, rank]`: B. F32 or F16.
    pub up: W,
    /// Factor on the product.
    pub scale: f32,
}

/// The low-rank updates of one matrix, by [`Span::adapter`](crate::plan::Span::adapter); `None` where an adapter
/// leaves the matrix as it is.
pub type Updates<'a, W> = Vec<Option<&'a LowRank<W>>>;

/// A machine that runs transformer operations.
///
/// Shapes are checked where a model is loaded; an operation on tensors that do not fit each other
/// is a bug of the caller and panics.
pub trait Backend {
    /// A handle to a value of this step, `[rows, columns]`.
    type Tensor: Clone;
    /// A weight as this machine wants it (repacked, quantised).
    type Weight;
    /// A pool of pages of keys and values, shared by the sequences of an engine.
    type Cache;
    /// The type of a value that [`Backend::fetch`] returns.
    type Element: Copy + Into<f64>;

    /// Takes a weight in: `[out, in]` matrix, `[experts, out, in]` matrices or `[n]` vector.
    ///
    /// # Errors
    /// When the encoding or shape cannot be used, or there is no memory for it.
    fn load(&self, weight: WeightData<'_>) -> Result<Self::Weight, BackendError>;

    /// A cache with undefined contents.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn cache(&self, layout: &CacheLayout) -> Result<Self::Cache, BackendError>;

    /// Host values as a tensor of `columns` columns.
    fn input(&mut self, values: &[f32], columns: usize) -> Self::Tensor;

    /// `E[token]` for each token: `[tokens, dim]`. Every token is a row of the table.
    fn embed(&mut self, table: &Self::Weight, tokens: &[u32]) -> Self::Tensor;

    /// `x W^T`: `[rows, in]` to `[rows, out]`.
    fn linear(&mut self, x: &Self::Tensor, weight: &Self::Weight, rows: &RowPlan) -> Self::Tensor;

    /// `x / sqrt(mean(x^2) + epsilon) * gain`, each row by itself (Zhang and Sennrich 2019).
    fn rms_norm(&mut self, x: &Self::Tensor, gain: &Self::Weight, epsilon: f32) -> Self::Tensor;

    /// `rms_norm` without gain over each run of `head_dim` columns (the QK norm of Llama 4).
    fn head_norm(&mut self, x: Self::Tensor, head_dim: usize, epsilon: f32) -> Self::Tensor;

    /// Rotary position embedding (Su et al. 2021). Row `r` of `rotation`, `[rows, head_dim]`, holds
    /// `cos, sin` for each pair of the row's position; in every head the consecutive pair
    /// `(a, b)` becomes `(a cos - b sin, a sin + b cos)`.
    fn rope(&mut self, x: Self::Tensor, rotation: &Self::Tensor) -> Self::Tensor;

    /// Row `r` of `x` times `factors[r, 0]`.
    fn scale_rows(&mut self, x: Self::Tensor, factors: &Self::Tensor) -> Self::Tensor;

    /// Causal grouped-query attention: `softmax(scale q k^T) v` for each query head, `[rows, heads *
    /// head_dim]`. With `memory` the rows' keys and values are stored first, and queries read all
    /// keys and values as stored; without it a row sees the rows of its own span.
    fn attention(
        &mut self,
        query: &Self::Tensor,
        key: &Self::Tensor,
        value: &Self::Tensor,
        shape: &AttentionShape,
        memory: Option<CacheLayer<'_, Self::Cache>>,
        rows: &RowPlan,
    ) -> Self::Tensor;

    /// `silu(gate) * up` (Shazeer 2020).
    fn swiglu(&mut self, gate: &Self::Tensor, up: &Self::Tensor) -> Self::Tensor;

    /// Routed experts: for the `used` experts `e` of largest score `s = router x` (the lower index
    /// wins a tie), the sum of `down_e swiglu(gate_e z, up_e z)` where `z = sigmoid(s_e) x`.
    fn experts(&mut self, x: &Self::Tensor, experts: &Experts<Self::Weight>, rows: &RowPlan) -> Self::Tensor;

    /// `x + y`.
    fn add(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Self::Tensor;

    /// The given rows of `x`, in the given order.
    fn select_rows(&mut self, x: &Self::Tensor, rows: &[usize]) -> Self::Tensor;

    /// `x` with row `i` of `y` added to its row `rows[i]`. No row is named twice.
    fn add_rows(&mut self, x: Self::Tensor, y: &Self::Tensor, rows: &[usize]) -> Self::Tensor;

    /// The mean over rows of `-ln softmax(logits)[target]`: `[1, 1]`.
    fn cross_entropy(&mut self, logits: &Self::Tensor, targets: &[u32]) -> Self::Tensor;

    /// Runs what was appended since the last time.
    ///
    /// # Errors
    /// When the step failed; nothing of it may be fetched then.
    fn submit(&mut self) -> Result<(), BackendError>;

    /// Submits, and replaces the contents of `out` by the tensor's values, row-major.
    ///
    /// # Errors
    /// As [`Backend::submit`].
    fn fetch(&mut self, x: &Self::Tensor, out: &mut Vec<Self::Element>) -> Result<(), BackendError>;

    /// Appends the keys and values of a page, in every layer of every group, to `out`: in this machine's own layout,
    /// which only a cache of the same layout on the same kind of machine can take back. What was recorded must have
    /// been submitted.
    fn read_page(&self, cache: &Self::Cache, page: u32, out: &mut Vec<u8>);

    /// Puts what [`Backend::read_page`] gave into a page.
    ///
    /// # Errors
    /// When it is not as long as a page of this cache.
    fn write_page(&mut self, cache: &Self::Cache, page: u32, bytes: &[u8]) -> Result<(), BackendError>;

    /// Has the system grant the memory of these pages of a cache, which else happens when they are first written, in the
    /// middle of a step. Nothing but the time of steps depends on it.
    fn grant_pages(&mut self, cache: &Self::Cache, pages: Range<u32>) {
        let _ = (cache, pages);
    }

    /// Measures from now on where the time of steps goes, if this backend can. The clock is then read around each
    /// operation.
    fn start_profile(&mut self) {}

    /// What was measured since [`Backend::start_profile`], if anything; ends it.
    fn end_profile(&mut self) -> Option<Profile> {
        None
    }

    /// Threads that work on a step.
    fn threads(&self) -> usize {
        1
    }

    /// Submits, and calls `task` once with every index below `count` and the tensor's values, row-major; in any order,
    /// on as many threads as there are: for work of a step that is not arithmetic on tensors, such as drawing the
    /// sequences' tokens.
    ///
    /// # Errors
    /// As [`Backend::submit`], or when a task panicked.
    fn for_each(
        &mut self,
        x: &Self::Tensor,
        count: usize,
        task: &(dyn Fn(usize, &[Self::Element]) + Sync),
    ) -> Result<(), BackendError> {
        let mut values = Vec::new();
        self.fetch(x, &mut values)?;
        (0..count).for_each(|index| task(index, &values));
        Ok(())
    }

    // Composites: what a fast backend fuses. A default body is the definition.

    /// Several projections of one normalised input: q, k and v; gate and up.
    fn norm_linear<const N: usize>(
        &mut self,
        x: &Self::Tensor,
        gain: &Self::Weight,
        epsilon: f32,
        weights: [&Self::Weight; N],
        rows: &RowPlan,
    ) -> [Self::Tensor; N] {
        let normed = self.rms_norm(x, gain, epsilon);
        weights.map(|weight| self.linear(&normed, weight, rows))
    }

    /// `swiglu(gate x, up x)`.
    fn linear_swiglu(
        &mut self,
        x: &Self::Tensor,
        gate: &Self::Weight,
        up: &Self::Weight,
        rows: &RowPlan,
    ) -> Self::Tensor {
        let gate = self.linear(x, gate, rows);
        let up = self.linear(x, up, rows);
        self.swiglu(&gate, &up)
    }

    /// `swiglu(gate n, up n)` of the normalised input `n`.
    fn norm_swiglu(
        &mut self,
        x: &Self::Tensor,
        gain: &Self::Weight,
        epsilon: f32,
        gate: &Self::Weight,
        up: &Self::Weight,
        rows: &RowPlan,
    ) -> Self::Tensor {
        let normed = self.rms_norm(x, gain, epsilon);
        self.linear_swiglu(&normed, gate, up, rows)
    }

    /// `residual + x W^T`.
    fn linear_add(
        &mut self,
        residual: Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Weight,
        rows: &RowPlan,
    ) -> Self::Tensor {
        let product = self.linear(x, weight, rows);
        self.add(residual, &product)
    }

    /// What adapters add to products of one input: to row `r` of each of `products`, `scale B (A x_r)` of the update
    /// of the row's adapter. Rows without one, or whose adapter has none for the matrix, keep their bits.
    fn low_rank_add<const N: usize>(
        &mut self,
        products: [Self::Tensor; N],
        x: &Self::Tensor,
        updates: &[Updates<'_, Self::Weight>; N],
        rows: &RowPlan,
    ) -> [Self::Tensor; N] {
        let mut updates = updates.iter();
        products.map(|mut product| {
            for (adapter, update) in updates.next().into_iter().flatten().enumerate() {
                let users: Vec<usize> =
                    (0..rows.len()).filter(|&row| rows.adapter(row) == Some(adapter)).collect();
                let (Some(update), false) = (update, users.is_empty()) else { continue };
                let plan = rows.select(&users);
                let x = self.select_rows(x, &users);
                let low = self.linear(&x, &update.down, &plan);
                let scale = self.input(&vec![update.scale; users.len()], 1);
                let low = self.scale_rows(low, &scale);
                let added = self.linear(&low, &update.up, &plan);
                product = self.add_rows(product, &added, &users);
            }
            product
        })
    }

    /// Runs `f`, a part of a model such as one layer, whose inner values training may compute again
    /// in the backward and not keep (Chen et al. 2016). In inference this is nothing.
    fn checkpoint<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        f(self)
    }
}
