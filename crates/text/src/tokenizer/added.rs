//! Added tokens: the special and user-defined tokens that are found in text before anything is split or merged.
//!
//! Injection safety lives here. A control token is matched only where every one of its bytes is trusted; in a user's
//! message the same spelling is ordinary text. User-defined tokens carry no authority and are matched everywhere, as
//! the reference does.

use std::ops::Range;

use super::unicode::{LETTER, NUMBER, is};

/// A token that is matched in text by its spelling (Hugging Face's `AddedToken`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddedToken {
    /// Its id.
    pub(crate) id: u32,
    /// Its spelling.
    pub(crate) text: String,
    /// Whether it is a control token, matched only in trusted text.
    pub(crate) control: bool,
    /// Whether it swallows white space on its left.
    pub(crate) strip_left: bool,
    /// Whether it swallows white space on its right.
    pub(crate) strip_right: bool,
    /// Whether it is matched only where no word character touches it.
    pub(crate) single_word: bool,
    /// Whether it is looked for only after all tokens without this flag.
    pub(crate) normalized: bool,
}

impl AddedToken {
    /// A token with all rules off.
    pub(crate) fn plain(id: u32, text: impl Into<String>, control: bool) -> Self {
        Self {
            id,
            text: text.into(),
            control,
            strip_left: false,
            strip_right: false,
            single_word: false,
            normalized: false,
        }
    }
}

/// Part of a text: an added token, or what lies between two.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Token(u32),
    Text(&'a str),
}

/// Finds added tokens: leftmost first, the longest of those that start at one place.
#[derive(Clone, Default)]
pub(crate) struct AddedTokens {
    first_pass: Matcher,
    second_pass: Matcher,
}

impl AddedTokens {
    pub(crate) fn new(tokens: Vec<AddedToken>) -> Self {
        let (second, first) =
            tokens.into_iter().filter(|token| !token.text.is_empty()).partition(|t| t.normalized);
        Self { first_pass: Matcher::new(first), second_pass: Matcher::new(second) }
    }

    /// Every token.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.first_pass.sorted.iter().chain(&self.second_pass.sorted)
    }

    /// Cuts `text` at the added tokens. No control token is found where it would overlap an `untrusted` range
    /// (sorted, disjoint).
    pub(crate) fn split<'a>(
        &self,
        text: &'a str,
        untrusted: &[Range<usize>],
        mut part: impl FnMut(Part<'a>),
    ) {
        self.first_pass.split(text, 0..text.len(), untrusted, &mut |range, token| match token {
            Some(id) => part(Part::Token(id)),
            None => self.second_pass.split(text, range, untrusted, &mut |range, token| match token {
                Some(id) => part(Part::Token(id)),
                None => part(Part::Text(&text[range])),
            }),
        });
    }
}

/// One pass: tokens sorted by their bytes, so that the longest one at a position is found by narrowing a range.
#[derive(Clone, Default)]
struct Matcher {
    sorted: Vec<AddedToken>,
    starts: Vec<bool>,
}

impl Matcher {
    fn new(mut tokens: Vec<AddedToken>) -> Self {
        tokens.sort_by(|a, b| a.text.cmp(&b.text));
        tokens.dedup_by(|a, b| a.text == b.text);
        let mut starts = vec![false; 256];
        for token in &tokens {
            starts[usize::from(token.text.as_bytes()[0])] = true;
        }
        Self { sorted: tokens, starts }
    }

    /// Calls `part` with each match and each text between matches inside `range`.
    fn split(
        &self,
        text: &str,
        range: Range<usize>,
        untrusted: &[Range<usize>],
        part: &mut dyn FnMut(Range<usize>, Option<u32>),
    ) {
        let mut done = range.start;
        let mut at = range.start;
        while !self.sorted.is_empty() && at < range.end {
            let Some(token) = self.longest_at(text, at, range.end, untrusted) else {
                at += 1;
                continue;
            };
            let mut matched = at..at + token.text.len();
            if token.strip_left {
                matched.start = done + text[done..at].trim_end().len();
            }
            if token.strip_right {
                let rest = &text[matched.end..range.end];
                matched.end += rest.len() - rest.trim_start().len();
            }
            if done < matched.start {
                part(done..matched.start, None);
            }
            part(matched.clone(), Some(token.id));
            done = matched.end;
            at = matched.end;
        }
        if done < range.end {
            part(done..range.end, None);
        }
    }

