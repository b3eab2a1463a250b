//! An unfinished download: the file, and a journal of which of its bytes are here.
//!
//! Several connections fill a file in no particular order, so its length says nothing. The
//! journal is an append-only text of finished byte ranges, each written after its bytes. Lines
//! are cut short by a crash only at the end, where an incomplete last line is ignored. After a
//! power failure the journal may promise bytes that never reached the disk; the digest of the
//! whole file, checked at the end, catches that, and the file is then fetched anew. Where the server
//! announced no digest nothing could catch it, and space reserved beforehand reads as zeros: such
//! downloads ([`Trust::Disk`]) reach the disk before the journal says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use fs4::FileExt;

use crate::error::{HubError, IoContext};

const HEADER: &str = "altiplano-partial 1";

/// What finds out whether the bytes that a journal claims are really there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The digest of the finished file.
    Digest,
    /// Nothing: bytes are on the disk before they are noted.
    Disk,
}

/// A file on its way into the store.
pub(crate) struct Partial {
    path: PathBuf,
    journal_path: PathBuf,
    size: u64,
    preallocate: bool,
    trust: Trust,
    state: Mutex<State>,
    /// Whether bytes of an earlier run are in it.
    pub(crate) resumed: bool,
}

struct State {
    journal: File,
    /// What is here: disjoint, in order, not touching.
    have: Vec<Range<u64>>,
    /// Strong entity tag of the contents, for servers that announce no digest.
    tag: Option<String>,
}

/// What a journal says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Record {
    size: Option<u64>,
    tag: Option<String>,
    have: Vec<Range<u64>>,
}

impl Partial {
    /// Opens the partial download of `key`, or starts one. The caller holds the key's lock.
    pub(crate) fn open(
        folder: &Path,
        key: &str,
        size: u64,
        preallocate: bool,
        trust: Trust,
    ) -> Result<Self, HubError> {
        let path = folder.join(format!("{key}.part"));
        let journal_path = folder.join(format!("{key}.journal"));
        let record = read_journal(&journal_path)?;
        let length = fs::metadata(&path).map(|metadata| metadata.len()).ok();
        let end = record.have.last().map_or(0, |range| range.end);
        let usable =
            record.size == Some(size) && length.is_some_and(|length| end <= length && length <= size);
        let (have, tag) = if usable { (record.have, record.tag) } else { (Vec::new(), None) };
        let resumed = !have.is_empty();
        let journal = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&journal_path)
            .context("open", &journal_path)?;
        let partial = Partial {
            path,
            journal_path,
            size,
            preallocate,
            trust,
            state: Mutex::new(State { journal, have, tag }),
            resumed,
        };
        if !usable {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Forgets every byte and reserves the file's space anew.
    pub(crate) fn restart(&self) -> Result<(), HubError> {
        let mut state = self.state();
        state.have.clear();
        state.tag = None;
        // In this order a crash in between leaves a journal that claims nothing.
        state.journal.set_len(0).context("empty", &self.journal_path)?;
        let header = format!("{HEADER}\nsize {}\n", self.size);
        state.journal.write_all(header.as_bytes()).context("write", &self.journal_path)?;
        if self.trust == Trust::Disk {
            // An old journal must not come back after a power failure and claim the new file's zeros.
            state.journal.sync_all().context("flush", &self.journal_path)?;
        }
        let file = File::create(&self.path).context("create", &self.path)?;
        if self.preallocate && self.size > 0 {
            match file.allocate(self.size) {
                // Some file systems cannot reserve; there the file grows as bytes arrive.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {}
                reserved => reserved.context("reserve space for", &self.path).inspect_err(|_| {
                    let _ = fs::remove_file(&self.path);
                })?,
            }
        }
        Ok(())
    }

    /// Deletes the file and its journal.
    pub(crate) fn discard(self) -> Result<(), HubError> {
        fs::remove_file(&self.journal_path).context("remove", &self.journal_path)?;
        match fs::remove_file(&self.path) {
            // Taken into the store.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.context("remove", &self.path),
        }
    }

    /// Bytes that are here.
    pub(crate) fn done(&self) -> u64 {
        total(&self.state().have)
    }

    /// What is not here, in pieces of at most `piece` bytes, in file order.
    pub(crate) fn missing(&self, piece: u64) -> Vec<Range<u64>> {
        let state = self.state();
        let mut missing = Vec::new();
        let mut at = 0;
        let end = self.size..self.size;
        for range in state.have.iter().chain([&end]) {
            while at < range.start {
                let piece_end = range.start.min(at.saturating_add(piece.max(1)));
                missing.push(at..piece_end);
                at = piece_end;
            }
            at = range.end;
        }
        missing
    }

    /// The entity tag that the first answer gave; later ones must have the same.
    pub(crate) fn tag(&self) -> Option<String> {
        self.state().tag.clone()
    }

    /// Remembers the contents' entity tag.
    pub(crate) fn set_tag(&self, tag: &str) -> Result<(), HubError> {
        let mut state = self.state();
        if state.tag.is_none() && !tag.contains(['\n', '\r']) {
            state.tag = Some(tag.to_string());
            state
                .journal
                .write_all(format!("tag {tag}\n").as_bytes())
                .context("write", &self.journal_path)?;
        }
        Ok(())
    }

    fn record(&self, range: Range<u64>) -> Result<(), HubError> {
        let mut state = self.state();
        let line = format!("have {} {}\n", range.start, range.end);
        state.journal.write_all(line.as_bytes()).context("write", &self.journal_path)?;
        insert(&mut state.have, range);
        Ok(())
    }

    /// A writer that begins at `start`.
    pub(crate) fn writer(&self, start: u64) -> Result<Writer<'_>, HubError> {
        let mut file = OpenOptions::new().write(true).open(&self.path).context("open", &self.path)?;
        file.seek(SeekFrom::Start(start)).context("seek in", &self.path)?;
        Ok(Writer { partial: self, file, recorded: start, at: start })
    }
}

