//! Removing models, and the contents that no model needs any more.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::{FILES, MANIFEST, Manifest, Store, lock, split_revision, subfolders};
use crate::digest::Sha256Hex;
use crate::error::{HubError, IoContext};

/// What [`Store::remove`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The removed models' manifests (all revisions unless one was named).
    pub manifests: Vec<Manifest>,
    /// Bytes of contents that were deleted; contents shared with other models stay.
    pub freed: u64,
}

/// How much disk space the store takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Complete file contents, shared ones counted once.
    pub blobs: u64,
    /// Of these, contents that no model names (left by interrupted pulls).
    pub orphaned: u64,
    /// Unfinished downloads.
    pub partial: u64,
}

impl Usage {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.blobs + self.partial
    }

    /// What [`Store::prune`] would free.
    #[must_use]
    pub fn unused(&self) -> u64 {
        self.orphaned + self.partial
    }
}

impl Store {
    /// Removes a model (with `@revision`: that revision only) and the contents nobody else names.
    ///
    /// While a pull is running only the removed model's own contents are considered, because
    /// others may belong to the model that is arriving.
    ///
    /// # Errors
    /// As [`Store::resolve`], and [`HubError::Damaged`] if a manifest cannot be read: then nobody
    /// knows what it names, and nothing is deleted.
    pub fn remove(&self, name: &str) -> Result<Removed, HubError> {
        let idle = lock::try_exclusive(&self.lock_path("pulls"))?;
        let _lock = self.store_lock()?;
        let mut manifests = self.find(name)?;
        if split_revision(name).1.is_some() {
            manifests.truncate(1);
        }
        for manifest in &manifests {
            let folder = self.revision_path(&manifest.name, &manifest.revision)?;
            let path = folder.join(MANIFEST);
            fs::remove_file(&path).context("remove", &path)?;
        }
        let keep = self.named_blobs()?;
        for manifest in &manifests {
            self.remove_folder(manifest)?;
        }
        let freed = if idle.is_some() {
            self.remove_nameless_folders()?;
            self.remove_lock_files()?;
            self.delete_blobs(|digest| !keep.contains(digest))?
        } else {
            let own: HashSet<&Sha256Hex> =
                manifests.iter().flat_map(|manifest| &manifest.files).map(|file| &file.sha256).collect();
            self.delete_blobs(|digest| own.contains(digest) && !keep.contains(digest))?
        };
        Ok(Removed { manifests, freed })
    }

    /// How much disk space the store takes.
    ///
    /// # Errors
    /// [`HubError::Io`], or [`HubError::Damaged`] if a manifest cannot be read.
    pub fn usage(&self) -> Result<Usage, HubError> {
        let keep = self.named_blobs()?;
        let mut usage = Usage { partial: folder_size(&self.partial())?, ..Usage::default() };
        self.each_blob(|digest, _, size| {
            usage.blobs += size;
            if !keep.contains(&digest) {
                usage.orphaned += size;
            }
            Ok(())
        })?;
        Ok(usage)
    }

    /// Deletes unfinished downloads and contents that no model names; returns the bytes freed.
    /// Does nothing while a pull is running.
    ///
    /// # Errors
    /// [`HubError::Io`], or [`HubError::Damaged`] if a manifest cannot be read.
    pub fn prune(&self) -> Result<u64, HubError> {
        let Some(_idle) = lock::try_exclusive(&self.lock_path("pulls"))? else { return Ok(0) };
        let _lock = self.store_lock()?;
        let keep = self.named_blobs()?;
        let partial = self.partial();
        let mut freed = folder_size(&partial)?;
        fs::remove_dir_all(&partial).context("remove", &partial)?;
        fs::create_dir_all(&partial).context("create the folder", &partial)?;
        self.remove_nameless_folders()?;
        freed += self.delete_blobs(|digest| !keep.contains(digest))?;
        Ok(freed)
    }

    fn named_blobs(&self) -> Result<HashSet<Sha256Hex>, HubError> {
        let listing = self.list()?;
        if let Some(error) = listing.damaged.into_iter().next() {
            return Err(error);
        }
        let files = listing.models.into_iter().flat_map(|manifest| manifest.files);
        Ok(files.filter(|file| file.referenced.is_none()).map(|file| file.sha256).collect())
    }

    fn each_blob(
        &self,
        mut visit: impl FnMut(Sha256Hex, &Path, u64) -> Result<(), HubError>,
    ) -> Result<(), HubError> {
        let folder = self.blobs();
        for entry in fs::read_dir(&folder).context("read the folder", &folder)? {
            let entry = entry.context("read the folder", &folder)?;
            let Some(digest) = entry.file_name().to_str().and_then(Sha256Hex::parse) else { continue };
            let path = entry.path();
            let size = entry.metadata().context("read", &path)?.len();
            visit(digest, &path, size)?;
        }
        Ok(())
    }

    fn delete_blobs(&self, doomed: impl Fn(&Sha256Hex) -> bool) -> Result<u64, HubError> {
        let mut freed = 0;
        self.each_blob(|digest, path, size| {
            if doomed(&digest) {
                fs::remove_file(path).context("remove", path)?;
                freed += size;
            }
            Ok(())
        })?;
        Ok(freed)
    }

    fn remove_folder(&self, manifest: &Manifest) -> Result<(), HubError> {
        let folder = self.revision_path(&manifest.name, &manifest.revision)?;
        fs::remove_dir_all(&folder).context("remove", &folder)?;
        if let Some(model) = folder.parent() {
            // Fails while other revisions are in it, which is right.
            let _ = fs::remove_dir(model);
        }
        Ok(())
    }

    /// Clears what a removal or a commit that was killed half-way left behind.
    fn remove_nameless_folders(&self) -> Result<(), HubError> {
        for model in subfolders(&self.models())? {
            for revision in subfolders(&model)? {
                let files = revision.join(FILES);
                if !revision.join(MANIFEST).exists() && files.exists() {
                    fs::remove_dir_all(&files).context("remove", &files)?;
                }
            }
        }
        Ok(())
    }

    /// Empty files, but they add up; nobody can be waiting for one while no pull runs.
    fn remove_lock_files(&self) -> Result<(), HubError> {
        let folder = self.root().join("locks");
        for entry in fs::read_dir(&folder).context("read the folder", &folder)? {
            let entry = entry.context("read the folder", &folder)?;
            if entry.file_name().to_string_lossy().contains('-') {
                fs::remove_file(entry.path()).context("remove", &entry.path())?;
            }
        }
        Ok(())
    }
}

fn folder_size(folder: &Path) -> Result<u64, HubError> {
    let mut size = 0;
    for entry in fs::read_dir(folder).context("read the folder", folder)? {
        let entry = entry.context("read the folder", folder)?;
        let metadata = entry.metadata().context("read", &entry.path())?;
        size += if metadata.is_dir() { folder_size(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
}
