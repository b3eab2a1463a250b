//! Files that users upload and batches write: a row each, the content kept once however many rows have it.

use crate::blobs::{BlobWriter, Staged};
use crate::error::{IoContext, Result, StoreError};
use crate::ids::new_id;
use crate::page::{Listed, Page, Table};
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use std::io::Read;

/// A file to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Whose it is.
    pub tenant: String,
    /// Its name, as its owner calls it; never used as a path.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// When it goes, in seconds since 1970.
    pub expires_at: Option<i64>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: i64,
    /// When it goes.
    pub expires_at: Option<i64>,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Its size.
    pub bytes: u64,
    digest: String,
}

/// A file that is being written. Dropped before [`FileWriter::finish`], nothing is left of it.
pub struct FileWriter {
    pub(crate) store: Store,
    pub(crate) blob: BlobWriter,
}

/// The files of a store.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    pub(crate) store: &'a Store,
}

const COLUMNS: &str = "id, created_at, expires_at, name, purpose, bytes, digest";

impl FileWriter {
    /// Adds to the content.
    ///
    /// # Errors
    /// When the disk is full or cannot be written.
    pub fn write(&mut self, part: &[u8]) -> Result<()> {
        self.blob.write(part)
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blob.bytes()
    }

    /// Ends the content and names it: from here on it is kept.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn finish(self, new: &NewFile) -> Result<File> {
        let FileWriter { store, blob } = self;
        let staged = blob.finish()?;
        store.write(|transaction| insert(&store, transaction, staged, new))
    }
}

impl Files<'_> {
    /// Begins a file.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn writer(&self) -> Result<FileWriter> {
        Ok(FileWriter { store: self.store.clone(), blob: self.store.inner.blobs.writer()? })
    }

    /// Keeps a file whose content is at hand.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn create(&self, new: &NewFile, content: &[u8]) -> Result<File> {
        let mut writer = self.writer()?;
        writer.write(content)?;
        writer.finish(new)
    }

    /// One file.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<File> {
        self.store.read(|transaction| find(transaction, tenant, id))
    }

    /// Files, a page at a time, of one purpose if wanted.
    ///
    /// # Errors
    /// When the page begins at what is not there.
    pub fn list(&self, tenant: &str, purpose: Option<&str>, page: &Page) -> Result<Listed<File>> {
        let parameters: [&dyn ToSql; 2] = [&tenant, &purpose];
        let table = Table {
            name: "files",
            columns: COLUMNS,
            condition: "tenant = ?1 AND (?2 IS NULL OR purpose = ?2)",
            parameters: &parameters,
        };
        self.store.read(|transaction| table.page(transaction, page, read))
    }

    /// A file's content, to be read from the start. It can be read to its end even if the file is deleted meanwhile.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(&self, tenant: &str, id: &str) -> Result<(File, std::fs::File)> {
        self.store.read(|transaction| {
            let file = find(transaction, tenant, id)?;
            let content = self.store.inner.blobs.open(&file.digest)?;
            Ok((file, content))
        })
    }

    /// A file's whole content, if it has at most so many bytes.
    ///
    /// # Errors
    /// When there is no such file, or it is larger.
    pub fn content(&self, tenant: &str, id: &str, most: u64) -> Result<Vec<u8>> {
        let (file, content) = self.open(tenant, id)?;
        if file.bytes > most {
            let reason = format!("`{id}` has {} bytes, and {most} can be read at once", file.bytes);
            return Err(StoreError::invalid("file", reason));
        }
        let mut bytes = Vec::new();
        content
            .take(most)
            .read_to_end(&mut bytes)
            .context("read", &self.store.inner.blobs.path(&file.digest))?;
        Ok(bytes)
    }

    /// Removes a file, also from vector stores.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn delete(&self, tenant: &str, id: &str) -> Result<()> {
        let digest = self.store.write(|transaction| {
            let file = find(transaction, tenant, id)?;
            remove(transaction, id)?;
            Ok(file.digest)
        })?;
        // The file is gone as far as anybody can see; its content goes now or with the next sweep.
        let _ = self.store.remove_unnamed(&[digest]);
        Ok(())
    }

    /// Removes the files of all tenants whose time is over. Returns how many.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn expire(&self, at: i64) -> Result<usize> {
        let sql = "SELECT id, digest FROM files WHERE expires_at <= ?";
        let over = self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached(sql)?;
            let rows = statement.query_map([at], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<Vec<(String, String)>>>()?)
        })?;
        if over.is_empty() {
            return Ok(0);
        }
        self.store.write(|transaction| over.iter().try_for_each(|(id, _)| remove(transaction, id)))?;
        let (ids, digests): (Vec<String>, Vec<String>) = over.into_iter().unzip();
        let _ = self.store.remove_unnamed(&digests);
        Ok(ids.len())
    }
}

/// Names a content within a transaction of the caller's.
pub(crate) fn insert(
    store: &Store,
    transaction: &Transaction<'_>,
    staged: Staged,
    new: &NewFile,
) -> Result<File> {
    let file = File {
        id: new_id("file-")?,
        created_at: now(),
        expires_at: new.expires_at,
        name: new.name.clone(),
        purpose: new.purpose.clone(),
        bytes: staged.bytes,
        digest: staged.digest.clone(),
    };
    store.inner.blobs.publish(staged, transaction)?;
    transaction.execute(
        "INSERT INTO files (id, tenant, created_at, expires_at, name, purpose, bytes, digest) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            file.id,
            new.tenant,
            file.created_at,
            file.expires_at,
            file.name,
            file.purpose,
            i64::try_from(file.bytes).unwrap_or(i64::MAX),
            file.digest
        ],
    )?;
    Ok(file)
}

fn remove(transaction: &Transaction<'_>, id: &str) -> Result<()> {
    transaction.execute("DELETE FROM vector_store_files WHERE id = ?", [id])?;
    transaction.execute("DELETE FROM files WHERE id = ?", [id])?;
    Ok(())
}

pub(crate) fn find(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<File> {
    let sql = format!("SELECT {COLUMNS} FROM files WHERE id = ? AND tenant = ?");
    let found = transaction.prepare_cached(&sql)?.query_row([id, tenant], read).optional()?;
    found.ok_or_else(|| StoreError::not_found("file", id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<File> {
    Ok(File {
        id: row.get("id")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        name: row.get("name")?,
        purpose: row.get("purpose")?,
        bytes: u64::try_from(row.get::<_, i64>("bytes")?).unwrap_or(0),
        digest: row.get("digest")?,
    })
}
