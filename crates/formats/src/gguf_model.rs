//! A whole model as a GGUF file: the names, metadata and extra tensors that conversion and quantisation
//! write alike. Which type each weight gets, and how it is encoded, they say themselves.

use crate::FormatError;
use crate::checkpoint::{Checkpoint, Format, WeightInfo};
use crate::gguf::{self, ROPE_FREQS, TensorPlan, Value, WriteOptions};
use crate::names::WeightName;
use crate::progress::Progress;
use crate::tokenizer;
use alti_tensor::DType;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A file that is about to be written.
pub(crate) struct GgufModel {
    weights: Vec<WeightName>,
    plans: Vec<TensorPlan>,
    divisors: Option<Vec<f32>>,
    metadata: Vec<(String, Value)>,
    /// What a person should know; one sentence each.
    pub(crate) notes: Vec<String>,
}

impl GgufModel {
    /// Plans the file of `source` with each weight in the type that `dtype` gives, and with
    /// `settings` of all tensors beside the metadata of the source.
    pub(crate) fn plan(
        source: &Checkpoint,
        dtype: impl Fn(&WeightInfo) -> DType,
        settings: impl FnOnce(&[TensorPlan]) -> Vec<(String, Value)>,
    ) -> Result<GgufModel, FormatError> {
        let (mut weights, mut plans, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        for info in source.weights() {
            plans.push(TensorPlan { name: info.name.gguf(), dtype: dtype(info), shape: info.shape.clone() });
            weights.push(info.name);
        }
        let config = source.config();
        let divisors = config.rope.divisors(config.head_dim);
        if let Some(divisors) = &divisors {
            let shape = vec![divisors.len()];
            plans.push(TensorPlan { name: ROPE_FREQS.to_owned(), dtype: DType::F32, shape });
        }
        let metadata = metadata(source, settings(&plans), &mut notes)?;
        Ok(GgufModel { weights, plans, divisors, metadata, notes })
    }

    /// Writes it to `out`; `data` encodes a weight.
    pub(crate) fn write<'a>(
        &self,
        out: &Path,
        options: WriteOptions,
        mut data: impl FnMut(&WeightName, DType) -> Result<Cow<'a, [u8]>, FormatError>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<PathBuf>, FormatError> {
        let bytes = |index: usize| match self.weights.get(index) {
            Some(name) => data(name, self.plans[index].dtype),
            None => {
                let values = self.divisors.iter().flatten();
                Ok(Cow::Owned(values.flat_map(|divisor| divisor.to_le_bytes()).collect()))
            }
        };
        gguf::write_gguf(out, &self.metadata, &self.plans, bytes, options, progress)
    }
}

fn metadata(
    source: &Checkpoint,
    settings: Vec<(String, Value)>,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Value)>, FormatError> {
    let config = source.config();
    let text = |text: &str| Value::String(text.to_owned());
    let mut own = vec![
        ("general.architecture".to_owned(), text(config.architecture.gguf_name())),
        ("general.type".to_owned(), text("model")),
    ];
    own.extend(gguf::config_metadata(config).map_err(|problem| FormatError::Convert {
        path: source.path().to_owned(),
        target: Format::Gguf.name(),
        problem,
    })?);
    own.extend(settings);
    match source.gguf() {
        Some(metadata) => {
            let kept = metadata.keys().filter(|key| !key.starts_with("split."));
            let kept = kept.filter(|key| own.iter().all(|(own, _)| own != key));
            let kept: Vec<_> = kept.filter_map(|key| Some((key.to_owned(), metadata.get(key)?))).collect();
            own.extend(kept);
        }
        None => {
            let folder = source.directory();
            let name = std::path::absolute(folder).unwrap_or_default();
            let name = name.file_name().map(|name| name.to_string_lossy().into_owned());
            own.extend(name.map(|name| ("general.name".to_owned(), Value::String(name))));
            own.extend(tokenizer::gguf_metadata(folder, config, notes)?);
        }
    }
    Ok(own)
}
