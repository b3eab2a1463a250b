//! The database of the server, for the commands that look into it while it runs, or is not running.

use crate::environment::Environment;
use alti_store::{Store, StoreSettings};
use anyhow::Context;
use std::path::PathBuf;

/// Which database is meant.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DatabaseOptions {
    /// Database of the server [default: alti.db in the store's folder]
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
}

impl DatabaseOptions {
    /// Where it is.
    pub fn path(&self, environment: &Environment) -> PathBuf {
        self.database.clone().unwrap_or_else(|| default_path(environment))
    }

    /// Opens it, and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, environment: &Environment) -> anyhow::Result<Store> {
        open(self.path(environment))
    }
}

/// Where the database is if nobody says otherwise.
pub fn default_path(environment: &Environment) -> PathBuf {
    environment.home.join("alti.db")
}

/// Opens a database, and makes it if there is none.
///
/// # Errors
/// When it cannot be opened.
pub fn open(path: PathBuf) -> anyhow::Result<Store> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Store::open(&path, StoreSettings::default())
        .with_context(|| format!("the database {} cannot be opened", path.display()))
}

/// The date of a day, or of a second, since 1970 (UTC).
pub fn date(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0)
        .map_or_else(|| "?".to_owned(), |time| time.date_naive().to_string())
}