/// Writes consecutive bytes and notes them in the journal every [`Writer::note_every`] bytes and at
/// the end.
pub(crate) struct Writer<'a> {
    partial: &'a Partial,
    file: File,
    recorded: u64,
    at: u64,
}

impl Writer<'_> {
    /// Bytes that a crash may cost: few where noting costs nothing, more where the disk is waited for.
    fn note_every(&self) -> u64 {
        match self.partial.trust {
            Trust::Digest => 1 << 20,
            Trust::Disk => 16 << 20,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).context("write", &self.partial.path)?;
        self.at += bytes.len() as u64;
        if self.at - self.recorded >= self.note_every() { self.note() } else { Ok(()) }
    }

    /// The next byte's position.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Notes what was written so far.
    pub(crate) fn note(&mut self) -> Result<(), HubError> {
        if self.at > self.recorded {
            if self.partial.trust == Trust::Disk {
                self.file.sync_data().context("flush", &self.partial.path)?;
            }
            self.partial.record(self.recorded..self.at)?;
            self.recorded = self.at;
        }
        Ok(())
    }
}

/// How many bytes of a partial download are here, for those who wait for it; 0 if there is none.
pub(crate) fn bytes_here(folder: &Path, key: &str) -> u64 {
    read_journal(&folder.join(format!("{key}.journal"))).map_or(0, |record| total(&record.have))
}

/// Bytes of disk that a partial download holds already, of `size` that it will need.
pub(crate) fn bytes_reserved(folder: &Path, key: &str, size: u64, preallocate: bool) -> u64 {
    let length = fs::metadata(folder.join(format!("{key}.part"))).map_or(0, |metadata| metadata.len());
    let reserved = if preallocate { length } else { bytes_here(folder, key).min(length) };
    reserved.min(size)
}

fn read_journal(path: &Path) -> Result<Record, HubError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(Record::default())
        }
        Err(error) => Err(error).context("read", path),
    }
}

