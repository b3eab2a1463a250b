//! `config.json`: of transformers before 5 (`rope_theta`, `rope_scaling`) and since
//! (`rope_parameters`), for Llama and Llama 4, alone or as the `text_config` of a vision model.

use crate::FormatError;
use crate::config::{Architecture, Experts, ModelConfig, Temperature, check_layers, layers_of_step};
use crate::error::shown;
use crate::files::read_small_json;
use crate::json::{Fields, Object, number};
use crate::rope::{Rope, RopeScaling};
use serde_json::{Value, json};
use std::path::Path;

/// Longest `config.json`.
const MAX_CONFIG: u64 = 1 << 20;

/// Reads `config.json` in `folder`, and the end tokens of a `generation_config.json` beside it.
pub(crate) fn read_config(folder: &Path) -> Result<ModelConfig, FormatError> {
    let path = folder.join("config.json");
    let root: Object = read_small_json(&path, MAX_CONFIG)?;
    let root = Fields { path: &path, object: &root };
    let architecture = read_architecture(&root)?;
    let text = root.object("text_config")?;
    let fields = text.as_ref().unwrap_or(&root);
    refuse_unsupported(&root)?;
    refuse_unsupported(fields)?;
    let mut config = read_common(fields, architecture)?;
    if architecture == Architecture::Llama4 {
        read_llama4(fields, &mut config)?;
    }
    if let Some(tied) = root.typed("tie_word_embeddings", "true or false", Value::as_bool)? {
        config.tied_embeddings |= tied && text.is_none();
    }
    read_end_tokens(folder, &root, fields, &mut config)?;
    config.validate().map_err(|e| FormatError::field(&path, e.field, e.problem))?;
    Ok(config)
}

fn read_architecture(root: &Fields<'_>) -> Result<Architecture, FormatError> {
    match root.text("model_type")? {
        Some("llama") => Ok(Architecture::Llama),
        Some("llama4" | "llama4_text") => Ok(Architecture::Llama4),
        Some(other) => root
            .bad("model_type", format!("is {}; llama, llama4 and llama4_text are supported", shown(other))),
        None => root.bad("model_type", "is missing"),
    }
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), FormatError> {
    for field in ["attention_bias", "mlp_bias"] {
        if fields.boolean(field)? {
            return fields.bad(field, "is true; layers with biases are not supported");
        }
    }
    if let Some(activation) = fields.text("hidden_act")?.filter(|&name| name != "silu") {
        return fields.bad("hidden_act", format!("is {}; only silu is supported", shown(activation)));
    }
    if fields.get("quantization_config").is_some() {
        return fields.bad("quantization_config", "is there; take the model in BF16, or as a GGUF file");
    }
    Ok(())
}

fn read_common(fields: &Fields<'_>, architecture: Architecture) -> Result<ModelConfig, FormatError> {
    let embedding_length = fields.required("hidden_size")?;
    let layers = fields.required("num_hidden_layers")?;
    let heads = fields.required("num_attention_heads")?;
    check_layers(layers).or_else(|e| fields.bad("num_hidden_layers", e.problem))?;
    if heads == 0 {
        return fields.bad("num_attention_heads", "is 0");
    }
    Ok(ModelConfig {
        architecture,
        vocabulary_size: fields.required("vocab_size")?,
        embedding_length,
        layers,
        heads,
        kv_heads: fields.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim: fields.size("head_dim")?.unwrap_or(embedding_length / heads),
        feed_forward_length: fields.required("intermediate_size")?,
        norm_epsilon: fields.float("rms_norm_eps")?.unwrap_or(match architecture {
            Architecture::Llama => 1e-6,
            Architecture::Llama4 => 1e-5,
        }),
        context_length: fields.size("max_position_embeddings")?.unwrap_or(match architecture {
            Architecture::Llama => 2048,
            Architecture::Llama4 => 131_072,
        }),
        tied_embeddings: fields.boolean("tie_word_embeddings")?,
        rope: read_rope(fields, architecture)?,
        experts: None,
        no_rope: vec![false; layers],
        attention_chunk: None,
        qk_norm: false,
        temperature: None,
        bos: None,
        eos: Vec::new(),
    })
}

fn read_rope(fields: &Fields<'_>, architecture: Architecture) -> Result<Rope, FormatError> {
    let parameters = match fields.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => fields.object("rope_scaling")?,
    };
    let nested = parameters.as_ref().map(|p| p.float("rope_theta")).transpose()?.flatten();
    let default_theta = match architecture {
        Architecture::Llama => 10_000.0,
        Architecture::Llama4 => 500_000.0,
    };
    let theta = nested.or(fields.float("rope_theta")?).unwrap_or(default_theta);
    let scaling = match parameters {
        Some(parameters) => read_scaling(&parameters, fields)?,
        None => RopeScaling::None,
    };
    Ok(Rope { theta, scaling })
}

