//! Responses: what went in, what came out, how far it is, and the events that told of it.

use crate::conversations;
use crate::error::{Result, StoreError};
use crate::page::{Listed, Page, Table};
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// How many responses may hang on one another by `previous`: walking them must end.
const LONGEST_CHAIN: usize = 10_000;

/// A tenant's newest item with an id: among outputs and inputs of responses, and items of conversations.
const ITEMS: [&str; 3] = [
    "SELECT output.value FROM output_items AS known JOIN responses ON responses.id = known.response, \
     json_each(responses.body, '$.output') AS output \
     WHERE known.id = ?2 AND tenant = ?1 AND output.value ->> 'id' = ?2 ORDER BY seq DESC LIMIT 1",
    "SELECT item FROM response_items AS items JOIN responses ON responses.id = response \
     WHERE items.id = ?2 AND tenant = ?1 ORDER BY items.seq DESC LIMIT 1",
    "SELECT item FROM conversation_items AS items JOIN conversations ON conversations.id = conversation \
     WHERE items.id = ?2 AND tenant = ?1 ORDER BY items.seq DESC LIMIT 1",
];

/// A response to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewResponse {
    /// Its id.
    pub id: String,
    /// How far it is: `queued`, `in_progress`, or what it ended as.
    pub status: String,
    /// Whether it goes on while nobody listens.
    pub background: bool,
    /// The response it continues.
    pub previous: Option<String>,
    /// The conversation it belongs to.
    pub conversation: Option<String>,
    /// The response object as it is shown.
    pub body: Value,
    /// The items that went in with this response (not those of earlier ones), each with an `id`.
    pub input: Vec<Value>,
}

/// A response.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// When it was made.
    pub created_at: i64,
    /// How far it is.
    pub status: String,
    /// Whether it goes on while nobody listens.
    pub background: bool,
    /// The response it continues.
    pub previous: Option<String>,
    /// The conversation it belongs to.
    pub conversation: Option<String>,
    /// The response object as it is shown.
    pub body: Value,
}

impl Response {
    /// Whether nothing more comes of it.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(self.status.as_str(), "queued" | "in_progress")
    }
}

/// The responses of a store.
#[derive(Clone, Copy, Debug)]
pub struct Responses<'a> {
    pub(crate) store: &'a Store,
}

const COLUMNS: &str = "id, tenant, created_at, status, background, previous, conversation, body";

