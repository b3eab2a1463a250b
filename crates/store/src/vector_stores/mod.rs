//! Vector stores: files cut into chunks, each with its text and its vector, that can be searched.
//!
//! A file enters a store as `in_progress`; whoever cuts it hands all its chunks over at once, and it is `completed` in the
//! same transaction. So a file that was being cut when the process was killed is simply one that is still in progress.

mod files;
mod filter;
mod search;
mod vectors;

pub use files::{Chunk, FileStatus, NewChunk, VectorStoreBatch, VectorStoreFile};
pub use filter::{Attributes, Comparison, Filter};
pub use search::{Hit, SearchQuery, fuse};
pub use vectors::quantise;

use crate::error::{Result, StoreError};
use crate::ids::new_id;
use crate::page::{Listed, Page, Table};
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use serde_json::Value;

const SECONDS_PER_DAY: i64 = 86_400;

/// A vector store to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewVectorStore {
    /// What its maker calls it; may be empty.
    pub name: String,
    /// What it is about.
    pub description: Option<String>,
    /// What its maker noted.
    pub metadata: Option<Value>,
    /// After how many days without use it expires.
    pub expires_after_days: Option<u32>,
}

/// What is to be changed of a vector store; `None` leaves as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorStoreChange {
    /// Its name.
    pub name: Option<String>,
    /// What is noted about it.
    pub metadata: Option<Option<Value>>,
    /// After how many days without use it expires.
    pub expires_after_days: Option<Option<u32>>,
}

/// A vector store.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorStore {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// When it was made.
    pub created_at: i64,
    /// When it was last searched or added to.
    pub last_active_at: i64,
    /// After how many days without use it expires.
    pub expires_after_days: Option<u32>,
    /// Whether it has.
    pub expired: bool,
    /// What its maker calls it.
    pub name: String,
    /// What it is about.
    pub description: Option<String>,
    /// What its maker noted.
    pub metadata: Option<Value>,
    /// The model whose vectors it holds, once it holds any.
    pub model: Option<String>,
    /// Bytes of its files as they are stored here.
    pub bytes: u64,
    /// Files by status, as many entries as [`FileStatus::ALL`] has.
    pub counts: Vec<(FileStatus, u64)>,
}

impl VectorStore {
    /// When it expires if nothing happens to it.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        self.expires_after_days.map(|days| self.last_active_at + i64::from(days) * SECONDS_PER_DAY)
    }
}

/// The vector stores of a store.
#[derive(Clone, Copy, Debug)]
pub struct VectorStores<'a> {
    pub(crate) store: &'a Store,
}

impl VectorStores<'_> {
    /// Makes a vector store without files.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn create(&self, tenant: &str, new: &NewVectorStore) -> Result<VectorStore> {
        let (id, at) = (new_id("vs_")?, now());
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT INTO vector_stores \
                 (id, tenant, created_at, last_active_at, expires_after_days, name, description, metadata) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    id,
                    tenant,
                    at,
                    at,
                    new.expires_after_days,
                    new.name,
                    new.description,
                    new.metadata.as_ref().map(Value::to_string)
                ],
            )?;
            find(transaction, tenant, &id)
        })
    }

    /// One vector store.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<VectorStore> {
        self.store.read(|transaction| find(transaction, tenant, id))
    }

    /// Vector stores, a page at a time.
    ///
    /// # Errors
    /// When the page begins at what is not there.
    pub fn list(&self, tenant: &str, page: &Page) -> Result<Listed<VectorStore>> {
        let parameters: [&dyn ToSql; 1] = [&tenant];
        let table =
            Table { name: "vector_stores", columns: "id", condition: "tenant = ?1", parameters: &parameters };
        self.store.read(|transaction| {
            let ids = table.page(transaction, page, |row| row.get::<_, String>(0))?;
            let items = ids.items.iter().map(|id| find(transaction, tenant, id)).collect::<Result<_>>()?;
            Ok(Listed { items, has_more: ids.has_more })
        })
    }

    /// Changes what is said about a vector store.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn update(&self, tenant: &str, id: &str, change: &VectorStoreChange) -> Result<VectorStore> {
        self.store.write(|transaction| {
            let found = find(transaction, tenant, id)?;
            let metadata = change.metadata.clone().unwrap_or(found.metadata);
            transaction.execute(
                "UPDATE vector_stores SET name = ?, metadata = ?, expires_after_days = ?, last_active_at = ? \
                 WHERE id = ?",
                params![
                    change.name.as_ref().unwrap_or(&found.name),
                    metadata.as_ref().map(Value::to_string),
                    change.expires_after_days.unwrap_or(found.expires_after_days),
                    now(),
                    id
                ],
            )?;
            find(transaction, tenant, id)
        })
    }

    /// Removes a vector store with its chunks. Its files stay.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn delete(&self, tenant: &str, id: &str) -> Result<()> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            transaction.execute("DELETE FROM vector_stores WHERE id = ?", [id])?;
            Ok(())
        })
    }

    /// Lets the vector stores of all tenants expire whose time is over: their chunks go. Returns how many did.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn expire(&self, at: i64) -> Result<usize> {
        let over = "expired = 0 AND expires_after_days IS NOT NULL AND last_active_at + expires_after_days * 86400 <= ?";
        let any = format!("SELECT EXISTS (SELECT 1 FROM vector_stores WHERE {over})");
        if !self
            .store
            .read(|transaction| Ok(transaction.query_row(&any, [at], |row| row.get::<_, bool>(0))?))?
        {
            return Ok(0);
        }
        self.store.write(|transaction| {
            let chunks = format!(
                "DELETE FROM chunks WHERE vector_store IN (SELECT id FROM vector_stores WHERE {over})"
            );
            transaction.execute(&chunks, [at])?;
            Ok(transaction.execute(&format!("UPDATE vector_stores SET expired = 1 WHERE {over}"), [at])?)
        })
    }
}

/// Notes that a store is used.
fn touch(transaction: &Transaction<'_>, id: &str) -> Result<()> {
    transaction.execute("UPDATE vector_stores SET last_active_at = ? WHERE id = ?", params![now(), id])?;
    Ok(())
}

fn find(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<VectorStore> {
    let mut statement =
        transaction.prepare_cached("SELECT * FROM vector_stores WHERE id = ? AND tenant = ?")?;
    let found = statement.query_row([id, tenant], read).optional()?;
    let mut found = found.ok_or_else(|| StoreError::not_found("vector store", id))?;
    let (counts, bytes) = files::counts(transaction, "vector_store = ?1", id)?;
    (found.counts, found.bytes) = (counts, bytes);
    Ok(found)
}

fn read(row: &Row<'_>) -> rusqlite::Result<VectorStore> {
    Ok(VectorStore {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        created_at: row.get("created_at")?,
        last_active_at: row.get("last_active_at")?,
        expires_after_days: row.get("expires_after_days")?,
        expired: row.get("expired")?,
        name: row.get("name")?,
        description: row.get("description")?,
        metadata: row.get("metadata")?,
        model: row.get("model")?,
        bytes: 0,
        counts: Vec::new(),
    })
}

/// Attributes as they come from the database.
fn attributes(value: Value) -> Attributes {
    match value {
        Value::Object(map) => map,
        _ => Attributes::new(),
    }
}