fn read_scaling(parameters: &Fields<'_>, fields: &Fields<'_>) -> Result<RopeScaling, FormatError> {
    let required = |field: &str| match parameters.float(field)? {
        Some(value) => Ok(value),
        None => parameters.bad(field, "is missing from the RoPE parameters"),
    };
    let original_context = || match parameters.size("original_max_position_embeddings")? {
        Some(length) => Ok(length),
        None => fields.required("max_position_embeddings"),
    };
    let kind = match parameters.text("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.text("type")?,
    };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: required("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: required("factor")?,
            low: required("low_freq_factor")?,
            high: required("high_freq_factor")?,
            original_context: as_u32(parameters, original_context()?)?,
        }),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: required("factor")?,
            original_context: as_u32(parameters, original_context()?)?,
            beta_fast: parameters.float("beta_fast")?.unwrap_or(32.0),
            beta_slow: parameters.float("beta_slow")?.unwrap_or(1.0),
            attention_factor: parameters.float("attention_factor")?,
        }),
        Some(other) => parameters
            .bad("rope_type", format!("is {}; default, linear, llama3 and yarn are supported", shown(other))),
    }
}

fn as_u32(fields: &Fields<'_>, value: usize) -> Result<u32, FormatError> {
    u32::try_from(value)
        .or_else(|_| fields.bad("original_max_position_embeddings", format!("is {value}, too large")))
}

