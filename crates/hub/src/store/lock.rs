//! Locks between processes, which the operating system releases when a process dies.
//!
//! Lock files are never left "stale": an empty file under `locks/` means nothing by itself, only
//! the kernel's lock on it does. They are removed only while no pull can be waiting for one.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::error::{HubError, IoContext};
use crate::progress::Observer;

/// How often a waiting pull looks again.
const POLL: Duration = Duration::from_millis(100);

/// A held lock; dropping it lets others proceed.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

fn open(path: &Path) -> Result<File, HubError> {
    OpenOptions::new().create(true).truncate(false).write(true).read(true).open(path).context("open", path)
}

/// Waits for the only lock, for operations that are short (no network, no large copies).
pub(crate) fn exclusive(path: &Path) -> Result<Lock, HubError> {
    let file = open(path)?;
    file.lock().context("lock", path)?;
    Ok(Lock { _file: file })
}

/// Joins the holders of a shared lock.
pub(crate) fn shared(path: &Path) -> Result<Lock, HubError> {
    let file = open(path)?;
    file.lock_shared().context("lock", path)?;
    Ok(Lock { _file: file })
}

/// The only lock, or `None` if anybody else has one.
pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Lock>, HubError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("lock", path),
    }
}

/// Waits for the only lock as long as it takes, calling `tick` while somebody else has it.
pub(crate) fn wait_exclusive(
    path: &Path,
    observer: Observer<'_>,
    mut tick: impl FnMut(),
) -> Result<Lock, HubError> {
    loop {
        if let Some(lock) = try_exclusive(path)? {
            return Ok(lock);
        }
        tick();
        observer.sleep(POLL)?;
    }
}
