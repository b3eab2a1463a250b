//! GGUF metadata: typed key-value pairs. Scalars are decoded when the file is opened; arrays (a
//! vocabulary is a hundred thousand strings) stay in the map and are decoded when asked for.

use crate::FormatError;
use crate::error::shown;
use crate::mmap::Mapped;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Type of a metadata value, with its number in the file.
#[allow(missing_docs)] // the names are the types
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this number.
    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }

    /// Bytes of one value; `None` for strings and arrays, which say their length.
    pub(crate) const fn fixed_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// A metadata value. Arrays hold the elements' values; they are never nested.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// 8-bit unsigned.
    U8(u8),
    /// 8-bit signed.
    I8(i8),
    /// 16-bit unsigned.
    U16(u16),
    /// 16-bit signed.
    I16(i16),
    /// 32-bit unsigned.
    U32(u32),
    /// 32-bit signed.
    I32(i32),
    /// Single precision.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// 64-bit unsigned.
    U64(u64),
    /// 64-bit signed.
    I64(i64),
    /// Double precision.
    F64(f64),
    /// Elements of one type, encoded as in the file: fixed-size little-endian values, or strings
    /// each after a 64-bit length.
    Array {
        /// The elements' type.
        element: ValueType,
        /// How many there are.
        count: u64,
        /// Their encoding.
        bytes: Vec<u8>,
    },
}

impl Value {
    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(values: impl IntoIterator<Item = S>) -> Self {
        let (mut count, mut bytes) = (0, Vec::new());
        for value in values {
            bytes.extend((value.as_ref().len() as u64).to_le_bytes());
            bytes.extend(value.as_ref());
            count += 1;
        }
        Self::Array { element: ValueType::String, count, bytes }
    }

    /// An array of 32-bit signed integers.
    pub fn i32s(values: impl IntoIterator<Item = i32>) -> Self {
        Self::fixed(ValueType::I32, values.into_iter().map(i32::to_le_bytes))
    }

    /// An array of 32-bit unsigned integers.
    pub fn u32s(values: impl IntoIterator<Item = u32>) -> Self {
        Self::fixed(ValueType::U32, values.into_iter().map(u32::to_le_bytes))
    }

    /// An array of single-precision numbers.
    pub fn f32s(values: impl IntoIterator<Item = f32>) -> Self {
        Self::fixed(ValueType::F32, values.into_iter().map(f32::to_le_bytes))
    }

    /// An array of booleans.
    pub fn bools(values: impl IntoIterator<Item = bool>) -> Self {
        Self::fixed(ValueType::Bool, values.into_iter().map(|value| [u8::from(value)]))
    }

    fn fixed<const N: usize>(element: ValueType, values: impl Iterator<Item = [u8; N]>) -> Self {
        let bytes: Vec<u8> = values.flatten().collect();
        Self::Array { element, count: (bytes.len() / N) as u64, bytes }
    }

    /// This value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array { .. } => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value as an unsigned integer, whatever integer type holds it.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a single-precision number, from either precision.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => None,
        }
    }
}

/// How a value is kept: decoded, or where it is.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Scalar(Value),
    Array { element: ValueType, count: u64, range: Range<usize> },
}

/// An array of metadata, still in the map.
#[derive(Clone, Copy, Debug)]
pub struct ArrayView<'a> {
    /// The elements' type.
    pub element: ValueType,
    /// How many there are.
    pub count: usize,
    bytes: &'a [u8],
}

impl<'a> ArrayView<'a> {
    /// The elements of an array of strings, as bytes (a vocabulary may hold pieces that are no
    /// UTF-8); empty for other arrays.
    pub fn byte_strings(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = if self.element == ValueType::String { self.bytes } else { &[] };
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<8>()?;
            let (text, after) = after.split_at_checked(u64::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(text)
        })
    }

    /// The elements of an array of any integer type (booleans are 0 and 1); empty for other arrays.
    pub fn integers(&self) -> impl Iterator<Item = i64> + use<'a> {
        let (element, bytes) = (self.element, self.bytes);
        let size = match element {
            ValueType::F32 | ValueType::F64 | ValueType::String | ValueType::Array => 0,
            _ => element.fixed_bytes().unwrap_or(0),
        };
        let count = bytes.len().checked_div(size).unwrap_or(0);
        (0..count).map(move |i| {
            let raw = &bytes[i * size..][..size];
            let mut wide = [0u8; 8];
            wide[..size].copy_from_slice(raw);
            let unsigned = i64::from_le_bytes(wide);
            let signed = matches!(element, ValueType::I8 | ValueType::I16 | ValueType::I32);
            let shift = if signed { 64 - 8 * size as u32 } else { 0 };
            (unsigned << shift) >> shift
        })
    }

    /// The elements of an array of either floating-point type; empty for other arrays.
    pub fn floats(&self) -> impl Iterator<Item = f32> + use<'a> {
        let singles = if self.element == ValueType::F32 { self.bytes } else { &[] };
        let doubles = if self.element == ValueType::F64 { self.bytes } else { &[] };
        let single = singles.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
        let double = doubles.as_chunks::<8>().0.iter().map(|raw| f64::from_le_bytes(*raw) as f32);
        single.chain(double)
    }
}

