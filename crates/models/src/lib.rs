#![forbid(unsafe_code)]
//! The models, each written once over [`alti_tensor::Backend`].
//!
//! Start with [`llama`]: it is the forward pass. [`mod@build`] makes a model of a checkpoint,
//! [`mod@adapter`] adds LoRA to it, [`rotation`] knows RoPE's angles, [`memory`] what a model must remember, and [`gradients`] what
//! training wants of it.

pub mod adapter;
pub mod build;
pub mod gradients;
pub mod llama;
pub mod memory;
pub mod rotation;

pub use adapter::Adapter;
pub use gradients::Gradients;
pub use llama::{Llama, Step};

use alti_formats::{FormatError, WeightName};
use alti_tensor::BackendError;

/// Why a model could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A weight that the backend refused.
    #[error("{name}: {error}")]
    Weight {
        /// Which.
        name: WeightName,
        /// Why.
        error: BackendError,
    },
}
