//! Lists a page at a time, by cursors that stay right while rows come and go.

use crate::error::{Result, StoreError};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction};
use std::fmt::Write as _;

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Most rows.
    pub limit: usize,
    /// Only what comes after the row with this id, in the order asked for.
    pub after: Option<String>,
    /// Only what comes before the row with this id, in the order asked for.
    pub before: Option<String>,
    /// Whether the oldest comes first.
    pub ascending: bool,
}

impl Default for Page {
    fn default() -> Page {
        Page { limit: 20, after: None, before: None, ascending: false }
    }
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Whether there are more in the direction asked for.
    pub has_more: bool,
}

/// A table that has pages: each row an ascending `seq` and an `id`.
pub(crate) struct Table<'a> {
    pub(crate) name: &'a str,
    pub(crate) columns: &'a str,
    /// Which rows belong to the list, with parameters `?1`, `?2`, ...
    pub(crate) condition: &'a str,
    pub(crate) parameters: &'a [&'a dyn ToSql],
}

impl Table<'_> {
    pub(crate) fn page<T>(
        &self,
        transaction: &Transaction<'_>,
        page: &Page,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Listed<T>> {
        let mut sql = format!("SELECT {} FROM {} WHERE {}", self.columns, self.name, self.condition);
        let after = page.after.as_deref().map(|id| self.position(transaction, id)).transpose()?;
        let before = page.before.as_deref().map(|id| self.position(transaction, id)).transpose()?;
        let (beyond, within) = if page.ascending { ('>', '<') } else { ('<', '>') };
        for (position, sign) in [(after, beyond), (before, within)] {
            if let Some(position) = position {
                write!(sql, " AND seq {sign} {position}").unwrap_or_else(|_| unreachable!("a string grows"));
            }
        }
        // With only an end given, the rows nearest to it are wanted: they are read backwards.
        let backwards = before.is_some() && after.is_none();
        let direction = if page.ascending != backwards { "ASC" } else { "DESC" };
        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
        write!(sql, " ORDER BY seq {direction} LIMIT {}", limit.saturating_add(1))
            .unwrap_or_else(|_| unreachable!("a string grows"));
        let mut statement = transaction.prepare_cached(&sql)?;
        let rows = statement.query_map(self.parameters, read)?;
        let mut items = rows.collect::<rusqlite::Result<Vec<T>>>()?;
        let has_more = items.len() > page.limit;
        items.truncate(page.limit);
        if backwards {
            items.reverse();
        }
        Ok(Listed { items, has_more })
    }

    fn position(&self, transaction: &Transaction<'_>, id: &str) -> Result<i64> {
        let number = self.parameters.len() + 1;
        let sql = format!("SELECT seq FROM {} WHERE {} AND id = ?{number}", self.name, self.condition);
        let mut parameters = self.parameters.to_vec();
        parameters.push(&id);
        let found = transaction.prepare_cached(&sql)?.query_row(&*parameters, |row| row.get(0)).optional()?;
        found.ok_or_else(|| StoreError::not_found("entry to continue the list from", id))
    }
}
