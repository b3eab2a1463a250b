//! Where things are: the root of the checkout, its target directory, and the files that belong to it.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What holds nothing anybody wrote: build results, version control (a file, in a linked worktree), installed
/// packages.
const NOT_OURS: [&str; 4] = ["target", ".git", "node_modules", "artifacts"];

/// The root of the checkout that this binary was built from.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The build directory of the workspace; what the commands make lands in folders below it.
#[must_use]
pub fn target() -> PathBuf {
    // A relative one is cargo's, from where it was started: the root, for what we start.
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Every file below `folder` that somebody wrote, sorted, so that reports have one order on every machine.
///
/// # Errors
/// A folder that cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let entry = entry?;
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `path` as people write it in a report: relative to the checkout, with forward slashes.
#[must_use]
pub fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}
