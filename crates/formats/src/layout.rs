//! Which tensors a Hugging Face or Meta checkpoint of a model has, of what shape, and where in
//! them each canonical weight is. Reading, writing and exporting in-memory values (gradients under
//! Hugging Face's names) are all driven by these lists.

use crate::config::{Architecture, ModelConfig};
use crate::names::{Part, WeightName};
use crate::placement::Placement;

/// One tensor of a checkpoint in another format's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTensor {
    /// Name in the format's spelling.
    pub name: String,
    /// Shape in the format's layout.
    pub shape: Vec<usize>,
    /// The canonical weights in it (two where gate and up of the experts are fused).
    pub parts: Vec<FilePart>,
}

/// A canonical weight within a [`FileTensor`].
#[derive(Clone, Debug, PartialEq)]
pub struct FilePart {
    /// The weight.
    pub weight: WeightName,
    /// Its canonical shape.
    pub shape: Vec<usize>,
    /// Where it is.
    pub placement: Placement,
}

impl FilePart {
    /// Whether the tensor of the file is this weight and no other.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.placement, Placement::Same | Placement::HalfRotated { .. })
    }
}

impl FileTensor {
    /// The file's tensor, put together from canonical values that `weight` gives.
    ///
    /// # Errors
    /// Those of `weight`.
    ///
    /// # Panics
    /// When `weight` gives fewer or more values than the weight's shape has.
    pub fn assemble<T: Copy + Default, V: AsRef<[T]>, E>(
        &self,
        mut weight: impl FnMut(&WeightName) -> Result<V, E>,
    ) -> Result<Vec<T>, E> {
        let mut values = vec![T::default(); self.shape.iter().product()];
        for part in &self.parts {
            let canonical = weight(&part.weight)?;
            part.placement.scatter(&part.shape, canonical.as_ref(), &mut values);
        }
        Ok(values)
    }

    /// The canonical weights in the file's tensor: the inverse of [`assemble`](Self::assemble).
    ///
    /// # Panics
    /// When `values` are fewer than the tensor's shape has.
    pub fn take_apart<T: Copy + Default>(&self, values: &[T]) -> Vec<(WeightName, Vec<T>)> {
        let parts = self.parts.iter();
        parts.map(|part| (part.weight, part.placement.gather(&part.shape, values).into_owned())).collect()
    }
}

/// Every tensor of the model's Hugging Face checkpoint, in model order.
pub fn hugging_face_tensors(config: &ModelConfig) -> Vec<FileTensor> {
    let llama4 = config.architecture == Architecture::Llama4;
    tensors(
        config,
        |weight| weight.hugging_face(llama4),
        |weight, shape| hugging_face_placement(config, weight, shape),
    )
}

/// Every tensor of the model's checkpoint as Meta's own model code names them, in model order.
pub fn meta_tensors(config: &ModelConfig) -> Vec<FileTensor> {
    tensors(config, |weight| weight.meta(), |weight, shape| meta_placement(weight.part, shape))
}

fn tensors(
    config: &ModelConfig,
    name: impl Fn(&WeightName) -> String,
    placement: impl Fn(&WeightName, &[usize]) -> Placement,
) -> Vec<FileTensor> {
    let mut tensors: Vec<FileTensor> = Vec::new();
    for (weight, shape) in config.weight_shapes() {
        let name = name(&weight);
        let placement = placement(&weight, &shape);
        let file_shape = match placement {
            Placement::Transposed { width, .. } => {
                let inner = shape[shape.len() - 1];
                shape[..shape.len() - 2].iter().copied().chain([inner, width]).collect()
            }
            _ => shape.clone(),
        };
        let part = FilePart { weight, shape, placement };
        match tensors.last_mut().filter(|last| last.name == name) {
            Some(last) => last.parts.push(part),
            None => tensors.push(FileTensor { name, shape: file_shape, parts: vec![part] }),
        }
    }
    tensors
}

pub(crate) fn hugging_face_placement(
    config: &ModelConfig,
    weight: &WeightName,
    shape: &[usize],
) -> Placement {
    match weight.part {
        Part::AttentionQuery | Part::AttentionKey if config.architecture == Architecture::Llama => {
            Placement::HalfRotated { head_dim: config.head_dim }
        }
        Part::ExpertsGate => Placement::Transposed { first: 0, width: 2 * shape[1] },
        Part::ExpertsUp => Placement::Transposed { first: shape[1], width: 2 * shape[1] },
        Part::ExpertsDown => Placement::Transposed { first: 0, width: shape[1] },
        _ => Placement::Same,
    }
}

/// Experts and router are `[in, out]` in Meta's files.
pub(crate) fn meta_placement(part: Part, shape: &[usize]) -> Placement {
    match part {
        Part::Router => Placement::Transposed { first: 0, width: shape[0] },
        Part::ExpertsGate | Part::ExpertsUp | Part::ExpertsDown => {
            Placement::Transposed { first: 0, width: shape[1] }
        }
        _ => Placement::Same,
    }
}
