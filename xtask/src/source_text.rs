//! Rust source split into code and comments, line by line.
//!
//! The house rules ask questions such as "does this `unsafe` have a reason above it" and "does this crate print", of
//! every file including the bodies of macros, which a syntax tree leaves as tokens. Telling code, comments and strings
//! apart is all they need, so this is a scanner and not a parser.

/// One line of a source file, its two kinds of content apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The code: comments are gone, string and character contents blanked.
    pub code: String,
    /// The text of the comments on the line.
    pub comment: String,
}

/// What the scanner is inside of.
#[derive(Clone, Copy)]
enum State {
    Code,
    LineComment,
    /// Nesting depth.
    BlockComment(u32),
    String,
    /// Number of `#` that close it.
    RawString(usize),
}

/// Splits `source` into lines of code and comment.
#[must_use]
pub fn lines(source: &str) -> Vec<Line> {
    let chars: Vec<char> = source.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        if chars[at] == '\n' {
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            lines.push(Line::default());
            at += 1;
            continue;
        }
        let last = lines.len() - 1;
        let (next, taken) = step(state, &chars[at..], &mut lines[last]);
        state = next;
        at += taken;
    }
    lines
}

/// Takes one token of at least one character off `rest`; returns the state after it and its length.
fn step(state: State, rest: &[char], line: &mut Line) -> (State, usize) {
    let starts = |text: &str| text.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    match state {
        State::Code => code_step(rest, line),
        State::LineComment => {
            line.comment.push(rest[0]);
            (state, 1)
        }
        State::BlockComment(depth) if starts("*/") => {
            (if depth == 1 { State::Code } else { State::BlockComment(depth - 1) }, 2)
        }
        State::BlockComment(depth) if starts("/*") => (State::BlockComment(depth + 1), 2),
        State::BlockComment(_) => {
            line.comment.push(rest[0]);
            (state, 1)
        }
        // An escape hides the quote after it; the newline of a continued line is left for the caller to count.
        State::String if rest[0] == '\\' => {
            (state, if rest.get(1).is_some_and(|c| *c != '\n') { 2 } else { 1 })
        }
        State::String if rest[0] == '"' => {
            line.code.push('"');
            (State::Code, 1)
        }
        State::RawString(hashes)
            if rest[0] == '"' && rest.iter().skip(1).take_while(|c| **c == '#').count() >= hashes =>
        {
            line.code.push('"');
            (State::Code, 1 + hashes)
        }
        State::String | State::RawString(_) => (state, 1),
    }
}

fn code_step(rest: &[char], line: &mut Line) -> (State, usize) {
    let after_word = line.code.chars().last().is_some_and(|c| c.is_alphanumeric() || c == '_');
    match rest {
        ['/', '/', ..] => (State::LineComment, 2),
        ['/', '*', ..] => (State::BlockComment(1), 2),
        ['"', ..] => {
            line.code.push('"');
            (State::String, 1)
        }
        ['r', '"' | '#', ..] | ['b', 'r', '"' | '#', ..] if !after_word => {
            let prefix = if rest[0] == 'b' { 2 } else { 1 };
            let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
            if rest.get(prefix + hashes) == Some(&'"') {
                line.code.push('"');
                (State::RawString(hashes), prefix + hashes + 1)
            } else {
                line.code.push(rest[0]);
                (State::Code, 1)
            }
        }
        // A character literal; anything else that opens with a quote is a lifetime.
        ['\'', '\\', _, tail @ ..] => {
            let length = tail.iter().position(|c| *c == '\'').map_or(3, |end| 4 + end);
            line.code.push_str("' '");
            (State::Code, length)
        }
        ['\'', c, '\'', ..] if *c != '\n' => {
            line.code.push_str("' '");
            (State::Code, 3)
        }
        _ => {
            line.code.push(rest[0]);
            (State::Code, 1)
        }
    }
}

/// The lines of `lines` before the unit tests: the house keeps them in one `#[cfg(test)] mod` at a file's end.
#[must_use]
pub fn without_tests(lines: &[Line]) -> &[Line] {
    let tests = lines.windows(2).position(|pair| {
        pair[0].code.trim() == "#[cfg(test)]"
            && pair[1].code.trim_start().trim_start_matches("pub ").starts_with("mod ")
    });
    &lines[..tests.unwrap_or(lines.len())]
}

/// Whether `word` stands in `code` as a whole word.
#[must_use]
pub fn has_word(code: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(part_of_word) && !code[at + word.len()..].starts_with(part_of_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, code: &[&str], comments: &[&str]) {
        let lines = lines(source);
        assert_eq!(lines.iter().map(|line| line.code.as_str()).collect::<Vec<_>>(), code);
        assert_eq!(lines.iter().map(|line| line.comment.as_str()).collect::<Vec<_>>(), comments);
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        check("let a = 1; // unsafe\nb();", &["let a = 1; ", "b();"], &[" unsafe", ""]);
        check("a /* x /* y */\n z */ b", &["a ", " b"], &[" x  y ", " z "]);
        check(r#"p("unsafe \" // {"); q"#, &[r#"p(""); q"#], &[""]);
        check("p(r#\"a\" unsafe\n\"#); q", &["p(\"", "\"); q"], &["", ""]);
        check("f('\"', '\\'', '\\u{1F600}', b'\\n') // c", &["f(' ', ' ', ' ', b' ') "], &[" c"]);
        check("fn f<'a>(x: &'a str) {}", &["fn f<'a>(x: &'a str) {}"], &[""]);
        check("\"one \\\n two\"; three", &["\"", "\"; three"], &["", ""]);
        check("let r#type = for_r\"x\";", &["let r#type = for_r\"\";"], &[""]);
    }

    #[test]
    fn unit_tests_are_cut_off() {
        let all = lines("code();\n#[cfg(test)]\nmod tests {\n    println!();\n}\n");
        assert_eq!(without_tests(&all).len(), 1);
        let none = lines("#[cfg(test)]\nuse x;\ncode();");
        assert_eq!(without_tests(&none).len(), 3);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("not_unsafe(unsafety)", "unsafe"));
    }
}
