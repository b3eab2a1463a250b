//! House rules that a compiler does not check, as functions from a file's text to what breaks them.
//! `xtask/tests/house_rules.rs` runs them over the whole checkout.

use crate::source_text::{Line, has_word, without_tests};

/// The longest a Rust file may be.
pub const LONGEST_FILE: usize = 800;

/// First folders of paths that exist on one person's machine only.
const PERSONAL_FOLDERS: [&str; 4] = ["home", "root", "Users", "work"];

/// Macros that speak to a terminal.
const PRINTING: [&str; 4] = ["print", "println", "eprint", "eprintln"];

/// A place that breaks a rule: the line, counted from 1, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    fn at(index: usize, message: impl Into<String>) -> Self {
        Self { line: index + 1, message: message.into() }
    }
}

/// A file longer than [`LONGEST_FILE`] holds more than one idea.
#[must_use]
pub fn length(lines: &[Line]) -> Vec<Finding> {
    let count = lines.len();
    if count <= LONGEST_FILE {
        return Vec::new();
    }
    vec![Finding::at(LONGEST_FILE, format!("{count} lines; split the file (at most {LONGEST_FILE})"))]
}

/// Every `unsafe` block, function, trait and implementation needs its reason: a `SAFETY:` comment on the line or
/// right above it, or a `# Safety` section in the documentation of a function or trait. What the functions of a trait
/// want may be said once for the whole trait, and is not repeated where they are implemented.
#[must_use]
pub fn unsafe_without_reason(lines: &[Line]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if let Some(what) = unsafe_item(lines, index)
            && !has_reason(line)
            && !reason_above(lines, index)
            && !(what == UNSAFE_FUNCTION && trait_gives_reason(lines, index))
        {
            findings.push(Finding::at(
                index,
                format!("{what} without a `SAFETY:` comment that a reader can check"),
            ));
        }
    }
    findings
}

const UNSAFE_FUNCTION: &str = "an unsafe function";

/// Whether the function on line `index` implements a trait's, or is declared in a trait that gives the reason.
fn trait_gives_reason(lines: &[Line], index: usize) -> bool {
    let indent = |line: &Line| line.code.len() - line.code.trim_start().len();
    let outer = lines[..index].iter().rposition(|line| {
        !line.code.trim().is_empty()
            && indent(line) < indent(&lines[index])
            && !line.code.trim().starts_with(['}', ')'])
    });
    outer.is_some_and(|outer| {
        let code = &lines[outer].code;
        let implements = has_word(code, "impl") && has_word(code, "for");
        implements || (has_word(code, "trait") && reason_above(lines, outer))
    })
}

/// What the word `unsafe` on line `index` introduces, if it stands there and introduces anything.
fn unsafe_item(lines: &[Line], index: usize) -> Option<&'static str> {
    let code = &lines[index].code;
    if !has_word(code, "unsafe") {
        return None;
    }
    let after = code.rsplit_once("unsafe").map_or("", |(_, after)| after).trim_start();
    let after =
        if after.is_empty() { lines.get(index + 1).map_or("", |next| next.code.trim_start()) } else { after };
    let first_word = after.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
    match first_word {
        "" if after.starts_with('{') => Some("an unsafe block"),
        // `unsafe fn(` is the type of a pointer, not a function.
        "fn" if !after["fn".len()..].trim_start().starts_with('(') => Some(UNSAFE_FUNCTION),
        "extern" => Some("an unsafe extern block or function"),
        "impl" => Some("an unsafe implementation"),
        "trait" => Some("an unsafe trait"),
        _ => None,
    }
}

fn has_reason(line: &Line) -> bool {
    line.comment.contains("SAFETY:") || line.comment.contains("# Safety")
}

/// Looks up through comments, attributes and the earlier lines of the same statement.
fn reason_above(lines: &[Line], index: usize) -> bool {
    for line in lines[..index].iter().rev() {
        if has_reason(line) {
            return true;
        }
        let code = line.code.trim();
        let comment_only = code.is_empty() && !line.comment.is_empty();
        let attribute = code.starts_with("#[") || code == ")]";
        let unfinished = code.ends_with(['=', '(', '|', '&', '+', '>']);
        if !(comment_only || attribute || unfinished) {
            return false;
        }
    }
    false
}

