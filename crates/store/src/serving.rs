//! Who serves a database: one process at most. Work that a killed server left is ended or gone on with when the next one
//! starts, so that one must be sure that nobody is at it. Whoever only looks into a database, or writes single rows (keys,
//! prices, backups), needs no lock.

use crate::Store;
use crate::error::{IoContext, Result, StoreError};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The right to serve a database, until it is dropped. The operating system takes it back when the process dies: the file
/// that stays behind means nothing by itself.
#[derive(Debug)]
pub struct ServingLock {
    /// None where nothing can be written, and so nothing that was left be changed.
    _file: Option<File>,
}

impl Store {
    /// Makes this process the only one that serves the database.
    ///
    /// # Errors
    /// When another process does, or the lock's file cannot be made.
    pub fn lock_for_serving(&self) -> Result<ServingLock> {
        if self.inner.connections.is_read_only() {
            return Ok(ServingLock { _file: None });
        }
        let path = lock_path(&self.path().canonicalize().context("find", self.path())?);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.context("open", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(ServingLock { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(StoreError::Served { path: self.path().to_owned(), lock: path })
            }
            Err(TryLockError::Error(error)) => Err(error).context("lock", &path),
        }
    }
}

/// The lock's file, beside the database.
fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".serving");
    database.with_file_name(name)
}
