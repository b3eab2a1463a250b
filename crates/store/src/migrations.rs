//! The schema, and how an older file becomes one of today: forward only, each step whole or not at all.

use crate::error::{Result, StoreError};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// Marks a file as Altiplano's (`ALTI` in ASCII): another program's database is not touched.
const APPLICATION: i64 = 0x414c_5449;

/// Every step, oldest first. A released step never changes; what is new is appended.
const STEPS: &[&str] = &[
    include_str!("schema/0001_first.sql"),
    include_str!("schema/0002_completions_and_uploads.sql"),
    include_str!("schema/0003_output_items.sql"),
];

/// The schema of this program: what `PRAGMA user_version` says of an up-to-date file.
pub const SCHEMA: i64 = STEPS.len() as i64;

/// Brings a file to [`SCHEMA`].
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    if check(connection, path)? == SCHEMA {
        return Ok(());
    }
    // Two processes may open a new file at once: the second finds it done when it gets the lock.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = check(&transaction, path)?;
    for step in STEPS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    Ok(transaction.commit()?)
}

/// The schema of a file, if it is one that this program may open.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<i64> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, found) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match application {
        APPLICATION if found > SCHEMA => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: SCHEMA })
        }
        APPLICATION if found > 0 => Ok(found),
        0 if found == 0 && tables == 0 => Ok(0),
        _ => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}
