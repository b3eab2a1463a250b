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
    let number = |keys: &[&str]| keys.iter().find_map(|key| config.get(key)).and_then(Value::as_u64);
    let needed = |keys: &[&str]| {
        let missing = || PlanError::file(file, format!("has no number `{}`; is it a decoder's?", keys[0]));
        number(keys).ok_or_else(missing)
    };
    let hidden = needed(&["hidden_size", "n_embd", "d_model", "dim"])?;
    let layers = needed(&["num_hidden_layers", "n_layer", "n_layers"])?;
    let heads = needed(&["num_attention_heads", "n_head", "n_heads"])?;
    let gpt = config.get("n_embd").is_some() || config.get("d_model").is_some();
    let wide = number(&["intermediate_size_mlp", "intermediate_size", "n_inner", "hidden_dim"]);
    let model = ModelShape {
        name: name.to_owned(),
        aliases: Vec::new(),
        layers: u32::try_from(layers).map_err(|_| PlanError::file(file, "has too many layers"))?,
        hidden,
        heads,
        kv_heads: number(&["num_key_value_heads", "n_kv_heads"]).unwrap_or(heads),
        head_size: number(&["head_dim"]).unwrap_or(hidden / heads.max(1)),
        feed_forward: wide.unwrap_or(hidden.saturating_mul(4)),
        gated: !gpt,
        vocabulary: needed(&["vocab_size"])?,
        tied_embeddings: root
            .get("tie_word_embeddings")
            .or(config.get("tie_word_embeddings"))
            .and_then(Value::as_bool)
            .unwrap_or(gpt),
        learned_positions: if gpt { number(&["n_positions", "max_seq_len"]).unwrap_or(0) } else { 0 },
        context: number(&["max_position_embeddings", "n_positions", "max_seq_len"]).unwrap_or(8192),
        experts: experts(config)?,
        attention_parameters: None,
        cached_values_per_layer: None,
        attention_layers: None,
        attention_chunk: number(&["attention_chunk_size"]),
        // Llama 4: of four layers three attend within chunks.
        chunked_layers: if number(&["attention_chunk_size"]).is_some() { (layers * 3 / 4) as u32 } else { 0 },
        source: file.to_owned(),
    };
    model.check().map_err(|error| PlanError::file(file, error))?;
    Ok(model)
}

fn experts(config: &Value) -> Result<Option<Experts>, PlanError> {
    let number = |keys: &[&str]| keys.iter().find_map(|key| config.get(key)).and_then(Value::as_u64);
    let Some(count) = number(&["num_local_experts", "num_experts", "n_routed_experts"]) else {
        return Ok(None);
    };
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let width = number(&["moe_intermediate_size", "intermediate_size"]).unwrap_or(0);
    // Llama 4's shared expert is as wide as a routed one, DeepSeek says how many there are.
    let llama4 = config.get("interleave_moe_layer_step").is_some();
    let shared = number(&["n_shared_experts"]).unwrap_or(u64::from(llama4));
    Ok(Some(Experts {
        count: small(count),
        active: small(number(&["num_experts_per_tok", "num_experts_per_token"]).unwrap_or(1)),
        feed_forward: width,
        shared_feed_forward: shared.saturating_mul(width),
        every: small(number(&["interleave_moe_layer_step"]).unwrap_or(1)).max(1),
        first_dense: small(number(&["first_k_dense_replace"]).unwrap_or(0)),
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
}
