//! GGUF, the single-file format of llama.cpp
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): metadata, tensor headers, data.
//! Its tensor layout is this crate's canonical layout, so that weights are borrowed from the map.

mod config;
mod metadata;
mod read;
mod split;
mod write;

pub use metadata::{ArrayView, GgufMetadata, Value, ValueType};
pub use read::{GgufFile, GgufTensor};
pub use write::{TensorPlan, WriteOptions, write_gguf};

use alti_tensor::DType;

pub(crate) use config::{ROPE_FREQS, config_metadata, read_config};
pub(crate) use split::SplitGguf;

/// The first four bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensor data where the file names none, in bytes.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// Dimensions of a tensor at most.
pub(crate) const MAX_DIMENSIONS: usize = 4;

/// The name of a `ggml_type` id in messages, also of those that are not read.
pub(crate) fn type_name(id: u32) -> String {
    const OTHERS: [(u32, &str); 18] = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ];
    match (DType::from_ggml_id(id), OTHERS.iter().find(|(other, _)| *other == id)) {
        (Some(dtype), _) => dtype.name().to_owned(),
        (None, Some((_, name))) => (*name).to_owned(),
        (None, None) => format!("number {id}"),
    }
}
