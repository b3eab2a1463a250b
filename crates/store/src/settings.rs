//! Small settings that programs keep between runs.

use crate::Store;
use crate::error::Result;
use rusqlite::OptionalExtension;
use serde_json::Value;

/// The settings of a store.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    pub(crate) store: &'a Store,
}

impl Settings<'_> {
    /// The value under a name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<Value>> {
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT value FROM settings WHERE name = ?")?;
            Ok(statement.query_row([name], |row| row.get(0)).optional()?)
        })
    }

    /// Keeps a value under a name; `None` forgets it.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn set(&self, name: &str, value: Option<&Value>) -> Result<()> {
        self.store.write(|transaction| {
            match value {
                Some(value) => {
                    let text = value.to_string();
                    transaction.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, text))?
                }
                None => transaction.execute("DELETE FROM settings WHERE name = ?", [name])?,
            };
            Ok(())
        })
    }
}
