//! What the store knows of a model: where it came from, which files it has, under which licence.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Hex;
use crate::paths;
use crate::select;

/// The version of the manifest's own layout.
pub(crate) const FORMAT: u32 = 1;

/// One model at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout; readers refuse newer ones.
    pub format: u32,
    /// The name it is found by (`smollm2-135m-instruct`, `owner/repo:Q4_K_M`).
    pub name: String,
    /// The Hub's commit, the package's version, or `local`.
    pub revision: String,
    /// Where it really came from.
    pub source: Source,
    /// Its files, in name order.
    pub files: Vec<FileEntry>,
    /// The licence's identifier (`apache-2.0`, `llama3.2`), if the source or the file says.
    pub license: Option<String>,
    /// The architecture as the file or its configuration says (`llama`).
    pub architecture: Option<String>,
    /// Number of parameters, if known.
    pub parameters: Option<u64>,
    /// The quantisation by its usual name (`Q4_K_M`), if the file's name or metadata says.
    pub quantization: Option<String>,
    /// When the pull finished, RFC 3339, UTC.
    pub pulled_at: String,
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Source {
    /// A repository of the Hub.
    Hub {
        /// Base address of the Hub.
        endpoint: String,
        /// `owner/repo`.
        repo: String,
        /// The branch, tag or commit that was asked for.
        requested: String,
        /// The commit that it was.
        commit: String,
    },
    /// A Python package.
    PythonPackage {
        /// The package's name.
        package: String,
        /// Its version.
        version: String,
        /// The archive's file name.
        archive: String,
        /// The model file's path in the archive.
        member: String,
    },
    /// A file or folder of this machine.
    Local {
        /// Where it was.
        path: PathBuf,
    },
}

impl Source {
    /// The source in one line.
    pub fn describe(&self) -> String {
        match self {
            Source::Hub { repo, requested, .. } => format!("hf:{repo}@{requested}"),
            Source::PythonPackage { package, version, .. } => format!("pip:{package}=={version}"),
            Source::Local { path } => path.display().to_string(),
        }
    }
}

/// How sure the store is of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verified {
    /// The source announced this sha256.
    Sha256,
    /// The source announced a git blob id, which matched; the sha256 was computed here.
    GitBlob,
    /// The source announced nothing; the sha256 was computed here.
    Computed,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the model, with `/` between folders.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Digest of its contents.
    pub sha256: Sha256Hex,
    /// What the digest was checked against.
    pub verified: Verified,
    /// Where the file stays if it was referenced in place instead of imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referenced: Option<PathBuf>,
}

impl Manifest {
    /// Size of all files in bytes.
    pub fn size(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The file to hand to a loader, or `None` when it is the folder: a model that is one GGUF
    /// file, or one split set (then its first part), is a file; everything else is a folder.
    pub fn entry_file(&self) -> Option<&FileEntry> {
        let models: Vec<&FileEntry> =
            self.files.iter().filter(|file| select::is_model_gguf(&file.path)).collect();
        let first = models.first()?;
        let set = select::split_stem(&first.path);
        models.iter().all(|file| select::split_stem(&file.path) == set).then_some(*first)
    }

    /// What is wrong with a manifest that was read from disk, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.format > FORMAT {
            return Some(format!("layout {} is newer than this program's {FORMAT}", self.format));
        }
        if let Err(error) = paths::model_folder(&self.name).and(paths::revision_folder(&self.revision)) {
            return Some(error.to_string());
        }
        self.files
            .iter()
            .find_map(|file| paths::safe_relative(&file.path).err())
            .map(|error| error.to_string())
    }
}
