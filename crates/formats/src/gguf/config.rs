//! The model's configuration in GGUF metadata, as llama.cpp's converter writes it. What llama.cpp
//! hard-codes for Llama 4 (chunk, temperature, which layers have rotary embedding) is the default
//! where a file does not say; files written here do say, under llama.cpp's own key names where it
//! has some.

use super::metadata::{GgufMetadata, Value};
use super::split::SplitGguf;
use crate::FormatError;
use crate::config::{Architecture, Experts, ModelConfig, Temperature, check_layers, layers_of_step};
use crate::error::shown;
use crate::names::{Part, WeightName};
use crate::rope::{Rope, RopeScaling, yarn_attention};
use crate::tokenizer::{END_TOKENS, TokenKind};
use alti_tensor::DType;
use std::iter::repeat;

/// The tensor of Llama 3's rope scaling: one divisor per frequency.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Chunk, and floor of the attention temperature, of every released Llama 4.
const LLAMA4_CHUNK: u64 = 8192;
const LLAMA4_ATTENTION_SCALE: f32 = 0.1;
/// Every fourth layer of Llama 4 goes without rotary embedding.
const LLAMA4_PATTERN: u64 = 4;
/// The expert count of Llama 4 Maverick, the released model without QK norm.
const MAVERICK_EXPERTS: usize = 128;

/// Reads keys of one architecture.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    architecture: Architecture,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.gguf_name())
    }

    fn size(&self, name: &str) -> Result<Option<usize>, FormatError> {
        let value = self.metadata.unsigned(&self.key(name))?;
        value.map(|value| usize::try_from(value).or_else(|_| self.bad(name, "is too large"))).transpose()
    }

    fn required(&self, name: &str) -> Result<usize, FormatError> {
        match self.size(name)? {
            Some(value) => Ok(value),
            None => self.bad(name, "is missing"),
        }
    }

    fn float(&self, name: &str) -> Result<Option<f32>, FormatError> {
        self.metadata.float(&self.key(name))
    }

    fn bad<T>(&self, name: &str, problem: impl Into<String>) -> Result<T, FormatError> {
        Err(FormatError::field(self.metadata.path(), self.key(name), problem))
    }
}

/// The configuration of an opened model.
pub(crate) fn read_config(file: &SplitGguf) -> Result<ModelConfig, FormatError> {
    let metadata = file.metadata();
    let architecture = read_architecture(metadata)?;
    let keys = Keys { metadata, architecture };
    let layers = keys.required("block_count")?;
    let embedding_length = keys.required("embedding_length")?;
    let heads = keys.required("attention.head_count")?;
    check_layers(layers).or_else(|e| keys.bad("block_count", e.problem))?;
    if heads == 0 {
        return keys.bad("attention.head_count", "is 0");
    }
    let head_dim = keys.size("attention.key_length")?.unwrap_or(embedding_length / heads);
    for name in ["attention.value_length", "rope.dimension_count"] {
        let length = keys.size(name)?.unwrap_or(head_dim);
        if length != head_dim {
            return keys.bad(name, format!("is {length}, must be the head size, {head_dim}"));
        }
    }
    let embedding = WeightName::global(Part::TokenEmbedding).gguf();
    let vocabulary_size = match file.tensor(&embedding) {
        Some((tensor, _)) => tensor.shape[0],
        None => return Err(FormatError::tensor(metadata.path(), &embedding, "is missing")),
    };
    let norm_epsilon = match keys.float("attention.layer_norm_rms_epsilon")? {
        Some(epsilon) => epsilon,
        None => return keys.bad("attention.layer_norm_rms_epsilon", "is missing"),
    };
    let mut config = ModelConfig {
        architecture,
        vocabulary_size,
        embedding_length,
        layers,
        heads,
        kv_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        feed_forward_length: keys.required("feed_forward_length")?,
        norm_epsilon,
        context_length: keys.required("context_length")?,
        tied_embeddings: file.tensor(&WeightName::global(Part::Output).gguf()).is_none(),
        rope: read_rope(&keys, file, head_dim)?,
        experts: None,
        no_rope: vec![false; layers],
        attention_chunk: None,
        qk_norm: false,
        temperature: None,
        bos: token_id(metadata, "tokenizer.ggml.bos_token_id")?,
        eos: read_eos(metadata)?,
    };
    match architecture {
        Architecture::Llama => {
            if let Some(count @ 1..) = keys.size("expert_count")? {
                return keys
                    .bad("expert_count", format!("is {count}: Mixtral-like models are not supported"));
            }
        }
        Architecture::Llama4 => read_llama4(&keys, &mut config)?,
    }
    config.validate().map_err(|e| FormatError::field(metadata.path(), e.field, e.problem))?;
    Ok(config)
}

