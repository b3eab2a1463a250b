//! The prefix cache on disk: what was computed before a restart need not be computed again.
//!
//! ```text
//! "ALTIKV1\n" | header length, u64 little-endian | header, JSON | pages, in the header's order
//! ```

use super::job::CacheDomain;
use super::kv::KvMemory;
use super::prefix::NodeId;
use crate::EngineError;
use alti_formats::{AtomicFile, FormatError};
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

/// One text with its keys and values, on its way to a file or from one.
#[derive(Debug)]
pub(super) struct SavedText {
    header: Header,
    /// Its pages.
    bytes: Vec<u8>,
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
        let failed = |error: FormatError| wrong(path, &error.to_string());
        let mut file = begin(path, &header)?;
        let mut bytes = Vec::new();
        for entry in &entries {
            bytes.clear();
            backend.read_page(&self.cache, entry.page, &mut bytes);
            file.write(&bytes).map_err(failed)?;
        }
        file.commit().map_err(failed)?;
        Ok(tokens)
    }

    /// Takes a file's prefixes in, as far as pages are free. Answers how many tokens that were not known came of it.
    pub(super) fn load(&mut self, backend: &mut B, path: &Path, model: &str) -> Result<usize, EngineError> {
        let failed = |error: std::io::Error| wrong(path, &error.to_string());
        let (mut file, header) = open(path)?;
        self.check(backend, &header, path, model)?;
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
                Some(above) => self.take_in(backend, above, &page.tokens, &bytes, false)?,
                None => None,
            };
            tokens += place.filter(|&(_, is_new)| is_new).map_or(0, |_| page.tokens.len());
            places.push(place.map(|(node, _)| node));
        }
        Ok(tokens)
    }

    /// Whether a file's pages are of this cache.
    fn check(&self, backend: &B, header: &Header, path: &Path, model: &str) -> Result<(), EngineError> {
        let (found, expected) = (&header.fingerprint, self.fingerprint(model));
        if *found == expected && header.page_bytes == self.page_len(backend) {
            return Ok(());
        }
        Err(wrong(path, &format!("it is of another model or cache: {found}, not {expected}")))
    }

    /// A text with its pages, in order: the tokens of each, and which it is.
    pub(super) fn saved_text(
        &self,
        backend: &B,
        domain: &CacheDomain,
        pages: &[(&[u32], u32)],
        model: &str,
    ) -> SavedText {
        let saved = pages.iter().enumerate().map(|(index, (tokens, _))| SavedPage {
            parent: index.checked_sub(1),
            domain: domain.clone(),
            tokens: tokens.to_vec(),
        });
        let header = Header {
            fingerprint: self.fingerprint(model),
            page_bytes: self.page_len(backend),
            pages: saved.collect(),
        };
        let mut bytes = Vec::with_capacity(pages.len() * header.page_bytes);
        pages.iter().for_each(|&(_, page)| backend.read_page(&self.cache, page, &mut bytes));
        SavedText { header, bytes }
    }

    /// Takes a text in, which the file `path` had, as far as pages are free. Answers its tokens that are there then.
    pub(super) fn take_text(
        &mut self,
        backend: &mut B,
        domain: &CacheDomain,
        text: &SavedText,
        path: &Path,
        model: &str,
    ) -> Result<Vec<u32>, EngineError> {
        let SavedText { header, bytes } = text;
        self.check(backend, header, path, model)?;
        if !self.shares {
            return Err(wrong(path, "the prefix cache is turned off, and so nothing can be brought back"));
        }
        if header.pages.iter().any(|page| page.domain != *domain) {
            return Err(wrong(path, "it was computed for somebody else, or with another adapter"));
        }
        if header.pages.iter().enumerate().any(|(index, page)| page.parent != index.checked_sub(1)) {
            return Err(wrong(path, "it holds more than one text"));
        }
        let mut above = self.tree.root(domain);
        let (mut tokens, mut held) = (Vec::new(), Vec::new());
        for (page, bytes) in header.pages.iter().zip(bytes.chunks_exact(header.page_bytes)) {
            let taken = self.take_in(backend, above, &page.tokens, bytes, true);
            let Ok(Some((node, _))) = taken else {
                held.into_iter().for_each(|page| self.pages.release(page));
                return taken.map(|_| tokens);
            };
            // What has come must not make room for what follows it.
            self.pages.hold(self.tree.page(node));
            held.push(self.tree.page(node));
            above = node;
            tokens.extend_from_slice(&page.tokens);
        }
        held.into_iter().for_each(|page| self.pages.release(page));
        Ok(tokens)
    }

    /// Puts a saved page below `above`, if it is not there and a page is free, or can be had from those used longest ago;
    /// where it is then, and whether it is new.
    fn take_in(
        &mut self,
        backend: &mut B,
        above: NodeId,
        tokens: &[u32],
        bytes: &[u8],
        may_evict: bool,
    ) -> Result<Option<(NodeId, bool)>, EngineError> {
        if let Some(known) = self.tree.known(above, tokens) {
            self.tree.use_again(known);
            return Ok(Some((known, false)));
        }
        let page = if may_evict { self.free_page() } else { self.pages.take() };
        let Some(page) = page else { return Ok(None) };
        let written = backend.write_page(&self.cache, page, bytes);
        let node = written.is_ok().then(|| self.tree.insert(&mut self.pages, above, tokens, page));
        if let Some(node) = node {
            self.tree.use_again(node);
        }
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

impl SavedText {
    /// How many tokens it has.
    pub(super) fn tokens(&self) -> usize {
        self.header.pages.iter().map(|page| page.tokens.len()).sum()
    }

    /// Writes it to a file, atomically.
    pub(super) fn write(&self, path: &Path) -> Result<(), EngineError> {
        let failed = |error: FormatError| wrong(path, &error.to_string());
        let mut file = begin(path, &self.header)?;
        file.write(&self.bytes).map_err(failed)?;
        file.commit().map_err(failed)
    }

    /// Reads what [`SavedText::write`] wrote; whether it is of this model is found out where it is taken in.
    pub(super) fn read(path: &Path) -> Result<SavedText, EngineError> {
        let (mut file, header) = open(path)?;
        // As many as the file is long: that was checked.
        let mut bytes = vec![0; header.pages.len() * header.page_bytes];
        file.read_exact(&mut bytes).map_err(|error| wrong(path, &error.to_string()))?;
        Ok(SavedText { header, bytes })
    }
}

/// Begins a file: everything but the pages.
fn begin(path: &Path, header: &Header) -> Result<AtomicFile, EngineError> {
    let header = serde_json::to_vec(header).map_err(|error| wrong(path, &error.to_string()))?;
    let begun = || {
        let mut file = AtomicFile::create(path, true)?;
        file.write(&MAGIC)?;
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(&header)?;
        Ok(file)
    };
    begun().map_err(|error: FormatError| wrong(path, &error.to_string()))
}

/// Opens a file, and reads and checks what comes before the pages.
fn open(path: &Path) -> Result<(BufReader<File>, Header), EngineError> {
    let failed = |error: std::io::Error| wrong(path, &error.to_string());
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut file = BufReader::new(file);
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
    let header: Header = serde_json::from_slice(&header).map_err(|error| wrong(path, &error.to_string()))?;
    if header.page_bytes == 0
        || size - 16 - length != (header.pages.len() as u64).saturating_mul(header.page_bytes as u64)
    {
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
        true => Ok((file, header)),
        false => Err(wrong(path, "its pages do not follow from each other")),
    }
}

fn wrong(path: &Path, what: &str) -> EngineError {
    EngineError::Prefixes { path: path.to_owned(), what: what.to_owned() }
}