/// Reads complete lines up to the first that makes no sense.
fn parse(text: &str) -> Record {
    let mut record = Record::default();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = complete.lines();
    if lines.next() != Some(HEADER) {
        return record;
    }
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
        match words.next() {
            Some("size") => record.size = number(words.next()),
            Some("tag") => record.tag = line.strip_prefix("tag ").map(str::to_string),
            Some("have") => match (number(words.next()), number(words.next())) {
                (Some(start), Some(end)) if start < end => insert(&mut record.have, start..end),
                _ => return record,
            },
            _ => return record,
        }
    }
    record
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Adds a range to an ordered list of disjoint ranges, merging those it touches.
fn insert(ranges: &mut Vec<Range<u64>>, new: Range<u64>) {
    let first = ranges.partition_point(|range| range.end < new.start);
    let last = ranges.partition_point(|range| range.start <= new.end);
    let merged = match ranges.get(first..last) {
        Some([head, .., tail]) => head.start.min(new.start)..tail.end.max(new.end),
        Some([only]) => only.start.min(new.start)..only.end.max(new.end),
        _ => new,
    };
    ranges.splice(first..last, [merged]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_where_they_touch() {
        let mut ranges = Vec::new();
        for range in [10..20, 30..40, 0..5, 20..25, 5..10, 39..50, 25..30] {
            insert(&mut ranges, range);
        }
        assert_eq!(ranges, vec![0..50]);
        insert(&mut ranges, 60..61);
        insert(&mut ranges, 52..53);
        assert_eq!(ranges, [0..50, 52..53, 60..61]);
    }

    #[test]
    fn a_journal_cut_at_any_byte_never_claims_more_than_was_written() {
        let text = format!("{HEADER}\nsize 2000\ntag \"a b\"\nhave 0 100\nhave 500 1500\nhave 100 120\n");
        let whole = parse(&text);
        assert_eq!((whole.size, whole.tag.as_deref()), (Some(2000), Some("\"a b\"")));
        assert_eq!(whole.have, [0..120, 500..1500]);
        for cut in 0..text.len() {
            for range in parse(&text[..cut]).have {
                assert!(
                    whole.have.iter().any(|w| w.start <= range.start && range.end <= w.end),
                    "cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn nonsense_claims_nothing() {
        for text in ["", "have 0 5\n", "altiplano-partial 2\nhave 0 5\n", "altiplano-partial 1\nhave 9 5\n"] {
            assert_eq!(parse(text).have, [], "{text:?}");
        }
    }

    #[test]
    fn what_is_missing_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let partial = Partial::open(folder.path(), "k", 10_000, true, Trust::Digest).unwrap();
        let mut writer = partial.writer(2000).unwrap();
        writer.write(&[7; 3000]).unwrap();
        writer.note().unwrap();
        drop(partial);
        assert_eq!(bytes_here(folder.path(), "k"), 3000);
        let partial = Partial::open(folder.path(), "k", 10_000, true, Trust::Digest).unwrap();
        assert!(partial.resumed);
        assert_eq!(partial.missing(4000), [0..2000, 5000..9000, 9000..10_000]);
        drop(partial);
        let other_size = Partial::open(folder.path(), "k", 9_999, true, Trust::Digest).unwrap();
        assert!(!other_size.resumed);
        assert_eq!(other_size.missing(u64::MAX), vec![0..9_999]);
    }

    #[test]
    fn without_a_digest_less_is_noted_and_only_what_is_on_the_disk() {
        for (trust, noted) in [(Trust::Digest, 3 << 20), (Trust::Disk, 0)] {
            let folder = tempfile::tempdir().unwrap();
            let partial = Partial::open(folder.path(), "k", 32 << 20, true, trust).unwrap();
            let mut writer = partial.writer(0).unwrap();
            for _ in 0..3 {
                writer.write(&[7; 1 << 20]).unwrap();
            }
            assert_eq!(bytes_here(folder.path(), "k"), noted, "{trust:?}");
            writer.note().unwrap();
            assert_eq!(bytes_here(folder.path(), "k"), 3 << 20);
        }
    }
}
