//! Gradients of any model: a backend that records what another one computes.
//!
//! `Tape<B>` runs every operation on `B` and remembers, for each result that depends on a trainable
//! weight, the operation and what its backward needs. [`Tape::backward`] then walks the record in
//! reverse. A model written over [`Backend`](crate::Backend) is trained by loading it through a tape;
//! its code does not know.
//!
//! Composites reach the tape through their default bodies, as primitives. A composite with a backward
//! of its own is one more [`Operation`] and an override in `backend.rs`.

mod backend;
mod operation;
mod weight;

pub use weight::TapeWeight;

use crate::{BackendError, TrainBackend};
use operation::{Gradients, Operation};
use std::ops::Range;

/// Which weights that are loaded through a tape receive gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trainable {
    /// All of them; they are decoded to plain values.
    #[default]
    All,
    /// None; they stay as packed (and quantised) as they are loaded.
    None,
}

/// A backend that records what `B` computes, for [`Tape::backward`].
pub struct Tape<B: TrainBackend> {
    inner: B,
    /// What [`Backend::load`](crate::Backend::load) makes of a weight.
    pub trainable: Trainable,
    /// Whether what is computed inside a [`Backend::checkpoint`](crate::Backend::checkpoint) is computed
    /// again in the backward, and not kept until then: less memory for one more forward pass.
    pub recompute: bool,
    nodes: Vec<Node<B>>,
    /// Id of `nodes[0]`: ids go on counting from step to step, so that a stale tensor is noticed.
    first_node: usize,
    /// The nodes of each finished checkpoint, in order.
    checkpoints: Vec<Range<usize>>,
    in_checkpoint: bool,
}

/// A value of the recorded step: the inner backend's, and where it came from.
pub struct TapeTensor<B: TrainBackend> {
    value: B::Tensor,
    /// The node that made it; none if no trainable weight had a part in it.
    node: Option<usize>,
}

impl<B: TrainBackend> Clone for TapeTensor<B> {
    fn clone(&self) -> Self {
        TapeTensor { value: self.value.clone(), node: self.node }
    }
}

/// One recorded operation.
struct Node<B: TrainBackend> {
    operation: Operation<B>,
    operands: Vec<Operand<B>>,
}

/// What an operation was applied to.
struct Operand<B: TrainBackend> {
    /// The node that made it, if its gradient is wanted.
    node: Option<usize>,
    /// Its value, if the backward needs it and it is not to be recomputed.
    value: Option<B::Tensor>,
}

impl<B: TrainBackend> Tape<B> {
    /// A tape over `inner` whose loaded weights are trainable or not, as told; [`Tape::trainable`] may be
    /// changed between loads. It keeps what it computes; set [`Tape::recompute`] to change that.
    pub fn new(inner: B, trainable: Trainable) -> Self {
        Tape {
            inner,
            trainable,
            recompute: false,
            nodes: Vec::new(),
            first_node: 0,
            checkpoints: Vec::new(),
            in_checkpoint: false,
        }
    }

    /// The backend that computes.
    pub fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Adds the gradient of `loss`, `[1, 1]`, to every trainable weight that had a part in it, submits,
    /// and forgets the recorded step, whose tensors may not be used any more. Values that the forward
    /// pass kept are released on the way.
    ///
    /// # Errors
    /// When there is no memory for a weight's gradient, or the step failed.
    ///
    /// # Panics
    /// When `loss` is of a step that was forgotten.
    pub fn backward(&mut self, loss: &TapeTensor<B>) -> Result<(), BackendError> {
        let mut record = self.take_record();
        if let Some(loss) = loss.node {
            assert!(loss >= record.first, "this loss is of a step whose record is gone");
            let mut gradients = Gradients::new(record.first, record.nodes.len());
            let one = self.inner.input(&[1.0], 1);
            gradients.add(&mut self.inner, Some(loss), one);
            record.walk(&mut self.inner, &mut gradients)?;
        }
        self.inner.submit()
    }

