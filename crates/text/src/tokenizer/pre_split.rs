//! Pre-tokenizers: cutting text into the pieces inside which byte pairs may merge. Each model family was trained
//! with one regex; a piece border in the wrong place gives tokens the model has rarely seen. The regexes need
//! look-ahead and Unicode classes, which makes regex engines slow or backtracking, so the splitters here are written
//! by hand, linear in the text, and tested differentially against the regexes (`tests/behaviour/differential.rs`).

use alti_formats::tokenizer::PreTokenizer;

use super::unicode::{LETTER, LOWER, NUMBER, PUNCTUATION, SPACE, UPPER, is};

/// One pass over a piece; a pre-tokenizer is a sequence of them, each cutting what the one before left.
#[derive(Clone, Copy)]
enum Stage {
    Gpt2,
    Llama3,
    Llama4,
    EachNumber,
    NumberRuns,
    PunctuationRuns,
    DigitTriples,
}

/// Calls `piece` with every piece that `kind` cuts `text` into, in order; together they are the text.
pub fn pre_tokenize(kind: PreTokenizer, text: &str, mut piece: impl FnMut(&str)) {
    let stages: &[Stage] = match kind {
        PreTokenizer::Gpt2 => &[Stage::Gpt2],
        PreTokenizer::Llama3 => &[Stage::Llama3],
        PreTokenizer::Llama4 => &[Stage::Llama4],
        PreTokenizer::SmolLm => &[Stage::EachNumber, Stage::Gpt2],
        PreTokenizer::LlamaCppDefault => {
            &[Stage::PunctuationRuns, Stage::Gpt2, Stage::NumberRuns, Stage::DigitTriples]
        }
    };
    run_stages(stages, text, &mut piece);
}

fn run_stages(stages: &[Stage], mut text: &str, piece: &mut dyn FnMut(&str)) {
    let Some((stage, later)) = stages.split_first() else {
        return piece(text);
    };
    while !text.is_empty() {
        let (head, tail) = text.split_at(stage.first_piece(text));
        run_stages(later, head, piece);
        text = tail;
    }
}