    fn longest_at(
        &self,
        text: &str,
        at: usize,
        end: usize,
        untrusted: &[Range<usize>],
    ) -> Option<&AddedToken> {
        let rest = &text.as_bytes()[at..end];
        if !self.starts[usize::from(rest[0])] {
            return None;
        }
        let mut candidates = &self.sorted[..];
        let mut longest = None;
        for (depth, &byte) in rest.iter().enumerate() {
            let from = candidates.partition_point(|token| token.text.as_bytes()[depth] < byte);
            let to = candidates.partition_point(|token| token.text.as_bytes()[depth] <= byte);
            candidates = &candidates[from..to];
            // The shortest sorts first: a token that ends here is the first candidate, and leaves the race.
            match candidates.first() {
                None => break,
                Some(token) if token.text.len() == depth + 1 => {
                    if self.may_match(token, text, at..at + depth + 1, untrusted) {
                        longest = Some(token);
                    }
                    candidates = &candidates[1..];
                }
                Some(_) => {}
            }
        }
        longest
    }

    fn may_match(
        &self,
        token: &AddedToken,
        text: &str,
        range: Range<usize>,
        untrusted: &[Range<usize>],
    ) -> bool {
        let touches_word = || {
            let word = |c: char| c == '_' || is(c, LETTER | NUMBER);
            text[..range.start].chars().next_back().is_some_and(word) || text[range.end..].starts_with(word)
        };
        let distrusted = || {
            let first = untrusted.partition_point(|other| other.end <= range.start);
            untrusted.get(first).is_some_and(|other| other.start < range.end)
        };
        !(token.control && distrusted() || token.single_word && touches_word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(tokens: Vec<AddedToken>, text: &str, untrusted: Option<Range<usize>>) -> String {
        let mut shown = String::new();
        AddedTokens::new(tokens).split(text, untrusted.as_slice(), |part| match part {
            Part::Token(id) => shown.push_str(&format!("[{id}]")),
            Part::Text(text) => shown.push_str(&format!("'{text}'")),
        });
        shown
    }

    #[test]
    fn the_leftmost_longest_token_wins() {
        let tokens = ["<a>", "<a><b>", "b><", "<"].iter().enumerate();
        let tokens = tokens.map(|(id, text)| AddedToken::plain(id as u32, *text, false)).collect();
        assert_eq!(parts(tokens, "x<a><b><a>y<", None), "'x'[1][0]'y'[3]");
    }

    #[test]
    fn control_tokens_are_text_where_any_byte_is_untrusted() {
        let tokens = || vec![AddedToken::plain(7, "<|eot|>", true), AddedToken::plain(8, "<think>", false)];
        let text = "<|eot|><think><|eot|>";
        assert_eq!(parts(tokens(), text, None), "[7][8][7]");
        assert_eq!(parts(tokens(), text, Some(0..text.len())), "'<|eot|>'[8]'<|eot|>'");
        assert_eq!(parts(tokens(), text, Some(6..7)), "'<|eot|>'[8][7]");
        assert_eq!(parts(tokens(), text, Some(7..14)), "[7][8][7]");
    }

    #[test]
    fn white_space_and_words_are_minded_as_asked() {
        let strips = AddedToken { strip_left: true, strip_right: true, ..AddedToken::plain(1, "<m>", true) };
        assert_eq!(parts(vec![strips], "a  <m> \nb", None), "'a'[1]'b'");
        let word = AddedToken { single_word: true, ..AddedToken::plain(1, "no", true) };
        assert_eq!(parts(vec![word], "no nono no-no", None), "[1]' nono '[1]'-'[1]");
    }

    #[test]
    fn normalized_tokens_come_second() {
        let late = AddedToken { normalized: true, ..AddedToken::plain(1, "ab", false) };
        assert_eq!(parts(vec![late, AddedToken::plain(2, "b", false)], "abab", None), "'a'[2]'a'[2]");
    }
}
