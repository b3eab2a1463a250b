//! LoRA adapters in a backend, and the composites of the forward pass with what a step's adapters add.
//!
//! A step without adapters runs the backend's composites as they are. Rows of a step that have none keep their bits:
//! the products are the same, and [`Backend::low_rank_add`] leaves their rows alone.

use crate::ModelError;
use alti_formats::{PARTS, Part, WeightName};
use alti_tensor::{Backend, LowRank, RowPlan, Updates};
use std::sync::Arc;

/// An adapter whose weights are `W`, the weights of a backend: a matrix of low rank for some of a model's matrices.
#[derive(Debug)]
pub struct Adapter<W> {
    /// For each layer an entry for each part; then those outside the layers.
    updates: Vec<Option<LowRank<W>>>,
    layers: usize,
}

impl<W> Adapter<W> {
    /// Reads every matrix of the adapter into the backend.
    ///
    /// # Errors
    /// When the file cannot be read, or the backend cannot take a weight.
    pub fn load<B: Backend<Weight = W>>(
        backend: &B,
        adapter: &alti_formats::Adapter,
    ) -> Result<Adapter<W>, ModelError> {
        let mut updates = Vec::with_capacity(adapter.matrices().len());
        for matrix in adapter.matrices() {
            let name = matrix.name;
            let stored = adapter.load(matrix)?;
            let load = |weight| backend.load(weight).map_err(|error| ModelError::Weight { name, error });
            updates.push((
                name,
                LowRank { down: load(stored.down)?, up: load(stored.up)?, scale: matrix.scale },
            ));
        }
        Ok(Self::new(updates))
    }

    /// An adapter of these updates.
    pub fn new(updates: impl IntoIterator<Item = (WeightName, LowRank<W>)>) -> Adapter<W> {
        let given: Vec<_> = updates.into_iter().collect();
        let layers = given.iter().filter_map(|(name, _)| name.layer).max().map_or(0, |last| last + 1);
        let mut table: Vec<_> = (0..(layers + 1) * PARTS.len()).map(|_| None).collect();
        for (name, update) in given {
            table[Self::index(layers, name)] = Some(update);
        }
        Adapter { updates: table, layers }
    }

    /// What is added to a matrix of the model, if anything.
    pub fn get(&self, name: WeightName) -> Option<&LowRank<W>> {
        match name.layer {
            Some(layer) if layer >= self.layers => None,
            _ => self.updates[Self::index(self.layers, name)].as_ref(),
        }
    }

    fn index(layers: usize, name: WeightName) -> usize {
        name.layer.unwrap_or(layers) * PARTS.len() + name.part as usize
    }
}

/// A matrix and its role, which says what adapters add to it.
pub(crate) type Named<'a, W> = (Part, &'a W);

/// A gain and an epsilon: the norm before a product.
pub(crate) type Norm<'a, W> = (&'a W, f32);

/// The adapters of a step, at one layer or outside of them.
pub(crate) struct Adapted<'a, W> {
    /// By [`Span::adapter`](alti_tensor::Span::adapter).
    pub(crate) adapters: &'a [Arc<Adapter<W>>],
    /// The layer.
    pub(crate) layer: Option<usize>,
    /// The rows of the products.
    pub(crate) rows: &'a RowPlan,
}

impl<'a, W> Adapted<'a, W> {
    /// What the adapters add to each of some matrices; `None` where that is nothing at all.
    fn updates<const N: usize>(&self, parts: [Part; N]) -> Option<[Updates<'a, W>; N]> {
        let get =
            |part| move |adapter: &'a Arc<Adapter<W>>| adapter.get(WeightName { layer: self.layer, part });
        let any = parts.iter().any(|&part| self.adapters.iter().any(|adapter| get(part)(adapter).is_some()));
        any.then(|| parts.map(|part| self.adapters.iter().map(get(part)).collect()))
    }

    /// [`Backend::norm_linear`].
    pub(crate) fn norm_linear<B: Backend<Weight = W>, const N: usize>(
        &self,
        b: &mut B,
        x: &B::Tensor,
        (gain, epsilon): Norm<'_, W>,
        weights: [Named<'_, W>; N],
    ) -> [B::Tensor; N] {
        let products = b.norm_linear(x, gain, epsilon, weights.map(|(_, weight)| weight), self.rows);
        match self.updates(weights.map(|(part, _)| part)) {
            None => products,
            Some(updates) => {
                let normed = b.rms_norm(x, gain, epsilon);
                b.low_rank_add(products, &normed, &updates, self.rows)
            }
        }
    }

    /// [`Backend::norm_swiglu`].
    pub(crate) fn norm_swiglu<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        x: &B::Tensor,
        (gain, epsilon): Norm<'_, W>,
        gate_up: [Named<'_, W>; 2],
    ) -> B::Tensor {
        let [gate, up] = gate_up;
        if self.updates([gate.0, up.0]).is_none() {
            return b.norm_swiglu(x, gain, epsilon, gate.1, up.1, self.rows);
        }
        let [gate, up] = self.norm_linear(b, x, (gain, epsilon), gate_up);
        b.swiglu(&gate, &up)
    }

    /// [`Backend::linear_swiglu`].
    pub(crate) fn linear_swiglu<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        x: &B::Tensor,
        [gate, up]: [Named<'_, W>; 2],
    ) -> B::Tensor {
        let Some(updates) = self.updates([gate.0, up.0]) else {
            return b.linear_swiglu(x, gate.1, up.1, self.rows);
        };
        let products = [gate, up].map(|(_, weight)| b.linear(x, weight, self.rows));
        let [gate, up] = b.low_rank_add(products, x, &updates, self.rows);
        b.swiglu(&gate, &up)
    }

    /// [`Backend::linear_add`].
    pub(crate) fn linear_add<B: Backend<Weight = W>>(
        &self,
        b: &mut B,
        residual: B::Tensor,
        x: &B::Tensor,
        (part, weight): Named<'_, W>,
    ) -> B::Tensor {
        let sum = b.linear_add(residual, x, weight, self.rows);
        match self.updates([part]) {
            None => sum,
            Some(updates) => {
                let [sum] = b.low_rank_add([sum], x, &updates, self.rows);
                sum
            }
        }
    }
}
