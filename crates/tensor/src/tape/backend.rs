//! The tape as a backend: every operation is handed on and recorded.

use super::operation::Operation;
use super::{Tape, TapeTensor, TapeWeight, Trainable};
use crate::{
    AttentionShape, Backend, BackendError, CacheLayer, CacheLayout, Experts, RowPlan, TrainBackend,
    WeightData,
};

impl<B: TrainBackend> Backend for Tape<B> {
    type Tensor = TapeTensor<B>;
    type Weight = TapeWeight<B>;
    type Cache = B::Cache;
    type Element = B::Element;

    fn load(&self, weight: WeightData<'_>) -> Result<Self::Weight, BackendError> {
        match self.trainable {
            Trainable::All => TapeWeight::trainable(&self.inner, self.inner.param(&weight)?),
            Trainable::None => self.inner.load(weight).map(TapeWeight::frozen),
        }
    }

    fn cache(&self, layout: &CacheLayout) -> Result<Self::Cache, BackendError> {
        self.inner.cache(layout)
    }

    fn input(&mut self, values: &[f32], columns: usize) -> Self::Tensor {
        TapeTensor { value: self.inner.input(values, columns), node: None }
    }

    fn embed(&mut self, table: &Self::Weight, tokens: &[u32]) -> Self::Tensor {
        self.apply(Operation::Embed { table: table.clone(), tokens: tokens.to_vec() }, [])
    }

    fn linear(&mut self, x: &Self::Tensor, weight: &Self::Weight, rows: &RowPlan) -> Self::Tensor {
        self.apply(Operation::Linear { weight: weight.clone(), rows: rows.clone() }, [x.clone()])
    }

    fn rms_norm(&mut self, x: &Self::Tensor, gain: &Self::Weight, epsilon: f32) -> Self::Tensor {
        self.apply(Operation::RmsNorm { gain: gain.clone(), epsilon }, [x.clone()])
    }

    fn head_norm(&mut self, x: Self::Tensor, head_dim: usize, epsilon: f32) -> Self::Tensor {
        self.apply(Operation::HeadNorm { head_dim, epsilon }, [x])
    }

    /// # Panics
    /// When the rotation depends on a trainable weight: it belongs to the positions.
    fn rope(&mut self, x: Self::Tensor, rotation: &Self::Tensor) -> Self::Tensor {
        let rotation = constant(rotation, "the rotation of rope");
        self.apply(Operation::Rope { rotation }, [x])
    }

    /// # Panics
    /// When the factors depend on a trainable weight: they belong to the positions.
    fn scale_rows(&mut self, x: Self::Tensor, factors: &Self::Tensor) -> Self::Tensor {
        let factors = constant(factors, "a row's factor");
        self.apply(Operation::ScaleRows { factors }, [x])
    }

    /// # Panics
    /// When there is a memory and a gradient would have to go through it: training attends to the
    /// step's own keys and values.
    fn attention(
        &mut self,
        query: &Self::Tensor,
        key: &Self::Tensor,
        value: &Self::Tensor,
        shape: &AttentionShape,
        memory: Option<CacheLayer<'_, Self::Cache>>,
        rows: &RowPlan,
    ) -> Self::Tensor {
        if memory.is_none() {
            let operands = [query.clone(), key.clone(), value.clone()];
            return self.apply(Operation::Attention { shape: *shape, rows: rows.clone() }, operands);
        }
        let [query, key, value] =
            [query, key, value].map(|x| constant(x, "with cached keys and values each of q, k and v"));
        TapeTensor { value: self.inner.attention(&query, &key, &value, shape, memory, rows), node: None }
    }

    fn swiglu(&mut self, gate: &Self::Tensor, up: &Self::Tensor) -> Self::Tensor {
        self.apply(Operation::Swiglu, [gate.clone(), up.clone()])
    }

    fn experts(&mut self, x: &Self::Tensor, experts: &Experts<Self::Weight>, rows: &RowPlan) -> Self::Tensor {
        let weights = experts.map(TapeWeight::clone);
        let packed = experts.map(TapeWeight::packed);
        self.apply(Operation::Experts { weights, packed, rows: rows.clone() }, [x.clone()])
    }

    fn add(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Self::Tensor {
        self.apply(Operation::Add, [x, y.clone()])
    }

    fn select_rows(&mut self, x: &Self::Tensor, rows: &[usize]) -> Self::Tensor {
        self.apply(Operation::SelectRows { rows: rows.to_vec() }, [x.clone()])
    }

    fn add_rows(&mut self, x: Self::Tensor, y: &Self::Tensor, rows: &[usize]) -> Self::Tensor {
        self.apply(Operation::AddRows { rows: rows.to_vec() }, [x, y.clone()])
    }

    fn cross_entropy(&mut self, logits: &Self::Tensor, targets: &[u32]) -> Self::Tensor {
        self.apply(Operation::CrossEntropy { targets: targets.to_vec() }, [logits.clone()])
    }

    fn read_page(&self, cache: &Self::Cache, page: u32, out: &mut Vec<u8>) {
        self.inner.read_page(cache, page, out);
    }

    fn write_page(&mut self, cache: &Self::Cache, page: u32, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write_page(cache, page, bytes)
    }

    fn submit(&mut self) -> Result<(), BackendError> {
        self.inner.submit()
    }

    fn fetch(&mut self, x: &Self::Tensor, out: &mut Vec<Self::Element>) -> Result<(), BackendError> {
        self.inner.fetch(&x.value, out)
    }

    /// With [`Tape::recompute`] keeps what `f` takes from outside and not what it computes, for
    /// [`Tape::backward`] to compute again. A checkpoint within a checkpoint is part of the outer one.
    fn checkpoint<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        if !self.recompute || self.in_checkpoint {
            return f(self);
        }
        let start = self.first_node + self.nodes.len();
        self.in_checkpoint = true;
        let result = f(self);
        self.in_checkpoint = false;
        self.end_checkpoint(start);
        result
    }
}

/// The value of a tensor that must not need a gradient.
fn constant<B: TrainBackend>(x: &TapeTensor<B>, what: &str) -> B::Tensor {
    assert!(x.node.is_none(), "{what} must not depend on a trainable weight");
    x.value.clone()
}
