//! Read-only memory maps of model files, so that opening a model costs no copy and weights are
//! paged in as they are used.
//!
//! The only `unsafe` of this crate is here. A map is sound to hand out as `&[u8]` only while no one
//! shrinks or rewrites the file: a process that truncates a mapped file makes later reads of the
//! lost pages raise SIGBUS, which Rust cannot turn into an error. Model files are written once and
//! replaced by rename (as everything this crate writes is), which leaves existing maps intact.

#![allow(unsafe_code)]

use crate::FormatError;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file mapped into memory, read-only.
#[derive(Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Mapped {
    /// Maps a regular file.
    ///
    /// # Errors
    /// When it does not exist, cannot be read, or is a folder, a pipe or a device.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let kind = std::fs::metadata(path).map_err(|e| FormatError::io(path, "open", e))?;
        if !kind.is_file() {
            return Err(FormatError::unsupported(path, "is not a regular file"));
        }
        let file = File::open(path).map_err(|e| FormatError::io(path, "open", e))?;
        // SAFETY: the map is private to this struct and only ever lent as `&[u8]`. The file is a
        // regular file; that no one truncates or overwrites it in place while it is mapped is the
        // contract documented at the top of this module.
        let map =
            unsafe { memmap2::Mmap::map(&file) }.map_err(|e| FormatError::io(path, "map into memory", e))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Asks the system to read the file into huge pages: for what is read again and again. What is in its cache
    /// already stays as it is; where the system knows no such pages for files, nothing changes.
    pub(crate) fn prefer_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        let _ = self.map.advise(memmap2::Advice::HugePage);
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives the memory of `bytes` back, where they are of this map: they are read from the file
    /// again should anyone look. Where the system will not, they stay.
    #[cfg(unix)]
    pub(crate) fn release(&self, bytes: &[u8]) {
        let (map, range) = (self.map.as_ptr_range(), bytes.as_ptr_range());
        if map.start <= range.start && range.end <= map.end {
            let offset = range.start as usize - map.start as usize;
            // SAFETY: the map is read-only and of a file, so its pages can be dropped: the same bytes
            // come back from the file.
            let _ = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes.len())
            };
        }
    }

    /// Elsewhere the system drops pages when it must.
    #[cfg(not(unix))]
    pub(crate) fn release(&self, _bytes: &[u8]) {}

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
