#![deny(unsafe_code)]
//! Model files: GGUF, Hugging Face safetensors and Meta's checkpoints behind one view.
//!
//! [`Checkpoint`] opens any of them and gives a validated [`ModelConfig`] and weights under
//! canonical names ([`WeightName`]) in one canonical layout, GGUF's: matrices `[out, in]`, query
//! and key rows in interleaved-pair order, experts as three tensors. The formats differ from it in
//! the ways that [`layout`] lists, and nowhere else. [`Adapter`] is the same for LoRA adapters. Files
//! are memory-mapped; nothing is allocated by a number read from a file that was not checked against
//! the file's size.

mod adapter;
mod checkpoint;
mod config;
mod convert;
mod encode;
mod error;
mod files;
pub mod gguf;
mod gguf_model;
mod hugging_face;
mod importance;
mod json;
pub mod layout;
mod meta;
mod mmap;
mod names;
mod packed;
mod placement;
mod progress;
mod quantise;
pub mod recipes;
mod rope;
pub mod tokenizer;

pub use adapter::{Adapter, AdapterMatrix, AdapterWeights};
pub use checkpoint::{Checkpoint, Format, WeightInfo};
pub use config::{Architecture, ConfigError, Experts, ModelConfig, Temperature};
pub use convert::{ConvertOptions, Converted, FloatType, convert};
pub use error::FormatError;
pub use files::{AtomicFile, check_target, sync_folder, write_whole};
pub use importance::Importance;
pub use names::{PARTS, Part, PartNames, WeightName};
pub use packed::PackedFile;
pub use placement::Placement;
pub use progress::Progress;
pub use quantise::{QuantiseOptions, Quantised, QuantisedTensor, quantise};
pub use recipes::{Recipe, RecipeContext};
pub use rope::{Rope, RopeScaling};
