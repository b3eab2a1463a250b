//! Models that are on the machine already.

use std::fs;
use std::path::Path;

use alti_hub::{FileState, HubError, ImportMode, ModelSpec, Observer, PullRequest, Pulled, Silent, Store};

use crate::fake_hub::FakeHub;
use crate::support::{TestStore, Watcher, names, noise, pull_watched, settings};

fn import(store: &Store, path: &Path, import: ImportMode) -> Result<Pulled, HubError> {
    let spec = ModelSpec::Local { path: path.to_path_buf() };
    let request = PullRequest { import, ..PullRequest::new(spec) };
    pull_watched(store, &request, &settings(&FakeHub::start()), &Watcher::default())
}

/// A minimal GGUF file: no tensors, and metadata of strings.
fn gguf(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    for (key, value) in pairs {
        text(&mut bytes, key);
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, value);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

#[test]
fn a_file_is_copied_under_a_name_made_from_its_own() {
    let test = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("My Model.Q4_1.gguf");
    fs::write(&file, noise(9000, 4)).unwrap();
    let pulled = import(&test.store, &file, ImportMode::Copy).unwrap();
    assert_eq!(
        (pulled.manifest.name.as_str(), pulled.manifest.revision.as_str()),
        ("my-model.q4_1", "local")
    );
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), noise(9000, 4));
}

#[test]
fn every_part_of_a_split_file_comes_along() {
    let test = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    for part in 1..=3 {
        fs::write(folder.path().join(format!("m-0000{part}-of-00003.gguf")), noise(100, part)).unwrap();
    }
    fs::write(folder.path().join("other.gguf"), "x").unwrap();
    let pulled =
        import(&test.store, &folder.path().join("m-00001-of-00003.gguf"), ImportMode::HardLink).unwrap();
    assert_eq!(pulled.manifest.files.len(), 3);
    fs::remove_file(folder.path().join("m-00002-of-00003.gguf")).unwrap();
    assert!(import(&test.store, &folder.path().join("m-00001-of-00003.gguf"), ImportMode::Copy).is_err());
}

#[test]
fn a_folder_is_imported_like_a_repository() {
    let test = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"] {
        fs::write(folder.path().join(name), "{}").unwrap();
    }
    let pulled = import(&test.store, folder.path(), ImportMode::Copy).unwrap();
    assert_eq!(names(&pulled.path), ["config.json", "model.safetensors", "tokenizer.json"]);
}

#[test]
fn a_referenced_file_stays_where_it_is() {
    let test = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    fs::write(&file, noise(9000, 4)).unwrap();
    let pulled = import(&test.store, &file, ImportMode::Reference).unwrap();
    assert_eq!(pulled.path, fs::canonicalize(&file).unwrap());
    assert!(test.names("blobs/sha256").is_empty());

    let cancel = Default::default();
    let observer = Observer::new(&Silent, &cancel);
    assert_eq!(test.store.verify("m", observer).unwrap()[0].1, FileState::Intact);
    fs::write(&file, "changed").unwrap();
    assert!(matches!(test.store.verify("m", observer).unwrap()[0].1, FileState::Changed(_)));
    test.store.remove("m").unwrap();
    assert!(file.exists());
}

#[test]
fn architecture_and_licence_are_read_from_the_file() {
    let test = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    fs::write(&file, gguf(&[("general.architecture", "llama"), ("general.license", "mit")])).unwrap();
    let manifest = import(&test.store, &file, ImportMode::Copy).unwrap().manifest;
    assert_eq!((manifest.architecture.as_deref(), manifest.license.as_deref()), (Some("llama"), Some("mit")));

    fs::write(&file, gguf(&[("general.architecture", "llama"), ("general.license", "llama3.1")])).unwrap();
    let error = import(&test.store, &file, ImportMode::Copy).unwrap_err();
    assert!(
        matches!(error, HubError::LicenseNotAccepted { license, .. } if license.id == "llama3.1"),
        "{error}"
    );
    assert_eq!(
        test.store.resolve("m").unwrap().manifest.license.as_deref(),
        Some("mit"),
        "the old model stays"
    );
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let error =
        import(&TestStore::new().store, Path::new("/no/such/model.gguf"), ImportMode::Copy).unwrap_err();
    assert!(error.to_string().contains("/no/such/model.gguf"), "{error}");
}
