//! Judgements of texts, kept so that an owner can look at what was flagged.

use crate::error::{Result, StoreError};
use crate::ids::new_id;
use crate::page::{Listed, Page, Table};
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

/// One judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Moderation {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: i64,
    /// The classifier.
    pub model: String,
    /// What was judged.
    pub input: Value,
    /// The judgement.
    pub results: Value,
}

/// The judgements of a store.
#[derive(Clone, Copy, Debug)]
pub struct Moderations<'a> {
    pub(crate) store: &'a Store,
}

const COLUMNS: &str = "id, created_at, model, input, results";

impl Moderations<'_> {
    /// Keeps a judgement.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn create(&self, tenant: &str, model: &str, input: Value, results: Value) -> Result<Moderation> {
        let (id, model) = (new_id("modr-")?, model.to_owned());
        let made = Moderation { id, created_at: now(), model, input, results };
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT INTO moderations (id, tenant, created_at, model, input, results) VALUES (?, ?, ?, ?, ?, ?)",
                params![
                    made.id,
                    tenant,
                    made.created_at,
                    made.model,
                    made.input.to_string(),
                    made.results.to_string()
                ],
            )?;
            Ok(())
        })?;
        Ok(made)
    }

    /// One judgement.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<Moderation> {
        let sql = format!("SELECT {COLUMNS} FROM moderations WHERE id = ? AND tenant = ?");
        self.store
            .read(|transaction| Ok(transaction.query_row(&sql, [id, tenant], read).optional()?))?
            .ok_or_else(|| StoreError::not_found("moderation", id))
    }

    /// Judgements, a page at a time.
    ///
    /// # Errors
    /// When the page begins at what is not there.
    pub fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Moderation>> {
        let parameters: [&dyn rusqlite::ToSql; 1] = [&tenant];
        let table = Table {
            name: "moderations",
            columns: COLUMNS,
            condition: "tenant = ?1",
            parameters: &parameters,
        };
        self.store.read(|transaction| table.page(transaction, page, read))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Moderation> {
    Ok(Moderation {
        id: row.get("id")?,
        created_at: row.get("created_at")?,
        model: row.get("model")?,
        input: row.get("input")?,
        results: row.get("results")?,
    })
}
