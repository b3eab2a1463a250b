//! `alti backup` and `alti restore`: everything that the server keeps, while it runs.

use crate::database::DatabaseOptions;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::output::{self, bytes};
use std::path::PathBuf;

/// Write a backup of everything that the server keeps, while it runs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti backup backups/monday
  alti backup backups/tuesday --database /srv/alti/alti.db")]
pub struct BackupCommand {
    /// Folder to write it to, which must not exist yet
    folder: PathBuf,
    #[command(flatten)]
    database: DatabaseOptions,
}

/// Bring a backup back, in the place of everything that the server keeps now
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The backup is checked first; where it is damaged, nothing changes. The server may run: it goes on with what the
backup holds.

Example:
  alti restore backups/monday --replace"
)]
pub struct RestoreCommand {
    /// Folder of the backup
    folder: PathBuf,
    /// Lose what is in the database now
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    database: DatabaseOptions,
}

impl BackupCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is no database, or the folder cannot be written.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let path = self.database.path(environment);
        if !path.exists() {
            let message = format!("there is no database at {}: nothing to back up", path.display());
            return Err(Exit::new(Failure::NotFound, message).into());
        }
        let report = self.database.open(environment)?.backup(&self.folder)?;
        output::result(json, &report, |report| {
            format!(
                "{}: a database of {}, and {} files of {}\n",
                self.folder.display(),
                bytes(report.database_bytes),
                report.contents,
                bytes(report.content_bytes)
            )
        })
    }
}

impl RestoreCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the backup is damaged, or the database cannot be written.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let path = self.database.path(environment);
        if !self.folder.is_dir() {
            let message = format!("there is no backup at {}", self.folder.display());
            return Err(Exit::new(Failure::NotFound, message).into());
        }
        if path.exists() && !self.replace {
            let message = format!(
                "{} would be lost: back it up first, and say --replace if that is meant",
                path.display()
            );
            return Err(Exit::new(Failure::Usage, message).into());
        }
        let report = self.database.open(environment)?.restore(&self.folder)?;
        output::result(json, &report, |report| {
            format!(
                "restored {}: {} files, {} of them copied\n",
                path.display(),
                report.contents,
                report.copied
            )
        })
    }
}
