//! Marking what must not be read as control tokens. A mark is a private-use character, chosen because it occurs
//! nowhere in the conversation or the template; it stands behind an untrusted character. Values without a spelling of
//! a control token, or a piece of one at either end, are left exactly as they are, so templates may compare, split
//! and trim them as they like.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::tokenizer::Tokenizer;

/// Private-use characters a mark is chosen from.
const CANDIDATES: std::ops::RangeInclusive<char> = '\u{E000}'..='\u{F8FF}';

/// Marks the values of one conversation.
pub(super) struct Marker {
    /// Control spellings, sorted.
    spellings: Vec<String>,
    longest: usize,
    /// Bytes that end a spelling: a value without one near its start cannot begin with the end of a spelling.
    last_bytes: HashSet<u8>,
    mark: char,
}

impl Marker {
    /// A marker whose mark occurs neither in `values` nor in the template's `source`.
    pub(super) fn new(tokenizer: &Tokenizer, values: &Map<String, Value>, source: &str) -> Self {
        let mut spellings: Vec<String> = tokenizer.control_spellings().map(str::to_owned).collect();
        spellings.sort_unstable();
        let mut used = HashSet::new();
        note_candidates(source, &mut used);
        for (name, value) in values {
            note_candidates(name, &mut used);
            visit_texts(value, &mut |text| note_candidates(text, &mut used));
        }
        // A conversation that uses all 6,400 private-use characters gets one from a supplementary plane.
        let mark = CANDIDATES.rev().find(|c| !used.contains(c)).unwrap_or('\u{10FFFD}');
        Self {
            longest: spellings.iter().map(String::len).max().unwrap_or(0),
            last_bytes: spellings.iter().filter_map(|spelling| spelling.bytes().next_back()).collect(),
            spellings,
            mark,
        }
    }

    /// The mark.
    pub(super) fn character(&self) -> char {
        self.mark
    }

    /// Marks every text in `value`, keys included.
    pub(super) fn mark_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(marked) = self.marked(text) {
                    *text = marked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark_value(item)),
            Value::Object(map) => {
                let entries = std::mem::take(map);
                map.extend(entries.into_iter().map(|(name, mut value)| {
                    self.mark_value(&mut value);
                    (self.marked(&name).unwrap_or(name), value)
                }));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// `text` with marks, if it needs any.
    fn marked(&self, text: &str) -> Option<String> {
        let mut untrusted: Vec<usize> =
            text.char_indices().filter(|(at, _)| self.spelled_at(&text[*at..])).map(|(at, _)| at).collect();
        let trimmed = text.trim();
        let start = text.len() - text.trim_start().len();
        if self.begins_with_an_end(trimmed) {
            untrusted.push(start);
        }
        if self.ends_with_a_beginning(trimmed) {
            let last = trimmed.char_indices().next_back().map_or(0, |(at, _)| at);
            untrusted.push(start + last);
        }
        if untrusted.is_empty() {
            return None;
        }
        untrusted.sort_unstable();
        untrusted.dedup();
        let mut marked = String::with_capacity(text.len() + 3 * untrusted.len());
        let mut done = 0;
        for at in untrusted {
            let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
            marked.push_str(&text[done..end]);
            marked.push(self.mark);
            done = end;
        }
        marked.push_str(&text[done..]);
        Some(marked)
    }

    /// Whether a control spelling begins where `rest` begins: one of those that sort up to `rest` and share its
    /// beginning, which are found by narrowing byte by byte.
    fn spelled_at(&self, rest: &str) -> bool {
        let mut candidates = &self.spellings[..];
        for (depth, byte) in rest.bytes().enumerate() {
            let from = candidates.partition_point(|spelling| spelling.as_bytes()[depth] < byte);
            let to = candidates.partition_point(|spelling| spelling.as_bytes()[depth] <= byte);
            candidates = &candidates[from..to];
            match candidates.first() {
                None => return false,
                Some(first) if first.len() == depth + 1 => return true,
                Some(_) => {}
            }
        }
        false
    }

    /// Whether `text` ends with the first characters of a spelling that other text could complete.
    fn ends_with_a_beginning(&self, text: &str) -> bool {
        let window = text.len().saturating_sub(self.longest.saturating_sub(1));
        text.char_indices().rev().take_while(|(at, _)| *at >= window).any(|(at, _)| {
            let tail = &text[at..];
            let next = self.spellings.partition_point(|spelling| spelling.as_str() < tail);
            self.spellings.get(next).is_some_and(|spelling| spelling.starts_with(tail))
        })
    }

    /// Whether `text` begins with the last characters of a spelling that other text could have begun.
    fn begins_with_an_end(&self, text: &str) -> bool {
        if !text.bytes().take(self.longest).any(|byte| self.last_bytes.contains(&byte)) {
            return false;
        }
        self.spellings
            .iter()
            .any(|spelling| spelling.char_indices().skip(1).any(|(at, _)| text.starts_with(&spelling[at..])))
    }
}

fn note_candidates(text: &str, used: &mut HashSet<char>) {
    used.extend(text.chars().filter(|c| CANDIDATES.contains(c)));
}

fn visit_texts(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| visit_texts(item, visit)),
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            visit(name);
            visit_texts(value, visit);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