/// Inner crates take their settings as arguments and report through values: they neither print nor read the
/// environment, so that a server, a test and another program can use them alike. Unit tests may.
#[must_use]
pub fn speaks_or_listens(lines: &[Line]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in without_tests(lines).iter().enumerate() {
        if let Some(name) =
            PRINTING.iter().find(|name| has_word(&line.code, name) && line.code.contains(&format!("{name}!")))
        {
            findings.push(Finding::at(
                index,
                format!("`{name}!`: return it or report it as an event; the cli prints"),
            ));
        }
        if line.code.contains("env::var") {
            findings.push(Finding::at(
                index,
                "reads the environment: take it as an argument; the cli reads variables",
            ));
        }
    }
    findings
}

/// A path that exists on one machine only has no place in the repository.
#[must_use]
pub fn personal_paths(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in PERSONAL_FOLDERS {
            let path = format!("/{folder}/");
            let starts_there = |at: usize| {
                line[..at].chars().last().is_none_or(|c| c.is_whitespace() || "\"'`(=:,".contains(c))
            };
            if line.match_indices(&path).any(|(at, _)| starts_there(at)) {
                findings.push(Finding::at(index, format!("a path of somebody's machine (`{path}...`)")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_text::lines;

    #[track_caller]
    fn check(rule: fn(&[Line]) -> Vec<Finding>, source: &str, expected: &[usize]) {
        let found: Vec<usize> = rule(&lines(source)).iter().map(|finding| finding.line).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn unsafe_needs_its_reason() {
        check(unsafe_without_reason, "unsafe { f() }", &[1]);
        check(unsafe_without_reason, "// SAFETY: f needs nothing.\nunsafe { f() }", &[]);
        check(
            unsafe_without_reason,
            "// SAFETY: one line\n// and another.\nlet a =\n    unsafe { f() };",
            &[],
        );
        check(unsafe_without_reason, "// SAFETY: of another.\nlet b = 1;\nlet a = unsafe { f() };", &[3]);
        check(
            unsafe_without_reason,
            "/// # Safety\n/// AVX2.\n#[target_feature(enable = \"avx2\")]\nunsafe fn f() {}",
            &[],
        );
        check(unsafe_without_reason, "/// Fast.\nunsafe fn f() {}", &[2]);
        check(unsafe_without_reason, "unsafe impl Send for A {}", &[1]);
        check(unsafe_without_reason, "type F = unsafe fn(u8); // unsafe in a comment", &[]);
        check(unsafe_without_reason, "let s = \"unsafe {\";\n#![forbid(unsafe_code)]", &[]);
        check(unsafe_without_reason, "impl A for B {\n    fn f() {\n    }\n\n    unsafe fn g() {}\n}", &[]);
        check(unsafe_without_reason, "impl B {\n    unsafe fn g() {}\n}", &[2]);
        check(unsafe_without_reason, "/// # Safety\n/// Of all.\ntrait A {\n    unsafe fn g();\n}", &[]);
        check(unsafe_without_reason, "/// Has no reason.\ntrait A {\n    unsafe fn g();\n}", &[3]);
        check(unsafe_without_reason, "macro_rules! m { () => {\n    unsafe { f() }\n} }", &[2]);
    }

    #[test]
    fn inner_crates_are_silent() {
        check(speaks_or_listens, "println!(\"x\");\nstd::env::var(\"X\");", &[1, 2]);
        check(speaks_or_listens, "/// println!(\"in an example\")\nfn f() {}", &[]);
        check(speaks_or_listens, "f();\n#[cfg(test)]\nmod tests {\n println!();\n}", &[]);
        check(speaks_or_listens, "reprintln!();", &[]);
    }

    #[test]
    fn long_files_are_found() {
        check(length, &"\n".repeat(LONGEST_FILE - 1), &[]);
        check(length, &"\n".repeat(LONGEST_FILE), &[LONGEST_FILE + 1]);
    }

    #[test]
    fn personal_paths_are_found() {
        let home = format!("see /{}/me/x and https://example.org/{0}/me", PERSONAL_FOLDERS[0]);
        assert_eq!(personal_paths(&home).len(), 1);
        assert!(personal_paths("the home/ folder, a/home/b").is_empty());
    }
}
