//! File contents by digest: taking a finished file in, and giving it a second, readable name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use alti_formats::sync_folder;

use super::Store;
use crate::digest::Sha256Hex;
use crate::error::{HubError, IoContext};

impl Store {
    /// Where contents with that digest are kept.
    pub(crate) fn blob_path(&self, digest: &Sha256Hex) -> PathBuf {
        self.blobs().join(digest.as_str())
    }

    /// Whether contents with that digest are here, whole.
    pub(crate) fn has_blob(&self, digest: &Sha256Hex, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.len() == size)
    }

    /// Takes a finished, verified file of the store's `partial/` folder in as a blob.
    pub(crate) fn adopt(&self, finished: &Path, digest: &Sha256Hex) -> Result<(), HubError> {
        let target = self.blob_path(digest);
        File::open(finished).and_then(|file| file.sync_all()).context("flush", finished)?;
        make_read_only(finished)?;
        fs::rename(finished, &target).context("move into the store", finished)?;
        Ok(sync_folder(&self.blobs())?)
    }
}

/// Contents are shared by name; a stray write through one name would change all.
#[cfg(unix)]
fn make_read_only(path: &Path) -> Result<(), HubError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).context("protect", path)
}

/// Windows refuses to delete read-only files, so they stay writable there.
#[cfg(not(unix))]
fn make_read_only(_: &Path) -> Result<(), HubError> {
    Ok(())
}

/// Gives a blob a second name: a hard link, or a copy where the file system has no links.
pub(super) fn link(blob: &Path, link: &Path, size: u64) -> Result<(), HubError> {
    let folder = link.parent().unwrap_or(link);
    fs::create_dir_all(folder).context("create the folder", folder)?;
    let staging =
        tempfile::Builder::new().prefix(".link-").tempdir_in(folder).context("create a folder in", folder)?;
    let staged = staging.path().join("file");
    if fs::hard_link(blob, &staged).is_err() {
        fs::copy(blob, &staged).context("copy", blob)?;
        let copied = fs::metadata(&staged).context("read", &staged)?.len();
        if copied != size {
            return Err(HubError::WrongSize {
                file: link.display().to_string(),
                expected: size,
                found: copied,
            });
        }
        File::open(&staged).and_then(|file| file.sync_all()).context("flush", &staged)?;
    }
    fs::rename(&staged, link).context("name", link)?;
    // Renaming one hard link over another of the same file does nothing, which is what is wanted;
    // the staging folder's removal takes the left-over name with it.
    Ok(sync_folder(folder)?)
}

/// A temporary file with the permissions that ordinary files get, so that a store which several
/// users share stays readable.
pub(crate) fn new_file_in(folder: &Path) -> Result<tempfile::NamedTempFile, HubError> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder).context("create a file in", folder)
}
