//! Unicode character classes for the pre-tokenizers. The reference tokenizers split text with regexes over general
//! categories (`\p{L}`, `\p{N}`, ...); the hand-written splitters here ask the same question of a table, built once
//! from the very class data the Rust regex engine uses, so that both sides always speak of one Unicode version.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// `\p{L}`: letters.
pub(crate) const LETTER: u8 = 1;
/// `\p{N}`: numbers.
pub(crate) const NUMBER: u8 = 1 << 1;
/// `\s`: the White_Space property.
pub(crate) const SPACE: u8 = 1 << 2;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`: what may stand in the upper-case part of a word (o200k).
pub(crate) const UPPER: u8 = 1 << 3;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`: what may stand in the lower-case part of a word (o200k).
pub(crate) const LOWER: u8 = 1 << 4;
/// `\p{P}` and the ASCII symbols `$+<=>^~|` (llama.cpp's "default" pre-tokenizer).
pub(crate) const PUNCTUATION: u8 = 1 << 5;

/// The regex class each bit stands for: the one definition, which tests compare with a regex engine.
const DEFINITIONS: [(u8, &str); 5] = [
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    (PUNCTUATION, r"[\p{P}$+<=>^~|]"),
];

/// Planes 0 and 1 hold nearly all text and get a flat table; the rest is a short list of ranges.
const FLAT: usize = 0x2_0000;

struct Classes {
    flat: Vec<u8>,
    sparse: Vec<(u32, u32, u8)>,
}

impl Classes {
    fn build() -> Self {
        let mut classes = Self { flat: vec![0; FLAT], sparse: Vec::new() };
        for (bit, pattern) in DEFINITIONS {
            for (first, last) in ranges(pattern) {
                classes.mark(first, last, bit);
            }
        }
        for code in 0..=0x3000u32 {
            if char::from_u32(code).is_some_and(char::is_whitespace) {
                classes.mark(code, code, SPACE);
            }
        }
        classes
    }

    fn mark(&mut self, first: u32, last: u32, bit: u8) {
        for class in self.flat.iter_mut().take(last as usize + 1).skip(first as usize) {
            *class |= bit;
        }
        if last as usize >= FLAT {
            self.sparse.push((first, last, bit));
        }
    }
}

/// The code point ranges of a regex class. The patterns are the constants above, so a failure to parse one is a
/// bug that the tests of this module would show; an empty list keeps this path free of panics.
fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    match regex_syntax::parse(pattern).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.ranges().iter().map(|range| (range.start() as u32, range.end() as u32)).collect()
        }
        _ => Vec::new(),
    }
}

/// The class bits of `c`.
pub(crate) fn classes_of(c: char) -> u8 {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    let classes = CLASSES.get_or_init(Classes::build);
    let code = c as u32;
    match classes.flat.get(code as usize) {
        Some(&bits) => bits,
        None => classes
            .sparse
            .iter()
            .filter(|(first, last, _)| (*first..=*last).contains(&code))
            .fold(0, |bits, (_, _, bit)| bits | bit),
    }
}

/// Whether `c` has any of the class `bits`.
pub(crate) fn is(c: char, bits: u8) -> bool {
    classes_of(c) & bits != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every one of the 1,112,064 characters, against a regex engine.
    #[test]
    fn every_character_has_the_classes_the_regex_engine_gives_it() {
        let everything: String = (0..=0x10_FFFF).filter_map(char::from_u32).collect();
        for (bit, pattern) in DEFINITIONS.into_iter().chain([(SPACE, r"\s")]) {
            let expected = fancy_regex::Regex::new(pattern).unwrap();
            let expected: String =
                expected.find_iter(&everything).map(|found| found.unwrap().as_str()).collect();
            let ours: String = everything.chars().filter(|&c| is(c, bit)).collect();
            assert!(ours == expected, "{pattern} differs");
        }
    }
}