impl Stage {
    /// Length in bytes of the first piece of a text that is not empty; at least one character.
    fn first_piece(self, text: &str) -> usize {
        match self {
            Self::Gpt2 => gpt2(text),
            Self::Llama3 => llama3(text),
            Self::Llama4 => llama4(text),
            Self::EachNumber => match first(text) {
                Some(c) if is(c, NUMBER) => c.len_utf8(),
                _ => run(text, |c| !is(c, NUMBER)),
            },
            Self::NumberRuns => run_of_same(text, NUMBER),
            Self::PunctuationRuns => run_of_same(text, PUNCTUATION),
            Self::DigitTriples => digit_triple(text),
        }
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(text: &str) -> usize {
    let contracted = contraction(text, false);
    if contracted > 0 {
        return contracted;
    }
    let word = text.strip_prefix(' ').unwrap_or(text);
    let space = text.len() - word.len();
    match first(word) {
        Some(c) if is(c, LETTER) => space + run(word, |c| is(c, LETTER)),
        Some(c) if is(c, NUMBER) => space + run(word, |c| is(c, NUMBER)),
        Some(c) if !is(c, SPACE) => space + run(word, is_other),
        _ => whitespace(text),
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn llama3(text: &str) -> usize {
    let contracted = contraction(text, true);
    if contracted > 0 {
        return contracted;
    }
    let lead = word_lead(text);
    let letters = run(&text[lead..], |c| is(c, LETTER));
    if letters > 0 {
        return lead + letters;
    }
    numbers_or_others(text, &['\r', '\n'])
}

/// `L?U*W+C?|L?U+W*C?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+` with L = `[^\r\n\p{L}\p{N}]`,
/// U and W the classes `UPPER` and `LOWER`, C a contraction in any case.
fn llama4(text: &str) -> usize {
    let lead = word_lead(text);
    let starts: &[usize] = if lead > 0 { &[lead, 0] } else { &[0] };
    let word = starts
        .iter()
        .map(|&start| (start, ending_in_lower_case(&text[start..])))
        .chain(starts.iter().map(|&start| (start, run(&text[start..], |c| is(c, UPPER)))))
        .find(|(_, length)| *length > 0);
    match word {
        Some((start, length)) => {
            let end = start + length;
            end + contraction(&text[end..], true)
        }
        None => numbers_or_others(text, &['\r', '\n', '/']),
    }
}

/// `U*W+`: the upper-case part is greedy; where no lower-case character follows it, it gives back what it took up to
/// and including its last character that belongs to both classes (marks, modifiers, letters without case).
fn ending_in_lower_case(text: &str) -> usize {
    let upper = run(text, |c| is(c, UPPER));
    let lower = run(&text[upper..], |c| is(c, LOWER));
    if lower > 0 {
        return upper + lower;
    }
    text[..upper].char_indices().rev().find(|(_, c)| is(*c, LOWER)).map_or(0, |(at, c)| at + c.len_utf8())
}

/// What Llama 3's and 4's patterns share after words: numbers in groups, other characters with the line breaks (and
/// for Llama 4 slashes) behind them, white space up to its last line break, white space.
fn numbers_or_others(text: &str, tail: &[char]) -> usize {
    let number = text.chars().take(3).take_while(|&c| is(c, NUMBER)).map(char::len_utf8).sum();
    if number > 0 {
        return number;
    }
    let rest = text.strip_prefix(' ').unwrap_or(text);
    let others = run(rest, is_other);
    if others > 0 {
        return text.len() - rest.len() + others + run(&rest[others..], |c| tail.contains(&c));
    }
    let spaces = run(text, |c| is(c, SPACE));
    match text[..spaces].rfind(['\r', '\n']) {
        Some(line_break) => line_break + 1,
        None => whitespace(text),
    }
}

/// `\s+(?!\S)|\s+`: all white space, but for its last character where a word follows.
fn whitespace(text: &str) -> usize {
    let spaces = run(text, |c| is(c, SPACE));
    let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
    if spaces < text.len() && spaces > last { spaces - last } else { spaces }
}

/// `[^\r\n\p{L}\p{N}]?` in front of a word: its length in bytes, or 0.
fn word_lead(text: &str) -> usize {
    first(text).filter(|&c| c != '\r' && c != '\n' && !is(c, LETTER | NUMBER)).map_or(0, char::len_utf8)
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, where asked in any case: its length in bytes, or 0. Unicode case folding makes the long
/// s (U+017F) an `s` too.
fn contraction(text: &str, any_case: bool) -> usize {
    let mut chars = text.chars();
    if chars.next() != Some('\'') {
        return 0;
    }
    let mut fold = || match chars.next()? {
        'ſ' if any_case => Some(('s', 2)),
        c if any_case => Some((c.to_ascii_lowercase(), c.len_utf8())),
        c => Some((c, c.len_utf8())),
    };
    match fold() {
        Some(('s' | 't' | 'm' | 'd', length)) => 1 + length,
        Some(('r' | 'v', _)) if matches!(fold(), Some(('e', _))) => 3,
        Some(('l', _)) if matches!(fold(), Some(('l', _))) => 3,
        _ => 0,
    }
}

/// `[0-9][0-9][0-9]` on its own, else all up to the next such place.
fn digit_triple(text: &str) -> usize {
    let triple = |window: &[u8]| window.iter().all(u8::is_ascii_digit);
    match text.as_bytes().windows(3).position(triple) {
        Some(0) => 3,
        Some(at) => at,
        None => text.len(),
    }
}

fn first(text: &str) -> Option<char> {
    text.chars().next()
}

/// `[^\s\p{L}\p{N}]`
fn is_other(c: char) -> bool {
    !is(c, SPACE | LETTER | NUMBER)
}

/// Length in bytes of the longest prefix of `text` whose characters all satisfy `belongs`.
fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// The longest prefix that is all in a class, or all outside it.
fn run_of_same(text: &str, bits: u8) -> usize {
    let inside = first(text).is_some_and(|c| is(c, bits));
    run(text, |c| is(c, bits) == inside)
}
