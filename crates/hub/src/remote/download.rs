//! Fetching one file: over several connections, resumed where an earlier run stopped, verified
//! before it enters the store.
//!
//! Whether two runs fetch the same contents is decided by digest where the Hub announces one:
//! the partial file is named by it and every answer is compared with it. Only files without one rely on
//! an entity tag and `If-Range`; content servers do not promise equal tags for equal contents, and a
//! changed tag throws everything away.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ureq::http::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};

use super::api::{Addresses, RemoteFile};
use super::client::{Answer, Client, Failure, Subject};
use super::partial::{self, Partial, Trust, Writer};
use crate::digest::{Expected, Sha256Hex, hash_file, sha256_of_text};
use crate::error::HubError;
use crate::progress::{Event, Meter, Observer};
use crate::settings::HubSettings;
use crate::store::{FileEntry, Store, Verified, lock};

/// Files below this are not worth a second connection.
const MIN_PIECE: u64 = 4 << 20;
/// Above this a lost connection would cost the Hub too many repeated requests' worth of patience.
const MAX_PIECE: u64 = 256 << 20;

/// A repository at a commit, ready to fetch files of it.
pub(crate) struct Source<'a> {
    pub(crate) client: &'a Client,
    pub(crate) addresses: &'a Addresses<'a>,
    pub(crate) commit: &'a str,
    pub(crate) store: &'a Store,
    pub(crate) settings: &'a HubSettings,
}

/// Why a request did not bring all of its bytes.
enum Interruption {
    /// The server sends whole files only.
    RangesIgnored,
    /// The contents changed since the first request.
    Changed,
    Failed(Failure),
}

impl From<HubError> for Interruption {
    fn from(error: HubError) -> Self {
        Interruption::Failed(Failure::Final(error))
    }
}

impl From<Failure> for Interruption {
    fn from(failure: Failure) -> Self {
        Interruption::Failed(failure)
    }
}

