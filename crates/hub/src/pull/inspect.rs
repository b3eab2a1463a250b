//! What a model's own files say about it: architecture, size, licence.
//!
//! A source's description may be missing or wrong; the files are what will be run. They may also
//! be of a version this program cannot read, which is no reason not to store them, so whatever
//! cannot be read is left unknown here and reported by the loader.

use std::fs;
use std::path::{Path, PathBuf};

use alti_formats::gguf::GgufFile;
use serde_json::Value;

use crate::license;
use crate::store::{FileEntry, Manifest, Store};

/// A `config.json` is a few kilobytes; a larger file is something else.
const MAX_CONFIG: u64 = 4 << 20;

/// Fills in what the manifest does not know yet. A licence that wants an acceptance is taken from the
/// file even if the source named another one: whoever repackages a model cannot lift its terms.
pub(super) fn complete(store: &Store, manifest: &mut Manifest) {
    let entry = manifest.entry_file().map(|file| (location(store, file), manifest.files.len() == 1));
    match entry {
        Some((path, whole)) => complete_from_gguf(&path, whole, manifest),
        None => complete_from_config(store, manifest),
    }
}

fn location(store: &Store, file: &FileEntry) -> PathBuf {
    file.referenced.clone().unwrap_or_else(|| store.blob_path(&file.sha256))
}

fn complete_from_gguf(path: &Path, whole: bool, manifest: &mut Manifest) {
    let Ok(file) = GgufFile::open(path) else { return };
    let text = |key: &str| file.metadata().string(key).ok().flatten().map(str::to_string);
    let stated = [text("general.license"), text("general.license.name")];
    let binding =
        stated.iter().flatten().find_map(|id| license::by_id(id)).map(|license| license.id.to_string());
    if binding.is_some() || manifest.license.is_none() {
        let [stated, _] = stated;
        manifest.license = binding.or(stated);
    }
    if let Some(architecture) = text("general.architecture") {
        manifest.architecture = Some(architecture);
    }
    if whole && manifest.parameters.is_none() {
        let count =
            |shape: &[usize]| shape.iter().fold(1_u64, |product, &side| product.saturating_mul(side as u64));
        let total = file.tensors().iter().fold(0_u64, |sum, tensor| sum.saturating_add(count(&tensor.shape)));
        manifest.parameters = Some(total);
    }
}

fn complete_from_config(store: &Store, manifest: &mut Manifest) {
    let Some(file) = manifest.files.iter().find(|file| file.path == "config.json" && file.size <= MAX_CONFIG)
    else {
        return;
    };
    let Ok(bytes) = fs::read(location(store, file)) else { return };
    let Ok(config) = serde_json::from_slice::<Value>(&bytes) else { return };
    if manifest.architecture.is_none() {
        manifest.architecture = config.get("model_type").and_then(Value::as_str).map(str::to_string);
    }
}
