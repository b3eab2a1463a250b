//! Connections: one that writes, several that read, and what each of them promises.

use crate::error::{Result, StoreError};
use crate::migrations;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a database is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Most connections that read at once; who comes later waits.
    pub readers: usize,
    /// How long to wait for another process that writes.
    pub busy_timeout: Duration,
    /// Whether what was acknowledged must survive a power failure, too, and not only the death of the process.
    pub survive_power_failure: bool,
    /// Most bytes the database may grow to; `None` lets it grow as the disk has room.
    pub max_bytes: Option<u64>,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            survive_power_failure: true,
            max_bytes: None,
        }
    }
}

/// The connections of one open database.
pub(crate) struct Connections {
    path: PathBuf,
    settings: StoreSettings,
    writer: Mutex<Writer>,
    readers: Mutex<Readers>,
    returned: Condvar,
    /// Whether no process can be writing: the file system is read-only.
    immutable: bool,
}

enum Writer {
    Ready(Connection),
    /// The file could be opened for reading alone.
    ReadOnly(String),
}

#[derive(Default)]
struct Readers {
    idle: Vec<Connection>,
    open: usize,
}

impl Connections {
    pub(crate) fn open(path: &Path, settings: StoreSettings) -> Result<Connections> {
        let (writer, immutable) = match open_writer(path, &settings) {
            Ok(connection) => (Writer::Ready(connection), false),
            Err(error) if !path.is_file() => return Err(error),
            Err(error) => match read_only(path, &settings) {
                // What cannot be read either is told as it was.
                None => return Err(error),
                Some(immutable) => (Writer::ReadOnly(error.to_string()), immutable),
            },
        };
        Ok(Connections {
            path: path.to_owned(),
            settings,
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            returned: Condvar::new(),
            immutable,
        })
    }

    /// Whether nothing can be written.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(*locked(&self.writer), Writer::ReadOnly(_))
    }

    /// Reads: sees the database as it is when the function begins, whatever is written meanwhile.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut reader = self.reader()?;
        let transaction = reader.connection()?.transaction()?;
        work(&transaction)
    }

    /// Writes: all of it or nothing.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.with_writer(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
    }

    /// Lends the connection that writes, outside any transaction.
    pub(crate) fn with_writer<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        match &mut *locked(&self.writer) {
            Writer::Ready(connection) => work(connection),
            Writer::ReadOnly(reason) => Err(StoreError::ReadOnly { reason: reason.clone() }),
        }
    }

    /// A reading connection of one's own, for work that takes long.
    pub(crate) fn private_reader(&self) -> Result<Connection> {
        open_reader(&self.path, &self.settings, self.immutable)
    }

    fn reader(&self) -> Result<Reader<'_>> {
        let mut readers = locked(&self.readers);
        loop {
            if let Some(connection) = readers.idle.pop() {
                return Ok(Reader { connections: self, connection: Some(connection) });
            }
            if readers.open < self.settings.readers.max(1) {
                readers.open += 1;
                drop(readers);
                // The guard exists before the connection does, so that a failure gives the place back.
                let mut reader = Reader { connections: self, connection: None };
                reader.connection = Some(self.private_reader()?);
                return Ok(reader);
            }
            readers = self.returned.wait(readers).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A reading connection that goes back when dropped.
struct Reader<'a> {
    connections: &'a Connections,
    connection: Option<Connection>,
}

impl Reader<'_> {
    fn connection(&mut self) -> Result<&mut Connection> {
        self.connection.as_mut().ok_or(StoreError::Busy)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut readers = locked(&self.connections.readers);
        match self.connection.take() {
            Some(connection) => readers.idle.push(connection),
            None => readers.open -= 1,
        }
        self.connections.returned.notify_one();
    }
}

/// A panic while a lock was held rolled the transaction back; the connection is as good as before.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_writer(path: &Path, settings: &StoreSettings) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(settings.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Before anything is changed, the journal mode included.
    migrations::check(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = if settings.survive_power_failure { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Deleted content is not left behind in free pages.
    connection.pragma_update(None, "secure_delete", true)?;
    migrations::migrate(&mut connection, path)?;
    if let Some(bytes) = settings.max_bytes {
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = bytes / u64::try_from(page).unwrap_or(1).max(1);
        let _: i64 =
            connection.query_row(&format!("PRAGMA max_page_count = {}", pages), [], |row| row.get(0))?;
    }
    Ok(connection)
}

/// Whether the file can be read where it cannot be written, and if so, whether it must be taken as unchanging: on a
/// read-only file system the index of the log cannot be made, and nobody can be writing.
fn read_only(path: &Path, settings: &StoreSettings) -> Option<bool> {
    [false, true].into_iter().find(|immutable| {
        open_reader(path, settings, *immutable)
            .and_then(|connection| migrations::check(&connection, path))
            .is_ok_and(|schema| schema == migrations::SCHEMA)
    })
}

fn open_reader(path: &Path, settings: &StoreSettings, immutable: bool) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if immutable {
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(format!("file:{}?immutable=1", uri(path)), flags)?
    } else {
        Connection::open_with_flags(path, flags)?
    };
    connection.busy_timeout(settings.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// A path as it stands in a URI.
fn uri(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}
