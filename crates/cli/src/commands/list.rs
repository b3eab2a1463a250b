//! `alti list` and `alti rm`: what is in the store.

use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::output::{self, bytes};
use crate::packed;
use crate::pulling::{store, watched};
use alti_hub::{FileState, Manifest, Usage};
use serde::Serialize;

/// List the models in the store
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti list
  alti list --catalogue       models that can be pulled by a short name
  alti list --verify          read every file again and compare it with what was pulled
  alti list --json")]
pub struct ListCommand {
    /// List what can be pulled by a short name instead
    #[arg(long)]
    catalogue: bool,
    /// Read every file again and say which differ from what was pulled
    #[arg(long, conflicts_with = "catalogue")]
    verify: bool,
}

#[derive(Debug, Serialize)]
struct Verified {
    name: String,
    revision: String,
    file: String,
    fault: Option<String>,
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
        let store = store(environment)?;
        let listing = store.list()?;
        listing.damaged.iter().for_each(|error| eprintln!("warning: {error}"));
        if self.verify {
            return verify(environment, &listing.models, json);
        }
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
        // Where a manifest is damaged nobody knows what is used; that was said above.
        let packed = packed::kept(environment).1;
        let total = store.usage().map(|usage| total(&usage, packed)).unwrap_or_default();
        output::result(json, &rows, |rows| {
            if rows.is_empty() {
                let home = environment.home.display();
                return format!("no models in {home}; `alti pull NAME` brings one\n{total}");
            }
            let row = |r: &Row| {
                let license = r.license.as_deref().unwrap_or("-");
                format!("{:32} {:>10}  {:24} {}\n", r.name, bytes(r.bytes), license, r.source)
            };
            format!("{:32} {:>10}  {:24} {}\n", "NAME", "SIZE", "LICENCE", "SOURCE")
                + &rows.iter().map(row).collect::<String>()
                + &total
        })
    }
}

/// What the store takes on disk, in a few lines; nothing of an empty one. Files that models share count once, and
/// those that a model only refers to not at all.
fn total(usage: &Usage, packed: u64) -> String {
    let unused = usage.unused();
    let mut text = String::new();
    if usage.total() > 0 {
        text += &format!("{:32} {:>10}\n", "on disk", bytes(usage.total()));
    }
    if unused > 0 {
        text += &format!("{:32} {:>10}  `alti rm --unused` frees it\n", "of this unused", bytes(unused));
    }
    if packed > 0 {
        text += &format!("{:32} {:>10}  (ALTI_PACKED=off keeps none)\n", "weights, packed", bytes(packed));
    }
    text
}

/// Hashes all files of the models and says which are not what was pulled.
fn verify(environment: &Environment, models: &[Manifest], json: bool) -> anyhow::Result<()> {
    let store = store(environment)?;
    let mut checked = Vec::new();
    for model in models {
        let name = format!("{}@{}", model.name, model.revision);
        for (file, state) in watched(environment, |observer| store.verify(&name, observer))? {
            let fault = match state {
                FileState::Intact => None,
                FileState::Missing => Some("is gone".to_owned()),
                FileState::Changed(fault) => Some(fault),
            };
            let (name, revision) = (model.name.clone(), model.revision.clone());
            checked.push(Verified { name, revision, file: file.path, fault });
        }
    }
    output::result(json, &checked, |checked| {
        let row = |it: &Verified| {
            format!("{:32} {}: {}\n", it.name, it.file, it.fault.as_deref().unwrap_or("intact"))
        };
        checked.iter().map(row).collect()
    })?;
    match checked.iter().filter(|it| it.fault.is_some()).count() {
        0 => Ok(()),
        faults => {
            let files = if faults == 1 { "1 file is".to_owned() } else { format!("{faults} files are") };
            let message =
                format!("{files} not what was pulled; `alti rm` and `alti pull` bring a model again");
            Err(Exit::new(Failure::BadFile, message).into())
        }
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
  alti rm llama3.2-1b-instruct
  alti rm --unused            unfinished downloads, and files that no model names")]
pub struct RemoveCommand {
    /// The model's name; `alti list` shows them
    #[arg(required_unless_present = "unused")]
    model: Option<String>,
    /// Remove what belongs to no model: unfinished downloads, and what a killed process left
    #[arg(long, conflicts_with = "model")]
    unused: bool,
}

impl RemoveCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let store = store(environment)?;
        let (removed, freed, what) = match &self.model {
            Some(model) => {
                let removed = store.remove(model)?;
                (removed.manifests, removed.freed, model.as_str())
            }
            None => (Vec::new(), store.prune()?, "what no model uses"),
        };
        crate::packed::clean(environment);
        let result = serde_json::json!({ "removed": removed, "freed_bytes": freed });
        output::result(json, &result, |_| format!("removed {what}, {} freed\n", bytes(freed)))
    }
}
