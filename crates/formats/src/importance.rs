//! Importance matrices: how much each column of each matrix matters, as the mean square of the
//! activation that meets it. Files are llama.cpp's, so that matrices made by either program serve
//! both: its GGUF kind is read and written, its older binary kind (`.dat`) is read.
//! Source: `tools/imatrix` and `common/imatrix-loader.cpp` of llama.cpp.

use crate::FormatError;
use crate::files::read_small;
use crate::gguf::{GgufFile, GgufTensor, MAGIC, TensorPlan, Value, WriteOptions, write_gguf};
use alti_tensor::DType;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest file of the older kind; Llama 3.1 405B's has 14 MB.
const MAX_LEGACY: u64 = 1 << 30;
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// What was seen of the inputs of a model's matrices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// The texts it was computed on.
    pub datasets: Vec<String>,
    /// Chunks of text.
    pub chunks: u32,
    /// Tokens in a chunk.
    pub chunk_size: u32,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    /// `[matrices, columns]`: sums of squares.
    sums: Vec<f64>,
    /// `[matrices]`: how many rows were summed.
    counts: Vec<f64>,
}

impl Importance {
    /// Number of weights that something is known of.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds rows of inputs, each of a matrix's `columns`, to the matrix `index` of `matrices` of a weight.
    ///
    /// # Panics
    /// When the weight was added before with other numbers, or the rows are not whole.
    pub fn add(&mut self, weight: &str, [index, matrices]: [usize; 2], columns: usize, rows: &[f32]) {
        let entry = self.entries.entry(weight.to_owned()).or_default();
        entry.sums.resize(matrices * columns, 0.0);
        entry.counts.resize(matrices, 0.0);
        let sums = &mut entry.sums[index * columns..][..columns];
        let rows = rows.chunks(columns);
        entry.counts[index] += rows.len() as f64;
        for row in rows {
            assert_eq!(row.len(), columns, "whole rows");
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
    }

    /// The rows that each matrix of a weight met; empty where nothing is known of it.
    pub fn rows(&self, weight: &str) -> Vec<u64> {
        self.entries
            .get(weight)
            .map_or_else(Vec::new, |entry| entry.counts.iter().map(|&n| n as u64).collect())
    }

    /// The mean squares of a weight, `[matrices, columns]`; `None` where nothing is known of it. A
    /// matrix that met no row (an expert that no token went to) has 1 throughout.
    ///
    /// # Errors
    /// When the weight is of another shape than the one that was observed.
    pub fn means(&self, weight: &str, matrices: usize, columns: usize) -> Result<Option<Vec<f32>>, String> {
        let Some(Entry { sums, counts }) = self.entries.get(weight) else { return Ok(None) };
        if sums.len() != matrices * columns || (counts.len() != matrices && counts.len() != 1) {
            return Err(format!(
                "the importance matrix has {} values for it, {matrices} times {columns} are needed: it is another model's",
                sums.len(),
            ));
        }
        let mean = |(index, sum): (usize, &f64)| match counts[index / columns % counts.len()] {
            0.0 => 1.0,
            count => (sum / count) as f32,
        };
        Ok(Some(sums.iter().enumerate().map(mean).collect()))
    }

    /// Reads a file of either kind.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or has nothing in it.
    pub fn read(path: &Path) -> Result<Importance, FormatError> {
        let mut magic = [0; MAGIC.len()];
        let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut magic));
        read.map_err(|e| FormatError::io(path, "open", e))?;
        let found = if magic == MAGIC { read_gguf(path)? } else { Legacy::read(path)? };
        if found.is_empty() {
            return Err(FormatError::unsupported(path, "is not an importance matrix: it has no entries"));
        }
        found.check(path)?;
        Ok(found)
    }

    fn check(&self, path: &Path) -> Result<(), FormatError> {
        for (weight, entry) in &self.entries {
            let usable = |value: &f64| value.is_finite() && *value >= 0.0;
            if !entry.sums.iter().chain(&entry.counts).all(usable) {
                return Err(FormatError::tensor(path, weight, "has values that are no sums of squares"));
            }
            if entry.counts.is_empty() || !entry.sums.len().is_multiple_of(entry.counts.len()) {
                return Err(FormatError::tensor(path, weight, "has counts that do not fit its sums"));
            }
        }
        Ok(())
    }

    /// Writes the GGUF kind.
    ///
    /// # Errors
    /// When `path` cannot be written, or is there and may not be replaced.
    pub fn write(&self, path: &Path, replace: bool) -> Result<(), FormatError> {
        let metadata = [
            ("general.type", Value::String("imatrix".to_owned())),
            ("imatrix.datasets", Value::strings(&self.datasets)),
            ("imatrix.chunk_count", Value::U32(self.chunks)),
            ("imatrix.chunk_size", Value::U32(self.chunk_size)),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let (mut plans, mut values) = (Vec::new(), Vec::new());
        for (weight, Entry { sums, counts }) in &self.entries {
            let matrices = counts.len();
            for (suffix, all) in [(SUMS, sums), (COUNTS, counts)] {
                let shape = vec![matrices, all.len() / matrices];
                plans.push(TensorPlan { name: format!("{weight}{suffix}"), dtype: DType::F32, shape });
                values.push(all);
            }
        }
        let data = |index: usize| {
            let floats = values[index].iter().flat_map(|&value| (value as f32).to_le_bytes());
            Ok(Cow::Owned(floats.collect()))
        };
        write_gguf(path, &metadata, &plans, data, WriteOptions { split: None, replace }, &mut |_| ())
            .map(drop)
    }
}

