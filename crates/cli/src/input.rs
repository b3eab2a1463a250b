//! Files that a command is given by name.

use crate::exit::{Exit, Failure};
use std::io::{ErrorKind, Read};
use std::path::Path;

/// A device may have no end.
fn refuse_device(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            let what = "is a device; name a file, or - for standard input";
            return Err(std::io::Error::new(ErrorKind::InvalidData, what));
        }
    }
    Ok(())
}

/// The text of a file, or of stdin where the name is `-`.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn text(path: &Path) -> anyhow::Result<String> {
    if path != Path::new("-") {
        return file(path);
    }
    let mut text = String::new();
    explained(path, std::io::stdin().read_to_string(&mut text))?;
    Ok(text)
}

/// The text of a file.
///
/// # Errors
/// When it cannot be read, is a device or is not UTF-8.
pub fn file(path: &Path) -> anyhow::Result<String> {
    explained(path, refuse_device(path).and_then(|()| std::fs::read_to_string(path)))
}

/// What went wrong, with the file's name.
fn explained<T>(path: &Path, read: std::io::Result<T>) -> anyhow::Result<T> {
    Ok(read.map_err(|error| {
        let failure = match error.kind() {
            ErrorKind::NotFound => Failure::NotFound,
            ErrorKind::InvalidData => Failure::BadFile,
            _ => Failure::Failed,
        };
        Exit::new(failure, format!("{}: {error}", path.display()))
    })?)
}
