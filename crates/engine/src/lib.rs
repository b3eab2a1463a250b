#![forbid(unsafe_code)]
//! One running model: from a request's tokens to the answer's. Sampling and the end of an answer
//! are here; what the model computes is `alti-models`, what text is `alti-text`.

mod error;
pub mod sampling;
pub mod stop;

pub use error::EngineError;
