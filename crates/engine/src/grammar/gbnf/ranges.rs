//! Sets of characters, as ranges of code points.

/// Ascending ranges, both ends included, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ranges(pub(super) Vec<(u32, u32)>);

const LAST: u32 = char::MAX as u32;
const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);

impl Ranges {
    pub(super) fn new(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges.into_iter().filter(|(first, last)| first <= last) {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub(super) fn one(character: char) -> Self {
        Self(vec![(character as u32, character as u32)])
    }

    pub(super) fn all() -> Self {
        Self(Vec::new()).negated()
    }

    /// Every other character.
    pub(super) fn negated(&self) -> Self {
        let taken = Self::new(self.0.iter().copied().chain([SURROGATES]).collect());
        let mut rest = Vec::new();
        let mut next = 0;
        for (first, last) in taken.0 {
            if next < first {
                rest.push((next, first - 1));
            }
            next = last.saturating_add(1);
        }
        if next <= LAST {
            rest.push((next, LAST));
        }
        Self(rest)
    }

    /// Adds `other`'s characters. Whether that made a difference.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        if other.0.is_empty() || *self == *other {
            return false;
        }
        let merged = Self::new(self.0.iter().chain(&other.0).copied().collect());
        let changed = merged != *self;
        *self = merged;
        changed
    }

    pub(super) fn intersects(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
    }

    /// The bytes that these characters begin with in UTF-8.
    pub(super) fn first_bytes(&self) -> [u32; 8] {
        let mut set = [0_u32; 8];
        for &(first, last) in &self.0 {
            for byte in first_byte(first)..=first_byte(last) {
                set[usize::from(byte) / 32] |= 1 << (byte % 32);
            }
        }
        set
    }

    /// As a class of a regular expression.
    pub(super) fn regex(&self) -> String {
        let ranges = self.0.iter().map(|(first, last)| format!("\\x{{{first:X}}}-\\x{{{last:X}}}"));
        format!("[{}]", ranges.collect::<String>())
    }
}

fn first_byte(code: u32) -> u8 {
    let mut bytes = [0; 4];
    // Surrogates are in no set; a range around them would still be in order.
    char::from_u32(code).unwrap_or('\u{FFFD}').encode_utf8(&mut bytes);
    bytes[0]
}
