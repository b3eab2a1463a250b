//! Answers to chats that are kept because their request said so, with the turns that they answer.

use crate::conversations;
use crate::error::{Result, StoreError};
use crate::page::{Listed, Page, Table};
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use serde_json::Value;

/// An answer to a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatCompletion {
    /// Its id.
    pub id: String,
    /// The model, as it was asked for.
    pub model: String,
    /// Pairs of strings that its owner gave it.
    pub metadata: Value,
    /// The answer as it is shown, but for `metadata`.
    pub body: Value,
}

/// Which answers are listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatCompletionFilter {
    /// Those of this model.
    pub model: Option<String>,
    /// Those whose metadata have all of these pairs; an object of strings.
    pub metadata: Option<Value>,
}

/// The answers to chats of a store.
#[derive(Clone, Copy, Debug)]
pub struct ChatCompletions<'a> {
    pub(crate) store: &'a Store,
}

const COLUMNS: &str = "id, model, metadata, body";

/// Of which model, and with which metadata: every pair wanted has its like among a row's own.
const WANTED: &str = "tenant = ?1 AND (?2 IS NULL OR model = ?2) AND NOT EXISTS ( \
    SELECT 1 FROM json_each(?3) AS wanted WHERE NOT EXISTS ( \
    SELECT 1 FROM json_each(chat_completions.metadata) AS own \
    WHERE own.key = wanted.key AND own.value = wanted.value))";

impl ChatCompletions<'_> {
    /// Keeps an answer and the turns that it answers, each with an `id`.
    ///
    /// # Errors
    /// When there is one with that id, a turn has no id, or nothing can be written.
    pub fn create(&self, tenant: &str, new: &ChatCompletion, messages: &[Value]) -> Result<()> {
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT INTO chat_completions (id, tenant, created_at, model, metadata, body) VALUES (?, ?, ?, ?, ?, ?)",
                params![new.id, tenant, now(), new.model, new.metadata.to_string(), new.body.to_string()],
            )?;
            let sql = "INSERT INTO chat_completion_messages (completion, id, message) VALUES (?, ?, ?)";
            let mut statement = transaction.prepare_cached(sql)?;
            for message in messages {
                statement.execute((&new.id, conversations::item_id(message)?, message.to_string()))?;
            }
            Ok(())
        })
    }

    /// One answer.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<ChatCompletion> {
        self.store.read(|transaction| find(transaction, tenant, id))
    }

    /// Answers, a page at a time.
    ///
    /// # Errors
    /// When the page begins at what is not there.
    pub fn list(
        &self,
        tenant: &str,
        filter: &ChatCompletionFilter,
        page: &Page,
    ) -> Result<Listed<ChatCompletion>> {
        let metadata = filter.metadata.as_ref().map_or_else(|| "{}".to_owned(), Value::to_string);
        let parameters: [&dyn ToSql; 3] = [&tenant, &filter.model, &metadata];
        let table =
            Table { name: "chat_completions", columns: COLUMNS, condition: WANTED, parameters: &parameters };
        self.store.read(|transaction| table.page(transaction, page, read))
    }

    /// The turns that an answer answers, a page at a time.
    ///
    /// # Errors
    /// When there is no such answer.
    pub fn messages(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Value>> {
        let parameters: [&dyn ToSql; 1] = [&id];
        let table = Table {
            name: "chat_completion_messages",
            columns: "message",
            condition: "completion = ?1",
            parameters: &parameters,
        };
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            table.page(transaction, page, |row| row.get(0))
        })
    }

    /// Replaces an answer's metadata.
    ///
    /// # Errors
    /// When there is none with that id or nothing can be written.
    pub fn set_metadata(&self, tenant: &str, id: &str, metadata: Value) -> Result<ChatCompletion> {
        self.store.write(|transaction| {
            let found = find(transaction, tenant, id)?;
            let sql = "UPDATE chat_completions SET metadata = ? WHERE id = ?";
            transaction.execute(sql, (metadata.to_string(), id))?;
            Ok(ChatCompletion { metadata, ..found })
        })
    }

    /// Removes an answer and its turns.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn delete(&self, tenant: &str, id: &str) -> Result<()> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            transaction.execute("DELETE FROM chat_completions WHERE id = ?", [id])?;
            Ok(())
        })
    }
}

fn find(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<ChatCompletion> {
    let sql = format!("SELECT {COLUMNS} FROM chat_completions WHERE id = ? AND tenant = ?");
    let found = transaction.prepare_cached(&sql)?.query_row([id, tenant], read).optional()?;
    found.ok_or_else(|| StoreError::not_found("chat completion", id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<ChatCompletion> {
    Ok(ChatCompletion {
        id: row.get("id")?,
        model: row.get("model")?,
        metadata: row.get("metadata")?,
        body: row.get("body")?,
    })
}
