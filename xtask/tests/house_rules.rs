//! The rules of the house over every file of the checkout.

use std::fs;
use std::path::Path;
use xtask::crate_map::{CRATES, UnsafeCode, Voice};
use xtask::source_rules::{self, Finding};
use xtask::{source_text, workspace};

/// Fails with every broken place at once, as `file:line: message`.
#[track_caller]
fn expect_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn report(path: &Path, findings: &[Finding]) -> Vec<String> {
    let file = workspace::relative(path);
    findings.iter().map(|finding| format!("{file}:{}: {}", finding.line, finding.message)).collect()
}

fn rust_files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<source_text::Line>)> {
    let files = workspace::files(folder).unwrap_or_default().into_iter();
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| (path.clone(), source_text::lines(&fs::read_to_string(path).unwrap())))
        .collect()
}

#[test]
fn files_are_of_a_length_one_can_read() {
    let files = rust_files(&workspace::root());
    assert!(files.len() > CRATES.len(), "found no sources");
    expect_none(
        &files
            .iter()
            .flat_map(|(path, lines)| report(path, &source_rules::length(lines)))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_unsafe_has_its_reason() {
    let files = rust_files(&workspace::root());
    let broken =
        files.iter().flat_map(|(path, lines)| report(path, &source_rules::unsafe_without_reason(lines)));
    expect_none(&broken.collect::<Vec<_>>());
}

#[test]
fn unsafe_lives_only_where_the_map_says() {
    let mut broken = Vec::new();
    for entry in CRATES {
        let source = workspace::root().join("crates").join(entry.folder).join("src");
        let root =
            if source.join("lib.rs").exists() { source.join("lib.rs") } else { source.join("main.rs") };
        let text = fs::read_to_string(&root).unwrap();
        let wanted = match entry.unsafe_code {
            UnsafeCode::Forbidden => "#![forbid(unsafe_code)]",
            UnsafeCode::Only(_) => "#![deny(unsafe_code)]",
            UnsafeCode::Documented => continue,
        };
        if !text.lines().any(|line| line == wanted) {
            broken.push(format!("{}: the crate root must say `{wanted}`", workspace::relative(&root)));
        }
        let UnsafeCode::Only(allowed) = entry.unsafe_code else { continue };
        for (path, lines) in rust_files(&source) {
            let file = path.strip_prefix(&source).unwrap().to_string_lossy().replace('\\', "/");
            let uses = lines.iter().any(|line| source_text::has_word(&line.code, "unsafe"));
            if uses && !allowed.contains(&file.as_str()) {
                broken.push(format!("{}: `unsafe` outside {allowed:?}", workspace::relative(&path)));
            }
        }
    }
    expect_none(&broken);
}

#[test]
fn inner_crates_neither_print_nor_read_the_environment() {
    let mut broken = Vec::new();
    for entry in CRATES.iter().filter(|entry| entry.voice == Voice::Silent) {
        for (path, lines) in rust_files(&workspace::root().join("crates").join(entry.folder).join("src")) {
            broken.extend(report(&path, &source_rules::speaks_or_listens(&lines)));
        }
    }
    expect_none(&broken);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let mut broken = Vec::new();
    for path in workspace::files(&workspace::root()).unwrap() {
        // What is not UTF-8 is data, and data has no paths that anyone would follow.
        if let Ok(text) = fs::read_to_string(&path) {
            broken.extend(report(&path, &source_rules::personal_paths(&text)));
        }
    }
    expect_none(&broken);
}

#[test]
fn every_crate_is_held_to_the_workspace_lints() {
    let mut broken = Vec::new();
    for path in workspace::files(&workspace::root().join("crates")).unwrap() {
        if path.file_name().is_some_and(|name| name == "Cargo.toml") {
            let text = fs::read_to_string(&path).unwrap();
            if !text.contains("[lints]\nworkspace = true") {
                broken.push(format!("{}: needs `[lints] workspace = true`", workspace::relative(&path)));
            }
        }
    }
    expect_none(&broken);
}
