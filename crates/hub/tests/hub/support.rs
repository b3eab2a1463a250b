//! What the tests share: a store in a temporary folder, settings that fail fast, and an observer
//! that remembers.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alti_hub::{Event, HubError, HubSettings, ModelSpec, Observer, PullRequest, Pulled, Store};
use tempfile::TempDir;

use crate::fake_hub::FakeHub;

/// The repository that most tests use.
pub(crate) const REPO: &str = "owner/model";

/// Bytes that look like nothing in particular and differ everywhere.
pub(crate) fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..size).map(|_| next()).collect()
}

pub(crate) fn settings(hub: &FakeHub) -> HubSettings {
    HubSettings {
        endpoint: hub.endpoint.clone(),
        token: Some("secret-token".to_string()),
        retries: 2,
        retry_pause: Duration::from_millis(5),
        idle_timeout: Duration::from_secs(5),
        ..HubSettings::default()
    }
}

/// A store in a folder that is deleted with it.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) folder: TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path()).expect("a store");
        TestStore { store, folder }
    }

    /// Names of everything under the folder of the store.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        names(&self.folder.path().join(folder))
    }
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Remembers what happened and may stop the pull at a number of bytes.
#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) lines: Mutex<Vec<String>>,
    pub(crate) cancel: AtomicBool,
    pub(crate) stop_at: Option<u64>,
    pub(crate) present: Mutex<Option<u64>>,
}

impl Watcher {
    fn note(&self, event: Event<'_>) {
        let line = match event {
            Event::Bytes { done, .. } => {
                if self.stop_at.is_some_and(|stop| done >= stop) {
                    self.cancel.store(true, Ordering::Relaxed);
                }
                format!("bytes {done}")
            }
            Event::Planned { present, total, .. } => {
                *self.present.lock().unwrap() = Some(present);
                format!("planned {total}")
            }
            Event::Waiting { what } => format!("waiting {what}"),
            Event::Retrying { reason, .. } => format!("retrying {reason}"),
            Event::FileDone { file, already_present, .. } => format!("done {file} {already_present}"),
            Event::SourceFailed { source, error } => format!("failed {source}: {error}"),
            _ => return,
        };
        self.lines.lock().unwrap().push(line);
    }

    /// How many remembered events begin with that word.
    pub(crate) fn count(&self, word: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.starts_with(word)).count()
    }
}

pub(crate) fn request(spec: &str) -> PullRequest {
    PullRequest::new(ModelSpec::parse(spec).expect("a model name"))
}

pub(crate) fn pull_watched(
    store: &Store,
    request: &PullRequest,
    settings: &HubSettings,
    watcher: &Watcher,
) -> Result<Pulled, HubError> {
    let note = |event: Event<'_>| watcher.note(event);
    store.pull(request, settings, Observer::new(&note, &watcher.cancel))
}

pub(crate) fn pull(store: &Store, spec: &str, hub: &FakeHub) -> Result<Pulled, HubError> {
    pull_watched(store, &request(spec), &settings(hub), &Watcher::default())
}
