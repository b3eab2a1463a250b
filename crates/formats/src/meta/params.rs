//! `params.json`. It leaves much to Meta's model code: hidden widths follow from a formula, the
//! context is not there at all. Where the weights themselves say something (widths, vocabulary,
//! tied embeddings), they are believed; what remains has the defaults of Meta's code for the
//! model's generation.

use super::shards::MetaStore;
use crate::FormatError;
use crate::config::{Architecture, Experts, ModelConfig, Temperature, check_layers, layers_of_step};
use crate::error::shown;
use crate::files::read_small_json;
use crate::json::{Fields, Object, number};
use crate::names::{Part, WeightName};
use crate::rope::{Rope, RopeScaling};
use serde_json::{Value, json};
use std::path::Path;

/// Longest `params.json`.
const MAX_PARAMS: u64 = 1 << 20;
/// Context of the pre-training that Llama 3's RoPE scaling starts from; fixed in Meta's code.
const ORIGINAL_CONTEXT: u32 = 8192;

/// Tokens that begin and end a text, by vocabulary size: Meta's code has them with the tokenizer.
fn special_ids(vocabulary_size: usize) -> (Option<u32>, Vec<u32>) {
    match vocabulary_size {
        32_000 => (Some(1), vec![2]),
        128_256 => (Some(128_000), vec![128_001, 128_008, 128_009]),
        202_048 => (Some(200_000), vec![200_001, 200_007, 200_008]),
        _ => (None, Vec::new()),
    }
}

/// The context that a released model of this kind has, in tokens.
fn usual_context(architecture: Architecture, vocabulary_size: usize, scaled: bool) -> usize {
    match (architecture, scaled) {
        (Architecture::Llama4, true) => 10_485_760,
        (Architecture::Llama4, false) => 1_048_576,
        (Architecture::Llama, true) => 131_072,
        (Architecture::Llama, false) if vocabulary_size == 32_000 => 4096,
        (Architecture::Llama, false) => 8192,
    }
}

/// The usual factor and high-frequency factor where `use_scaled_rope` is all that is said.
fn usual_scaling(architecture: Architecture) -> (f32, f32) {
    match architecture {
        Architecture::Llama => (8.0, 4.0),
        Architecture::Llama4 => (16.0, 1.0),
    }
}

/// Reads `params.json` in `folder`, with the opened weights.
pub(crate) fn read_config(folder: &Path, store: &MetaStore) -> Result<ModelConfig, FormatError> {
    let path = folder.join("params.json");
    let root: Object = read_small_json(&path, MAX_PARAMS)?;
    let fields = Fields { path: &path, object: &root };
    refuse_unsupported(&fields)?;
    let llama4 = ["moe_args", "nope_layer_interval", "attention_chunk_size"];
    let architecture = match llama4.iter().any(|field| fields.get(field).is_some()) {
        true => Architecture::Llama4,
        false => Architecture::Llama,
    };
    let mut config = read_common(&fields, store, architecture)?;
    if architecture == Architecture::Llama4 {
        read_llama4(&fields, store, &mut config)?;
    }
    config.validate().map_err(|e| FormatError::field(&path, e.field, e.problem))?;
    Ok(config)
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), FormatError> {
    for (field, what) in [
        ("quantization_args", "quantised Meta checkpoints are not read; take the BF16 one"),
        ("vision_chunk_size", "Llama 3.2 Vision is not supported"),
    ] {
        let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty) || value == -1;
        if fields.get(field).is_some_and(|value| !empty(value)) {
            return fields.bad(field, format!("is there: {what}"));
        }
    }
    Ok(())
}

fn read_common(
    fields: &Fields<'_>,
    store: &MetaStore,
    architecture: Architecture,
) -> Result<ModelConfig, FormatError> {
    let embedding_length = fields.required("dim")?;
    let layers = fields.required("n_layers")?;
    let heads = fields.required("n_heads")?;
    check_layers(layers).or_else(|e| fields.bad("n_layers", e.problem))?;
    if heads == 0 || embedding_length == 0 {
        return fields.bad("n_heads", format!("{heads} heads of a model of width {embedding_length}"));
    }
    let kv_heads = fields.size("n_kv_heads")?.unwrap_or(heads);
    let vocabulary_size = vocabulary_size(fields, store, embedding_length)?;
    let (bos, eos) = special_ids(vocabulary_size);
    let rope = read_rope(fields, architecture)?;
    let scaled = rope.scaling != RopeScaling::None;
    Ok(ModelConfig {
        architecture,
        vocabulary_size,
        embedding_length,
        layers,
        heads,
        kv_heads: kv_heads / store.repeated_heads(kv_heads),
        head_dim: fields.size("head_dim")?.unwrap_or(embedding_length / heads),
        feed_forward_length: dense_width(fields, store, layers)?,
        norm_epsilon: fields.float("norm_eps")?.unwrap_or(1e-5),
        context_length: fields.size("context_length")?.unwrap_or(usual_context(
            architecture,
            vocabulary_size,
            scaled,
        )),
        tied_embeddings: !store.has_own_output(),
        rope,
        experts: None,
        no_rope: vec![false; layers],
        attention_chunk: None,
        qk_norm: false,
        temperature: None,
        bos: fields.token_ids("bos_token_id")?.and_then(|ids| ids.first().copied()).or(bos),
        eos: fields.token_ids("eos_token_id")?.unwrap_or(eos),
    })
}

