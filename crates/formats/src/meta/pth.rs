//! One `.pth` file: its pickle's tensors, resolved to bytes of the mapped archive.

use super::pickle::{self, PickledTensor};
use super::zip;
use crate::FormatError;
use crate::error::shown;
use crate::mmap::Mapped;
use alti_tensor::DType;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Begins files of PyTorch before 1.6: protocol 2, then a long magic number.
const LEGACY: [u8; 5] = [0x80, 0x02, 0x8a, 0x0a, 0x6c];

/// A tensor in the file.
#[derive(Clone, Debug)]
pub(super) struct PthTensor {
    pickled: Arc<PickledTensor>,
    storage: Range<usize>,
}

impl PthTensor {
    pub(super) fn shape(&self) -> &[usize] {
        &self.pickled.shape
    }

    pub(super) fn dtype(&self) -> Option<DType> {
        self.pickled.dtype
    }

    pub(super) fn dtype_name(&self) -> &str {
        self.pickled.storage_class
    }

    /// Whether both are the same view of the same storage.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.pickled == other.pickled
    }

    fn is_contiguous(&self) -> bool {
        if self.pickled.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        self.pickled.shape.iter().zip(&self.pickled.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}

/// An opened file.
#[derive(Debug)]
pub(super) struct PthFile {
    map: Mapped,
    tensors: HashMap<String, PthTensor>,
}

impl PthFile {
    pub(super) fn open(path: &Path) -> Result<Self, FormatError> {
        let map = Mapped::open(path)?;
        if map.bytes().starts_with(&LEGACY) {
            let problem = "was written by PyTorch before 1.6; load and save it again with a newer one";
            return Err(FormatError::unsupported(path, problem));
        }
        let entries = zip::entries(path, map.bytes())?;
        let main = entries.keys().filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl")).min();
        let Some(main) = main else {
            return Err(FormatError::malformed(
                path,
                0,
                "an archive without data.pkl: torch.save did not write it",
            ));
        };
        let prefix = main.strip_suffix("data.pkl").unwrap_or_default();
        check_byte_order(path, map.bytes(), entries.get(&format!("{prefix}byteorder")))?;
        let program = entries[main].clone();
        let pickled = pickle::tensors(&map.bytes()[program.clone()])
            .map_err(|e| FormatError::malformed(path, (program.start + e.at) as u64, e.problem))?;
        let mut tensors = HashMap::with_capacity(pickled.len());
        for (name, pickled) in pickled {
            let storage = entries.get(&format!("{prefix}data/{}", pickled.key)).cloned();
            // Types that are not read have an element of a byte or more.
            let needed = match pickled.dtype {
                Some(dtype) => dtype.bytes_for(pickled.count),
                None => Some(pickled.count),
            };
            match storage {
                Some(storage) if needed.is_some_and(|needed| storage.len() >= needed) => {
                    tensors.insert(name, PthTensor { pickled, storage });
                }
                _ => {
                    let problem =
                        format!("has storage {}, which is missing or too short", shown(&pickled.key));
                    return Err(FormatError::tensor(path, &name, problem));
                }
            }
        }
        Ok(Self { map, tensors })
    }

    pub(super) fn path(&self) -> &Path {
        self.map.path()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&PthTensor> {
        self.tensors.get(name)
    }

    /// A tensor's elements, row-major; borrowed where they are so in the file.
    pub(super) fn data(&self, tensor: &PthTensor) -> Cow<'_, [u8]> {
        let size = tensor.dtype().map_or(0, DType::block_bytes);
        let PickledTensor { offset, shape, strides, .. } = &*tensor.pickled;
        let storage = &self.map.bytes()[tensor.storage.clone()];
        let elements: usize = shape.iter().product();
        if tensor.is_contiguous() {
            return Cow::Borrowed(&storage[offset * size..][..elements * size]);
        }
        let mut out = Vec::with_capacity(elements * size);
        let mut index = vec![0; shape.len()];
        for _ in 0..elements {
            let at: usize = offset + index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
            out.extend(&storage[at * size..][..size]);
            for (i, &extent) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < extent {
                    break;
                }
                *i = 0;
            }
        }
        Cow::Owned(out)
    }
}

fn check_byte_order(path: &Path, file: &[u8], entry: Option<&Range<usize>>) -> Result<(), FormatError> {
    match entry {
        Some(range) if &file[range.clone()] == b"big" => Err(FormatError::malformed(
            path,
            range.start as u64,
            "holds big-endian tensors, which are not read",
        )),
        _ => Ok(()),
    }
}
