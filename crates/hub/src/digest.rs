//! Content digests: the store names files by sha256, the Hub announces sha256 for large files and
//! git's own blob sha1 for small ones.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::error::{HubError, IoContext};

/// A sha256 digest, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Accepts 64 hexadecimal digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        is_hex(text, 64).then(|| Sha256Hex(text.to_ascii_lowercase()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Sha256Hex {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Sha256Hex::parse(&text).ok_or_else(|| format!("`{text}` is not a sha256"))
    }
}

impl From<Sha256Hex> for String {
    fn from(digest: Sha256Hex) -> String {
        digest.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a source says a file's contents hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The contents' sha256 (large files on the Hub, catalogue pins).
    Sha256(Sha256Hex),
    /// Git's object id: sha1 over `"blob <size>\0"` and the contents (small files on the Hub).
    GitBlob(String),
    /// The source announces no digest; the computed one is recorded.
    Unknown,
}

impl Expected {
    /// Reads an object id or an ETag: 64 digits are a sha256, 40 a git blob id.
    pub(crate) fn from_object_id(text: &str) -> Expected {
        let id = text.trim().trim_start_matches("W/").trim_matches('"');
        if let Some(digest) = Sha256Hex::parse(id) {
            Expected::Sha256(digest)
        } else if is_hex(id, 40) {
            Expected::GitBlob(id.to_ascii_lowercase())
        } else {
            Expected::Unknown
        }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Hashes contents as they pass, for every kind of [`Expected`] at once.
pub(crate) struct Hasher {
    sha256: Sha256,
    git_blob: Option<Sha1>,
    length: u64,
}

impl Hasher {
    /// `size` must be known beforehand, because git hashes it first.
    pub(crate) fn new(size: u64, expected: &Expected) -> Self {
        let git_blob = matches!(expected, Expected::GitBlob(_)).then(|| {
            let mut sha1 = Sha1::new();
            sha1.update(format!("blob {size}\0"));
            sha1
        });
        Hasher { sha256: Sha256::new(), git_blob, length: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha1) = &mut self.git_blob {
            sha1.update(bytes);
        }
        self.length += bytes.len() as u64;
    }

    /// The sha256 of what passed, provided that it is what was expected.
    pub(crate) fn finish(self, file: &str, size: u64, expected: &Expected) -> Result<Sha256Hex, HubError> {
        if self.length != size {
            return Err(HubError::WrongSize { file: file.to_string(), expected: size, found: self.length });
        }
        let sha256 = Sha256Hex(hex(&self.sha256.finalize()));
        let (algorithm, wanted, found) = match expected {
            Expected::Sha256(wanted) => ("sha256", wanted.as_str(), sha256.0.clone()),
            Expected::GitBlob(wanted) => {
                let found = self.git_blob.map(|sha1| hex(&sha1.finalize())).unwrap_or_default();
                ("git blob sha1", wanted.as_str(), found)
            }
            Expected::Unknown => return Ok(sha256),
        };
        if wanted == found {
            return Ok(sha256);
        }
        Err(HubError::WrongHash { file: file.to_string(), algorithm, expected: wanted.to_string(), found })
    }
}

/// Hashes a file on disk. `visit` hears the number of bytes hashed so far and may stop it.
pub(crate) fn hash_file(
    path: &Path,
    file: &str,
    size: u64,
    expected: &Expected,
    mut visit: impl FnMut(u64) -> Result<(), HubError>,
) -> Result<Sha256Hex, HubError> {
    let mut input = File::open(path).context("open", path)?;
    let mut hasher = Hasher::new(size, expected);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = input.read(&mut buffer).context("read", path)?;
        if count == 0 {
            return hasher.finish(file, size, expected);
        }
        hasher.update(&buffer[..count]);
        visit(hasher.length)?;
    }
}

/// The sha256 of a text, to record exactly which words were accepted.
pub(crate) fn sha256_of_text(text: &str) -> Sha256Hex {
    Sha256Hex(hex(&Sha256::digest(text.as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_blob_id_is_what_git_prints() {
        // `printf 'hello\n' | git hash-object --stdin`
        let expected = Expected::from_object_id("ce013625030ba8dba906f756967f9e9ca394464a");
        let mut hasher = Hasher::new(6, &expected);
        hasher.update(b"hello\n");
        let sha256 = hasher.finish("f", 6, &expected).unwrap();
        assert_eq!(sha256.as_str(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }

    #[test]
    fn entity_tags_are_read_in_every_dress() {
        let digits = "ab".repeat(32);
        let plain = Expected::from_object_id(&digits);
        assert_eq!(plain, Expected::from_object_id(&format!("\"{digits}\"")));
        assert_eq!(plain, Expected::from_object_id(&format!("W/\"{}\"", digits.to_uppercase())));
        assert_eq!(Expected::from_object_id("\"5d41402abc4b2a76\""), Expected::Unknown);
    }
}
