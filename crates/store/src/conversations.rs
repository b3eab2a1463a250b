//! Conversations: lists of items that grow.

use crate::error::{Result, StoreError};
use crate::ids::new_id;
use crate::page::{Listed, Page, Table};
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use serde_json::Value;

/// A conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: i64,
    /// What its maker noted.
    pub metadata: Value,
}

/// The conversations of a store. An item is a JSON object with an `id`.
#[derive(Clone, Copy, Debug)]
pub struct Conversations<'a> {
    pub(crate) store: &'a Store,
}

impl Conversations<'_> {
    /// Makes a conversation with its first items.
    ///
    /// # Errors
    /// When an item has no id, or one that another has, or nothing can be written.
    pub fn create(&self, tenant: &str, metadata: Value, items: &[Value]) -> Result<Conversation> {
        let conversation = Conversation { id: new_id("conv_")?, created_at: now(), metadata };
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT INTO conversations (id, tenant, created_at, metadata) VALUES (?, ?, ?, ?)",
                params![conversation.id, tenant, conversation.created_at, conversation.metadata.to_string()],
            )?;
            append(transaction, &conversation.id, items)
        })?;
        Ok(conversation)
    }

    /// One conversation.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<Conversation> {
        self.store.read(|transaction| find(transaction, tenant, id))
    }

    /// Changes what is noted about a conversation.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn set_metadata(&self, tenant: &str, id: &str, metadata: Value) -> Result<Conversation> {
        self.store.write(|transaction| {
            let found = find(transaction, tenant, id)?;
            let text = metadata.to_string();
            transaction.execute("UPDATE conversations SET metadata = ? WHERE id = ?", (text, id))?;
            Ok(Conversation { metadata, ..found })
        })
    }

    /// Removes a conversation and its items.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn delete(&self, tenant: &str, id: &str) -> Result<()> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            transaction.execute("DELETE FROM conversations WHERE id = ?", [id])?;
            Ok(())
        })
    }

    /// Adds items at the end, all or none.
    ///
    /// # Errors
    /// When there is no such conversation, or an item has no id or one that another has.
    pub fn add_items(&self, tenant: &str, id: &str, items: &[Value]) -> Result<()> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            append(transaction, id, items)
        })
    }

    /// Adds those items at the end whose ids the conversation does not have yet.
    ///
    /// # Errors
    /// When there is no such conversation, or an item has no id.
    pub fn add_new_items(&self, tenant: &str, id: &str, items: &[Value]) -> Result<()> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            append_new(transaction, id, items)
        })
    }

    /// Items, a page at a time.
    ///
    /// # Errors
    /// When there is no such conversation.
    pub fn items(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Value>> {
        let parameters: [&dyn ToSql; 1] = [&id];
        let table = Table {
            name: "conversation_items",
            columns: "item",
            condition: "conversation = ?1",
            parameters: &parameters,
        };
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            table.page(transaction, page, |row| row.get(0))
        })
    }

    /// All items, oldest first.
    ///
    /// # Errors
    /// When there is no such conversation.
    pub fn all_items(&self, tenant: &str, id: &str) -> Result<Vec<Value>> {
        let page = Page { limit: usize::MAX >> 1, ascending: true, ..Page::default() };
        Ok(self.items(tenant, id, &page)?.items)
    }

    /// One item.
    ///
    /// # Errors
    /// When there is no such conversation or item.
    pub fn item(&self, tenant: &str, id: &str, item: &str) -> Result<Value> {
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            let sql = "SELECT item FROM conversation_items WHERE conversation = ? AND id = ?";
            let found = transaction.query_row(sql, [id, item], |row| row.get(0)).optional()?;
            found.ok_or_else(|| StoreError::not_found("item", item))
        })
    }

    /// Removes one item.
    ///
    /// # Errors
    /// When there is no such conversation or item.
    pub fn delete_item(&self, tenant: &str, id: &str, item: &str) -> Result<Conversation> {
        self.store.write(|transaction| {
            let conversation = find(transaction, tenant, id)?;
            let sql = "DELETE FROM conversation_items WHERE conversation = ? AND id = ?";
            match transaction.execute(sql, [id, item])? {
                0 => Err(StoreError::not_found("item", item)),
                _ => Ok(conversation),
            }
        })
    }
}

/// The id of an item.
pub(crate) fn item_id(item: &Value) -> Result<&str> {
    let id = item.get("id").and_then(Value::as_str);
    id.filter(|id| !id.is_empty()).ok_or_else(|| StoreError::invalid("item", "it has no id"))
}

/// Adds items to a conversation, all or none.
fn append(transaction: &Transaction<'_>, conversation: &str, items: &[Value]) -> Result<()> {
    for item in items {
        if !insert(transaction, conversation, item)? {
            let reason = format!("the conversation has one with the id `{}` already", item_id(item)?);
            return Err(StoreError::invalid("item", reason));
        }
    }
    Ok(())
}

/// Adds those items to a conversation that it does not have yet, within a transaction of the caller's. Two responses that
/// were asked for with the same item may end one after the other: what the second says must not be lost with it.
pub(crate) fn append_new(transaction: &Transaction<'_>, conversation: &str, items: &[Value]) -> Result<()> {
    items.iter().try_for_each(|item| insert(transaction, conversation, item).map(drop))
}

/// Whether an item could be added: not if there is one with its id.
fn insert(transaction: &Transaction<'_>, conversation: &str, item: &Value) -> Result<bool> {
    let sql =
        "INSERT INTO conversation_items (conversation, id, item) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
    let mut statement = transaction.prepare_cached(sql)?;
    Ok(statement.execute((conversation, item_id(item)?, item.to_string()))? > 0)
}

pub(crate) fn find(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<Conversation> {
    let sql = "SELECT id, created_at, metadata FROM conversations WHERE id = ? AND tenant = ?";
    let found = transaction.prepare_cached(sql)?.query_row([id, tenant], read).optional()?;
    found.ok_or_else(|| StoreError::not_found("conversation", id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    Ok(Conversation {
        id: row.get("id")?,
        created_at: row.get("created_at")?,
        metadata: row.get("metadata")?,
    })
}
