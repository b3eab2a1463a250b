//! The files of a vector store, and what is made of them.

use super::{Attributes, VectorStores, attributes, find, touch, vectors};
use crate::error::{Result, StoreError};
use crate::ids::new_id;
use crate::now;
use crate::page::{Listed, Page, Table};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use serde_json::Value;

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileStatus {
    /// It is being cut and its vectors computed, or waits for that.
    InProgress,
    /// It can be found.
    Completed,
    /// It was given up.
    Cancelled,
    /// It cannot be used.
    Failed,
}

impl FileStatus {
    /// Every status with its name.
    pub const ALL: [(FileStatus, &'static str); 4] = [
        (FileStatus::InProgress, "in_progress"),
        (FileStatus::Completed, "completed"),
        (FileStatus::Cancelled, "cancelled"),
        (FileStatus::Failed, "failed"),
    ];

    /// The status's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        FileStatus::ALL.iter().find(|(status, _)| *status == self).map_or("", |(_, name)| name)
    }

    /// The status with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<FileStatus> {
        FileStatus::ALL.iter().find(|(_, own)| *own == name).map(|(status, _)| *status)
    }
}

/// A file in a vector store.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorStoreFile {
    /// The file's id.
    pub id: String,
    /// The store's id.
    pub vector_store: String,
    /// Whose the store is.
    pub tenant: String,
    /// The key that the work on it is billed to; empty for none.
    pub key: String,
    /// When it was added.
    pub created_at: i64,
    /// How far it is.
    pub status: FileStatus,
    /// Why it failed: an object for users.
    pub error: Option<Value>,
    /// What its owner noted.
    pub attributes: Attributes,
    /// How it is cut.
    pub chunking: Value,
    /// Bytes of its chunks.
    pub bytes: u64,
}

/// Files that were added together.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorStoreBatch {
    /// Its id.
    pub id: String,
    /// The store's id.
    pub vector_store: String,
    /// When it was made.
    pub created_at: i64,
    /// Files by status, as many entries as [`FileStatus::ALL`] has.
    pub counts: Vec<(FileStatus, u64)>,
}

/// A chunk to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewChunk {
    /// Its text.
    pub text: String,
    /// Its vector.
    pub vector: Vec<f32>,
}

/// A chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which of the file, from 0.
    pub ordinal: u64,
    /// Its text.
    pub text: String,
}

/// A file to be added: its id, attributes and chunking.
type Addition = (String, Attributes, Value);

const COLUMNS: &str = "id, vector_store, key, created_at, status, error, attributes, chunking, bytes, \
                       (SELECT tenant FROM vector_stores WHERE vector_stores.id = vector_store) AS tenant";

