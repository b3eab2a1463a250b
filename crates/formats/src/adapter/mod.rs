//! LoRA adapters (Hu et al. 2021): for some of a model's matrices `W`, two thin ones, so that the model computes with
//! `W + scale B A`. PEFT's folders and llama.cpp's GGUF files behind one view, in the canonical layout.

mod gguf;
mod peft;

use crate::FormatError;
use crate::config::ModelConfig;
use crate::gguf::SplitGguf;
use crate::hugging_face::SafetensorsStore;
use crate::names::{Part, WeightName};
use crate::placement::{Placement, gather_bytes};
use alti_tensor::{DType, WeightData, quant};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The matrices that an adapter may change. Tables of rows (the embedding) and routed experts are read by other
/// operations than a product.
const ADAPTABLE: [Part; 11] = [
    Part::AttentionQuery,
    Part::AttentionKey,
    Part::AttentionValue,
    Part::AttentionOutput,
    Part::Gate,
    Part::Up,
    Part::Down,
    Part::SharedGate,
    Part::SharedUp,
    Part::SharedDown,
    Part::Output,
];

/// An opened adapter, checked against the model that it is for.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    matrices: Vec<AdapterMatrix>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Peft(SafetensorsStore),
    Gguf(SplitGguf),
}

/// What an adapter adds to one matrix of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterMatrix {
    /// The matrix.
    pub name: WeightName,
    /// Its shape, `[out, in]`.
    pub shape: [usize; 2],
    /// Rows of A, columns of B.
    pub rank: usize,
    /// Factor on `B A`.
    pub scale: f32,
    /// A and B as the file spells them.
    spelled: [String; 2],
    /// Where B's rows are in the file.
    placement: Placement,
}

/// A and B of a matrix as plain numbers (F32 or F16).
#[derive(Clone, Debug)]
pub struct AdapterWeights<'a> {
    /// A, `[rank, in]`.
    pub down: WeightData<'a>,
    /// B, `[out, rank]`.
    pub up: WeightData<'a>,
}

/// A tensor in a file, whichever kind of file.
struct Stored<'a> {
    shape: &'a [usize],
    dtype: Option<DType>,
    dtype_name: String,
    bytes: &'a [u8],
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// The folder of an adapter as PEFT saves them, if that is what the path means.
fn peft_folder(path: &Path) -> Option<&Path> {
    if path.is_dir() {
        return Some(path);
    }
    let is_of_two = has_extension(path, "safetensors") || has_extension(path, "json");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    is_of_two.then(|| folder.unwrap_or(Path::new(".")))
}

impl Adapter {
    /// Opens a PEFT folder (`adapter_config.json` and `adapter_model.safetensors`), one of its two files, or a GGUF
    /// file of type `adapter`, for a model of this shape.
    ///
    /// # Errors
    /// When there is no adapter at `path`, it is damaged, of a kind that cannot be computed (DoRA, biases, trained
    /// embeddings, ...), or for a model of another shape.
    pub fn open(path: &Path, model: &ModelConfig) -> Result<Adapter, FormatError> {
        let adapter = if let Some(folder) = peft_folder(path) {
            peft::open(folder, model)?
        } else if has_extension(path, "gguf") {
            gguf::open(path, model)?
        } else {
            return Err(FormatError::unsupported(
                path,
                "is not an adapter: a PEFT folder (adapter_config.json, adapter_model.safetensors) or a .gguf file is",
            ));
        };
        if adapter.matrices.is_empty() {
            return Err(FormatError::unsupported(path, "is an adapter without any matrix"));
        }
        Ok(adapter)
    }

    /// The files that [`Adapter::open`] reads of an adapter at `path`, whether they are there or not.
    pub fn files(path: &Path) -> Vec<PathBuf> {
        match peft_folder(path) {
            Some(folder) => [peft::CONFIG, peft::WEIGHTS].map(|name| folder.join(name)).to_vec(),
            None => vec![path.to_owned()],
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The matrices that it changes, in model order.
    pub fn matrices(&self) -> &[AdapterMatrix] {
        &self.matrices
    }

    /// A and B of one of [`Adapter::matrices`].
    ///
    /// # Errors
    /// When they cannot be decoded.
    pub fn load(&self, matrix: &AdapterMatrix) -> Result<AdapterWeights<'_>, FormatError> {
        let [out, inputs] = matrix.shape;
        let [down, up] = &matrix.spelled;
        Ok(AdapterWeights {
            down: self.plain(down, vec![matrix.rank, inputs], Placement::Same)?,
            up: self.plain(up, vec![out, matrix.rank], matrix.placement)?,
        })
    }

    /// What tells this adapter from others: equal for equal weights and scales, whatever the file is called.
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn fingerprint(&self) -> Result<String, FormatError> {
        let mut hash = Sha256::new();
        for matrix in &self.matrices {
            let AdapterMatrix { name, shape, rank, scale, .. } = matrix;
            hash.update(format!("{name} {shape:?} {rank} {:08x}", scale.to_bits()));
            let AdapterWeights { down, up } = self.load(matrix)?;
            for weight in [down, up] {
                hash.update(weight.dtype.name());
                hash.update(&weight.bytes);
            }
        }
        Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }

    fn plain(
        &self,
        name: &str,
        shape: Vec<usize>,
        placement: Placement,
    ) -> Result<WeightData<'_>, FormatError> {
        let fail = |problem: String| FormatError::tensor(&self.path, name, problem);
        let stored = self.source.tensor(name).ok_or_else(|| fail("is missing".to_owned()))?;
        let dtype = stored.dtype.ok_or_else(|| fail(unreadable(&stored.dtype_name)))?;
        let bytes = match placement {
            Placement::Same => stored.bytes.into(),
            _ => gather_bytes(&placement, &shape, dtype, stored.bytes),
        };
        let weight = WeightData::new(dtype, shape, bytes).map_err(|error| fail(error.to_string()))?;
        if matches!(dtype, DType::F32 | DType::F16) {
            return Ok(weight);
        }
        let mut values = vec![0f32; weight.shape.iter().product()];
        quant::dequantize(dtype, &weight.bytes, &mut values).map_err(|error| fail(error.to_string()))?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        WeightData::new(DType::F32, weight.shape, bytes.into()).map_err(|error| fail(error.to_string()))
    }
}

