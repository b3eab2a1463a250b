//! Models from a repository of the Hub.

use super::{Context, Delivery, Pulled};
use crate::catalogue::{Entry, PinnedFile};
use crate::digest::Expected;
use crate::error::HubError;
use crate::paths;
use crate::progress::{Event, Meter};
use crate::remote::api::{self, Addresses, RemoteFile};
use crate::remote::client::Client;
use crate::remote::download;
use crate::remote::partial;
use crate::select;
use crate::store::{FileEntry, Manifest, Source};

/// The revision that repositories have when none is asked for.
const DEFAULT_REVISION: &str = "main";

/// Which part of which repository.
pub(super) struct Wanted<'a> {
    pub(super) repo: &'a str,
    pub(super) revision: Option<&'a str>,
    pub(super) tag: Option<&'a str>,
    /// The catalogue's entry, if it was asked for by its short name.
    pub(super) entry: Option<&'static Entry>,
}

/// Files to fetch, decided but not begun. Their sizes are a stranger's claims: sums saturate.
struct Plan {
    name: String,
    repo: String,
    requested: String,
    commit: String,
    license: Option<String>,
    architecture: Option<String>,
    parameters: Option<u64>,
    files: Vec<(RemoteFile, u64)>,
}

impl Plan {
    /// The sum of a quantity, in bytes, over the files.
    fn sum(&self, quantity: impl Fn(&RemoteFile, u64) -> u64) -> u64 {
        self.files.iter().fold(0, |sum, (file, size)| sum.saturating_add(quantity(file, *size)))
    }
}

/// Brings the chosen files of a repository.
pub(super) fn pull(context: Context<'_>, wanted: &Wanted<'_>) -> Result<Pulled, HubError> {
    let client = Client::new(context.settings)?;
    client.stoppable(context.observer, || {
        let plan = plan(context, &client, wanted)?;
        context.store.require_license(&plan.name, plan.license.as_deref(), context.accept())?;
        let tick = || watch(context, &client, &plan);
        context.exclusively(&plan.name, tick, || {
            if let Some(manifest) = stored(context, &plan)? {
                return context.present(manifest);
            }
            context.commit(&plan.name, || fetch(context, &client, &plan))
        })
    })
}

/// Brings exactly the pinned file from the repository that has it. The caller holds the model's lock.
pub(super) fn fetch_pinned(context: Context<'_>, name: &str, pin: &PinnedFile) -> Result<Delivery, HubError> {
    let client = Client::new(context.settings)?;
    client.stoppable(context.observer, || {
        let repository = repository(context, &client, pin.repo, pin.commit)?;
        let expected = Expected::from_object_id(pin.sha256);
        let file = RemoteFile { path: pin.file.to_string(), size: Some(pin.size), expected };
        let plan = Plan {
            name: name.to_string(),
            repo: pin.repo.to_string(),
            requested: pin.commit.to_string(),
            commit: repository.commit,
            license: repository.license,
            architecture: repository.architecture,
            parameters: repository.parameters,
            files: vec![(file, pin.size)],
        };
        fetch(context, &client, &plan)
    })
}

fn repository(
    context: Context<'_>,
    client: &Client,
    repo: &str,
    revision: &str,
) -> Result<api::Repository, HubError> {
    context.observer.emit(Event::Resolving { source: &format!("hf:{repo}@{revision}") });
    api::repository(client, repo, revision, context.observer)
}

fn plan(context: Context<'_>, client: &Client, wanted: &Wanted<'_>) -> Result<Plan, HubError> {
    let requested = wanted.revision.unwrap_or(DEFAULT_REVISION);
    let mut repository = repository(context, client, wanted.repo, requested)?;
    let paths: Vec<String> = repository.files.keys().cloned().collect();
    let selection = select::select(wanted.repo, &paths, wanted.tag, &context.request.files)?;
    let addresses = Addresses::new(client, wanted.repo);
    let mut files = Vec::with_capacity(selection.paths.len());
    for path in &selection.paths {
        paths::safe_relative(path)?;
        let Some(file) = repository.files.remove(path) else { continue };
        let (file, size) = api::complete(client, &addresses, &repository.commit, file, context.observer)?;
        files.push((file, size));
    }
    let base = wanted.entry.map_or(wanted.repo, |entry| entry.name);
    let name = context.name_or(|| match &selection.tag {
        Some(tag) => format!("{base}:{tag}"),
        None => base.to_string(),
    });
    Ok(Plan {
        name,
        repo: wanted.repo.to_string(),
        requested: requested.to_string(),
        commit: repository.commit,
        license: wanted.entry.map(|entry| entry.license.to_string()).or(repository.license),
        architecture: repository.architecture,
        parameters: wanted.entry.map(|entry| entry.parameters).or(repository.parameters),
        files,
    })
}

