//! The tensors of a Hugging Face checkpoint: one safetensors file, or several with an index.

use crate::FormatError;
use crate::error::shown;
use crate::files::read_small_json;
use crate::mmap::Mapped;
use alti_tensor::DType;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Longest header that is parsed: tens of thousands of tensors. Parsing takes some thirty times
/// the header in memory at worst, which this bounds.
const MAX_HEADER: u64 = 2 << 20;
/// Longest `*.index.json`.
const MAX_INDEX: u64 = 2 << 20;

/// One safetensors file.
#[derive(Debug)]
struct SafetensorsFile {
    map: Mapped,
    header: Metadata,
    data_start: usize,
}

/// A tensor's header.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor<'a> {
    pub(crate) dtype: Option<DType>,
    pub(crate) dtype_name: String,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

/// All tensors of a checkpoint by name.
#[derive(Debug)]
pub(crate) struct SafetensorsStore {
    files: Vec<SafetensorsFile>,
    index: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl SafetensorsFile {
    fn open(path: &Path) -> Result<Self, FormatError> {
        let map = Mapped::open(path)?;
        let bytes = map.bytes();
        let Some(length) = bytes.first_chunk::<8>().map(|raw| u64::from_le_bytes(*raw)) else {
            return Err(FormatError::malformed(path, 0, "is too short for a safetensors file"));
        };
        if length > MAX_HEADER || length > bytes.len() as u64 - 8 {
            let why = match length > bytes.len() as u64 - 8 {
                true => "not a safetensors file, truncated or damaged".to_owned(),
                false => format!("the longest that is read has {MAX_HEADER} bytes"),
            };
            let problem = format!("header of {length} bytes, in a file of {} ({why})", bytes.len());
            return Err(FormatError::malformed(path, 0, problem));
        }
        let (header_bytes, header) = SafeTensors::read_metadata(bytes)
            .map_err(|e| FormatError::malformed(path, 8, shown(&e.to_string())))?;
        Ok(Self { data_start: 8 + header_bytes, header, map })
    }
}

impl SafetensorsStore {
    /// Gives back the memory of a tensor.
    pub(crate) fn release(&self, name: &str) {
        if let (Some(&file), Some(tensor)) = (self.index.get(name), self.tensor(name)) {
            self.files[file].map.release(tensor.bytes);
        }
    }

    /// Opens the safetensors file or `*.index.json` at `path`, or those in the folder `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let weights = if path.is_dir() { find_weights(path)? } else { path.to_owned() };
        if weights.extension().is_some_and(|extension| extension == "json") {
            return Self::open_sharded(&weights);
        }
        let file = SafetensorsFile::open(&weights)?;
        let index = file.header.offset_keys().into_iter().map(|name| (name, 0)).collect();
        Ok(Self { files: vec![file], index })
    }

    fn open_sharded(index_path: &Path) -> Result<Self, FormatError> {
        let ShardIndex { weight_map } = read_small_json(index_path, MAX_INDEX)?;
        let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        let mut files = Vec::with_capacity(names.len());
        let mut numbers = HashMap::new();
        for (number, name) in names.into_iter().enumerate() {
            let plain = Path::new(name).components().count() == 1 && name.ends_with(".safetensors");
            if !plain {
                let problem = format!("names {}, which is no safetensors file beside it", shown(name));
                return Err(FormatError::field(index_path, "weight_map", problem));
            }
            files.push(SafetensorsFile::open(&index_path.with_file_name(name))?);
            numbers.insert(name, number);
        }
        let mut index = HashMap::with_capacity(weight_map.len());
        for (tensor, file) in &weight_map {
            let number = numbers[file.as_str()];
            if files[number].header.info(tensor).is_none() {
                let problem = format!("is not in {}, where the index says it is", shown(file));
                return Err(FormatError::tensor(index_path, tensor, problem));
            }
            index.insert(tensor.clone(), number);
        }
        Ok(Self { files, index })
    }

    /// Every tensor's name, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let file = &self.files[*self.index.get(name)?];
        let info = file.header.info(name)?;
        let (start, end) = info.data_offsets;
        Some(StoredTensor {
            dtype: match info.dtype {
                Dtype::F32 => Some(DType::F32),
                Dtype::F16 => Some(DType::F16),
                Dtype::BF16 => Some(DType::BF16),
                _ => None,
            },
            dtype_name: format!("{:?}", info.dtype),
            shape: &info.shape,
            bytes: &file.map.bytes()[file.data_start + start..file.data_start + end],
        })
    }
}

/// The file in a model folder that holds, or lists, the weights.
fn find_weights(folder: &Path) -> Result<PathBuf, FormatError> {
    for name in ["model.safetensors.index.json", "model.safetensors"] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let entries = std::fs::read_dir(folder).map_err(|e| FormatError::io(folder, "list", e))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(FormatError::unsupported(
            folder,
            "has several safetensors files but no model.safetensors.index.json that lists them",
        )),
        (None, _) => Err(FormatError::unsupported(
            folder,
            "has a config.json but no safetensors file (pytorch_model.bin files are not read)",
        )),
    }
}
