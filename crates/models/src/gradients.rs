//! The language-modelling loss of a model, and its gradients: where a forward pass becomes training.

use crate::{Llama, Step};
use alti_formats::WeightName;
use alti_tensor::{Backend, BackendError, RowPlan, Tape, TapeWeight, TrainBackend};

impl<W> Llama<W> {
    /// The mean cross-entropy, `[1, 1]`, of each token of the sequences given those before it; the
    /// first of a sequence is given and not predicted.
    ///
    /// # Panics
    /// When there is no token to predict: no sequence has two.
    pub fn loss<B: Backend<Weight = W>>(&self, b: &mut B, sequences: &[impl AsRef<[u32]>]) -> B::Tensor {
        let sequences = || sequences.iter().map(AsRef::as_ref).filter(|tokens| tokens.len() > 1);
        let given: Vec<u32> = sequences().flat_map(|tokens| &tokens[..tokens.len() - 1]).copied().collect();
        let targets: Vec<u32> = sequences().flat_map(|tokens| &tokens[1..]).copied().collect();
        assert!(!targets.is_empty(), "a loss needs a sequence of at least two tokens");
        let rows = RowPlan::fresh(&sequences().map(|tokens| tokens.len() - 1).collect::<Vec<_>>());
        let wanted: Vec<usize> = (0..rows.len()).collect();
        let logits =
            self.logits(b, &Step { tokens: &given, rows: &rows, cache: None, adapters: &[] }, &wanted);
        b.cross_entropy(&logits, &targets)
    }
}

/// A loss and its gradient to every trainable weight.
#[derive(Clone, Debug)]
pub struct Gradients<T> {
    /// The loss.
    pub loss: T,
    /// In model order, each of its weight's shape, row-major.
    pub weights: Vec<(WeightName, Vec<T>)>,
}

impl<B: TrainBackend> Llama<TapeWeight<B>> {
    /// The loss of the sequences and its gradients, which are also added to the weights' accumulators
    /// for [`Tape::optimise`]: what is returned is the sum of all since the last update.
    ///
    /// # Errors
    /// When the step fails or there is no memory for the gradients.
    ///
    /// # Panics
    /// As [`Llama::loss`].
    pub fn gradients(
        &self,
        tape: &mut Tape<B>,
        sequences: &[impl AsRef<[u32]>],
    ) -> Result<Gradients<B::Element>, BackendError> {
        let loss = self.loss(tape, sequences);
        tape.backward(&loss)?;
        let mut values = Vec::new();
        tape.fetch(&loss, &mut values)?;
        let weights = self.weights().into_iter();
        let gradient = |(name, weight): (_, &TapeWeight<B>)| Some((name, weight.gradient(tape.inner())?));
        Ok(Gradients { loss: values[0], weights: weights.filter_map(gradient).collect() })
    }
}
