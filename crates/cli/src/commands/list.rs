//! `alti list` and `alti rm`: what is in the store.

use crate::environment::Environment;
use crate::output::{self, bytes};
use crate::pulling::store;
use serde::Serialize;

/// List the models in the store
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti list
  alti list --catalogue       models that can be pulled by a short name
  alti list --json")]
pub struct ListCommand {
    /// List what can be pulled by a short name instead
    #[arg(long)]
    catalogue: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    revision: String,
    bytes: u64,
    license: Option<String>,
    pulled_at: String,
    source: String,
}

#[derive(Debug, Serialize)]
struct CatalogueRow {
    name: &'static str,
    repository: &'static str,
    parameters: u64,
    context: u32,
    license: &'static str,
}

impl ListCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        if self.catalogue {
            return catalogue(json);
        }
        let listing = store(environment)?.list()?;
        listing.damaged.iter().for_each(|error| eprintln!("warning: {error}"));
        let rows: Vec<Row> = listing
            .models
            .into_iter()
            .map(|model| Row {
                bytes: model.files.iter().map(|file| file.size).sum(),
                source: model.source.describe(),
                license: model.license,
                pulled_at: model.pulled_at,
                revision: model.revision,
                name: model.name,
            })
            .collect();
        output::result(json, &rows, |rows| {
            if rows.is_empty() {
                return format!("no models in {}; `alti pull NAME` brings one\n", environment.home.display());
            }
            let row = |r: &Row| {
                let license = r.license.as_deref().unwrap_or("-");
                format!("{:32} {:>10}  {:24} {}\n", r.name, bytes(r.bytes), license, r.source)
            };
            format!("{:32} {:>10}  {:24} {}\n", "NAME", "SIZE", "LICENCE", "SOURCE")
                + &rows.iter().map(row).collect::<String>()
        })
    }
}

fn catalogue(json: bool) -> anyhow::Result<()> {
    let rows: Vec<CatalogueRow> = alti_hub::catalogue::CATALOGUE
        .iter()
        .map(|entry| CatalogueRow {
            name: entry.name,
            repository: entry.repo,
            parameters: entry.parameters,
            context: entry.context,
            license: entry.license,
        })
        .collect();
    output::result(json, &rows, |rows| {
        let row = |r: &CatalogueRow| {
            format!(
                "{:32} {:>8.2}B {:>9}  {:12} {}\n",
                r.name,
                r.parameters as f64 / 1e9,
                r.context,
                r.license,
                r.repository
            )
        };
        format!("{:32} {:>9} {:>9}  {:12} {}\n", "NAME", "WEIGHTS", "CONTEXT", "LICENCE", "REPOSITORY")
            + &rows.iter().map(row).collect::<String>()
    })
}

/// Remove a model from the store
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  alti rm llama3.2-1b-instruct")]
pub struct RemoveCommand {
    /// The model's name; `alti list` shows them
    model: String,
}

impl RemoveCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let removed = store(environment)?.remove(&self.model)?;
        let result = serde_json::json!({ "removed": removed.manifests, "freed_bytes": removed.freed });
        output::result(json, &result, |_| format!("removed {}, {} freed\n", self.model, bytes(removed.freed)))
    }
}
