//! `docs/development.md` against the commands themselves.

use clap::CommandFactory as _;
use std::fs;
use xtask::commands::Arguments;
use xtask::workspace;

#[test]
fn the_page_shows_the_help_as_it_is() {
    let text =
        fs::read_to_string(workspace::root().join("docs/development.md")).expect("docs/development.md");
    let help = Arguments::command().term_width(100).render_help().to_string();
    let block = format!("```text\n{}\n```", help.trim_end());
    assert!(text.contains(&block), "docs/development.md must contain this:\n{block}");
}

#[test]
fn the_page_names_every_command_in_use() {
    let text =
        fs::read_to_string(workspace::root().join("docs/development.md")).expect("docs/development.md");
    for task in Arguments::command().get_subcommands() {
        let typed = format!("`cargo xtask {}", task.get_name());
        assert!(text.contains(&typed), "docs/development.md does not say when to use {typed}`");
    }
}
