//! Reading small files whole and writing files so that they are there entirely or not at all.

use crate::FormatError;
use crate::error::shown;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The contents of a file of at most `longest` bytes.
pub(crate) fn read_small(path: &Path, longest: u64) -> Result<Vec<u8>, FormatError> {
    let kind = std::fs::metadata(path).map_err(|e| FormatError::io(path, "open", e))?;
    if !kind.is_file() {
        return Err(FormatError::unsupported(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(|e| FormatError::io(path, "open", e))?;
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes).map_err(|e| FormatError::io(path, "read", e))?;
    if bytes.len() as u64 > longest {
        return Err(FormatError::unsupported(path, format!("is longer than {longest} bytes")));
    }
    Ok(bytes)
}

/// A JSON file of at most `longest` bytes.
pub(crate) fn read_small_json<T: DeserializeOwned>(path: &Path, longest: u64) -> Result<T, FormatError> {
    let bytes = read_small(path, longest)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let lines = bytes.split_inclusive(|&byte| byte == b'\n').take(e.line().saturating_sub(1));
        let offset = lines.map(<[u8]>::len).sum::<usize>() + e.column().saturating_sub(1);
        FormatError::malformed(path, offset as u64, shown(&e.to_string()))
    })
}
