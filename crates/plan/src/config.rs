//! The shape of a model from a `config.json` of the Hub: Llama and its relatives, dense or with experts.

use crate::error::PlanError;
use crate::model::{Experts, ModelShape};
use serde_json::Value;

/// The model that a `config.json` describes.
///
/// # Errors
/// When the text is no JSON, or a size is missing or impossible; `file` is named.
pub fn model_of_config(file: &str, name: &str, text: &str) -> Result<ModelShape, PlanError> {
    let root: Value = serde_json::from_str(text).map_err(|error| PlanError::file(file, error))?;
    // Vision models keep the text model's sizes one level down.
    let config = root.get("text_config").filter(|it| it.is_object()).unwrap_or(&root);
    let fields = Fields { file, config };
    fields.refuse_unknown_attention()?;
    let hidden = fields.needed(&["hidden_size", "n_embd", "d_model", "dim"])?;
    let layers = fields.needed(&["num_hidden_layers", "n_layer", "n_layers"])?;
    let heads = fields.needed(&["num_attention_heads", "n_head", "n_heads"])?;
    let gpt = config.get("n_embd").is_some() || config.get("d_model").is_some();
    let wide = fields.number(&["intermediate_size_mlp", "intermediate_size", "n_inner", "hidden_dim"])?;
    let latent = latent(&fields, hidden, heads)?;
    let (attention_chunk, chunked_layers) = chunks(&fields, layers)?;
    let own_size = fields.number(&["head_dim"])?.unwrap_or(hidden / heads.max(1));
    let model = ModelShape {
        name: name.to_owned(),
        aliases: Vec::new(),
        layers: u32::try_from(layers).map_err(|_| PlanError::file(file, "has too many layers"))?,
        hidden,
        heads,
        kv_heads: if latent.is_some() {
            heads
        } else {
            fields.number(&["num_key_value_heads", "n_kv_heads"])?.unwrap_or(heads)
        },
        head_size: latent.as_ref().map_or(own_size, |it| it.head_size),
        feed_forward: wide.unwrap_or(hidden.saturating_mul(4)),
        gated: !gpt,
        vocabulary: fields.needed(&["vocab_size"])?,
        tied_embeddings: root
            .get("tie_word_embeddings")
            .or(config.get("tie_word_embeddings"))
            .and_then(Value::as_bool)
            .unwrap_or(gpt),
        learned_positions: match gpt {
            true => fields.number(&["n_positions", "max_seq_len"])?.unwrap_or(0),
            false => 0,
        },
        context: fields.number(&["max_position_embeddings", "n_positions", "max_seq_len"])?.unwrap_or(8192),
        experts: experts(&fields)?,
        attention_parameters: latent.as_ref().map(|it| it.parameters),
        cached_values_per_layer: latent.as_ref().map(|it| it.cached),
        attention_layers: None,
        attention_chunk,
        chunked_layers,
        source: file.to_owned(),
    };
    model.check().map_err(|error| PlanError::file(file, error))?;
    Ok(model)
}

/// Beginnings of names of fields that change what attention computes or caches in ways that no formula here knows:
/// state-space and linear layers, sparse indexers.
const UNKNOWN_ATTENTION: [&str; 14] = [
    "mamba",
    "ssm_",
    "linear_attn",
    "linear_num",
    "linear_key",
    "linear_value",
    "linear_conv",
    "rwkv",
    "index_topk",
    "index_n_heads",
    "attn_type_list",
    "hybrid_override_pattern",
    "full_attention_interval",
    "lightning",
];

/// The fields of a configuration.
struct Fields<'a> {
    file: &'a str,
    config: &'a Value,
}