fn read_architecture(metadata: &GgufMetadata) -> Result<Architecture, FormatError> {
    const KEY: &str = "general.architecture";
    match metadata.string(KEY)? {
        Some("llama") => Ok(Architecture::Llama),
        Some("llama4") => Ok(Architecture::Llama4),
        Some(other) => {
            let problem = format!("is {}; llama and llama4 are supported", shown(other));
            Err(FormatError::field(metadata.path(), KEY, problem))
        }
        None => Err(FormatError::field(metadata.path(), KEY, "is missing")),
    }
}

fn token_id(metadata: &GgufMetadata, key: &str) -> Result<Option<u32>, FormatError> {
    let id = metadata.unsigned(key)?;
    // llama.cpp's "none" is -1 kept in an unsigned field.
    Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX))
}

fn read_eos(metadata: &GgufMetadata) -> Result<Vec<u32>, FormatError> {
    let mut eos = Vec::new();
    for name in ["eos", "eot", "eom"] {
        eos.extend(token_id(metadata, &format!("tokenizer.ggml.{name}_token_id"))?);
    }
    if let Some(tokens) = metadata.array("tokenizer.ggml.tokens")? {
        // Ordinary text may be spelled like an end of another model.
        let kinds = metadata.array("tokenizer.ggml.token_type")?;
        let kinds = kinds.into_iter().flat_map(|kinds| kinds.integers()).map(Some).chain(repeat(None));
        let spelled = tokens.byte_strings().zip(kinds).zip(0u32..).filter(|((text, kind), _)| {
            *kind != Some(TokenKind::Normal as i64) && END_TOKENS.iter().any(|end| end.as_bytes() == *text)
        });
        eos.extend(spelled.map(|(_, id)| id));
    }
    let mut seen = std::collections::HashSet::new();
    eos.retain(|id| seen.insert(*id));
    Ok(eos)
}

fn read_rope(keys: &Keys<'_>, file: &SplitGguf, head_dim: usize) -> Result<Rope, FormatError> {
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let original = match keys.size("rope.scaling.original_context_length")? {
        Some(length) => u32::try_from(length).ok(),
        None => None,
    };
    let factor = match keys.float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.float("rope.scale_linear")?,
    };
    let kind = keys.metadata.string(&keys.key("rope.scaling.type"))?;
    let attention_factor = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
    if attention_factor != 1.0 && (kind != Some("yarn") || factor.is_none_or(|factor| factor == 1.0)) {
        let problem = format!("is {attention_factor}, which is supported with YaRN only");
        return keys.bad("rope.scaling.attn_factor", problem);
    }
    if let Some(divisors) = read_divisors(file)? {
        let recognised = Rope::recognise_llama3(theta, head_dim, &divisors, original);
        return Ok(Rope { theta, scaling: recognised.unwrap_or(RopeScaling::Divisors(divisors)) });
    }
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None, None) => RopeScaling::None,
        (_, Some(1.0)) => RopeScaling::None,
        (Some("linear") | None, Some(factor)) => RopeScaling::Linear { factor },
        (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
            factor,
            original_context: match original {
                Some(original) => original,
                None => return keys.bad("rope.scaling.original_context_length", "is missing"),
            },
            beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            // llama.cpp computes YaRN's own factor, whatever `yarn_attn_factor` says, and multiplies
            // by this key (`llama_context`'s constructor).
            attention_factor: (attention_factor != 1.0).then(|| attention_factor * yarn_attention(factor)),
        },
        (Some(kind), _) => {
            return keys.bad("rope.scaling.type", format!("is {}, which is not supported", shown(kind)));
        }
    };
    Ok(Rope { theta, scaling })
}

fn read_divisors(file: &SplitGguf) -> Result<Option<Vec<f32>>, FormatError> {
    let Some((tensor, data)) = file.tensor(ROPE_FREQS) else { return Ok(None) };
    if tensor.dtype != Some(DType::F32) || tensor.shape.len() != 1 {
        return Err(FormatError::tensor(
            file.metadata().path(),
            ROPE_FREQS,
            "is not a vector of 32-bit floats",
        ));
    }
    Ok(Some(data.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()))
}

fn read_llama4(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), FormatError> {
    let step = keys.required("interleave_moe_layer_step")?;
    let count = keys.size("expert_count")?.unwrap_or(0);
    if count > 0 && step > 0 {
        config.experts = Some(Experts {
            count,
            used: keys.size("expert_used_count")?.unwrap_or(1),
            feed_forward_length: keys.required("expert_feed_forward_length")?,
            layers: layers_of_step(step, config.layers),
        });
    }
    let qk_norm = keys.metadata.boolean(&keys.key("attention.qk_norm"))?;
    config.qk_norm = qk_norm.unwrap_or(count != MAVERICK_EXPERTS);
    let chunk = keys.size("attention.sliding_window")?.unwrap_or(LLAMA4_CHUNK as usize);
    if chunk == 0 {
        // llama.cpp's mark of a model with full attention and rotary embedding in every layer.
        return Ok(());
    }
    config.attention_chunk = Some(chunk);
    let pattern = keys.size("attention.sliding_window_pattern")?.unwrap_or(LLAMA4_PATTERN as usize);
    config.no_rope = layers_of_step(pattern, config.layers);
    let floor_scale = keys.size("attention.temperature_length")?.unwrap_or(LLAMA4_CHUNK as usize) as f32;
    let attention_scale = keys.float("attention.temperature_scale")?.unwrap_or(LLAMA4_ATTENTION_SCALE);
    config.temperature = (attention_scale != 0.0).then_some(Temperature { floor_scale, attention_scale });
    Ok(())
}

