//! The local model store: every model file of this machine, once, with its provenance.
//!
//! # Layout
//!
//! ```text
//! <root>/
//!   blobs/sha256/<digest>                        file contents, named by their sha256, read-only
//!   models/<model>/<revision>/manifest.json      what a model is, see `Manifest`
//!   models/<model>/<revision>/files/<name>      the same contents under their real names (links)
//!   partial/<key>.part, <key>.journal            downloads under way, and which bytes of them are here
//!   locks/                                       empty files for the kernel's locks
//!   accepted-licenses.json                       who accepted which licence, and when
//! ```
//!
//! A model exists from the moment its `manifest.json` is renamed into place, which happens after
//! all of its contents are verified and flushed. Killing the process at any moment leaves either
//! the old state or the new one, plus partial downloads that the next pull continues.
//!
//! # Several processes
//!
//! Every pull holds `locks/pulls` shared; short changes to manifests hold `locks/store`. What a
//! pull downloads is locked per model and per content, so equal pulls queue up and share one download.
//! `files/` uses hard links, which Linux, macOS and Windows have, and copies where the file system
//! lacks them.

mod blobs;
mod gc;
pub(crate) mod lock;
mod manifest;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::catalogue;
use crate::digest::{Expected, hash_file};
use crate::error::{HubError, IoContext};
use crate::paths;
use crate::progress::{Event, Observer};
pub(crate) use blobs::new_file_in;
pub use gc::{Removed, Usage};
pub(crate) use manifest::FORMAT;
pub use manifest::{FileEntry, Manifest, Source, Verified};

const MANIFEST: &str = "manifest.json";
const FILES: &str = "files";
/// No manifest this crate writes comes near it; a larger file is not one.
const MAX_MANIFEST: u64 = 64 << 20;

/// A model store in one folder of this machine.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// What [`Store::list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The models, by name, newest revision first.
    pub models: Vec<Manifest>,
    /// Manifests that cannot be read.
    pub damaged: Vec<HubError>,
}

/// A model that [`Store::resolve`] found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The file or folder to load.
    pub path: PathBuf,
    /// What the store knows of it.
    pub manifest: Manifest,
}

/// The state of one file after [`Store::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// The contents hash to what the manifest says.
    Intact,
    /// The file is gone.
    Missing,
    /// The contents changed; the fault in words.
    Changed(String),
}

