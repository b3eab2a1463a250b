//! Adapters as llama.cpp's `convert_lora_to_gguf.py` writes them: tensors `<weight>.lora_a` and `.lora_b` in the
//! canonical layout, and `adapter.lora.alpha`.

use super::{Adapter, Pairs, Source};
use crate::FormatError;
use crate::config::ModelConfig;
use crate::error::shown;
use crate::gguf::SplitGguf;
use crate::names::WeightName;
use crate::placement::Placement;
use std::path::Path;

pub(super) fn open(path: &Path, model: &ModelConfig) -> Result<Adapter, FormatError> {
    let file = SplitGguf::open(path)?;
    let metadata = file.metadata();
    let wanted = [
        ("general.type", "adapter", "is another kind of file"),
        ("adapter.type", "lora", "is another kind of adapter"),
        ("general.architecture", model.architecture.gguf_name(), "is for another kind of model"),
    ];
    for (key, expected, otherwise) in wanted {
        match metadata.string(key)? {
            Some(found) if found == expected => {}
            found => {
                let problem = format!(
                    "is {}, must be {expected}: the file {otherwise}",
                    shown(found.unwrap_or("missing"))
                );
                return Err(FormatError::field(path, key, problem));
            }
        }
    }
    const TRIGGER: &str = "adapter.alora.invocation_tokens";
    if metadata.array(TRIGGER)?.is_some_and(|tokens| tokens.count > 0) {
        let problem = "an adapter that is switched on by tokens of the prompt is not read";
        return Err(FormatError::field(path, TRIGGER, problem));
    }
    let alpha = metadata.float("adapter.lora.alpha")?.unwrap_or(0.0);
    let mut pairs = Pairs::default();
    for tensor in file.tensors() {
        let side = [".lora_a", ".lora_b"].iter().enumerate();
        let pair = side.filter_map(|(side, suffix)| Some((tensor.name.strip_suffix(suffix)?, side))).next();
        match pair.and_then(|(name, side)| Some((WeightName::from_gguf(name)?, side))) {
            Some((name, side)) => pairs.add(path, name, side, &tensor.name)?,
            None => {
                let problem =
                    "is neither lora_a nor lora_b of a weight of the model, so that it would run without it";
                return Err(FormatError::tensor(path, &tensor.name, problem));
            }
        }
    }
    let source = Source::Gguf(file);
    let scale = |_: &WeightName, _: &str, rank: usize| {
        // As llama.cpp does where a file says nothing.
        Ok(if alpha == 0.0 { 1.0 } else { alpha / rank as f32 })
    };
    let matrices = pairs.check(path, model, &source, |_, _| Placement::Same, scale)?;
    Ok(Adapter { path: path.to_owned(), matrices, source })
}