fn unreadable(dtype: &str) -> String {
    format!("is of type {dtype}, which is not read")
}

impl Source {
    fn tensor(&self, name: &str) -> Option<Stored<'_>> {
        match self {
            Source::Peft(store) => store.tensor(name).map(|tensor| Stored {
                shape: tensor.shape,
                dtype: tensor.dtype,
                dtype_name: tensor.dtype_name,
                bytes: tensor.bytes,
            }),
            Source::Gguf(file) => file.tensor(name).map(|(tensor, bytes)| Stored {
                shape: &tensor.shape,
                dtype: tensor.dtype,
                dtype_name: crate::gguf::type_name(tensor.type_id),
                bytes,
            }),
        }
    }
}

/// The pairs of A and B that a file has, by weight, as they are found one by one.
#[derive(Default)]
struct Pairs(BTreeMap<WeightName, [Option<String>; 2]>);

impl Pairs {
    /// Notes that the tensor `spelled` is A (`side` 0) or B (`side` 1) of a weight.
    fn add(&mut self, path: &Path, name: WeightName, side: usize, spelled: &str) -> Result<(), FormatError> {
        if !ADAPTABLE.contains(&name.part) {
            let problem = "adapts a weight that cannot be adapted here; projections of attention, of the dense and \
                           shared feed-forward blocks, and the output matrix can";
            return Err(FormatError::tensor(path, spelled, problem));
        }
        match self.0.entry(name).or_default()[side].replace(spelled.to_owned()) {
            None => Ok(()),
            Some(other) => {
                let problem = format!("is the same matrix as {}", crate::error::shown(&other));
                Err(FormatError::tensor(path, spelled, problem))
            }
        }
    }

    /// Every pair with its rank, checked against the model, and `scale(name, spelling of A, rank)`.
    fn check(
        self,
        path: &Path,
        model: &ModelConfig,
        source: &Source,
        placement: impl Fn(&WeightName, &[usize]) -> Placement,
        scale: impl Fn(&WeightName, &str, usize) -> Result<f32, FormatError>,
    ) -> Result<Vec<AdapterMatrix>, FormatError> {
        let mut shapes: HashMap<WeightName, Vec<usize>> = model.weight_shapes().into_iter().collect();
        // Where the output matrix is the embedding, an adapter may change it as the output alone.
        shapes
            .entry(WeightName::global(Part::Output))
            .or_insert_with(|| vec![model.vocabulary_size, model.embedding_length]);
        let mut matrices = Vec::with_capacity(self.0.len());
        for (name, pair) in self.0 {
            let spelled = match pair {
                [Some(down), Some(up)] => [down, up],
                [Some(one), None] | [None, Some(one)] => {
                    return Err(FormatError::tensor(path, &one, "comes without its other half (A and B)"));
                }
                [None, None] => continue,
            };
            let Some(&[out, inputs]) = shapes.get(&name).map(Vec::as_slice) else {
                let problem = format!("adapts {name}, which the model does not have");
                return Err(FormatError::tensor(path, &spelled[0], problem));
            };
            let rank = check_shapes(path, source, &spelled, [out, inputs])?;
            let scale = scale(&name, &spelled[0], rank)?;
            if !scale.is_finite() {
                let problem = format!("has a scale of {scale}");
                return Err(FormatError::tensor(path, &spelled[0], problem));
            }
            let placement = placement(&name, &[out, rank]);
            matrices.push(AdapterMatrix { name, shape: [out, inputs], rank, scale, spelled, placement });
        }
        Ok(matrices)
    }
}

/// The rank of a pair for a matrix `[out, in]`.
fn check_shapes(
    path: &Path,
    source: &Source,
    spelled: &[String; 2],
    [out, inputs]: [usize; 2],
) -> Result<usize, FormatError> {
    let mut shapes = [const { [0; 2] }; 2];
    for (name, shape) in spelled.iter().zip(&mut shapes) {
        let Some(tensor) = source.tensor(name) else {
            return Err(FormatError::tensor(path, name, "is missing"));
        };
        if tensor.dtype.is_none() {
            return Err(FormatError::tensor(path, name, unreadable(&tensor.dtype_name)));
        }
        *shape = match *tensor.shape {
            [rows, columns] => [rows, columns],
            _ => {
                let problem = format!("has shape {:?}, must be a matrix", tensor.shape);
                return Err(FormatError::tensor(path, name, problem));
            }
        };
    }
    let [down, up] = shapes;
    let rank = down[0];
    if down[1] != inputs || up[0] != out {
        let problem = format!(
            "has shape {down:?}, and B {up:?}: they are not for the model's matrix of shape [{out}, {inputs}] (is the \
             adapter another model's?)"
        );
        return Err(FormatError::tensor(path, &spelled[0], problem));
    }
    if up[1] != rank || rank == 0 || rank > out.max(inputs) {
        let problem = format!(
            "has shape {down:?}, and B {up:?}: these have no rank in common, or none that makes sense"
        );
        return Err(FormatError::tensor(path, &spelled[0], problem));
    }
    Ok(rank)
}
