//! Adapters as PEFT saves them (<https://huggingface.co/docs/peft/developer_guides/checkpoint>): tensors
//! `base_model.model.<module>.lora_A.weight` and `.lora_B.weight`, and a configuration that says how they are scaled.
//!
//! Which modules are adapted the tensors say themselves (`target_modules` may be a regular expression over all modules
//! of the model); the configuration is asked for what tensors do not show, and everything in it that would change the
//! result and is not computed is refused.

use super::{Adapter, Pairs, Source};
use crate::FormatError;
use crate::config::{Architecture, ModelConfig};
use crate::error::shown;
use crate::files::read_small_json;
use crate::hugging_face::SafetensorsStore;
use crate::json::{Fields, Object};
use crate::layout::hugging_face_placement;
use crate::names::WeightName;
use serde_json::Value;
use std::path::Path;

/// The file that says how tensors are scaled.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The file with the tensors.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// Longest `adapter_config.json`.
const MAX_CONFIG: u64 = 1 << 20;
/// Most entries of `alpha_pattern`.
const MAX_PATTERNS: usize = 4096;

/// Fields that mean something else than plain LoRA when they are there and neither null, false nor empty.
#[rustfmt::skip]
const REFUSED: [(&str, &str); 13] = [
    ("use_dora", "DoRA normalises the adapted weights; merge it into the model with PEFT instead"),
    ("use_qalora", "QA-LoRA pools activations; merge it into the model with PEFT instead"),
    ("use_bdlora", "block-diagonal LoRA is not read"),
    ("lora_bias", "biases are not read; train with lora_bias=False"),
    ("fan_in_fan_out", "the matrices would be transposed; Llama's are not"),
    ("modules_to_save", "whole modules that were trained beside the adapter are not read; merge it into the model with PEFT instead"),
    ("trainable_token_indices", "embeddings that were trained beside the adapter are not read; merge it into the model with PEFT instead"),
    ("target_parameters", "adapters of bare parameters (routed experts) are not read; merge it into the model with PEFT instead"),
    ("layer_replication", "layers that are used several times are not read"),
    ("alora_invocation_tokens", "an adapter that is switched on by tokens of the prompt is not read"),
    ("arrow_config", "routed adapters are not read"),
    ("kasa_config", "KaSA is not read"),
    ("monteclora_config", "MonteCLoRA is not read"),
];

/// Values of `init_lora_weights` for which training began from other base weights than the model's.
const CHANGES_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

pub(super) fn open(folder: &Path, model: &ModelConfig) -> Result<Adapter, FormatError> {
    let config_path = folder.join(CONFIG);
    if !config_path.is_file() {
        return Err(FormatError::unsupported(folder, "has no adapter_config.json: it is not a PEFT adapter"));
    }
    let object: Object = read_small_json(&config_path, MAX_CONFIG)?;
    let config = Config::read(&Fields { path: &config_path, object: &object })?;
    let weights = folder.join(WEIGHTS);
    if !weights.is_file() {
        let problem = match folder.join("adapter_model.bin").is_file() {
            true => "has adapter_model.bin, a pickle, which is not read; save it anew with a current PEFT",
            false => "has no adapter_model.safetensors",
        };
        return Err(FormatError::unsupported(folder, problem));
    }
    let store = SafetensorsStore::open(&weights)?;
    let mut pairs = Pairs::default();
    let mut names: Vec<&str> = store.names().collect();
    names.sort_unstable();
    for spelled in names {
        match module_of(spelled) {
            Some((module, side)) => match weight_of(module, model.architecture) {
                Some(name) => pairs.add(&weights, name, side, spelled)?,
                None => {
                    let problem = "adapts a module that is not part of the model";
                    return Err(FormatError::tensor(&weights, spelled, problem));
                }
            },
            // PEFT saves an adapted output matrix itself, too, unchanged.
            None if spelled.ends_with(".base_layer.weight") => {}
            None => {
                let problem = "is neither lora_A.weight nor lora_B.weight of a module, so that the model would run without it";
                return Err(FormatError::tensor(&weights, spelled, problem));
            }
        }
    }
    let source = Source::Peft(store);
    let placement = |name: &WeightName, shape: &[usize]| hugging_face_placement(model, name, shape);
    let scale = |_: &WeightName, spelled: &str, rank: usize| {
        let module = module_of(spelled).map_or("", |(module, _)| module);
        config.scale(&config_path, module, rank)
    };
    let matrices = pairs.check(&weights, model, &source, placement, scale)?;
    Ok(Adapter { path: folder.to_owned(), matrices, source })
}

/// The module that a tensor is A (0) or B (1) of, as PEFT's patterns name it.
fn module_of(spelled: &str) -> Option<(&str, usize)> {
    let name = spelled.strip_prefix("base_model.model.")?;
    let sides = [".lora_A.weight", ".lora_B.weight"];
    sides.iter().enumerate().find_map(|(side, suffix)| Some((name.strip_suffix(suffix)?, side)))
}

/// The weight of a module of a text model, or of the text model within a vision model.
fn weight_of(module: &str, architecture: Architecture) -> Option<WeightName> {
    let llama4 = architecture == Architecture::Llama4;
    let nested = [("model.language_model.", "model."), ("language_model.", "")];
    let plain = nested
        .iter()
        .find_map(|(prefix, instead)| Some(format!("{instead}{}", module.strip_prefix(prefix)?)));
    let spelled = format!("{}.weight", plain.as_deref().unwrap_or(module));
    WeightName::from_hugging_face(&spelled).filter(|name| name.hugging_face(llama4) == spelled)
}

