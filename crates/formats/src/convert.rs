//! Conversion between the formats. Weights stream through the canonical layout one file tensor at a
//! time; what a format cannot say is refused before anything is written.

use crate::FormatError;
use crate::checkpoint::{Checkpoint, Format, WeightInfo};
use crate::config::ModelConfig;
use crate::encode::encode;
use crate::files::{AtomicFolder, write_whole};
use crate::gguf::{TensorPlan, Value, WriteOptions};
use crate::gguf_model::GgufModel;
use crate::hugging_face::{self, SafetensorsPlan};
use crate::layout::{FileTensor, hugging_face_tensors, meta_tensors};
use crate::meta::{self, MetaPlan};
use crate::names::{Part, WeightName};
use crate::progress::Progress;
use crate::tokenizer;
use alti_tensor::DType;
use std::path::{Path, PathBuf};

/// The type of the weights written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatType {
    /// As in the source. Block-quantised weights stay so in GGUF and become BF16 elsewhere.
    #[default]
    Keep,
    /// All 32-bit.
    F32,
    /// All IEEE half precision.
    F16,
    /// All bfloat16.
    BF16,
}

impl FloatType {
    fn dtype(self) -> Option<DType> {
        match self {
            Self::Keep => None,
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
        }
    }
}

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// The type of the weights.
    pub float_type: FloatType,
    /// Largest file, in bytes of tensors: a larger model becomes several files. `None`: one GGUF
    /// file, and safetensors of 5 GB.
    pub max_file_bytes: Option<u64>,
    /// Whether GGUF files that are there may be replaced; a folder never is.
    pub replace: bool,
}

/// What a conversion wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The files or the folder.
    pub paths: Vec<PathBuf>,
    /// What a person should know, such as that the source has no tokenizer; one sentence each.
    pub notes: Vec<String>,
}

/// Largest safetensors file, as transformers writes them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `source` as `target` at `out`: a file for GGUF, else a new folder.
///
/// # Errors
/// When the format cannot express the model, a weight cannot be read or encoded, `out` cannot be
/// written or is there already. Nothing is lost or left at `out` then.
pub fn convert(
    source: &Checkpoint,
    target: Format,
    out: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Converted, FormatError> {
    let job = Job { source, options, out };
    match target {
        Format::Gguf => job.to_gguf(progress),
        Format::HuggingFace => job.to_hugging_face(progress),
        Format::Meta => job.to_meta(progress),
    }
}

struct Job<'a> {
    source: &'a Checkpoint,
    options: &'a ConvertOptions,
    out: &'a Path,
}

