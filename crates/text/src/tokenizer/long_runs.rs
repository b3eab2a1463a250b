//! Meta's reference tokenizer cuts its input before tokenizing: after 400,000 characters, and inside every run of more
//! than 25,000 characters that are all white space or all not. The cuts show in the tokens, so the same files give the
//! same tokens only if they are made here, too.

use std::ops::Range;

const MAX_CHARACTERS: usize = 400_000;
const MAX_RUN: usize = 25_000;

/// The byte ranges `text` is cut into; one, for any ordinary text.
pub(super) fn cuts(text: &str) -> Vec<Range<usize>> {
    if text.len() <= MAX_RUN {
        return std::iter::once(0..text.len()).collect();
    }
    let mut cuts = Vec::new();
    let (mut start, mut characters, mut run, mut in_space) = (0, 0, 0, false);
    for (at, c) in text.char_indices() {
        let is_space = is_python_space(c);
        let full = characters == MAX_CHARACTERS;
        if full {
            characters = 0;
            run = 0;
        }
        characters += 1;
        run = if is_space == in_space || run == 0 { run + 1 } else { 1 };
        in_space = is_space;
        if full || run > MAX_RUN {
            cuts.push(start..at);
            start = at;
            run = 1;
        }
    }
    cuts.push(start..text.len());
    cuts
}

/// Python's `str.isspace`: Unicode's white space and four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_and_long_texts_are_cut() {
        let ends = |text: &str| cuts(text).into_iter().map(|cut| cut.end).collect::<Vec<_>>();
        assert_eq!(ends("short"), [5]);
        assert_eq!(ends(&"a".repeat(25_000)), [25_000]);
        assert_eq!(ends(&"é".repeat(25_001)), [50_000, 50_002]);
        assert_eq!(ends(&("x".repeat(20_000) + &" ".repeat(25_001) + "y")), [45_000, 45_002]);
        assert_eq!(ends(&"ab ".repeat(150_000)), [400_000, 450_000]);
    }
}
