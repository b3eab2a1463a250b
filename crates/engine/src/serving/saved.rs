//! The prefix cache on disk: what was computed before a restart need not be computed again.
//!
//! ```text
//! "ALTIKV1\n" | header length, u64 little-endian | header, JSON | pages, in the header's order
//! ```

use super::job::CacheDomain;
use super::kv::KvMemory;
use super::prefix::NodeId;
use crate::EngineError;
use alti_formats::AtomicFile;
use alti_tensor::{Backend, PAGE_TOKENS};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

const MAGIC: [u8; 8] = *b"ALTIKV1\n";

/// What a file says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// What keys and values depend on: the model, as the caller names it, and how they are stored.
    fingerprint: String,
    /// Bytes of a page.
    page_bytes: usize,
    pages: Vec<SavedPage>,
}

/// A page: the tokens whose keys and values it holds, behind those of its parent.
#[derive(Debug, Serialize, Deserialize)]
struct SavedPage {
    /// Index of the page before it; none for the first of a text.
    parent: Option<usize>,
    /// Whose it is.
    domain: CacheDomain,
    tokens: Vec<u32>,
}

impl<B: Backend> KvMemory<B> {
    /// Writes all prefixes to a file, atomically. Answers how many tokens they are.
    pub(super) fn save(&mut self, backend: &B, path: &Path, model: &str) -> Result<usize, EngineError> {
        let entries = self.tree.entries();
        let saved = entries.iter().map(|entry| SavedPage {
            parent: entry.parent,
            domain: entry.domain.clone(),
            tokens: entry.tokens.to_vec(),
        });
        let header = Header {
            fingerprint: self.fingerprint(model),
            page_bytes: self.page_len(backend),
            pages: saved.collect(),
        };
        let tokens = header.pages.iter().map(|page| page.tokens.len()).sum();
        let header = serde_json::to_vec(&header).map_err(|error| wrong(path, &error.to_string()))?;
        let write = || {
            let mut file = AtomicFile::create(path, true)?;
            file.write(&MAGIC)?;
            file.write(&(header.len() as u64).to_le_bytes())?;
            file.write(&header)?;
            let mut bytes = Vec::new();
            for entry in &entries {
                bytes.clear();
                backend.read_page(&self.cache, entry.page, &mut bytes);
                file.write(&bytes)?;
            }
            file.commit()
        };
        write().map_err(|error| wrong(path, &error.to_string()))?;
        Ok(tokens)
    }

    /// Takes a file's prefixes in, as far as pages are free. Answers how many tokens that were not known came of it.
    pub(super) fn load(&mut self, backend: &mut B, path: &Path, model: &str) -> Result<usize, EngineError> {
        let failed = |error: std::io::Error| wrong(path, &error.to_string());
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut file = BufReader::new(file);
        let header = self.header(backend, &mut file, size, path, model)?;
        let mut places: Vec<Option<NodeId>> = Vec::with_capacity(header.pages.len());
        let mut bytes = vec![0; header.page_bytes];
        let mut tokens = 0;
        for page in &header.pages {
            file.read_exact(&mut bytes).map_err(failed)?;
            let above = match page.parent {
                None => Some(self.tree.root(&page.domain)),
                Some(parent) => places[parent],
            };
            let place = match above {
                Some(above) => self.take_in(backend, above, &page.tokens, &bytes)?,
                None => None,
            };
            tokens += place.filter(|&(_, is_new)| is_new).map_or(0, |_| page.tokens.len());
            places.push(place.map(|(node, _)| node));
        }
        Ok(tokens)
    }

    /// Reads and checks what comes before the pages.
    fn header(
        &self,
        backend: &B,
        file: &mut impl Read,
        size: u64,
        path: &Path,
        model: &str,
    ) -> Result<Header, EngineError> {
        let mut start = [0; 16];
        let short = |_| wrong(path, "it is cut off");
        file.read_exact(&mut start).map_err(short)?;
        let length = u64::from_le_bytes(start[8..].try_into().expect("eight bytes"));
        if start[..8] != MAGIC {
            return Err(wrong(path, "it is not a file of saved prefixes"));
        }
        if length > size - 16 {
            return Err(wrong(path, "it is cut off"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(short)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|error| wrong(path, &error.to_string()))?;
        let (found, expected) = (&header.fingerprint, self.fingerprint(model));
        if *found != expected || header.page_bytes != self.page_len(backend) {
            return Err(wrong(path, &format!("it is of another model or cache: {found}, not {expected}")));
        }
        if size - 16 - length != (header.pages.len() as u64).saturating_mul(header.page_bytes as u64) {
            return Err(wrong(path, "it is cut off"));
        }
        let is_sound = |(index, page): (usize, &SavedPage)| {
            (1..=PAGE_TOKENS).contains(&page.tokens.len())
                && page.parent.is_none_or(|parent| {
                    parent < index
                        && header.pages[parent].tokens.len() == PAGE_TOKENS
                        && header.pages[parent].domain == page.domain
                })
        };
        match header.pages.iter().enumerate().all(is_sound) {
            true => Ok(header),
            false => Err(wrong(path, "its pages do not follow from each other")),
        }
    }

    /// Puts a saved page below `above`, if it is not there and a page is free; where it is then, and whether it is new.
    fn take_in(
        &mut self,
        backend: &mut B,
        above: NodeId,
        tokens: &[u32],
        bytes: &[u8],
    ) -> Result<Option<(NodeId, bool)>, EngineError> {
        if let Some(known) = self.tree.known(above, tokens) {
            return Ok(Some((known, false)));
        }
        let Some(page) = self.pages.take() else { return Ok(None) };
        let written = backend.write_page(&self.cache, page, bytes);
        let node = written.is_ok().then(|| self.tree.insert(&mut self.pages, above, tokens, page));
        self.pages.release(page);
        written?;
        Ok(node.map(|node| (node, true)))
    }

    fn fingerprint(&self, model: &str) -> String {
        format!("{model}, {} groups, {PAGE_TOKENS} tokens a page, {:?}", self.groups, self.dtype)
    }

    fn page_len(&self, backend: &B) -> usize {
        let mut bytes = Vec::new();
        backend.read_page(&self.cache, 0, &mut bytes);
        bytes.len()
    }
}

fn wrong(path: &Path, what: &str) -> EngineError {
    EngineError::Prefixes { path: path.to_owned(), what: what.to_owned() }
}
