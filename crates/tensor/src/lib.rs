#![forbid(unsafe_code)]
//! Dtypes, block-quantised formats, the [`Backend`] seam and its scalar [`Reference`].

pub mod backend;
pub mod dtype;
pub mod plan;
pub mod quant;
pub mod reference;
pub mod weight;

pub use backend::{
    AttentionShape, Backend, BackendError, CacheGroup, CacheLayer, CacheLayout, Experts, KvDType, PAGE_TOKENS,
};
pub use dtype::DType;
pub use plan::{Row, RowPlan, Span};
pub use reference::Reference;
pub use weight::{WeightData, WeightShapeError};