impl Store {
    /// Opens the store in `root`, creating it if it is not there.
    ///
    /// # Errors
    /// [`HubError::Io`] if a folder cannot be created.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, HubError> {
        let store = Store { root: root.into() };
        for folder in [store.blobs(), store.models(), store.partial(), store.root.join("locks")] {
            fs::create_dir_all(&folder).context("create the folder", &folder)?;
        }
        Ok(store)
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// Where unfinished downloads are.
    pub(crate) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// The lock file of that name.
    pub(crate) fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }

    pub(crate) fn store_lock(&self) -> Result<lock::Lock, HubError> {
        lock::exclusive(&self.lock_path("store"))
    }

    pub(crate) fn licenses_path(&self) -> PathBuf {
        self.root.join("accepted-licenses.json")
    }

    fn revision_path(&self, name: &str, revision: &str) -> Result<PathBuf, HubError> {
        Ok(self.models().join(paths::model_folder(name)?).join(paths::revision_folder(revision)?))
    }

    /// Every model in the store.
    ///
    /// # Errors
    /// [`HubError::Io`] if the store's folders cannot be read; a manifest that cannot be read is
    /// listed in [`Listing::damaged`] instead.
    pub fn list(&self) -> Result<Listing, HubError> {
        let mut listing = Listing::default();
        for model in subfolders(&self.models())? {
            for revision in subfolders(&model)? {
                match read_manifest(&revision.join(MANIFEST)) {
                    Ok(Some(manifest)) => listing.models.push(manifest),
                    Ok(None) => {}
                    Err(error) => listing.damaged.push(error),
                }
            }
        }
        listing.models.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| b.pulled_at.cmp(&a.pulled_at)));
        Ok(listing)
    }

    /// The manifest of exactly this name and revision.
    pub(crate) fn manifest(&self, name: &str, revision: &str) -> Result<Option<Manifest>, HubError> {
        read_manifest(&self.revision_path(name, revision)?.join(MANIFEST))
    }

    /// Finds a stored model by its name, `owner/repo`, `owner/repo:TAG`, any of them with
    /// `@revision` and with or without `hf:`. Upper and lower case are the same. Of several
    /// revisions the one pulled last is meant.
    ///
    /// # Errors
    /// [`HubError::NotInStore`] or [`HubError::AmbiguousName`].
    pub fn resolve(&self, name: &str) -> Result<Resolved, HubError> {
        let manifest = self.find(name)?.swap_remove(0);
        let path = self.path_of(&manifest)?;
        Ok(Resolved { path, manifest })
    }

    /// The path of a stored model's file, or of its folder of files.
    pub(crate) fn path_of(&self, manifest: &Manifest) -> Result<PathBuf, HubError> {
        let folder = self.revision_path(&manifest.name, &manifest.revision)?.join(FILES);
        Ok(match (manifest.entry_file(), &manifest.source) {
            (Some(file), _) => match &file.referenced {
                Some(path) => path.clone(),
                None => folder.join(paths::safe_relative(&file.path)?),
            },
            (None, Source::Local { path }) if manifest.files.iter().any(|f| f.referenced.is_some()) => {
                path.clone()
            }
            (None, _) => folder,
        })
    }

    /// All revisions of the one model that `name` fits, newest first; never empty.
    fn find(&self, name: &str) -> Result<Vec<Manifest>, HubError> {
        let (wanted, revision) = split_revision(name);
        let mut models = self.list()?.models;
        let exact = models.iter().any(|model| model.name.eq_ignore_ascii_case(&wanted));
        let known = if exact { Vec::new() } else { model_names(&models) };
        models.retain(|model| {
            let name_fits =
                if exact { model.name.eq_ignore_ascii_case(&wanted) } else { fits_loosely(model, &wanted) };
            name_fits && revision.as_deref().is_none_or(|revision| revision_fits(model, revision))
        });
        let candidates = model_names(&models);
        match candidates.len() {
            0 => {
                let suggestions = catalogue::similar(&wanted, known.iter().map(String::as_str));
                Err(HubError::NotInStore { name: name.to_string(), suggestions })
            }
            1 => {
                models.sort_by(|a, b| b.pulled_at.cmp(&a.pulled_at));
                Ok(models)
            }
            _ => Err(HubError::AmbiguousName { name: name.to_string(), candidates }),
        }
    }

    /// Hashes every file of a model again.
    ///
    /// # Errors
    /// As [`Store::resolve`]; a damaged file is a [`FileState`], not an error.
    pub fn verify(
        &self,
        name: &str,
        observer: Observer<'_>,
    ) -> Result<Vec<(FileEntry, FileState)>, HubError> {
        let manifest = self.find(name)?.swap_remove(0);
        let folder = self.revision_path(&manifest.name, &manifest.revision)?.join(FILES);
        let mut states = Vec::with_capacity(manifest.files.len());
        for file in manifest.files {
            let path = match &file.referenced {
                Some(path) => path.clone(),
                None => folder.join(paths::safe_relative(&file.path)?),
            };
            let state = self.file_state(&file, &path, observer)?;
            states.push((file, state));
        }
        Ok(states)
    }

    fn file_state(
        &self,
        file: &FileEntry,
        path: &Path,
        observer: Observer<'_>,
    ) -> Result<FileState, HubError> {
        let expected = Expected::Sha256(file.sha256.clone());
        let visit = |done| {
            observer.emit(Event::Verifying { file: &file.path, done, size: file.size });
            observer.check()
        };
        match hash_file(path, &file.path, file.size, &expected, visit) {
            Ok(_) => Ok(FileState::Intact),
            Err(error @ (HubError::WrongHash { .. } | HubError::WrongSize { .. })) => {
                Ok(FileState::Changed(error.to_string()))
            }
            Err(HubError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(FileState::Missing)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a model exist: links its files under their names, then writes its manifest.
    ///
    /// Returns false, having changed nothing visible, if a blob has disappeared since it was
    /// fetched (somebody removed another model that shared it); the caller fetches it again.
    pub(crate) fn commit(&self, manifest: &Manifest) -> Result<bool, HubError> {
        let folder = self.revision_path(&manifest.name, &manifest.revision)?;
        let _lock = self.store_lock()?;
        let imported = || manifest.files.iter().filter(|file| file.referenced.is_none());
        if imported().any(|file| !self.has_blob(&file.sha256, file.size)) {
            return Ok(false);
        }
        fs::create_dir_all(&folder).context("create the folder", &folder)?;
        for file in imported() {
            let link = folder.join(FILES).join(paths::safe_relative(&file.path)?);
            blobs::link(&self.blob_path(&file.sha256), &link, file.size)?;
        }
        write_json(&folder.join(MANIFEST), manifest)?;
        Ok(true)
    }
}

/// `hf:Owner/Repo@rev:TAG` as the lower-case name `owner/repo:tag` and the revision.
fn split_revision(name: &str) -> (String, Option<String>) {
    let name = name.trim();
    let name = name.strip_prefix("hf:").unwrap_or(name).to_lowercase();
    let Some((base, rest)) = name.split_once('@') else { return (name, None) };
    match rest.split_once(':') {
        Some((revision, tag)) => (format!("{base}:{tag}"), Some(revision.to_string())),
        None => (base.to_string(), Some(rest.to_string())),
    }
}

/// A name without its tag fits every tag, and a repository's name fits a catalogue model from it.
fn fits_loosely(model: &Manifest, wanted: &str) -> bool {
    let name = model.name.to_lowercase();
    let untagged = name.split_once(':').map_or(name.as_str(), |(base, _)| base);
    let repo_fits = matches!(&model.source, Source::Hub { repo, .. } if repo.eq_ignore_ascii_case(wanted));
    untagged == wanted || repo_fits
}

/// A revision may be the stored one, a commit's first seven or more digits, or the branch asked for.
fn revision_fits(model: &Manifest, revision: &str) -> bool {
    let stored = model.revision.to_lowercase();
    let requested =
        matches!(&model.source, Source::Hub { requested, .. } if requested.eq_ignore_ascii_case(revision));
    stored == revision || requested || (revision.len() >= 7 && stored.starts_with(revision))
}

fn model_names(models: &[Manifest]) -> Vec<String> {
    let mut names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// The folders in a folder, in name order; none if it is not there.
fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("read the folder", folder)?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.context("read the folder", folder)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn read_manifest(path: &Path) -> Result<Option<Manifest>, HubError> {
    let Some(manifest) = read_json::<Manifest>(path)? else { return Ok(None) };
    match manifest.fault() {
        None => Ok(Some(manifest)),
        Some(reason) => Err(HubError::Damaged { path: path.to_path_buf(), reason }),
    }
}

/// Reads one of the store's own JSON files; `None` if it is not there.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, HubError> {
    let damaged = |reason: String| HubError::Damaged { path: path.to_path_buf(), reason };
    let size = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.context("read", path)?.len(),
    };
    if size > MAX_MANIFEST {
        return Err(damaged(format!("{size} bytes are too many")));
    }
    let bytes = fs::read(path).context("read", path)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Writes one of the store's own JSON files: whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), HubError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| HubError::Damaged { path: path.to_path_buf(), reason: error.to_string() })?;
    bytes.push(b'\n');
    Ok(alti_formats::write_whole(path, &bytes)?)
}
