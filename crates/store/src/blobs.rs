//! Contents of files, by digest, in a folder beside the database.
//!
//! A content appears whole (temporary file, sync, rename) before the row that names it is committed, and goes only while
//! no row names it. Both happen while the writer's lock of the database is held, so that no other process can name a
//! content that is just being removed. What a killed process leaves is at worst a content that nothing names;
//! `Store::sweep_blobs` removes it.

use crate::Store;
use crate::error::{IoContext, Result, StoreError};
use crate::ids::hexadecimal;
use rusqlite::Transaction;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

/// How often, and after which pause, the lock on contents is tried before they are left to the next sweep.
const LOCK_TRIES: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// An upload that has not moved for so long has nobody who writes it.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a row names a content.
const NAMED: &str = "SELECT EXISTS (SELECT 1 FROM contents WHERE digest = ?)";

/// The folder of contents.
#[derive(Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

/// A content that is being written.
pub(crate) struct BlobWriter {
    file: tempfile::NamedTempFile,
    hasher: Sha256,
    bytes: u64,
}

/// A content that is whole and safe on the disk, and not yet among the others.
pub(crate) struct Staged {
    file: tempfile::NamedTempFile,
    pub(crate) digest: String,
    pub(crate) bytes: u64,
}

impl Blobs {
    pub(crate) fn beside(database: &Path) -> Blobs {
        Blobs { folder: database.with_extension("blobs") }
    }

    pub(crate) fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(digest.get(..2).unwrap_or("xx")).join(digest)
    }

    fn staging(&self) -> PathBuf {
        self.folder.join("partial")
    }

    pub(crate) fn writer(&self) -> Result<BlobWriter> {
        let staging = self.staging();
        fs::create_dir_all(&staging).context("create the folder", &staging)?;
        let file = tempfile::NamedTempFile::new_in(&staging).context("create a file in", &staging)?;
        Ok(BlobWriter { file, hasher: Sha256::new(), bytes: 0 })
    }

    /// Brings a content among the others. `_held` is the transaction that names it: its lock is what keeps the content.
    pub(crate) fn publish(&self, staged: Staged, _held: &Transaction<'_>) -> Result<()> {
        let target = self.path(&staged.digest);
        let folder = target.parent().unwrap_or(&self.folder);
        if fs::metadata(&target).is_ok_and(|there| there.len() == staged.bytes) {
            return Ok(());
        }
        fs::create_dir_all(folder).context("create the folder", folder)?;
        staged.file.persist(&target).map_err(|error| error.error).context("name", &target)?;
        sync_folder(folder)?;
        sync_folder(&self.folder)
    }

    pub(crate) fn open(&self, digest: &str) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).context("open", &path)
    }

    /// Keeps contents from being removed until dropped: for a backup, which reads them one after the other.
    pub(crate) fn hold(&self) -> Result<File> {
        let file = self.lock_file()?;
        let path = self.folder.join("lock");
        file.lock_shared().context("lock", &path)?;
        Ok(file)
    }

    fn lock_file(&self) -> Result<File> {
        fs::create_dir_all(&self.folder).context("create the folder", &self.folder)?;
        let path = self.folder.join("lock");
        File::options().create(true).truncate(false).write(true).open(&path).context("open", &path)
    }

    /// All contents, by digest.
    fn digests(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let folders = match fs::read_dir(&self.folder) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error).context("read", &self.folder),
        };
        for folder in folders.flatten().filter(|folder| folder.file_name().len() == 2) {
            let path = folder.path();
            for file in fs::read_dir(&path).context("read", &path)?.flatten() {
                let name = file.file_name().to_string_lossy().into_owned();
                if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    found.push(name);
                }
            }
        }
        Ok(found)
    }

    /// Removes what uploads left that nobody writes any more.
    fn sweep_staging(&self) {
        let old = |entry: &fs::DirEntry| {
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            changed.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > ABANDONED))
        };
        for entry in fs::read_dir(self.staging()).into_iter().flatten().flatten().filter(old) {
            // Another process may have swept it just now.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl BlobWriter {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn write(&mut self, part: &[u8]) -> Result<()> {
        self.file.write_all(part).context("write", self.file.path())?;
        self.hasher.update(part);
        self.bytes += part.len() as u64;
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Staged> {
        self.file.as_file().sync_all().context("flush", self.file.path())?;
        Ok(Staged { digest: hexadecimal(&self.hasher.finalize()), bytes: self.bytes, file: self.file })
    }
}

impl Store {
    /// Removes contents that no row names, unless a backup is reading.
    pub(crate) fn sweep_blobs(&self) -> Result<()> {
        let blobs = &self.inner.blobs;
        blobs.sweep_staging();
        let unnamed = self.read(|transaction| {
            let mut named = transaction.prepare_cached(NAMED)?;
            let mut unnamed = Vec::new();
            for digest in blobs.digests()? {
                if !named.query_row([&digest], |row| row.get::<_, bool>(0))? {
                    unnamed.push(digest);
                }
            }
            Ok(unnamed)
        })?;
        self.remove_unnamed(&unnamed)
    }

    /// Removes those of the contents that no row names, unless a backup is reading.
    pub(crate) fn remove_unnamed(&self, digests: &[String]) -> Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        let blobs = &self.inner.blobs;
        let lock = blobs.lock_file()?;
        // A process that is being started holds the locks of the one that starts it for a moment.
        let is_free = (0..LOCK_TRIES).any(|tried| {
            thread::sleep(if tried > 0 { LOCK_PAUSE } else { Duration::ZERO });
            lock.try_lock().is_ok()
        });
        if !is_free {
            // The next sweep finds them.
            return Ok(());
        }
        self.write(|transaction| {
            let mut named = transaction.prepare_cached(NAMED)?;
            for digest in digests {
                if !named.query_row([digest], |row| row.get::<_, bool>(0))? {
                    let path = blobs.path(digest);
                    match fs::remove_file(&path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(error).context("remove", &path);
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        })
    }
}

/// Makes a folder's names safe on the disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    // Windows cannot open folders, and keeps their names safe by itself.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).context("flush", folder)?;
    }
    Ok(())
}

/// Copies a content and checks that it is what its digest says.
pub(crate) fn copy_checked(from: &Path, to: &Path, digest: &str) -> Result<u64> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).context("create the folder", folder)?;
    let mut reader = File::open(from).context("open", from)?;
    let mut writer = tempfile::NamedTempFile::new_in(folder).context("create a file in", folder)?;
    let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0u8; 1 << 16]);
    loop {
        let count = match io::Read::read(&mut reader, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("read", from),
        };
        hasher.update(&buffer[..count]);
        writer.write_all(&buffer[..count]).context("write", to)?;
        bytes += count as u64;
    }
    if hexadecimal(&hasher.finalize()) != digest {
        let reason = format!("{} is not what it was when it was written", from.display());
        return Err(StoreError::Corrupt { reason });
    }
    writer.as_file().sync_all().context("flush", to)?;
    writer.persist(to).map_err(|error| error.error).context("name", to)?;
    sync_folder(folder)?;
    Ok(bytes)
}