impl Responses<'_> {
    /// Keeps a new response.
    ///
    /// # Errors
    /// When there is one with that id, an input item has no id, or nothing can be written.
    pub fn create(&self, tenant: &str, new: &NewResponse) -> Result<()> {
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT INTO responses (id, tenant, created_at, status, background, previous, conversation, body) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    new.id,
                    tenant,
                    now(),
                    new.status,
                    new.background,
                    new.previous,
                    new.conversation,
                    new.body.to_string()
                ],
            )?;
            let sql = "INSERT INTO response_items (response, id, item) VALUES (?, ?, ?)";
            let mut statement = transaction.prepare_cached(sql)?;
            for item in &new.input {
                statement.execute((&new.id, conversations::item_id(item)?, item.to_string()))?;
            }
            Ok(())
        })
    }

    /// Says how far a response is; events that are not stored yet are stored with it. With `conversation_items`, these
    /// are added to the response's conversation, if that is still there and does not have them yet, in the same
    /// transaction.
    /// A response that has ended does not change again: whether this call changed it is returned.
    ///
    /// # Errors
    /// When there is no such response or nothing can be written.
    pub fn update(
        &self,
        id: &str,
        status: &str,
        body: &Value,
        events: &[(u64, Value)],
        conversation_items: &[Value],
    ) -> Result<bool> {
        self.store.write(|transaction| {
            let found = find_any(transaction, id)?;
            if found.is_finished() {
                return Ok(false);
            }
            transaction
                .prepare_cached("UPDATE responses SET status = ?, body = ? WHERE id = ?")?
                .execute((status, body.to_string(), id))?;
            insert_events(transaction, id, events)?;
            if let Some(conversation) = &found.conversation
                && !conversation_items.is_empty()
                && conversations::find(transaction, &found.tenant, conversation).is_ok()
            {
                conversations::append_new(transaction, conversation, conversation_items)?;
            }
            Ok(true)
        })
    }

    /// Keeps events of a response, to be replayed.
    ///
    /// # Errors
    /// When there is no such response or nothing can be written.
    pub fn add_events(&self, id: &str, events: &[(u64, Value)]) -> Result<()> {
        self.store.write(|transaction| {
            find_any(transaction, id)?;
            insert_events(transaction, id, events)
        })
    }

    /// The stored events after a sequence number (`None`: from the first), in order.
    ///
    /// # Errors
    /// When there is no such response.
    pub fn events(&self, tenant: &str, id: &str, after: Option<u64>) -> Result<Vec<(u64, Value)>> {
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            let after = after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
            let sql = "SELECT sequence, event FROM response_events WHERE response = ? AND sequence > ? ORDER BY sequence";
            let mut statement = transaction.prepare_cached(sql)?;
            let rows = statement.query_map(params![id, after], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
            rows.map(|row| row.map(|(sequence, event)| (u64::try_from(sequence).unwrap_or(0), event)))
                .collect::<rusqlite::Result<_>>()
                .map_err(StoreError::from)
        })
    }

    /// One response.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<Response> {
        self.store.read(|transaction| find(transaction, tenant, id))
    }

    /// The items that went in with a response, a page at a time.
    ///
    /// # Errors
    /// When there is no such response.
    pub fn input(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Value>> {
        let parameters: [&dyn ToSql; 1] = [&id];
        let table = Table {
            name: "response_items",
            columns: "item",
            condition: "response = ?1",
            parameters: &parameters,
        };
        self.store.read(|transaction| {
            find(transaction, tenant, id)?;
            table.page(transaction, page, |row| row.get(0))
        })
    }

    /// Everything said up to and with a response, oldest first: the input and the `output` of each response of its
    /// chain.
    ///
    /// # Errors
    /// When a response of the chain is not there (any more).
    pub fn history(&self, tenant: &str, id: &str) -> Result<Vec<Value>> {
        self.store.read(|transaction| {
            let mut chain = Vec::new();
            let mut next = Some(id.to_owned());
            while let Some(id) = next {
                if chain.len() == LONGEST_CHAIN {
                    let reason = format!("more than {LONGEST_CHAIN} responses hang on one another");
                    return Err(StoreError::invalid("previous response", reason));
                }
                let response = find(transaction, tenant, &id)?;
                next = response.previous.clone();
                chain.push(response);
            }
            let mut items = Vec::new();
            let sql = "SELECT item FROM response_items WHERE response = ? ORDER BY seq";
            let mut statement = transaction.prepare_cached(sql)?;
            for response in chain.into_iter().rev() {
                for item in statement.query_map([&response.id], |row| row.get(0))? {
                    items.push(item?);
                }
                if let Some(Value::Array(output)) = response.body.get("output") {
                    items.extend(output.iter().cloned());
                }
            }
            Ok(items)
        })
    }

    /// Those of some items that a tenant has, wherever: of outputs and inputs of its responses, and of its conversations.
    /// Where an id is there more than once, the newest is meant.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn find_items(&self, tenant: &str, ids: &HashSet<String>) -> Result<HashMap<String, Value>> {
        self.store.read(|transaction| {
            let mut found = HashMap::new();
            for sql in ITEMS {
                let mut statement = transaction.prepare_cached(sql)?;
                for id in ids {
                    if !found.contains_key(id)
                        && let Some(item) = statement.query_row([tenant, id], |row| row.get(0)).optional()?
                    {
                        found.insert(id.clone(), item);
                    }
                }
            }
            Ok(found)
        })
    }

    /// Removes a response, its input and its events.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn delete(&self, tenant: &str, id: &str) -> Result<()> {
        self.store.write(|transaction| {
            find(transaction, tenant, id)?;
            transaction.execute("DELETE FROM responses WHERE id = ?", [id])?;
            Ok(())
        })
    }

    /// Responses of all tenants that have not ended: what is being written, and what a server that was killed left.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Response>> {
        let sql =
            format!("SELECT {COLUMNS} FROM responses WHERE status IN ('queued', 'in_progress') ORDER BY seq");
        self.store.read(|transaction| {
            let mut statement = transaction.prepare(&sql)?;
            let found = statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
            Ok(found)
        })
    }
}

fn insert_events(transaction: &Transaction<'_>, id: &str, events: &[(u64, Value)]) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO response_events VALUES (?, ?, ?)";
    let mut statement = transaction.prepare_cached(sql)?;
    for (sequence, event) in events {
        statement.execute(params![id, i64::try_from(*sequence).unwrap_or(i64::MAX), event.to_string()])?;
    }
    Ok(())
}

fn find(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<Response> {
    let found = find_any(transaction, id)?;
    if found.tenant == tenant { Ok(found) } else { Err(StoreError::not_found("response", id)) }
}

fn find_any(transaction: &Transaction<'_>, id: &str) -> Result<Response> {
    let sql = format!("SELECT {COLUMNS} FROM responses WHERE id = ?");
    let found = transaction.prepare_cached(&sql)?.query_row([id], read).optional()?;
    found.ok_or_else(|| StoreError::not_found("response", id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Response> {
    Ok(Response {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        created_at: row.get("created_at")?,
        status: row.get("status")?,
        background: row.get("background")?,
        previous: row.get("previous")?,
        conversation: row.get("conversation")?,
        body: row.get("body")?,
    })
}
