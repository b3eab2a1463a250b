//! Reading small files whole and writing files so that they are there entirely or not at all.

use crate::FormatError;
use crate::error::shown;
use serde::de::DeserializeOwned;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// The contents of a file of at most `longest` bytes.
pub(crate) fn read_small(path: &Path, longest: u64) -> Result<Vec<u8>, FormatError> {
    let kind = std::fs::metadata(path).map_err(|e| FormatError::io(path, "open", e))?;
    if !kind.is_file() {
        return Err(FormatError::unsupported(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(|e| FormatError::io(path, "open", e))?;
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes).map_err(|e| FormatError::io(path, "read", e))?;
    if bytes.len() as u64 > longest {
        return Err(FormatError::unsupported(path, format!("is longer than {longest} bytes")));
    }
    Ok(bytes)
}

/// A JSON file of at most `longest` bytes.
pub(crate) fn read_small_json<T: DeserializeOwned>(path: &Path, longest: u64) -> Result<T, FormatError> {
    let bytes = read_small(path, longest)?;
    serde_json::from_slice(&bytes).map_err(|e| json_error(path, &bytes, &e))
}

/// What is wrong with a JSON file, and at which of its bytes.
pub(crate) fn json_error(path: &Path, bytes: &[u8], error: &serde_json::Error) -> FormatError {
    let lines = bytes.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let offset = lines.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
    FormatError::malformed(path, offset as u64, shown(&error.to_string()))
}

/// Bytes that are handed to the system at a time, at multiples of as many: it then can keep them in huge pages, which
/// whoever maps the file has fewer of to find.
const CHUNK: usize = 2 << 20;

/// A file that appears under its name only when it is complete: written beside it, synced,
/// renamed. Dropped before that, it leaves nothing.
pub struct AtomicFile {
    target: PathBuf,
    replace: bool,
    written: u64,
    file: BufWriter<NamedTempFile>,
}

/// The folder a path is in; "." for a bare name.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// How names of files begin that are not complete.
const PARTIAL: &str = ".alti-partial-";

/// A temporary name that tells what it is for, should a killed process leave it behind.
fn temporary<'a, 'b>() -> tempfile::Builder<'a, 'b> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL);
    builder
}

/// Refuses a target whose own folder is not there.
fn check_parent(target: &Path) -> Result<(), FormatError> {
    let parent = parent_of(target);
    if parent.exists() {
        return Ok(());
    }
    let missing = format!("there is no folder {}; make it first", parent.display());
    Err(FormatError::io(target, "create", io::Error::new(io::ErrorKind::NotFound, missing)))
}

/// Refuses a target that a file cannot get, or would take from what is there: a folder or a device
/// always, a file unless it may be replaced. Its own folder has to be there. What takes long to make asks before it starts.
///
/// # Errors
/// [`FormatError::Exists`], or [`FormatError::Unsupported`] for what is no file.
pub fn check_target(target: &Path, replace: bool) -> Result<(), FormatError> {
    check_parent(target)?;
    // A link that leads nowhere is there, too: a rename would replace it.
    let Ok(found) = target.metadata().or_else(|_| target.symlink_metadata()) else { return Ok(()) };
    if found.is_dir() {
        return Err(FormatError::unsupported(target, "is a folder; name a file"));
    }
    if !found.is_file() && !found.is_symlink() {
        return Err(FormatError::unsupported(target, "is not a regular file; name one"));
    }
    if replace { Ok(()) } else { Err(FormatError::Exists { path: target.to_owned() }) }
}

impl AtomicFile {
    /// Whether a file of this name is one that is being written, or was when its writer was killed.
    pub fn is_unfinished(name: &str) -> bool {
        name.starts_with(PARTIAL)
    }

    /// Starts writing the file that will be at `target`, in place of one that is there if it may be
    /// replaced.
    ///
    /// # Errors
    /// As [`check_target`], or when its folder does not take it.
    pub fn create(target: &Path, replace: bool) -> Result<Self, FormatError> {
        check_target(target, replace)?;
        let file = temporary()
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(parent_of(target))
            .map_err(|e| FormatError::io(target, "create", e))?;
        let file = BufWriter::with_capacity(CHUNK, file);
        Ok(Self { target: target.to_owned(), replace, written: 0, file })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = CHUNK - (self.written % CHUNK as u64) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.file.write_all(now).map_err(|e| FormatError::io(&self.target, "write", e))?;
            self.written += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Appends zeros up to a multiple of `alignment` bytes.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn pad_to(&mut self, alignment: u64) -> Result<(), FormatError> {
        let zeros = self.written.next_multiple_of(alignment) - self.written;
        self.write(&vec![0; zeros as usize])
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the contents durable, still under the temporary name.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn sync(&mut self) -> Result<(), FormatError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().as_file().sync_all());
        synced.map_err(|e| FormatError::io(&self.target, "write", e))
    }

    /// Syncs and renames to the target.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn commit(mut self) -> Result<(), FormatError> {
        self.sync()?;
        let target = self.target.clone();
        let file = self.file.into_inner().map_err(|e| FormatError::io(&target, "write", e.into_error()))?;
        let renamed = if self.replace { file.persist(&target) } else { file.persist_noclobber(&target) };
        renamed.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => FormatError::Exists { path: target.clone() },
            _ => FormatError::io(&target, "rename into place", e.error),
        })?;
        sync_folder(parent_of(&target))
    }
}

/// Writes a small file at once, atomically: it is there whole, or as it was before. A file that is
/// there is replaced.
///
/// # Errors
/// When the folder or the disk does not take it.
pub fn write_whole(target: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    let mut file = AtomicFile::create(target, true)?;
    file.write(bytes)?;
    file.commit()
}

/// Makes what was renamed into a folder durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), FormatError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| FormatError::io(folder, "sync", e))
}

/// A folder that appears under its name only when all its files are there.
pub(crate) struct AtomicFolder {
    target: PathBuf,
    folder: TempDir,
}

impl AtomicFolder {
    /// Starts a folder that will be at `target`, where there is none or an empty one.
    pub(crate) fn create(target: &Path) -> Result<Self, FormatError> {
        check_parent(target)?;
        match std::fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let problem = "is there already and is not empty; name a new folder";
                    return Err(FormatError::unsupported(target, problem));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(FormatError::io(target, "create", e)),
        }
        let folder = temporary()
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent_of(target))
            .map_err(|e| FormatError::io(target, "create", e))?;
        Ok(Self { target: target.to_owned(), folder })
    }

    /// Where to write the files until then.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Renames the folder to its target.
    pub(crate) fn commit(self) -> Result<(), FormatError> {
        sync_folder(self.folder.path())?;
        std::fs::rename(self.folder.path(), &self.target)
            .map_err(|e| FormatError::io(&self.target, "rename into place", e))?;
        // The folder has moved: there is nothing left for the temporary's destructor to remove.
        let _ = self.folder.keep();
        sync_folder(parent_of(&self.target))
    }
}
