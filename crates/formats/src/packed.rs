//! Weights as a backend has arranged them, kept so that the next start need not arrange them again.
//!
//! ```text
//! 8 bytes  "ALTIPACK"
//! u64      bytes of the head, little-endian
//! head     JSON: {"of": "...", "weights": {"blk.0.attn_q.weight": [start, bytes], ...}}
//! weights  each from its start on, counted from the beginning of the file, a multiple of 64
//! ```
//! `of` says of what and by which arrangement: a file that says something else is not used.

use crate::FormatError;
use crate::files::AtomicFile;
use crate::mmap::Mapped;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const MAGIC: &[u8; 8] = b"ALTIPACK";
/// Bytes before the head.
const FIXED: usize = 16;
/// What starts are multiples of: a cache line.
const ALIGNMENT: u64 = 64;

/// What a file says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    of: String,
    weights: BTreeMap<String, (u64, u64)>,
}

/// A file of arranged weights, mapped into memory.
#[derive(Debug)]
pub struct PackedFile {
    contents: Bytes,
    head: Head,
}

impl PackedFile {
    /// Opens the file, if there is one and it is of what is wanted.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn open(path: &Path, of: &str) -> Result<Option<PackedFile>, FormatError> {
        let mapped = Mapped::open(path).inspect(Mapped::prefer_huge_pages);
        match mapped.and_then(|mapped| Self::read(path, mapped)) {
            Err(FormatError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Ok(Some(read?).filter(|file| file.head.of == of)),
        }
    }

    /// What the weights of a file are of.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn subject(path: &Path) -> Result<String, FormatError> {
        Ok(Self::read(path, Mapped::open(path)?)?.head.of)
    }

    fn read(path: &Path, mapped: Mapped) -> Result<PackedFile, FormatError> {
        let contents = Bytes::from_owner(mapped);
        let damaged = |offset, problem: &str| FormatError::malformed(path, offset, problem);
        if contents.get(..8) != Some(MAGIC) {
            return Err(damaged(0, "is no file of packed weights"));
        }
        let length =
            contents.get(8..FIXED).and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        let end = length.and_then(|length| usize::try_from(length).ok()?.checked_add(FIXED));
        let head = end.and_then(|end| contents.get(FIXED..end));
        let head = head.ok_or_else(|| damaged(8, "the head ends behind the end of the file"))?;
        let head: Head =
            serde_json::from_slice(head).map_err(|error| damaged(FIXED as u64, &error.to_string()))?;
        let fits = |&(start, length): &(u64, u64)| {
            start % ALIGNMENT == 0
                && start.checked_add(length).is_some_and(|end| end <= contents.len() as u64)
        };
        if !head.weights.values().all(fits) {
            return Err(damaged(FIXED as u64, "a weight lies outside of the file"));
        }
        Ok(PackedFile { contents, head })
    }

    /// The bytes of a weight, which stay mapped as long as anybody has them.
    pub fn weight(&self, name: &str) -> Option<Bytes> {
        let &(start, length) = self.head.weights.get(name)?;
        // `open` has compared them with the length of the file.
        Some(self.contents.slice(start as usize..(start + length) as usize))
    }

    /// Writes a file of weights, each in pieces, atomically. `progress` is told how many bytes are written, and answers
    /// whether to go on. Answers how many there are.
    ///
    /// # Errors
    /// When the folder or the disk does not take it, or it is not gone on with.
    pub fn write(
        path: &Path,
        of: &str,
        weights: &[(String, Vec<&[u8]>)],
        mut progress: impl FnMut(u64) -> bool,
    ) -> Result<u64, FormatError> {
        let length = |pieces: &[&[u8]]| pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        // Where weights begin depends on how long the head is, and that on where they begin: by a digit or two.
        let room = (4096 + of.len() + weights.iter().map(|(name, _)| name.len() + 64).sum::<usize>()) as u64;
        let mut start = (FIXED as u64 + room).next_multiple_of(ALIGNMENT);
        let mut head = Head { of: of.to_owned(), weights: BTreeMap::new() };
        for (name, pieces) in weights {
            head.weights.insert(name.clone(), (start, length(pieces)));
            start = (start + length(pieces)).next_multiple_of(ALIGNMENT);
        }
        let mut text = serde_json::to_vec(&head).map_err(|e| FormatError::io(path, "write", e.into()))?;
        if text.len() > room as usize {
            return Err(FormatError::unsupported(path, "cannot be written: names of weights are too long"));
        }
        // Spaces behind JSON mean nothing.
        text.resize(room as usize, b' ');
        let mut file = AtomicFile::create(path, true)?;
        file.write(MAGIC)?;
        file.write(&(text.len() as u64).to_le_bytes())?;
        file.write(&text)?;
        for (_, pieces) in weights {
            file.pad_to(ALIGNMENT)?;
            pieces.iter().try_for_each(|piece| file.write(piece))?;
            if !progress(file.written()) {
                return Err(FormatError::io(path, "write", io::ErrorKind::Interrupted.into()));
            }
        }
        let written = file.written();
        file.commit()?;
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.packed");
        assert!(PackedFile::open(&path, "this").unwrap().is_none(), "there is none yet");
        let (long, name) = (vec![7; 1000], |index: usize| format!("blk.{index}.ffn_up.weight"));
        let weights: Vec<_> =
            (0..40).map(|index| (name(index), vec![&long[index..], &long[..index]])).collect();
        let bytes = PackedFile::write(&path, "this", &weights, |_| true).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        let file = PackedFile::open(&path, "this").unwrap().expect("it is there");
        for index in 0..40 {
            let weight = file.weight(&name(index)).expect("each weight is there");
            assert_eq!(weight, long);
            assert_eq!(weight.as_ptr().align_offset(ALIGNMENT as usize), 0);
        }
        assert!(file.weight("blk.40.ffn_up.weight").is_none());
        assert!(PackedFile::open(&path, "that").unwrap().is_none(), "it is of something else");
        assert!(
            PackedFile::write(&path, "that", &weights, |written| written < 20_000).is_err(),
            "it is enough"
        );
        assert!(PackedFile::open(&path, "this").unwrap().is_some(), "what was there is there");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing else");
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.packed");
        PackedFile::write(&path, "this", &[("a".to_owned(), vec![&[1; 500]])], |_| true).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 5, 12, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(PackedFile::open(&path, "this").is_err(), "cut to {length} bytes");
        }
        for (at, byte) in [(0, b'B'), (15, 0xff), (16, b'!')] {
            let mut changed = whole.clone();
            changed[at] = byte;
            std::fs::write(&path, changed).unwrap();
            assert!(PackedFile::open(&path, "this").is_err(), "byte {at} changed");
        }
    }
}
