//! What a model needs to remember: the layout of its keys and values, and the memory that takes.

use alti_formats::ModelConfig;
use alti_tensor::{CacheGroup, CacheLayout, KvDType, PAGE_TOKENS};

/// Each layer's group in the cache and its index in the group. Layers with full attention form one
/// group; layers that attend in chunks another, because their old chunks can be forgotten.
pub fn cache_groups(config: &ModelConfig) -> Vec<(usize, usize)> {
    let chunked: Vec<bool> = (0..config.layers).map(|layer| config.layer_chunk(layer).is_some()).collect();
    let both = chunked.contains(&true) && chunked.contains(&false);
    let mut sizes = [0, 0];
    chunked
        .into_iter()
        .map(|chunked| {
            let group = usize::from(both && chunked);
            sizes[group] += 1;
            (group, sizes[group] - 1)
        })
        .collect()
}

/// The cache that holds `tokens` tokens of one sequence (or of several that sum to as many whole
/// pages).
pub fn cache_layout(config: &ModelConfig, tokens: usize, dtype: KvDType) -> CacheLayout {
    let layers = cache_groups(config);
    let groups = layers.iter().map(|&(group, _)| group).max().map_or(0, |last| last + 1);
    let pages = tokens.div_ceil(PAGE_TOKENS);
    let size = |group| layers.iter().filter(|layer| layer.0 == group).count();
    CacheLayout {
        groups: (0..groups).map(|group| CacheGroup { layers: size(group), pages }).collect(),
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        dtype,
    }
}