    /// Calls `update(backend, index, parameter, gradient)` for each trainable weight that has a
    /// gradient, with its index among `weights`; then submits, packs the new values and drops the
    /// gradients, so that the next [`Tape::backward`] starts from zero. A step still recorded was made
    /// with the old values, and is forgotten.
    ///
    /// # Errors
    /// When the step failed or there is no memory for a packed weight.
    pub fn optimise<'a>(
        &mut self,
        weights: impl IntoIterator<Item = &'a TapeWeight<B>>,
        mut update: impl FnMut(&mut B, usize, &mut B::Param, &B::Param),
    ) -> Result<(), BackendError>
    where
        B: 'a,
    {
        self.take_record();
        let mut changed = Vec::new();
        for (index, weight) in weights.into_iter().enumerate() {
            if weight.update(|param, gradient| update(&mut self.inner, index, param, gradient)) {
                changed.push(weight);
            }
        }
        self.inner.submit()?;
        changed.into_iter().try_for_each(|weight| weight.pack(&self.inner))
    }

    /// Ends the recorded step.
    fn take_record(&mut self) -> Record<B> {
        let nodes = std::mem::take(&mut self.nodes);
        let first = self.first_node;
        self.first_node += nodes.len();
        Record { nodes, first, checkpoints: std::mem::take(&mut self.checkpoints) }
    }

    /// Runs an operation, and records it if a trainable weight has a part in its result.
    fn apply<const N: usize>(
        &mut self,
        operation: Operation<B>,
        operands: [TapeTensor<B>; N],
    ) -> TapeTensor<B> {
        let recorded = operation.trains() || operands.iter().any(|operand| operand.node.is_some());
        // Inside a checkpoint every operation will run again.
        let kept = operation.needs_operands() || self.in_checkpoint;
        let keep = |operand: &TapeTensor<B>| Operand {
            node: operand.node,
            value: kept.then(|| operand.value.clone()),
        };
        let recorded = recorded.then(|| operands.iter().map(keep).collect::<Vec<_>>());
        let value = operation.forward(&mut self.inner, operands.map(|operand| operand.value));
        let node = recorded.map(|operands| self.record(Node { operation, operands }));
        TapeTensor { value, node }
    }

    fn record(&mut self, node: Node<B>) -> usize {
        for operand in &node.operands {
            let stale = operand.node.is_some_and(|id| id < self.first_node);
            assert!(!stale, "this tensor is of a step whose record is gone");
        }
        self.nodes.push(node);
        self.first_node + self.nodes.len() - 1
    }

    /// Drops the values that the nodes from `start` on made for each other: they will be recomputed.
    fn end_checkpoint(&mut self, start: usize) {
        for node in &mut self.nodes[start - self.first_node..] {
            for operand in &mut node.operands {
                if operand.node.is_some_and(|id| id >= start) {
                    operand.value = None;
                }
            }
        }
        self.checkpoints.push(start..self.first_node + self.nodes.len());
    }
}

/// A finished forward pass, consumed from its end.
struct Record<B: TrainBackend> {
    nodes: Vec<Node<B>>,
    first: usize,
    checkpoints: Vec<Range<usize>>,
}

impl<B: TrainBackend> Record<B> {
    fn walk(&mut self, inner: &mut B, gradients: &mut Gradients<B>) -> Result<(), BackendError> {
        while let Some(last) = self.nodes.len().checked_sub(1) {
            let id = self.first + last;
            if let Some(checkpoint) = self.checkpoints.pop_if(|checkpoint| checkpoint.contains(&id)) {
                self.recompute(inner, checkpoint);
            }
            let Some(node) = self.nodes.pop() else { break };
            if let Some(dy) = gradients.take(id) {
                node.operation.backward(inner, node.operands, dy, gradients)?;
            }
        }
        Ok(())
    }

    /// Gives the nodes of a checkpoint the operands back that their backward needs.
    fn recompute(&mut self, inner: &mut B, checkpoint: Range<usize>) {
        let first = self.first;
        let nodes = &mut self.nodes[checkpoint.start - first..];
        let inside = |operand: &Operand<B>| operand.node.and_then(|id| id.checked_sub(checkpoint.start));
        // Whether a result is needed, by a backward or to recompute another one that is.
        let mut needed = vec![false; nodes.len()];
        for (index, node) in nodes.iter().enumerate().rev() {
            if needed[index] || node.operation.needs_operands() {
                node.operands.iter().filter_map(inside).for_each(|operand| needed[operand] = true);
            }
        }
        let mut results: Vec<Option<B::Tensor>> = Vec::with_capacity(nodes.len());
        for (node, needed) in nodes.iter_mut().zip(needed) {
            for operand in &mut node.operands {
                if let Some(result) = inside(operand) {
                    operand.value.clone_from(&results[result]);
                }
            }
            let operands =
                || node.operands.iter().map(|operand| operand.value.clone().expect("kept or made"));
            results.push(needed.then(|| node.operation.forward(inner, operands().collect::<Vec<_>>())));
            if !node.operation.needs_operands() {
                node.operands.iter_mut().for_each(|operand| operand.value = None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, DType, Reference, WeightData};

    /// The values that two layers of `swiglu(x, x)` leave on the record.
    fn kept(layer: impl Fn(&mut Tape<Reference>, TapeTensor<Reference>) -> TapeTensor<Reference>) -> usize {
        let mut tape = Tape::new(Reference::new(), Trainable::All);
        tape.recompute = true;
        let table = WeightData::new(DType::F32, vec![1, 2], vec![0; 8].into()).expect("two values");
        let table = tape.load(table).expect("plain values");
        let mut x = tape.embed(&table, &[0]);
        for _ in 0..2 {
            x = layer(&mut tape, x);
        }
        tape.nodes.iter().flat_map(|node| &node.operands).filter(|operand| operand.value.is_some()).count()
    }

    fn layer(tape: &mut Tape<Reference>, x: TapeTensor<Reference>) -> TapeTensor<Reference> {
        let y = tape.swiglu(&x, &x);
        let y = tape.swiglu(&y, &y);
        tape.swiglu(&y, &y)
    }

    #[test]
    fn a_checkpoint_keeps_only_what_comes_from_outside() {
        assert_eq!(kept(layer), 12);
        assert_eq!(kept(|tape, x| tape.checkpoint(|tape| layer(tape, x))), 4);
    }
}