impl VectorStores<'_> {
    /// Adds files, to be cut, and billed to `key`: each its id, what is noted about it and how it is cut. With `batch`, they are one, which
    /// is returned. A file that is there already is cut again.
    ///
    /// # Errors
    /// When the store or a file is not there.
    pub fn add_files(
        &self,
        tenant: &str,
        key: &str,
        id: &str,
        files: &[Addition],
        batch: bool,
    ) -> Result<Option<VectorStoreBatch>> {
        self.store.write(|transaction| {
            let found = find(transaction, tenant, id)?;
            if found.expired {
                let (id, state) = (id.to_owned(), "expired".to_owned());
                let reason = "no files can be added any more; make a new one";
                return Err(StoreError::Conflict { what: "vector store", id, state, reason });
            }
            let batch = batch.then(|| new_id("vsfb_")).transpose()?;
            if let Some(batch) = &batch {
                let sql = "INSERT INTO vector_store_batches (id, vector_store, created_at) VALUES (?, ?, ?)";
                transaction.execute(sql, params![batch, id, now()])?;
            }
            for (file, attributes, chunking) in files {
                crate::files::find(transaction, tenant, file)?;
                transaction.execute(
                    "DELETE FROM vector_store_files WHERE vector_store = ? AND id = ?",
                    [id, file],
                )?;
                let attributes = Value::Object(attributes.clone()).to_string();
                transaction.execute(
                    "INSERT INTO vector_store_files \
                     (vector_store, id, batch, key, created_at, status, attributes, chunking) \
                     VALUES (?, ?, ?, ?, ?, 'in_progress', ?, ?)",
                    params![id, file, batch, key, now(), attributes, chunking.to_string()],
                )?;
            }
            touch(transaction, id)?;
            batch.map(|batch| find_batch(transaction, id, &batch)).transpose()
        })
    }

    /// One file.
    ///
    /// # Errors
    /// When the store is not there or has no such file.
    pub fn file(&self, tenant: &str, id: &str, file: &str) -> Result<VectorStoreFile> {
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            find_file(transaction, id, file)
        })
    }

    /// Files, a page at a time, of one batch and of one status if wanted.
    ///
    /// # Errors
    /// When the store or the batch is not there, or the page begins at what is not there.
    pub fn files(
        &self,
        tenant: &str,
        id: &str,
        batch: Option<&str>,
        status: Option<FileStatus>,
        page: &Page,
    ) -> Result<Listed<VectorStoreFile>> {
        let status = status.map(FileStatus::name);
        let parameters: [&dyn ToSql; 3] = [&id, &batch, &status];
        let condition = "vector_store = ?1 AND (?2 IS NULL OR batch = ?2) AND (?3 IS NULL OR status = ?3)";
        let table =
            Table { name: "vector_store_files", columns: COLUMNS, condition, parameters: &parameters };
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            if let Some(batch) = batch {
                find_batch(transaction, id, batch)?;
            }
            table.page(transaction, page, read)
        })
    }

    /// Changes what is noted about a file.
    ///
    /// # Errors
    /// When the store is not there or has no such file.
    pub fn set_attributes(
        &self,
        tenant: &str,
        id: &str,
        file: &str,
        attributes: &Attributes,
    ) -> Result<VectorStoreFile> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            let text = Value::Object(attributes.clone()).to_string();
            let sql = "UPDATE vector_store_files SET attributes = ? WHERE vector_store = ? AND id = ?";
            transaction.execute(sql, params![text, id, file])?;
            find_file(transaction, id, file)
        })
    }

    /// Takes a file out of a store; the file itself stays.
    ///
    /// # Errors
    /// When the store is not there or has no such file.
    pub fn remove_file(&self, tenant: &str, id: &str, file: &str) -> Result<()> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            find_file(transaction, id, file)?;
            transaction
                .execute("DELETE FROM vector_store_files WHERE vector_store = ? AND id = ?", [id, file])?;
            touch(transaction, id)
        })
    }

    /// Stores the chunks of a file that was in progress, with the model that made their vectors; it is completed from
    /// here on. Whether it was still in progress is returned; if not, nothing was stored.
    ///
    /// # Errors
    /// When a vector is none, or is not of the model or the length that the store's others are of.
    pub fn complete_file(&self, id: &str, file: &str, model: &str, chunks: &[NewChunk]) -> Result<bool> {
        let quantised =
            chunks.iter().map(|chunk| vectors::quantised(&chunk.vector)).collect::<Result<Vec<_>>>()?;
        self.store.write(|transaction| {
            let bytes: usize = chunks.iter().map(|chunk| chunk.text.len() + chunk.vector.len()).sum();
            let sql = "UPDATE vector_store_files SET status = 'completed', bytes = ? \
                       WHERE vector_store = ? AND id = ? AND status = 'in_progress'";
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            if transaction.execute(sql, params![bytes, id, file])? == 0 {
                return Ok(false);
            }
            if !chunks.is_empty() {
                hold_to_model(transaction, id, model, quantised[0].bytes.len())?;
            }
            let sql = "INSERT INTO chunks (vector_store, file, ordinal, text, scale, vector) VALUES (?, ?, ?, ?, ?, ?)";
            let mut statement = transaction.prepare_cached(sql)?;
            for (ordinal, (chunk, vector)) in chunks.iter().zip(&quantised).enumerate() {
                if vector.bytes.len() != quantised[0].bytes.len() {
                    return Err(StoreError::invalid("chunks", "their vectors differ in length"));
                }
                let bytes: Vec<u8> = vector.bytes.iter().map(|byte| *byte as u8).collect();
                let ordinal = i64::try_from(ordinal).unwrap_or(i64::MAX);
                statement.execute(params![id, file, ordinal, chunk.text, f64::from(vector.scale), bytes])?;
            }
            touch(transaction, id)?;
            Ok(true)
        })
    }

    /// Ends a file in progress that cannot be used, with an object that tells users why.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn fail_file(&self, id: &str, file: &str, error: &Value) -> Result<()> {
        self.store.write(|transaction| {
            let sql = "UPDATE vector_store_files SET status = 'failed', error = ? \
                       WHERE vector_store = ? AND id = ? AND status = 'in_progress'";
            transaction.execute(sql, params![error.to_string(), id, file])?;
            Ok(())
        })
    }

    /// Files of all stores that are in progress, oldest first: what there is to do.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn files_in_progress(&self) -> Result<Vec<VectorStoreFile>> {
        let sql =
            format!("SELECT {COLUMNS} FROM vector_store_files WHERE status = 'in_progress' ORDER BY seq");
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached(&sql)?;
            let files = statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
            Ok(files)
        })
    }

    /// The chunks of a file, in order.
    ///
    /// # Errors
    /// When the store is not there or has no such file.
    pub fn chunks(&self, tenant: &str, id: &str, file: &str) -> Result<Vec<Chunk>> {
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            find_file(transaction, id, file)?;
            let sql = "SELECT ordinal, text FROM chunks WHERE vector_store = ? AND file = ? ORDER BY ordinal";
            let mut statement = transaction.prepare_cached(sql)?;
            let chunks = statement.query_map([id, file], |row| {
                Ok(Chunk { ordinal: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0), text: row.get(1)? })
            })?;
            Ok(chunks.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// One batch of files.
    ///
    /// # Errors
    /// When the store is not there or has no such batch.
    pub fn batch(&self, tenant: &str, id: &str, batch: &str) -> Result<VectorStoreBatch> {
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            find_batch(transaction, id, batch)
        })
    }

    /// Gives the files of a batch up that are in progress.
    ///
    /// # Errors
    /// When the store is not there or has no such batch.
    pub fn cancel_batch(&self, tenant: &str, id: &str, batch: &str) -> Result<VectorStoreBatch> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            find_batch(transaction, id, batch)?;
            let sql = "UPDATE vector_store_files SET status = 'cancelled' \
                       WHERE vector_store = ? AND batch = ? AND status = 'in_progress'";
            transaction.execute(sql, [id, batch])?;
            find_batch(transaction, id, batch)
        })
    }
}