/// The stored model, if it has every file of the plan whole.
fn stored(context: Context<'_>, plan: &Plan) -> Result<Option<Manifest>, HubError> {
    let manifest = context.store.manifest(&plan.name, &plan.commit)?;
    Ok(manifest.filter(|manifest| {
        let has = |(file, size): &(RemoteFile, u64)| {
            manifest.files.iter().any(|stored| stored.path == file.path && stored.size == *size)
        };
        plan.files.iter().all(has) && context.is_whole(manifest)
    }))
}

/// Fetches every file of the plan. Files that earlier pulls of the same commit brought stay part of
/// the model.
fn fetch(context: Context<'_>, client: &Client, plan: &Plan) -> Result<Delivery, HubError> {
    let addresses = Addresses::new(client, &plan.repo);
    let source = source(context, client, &addresses, plan);
    let total = plan.sum(|_, size| size);
    let present = plan.sum(|file, size| here(context, &source, file, size));
    let (model, files) = (plan.name.as_str(), plan.files.len());
    context.observer.emit(Event::Planned { model, files, total, present });
    context.ensure_space(plan.sum(|file, size| still_needed(context, &source, file, size)))?;
    let meter = Meter::new(context.observer, total);
    let mut fetched = Vec::with_capacity(plan.files.len());
    for (file, size) in &plan.files {
        fetched.push(source.fetch(file, *size, &meter)?);
    }
    let earlier = context.store.manifest(&plan.name, &plan.commit)?.map(|manifest| manifest.files);
    let is_new = |file: &FileEntry| fetched.iter().all(|new| new.path != file.path);
    let kept: Vec<FileEntry> = earlier.into_iter().flatten().filter(is_new).collect();
    fetched.extend(kept);
    Ok(Delivery {
        revision: plan.commit.clone(),
        source: Source::Hub {
            endpoint: client.endpoint().to_string(),
            repo: plan.repo.clone(),
            requested: plan.requested.clone(),
            commit: plan.commit.clone(),
        },
        files: fetched,
        license: plan.license.clone(),
        architecture: plan.architecture.clone(),
        parameters: plan.parameters,
    })
}

fn source<'a>(
    context: Context<'a>,
    client: &'a Client,
    addresses: &'a Addresses<'a>,
    plan: &'a Plan,
) -> download::Source<'a> {
    let (store, settings) = (context.store, context.settings);
    download::Source { client, addresses, commit: &plan.commit, store, settings }
}

/// Bytes of a file that are in the store or in its partial download.
fn here(context: Context<'_>, source: &download::Source<'_>, file: &RemoteFile, size: u64) -> u64 {
    match &file.expected {
        Expected::Sha256(digest) if context.store.has_blob(digest, size) => size,
        _ => partial::bytes_here(&context.store.partial(), &source.key(file)).min(size),
    }
}

/// Disk space that a file will take beyond what it takes now.
fn still_needed(context: Context<'_>, source: &download::Source<'_>, file: &RemoteFile, size: u64) -> u64 {
    match &file.expected {
        Expected::Sha256(digest) if context.store.has_blob(digest, size) => 0,
        _ => {
            let (folder, key) = (context.store.partial(), source.key(file));
            size - partial::bytes_reserved(&folder, &key, size, context.settings.preallocate)
        }
    }
}

/// Shows the progress of whoever is pulling the same model.
fn watch(context: Context<'_>, client: &Client, plan: &Plan) {
    let addresses = Addresses::new(client, &plan.repo);
    let source = source(context, client, &addresses, plan);
    let total = plan.sum(|_, size| size);
    let done = plan.sum(|file, size| here(context, &source, file, size));
    context.observer.emit(Event::Bytes { file: &plan.name, file_done: done, file_size: total, done, total });
}
