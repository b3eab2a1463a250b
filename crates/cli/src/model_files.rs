//! Which files a model is made of, and which state of them, without reading them.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A file of a model. Its last change tells it from another in its place, without reading it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelFile {
    path: PathBuf,
    /// Its bytes.
    pub size: u64,
    changed: std::time::SystemTime,
}

/// The files of a model at a path, by name.
pub fn files_of(path: &Path) -> Vec<ModelFile> {
    let paths = match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => vec![path.to_owned()],
    };
    let file = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some(ModelFile { size: metadata.len(), changed: metadata.modified().ok()?, path })
    };
    let mut files: Vec<ModelFile> = paths.into_iter().filter_map(file).collect();
    files.sort();
    files
}

/// sha256, in hexadecimal digits.
pub fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
