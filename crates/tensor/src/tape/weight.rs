//! Weights of a tape: packed for the forward pass, with plain values and a gradient if trainable.

use crate::{BackendError, TrainBackend};
use std::sync::{Arc, Mutex, MutexGuard};

/// A weight loaded through a tape. Clones are the same weight, so that one with two uses (tied
/// embeddings) receives the sum of both gradients and is updated once.
pub struct TapeWeight<B: TrainBackend>(Kind<B>);

enum Kind<B: TrainBackend> {
    Frozen(B::Weight),
    Trained(Arc<Mutex<Trained<B>>>),
}

struct Trained<B: TrainBackend> {
    param: B::Param,
    /// What `pack` makes of `param`.
    packed: B::Weight,
    gradient: Option<B::Param>,
}

impl<B: TrainBackend> Clone for TapeWeight<B> {
    fn clone(&self) -> Self {
        TapeWeight(match &self.0 {
            Kind::Frozen(weight) => Kind::Frozen(weight.clone()),
            Kind::Trained(trained) => Kind::Trained(trained.clone()),
        })
    }
}

impl<B: TrainBackend> TapeWeight<B> {
    /// A weight that stays as it is.
    pub fn frozen(weight: B::Weight) -> Self {
        TapeWeight(Kind::Frozen(weight))
    }

    /// A weight that receives gradients.
    ///
    /// # Errors
    /// When there is no memory for the packed form.
    pub fn trainable(backend: &B, param: B::Param) -> Result<Self, BackendError> {
        let packed = backend.pack(&param)?;
        Ok(TapeWeight(Kind::Trained(Arc::new(Mutex::new(Trained { param, packed, gradient: None })))))
    }

    /// Whether it receives gradients.
    pub fn is_trainable(&self) -> bool {
        matches!(self.0, Kind::Trained(_))
    }

    /// The form that the forward pass uses.
    pub fn packed(&self) -> B::Weight {
        match &self.0 {
            Kind::Frozen(weight) => weight.clone(),
            Kind::Trained(trained) => lock(trained).packed.clone(),
        }
    }

    /// The plain values, row-major; none if it is frozen.
    pub fn values(&self, backend: &B) -> Option<Vec<B::Element>> {
        let mut values = Vec::new();
        backend.read_param(&self.trained()?.param, &mut values);
        Some(values)
    }

    /// Replaces the plain values, row-major, and packs them; nothing if it is frozen.
    ///
    /// # Errors
    /// When there is no memory for the packed form.
    ///
    /// # Panics
    /// When there are too few or too many.
    pub fn set_values(&self, backend: &B, values: &[B::Element]) -> Result<(), BackendError> {
        if let Some(mut trained) = self.trained() {
            backend.write_param(&mut trained.param, values);
            trained.packed = backend.pack(&trained.param)?;
        }
        Ok(())
    }

    /// The gradient that has been accumulated, row-major; none if there is none: the weight is frozen,
    /// or had no part in a loss since the last update.
    pub fn gradient(&self, backend: &B) -> Option<Vec<B::Element>> {
        let mut values = Vec::new();
        backend.read_param(self.trained()?.gradient.as_ref()?, &mut values);
        Some(values)
    }

    fn trained(&self) -> Option<MutexGuard<'_, Trained<B>>> {
        match &self.0 {
            Kind::Frozen(_) => None,
            Kind::Trained(trained) => Some(lock(trained)),
        }
    }

    /// Takes the accumulator out, zeros if there is none yet; none if the weight is frozen.
    pub(super) fn take_gradient(&self, backend: &B) -> Result<Option<B::Param>, BackendError> {
        let Some(mut trained) = self.trained() else { return Ok(None) };
        match trained.gradient.take() {
            Some(gradient) => Ok(Some(gradient)),
            None => backend.zeros_like(&trained.param).map(Some),
        }
    }

    pub(super) fn put_gradient(&self, gradient: Option<B::Param>) {
        if let Some(mut trained) = self.trained() {
            trained.gradient = gradient;
        }
    }

    /// Lets `update(parameter, gradient)` run if there is a gradient, and drops that; whether it was.
    pub(super) fn update(&self, update: impl FnOnce(&mut B::Param, &B::Param)) -> bool {
        let Some(mut trained) = self.trained() else { return false };
        let Some(gradient) = trained.gradient.take() else { return false };
        update(&mut trained.param, &gradient);
        true
    }

    /// Packs the values again after an update.
    pub(super) fn pack(&self, backend: &B) -> Result<(), BackendError> {
        if let Some(mut trained) = self.trained() {
            trained.packed = backend.pack(&trained.param)?;
        }
        Ok(())
    }
}

fn lock<B: TrainBackend>(trained: &Mutex<Trained<B>>) -> MutexGuard<'_, Trained<B>> {
    trained.lock().expect("no panic while the lock is held")
}
