//! Reading one GGUF file: header, metadata and tensor headers, all checked against the bytes
//! there are before anything is allocated or believed.

use super::metadata::{GgufMetadata, Stored, Value, ValueType};
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS};
use crate::FormatError;
use crate::error::shown;
use crate::mmap::Mapped;
use alti_tensor::DType;
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Most metadata pairs and most tensors that are believed. Real files have tens and hundreds.
const MAX_ENTRIES: u64 = 1 << 16;
/// Longest key or tensor name, in bytes.
const MAX_NAME: u64 = 1 << 16;

/// One tensor's header.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// Name as in the file.
    pub name: String,
    /// Outermost dimension first (the file has them innermost first).
    pub shape: Vec<usize>,
    /// `ggml_type` as in the file.
    pub type_id: u32,
    /// The type, where it is one that can be read.
    pub dtype: Option<DType>,
    /// Where the data starts, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes of data; 0 where the type is unknown.
    pub bytes: u64,
}

/// An opened GGUF file (one of a split set, or whole).
#[derive(Debug)]
pub struct GgufFile {
    map: Arc<Mapped>,
    metadata: GgufMetadata,
    tensors: Vec<GgufTensor>,
}

impl GgufFile {
    /// Maps and checks a file of version 2 or 3.
    ///
    /// # Errors
    /// When it is no GGUF file, is damaged or truncated, or of another version or byte order.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let map = Arc::new(Mapped::open(path)?);
        let mut reader = Reader { path, bytes: map.bytes(), at: 0 };
        let [tensor_count, pair_count] = read_header(&mut reader)?;
        let mut metadata = GgufMetadata::new(Arc::clone(&map));
        for _ in 0..pair_count {
            read_pair(&mut reader, &mut metadata)?;
        }
        let alignment = alignment(&metadata)?;
        let mut tensors = (0..tensor_count)
            .map(|_| read_tensor_header(&mut reader))
            .collect::<Result<Vec<_>, FormatError>>()?;
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        check_tensors(path, &mut tensors, data_start, alignment, map.bytes().len() as u64)?;
        Ok(Self { map, metadata, tensors })
    }

    /// Gives back the memory of bytes that this lent.
    pub(crate) fn release(&self, bytes: &[u8]) {
        self.map.release(bytes);
    }

    /// The key-value pairs.
    pub fn metadata(&self) -> &GgufMetadata {
        &self.metadata
    }

    /// Tensor headers in file order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// A tensor's data; empty where its type is unknown.
    pub fn data(&self, tensor: &GgufTensor) -> &[u8] {
        let start = tensor.offset as usize;
        &self.map.bytes()[start..start + tensor.bytes as usize]
    }
}

/// A cursor over the file that knows how to complain.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, at: usize, problem: impl Into<String>) -> Result<T, FormatError> {
        Err(FormatError::malformed(self.path, at as u64, problem))
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, length: u64, what: &str) -> Result<&'a [u8], FormatError> {
        if length > self.left() {
            let left = self.left();
            let problem =
                format!("{what} of {length} bytes, but the file ends after {left} (truncated or damaged)");
            return self.fail(self.at, problem);
        }
        let start = self.at;
        self.at += length as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        let raw = self.take(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(raw);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str, longest: u64) -> Result<String, FormatError> {
        let start = self.at;
        let length = self.u64(what)?;
        if length > longest {
            return self.fail(start, format!("{what} of {length} bytes, longer than {longest}"));
        }
        let raw = self.take(length, what)?;
        match std::str::from_utf8(raw) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.fail(start, format!("{what} is not UTF-8 text")),
        }
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<[u64; 2], FormatError> {
    if reader.bytes.get(..4) != Some(&MAGIC) {
        return reader.fail(0, "is not a GGUF file (it does not begin with \"GGUF\")");
    }
    reader.at = 4;
    match reader.u32("version")? {
        2 | 3 => {}
        1 => return reader.fail(4, "GGUF version 1 is no longer read; convert the model anew"),
        version if version & 0xffff == 0 && version != 0 => {
            return reader.fail(4, "is a big-endian GGUF file; only little-endian ones are read");
        }
        version => return reader.fail(4, format!("GGUF version {version} is unknown; 2 and 3 are read")),
    }
    let tensor_count = reader.u64("tensor count")?;
    let pair_count = reader.u64("metadata count")?;
    for (at, count, what) in [(8, tensor_count, "tensors"), (16, pair_count, "metadata pairs")] {
        if count > MAX_ENTRIES {
            return reader.fail(at, format!("{count} {what}, more than the {MAX_ENTRIES} that are believed"));
        }
    }
    Ok([tensor_count, pair_count])
}

fn read_pair(reader: &mut Reader<'_>, metadata: &mut GgufMetadata) -> Result<(), FormatError> {
    let start = reader.at;
    let key = reader.string("metadata key", MAX_NAME)?;
    let value = read_value(reader)?;
    let name = shown(&key);
    if !metadata.insert(key, value) {
        return reader.fail(start, format!("metadata key {name} occurs twice"));
    }
    Ok(())
}

