#![forbid(unsafe_code)]
//! Dtypes, block-quantised formats, the [`Backend`](backend) seam and its scalar reference.

pub mod dtype;
pub mod quant;
pub mod weight;

pub use dtype::DType;
pub use weight::{WeightData, WeightShapeError};