impl Fields<'_> {
    /// The number under the first of the names that is there; nothing where none is or it is null.
    fn number(&self, keys: &[&str]) -> Result<Option<u64>, PlanError> {
        let found =
            keys.iter().find_map(|key| self.config.get(key).filter(|it| !it.is_null()).map(|it| (key, it)));
        let Some((key, value)) = found else { return Ok(None) };
        let refused = || PlanError::file(self.file, format!("`{key}` is {value}: it must be a whole number"));
        value.as_u64().map(Some).ok_or_else(refused)
    }

    fn needed(&self, keys: &[&str]) -> Result<u64, PlanError> {
        let missing = || format!("has no number `{}`; is it a decoder's?", keys[0]);
        self.number(keys)?.ok_or_else(|| PlanError::file(self.file, missing()))
    }

    /// How many layers are of each type that `layer_types` names.
    fn layer_types(&self) -> Vec<&str> {
        let types = self.config.get("layer_types").and_then(Value::as_array);
        types.map_or_else(Vec::new, |types| types.iter().map(|it| it.as_str().unwrap_or("unnamed")).collect())
    }

    fn refuse_unknown_attention(&self) -> Result<(), PlanError> {
        let keys = self.config.as_object().into_iter().flatten();
        let unknown = |(key, value): &(&String, &Value)| {
            !value.is_null() && UNKNOWN_ATTENTION.iter().any(|start| key.starts_with(start))
        };
        let field = keys.filter(unknown).map(|(key, _)| key.as_str()).next();
        let known = ["full_attention", "sliding_attention", "chunked_attention"];
        let of_type = self.layer_types().into_iter().find(|it| !known.contains(it));
        match field.or(of_type) {
            None => Ok(()),
            Some(name) => {
                let problem = format!(
                    "`{name}` changes attention in a way that the planner does not know; describe the model in a \
                     --models table (attention_layers, attention_parameters, cached_values_per_layer)"
                );
                Err(PlanError::file(self.file, problem))
            }
        }
    }
}

/// Multi-head latent attention.
struct Latent {
    /// Mean width of a head of queries and keys, and of values.
    head_size: u64,
    /// Parameters of its matrices in a layer.
    parameters: u64,
    /// Values cached for a token in a layer.
    cached: u64,
}

/// The latent attention of DeepSeek's configurations (arXiv 2405.04434, section 2.1): queries through a latent of
/// `q_lora_rank` where there is one, keys and values through one of `kv_lora_rank`, which is cached with the rotary key.
fn latent(fields: &Fields<'_>, hidden: u64, heads: u64) -> Result<Option<Latent>, PlanError> {
    let Some(rank) = fields.number(&["kv_lora_rank"])? else { return Ok(None) };
    let rotary = fields.needed(&["qk_rope_head_dim"])?;
    let plain = fields.needed(&["qk_nope_head_dim"])?;
    let values = fields.needed(&["v_head_dim"])?;
    let most = 1 << 24;
    if [rank, rotary, plain, values, hidden, heads].iter().any(|it| *it > most) {
        return Err(PlanError::file(fields.file, "latent attention is larger than any model's"));
    }
    let queries = match fields.number(&["q_lora_rank"])?.filter(|rank| *rank > 0) {
        Some(rank) if rank <= most => hidden * rank + rank * heads * (plain + rotary),
        Some(_) => return Err(PlanError::file(fields.file, "`q_lora_rank` is larger than any model's")),
        None => hidden * heads * (plain + rotary),
    };
    let parameters =
        queries + hidden * (rank + rotary) + rank * heads * (plain + values) + heads * values * hidden;
    Ok(Some(Latent { head_size: (plain + rotary + values) / 2, parameters, cached: rank + rotary }))
}

/// Tokens that layers of chunked or windowed attention see, and how many such layers there are.
fn chunks(fields: &Fields<'_>, layers: u64) -> Result<(Option<u64>, u32), PlanError> {
    let types = fields.layer_types();
    let count = |name: &str| types.iter().filter(|it| **it == name).count() as u32;
    let all = u32::try_from(layers).unwrap_or(u32::MAX);
    if let Some(chunk) = fields.number(&["attention_chunk_size"])? {
        // Llama 4: of four layers three attend within chunks.
        let usual = all / 4 * 3 + all % 4 * 3 / 4;
        return Ok((Some(chunk), if types.is_empty() { usual } else { count("chunked_attention") }));
    }
    let off = fields.config.get("use_sliding_window").and_then(Value::as_bool) == Some(false);
    match fields.number(&["sliding_window"])?.filter(|_| !off) {
        Some(window) if types.is_empty() => Ok((Some(window), all)),
        Some(window) if count("sliding_attention") > 0 => Ok((Some(window), count("sliding_attention"))),
        _ => Ok((None, 0)),
    }
}

