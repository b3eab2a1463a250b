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

/// Bytes of the values that live at once in a step of `rows` rows which wants the logits of `wanted`
/// of them, all in f32: the residual stream with its norm and the widest part of a layer, or the
/// logits, which are in memory twice when they are handed out. An estimate: what a backend keeps
/// beside (quantised copies of its inputs) is not in it.
pub fn step_bytes(config: &ModelConfig, rows: usize, wanted: usize) -> usize {
    let attention = 2 * (config.heads + config.kv_heads) * config.head_dim;
    let experts = config.experts.as_ref().map_or(0, |e| (1 + e.used) * e.feed_forward_length);
    // Gate, up, and their product.
    let feed_forward = 3 * config.feed_forward_length.max(experts);
    let row = 3 * config.embedding_length + attention.max(feed_forward);
    let values = rows.saturating_mul(row).saturating_add(wanted.saturating_mul(2 * config.vocabulary_size));
    values.saturating_mul(size_of::<f32>())
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
