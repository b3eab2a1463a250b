//! Listing, finding, removing and checking what is stored.

use std::fs;

use alti_hub::{FileState, HubError, Observer, Silent};

use crate::fake_hub::FakeHub;
use crate::support::{TestStore, noise, pull};

fn two_models_with_shared_contents() -> (TestStore, FakeHub) {
    let hub = FakeHub::start();
    for (repo, own) in [("a/one", 1), ("b/two", 2)] {
        hub.add_large(repo, "model.safetensors", noise(10_000, own));
        hub.add_large(repo, "tokenizer.json", noise(3000, 9));
    }
    let test = TestStore::new();
    pull(&test.store, "a/one", &hub).unwrap();
    pull(&test.store, "b/two", &hub).unwrap();
    (test, hub)
}

#[test]
fn removing_a_model_frees_what_only_it_had() {
    let (test, _) = two_models_with_shared_contents();
    assert_eq!(test.store.usage().unwrap().blobs, 23_000);
    let removed = test.store.remove("a/one").unwrap();
    assert_eq!((removed.freed, removed.manifests.len()), (10_000, 1));
    let left = test.store.resolve("b/two").unwrap();
    assert_eq!(fs::read(left.path.join("tokenizer.json")).unwrap(), noise(3000, 9));
    assert!(matches!(test.store.resolve("a/one"), Err(HubError::NotInStore { .. })));
    assert_eq!(test.store.remove("B/Two").unwrap().freed, 13_000);
    assert!(test.names("models").is_empty() && test.names("blobs/sha256").is_empty());
}

#[test]
fn verification_finds_changed_and_missing_files() {
    let (test, _) = two_models_with_shared_contents();
    let cancel = Default::default();
    let observer = Observer::new(&Silent, &cancel);
    let path = test.store.resolve("a/one").unwrap().path;
    assert!(
        test.store.verify("a/one", observer).unwrap().iter().all(|(_, state)| *state == FileState::Intact)
    );
    fs::remove_file(path.join("model.safetensors")).unwrap();
    fs::remove_file(path.join("tokenizer.json")).unwrap();
    fs::write(path.join("tokenizer.json"), noise(3000, 8)).unwrap();
    let states = test.store.verify("a/one", observer).unwrap();
    assert_eq!(states[0].1, FileState::Missing);
    assert!(matches!(states[1].1, FileState::Changed(_)));
}

#[test]
fn a_misspelt_name_is_suggested() {
    let (test, _) = two_models_with_shared_contents();
    let error = test.store.resolve("a/oen").unwrap_err().to_string();
    assert!(error.contains("did you mean a/one"), "{error}");
}

#[test]
fn nothing_is_deleted_while_a_manifest_cannot_be_read() {
    let (test, _) = two_models_with_shared_contents();
    let manifest = test.store.resolve("b/two").unwrap().path.with_file_name("manifest.json");
    fs::write(&manifest, "{").unwrap();
    let listing = test.store.list().unwrap();
    assert_eq!((listing.models.len(), listing.damaged.len()), (1, 1));
    let error = test.store.remove("a/one").unwrap_err();
    assert!(matches!(&error, HubError::Damaged { path, .. } if *path == manifest), "{error}");
    assert_eq!(test.names("blobs/sha256").len(), 3);
}

#[test]
fn hostile_manifests_do_not_reach_outside() {
    let (test, _) = two_models_with_shared_contents();
    let manifest = test.store.resolve("a/one").unwrap().path.with_file_name("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    for (from, to) in [("\"tokenizer.json\"", "\"../../../x\""), ("\"a/one\"", "\"../one\"")] {
        fs::write(&manifest, text.replace(from, to)).unwrap();
        assert_eq!(test.store.list().unwrap().damaged.len(), 1, "{to}");
    }
}

#[test]
fn pruning_clears_what_interrupted_pulls_left() {
    let (test, _) = two_models_with_shared_contents();
    let root = test.folder.path();
    fs::write(root.join("partial/x.part"), noise(500, 1)).unwrap();
    fs::write(root.join("blobs/sha256").join("ab".repeat(32)), noise(700, 1)).unwrap();
    assert_eq!(test.store.usage().unwrap().orphaned, 700);
    assert_eq!(test.store.prune().unwrap(), 1200);
    assert_eq!(test.store.usage().unwrap().blobs, 23_000);
}
