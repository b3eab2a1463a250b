//! What is known of a model without loading it.

use serde::Serialize;

/// What is known of a model without loading it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ModelFacts {
    /// The name it is asked for by.
    pub name: String,
    /// sha256 of its file, or what else tells it from others.
    pub digest: String,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes it will take in memory, keys and values included; 0 if that is not known.
    pub memory_bytes: u64,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// Who made it, for OpenAI's `owned_by`.
    pub owner: String,
    /// File format: `gguf`, `safetensors`.
    pub format: String,
    /// Architecture: `llama`.
    pub architecture: String,
    /// Number of parameters, if known.
    pub parameters: Option<u64>,
    /// Quantisation by its usual name, if known.
    pub quantization: Option<String>,
    /// Licence identifier, if known.
    pub license: Option<String>,
    /// Tokens of the longest context it is served with, if known before loading.
    pub context: Option<usize>,
}

impl ModelFacts {
    /// The number of parameters as people write it: `135M`, `1.2B`.
    pub fn parameter_size(&self) -> String {
        match self.parameters {
            None => String::new(),
            Some(count) if count >= 1_000_000_000 => format!("{:.1}B", count as f64 / 1e9),
            Some(count) => format!("{:.0}M", count as f64 / 1e6),
        }
    }
}
