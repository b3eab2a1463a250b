//! Writing GGUF files, version 3, little-endian: tensors are streamed one by one, so that a model
//! larger than memory can be written, and files appear under their names only when complete.

use super::metadata::Value;
use super::split::split_name;
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS};
use crate::FormatError;
use crate::files::{AtomicFile, check_target};
use crate::progress::Progress;
use alti_tensor::DType;
use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The version written.
const VERSION: u32 = 3;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name in the file.
    pub name: String,
    /// Encoding.
    pub dtype: DType,
    /// Outermost dimension first, one to four; rows are whole blocks.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    fn bytes(&self) -> Option<u64> {
        let whole_rows = self.shape.last()?.is_multiple_of(self.dtype.block_len());
        let elements = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
        let valid = whole_rows && elements > 0 && self.shape.len() <= MAX_DIMENSIONS;
        self.dtype.bytes_for(elements).filter(|_| valid).map(|bytes| bytes as u64)
    }
}

/// How a GGUF file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Most bytes of tensors in a file; more become several files. `None`: one file.
    pub split: Option<u64>,
    /// Whether files that are there may be replaced.
    pub replace: bool,
}

/// Writes a GGUF file, or a split set where the tensors exceed what one file may hold; `data`
/// gives tensor `i`'s bytes when its turn comes. Returns the paths written, in order.
///
/// A split set is named after `path` as llama.cpp names it (`name-00001-of-00003.gguf`), with the
/// metadata in the first file. Files are renamed into place when all are complete, the first last.
///
/// # Errors
/// Those of `data`; a tensor that cannot be (odd rows, names that occur twice, other than the
/// planned bytes); a file that is there and may not be replaced; the file system's.
pub fn write_gguf<'a>(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[TensorPlan],
    mut data: impl FnMut(usize) -> Result<Cow<'a, [u8]>, FormatError>,
    options: WriteOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<PathBuf>, FormatError> {
    let sizes = plan_sizes(path, tensors)?;
    let groups = split_groups(&sizes, options.split);
    let total: u64 = sizes.iter().sum();
    let mut done = 0;
    let targets: Vec<PathBuf> = match groups.len() {
        1 => vec![path.to_owned()],
        count => (1..=count).map(|number| split_path(path, number as u64, count as u64)).collect(),
    };
    // Of all files before the first is written: encoding them takes long.
    targets.iter().try_for_each(|target| check_target(target, options.replace))?;
    let mut files = Vec::with_capacity(groups.len());
    for (number, (group, target)) in groups.iter().zip(&targets).enumerate() {
        let mut pairs = if number == 0 { metadata.to_vec() } else { Vec::new() };
        if groups.len() > 1 {
            pairs.extend(split_metadata(number, groups.len(), tensors.len()));
        }
        let mut file = AtomicFile::create(target, options.replace)?;
        write_header(&mut file, &pairs, &tensors[group.clone()], &sizes[group.clone()])?;
        for index in group.clone() {
            let tensor = &tensors[index];
            progress(Progress { done, total, tensor: &tensor.name });
            let bytes = data(index)?;
            if bytes.len() as u64 != sizes[index] {
                let problem = format!("has {} bytes, planned were {}", bytes.len(), sizes[index]);
                return Err(FormatError::tensor(path, &tensor.name, problem));
            }
            file.write(&bytes)?;
            file.pad_to(DEFAULT_ALIGNMENT)?;
            done += sizes[index];
        }
        file.sync()?;
        files.push(file);
    }
    progress(Progress { done, total, tensor: "" });
    files.into_iter().rev().try_for_each(AtomicFile::commit)?;
    Ok(targets)
}

fn plan_sizes(path: &Path, tensors: &[TensorPlan]) -> Result<Vec<u64>, FormatError> {
    let mut names = HashSet::new();
    let sizes = tensors.iter().map(|tensor| {
        let problem = match tensor.bytes() {
            Some(bytes) if names.insert(&tensor.name) => return Ok(bytes),
            Some(_) => "occurs twice".to_owned(),
            None => format!("of type {} cannot have shape {:?}", tensor.dtype, tensor.shape),
        };
        Err(FormatError::tensor(path, &tensor.name, problem))
    });
    sizes.collect()
}

/// Runs of tensors that go into one file each; at least one run, none empty unless there is no
/// tensor.
fn split_groups(sizes: &[u64], split: Option<u64>) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (index, size) in sizes.iter().enumerate() {
        if index > start && split.is_some_and(|most| bytes + size > most) {
            groups.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    groups.push(start..sizes.len());
    groups
}

fn split_path(path: &Path, number: u64, count: u64) -> PathBuf {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    path.with_file_name(split_name(&stem, number, count))
}

fn split_metadata(number: usize, count: usize, tensors: usize) -> [(String, Value); 3] {
    [
        ("split.no".to_owned(), Value::U16(number as u16)),
        ("split.count".to_owned(), Value::U16(count as u16)),
        ("split.tensors.count".to_owned(), Value::I32(tensors as i32)),
    ]
}

fn write_header(
    file: &mut AtomicFile,
    metadata: &[(String, Value)],
    tensors: &[TensorPlan],
    sizes: &[u64],
) -> Result<(), FormatError> {
    let mut header = Vec::new();
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        push_string(&mut header, key);
        header.extend((value.value_type() as u32).to_le_bytes());
        push_value(&mut header, value);
    }
    let mut offset = 0u64;
    for (tensor, size) in tensors.iter().zip(sizes) {
        push_string(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for &dimension in tensor.shape.iter().rev() {
            header.extend((dimension as u64).to_le_bytes());
        }
        header.extend(tensor.dtype.info().ggml_id.to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += size.next_multiple_of(DEFAULT_ALIGNMENT);
    }
    file.write(&header)?;
    file.pad_to(DEFAULT_ALIGNMENT)
}

fn push_string(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}

fn push_value(header: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => header.push(*v),
        Value::I8(v) => header.extend(v.to_le_bytes()),
        Value::U16(v) => header.extend(v.to_le_bytes()),
        Value::I16(v) => header.extend(v.to_le_bytes()),
        Value::U32(v) => header.extend(v.to_le_bytes()),
        Value::I32(v) => header.extend(v.to_le_bytes()),
        Value::F32(v) => header.extend(v.to_le_bytes()),
        Value::Bool(v) => header.push(u8::from(*v)),
        Value::String(text) => push_string(header, text),
        Value::U64(v) => header.extend(v.to_le_bytes()),
        Value::I64(v) => header.extend(v.to_le_bytes()),
        Value::F64(v) => header.extend(v.to_le_bytes()),
        Value::Array { element, count, bytes } => {
            header.extend((*element as u32).to_le_bytes());
            header.extend(count.to_le_bytes());
            header.extend(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_split_between_tensors() {
        assert_eq!(split_groups(&[4, 4, 4], None).as_slice(), std::slice::from_ref(&(0..3)));
        assert_eq!(split_groups(&[4, 4, 4], Some(8)), [0..2, 2..3]);
        assert_eq!(split_groups(&[9, 1, 9], Some(4)), [0..1, 1..2, 2..3]);
        assert_eq!(split_groups(&[], Some(4)).as_slice(), std::slice::from_ref(&(0..0)));
    }
}
