//! Which models of the catalogue a machine holds.

use alti_hub::catalogue::{CATALOGUE, Entry};
use serde::Serialize;

/// A size of the catalogue in a usual quantisation.
#[derive(Debug, Serialize)]
pub struct ModelSpeed {
    /// The catalogue's name.
    pub model: &'static str,
    /// The recipe's name.
    pub quantization: &'static str,
    /// Bytes of its weights.
    pub bytes: u64,
    /// If nothing took time but reading the weights that a token uses.
    pub tokens_per_second_at_most: f64,
}

/// What of the catalogue fits in memory, one row a size and quantisation, smallest first, and how fast it can be with so
/// many bytes read a second.
pub fn speeds(available: u64, bandwidth: f64) -> Vec<ModelSpeed> {
    /// Bits a weight takes on average in models of usual sizes.
    const QUANTIZATIONS: [(&str, f64); 2] = [("Q4_K_M", 4.85), ("Q8_0", 8.5)];
    let mut sizes: Vec<&Entry> = CATALOGUE.iter().filter(|entry| !entry.vision).collect();
    // Of models of one size, one that is published quantised.
    sizes.sort_by_key(|entry| (entry.parameters, entry.gguf_repo.is_none()));
    sizes.dedup_by_key(|entry| entry.parameters);
    let row = |entry: &Entry, (quantization, bits): (&'static str, f64)| ModelSpeed {
        model: entry.name,
        quantization,
        bytes: (entry.parameters as f64 * bits / 8.0) as u64,
        tokens_per_second_at_most: bandwidth / (entry.active_parameters as f64 * bits / 8.0),
    };
    let rows = sizes.into_iter().flat_map(|entry| QUANTIZATIONS.map(|quantization| row(entry, quantization)));
    rows.filter(|row| row.bytes <= available).collect()
}

/// The largest model whose weights take no more, in the most exact quantisation of it that does.
pub fn largest(available: u64) -> Option<ModelSpeed> {
    speeds(available, 1.0).pop()
}