fn read_llama4(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<(), FormatError> {
    let layers = config.layers;
    let expert_length = config.feed_forward_length;
    config.feed_forward_length = fields.size("intermediate_size_mlp")?.unwrap_or(expert_length);
    let is_moe = read_moe_layers(fields, layers)?;
    if is_moe.contains(&true) {
        config.experts = Some(Experts {
            count: fields.required("num_local_experts")?,
            used: fields.size("num_experts_per_tok")?.unwrap_or(1),
            feed_forward_length: expert_length,
            layers: is_moe,
        });
    }
    config.no_rope = match fields.per_layer("no_rope_layers", layers, Value::as_u64)? {
        // The field's name notwithstanding, 1 means that the layer has rotary embedding.
        Some(uses_rope) => uses_rope.into_iter().map(|uses| uses == 0).collect(),
        None => layers_of_step(fields.size("no_rope_layer_interval")?.unwrap_or(4), layers),
    };
    config.qk_norm = fields.typed("use_qk_norm", "true or false", Value::as_bool)?.unwrap_or(true);
    config.attention_chunk = fields.size("attention_chunk_size")?;
    check_layer_types(fields, config)?;
    // transformers had it as a number, 4, in early configurations.
    let tuned = fields.typed("attn_temperature_tuning", "true or false", |value| {
        value.as_bool().or_else(|| value.as_u64().map(|number| number != 0))
    })?;
    config.temperature = match tuned.unwrap_or(true) {
        true => Some(Temperature {
            floor_scale: fields.float("floor_scale")?.unwrap_or(8192.0),
            attention_scale: fields.float("attn_scale")?.unwrap_or(0.1),
        }),
        false => None,
    };
    Ok(())
}

fn read_moe_layers(fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>, FormatError> {
    let listed = fields.typed("moe_layers", "a list of layers", |value| {
        let list = value.as_array()?;
        list.iter()
            .map(|layer| layer.as_u64().filter(|&layer| layer < layers as u64))
            .collect::<Option<Vec<_>>>()
    })?;
    match listed {
        Some(listed) => {
            let mut is_moe = vec![false; layers];
            listed.into_iter().for_each(|layer| is_moe[layer as usize] = true);
            Ok(is_moe)
        }
        None => Ok(layers_of_step(fields.size("interleave_moe_layer_step")?.unwrap_or(1), layers)),
    }
}

/// Chunked attention goes with rotary embedding in every released model; a file that says
/// otherwise is not silently run in another way.
fn check_layer_types(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<(), FormatError> {
    let Some(types) = fields.per_layer("layer_types", config.layers, Value::as_str)? else { return Ok(()) };
    if types.iter().all(|&kind| kind == "full_attention") {
        config.attention_chunk = None;
        return Ok(());
    }
    for (layer, &kind) in types.iter().enumerate() {
        let expected = if config.layer_uses_rope(layer) { "chunked_attention" } else { "full_attention" };
        if kind != expected {
            let problem = format!("is {} in layer {layer}, where only {expected} is supported", shown(kind));
            return fields.bad("layer_types", problem);
        }
    }
    Ok(())
}

fn read_end_tokens(
    folder: &Path,
    root: &Fields<'_>,
    fields: &Fields<'_>,
    config: &mut ModelConfig,
) -> Result<(), FormatError> {
    let path = folder.join("generation_config.json");
    let generation: Object = match path.is_file() {
        true => read_small_json(&path, MAX_CONFIG)?,
        false => Object::new(),
    };
    let generation = Fields { path: &path, object: &generation };
    for fields in [&generation, fields, root] {
        let bos = fields.token_ids("bos_token_id")?.and_then(|ids| ids.first().copied());
        config.bos = config.bos.or(bos);
        for id in fields.token_ids("eos_token_id")?.unwrap_or_default() {
            if !config.eos.contains(&id) {
                config.eos.push(id);
            }
        }
    }
    Ok(())
}

/// `config.json` of a model, for transformers before 5 and since. `dtype` is torch's name of the
/// weights' type.
///
/// # Errors
/// What the format cannot say about the model.
pub(crate) fn config_json(config: &ModelConfig, dtype: &str) -> Result<Value, String> {
    let (class, model_type) = match config.architecture {
        Architecture::Llama => ("LlamaForCausalLM", "llama"),
        Architecture::Llama4 => ("Llama4ForCausalLM", "llama4_text"),
    };
    let eos = match config.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let scaling = scaling_json(&config.rope.scaling)?;
    let mut parameters = scaling.clone().unwrap_or_else(|| json!({"rope_type": "default"}));
    parameters["rope_theta"] = number(config.rope.theta);
    let mut root = json!({
        "architectures": [class],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos,
        "dtype": dtype,
        "eos_token_id": eos,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.embedding_length,
        "initializer_range": 0.02,
        "intermediate_size": config.feed_forward_length,
        "max_position_embeddings": config.context_length,
        "mlp_bias": false,
        "model_type": model_type,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": number(config.norm_epsilon),
        "rope_parameters": parameters,
        "rope_scaling": scaling,
        "rope_theta": number(config.rope.theta),
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": dtype,
        "use_cache": true,
        "vocab_size": config.vocabulary_size,
    });
    if config.architecture == Architecture::Llama4 {
        add_llama4(config, &mut root);
    }
    Ok(root)
}

fn scaling_json(scaling: &RopeScaling) -> Result<Option<Value>, String> {
    Ok(match scaling {
        RopeScaling::None => None,
        RopeScaling::Linear { factor } => Some(json!({"rope_type": "linear", "factor": number(*factor)})),
        RopeScaling::Llama3 { factor, low, high, original_context } => Some(json!({
            "rope_type": "llama3",
            "factor": number(*factor),
            "low_freq_factor": number(*low),
            "high_freq_factor": number(*high),
            "original_max_position_embeddings": original_context,
        })),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
            let mut yarn = json!({
                "rope_type": "yarn",
                "factor": number(*factor),
                "original_max_position_embeddings": original_context,
                "beta_fast": number(*beta_fast),
                "beta_slow": number(*beta_slow),
            });
            if let Some(attention_factor) = attention_factor {
                yarn["attention_factor"] = number(*attention_factor);
            }
            Some(yarn)
        }
        RopeScaling::Divisors(_) => {
            return Err("no Llama 3 RoPE parameters give the divisors in its rope_freqs tensor".into());
        }
    })
}

fn add_llama4(config: &ModelConfig, root: &mut Value) {
    let experts = config.experts.as_ref();
    let moe_layers: Vec<usize> = (0..config.layers).filter(|&layer| config.layer_is_moe(layer)).collect();
    let layer_types: Vec<&str> = (0..config.layers)
        .map(|layer| match config.layer_chunk(layer) {
            Some(_) => "chunked_attention",
            None => "full_attention",
        })
        .collect();
    let temperature = config.temperature.unwrap_or(Temperature { floor_scale: 8192.0, attention_scale: 0.1 });
    let expert_length = experts.map_or(config.feed_forward_length, |experts| experts.feed_forward_length);
    root["attention_chunk_size"] = json!(config.attention_chunk);
    root["attn_scale"] = number(temperature.attention_scale);
    root["attn_temperature_tuning"] = json!(config.temperature.is_some());
    // transformers takes only an integer here.
    root["floor_scale"] = match temperature.floor_scale {
        scale if scale.fract() == 0.0 => json!(scale as u64),
        scale => number(scale),
    };
    root["interleave_moe_layer_step"] = json!(config.moe_layer_step().unwrap_or(1));
    root["intermediate_size"] = json!(expert_length);
    root["intermediate_size_mlp"] = json!(config.feed_forward_length);
    root["layer_types"] = json!(layer_types);
    root["moe_layers"] = json!(moe_layers);
    root["no_rope_layers"] =
        json!(config.no_rope.iter().map(|&without| u8::from(!without)).collect::<Vec<_>>());
    root["num_experts_per_tok"] = json!(experts.map_or(1, |experts| experts.used));
    root["num_local_experts"] = json!(experts.map_or(0, |experts| experts.count));
    root["output_router_logits"] = json!(false);
    root["router_aux_loss_coef"] = json!(0.001);
    root["router_jitter_noise"] = json!(0.0);
    root["use_qk_norm"] = json!(config.qk_norm);
}