/// Llama 2's files say -1 and leave it to the tokenizer.
fn vocabulary_size(fields: &Fields<'_>, store: &MetaStore, dim: usize) -> Result<usize, FormatError> {
    if let Some(size) = fields.get("vocab_size").filter(|value| **value != -1) {
        let problem = format!("is {}, must be a whole number or -1", shown(&size.to_string()));
        return fields
            .size("vocab_size")
            .map(Option::unwrap_or_default)
            .or_else(|_| fields.bad("vocab_size", problem));
    }
    let name = WeightName::global(Part::TokenEmbedding).meta();
    match store.local_shape(&name) {
        Some(&[rows, columns]) if columns == dim => Ok(rows * store.ranks()),
        Some(&[rows, _]) => Ok(rows),
        _ => fields.bad("vocab_size", "is missing, and there is no tok_embeddings.weight that says it"),
    }
}

/// The hidden width of the dense layers: that of the first one, else the formula's.
fn dense_width(fields: &Fields<'_>, store: &MetaStore, layers: usize) -> Result<usize, FormatError> {
    for layer in 0..layers {
        let name = WeightName::in_layer(layer, Part::Gate);
        if let Some(rows) = store.local_shape(&name.meta()).and_then(|shape| shape.first()) {
            return Ok(rows * store.ranks());
        }
        if let Some(rows) = name.meta_fused().find_map(|name| store.local_shape(&name)?.first()) {
            return Ok(rows / 2 * store.ranks());
        }
    }
    let formula = Widths::read(fields)?;
    formula.dense().map_or_else(|| fields.bad("multiple_of", "gives no hidden width"), Ok)
}

fn read_rope(fields: &Fields<'_>, architecture: Architecture) -> Result<Rope, FormatError> {
    let default_theta = match architecture {
        Architecture::Llama => 10_000.0,
        Architecture::Llama4 => 500_000.0,
    };
    let theta = fields.float("rope_theta")?.unwrap_or(default_theta);
    if !fields.boolean("use_scaled_rope")? {
        return Ok(Rope { theta, scaling: RopeScaling::None });
    }
    let (factor, high) = usual_scaling(architecture);
    let original = fields.size("rope_original_context")?.unwrap_or(ORIGINAL_CONTEXT as usize);
    let Ok(original_context) = u32::try_from(original) else {
        return fields.bad("rope_original_context", format!("is {original}, too large"));
    };
    let scaling = RopeScaling::Llama3 {
        factor: fields.float("rope_scaling_factor")?.unwrap_or(factor),
        low: fields.float("rope_low_freq_factor")?.unwrap_or(1.0),
        high: fields.float("rope_high_freq_factor")?.unwrap_or(high),
        original_context,
    };
    Ok(Rope { theta, scaling })
}

fn read_llama4(fields: &Fields<'_>, store: &MetaStore, config: &mut ModelConfig) -> Result<(), FormatError> {
    let layers = config.layers;
    if let Some(moe) = fields.object("moe_args")? {
        let step = moe.size("interleave_moe_layer_step")?.unwrap_or(1);
        let is_moe = layers_of_step(step, layers);
        if let Some(first) = is_moe.iter().position(|&moe| moe) {
            config.experts = Some(Experts {
                count: moe.required("num_experts")?,
                used: moe.size("top_k")?.unwrap_or(1),
                feed_forward_length: expert_width(fields, store, first)?,
                layers: is_moe,
            });
        }
    }
    config.no_rope = layers_of_step(fields.size("nope_layer_interval")?.unwrap_or(0), layers);
    config.attention_chunk = fields.size("attention_chunk_size")?;
    config.qk_norm = fields.boolean("use_qk_norm")?;
    config.temperature = match fields.boolean("attn_temperature_tuning")? {
        true => Some(Temperature {
            floor_scale: fields.float("floor_scale")?.unwrap_or(8192.0),
            attention_scale: fields.float("attn_scale")?.unwrap_or(0.1),
        }),
        false => None,
    };
    Ok(())
}