fn experts(fields: &Fields<'_>) -> Result<Option<Experts>, PlanError> {
    let Some(count) = fields.number(&["num_local_experts", "num_experts", "n_routed_experts"])? else {
        return Ok(None);
    };
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let width = fields.number(&["moe_intermediate_size", "intermediate_size"])?.unwrap_or(0);
    // Llama 4's shared expert is as wide as a routed one, DeepSeek says how many there are.
    let llama4 = fields.config.get("interleave_moe_layer_step").is_some();
    let shared = fields.number(&["n_shared_experts"])?.unwrap_or(u64::from(llama4));
    Ok(Some(Experts {
        count: small(count),
        active: small(fields.number(&["num_experts_per_tok", "num_experts_per_token"])?.unwrap_or(1)),
        feed_forward: width,
        shared_feed_forward: shared.saturating_mul(width),
        every: small(fields.number(&["interleave_moe_layer_step"])?.unwrap_or(1)).max(1),
        first_dense: small(fields.number(&["first_k_dense_replace"])?.unwrap_or(0)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read() {
        let text = r#"{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
            "max_position_embeddings": 131072, "tie_word_embeddings": false}"#;
        let model = model_of_config("config.json", "mine", text).unwrap();
        assert!((model.parameters() / 8.03e9 - 1.0).abs() < 0.01);
        let text = r#"{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000,
            "num_local_experts": 8, "num_experts_per_tok": 2}"#;
        let model = model_of_config("config.json", "mine", text).unwrap();
        assert!((model.parameters() / 46.7e9 - 1.0).abs() < 0.01, "{}", model.parameters());
        for bad in ["{}", "[", "{\"hidden_size\": -1}", "{\"hidden_size\": 0, \"num_hidden_layers\": 1}"] {
            assert!(model_of_config("config.json", "mine", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn latent_attention_is_that_of_the_catalogue() {
        let text = r#"{"hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
            "num_key_value_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
            "vocab_size": 129280, "max_position_embeddings": 163840, "n_routed_experts": 256,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "q_lora_rank": 1536,
            "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}"#;
        let read = model_of_config("config.json", "mine", text).unwrap();
        let known = crate::model::ModelCatalogue::built_in().find("DeepSeek-V3").unwrap();
        assert_eq!(read.cached_values_per_layer, known.cached_values_per_layer);
        assert_eq!(read.head_size, known.head_size);
        let parameters =
            read.attention_parameters.unwrap() as f64 / known.attention_parameters.unwrap() as f64;
        assert!((parameters - 1.0).abs() < 0.001, "{parameters}");
        let error = model_of_config("c.json", "m", &text.replace("v_head_dim", "other")).unwrap_err();
        assert!(error.to_string().contains("v_head_dim"), "{error}");
    }

    #[test]
    fn windows_are_read_and_unknown_attention_is_refused() {
        let with = |more: &str| {
            let text = format!(
                r#"{{"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
                "intermediate_size": 512, "vocab_size": 1000, {more}}}"#
            );
            model_of_config("config.json", "mine", &text)
        };
        let types = r#""layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]"#;
        let model = with(&format!(r#""sliding_window": 128, {types}"#)).unwrap();
        assert_eq!((model.attention_chunk, model.chunked_layers), (Some(128), 2));
        let model = with(r#""sliding_window": 128, "use_sliding_window": false"#).unwrap();
        assert_eq!(model.attention_chunk, None);
        assert_eq!(with(r#""sliding_window": null"#).unwrap().chunked_layers, 0);
        for bad in [
            r#""mamba_num_heads": 4"#,
            r#""index_topk": 2048"#,
            r#""layer_types": ["linear_attention"]"#,
            r#""intermediate_size_mlp": 0"#,
            r#""n_inner": 3, "intermediate_size_mlp": 1e30"#,
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
