//! Compiled grammars, kept for the next request with the same source. A parser finds the states of its lexer as it goes
//! along; parsers that are given back bring what they found, so that a grammar in use becomes fast. Every answer has a
//! parser of its own: nobody waits for another's lock while masks are computed.

use super::GrammarSource;
use llguidance::TokenParser;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of all cached parsers, by the measure of their lexers.
const MAX_BYTES: usize = 64 << 20;
/// A parser whose lexer has grown beyond this is not kept.
const MAX_PARSER_BYTES: usize = 8 << 20;
/// Sources whose parsers are kept.
const MAX_ENTRIES: usize = 64;

#[derive(Default)]
pub(super) struct Cache {
    /// The most recently used last.
    entries: Mutex<Vec<Entry>>,
}

struct Entry {
    source: Arc<GrammarSource>,
    /// At the beginning of a text; never empty.
    parsers: Vec<Kept>,
}

struct Kept {
    parser: TokenParser,
    bytes: usize,
}

impl Kept {
    fn new(parser: TokenParser) -> Self {
        let bytes = parser.parser.lexer_stats().num_bytes;
        Self { parser, bytes }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        self.source.text().len() + self.parsers.iter().map(|kept| kept.bytes).sum::<usize>()
    }
}

impl Cache {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Nothing in here is left half done where it could panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A parser for `source` at the beginning of a text, if there is one.
    pub(super) fn take(&self, source: &GrammarSource) -> Option<TokenParser> {
        let mut entries = self.entries();
        let at = entries.iter().position(|entry| *entry.source == *source)?;
        let mut entry = entries.remove(at);
        let parser = if entry.parsers.len() > 1 {
            entry.parsers.pop().map(|kept| kept.parser)
        } else {
            entry.parsers.first().map(|kept| kept.parser.deep_clone())
        };
        entries.push(entry);
        parser
    }

    /// Keeps a copy of a parser at the beginning of a text.
    pub(super) fn insert(&self, source: &GrammarSource, parser: &TokenParser) {
        let kept = Kept::new(parser.deep_clone());
        if kept.bytes > MAX_PARSER_BYTES {
            return;
        }
        let mut entries = self.entries();
        if entries.iter().all(|entry| *entry.source != *source) {
            entries.push(Entry { source: Arc::new(source.clone()), parsers: vec![kept] });
            make_room(&mut entries);
        }
    }

    /// Takes a parser back that somebody is done with. It is kept if its grammar still is.
    pub(super) fn give_back(&self, source: &GrammarSource, mut parser: TokenParser) {
        if parser.reset().is_err() {
            return;
        }
        let kept = Kept::new(parser);
        if kept.bytes > MAX_PARSER_BYTES {
            return;
        }
        let mut entries = self.entries();
        if let Some(entry) = entries.iter_mut().find(|entry| *entry.source == *source) {
            entry.parsers.push(kept);
            // The one that is copied when the others are out is the one that knows most.
            let last = entry.parsers.len() - 1;
            if entry.parsers[last].bytes > entry.parsers[0].bytes {
                entry.parsers.swap(0, last);
            }
            make_room(&mut entries);
        }
    }
}

fn make_room(entries: &mut Vec<Entry>) {
    let mut bytes: usize = entries.iter().map(Entry::bytes).sum();
    while entries.len() > MAX_ENTRIES || (bytes > MAX_BYTES && !entries.is_empty()) {
        // Copies go before grammars do.
        match entries.iter_mut().find(|entry| entry.parsers.len() > 1).filter(|_| bytes > MAX_BYTES) {
            Some(entry) => bytes -= entry.parsers.pop().map_or(0, |kept| kept.bytes),
            None => bytes -= entries.remove(0).bytes(),
        }
    }
}
