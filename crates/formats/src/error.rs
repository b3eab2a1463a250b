//! The one error type of this crate. Every message is one line that says what is wrong, in which
//! file and where in it (byte offset, field or tensor), and what to do where there is a remedy.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model file could not be read, written or converted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted: "open", "write", ...
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is where one was to be written, and nobody said that it may be replaced.
    #[error("{}: is there already and is not replaced unasked", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The bytes break the format's rules: truncated, damaged, or not this kind of file.
    #[error("{}: byte {offset}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A named field of a configuration or of metadata is missing or has a value that cannot be.
    #[error("{}: field {field}: {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, spelled as in the file.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A well-formed file of a kind that is not supported.
    #[error("{}: {problem}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What it is, and what is supported.
        problem: String,
    },
    /// A tensor is missing, has another shape than the configuration says, or cannot be decoded.
    #[error("{}: tensor {tensor}: {problem}", path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor, spelled as in the file.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The model cannot be expressed in the format asked for.
    #[error("{}: cannot convert to {target}: {problem}", path.display())]
    Convert {
        /// The source model.
        path: PathBuf,
        /// The format asked for.
        target: &'static str,
        /// Why not.
        problem: String,
    },
}

impl FormatError {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn malformed(path: &Path, offset: u64, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), offset, problem: problem.into() }
    }

    pub(crate) fn field(path: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { path: path.to_owned(), field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_owned(), tensor: shown(tensor), problem: problem.into() }
    }
}

/// A string from a file made fit for a one-line message: control characters escaped, cut at 80
/// characters.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push_str("...");
    }
    short
}
