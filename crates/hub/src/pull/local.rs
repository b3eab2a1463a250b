//! Models that are on this machine already.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::ingest::ingest;
use super::{Context, Delivery, Pulled};
use crate::digest::{Expected, Sha256Hex, hash_file};
use crate::error::{HubError, IoContext};
use crate::paths;
use crate::progress::Event;
use crate::select;
use crate::store::{FileEntry, Source, Verified};

/// The name of a file in its temporary folder.
const STAGED: &str = "file";

/// How a local file enters the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImportMode {
    /// A copy of its own, which costs no space where the file system can share blocks.
    #[default]
    Copy,
    /// A hard link (a copy, across file systems): no space, but whoever changes the original changes the
    /// stored model. The original becomes read-only.
    HardLink,
    /// Only the manifest is stored; the file stays where it is and has to stay there.
    Reference,
}

/// Takes a file, or a folder's files, into the store.
pub(super) fn pull(context: Context<'_>, path: &Path) -> Result<Pulled, HubError> {
    let path = fs::canonicalize(path).context("find", path)?;
    let name = context.name_or(|| paths::name_from_path(&path));
    context.exclusively(&name, || {}, || context.commit(&name, || deliver(context, &path)))
}

fn deliver(context: Context<'_>, path: &Path) -> Result<Delivery, HubError> {
    let chosen = chosen_files(context, path)?;
    let mut sized = Vec::with_capacity(chosen.len());
    for (name, file) in chosen {
        let size = fs::metadata(&file).context("read", &file)?.len();
        sized.push((name, file, size));
    }
    if context.request.import == ImportMode::Copy {
        context.ensure_space(sized.iter().map(|(_, _, size)| size).sum())?;
    }
    let mut files = Vec::with_capacity(sized.len());
    for (name, file, size) in sized {
        files.push(import(context, name, file, size)?);
    }
    let source = Source::Local { path: path.to_path_buf() };
    Ok(Delivery {
        revision: "local".to_string(),
        source,
        files,
        license: None,
        architecture: None,
        parameters: None,
    })
}

/// The files to take, by their names in the model: a file itself with the rest of its split set,
/// or of a folder what would be chosen of a repository with these files.
fn chosen_files(context: Context<'_>, path: &Path) -> Result<Vec<(String, PathBuf)>, HubError> {
    if path.is_dir() {
        let mut names = Vec::new();
        relative_names(path, "", 0, &mut names)?;
        let selection = select::select(&path.display().to_string(), &names, None, &context.request.files)?;
        return Ok(selection.paths.into_iter().map(|name| (name.clone(), path.join(name))).collect());
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    paths::safe_relative(&name)?;
    let folder = path.parent().unwrap_or(path);
    let mut siblings = Vec::new();
    if select::split_stem(&name) != name {
        relative_names(folder, "", usize::MAX, &mut siblings)?;
        siblings.retain(|sibling| select::split_stem(sibling) == select::split_stem(&name));
        siblings = select::select(&path.display().to_string(), &siblings, None, &[])?.paths;
    } else {
        siblings.push(name);
    }
    Ok(siblings.into_iter().map(|name| (name.clone(), folder.join(name))).collect())
}

/// The names of a folder's files, at most a few levels down (`usize::MAX`: of the folder only).
fn relative_names(
    folder: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), HubError> {
    const MAX_DEPTH: usize = 4;
    for entry in fs::read_dir(folder).context("read the folder", folder)? {
        let entry = entry.context("read the folder", folder)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        let name = format!("{prefix}{name}");
        if path.is_dir() && depth < MAX_DEPTH {
            relative_names(&path, &format!("{name}/"), depth + 1, names)?;
        } else if path.is_file() && paths::safe_relative(&name).is_ok() {
            names.push(name);
        }
    }
    Ok(())
}

fn import(context: Context<'_>, name: String, file: PathBuf, size: u64) -> Result<FileEntry, HubError> {
    let referenced = (context.request.import == ImportMode::Reference).then(|| file.clone());
    let sha256 = match (&referenced, share(context, &file)?) {
        (Some(_), _) => hash(context, &file, &name, size)?,
        (None, Some(staging)) => {
            let staged = staging.path().join(STAGED);
            // The store's own name for the contents is hashed: what is kept is what was verified.
            let sha256 = hash(context, &staged, &name, size)?;
            context.store.adopt(&staged, &sha256)?;
            sha256
        }
        (None, None) => {
            let mut input = File::open(&file).context("open", &file)?;
            ingest(context, &name, size, &Expected::Unknown, &mut input)?
        }
    };
    context.observer.emit(Event::FileDone { file: &name, size, already_present: false });
    Ok(FileEntry { path: name, size, sha256, verified: Verified::Computed, referenced })
}

/// The file's contents without copying bytes, in a temporary folder of the store: a hard link if
/// wanted, shared blocks if the file system has them. `None` if only a copy will do.
fn share(context: Context<'_>, file: &Path) -> Result<Option<TempDir>, HubError> {
    if context.request.import == ImportMode::Reference {
        return Ok(None);
    }
    let partial = context.store.partial();
    let staging = tempfile::tempdir_in(&partial).context("create a folder in", &partial)?;
    let staged = staging.path().join(STAGED);
    let shared = match context.request.import {
        ImportMode::HardLink => fs::hard_link(file, &staged),
        _ => reflink_copy::reflink(file, &staged),
    };
    Ok(shared.is_ok().then_some(staging))
}

fn hash(context: Context<'_>, path: &Path, name: &str, size: u64) -> Result<Sha256Hex, HubError> {
    hash_file(path, name, size, &Expected::Unknown, |done| {
        context.observer.emit(Event::Verifying { file: name, done, size });
        context.observer.check()
    })
}