impl Job<'_> {
    fn refuse(&self, target: Format, problem: String) -> FormatError {
        FormatError::Convert { path: self.source.path().to_owned(), target: target.name(), problem }
    }

    fn config(&self) -> &ModelConfig {
        self.source.config()
    }

    fn stored(&self, name: &WeightName) -> DType {
        self.source.info(name).map_or(DType::F32, |info| info.dtype)
    }

    fn to_gguf(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Converted, FormatError> {
        let wanted = self.options.float_type;
        let dtype = |info: &WeightInfo| {
            // llama.cpp wants gains and routers in full precision.
            let full = info.shape.len() == 1 || info.name.part == Part::Router;
            if full { DType::F32 } else { wanted.dtype().unwrap_or(info.dtype) }
        };
        let settings = |plans: &[TensorPlan]| match wanted == FloatType::Keep && self.source.gguf().is_some()
        {
            true => Vec::new(),
            false => vec![("general.file_type".to_owned(), Value::U32(file_type(plans)))],
        };
        let model = GgufModel::plan(self.source, dtype, settings)?;
        let data = |name: &WeightName, dtype| encode(self.source, name, dtype);
        let write = WriteOptions { split: self.options.max_file_bytes, replace: self.options.replace };
        let paths = model.write(self.out, write, data, progress)?;
        Ok(Converted { paths, notes: model.notes })
    }

    fn to_hugging_face(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Converted, FormatError> {
        let tensors = hugging_face_tensors(self.config());
        let plans = self.float_plans(&tensors)?;
        let dtype = self.matrix_dtype();
        let torch_name = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        let json = hugging_face::config_json(self.config(), torch_name)
            .map_err(|problem| self.refuse(Format::HuggingFace, problem))?;
        let folder = AtomicFolder::create(self.out)?;
        let mut notes = Vec::new();
        let shard = self.options.max_file_bytes.unwrap_or(SHARD_BYTES);
        let data = |index: usize| self.assemble(&tensors[index], plans[index].dtype);
        hugging_face::write_safetensors(folder.path(), &plans, shard, data, progress)?;
        write_whole(&folder.path().join("config.json"), format!("{json:#}\n").as_bytes())?;
        tokenizer::write_hugging_face(self.source, folder.path(), &mut notes)?;
        folder.commit()?;
        Ok(Converted { paths: vec![self.out.to_owned()], notes })
    }

    fn to_meta(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Converted, FormatError> {
        let tensors = meta_tensors(self.config());
        let json = meta::params_json(self.config()).map_err(|problem| self.refuse(Format::Meta, problem))?;
        let mut plans: Vec<MetaPlan> = Vec::with_capacity(tensors.len());
        for SafetensorsPlan { name, dtype, shape } in self.float_plans(&tensors)? {
            plans.push(MetaPlan { name, dtype, shape, same_as: None });
        }
        if self.config().tied_embeddings {
            // Meta's code wants an output matrix by name; both are one storage.
            let output = WeightName::global(Part::Output).meta();
            plans.push(MetaPlan { name: output, same_as: Some(0), ..plans[0].clone() });
        }
        let folder = AtomicFolder::create(self.out)?;
        let mut notes = Vec::new();
        let data = |index: usize| self.assemble(&tensors[index], plans[index].dtype);
        meta::write_pth(&folder.path().join("consolidated.00.pth"), &plans, data, progress)?;
        write_whole(&folder.path().join("params.json"), format!("{json:#}\n").as_bytes())?;
        tokenizer::write_meta(self.source, folder.path(), &mut notes)?;
        folder.commit()?;
        Ok(Converted { paths: vec![self.out.to_owned()], notes })
    }

    /// The type that matrices have in a format without block quantisation.
    fn matrix_dtype(&self) -> DType {
        let stored = self.stored(&WeightName::in_layer(0, Part::AttentionQuery));
        self.options.float_type.dtype().unwrap_or(plain(stored))
    }

    /// The tensors of a format without block quantisation.
    fn float_plans(&self, tensors: &[FileTensor]) -> Result<Vec<SafetensorsPlan>, FormatError> {
        let matrix = self.matrix_dtype();
        let plans = tensors.iter().map(|tensor| {
            let mut types = tensor.parts.iter().map(|part| plain(self.stored(&part.weight)));
            let first = types.next().unwrap_or(DType::F32);
            let common = if types.all(|other| other == first) { first } else { DType::F32 };
            let dtype = match self.options.float_type.dtype() {
                Some(dtype) => dtype,
                // GGUF has gains and routers in 32 bits, whatever they were made in.
                None if common == DType::F32 && matrix != DType::F32 && self.is_exact(tensor, matrix)? => {
                    matrix
                }
                None => common,
            };
            Ok(SafetensorsPlan { name: tensor.name.clone(), dtype, shape: tensor.shape.clone() })
        });
        plans.collect()
    }

    /// Whether the small weights in a tensor lose nothing in `dtype`.
    fn is_exact(&self, tensor: &FileTensor, dtype: DType) -> Result<bool, FormatError> {
        for part in &tensor.parts {
            if part.shape.len() > 1 && part.weight.part != Part::Router {
                return Ok(false);
            }
            let full = encode(self.source, &part.weight, DType::F32)?;
            if !crate::encode::is_exact(&full, dtype) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn assemble(&self, tensor: &FileTensor, dtype: DType) -> Result<Vec<u8>, FormatError> {
        fn assemble<const N: usize>(
            job: &Job<'_>,
            tensor: &FileTensor,
            dtype: DType,
        ) -> Result<Vec<u8>, FormatError>
        where
            [u8; N]: Default,
        {
            let values = tensor.assemble(|name| {
                let bytes = encode(job.source, name, dtype)?;
                Ok::<_, FormatError>(bytes.as_chunks::<N>().0.to_vec())
            })?;
            Ok(values.into_flattened())
        }
        match dtype.block_bytes() {
            2 => assemble::<2>(self, tensor, dtype),
            _ => assemble::<4>(self, tensor, dtype),
        }
    }
}

/// The plain type that weights of `dtype` become in a format without block quantisation.
fn plain(dtype: DType) -> DType {
    if dtype.is_quantised() { DType::BF16 } else { dtype }
}

/// `general.file_type` (llama.cpp's `llama_ftype`) of a file of plain floats.
fn file_type(plans: &[TensorPlan]) -> u32 {
    let matrices = || plans.iter().filter(|plan| plan.shape.len() > 1);
    match matrices().map(|plan| plan.dtype).find(|&dtype| dtype != DType::F32) {
        Some(DType::F16) => 1,
        Some(DType::BF16) => 32,
        _ => 0,
    }
}
