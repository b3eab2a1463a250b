//! Every way the store can refuse, in words that an owner can act on.

use rusqlite::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such row, or it is somebody else's.
    #[error("no {what} with the id `{id}`")]
    NotFound {
        /// What was looked for, in a user's words.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// A value that the store cannot hold.
    #[error("{what}: {reason}")]
    Invalid {
        /// The field or the thing.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The row is not in a state in which that can be done.
    #[error("{what} `{id}` is {state}: {reason}")]
    Conflict {
        /// What kind of row.
        what: &'static str,
        /// Its id.
        id: String,
        /// The state it is in.
        state: String,
        /// Why that is in the way.
        reason: &'static str,
    },
    /// The file was written by a newer program.
    #[error(
        "{}: the database has schema {found}, and this program knows schemas up to {known}: it was written by a newer \
         `alti`; update the program, or restore a backup that is older", path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The schema found.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// The file is a database of something else.
    #[error("{}: not a database of Altiplano; choose another path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// There is no room to write. What was there is untouched.
    #[error(
        "the disk is full: nothing was written, what was there is intact and can be read; free some space ({reason})"
    )]
    DiskFull {
        /// What the system said.
        reason: String,
    },
    /// The file cannot be written.
    #[error("the database is read-only: what is there can be read, nothing can be written ({reason})")]
    ReadOnly {
        /// What the system said.
        reason: String,
    },
    /// Another process writes, for longer than anyone should wait.
    #[error("the database is busy: another process has been writing for too long; try again")]
    Busy,
    /// Another process serves the database.
    #[error(
        "{}: another `alti serve` uses this database (it holds the lock {}); end it first, or give this one a database \
         of its own with --database", path.display(), lock.display()
    )]
    Served {
        /// The database.
        path: PathBuf,
        /// The file that is locked.
        lock: PathBuf,
    },
    /// The file is damaged.
    #[error("the database is damaged ({reason}); restore a backup with `alti restore`")]
    Corrupt {
        /// What was found.
        reason: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Anything else that SQLite says.
    #[error("the database failed: {0}")]
    Database(rusqlite::Error),
}

impl StoreError {
    /// Whether the request was at fault, and not the store.
    #[must_use]
    pub fn is_callers(&self) -> bool {
        matches!(self, StoreError::NotFound { .. } | StoreError::Invalid { .. } | StoreError::Conflict { .. })
    }

    pub(crate) fn not_found(what: &'static str, id: &str) -> StoreError {
        // An id comes from a request and is shown again: not all of a long one.
        StoreError::NotFound { what, id: id.chars().take(100).collect() }
    }

    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> StoreError {
        StoreError::Invalid { what, reason: reason.into() }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::DiskFull { reason },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly { reason },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt { reason },
            _ => StoreError::Database(error),
        }
    }
}

/// Says of an I/O error what was attempted on which file.
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { reason: format!("cannot {action} {}: {source}", path.display()) }
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::ReadOnly { reason: format!("cannot {action} {}: {source}", path.display()) }
            }
            _ => StoreError::Io { action, path: path.to_owned(), source },
        })
    }
}