/// The metadata that [`read_config`] reads back, and that llama.cpp wants.
///
/// # Errors
/// What the format cannot say about the model.
pub(crate) fn config_metadata(config: &ModelConfig) -> Result<Vec<(String, Value)>, String> {
    let name = config.architecture.gguf_name();
    let size =
        |value: usize| u32::try_from(value).map(Value::U32).map_err(|_| format!("{value} is too large"));
    let mut pairs: Vec<(&str, Value)> = vec![
        ("block_count", size(config.layers)?),
        ("context_length", size(config.context_length)?),
        ("embedding_length", size(config.embedding_length)?),
        ("feed_forward_length", size(config.feed_forward_length)?),
        ("attention.head_count", size(config.heads)?),
        ("attention.head_count_kv", size(config.kv_heads)?),
        ("rope.freq_base", Value::F32(config.rope.theta)),
        ("attention.layer_norm_rms_epsilon", Value::F32(config.norm_epsilon)),
        ("attention.key_length", size(config.head_dim)?),
        ("attention.value_length", size(config.head_dim)?),
        ("vocab_size", size(config.vocabulary_size)?),
        ("rope.dimension_count", size(config.head_dim)?),
    ];
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Divisors(_) => {}
        RopeScaling::Linear { factor } => {
            pairs.push(("rope.scaling.type", Value::String("linear".into())));
            pairs.push(("rope.scaling.factor", Value::F32(*factor)));
        }
        // The divisors go into a tensor; only which context they were made for would be lost.
        RopeScaling::Llama3 { original_context, .. } => {
            pairs.push(("rope.scaling.original_context_length", Value::U32(*original_context)));
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
            pairs.push(("rope.scaling.type", Value::String("yarn".into())));
            pairs.push(("rope.scaling.factor", Value::F32(*factor)));
            pairs.push(("rope.scaling.original_context_length", Value::U32(*original_context)));
            pairs.push(("rope.scaling.yarn_beta_fast", Value::F32(*beta_fast)));
            pairs.push(("rope.scaling.yarn_beta_slow", Value::F32(*beta_slow)));
            let over_own = |given: f32| Value::F32(given / yarn_attention(*factor));
            pairs.extend(attention_factor.map(|given| ("rope.scaling.attn_factor", over_own(given))));
        }
    }
    if config.architecture == Architecture::Llama4 {
        pairs.extend(llama4_metadata(config)?);
    }
    Ok(pairs.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)).collect())
}

fn llama4_metadata(config: &ModelConfig) -> Result<Vec<(&'static str, Value)>, String> {
    let size =
        |value: usize| u32::try_from(value).map(Value::U32).map_err(|_| format!("{value} is too large"));
    let step = config.moe_layer_step().ok_or("its mixture-of-experts layers are not every n-th layer")?;
    let mut pairs = vec![("interleave_moe_layer_step", size(step)?)];
    let experts = config.experts.as_ref().filter(|_| step > 0);
    if let Some(experts) = experts {
        pairs.push(("expert_count", size(experts.count)?));
        pairs.push(("expert_used_count", size(experts.used)?));
    }
    let width = experts.map_or(config.feed_forward_length, |experts| experts.feed_forward_length);
    pairs.push(("expert_feed_forward_length", size(width)?));
    let assumed = experts.is_none_or(|experts| experts.count != MAVERICK_EXPERTS);
    if config.qk_norm != assumed {
        pairs.push(("attention.qk_norm", Value::Bool(config.qk_norm)));
    }
    let pattern = config.no_rope_layer_step().ok_or("its layers without RoPE are not every n-th layer")?;
    if pattern == 0 && config.attention_chunk.is_none() {
        pairs.push(("attention.sliding_window", Value::U32(0)));
        return Ok(pairs);
    }
    // A chunk as long as the context is no chunk; 0 would say that every layer has RoPE.
    pairs.push(("attention.sliding_window", size(config.attention_chunk.unwrap_or(config.context_length))?));
    pairs.push(("attention.sliding_window_pattern", size(pattern)?));
    let temperature =
        config.temperature.unwrap_or(Temperature { floor_scale: LLAMA4_CHUNK as f32, attention_scale: 0.0 });
    if temperature.floor_scale.fract() != 0.0 {
        return Err(format!("its attention temperature steps every {} positions", temperature.floor_scale));
    }
    pairs.push(("attention.temperature_length", size(temperature.floor_scale as usize)?));
    pairs.push(("attention.temperature_scale", Value::F32(temperature.attention_scale)));
    Ok(pairs)
}