/// The experts' hidden width is the shared expert's, whose matrices are never flattened.
fn expert_width(fields: &Fields<'_>, store: &MetaStore, layer: usize) -> Result<usize, FormatError> {
    let name = WeightName::in_layer(layer, Part::SharedGate);
    let names = std::iter::once(name.meta()).chain(name.meta_fused());
    let shape = names.into_iter().find_map(|name| store.local_shape(&name)?.first());
    match shape {
        Some(rows) => Ok(rows * store.ranks()),
        None => fields.bad("moe_args", format!("is there, but layer {layer} has no shared expert")),
    }
}

/// The formula of hidden widths: `h = int(2 * 4 * dim / 3)`, times the multiplier, rounded up; for
/// experts with `ffn_exp` for 4 and divided by the capacity factor plus one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Widths {
    dim: usize,
    multiple_of: usize,
    multiplier: Option<f64>,
}

impl Widths {
    fn read(fields: &Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            dim: fields.required("dim")?,
            multiple_of: fields.size("multiple_of")?.unwrap_or(256),
            multiplier: fields.get("ffn_dim_multiplier").and_then(Value::as_f64),
        })
    }

    fn round_up(&self, width: usize) -> Option<usize> {
        width.checked_next_multiple_of(self.multiple_of).filter(|_| self.multiple_of > 0)
    }

    fn scaled(&self, width: usize) -> usize {
        self.multiplier.map_or(width, |multiplier| (multiplier * width as f64) as usize)
    }

    fn dense(&self) -> Option<usize> {
        self.round_up(self.scaled(self.dim.checked_mul(8)? / 3))
    }

    fn expert(&self, ffn_exp: f64) -> Option<usize> {
        let width = (ffn_exp * self.dim as f64) as usize;
        self.round_up(self.scaled(width.checked_mul(2)? / 3))
    }

    /// Parameters whose formula gives `width`: those of a released model where some do.
    fn for_width(dim: usize, width: usize) -> Option<Self> {
        let released = [
            (None, 256),
            (Some(1.3), 1024),
            (Some(1.3), 4096),
            (Some(1.2), 4096),
            (Some(1.5), 256),
            (Some(1.0), 256),
        ];
        let released = released.map(|(multiplier, multiple_of)| Self { dim, multiple_of, multiplier });
        let own = Self::rounding(dim, width, 1 << width.trailing_zeros().min(12));
        released.into_iter().chain([own]).find(|widths| widths.dense() == Some(width))
    }

    /// A multiplier that gives `width` by rounding up to `multiple_of`, which divides it.
    fn rounding(dim: usize, width: usize, multiple_of: usize) -> Self {
        let multiplier = before_rounding(width, multiple_of) / (8 * dim / 3).max(1) as f64;
        Self { dim, multiple_of, multiplier: Some(multiplier) }
    }

    /// The `ffn_exp` with which the experts' formula gives `width`.
    fn ffn_exp(&self, width: usize) -> Option<f64> {
        let before = before_rounding(width, self.multiple_of) / self.multiplier.unwrap_or(1.0) * 1.5;
        let candidates = [before, before + 0.75, before + 1.5].map(|width| width / self.dim as f64);
        candidates.into_iter().find(|&exp| self.expert(exp) == Some(width))
    }
}

/// The middle of the numbers that become `width` when cut to an integer and rounded up to
/// `multiple_of`.
fn before_rounding(width: usize, multiple_of: usize) -> f64 {
    width as f64 - (multiple_of as f64 - 1.0) / 2.0 + 0.25
}

/// `params.json` of a model.
///
/// Fields that Meta's code does not know (`context_length`, parts of the RoPE scaling, token ids)
/// are written only where a reader would assume something else, so that usual models get the usual
/// file.
///
/// # Errors
/// What the format cannot say about the model.
pub(crate) fn params_json(config: &ModelConfig) -> Result<Value, String> {
    let (dim, width) = (config.embedding_length, config.feed_forward_length);
    let mut widths =
        Widths::for_width(dim, width).ok_or(format!("no multiplier gives a hidden width of {width}"))?;
    let mut ffn_exp = None;
    if let Some(experts) = &config.experts {
        let common = 1 << (width | experts.feed_forward_length).trailing_zeros().min(12);
        let fits = [widths, Widths::rounding(dim, width, common), Widths::rounding(dim, width, 1)];
        let found = fits.into_iter().find_map(|w| Some((w, w.ffn_exp(experts.feed_forward_length)?)));
        let (fitting, exp) = found.ok_or("no multiplier gives its experts' hidden width")?;
        (widths, ffn_exp) = (fitting, Some(exp));
        // Meta's code multiplies experts' widths without asking whether there is a multiplier.
        widths.multiplier = widths.multiplier.or(Some(1.0));
    }
    let mut root = json!({
        "dim": dim,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocabulary_size,
        "multiple_of": widths.multiple_of,
        "norm_eps": number(config.norm_epsilon),
    });
    if let Some(multiplier) = widths.multiplier {
        root["ffn_dim_multiplier"] = json!(multiplier);
    }
    if config.heads * config.head_dim != dim {
        root["head_dim"] = json!(config.head_dim);
    }
    if config.architecture == Architecture::Llama4 || config.rope.theta != 10_000.0 {
        root["rope_theta"] = number(config.rope.theta);
    }
    add_scaling(config, &mut root)?;
    if config.architecture == Architecture::Llama4 {
        add_llama4(config, ffn_exp, &mut root)?;
    }
    let scaled = config.rope.scaling != RopeScaling::None;
    if config.context_length != usual_context(config.architecture, config.vocabulary_size, scaled) {
        root["context_length"] = json!(config.context_length);
    }
    if (config.bos, config.eos.clone()) != special_ids(config.vocabulary_size) {
        root["bos_token_id"] = json!(config.bos);
        root["eos_token_id"] = json!(config.eos);
    }
    Ok(root)
}