/// The key-value pairs of a GGUF file, in file order.
#[derive(Clone, Debug)]
pub struct GgufMetadata {
    file: Arc<Mapped>,
    entries: Vec<(String, Stored)>,
    index: HashMap<String, usize>,
}

impl GgufMetadata {
    pub(crate) fn new(file: Arc<Mapped>) -> Self {
        Self { file, entries: Vec::new(), index: HashMap::new() }
    }

    /// Adds a pair; false when the key is there already.
    pub(crate) fn insert(&mut self, key: String, value: Stored) -> bool {
        if self.index.contains_key(&key) {
            return false;
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// The file these pairs are from.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Keys in file order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// The value of `key`, an array copied out of the map.
    pub fn get(&self, key: &str) -> Option<Value> {
        match self.stored(key)? {
            Stored::Scalar(value) => Some(value.clone()),
            Stored::Array { element, count, range } => Some(Value::Array {
                element: *element,
                count: *count,
                bytes: self.file.bytes()[range.clone()].to_vec(),
            }),
        }
    }

    fn stored(&self, key: &str) -> Option<&Stored> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    fn scalar(&self, key: &str) -> Option<&Value> {
        match self.stored(key)? {
            Stored::Scalar(value) => Some(value),
            Stored::Array { .. } => None,
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(stored) = self.stored(key) else { return Ok(None) };
        let value = match stored {
            Stored::Scalar(value) => read(value),
            Stored::Array { .. } => None,
        };
        match value {
            Some(value) => Ok(Some(value)),
            None => {
                let kind = self.scalar(key).map_or(ValueType::Array, Value::value_type);
                Err(FormatError::field(self.path(), shown(key), format!("is of type {kind:?}, not {wanted}")))
            }
        }
    }

    /// An integer that is not negative.
    ///
    /// # Errors
    /// When the key has a value of another type.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, FormatError> {
        self.typed(key, "an unsigned integer", Value::as_u64)
    }

    /// A number.
    ///
    /// # Errors
    /// When the key has a value of another type.
    pub fn float(&self, key: &str) -> Result<Option<f32>, FormatError> {
        self.typed(key, "a number", Value::as_f32)
    }

    /// A boolean.
    ///
    /// # Errors
    /// When the key has a value of another type.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A text.
    ///
    /// # Errors
    /// When the key has a value of another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>, FormatError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array, to be read element by element.
    ///
    /// # Errors
    /// When the key has a scalar.
    pub fn array(&self, key: &str) -> Result<Option<ArrayView<'_>>, FormatError> {
        match self.stored(key) {
            None => Ok(None),
            Some(Stored::Array { element, count, range }) => Ok(Some(ArrayView {
                element: *element,
                count: *count as usize,
                bytes: &self.file.bytes()[range.clone()],
            })),
            Some(Stored::Scalar(value)) => {
                let problem = format!("is of type {:?}, not an array", value.value_type());
                Err(FormatError::field(self.path(), shown(key), problem))
            }
        }
    }

    /// An array of texts.
    ///
    /// # Errors
    /// When the key has a value of another type, or an element is not UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, FormatError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if array.element != ValueType::String {
            let problem = format!("is an array of {:?}, not of strings", array.element);
            return Err(FormatError::field(self.path(), shown(key), problem));
        }
        let texts = array.byte_strings().enumerate().map(|(at, raw)| {
            std::str::from_utf8(raw).map_err(|_| {
                FormatError::field(self.path(), format!("{}[{at}]", shown(key)), "is not UTF-8 text")
            })
        });
        texts.collect::<Result<_, _>>().map(Some)
    }
}