fn read_gguf(path: &Path) -> Result<Importance, FormatError> {
    let file = GgufFile::open(path)?;
    let metadata = file.metadata();
    let number = |key| -> Result<u32, FormatError> {
        Ok(metadata.unsigned(key)?.and_then(|number| u32::try_from(number).ok()).unwrap_or(0))
    };
    let mut found = Importance {
        datasets: metadata
            .strings("imatrix.datasets")?
            .unwrap_or_default()
            .iter()
            .map(|&s| s.to_owned())
            .collect(),
        chunks: number("imatrix.chunk_count")?,
        chunk_size: number("imatrix.chunk_size")?,
        entries: BTreeMap::new(),
    };
    let floats = |tensor: &GgufTensor| match tensor.dtype {
        Some(DType::F32) => {
            let (values, _) = file.data(tensor).as_chunks::<4>();
            Ok(values.iter().map(|raw| f64::from(f32::from_le_bytes(*raw))).collect())
        }
        _ => Err(FormatError::tensor(path, &tensor.name, "is not of type F32")),
    };
    for tensor in file.tensors() {
        if let Some(weight) = tensor.name.strip_suffix(SUMS) {
            found.entries.entry(weight.to_owned()).or_default().sums = floats(tensor)?;
        } else if let Some(weight) = tensor.name.strip_suffix(COUNTS) {
            found.entries.entry(weight.to_owned()).or_default().counts = floats(tensor)?;
        }
    }
    Ok(found)
}

/// A cursor over a file of the older kind: counts and strings with their lengths in 32 bits.
struct Legacy<'a> {
    path: &'a Path,
    rest: &'a [u8],
    length: usize,
}

impl<'a> Legacy<'a> {
    fn read(path: &Path) -> Result<Importance, FormatError> {
        let bytes = read_small(path, MAX_LEGACY)?;
        let mut cursor = Legacy { path, rest: &bytes, length: bytes.len() };
        let mut found = Importance::default();
        for _ in 0..cursor.number()? {
            let length = cursor.number()?;
            let weight = cursor.text(length)?;
            // The sums are means times the number of calls.
            let calls = cursor.number()?.max(1) as f64;
            let length = cursor.number()?;
            let (values, _) = cursor.take(length.saturating_mul(4))?.as_chunks::<4>();
            let sums = values.iter().map(|raw| f64::from(f32::from_le_bytes(*raw))).collect();
            found.entries.insert(weight, Entry { sums, counts: vec![calls] });
        }
        if !cursor.rest.is_empty() {
            found.chunks = cursor.number()? as u32;
            let length = cursor.number()?;
            found.datasets.push(cursor.text(length)?);
        }
        Ok(found)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let at = (self.length - self.rest.len()) as u64;
        let problem = "is neither GGUF nor an older importance matrix, or was cut off here";
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| FormatError::malformed(self.path, at, problem))?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<usize, FormatError> {
        let bytes = self.take(4)?;
        let number = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let at = (self.length - self.rest.len() - 4) as u64;
        usize::try_from(number).map_err(|_| {
            FormatError::malformed(self.path, at, format!("{number} cannot be a length or count"))
        })
    }

    fn text(&mut self, length: usize) -> Result<String, FormatError> {
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}