impl Source<'_> {
    /// The name of a file's partial download and lock: its digest, or where it is.
    pub(crate) fn key(&self, file: &RemoteFile) -> String {
        match &file.expected {
            Expected::Sha256(digest) => format!("sha256-{digest}"),
            Expected::GitBlob(id) => format!("git-{id}"),
            Expected::Unknown => {
                format!("url-{}", sha256_of_text(&self.addresses.contents(self.commit, &file.path)))
            }
        }
    }

    /// Brings a file into the store, or finds it there.
    pub(crate) fn fetch(
        &self,
        file: &RemoteFile,
        size: u64,
        meter: &Meter<'_>,
    ) -> Result<FileEntry, HubError> {
        let key = self.key(file);
        let mut announced = false;
        let lock_path = self.store.lock_path(&format!("blob-{key}"));
        let _lock = lock::wait_exclusive(&lock_path, meter.observer(), || {
            if !announced {
                meter.observer().emit(Event::Waiting { what: &file.path });
                announced = true;
            }
            meter.bytes(&file.path, partial::bytes_here(&self.store.partial(), &key), size);
        })?;
        let entry = |sha256: Sha256Hex| FileEntry {
            path: file.path.clone(),
            size,
            sha256,
            verified: match file.expected {
                Expected::Sha256(_) => Verified::Sha256,
                Expected::GitBlob(_) => Verified::GitBlob,
                Expected::Unknown => Verified::Computed,
            },
            referenced: None,
        };
        if let Expected::Sha256(digest) = &file.expected
            && self.store.has_blob(digest, size)
        {
            meter.file_done(&file.path, size, true);
            return Ok(entry(digest.clone()));
        }
        let trust = match file.expected {
            Expected::Sha256(_) | Expected::GitBlob(_) => Trust::Digest,
            Expected::Unknown => Trust::Disk,
        };
        let partial = Partial::open(&self.store.partial(), &key, size, self.settings.preallocate, trust)?;
        let sha256 = self.fill_and_verify(file, size, &partial, meter);
        match sha256 {
            Ok(sha256) => {
                self.store.adopt(partial.path(), &sha256)?;
                partial.discard()?;
                meter.file_done(&file.path, size, false);
                Ok(entry(sha256))
            }
            Err(error @ HubError::WrongHash { .. }) => {
                partial.discard()?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches what is missing and hashes the whole. Bytes that an earlier run left may be wrong
    /// (power failure), so then a wrong digest is given a second chance from nothing.
    fn fill_and_verify(
        &self,
        file: &RemoteFile,
        size: u64,
        partial: &Partial,
        meter: &Meter<'_>,
    ) -> Result<Sha256Hex, HubError> {
        let observer = meter.observer();
        let mut second_chance = partial.resumed;
        loop {
            self.fill(file, size, partial, meter)?;
            let visit = |done| {
                observer.emit(Event::Verifying { file: &file.path, done, size });
                observer.check()
            };
            match hash_file(partial.path(), &file.path, size, &file.expected, visit) {
                Err(HubError::WrongHash { .. } | HubError::WrongSize { .. }) if second_chance => {
                    second_chance = false;
                    partial.restart()?;
                }
                done => return done,
            }
        }
    }

    fn fill(
        &self,
        file: &RemoteFile,
        size: u64,
        partial: &Partial,
        meter: &Meter<'_>,
    ) -> Result<(), HubError> {
        const MAX_CHANGES: u32 = 3;
        let address = self.addresses.contents(self.commit, &file.path);
        let done = AtomicU64::new(partial.done());
        let fetch = FileFetch { source: self, file, size, address, partial, meter, done };
        fetch.report();
        for _ in 0..MAX_CHANGES {
            match fetch.pieces() {
                Ok(()) => return Ok(()),
                Err(Interruption::Changed) => fetch.restart()?,
                Err(Interruption::RangesIgnored) => return fetch.whole(),
                Err(Interruption::Failed(Failure::Final(error))) => return Err(error),
                Err(Interruption::Failed(Failure::Transient { reason, .. })) => {
                    return Err(HubError::Network { url: fetch.address, attempts: 1, reason });
                }
            }
        }
        Err(HubError::Protocol { url: fetch.address, reason: "the file keeps changing".to_string() })
    }
}

/// One file being fetched.
struct FileFetch<'a> {
    source: &'a Source<'a>,
    file: &'a RemoteFile,
    size: u64,
    address: String,
    partial: &'a Partial,
    meter: &'a Meter<'a>,
    /// Bytes that are here, for progress.
    done: AtomicU64,
}

impl FileFetch<'_> {
    fn observer(&self) -> Observer<'_> {
        self.meter.observer()
    }

    fn report(&self) {
        self.meter.bytes(&self.file.path, self.done.load(Ordering::Relaxed), self.size);
    }

    fn restart(&self) -> Result<(), HubError> {
        self.done.store(0, Ordering::Relaxed);
        self.partial.restart()
    }

    /// Fetches what is missing over several connections.
    fn pieces(&self) -> Result<(), Interruption> {
        let connections = self.source.settings.connections.max(1);
        let piece = (self.size / (connections as u64 * 4)).clamp(MIN_PIECE, MAX_PIECE);
        let missing = self.partial.missing(piece);
        let workers = connections.min(missing.len());
        let queue = Mutex::new(VecDeque::from(missing));
        let stop = AtomicBool::new(false);
        let first_fault = Mutex::new(None);
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(range) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                    return;
                };
                if let Err(fault) = self.piece(range, &stop) {
                    let is_final = matches!(fault, Interruption::Failed(_));
                    first_fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
                    stop.store(true, Ordering::Relaxed);
                    if is_final {
                        // Nothing more will come of this pull: do not let others wait for servers.
                        self.source.client.shutdown();
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        match first_fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    /// Fetches one range. As long as bytes keep coming, any number of requests may break off.
    fn piece(&self, range: Range<u64>, stop: &AtomicBool) -> Result<(), Interruption> {
        let mut at = range.start;
        let mut failed = 0;
        while at < range.end && !stop.load(Ordering::Relaxed) {
            let mut writer = self.partial.writer(at)?;
            let outcome = self.request(at..range.end, &mut writer, stop);
            // Also after a failure: what arrived is not asked for again.
            writer.note()?;
            if writer.position() > at {
                failed = 0;
                at = writer.position();
            }
            match outcome {
                Ok(()) => {}
                Err(_) if stop.load(Ordering::Relaxed) => return Ok(()),
                Err(Interruption::Failed(failure)) => {
                    failed += 1;
                    self.source.client.pause_after(failure, &self.address, failed, self.observer())?;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Fetches everything in one request, from the start each time: for servers without ranges.
    fn whole(&self) -> Result<(), HubError> {
        let stop = AtomicBool::new(false);
        self.source.client.persist(&self.address, self.observer(), || {
            self.restart()?;
            let mut writer = self.partial.writer(0)?;
            let outcome = self.request(0..self.size, &mut writer, &stop);
            writer.note()?;
            outcome.map_err(|fault| match fault {
                Interruption::Failed(failure) => failure,
                _ => Failure::transient("the file changed on the server"),
            })
        })
    }

    /// One request for one range, written as it arrives.
    fn request(
        &self,
        range: Range<u64>,
        writer: &mut Writer<'_>,
        stop: &AtomicBool,
    ) -> Result<(), Interruption> {
        let everything = range.start == 0 && range.end == self.size;
        let mut headers = Vec::new();
        if !everything {
            headers.push((RANGE.as_str(), format!("bytes={}-{}", range.start, range.end - 1)));
        }
        let tag = self.partial.tag();
        if let (Some(tag), false) = (&tag, everything) {
            headers.push((IF_RANGE.as_str(), tag.clone()));
        }
        let what = format!("file `{}`", self.file.path);
        let subject = Subject { what: &what, page: &self.source.addresses.page };
        let answer = self.source.client.send("GET", &self.address, &headers, &subject)?;
        self.check_contents(&answer)?;
        match answer.status {
            206 => self.check_range(&answer, &range)?,
            _ if everything => self.check_length(&answer)?,
            _ if tag.is_some() && answer.header(ETAG) != tag.as_deref() => return Err(Interruption::Changed),
            _ => return Err(Interruption::RangesIgnored),
        }
        if let (Expected::Unknown, Some(tag)) = (&self.file.expected, answer.header(ETAG))
            && tag.starts_with('"')
        {
            self.partial.set_tag(tag)?;
        }
        self.copy(answer, range.end, writer, stop)
    }

    fn copy(
        &self,
        answer: Answer,
        end: u64,
        writer: &mut Writer<'_>,
        stop: &AtomicBool,
    ) -> Result<(), Interruption> {
        let mut body = answer.body.into_reader();
        let mut buffer = vec![0; 64 << 10];
        while writer.position() < end && !stop.load(Ordering::Relaxed) {
            self.observer().check()?;
            let wanted = buffer.len().min(usize::try_from(end - writer.position()).unwrap_or(usize::MAX));
            let count = match body.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(Failure::transient("the connection closed early").into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::transient(error).into()),
            };
            writer.write(&buffer[..count])?;
            self.done.fetch_add(count as u64, Ordering::Relaxed);
            self.report();
        }
        Ok(())
    }

    /// The digest that came with an answer must be the one the list of files had.
    fn check_contents(&self, answer: &Answer) -> Result<(), HubError> {
        let announced = answer.linked_etag.as_deref().or_else(|| answer.header(ETAG)).unwrap_or_default();
        let announced = Expected::from_object_id(announced);
        let same_kind = std::mem::discriminant(&announced) == std::mem::discriminant(&self.file.expected);
        if same_kind && announced != self.file.expected {
            let reason = "the file changed on the Hub while it was downloaded; pull again".to_string();
            return Err(HubError::Protocol { url: self.address.clone(), reason });
        }
        Ok(())
    }

    fn check_range(&self, answer: &Answer, range: &Range<u64>) -> Result<(), HubError> {
        let header = answer.header(CONTENT_RANGE).unwrap_or_default();
        let (start, total) = content_range(header).unwrap_or_default();
        if start == Some(range.start) && total.is_none_or(|total| total == self.size) {
            return Ok(());
        }
        let asked = format!("bytes {}-{}/{}", range.start, range.end - 1, self.size);
        let reason = format!("asked for {asked}, answered `{header}`");
        Err(HubError::Protocol { url: self.address.clone(), reason })
    }

    fn check_length(&self, answer: &Answer) -> Result<(), HubError> {
        match answer.body.content_length() {
            Some(found) if found != self.size => {
                Err(HubError::WrongSize { file: self.file.path.clone(), expected: self.size, found })
            }
            _ => Ok(()),
        }
    }
}

/// First byte and total size of a Content-Range header (RFC 9110, section 14.4); the total may be `*`.
fn content_range(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok(), total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/100"), Some((Some(5), Some(100))));
        assert_eq!(content_range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(content_range("pages 1-2/3"), None);
        assert_eq!(content_range(""), None);
    }
}
