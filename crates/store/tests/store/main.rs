//! What a user of the store can rely on.

mod backup;
mod batches;
mod chat_completions;
mod conversations;
mod files;
mod keys;
mod killed;
mod opening;
mod responses;
mod uploads;
mod usage;
mod vector_stores;

use alti_store::{NewFile, Store, StoreSettings};
use std::path::PathBuf;

/// A store in a folder of its own, which goes with it.
struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path().join("alti.db"));
        Fixture { folder, store }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("alti.db")
    }

    fn contents(&self) -> Vec<PathBuf> {
        contents(&self.folder.path().join("alti.blobs"))
    }
}

/// Opens a database without waiting for the disk, which no test here can tell.
fn open(path: PathBuf) -> Store {
    let settings = StoreSettings { survive_power_failure: false, ..StoreSettings::default() };
    Store::open(&path, settings).expect("the database opens")
}

/// Every content of a folder of contents.
fn contents(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = |path: &std::path::Path| {
        std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.expect("an entry").path())
    };
    let mut files: Vec<PathBuf> = entries(folder)
        .filter(|path| path.is_dir())
        .flat_map(|path| entries(&path).collect::<Vec<_>>())
        .collect();
    files.sort();
    files
}

fn new_file(name: &str) -> NewFile {
    NewFile {
        tenant: "t".to_owned(),
        name: name.to_owned(),
        purpose: "assistants".to_owned(),
        expires_at: None,
    }
}
