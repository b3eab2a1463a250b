//! The zip archives that `torch.save` writes, as ranges of the file: entries are stored without
//! compression, so that tensors can be used where they are. A compressed entry is refused, and
//! with it every zip bomb. Format: PKWARE's APPNOTE, with the zip64 extension.

use crate::FormatError;
use crate::error::shown;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Most entries that are believed: one per tensor and a few more.
const MAX_ENTRIES: u64 = 1 << 17;

const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";

/// The entries of an archive: name to where its bytes are in the file.
pub(super) fn entries(path: &Path, file: &[u8]) -> Result<HashMap<String, Range<usize>>, FormatError> {
    let archive = Archive { path, file };
    let (count, mut at) = archive.directory()?;
    if count > MAX_ENTRIES || count.saturating_mul(46) > file.len() as u64 {
        return archive.fail(at, format!("an archive of {count} entries (damaged)"));
    }
    let mut entries = HashMap::new();
    for _ in 0..count {
        let (name, range, next) = archive.entry(at)?;
        let again = shown(&name);
        if entries.insert(name, range).is_some() {
            return archive.fail(at, format!("entry {again} occurs twice"));
        }
        at = next;
    }
    Ok(entries)
}

struct Archive<'a> {
    path: &'a Path,
    file: &'a [u8],
}

impl Archive<'_> {
    fn fail<T>(&self, at: u64, problem: impl Into<String>) -> Result<T, FormatError> {
        Err(FormatError::malformed(self.path, at, problem))
    }

    fn bytes(&self, at: u64, length: u64) -> Result<&[u8], FormatError> {
        let end = at.checked_add(length).filter(|&end| end <= self.file.len() as u64);
        match end {
            Some(end) => Ok(&self.file[at as usize..end as usize]),
            None => self.fail(at, "the archive's directory reaches beyond the file (truncated or damaged)"),
        }
    }

    /// A little-endian number of up to eight bytes.
    fn number(&self, at: u64, length: u64) -> Result<u64, FormatError> {
        Ok(self.bytes(at, length)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// How many entries there are, and where the central directory starts.
    fn directory(&self) -> Result<(u64, u64), FormatError> {
        let end = match self.file.windows(4).rev().take(22 + 0xffff).position(|window| window == END) {
            Some(from_end) => (self.file.len() - 4 - from_end) as u64,
            None => {
                return self
                    .fail(0, "is not a file that torch.save writes (no zip directory), or is truncated");
            }
        };
        let (count, start) = (self.number(end + 10, 2)?, self.number(end + 16, 4)?);
        let locator =
            end.checked_sub(20).filter(|&at| self.bytes(at, 4).is_ok_and(|bytes| bytes == LOCATOR64));
        let Some(locator) = locator else { return Ok((count, start)) };
        let end64 = self.number(locator + 8, 8)?;
        if self.bytes(end64, 4)? != END64 {
            return self.fail(end64, "no zip64 directory where one should be (damaged)");
        }
        Ok((self.number(end64 + 32, 8)?, self.number(end64 + 48, 8)?))
    }

    /// One entry of the central directory at `at`: its name, its data, and where the next one
    /// starts.
    fn entry(&self, at: u64) -> Result<(String, Range<usize>, u64), FormatError> {
        if self.bytes(at, 4)? != CENTRAL {
            return self.fail(at, "no entry of the zip directory where one should be (damaged)");
        }
        let [name_length, extra_length, comment_length] =
            [self.number(at + 28, 2)?, self.number(at + 30, 2)?, self.number(at + 32, 2)?];
        let name = String::from_utf8_lossy(self.bytes(at + 46, name_length)?).into_owned();
        let [mut packed, mut size] = [self.number(at + 20, 4)?, self.number(at + 24, 4)?];
        let mut offset = self.number(at + 42, 4)?;
        self.read_zip64(at + 46 + name_length, extra_length, [&mut size, &mut packed, &mut offset])?;
        let (flags, method) = (self.number(at + 8, 2)?, self.number(at + 10, 2)?);
        if method != 0 || flags & 1 != 0 || packed != size {
            return self.fail(
                at,
                format!("entry {} is compressed or encrypted; torch.save does neither", shown(&name)),
            );
        }
        if self.bytes(offset, 4)? != LOCAL {
            return self
                .fail(offset, format!("entry {} is not where the directory says (damaged)", shown(&name)));
        }
        let data = offset + 30 + self.number(offset + 26, 2)? + self.number(offset + 28, 2)?;
        self.bytes(data, size)?;
        let range = data as usize..(data + size) as usize;
        Ok((name, range, at + 46 + name_length + extra_length + comment_length))
    }

    /// Replaces the fields that are all ones by their 64-bit values from the extra field.
    fn read_zip64(&self, start: u64, length: u64, fields: [&mut u64; 3]) -> Result<(), FormatError> {
        let mut at = start;
        while at + 4 <= start + length {
            let (kind, size) = (self.number(at, 2)?, self.number(at + 2, 2)?);
            if kind == 1 {
                let mut value_at = at + 4;
                for field in fields.into_iter().filter(|field| **field == 0xffff_ffff) {
                    *field = self.number(value_at, 8)?;
                    value_at += 8;
                }
                return Ok(());
            }
            at += 4 + size;
        }
        Ok(())
    }
}
