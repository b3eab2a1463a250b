//! Backups of a database that is in use, and bringing one back into a database that is in use.
//!
//! A backup is a folder with a database and its contents. It appears whole or not at all. A restore checks everything
//! first, and then replaces the whole database in one transaction: others that have it open see the old one or the new.

use crate::blobs::{self, Blobs};
use crate::connection::StoreSettings;
use crate::error::{IoContext, Result, StoreError};
use crate::{Store, migrations};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

/// The database's name within a backup.
const DATABASE: &str = "alti.db";

/// How long a restore waits for others to let it write.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Contents of files.
    pub contents: u64,
    /// Bytes of these.
    pub content_bytes: u64,
}

/// What was brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// Contents of files that the backup names.
    pub contents: u64,
    /// Of these, contents that were not there and were copied.
    pub copied: u64,
}

impl Store {
    /// Writes a backup to a folder that must not exist yet, while the database is in use.
    ///
    /// # Errors
    /// When the folder exists or cannot be written; then nothing is left of the attempt.
    pub fn backup(&self, to: &Path) -> Result<BackupReport> {
        if to.exists() {
            let reason = format!("{} exists already; choose a new folder", to.display());
            return Err(StoreError::invalid("backup", reason));
        }
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).context("create the folder", parent)?;
        let staging = tempfile::Builder::new()
            .prefix(".alti-backup-")
            .tempdir_in(parent)
            .context("create a folder in", parent)?;
        // From here on no content goes away, so that all that the copy of the database names can be copied.
        let _held = self.inner.blobs.hold()?;
        let database = staging.path().join(DATABASE);
        let source = self.inner.connections.private_reader()?;
        copy_database(&source, &mut Connection::open(&database)?)?;
        let mut report = BackupReport::default();
        let copies = Blobs::beside(&database);
        for digest in settle(&database)? {
            report.content_bytes +=
                blobs::copy_checked(&self.inner.blobs.path(&digest), &copies.path(&digest), &digest)?;
            report.contents += 1;
        }
        report.database_bytes = fs::metadata(&database).context("read", &database)?.len();
        File::open(&database).and_then(|file| file.sync_all()).context("flush", &database)?;
        blobs::sync_folder(staging.path())?;
        let staging = staging.keep();
        fs::rename(&staging, to).context("name", to).inspect_err(|_| {
            // What could not be named is of no use to anybody.
            let _ = fs::remove_dir_all(&staging);
        })?;
        blobs::sync_folder(parent)?;
        Ok(report)
    }

    /// Replaces everything in this database by what a backup holds, while the database is in use.
    ///
    /// # Errors
    /// When the backup is damaged, incomplete or of a newer program: then nothing was changed.
    pub fn restore(&self, from: &Path) -> Result<RestoreReport> {
        let backup = from.join(DATABASE);
        if !backup.is_file() {
            let reason = format!("{} holds no backup (there is no {DATABASE} in it)", from.display());
            return Err(StoreError::invalid("restore", reason));
        }
        // The backup is left as it is: an older schema is brought up to date in a copy, beside the database that it
        // is going to be.
        let parent =
            self.path().parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let staging = tempfile::Builder::new()
            .prefix(".alti-restore-")
            .tempdir_in(parent)
            .context("create a folder in", parent)?;
        let copy = staging.path().join(DATABASE);
        let source = Connection::open_with_flags(&backup, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        migrations::check(&source, &backup)?;
        copy_database(&source, &mut Connection::open(&copy)?)?;
        drop(Store::open(&copy, StoreSettings::default())?);
        let mut report = RestoreReport::default();
        let _held = self.inner.blobs.hold()?;
        let backed_up = Blobs::beside(&backup);
        for digest in settle(&copy)? {
            report.contents += 1;
            let target = self.inner.blobs.path(&digest);
            if !target.exists() {
                blobs::copy_checked(&backed_up.path(&digest), &target, &digest)?;
                report.copied += 1;
            }
        }
        let source = Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        self.inner.connections.with_writer(|writer| {
            copy_database(&source, writer)?;
            Ok(())
        })?;
        Ok(report)
    }
}

/// Copies a whole database into another, in one transaction of the latter.
fn copy_database(source: &Connection, target: &mut Connection) -> Result<()> {
    let backup = Backup::new(source, target)?;
    let begun = Instant::now();
    loop {
        match backup.step(-1)? {
            StepResult::Done => return Ok(()),
            _ if begun.elapsed() > PATIENCE => return Err(StoreError::Busy),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Makes a copy a file that stands for itself (no log beside it), checks it, and returns the contents it names.
fn settle(database: &Path) -> Result<Vec<String>> {
    let connection = Connection::open(database)?;
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    check_integrity(&connection)?;
    let mut statement = connection.prepare("SELECT DISTINCT digest FROM contents ORDER BY digest")?;
    let digests = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(digests)
}

/// What `PRAGMA integrity_check` and `foreign_key_check` say.
pub(crate) fn check_integrity(connection: &Connection) -> Result<()> {
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(StoreError::Corrupt { reason: found });
    }
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    if statement.exists([])? {
        return Err(StoreError::Corrupt { reason: "a row belongs to one that is not there".to_owned() });
    }
    Ok(())
}
