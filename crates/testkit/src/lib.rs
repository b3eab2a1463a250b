#![forbid(unsafe_code)]
//! What tests of several crates share: tiny models with golden outputs, and what hostile files are put through.

pub mod adapters;
pub mod conformance;
pub mod hand_over;
pub mod hostile;
pub mod memory;
pub mod parity;

use std::path::PathBuf;

/// The folder of the tiny model `name` (`llama2-mha`, `llama4-scout`, ...): a Hugging Face checkpoint with
/// `golden.safetensors` beside it. `goldens/README.md` says what is in it.
///
/// # Panics
/// When there is no such model.
pub fn golden(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name);
    assert!(folder.is_dir(), "there is no golden model {name}");
    folder
}

/// The folder of the LoRA adapter `name` (`llama3-plain`, ...): what PEFT saves, with the logits that PEFT computes in
/// `golden.safetensors` beside it. `adapters/make_adapters.py` made it.
///
/// # Panics
/// When there is no such adapter.
pub fn adapter(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("adapters").join(name);
    assert!(folder.is_dir(), "there is no adapter {name}");
    folder
}

/// Every tiny adapter, with the tiny model it is for.
pub const ADAPTERS: [(&str, &str); 3] =
    [("llama3-plain", "llama3-gqa"), ("llama3-patterns", "llama3-gqa"), ("llama4-scout", "llama4-scout")];

/// Every tiny model, in the order of `goldens/README.md`.
pub const GOLDENS: [&str; 6] =
    ["llama2-mha", "llama3-gqa", "llama31-scaled", "llama32-tied", "llama4-scout", "llama4-maverick"];
