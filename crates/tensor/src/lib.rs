#![forbid(unsafe_code)]
//! Dtypes, block-quantised formats, the [`Backend`] seam, its scalar [`Reference`], and the [`Tape`]
//! that trains what is written over it.

pub mod backend;
pub mod dtype;
pub mod plan;
pub mod profile;
pub mod quant;
pub mod reference;
pub mod tape;
pub mod train;
pub mod weight;

pub use backend::{
    AttentionShape, Backend, BackendError, CacheGroup, CacheLayer, CacheLayout, Experts, KvDType, LowRank,
    PAGE_TOKENS, Updates,
};
pub use dtype::DType;
pub use plan::{Row, RowPlan, Span};
pub use profile::{Profile, ProfileLine};
pub use reference::{Real, Reference};
pub use tape::{Tape, TapeTensor, TapeWeight, Trainable};
pub use train::{AdamW, Moments, TrainBackend};
pub use weight::{WeightData, WeightShapeError};