fn read_type(reader: &mut Reader<'_>) -> Result<ValueType, FormatError> {
    let start = reader.at;
    let id = reader.u32("value type")?;
    match ValueType::from_id(id) {
        Some(kind) => Ok(kind),
        None => reader.fail(start, format!("metadata value of unknown type {id}")),
    }
}

fn read_value(reader: &mut Reader<'_>) -> Result<Stored, FormatError> {
    const WHAT: &str = "metadata value";
    let value = match read_type(reader)? {
        ValueType::U8 => Value::U8(reader.array::<1>(WHAT)?[0]),
        ValueType::I8 => Value::I8(i8::from_le_bytes(reader.array(WHAT)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(reader.array(WHAT)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(reader.array(WHAT)?)),
        ValueType::U32 => Value::U32(reader.u32(WHAT)?),
        ValueType::I32 => Value::I32(i32::from_le_bytes(reader.array(WHAT)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(reader.array(WHAT)?)),
        ValueType::Bool => Value::Bool(reader.array::<1>(WHAT)?[0] != 0),
        ValueType::String => Value::String(reader.string(WHAT, u64::MAX)?),
        ValueType::U64 => Value::U64(reader.u64(WHAT)?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(reader.array(WHAT)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(reader.array(WHAT)?)),
        ValueType::Array => return read_array(reader),
    };
    Ok(Stored::Scalar(value))
}

fn read_array(reader: &mut Reader<'_>) -> Result<Stored, FormatError> {
    let start = reader.at;
    let element = read_type(reader)?;
    let count = reader.u64("array length")?;
    let first = reader.at;
    let range: Range<usize> = match element.fixed_bytes() {
        Some(size) => {
            reader.take(count.saturating_mul(size as u64), "array")?;
            first..reader.at
        }
        None if element == ValueType::Array => {
            return reader.fail(start, "an array of arrays, which no known metadata has");
        }
        None => {
            // Each string takes at least the eight bytes of its length.
            if count > reader.left() / 8 {
                return reader.fail(start, format!("an array of {count} strings in {} bytes", reader.left()));
            }
            for _ in 0..count {
                let length = reader.u64("string length")?;
                reader.take(length, "string")?;
            }
            first..reader.at
        }
    };
    Ok(Stored::Array { element, count, range })
}

fn alignment(metadata: &GgufMetadata) -> Result<u64, FormatError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.unsigned(KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        let problem = format!("is {alignment}, must be a power of two up to 2^20");
        return Err(FormatError::field(metadata.path(), KEY, problem));
    }
    Ok(alignment)
}

fn read_tensor_header(reader: &mut Reader<'_>) -> Result<GgufTensor, FormatError> {
    let start = reader.at;
    let name = reader.string("tensor name", MAX_NAME)?;
    let dimensions = reader.u32("number of dimensions")? as usize;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        let problem = format!("tensor {} has {dimensions} dimensions, must be 1 to 4", shown(&name));
        return reader.fail(start, problem);
    }
    let mut shape = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        let size = reader.u64("dimension")?;
        match usize::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return reader.fail(start, format!("tensor {} has a dimension of {size}", shown(&name))),
        }
    }
    shape.reverse();
    let type_id = reader.u32("tensor type")?;
    let offset = reader.u64("tensor offset")?;
    let dtype = DType::from_ggml_id(type_id);
    let bytes = match dtype {
        Some(dtype) => match data_bytes(dtype, &shape) {
            Some(bytes) => bytes,
            None => {
                let problem = format!("tensor {} of type {dtype} cannot have shape {shape:?}", shown(&name));
                return reader.fail(start, problem);
            }
        },
        None => 0,
    };
    Ok(GgufTensor { name, shape, type_id, dtype, offset, bytes })
}

fn data_bytes(dtype: DType, shape: &[usize]) -> Option<u64> {
    let whole_rows = shape.last()?.is_multiple_of(dtype.block_len());
    let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    dtype.bytes_for(elements).filter(|_| whole_rows).map(|bytes| bytes as u64)
}

/// Makes offsets absolute; refuses data outside the file, overlaps and names that occur twice.
fn check_tensors(
    path: &Path,
    tensors: &mut [GgufTensor],
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), FormatError> {
    let mut names = HashSet::with_capacity(tensors.len());
    for tensor in tensors.iter_mut() {
        let fail = |at: u64, problem: String| {
            Err(FormatError::malformed(path, at, format!("tensor {} {problem}", shown(&tensor.name))))
        };
        if !names.insert(tensor.name.as_str()) {
            return fail(data_start, "occurs twice".into());
        }
        if !tensor.offset.is_multiple_of(alignment) {
            return fail(tensor.offset, format!("is not aligned to {alignment} bytes"));
        }
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => tensor.offset = start,
            _ => {
                let problem = format!(
                    "has {} bytes from offset {} of the data on, but the file ends at byte {file_bytes} (truncated or damaged)",
                    tensor.bytes, tensor.offset
                );
                return fail(data_start, problem);
            }
        }
    }
    let mut in_order: Vec<&GgufTensor> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.offset);
    for pair in in_order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let problem = format!("tensors {} and {} overlap", shown(&pair[0].name), shown(&pair[1].name));
            return Err(FormatError::malformed(path, pair[1].offset, problem));
        }
    }
    Ok(())
}