/// What a configuration says about scales.
struct Config {
    rank: usize,
    alpha: f64,
    /// `use_rslora`: divided by the root of the rank (Kalajdzievski 2023).
    rank_stabilised: bool,
    /// Whether some modules have another rank.
    other_ranks: bool,
    /// `alpha_pattern`: the first that a module matches gives its alpha.
    patterns: Vec<(Pattern, f64)>,
}

impl Config {
    fn read(fields: &Fields<'_>) -> Result<Config, FormatError> {
        match fields.text("peft_type")? {
            Some("LORA") => {}
            Some(other) => {
                return fields.bad("peft_type", format!("is {}; only LORA is read", shown(other)));
            }
            None => return fields.bad("peft_type", "is missing"),
        }
        for (field, problem) in REFUSED {
            if fields.get(field).is_some_and(means_something) {
                return fields.bad(field, problem);
            }
        }
        match fields.text("bias")? {
            None | Some("none") => {}
            Some(other) => {
                return fields.bad("bias", format!("is {}; only none is read", shown(other)));
            }
        }
        if let Some(initial) = fields.get("init_lora_weights").and_then(Value::as_str) {
            let initial = initial.to_ascii_lowercase();
            if CHANGES_THE_BASE.iter().any(|name| initial.starts_with(name)) {
                let problem = format!(
                    "is {}, for which PEFT changes the model's own weights; save it with \
                     path_initial_model_for_weight_conversion",
                    shown(&initial)
                );
                return fields.bad("init_lora_weights", problem);
            }
        }
        let Some(alpha) = fields.typed("lora_alpha", "a number", Value::as_f64)? else {
            return fields.bad("lora_alpha", "is missing");
        };
        Ok(Config {
            rank: fields.required("r")?,
            alpha,
            rank_stabilised: fields.boolean("use_rslora")?,
            other_ranks: fields.get("rank_pattern").is_some_and(means_something),
            patterns: patterns(fields)?,
        })
    }

    /// `alpha / r`, or `alpha / sqrt(r)`; the rank is that of the tensors, which `rank_pattern` may have changed.
    fn scale(&self, path: &Path, module: &str, rank: usize) -> Result<f32, FormatError> {
        if rank != self.rank && !self.other_ranks {
            let problem = format!("is {}, but {} has rank {rank}", self.rank, shown(module));
            return Err(FormatError::field(path, "r", problem));
        }
        let own = self.patterns.iter().find(|(pattern, _)| pattern.matches(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let divisor = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        Ok((alpha / divisor) as f32)
    }
}

/// Whether a field of the configuration asks for anything.
fn means_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

/// A key of `alpha_pattern`: PEFT matches `(.*\.)?(key)$` from a module's beginning, so that a plain key is the end of a
/// path and `^key` the whole of it.
struct Pattern {
    path: String,
    whole: bool,
}

impl Pattern {
    fn matches(&self, module: &str) -> bool {
        match module.strip_suffix(self.path.as_str()) {
            Some("") => true,
            Some(before) => !self.whole && before.ends_with('.'),
            None => false,
        }
    }
}

fn patterns(fields: &Fields<'_>) -> Result<Vec<(Pattern, f64)>, FormatError> {
    const FIELD: &str = "alpha_pattern";
    let Some(list) = fields.object(FIELD)? else { return Ok(Vec::new()) };
    if list.object.len() > MAX_PATTERNS {
        return fields.bad(FIELD, format!("has more than {MAX_PATTERNS} entries"));
    }
    let mut patterns = Vec::with_capacity(list.object.len());
    for (key, alpha) in list.object {
        let path = key.strip_prefix('^').unwrap_or(key);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
        let Some(alpha) = alpha.as_f64().filter(|_| !path.is_empty() && path.bytes().all(plain)) else {
            let problem = format!(
                "has {}: {}, must be the end of a module's name and a number (regular expressions are not read)",
                shown(key),
                shown(&alpha.to_string())
            );
            return fields.bad(FIELD, problem);
        };
        patterns.push((Pattern { path: path.to_owned(), whole: key.starts_with('^') }, alpha));
    }
    Ok(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, module: &str, expected: bool) {
        let path = pattern.strip_prefix('^').unwrap_or(pattern).to_owned();
        let pattern = Pattern { path, whole: pattern.starts_with('^') };
        assert_eq!(pattern.matches(module), expected, "{module}");
    }

    #[test]
    fn patterns_match_as_in_peft() {
        check("q_proj", "model.layers.0.self_attn.q_proj", true);
        check("self_attn.q_proj", "model.layers.0.self_attn.q_proj", true);
        check("_proj", "model.layers.0.self_attn.q_proj", false);
        check("q_proj", "model.layers.0.self_attn.k_proj", false);
        check("^q_proj", "model.layers.0.self_attn.q_proj", false);
        check("^model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", true);
        check("lm_head", "lm_head", true);
    }

    #[test]
    fn modules_of_vision_models_are_those_of_their_text_model() {
        let plain = weight_of("model.layers.3.self_attn.q_proj", Architecture::Llama);
        assert!(plain.is_some());
        for nested in [
            "language_model.model.layers.3.self_attn.q_proj",
            "model.language_model.layers.3.self_attn.q_proj",
        ] {
            assert_eq!(weight_of(nested, Architecture::Llama), plain);
        }
        assert_eq!(weight_of("vision_model.layers.3.self_attn.q_proj", Architecture::Llama), None);
        assert_eq!(
            weight_of("model.layers.0.mlp.gate_proj", Architecture::Llama4),
            None,
            "spelled otherwise there"
        );
    }
}
