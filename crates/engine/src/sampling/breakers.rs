//! Sequence breakers for DRY: strings that end a repetition, resolved to token sequences. A string
//! such as `":"` may be a token, lie inside a longer one (`"):"`), or begin at the end of one token
//! and go on in the next, so the whole vocabulary is searched once for each set of breakers; the
//! result is shared by every sequence that uses the set.

use std::collections::{BTreeMap, BTreeSet};

/// The longest breaker, in bytes. Longer ones would never match by accident of tokenization, and
/// every one costs a pass over the vocabulary. (llama.cpp cuts them to this length; here they are
/// refused by the settings' validation.)
pub(super) const LONGEST_BREAKER: usize = 40;
/// Tokens of a breaker after its first that are compared.
const LONGEST_TAIL: usize = 20;

/// Token sequences that end a repetition: a first token and what must follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceBreakers(BTreeMap<u32, BTreeSet<Vec<u32>>>);

impl SequenceBreakers {
    /// Breakers given as token sequences. Empty ones are ignored.
    pub fn from_tokens(sequences: impl IntoIterator<Item = Vec<u32>>) -> Self {
        let mut breakers = Self::default();
        for mut sequence in sequences.into_iter().filter(|sequence| !sequence.is_empty()) {
            let tail = sequence.split_off(1);
            breakers.insert(sequence[0], tail);
        }
        breakers
    }

    /// Breakers given as strings. `vocabulary` yields every token with the bytes it stands for and
    /// `encode` tokenizes ordinary text, without special tokens. A token that contains a breaker
    /// breaks by itself; one that ends in the beginning of a breaker breaks if the tokens of the
    /// rest follow. Splits inside a UTF-8 character are not looked for: `encode` takes text.
    pub fn from_strings<T: AsRef<[u8]>>(
        strings: &[String],
        vocabulary: impl IntoIterator<Item = (u32, T)>,
        mut encode: impl FnMut(&str) -> Vec<u32>,
    ) -> Self {
        let mut breakers = Self::default();
        let strings: Vec<&str> = strings.iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
        for (token, bytes) in vocabulary {
            let bytes = bytes.as_ref();
            for string in &strings {
                if bytes.windows(string.len()).any(|window| window == string.as_bytes()) {
                    breakers.insert(token, Vec::new());
                    continue;
                }
                let splits = (1..string.len()).filter(|&split| string.is_char_boundary(split));
                for split in splits.filter(|&split| bytes.ends_with(&string.as_bytes()[..split])) {
                    breakers.insert(token, encode(&string[split..]));
                }
            }
        }
        breakers
    }

    fn insert(&mut self, head: u32, mut tail: Vec<u32>) {
        tail.truncate(LONGEST_TAIL);
        self.0.entry(head).or_default().insert(tail);
    }

    /// Whether `token` is a breaker by itself.
    pub(super) fn is_breaker(&self, token: u32) -> bool {
        self.0.get(&token).is_some_and(|tails| tails.contains(&[] as &[u32]))
    }

    /// How many tokens came after the last breaker, or all of them if there is none.
    pub(super) fn tokens_since_last(&self, latest_first: &[u32]) -> usize {
        let after_breaker = |(age, head): (usize, &u32)| {
            let followed = |tail: &&Vec<u32>| {
                tail.len() <= age && tail.iter().eq(latest_first[age - tail.len()..age].iter().rev())
            };
            let longest = self.0.get(head)?.iter().filter(followed).map(Vec::len).max()?;
            Some(age - longest)
        };
        latest_first.iter().enumerate().find_map(after_breaker).unwrap_or(latest_first.len())
    }
}

#[cfg(test)]
mod tests {
    use super::SequenceBreakers;

    /// One token per byte, and a few longer ones from 256.
    fn vocabulary() -> Vec<(u32, Vec<u8>)> {
        let long = ["a\nb", "END", "the E", "q\u{e9}"].map(|text| text.as_bytes().to_vec());
        let bytes = (0..=255).map(|byte| vec![byte]);
        (0..).zip(bytes.chain(long)).collect()
    }

    fn breakers(strings: &[&str]) -> SequenceBreakers {
        let strings: Vec<String> = strings.iter().map(|&string| string.to_owned()).collect();
        SequenceBreakers::from_strings(&strings, vocabulary(), |text| text.bytes().map(u32::from).collect())
    }

    #[test]
    fn strings_are_found_inside_tokens_and_across_them() {
        let expected: Vec<Vec<u32>> = vec![vec![10], vec![256]];
        assert_eq!(breakers(&["\n"]), SequenceBreakers::from_tokens(expected));
        let (e, n, d) = (u32::from(b'E'), u32::from(b'N'), u32::from(b'D'));
        let expected = vec![vec![e, n, d], vec![257], vec![258, n, d]];
        assert_eq!(breakers(&["END"]), SequenceBreakers::from_tokens(expected));
        assert_eq!(breakers(&[""]), SequenceBreakers::default());
    }

    #[test]
    fn characters_of_several_bytes_are_not_split() {
        assert_eq!(breakers(&["\u{e9}"]), SequenceBreakers::from_tokens([vec![259]]));
    }

    #[test]
    fn counts_the_tokens_after_the_last_breaker() {
        let breakers = SequenceBreakers::from_tokens([vec![7], vec![8, 9], vec![8, 9, 5], vec![]]);
        for (latest_first, expected) in [
            (&[1, 2, 3][..], 3),
            (&[1, 2, 7, 3, 7][..], 2),
            (&[7, 1][..], 0),
            (&[1, 9, 8, 2][..], 1),
            (&[1, 5, 9, 8, 2][..], 1),
            (&[9, 8][..], 0),
            (&[8, 1][..], 2),
            (&[1, 8, 9][..], 3),
        ] {
            assert_eq!(breakers.tokens_since_last(latest_first), expected, "{latest_first:?}");
        }
        assert!(breakers.is_breaker(7) && !breakers.is_breaker(8));
    }
}