/// Vectors of different models cannot be compared: the first file says which model a store is of.
fn hold_to_model(transaction: &Transaction<'_>, id: &str, model: &str, dimensions: usize) -> Result<()> {
    let sql = "SELECT length(vector) FROM chunks WHERE vector_store = ? LIMIT 1";
    let there: Option<i64> = transaction.query_row(sql, [id], |row| row.get(0)).optional()?;
    let sql = "SELECT model FROM vector_stores WHERE id = ?";
    let own: Option<String> = transaction.query_row(sql, [id], |row| row.get(0))?;
    match (there, own) {
        (Some(_), Some(own)) if own != model => {
            let reason = format!("they are of the model `{model}`, and the vector store's are of `{own}`");
            Err(StoreError::invalid("vectors", reason))
        }
        (Some(there), _) if usize::try_from(there) != Ok(dimensions) => {
            let reason = format!("they have {dimensions} dimensions, and the vector store's have {there}");
            Err(StoreError::invalid("vectors", reason))
        }
        _ => {
            transaction.execute("UPDATE vector_stores SET model = ? WHERE id = ?", [model, id])?;
            Ok(())
        }
    }
}

/// Files by status, and their bytes.
pub(super) fn counts(
    transaction: &Transaction<'_>,
    condition: &str,
    id: &str,
) -> Result<(Vec<(FileStatus, u64)>, u64)> {
    let sql = format!(
        "SELECT status, count(*), sum(bytes) FROM vector_store_files WHERE {condition} GROUP BY status"
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut rows = statement.query([id])?;
    let mut counts: Vec<(FileStatus, u64)> = FileStatus::ALL.iter().map(|(status, _)| (*status, 0)).collect();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let status: String = row.get(0)?;
        let status = FileStatus::named(&status);
        for entry in counts.iter_mut().filter(|(own, _)| Some(*own) == status) {
            entry.1 = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        }
        bytes += u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
    }
    Ok((counts, bytes))
}

fn find_file(transaction: &Transaction<'_>, id: &str, file: &str) -> Result<VectorStoreFile> {
    let sql = format!("SELECT {COLUMNS} FROM vector_store_files WHERE vector_store = ? AND id = ?");
    let found = transaction.prepare_cached(&sql)?.query_row([id, file], read).optional()?;
    found.ok_or_else(|| StoreError::not_found("file in the vector store", file))
}

fn find_batch(transaction: &Transaction<'_>, id: &str, batch: &str) -> Result<VectorStoreBatch> {
    let sql = "SELECT created_at FROM vector_store_batches WHERE vector_store = ? AND id = ?";
    let found = transaction.prepare_cached(sql)?.query_row([id, batch], |row| row.get(0)).optional()?;
    let created_at = found.ok_or_else(|| StoreError::not_found("file batch in the vector store", batch))?;
    let (counts, _) = counts(transaction, "batch = ?1", batch)?;
    Ok(VectorStoreBatch { id: batch.to_owned(), vector_store: id.to_owned(), created_at, counts })
}

fn read(row: &Row<'_>) -> rusqlite::Result<VectorStoreFile> {
    let status: String = row.get("status")?;
    Ok(VectorStoreFile {
        id: row.get("id")?,
        vector_store: row.get("vector_store")?,
        tenant: row.get("tenant")?,
        key: row.get("key")?,
        created_at: row.get("created_at")?,
        status: FileStatus::named(&status).unwrap_or(FileStatus::Failed),
        error: row.get("error")?,
        attributes: attributes(row.get("attributes")?),
        chunking: row.get("chunking")?,
        bytes: u64::try_from(row.get::<_, i64>("bytes")?).unwrap_or(0),
    })
}