fn add_scaling(config: &ModelConfig, root: &mut Value) -> Result<(), String> {
    let (factor, low, high, original_context) = match &config.rope.scaling {
        RopeScaling::None => return Ok(()),
        RopeScaling::Llama3 { factor, low, high, original_context } => (factor, low, high, original_context),
        RopeScaling::Linear { .. } => return Err("it has no field for linear RoPE scaling".into()),
        RopeScaling::Yarn { .. } => return Err("it has no field for YaRN".into()),
        RopeScaling::Divisors(_) => {
            return Err("no Llama 3 RoPE parameters give the divisors in its rope_freqs tensor".into());
        }
    };
    root["use_scaled_rope"] = json!(true);
    let (usual_factor, usual_high) = usual_scaling(config.architecture);
    for (field, value, usual) in [
        ("rope_scaling_factor", *factor, usual_factor),
        ("rope_low_freq_factor", *low, 1.0),
        ("rope_high_freq_factor", *high, usual_high),
    ] {
        if value != usual {
            root[field] = number(value);
        }
    }
    if *original_context != ORIGINAL_CONTEXT {
        root["rope_original_context"] = json!(original_context);
    }
    Ok(())
}

fn add_llama4(config: &ModelConfig, ffn_exp: Option<f64>, root: &mut Value) -> Result<(), String> {
    if let Some(experts) = &config.experts {
        let step = config.moe_layer_step().ok_or("its mixture-of-experts layers are not every n-th layer")?;
        root["ffn_exp"] = json!(ffn_exp);
        root["moe_args"] = json!({
            "num_experts": experts.count,
            "capacity_factor": 1.0,
            "auto_scale_F": false,
            "top_k": experts.used,
            "interleave_moe_layer_step": step,
        });
    }
    let interval = config.no_rope_layer_step().ok_or("its layers without RoPE are not every n-th layer")?;
    root["nope_layer_interval"] = if interval == 0 { Value::Null } else { json!(interval) };
    root["attention_chunk_size"] = json!(config.attention_chunk);
    root["use_qk_norm"] = json!(config.qk_norm);
    root["attn_temperature_tuning"] = json!(config.temperature.is_some());
    if let Some(temperature) = config.temperature {
        root["floor_scale"] = number(temperature.floor_scale);
        root["attn_scale"] = number(temperature.attention_scale);
    }
    // A reader knows the generation by these fields; one must not be null.
    if config.experts.is_none() && interval == 0 && config.attention_chunk.is_none() {
        return Err("a Llama 4 without experts, chunks and layers without RoPE looks like a Llama 3".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_the_released_widths() {
        for (dim, multiplier, multiple_of, width) in [
            (4096, None, 256, 11_008),
            (5120, None, 256, 13_824),
            (8192, Some(1.3), 4096, 28_672),
            (4096, Some(1.3), 1024, 14_336),
            (16_384, Some(1.2), 4096, 53_248),
            (2048, Some(1.5), 256, 8192),
            (3072, Some(1.0), 256, 8192),
        ] {
            let widths = Widths { dim, multiple_of, multiplier };
            assert_eq!(widths.dense(), Some(width));
            assert_eq!(Widths::for_width(dim, width).and_then(|found| found.dense()), Some(width));
        }
        assert_eq!(
            Widths::for_width(4096, 11_008),
            Some(Widths { dim: 4096, multiple_of: 256, multiplier: None })
        );
    }

    #[test]
    fn every_width_has_parameters() {
        for dim in [64, 96, 2048] {
            for width in [1, 2, 96, 160, 6400, 8191] {
                assert_eq!(
                    Widths::for_width(dim, width).and_then(|w| w.dense()),
                    Some(width),
                    "{dim} {width}"
                );
                let exact = Widths::rounding(dim, 160, 1);
                assert_eq!(exact.dense(), Some(160));
                assert!(exact.ffn_exp(96).is_some(), "{dim}");
            }
        }
    }
}
