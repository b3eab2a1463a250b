//! Holds the examples at the end of every command's help to what the parser takes: a flag that is renamed, or
//! never was, fails here. (`tests/model/docs.rs` runs those of the documentation.)

use crate::{Cli, commands};
use clap::{Command, CommandFactory};

/// The command lines in a help text's closing words: lines that are set in, up to a redirection or the remark
/// that follows after two spaces; of a pipe the part that is ours.
fn command_lines(help: &str) -> Vec<String> {
    let line = |line: &str| {
        let line = line.strip_prefix("  ")?;
        let line = line.split(" > ").next()?.split("  ").next()?;
        line.split(" | ").map(str::trim).find(|call| call.starts_with("alti ")).map(str::to_owned)
    };
    help.lines().filter_map(line).collect()
}

fn check(program: &Command, command: &Command) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = command_lines(&help);
    assert!(!lines.is_empty(), "{} has no examples", command.get_name());
    for line in lines {
        let words = shlex::split(&line).unwrap_or_else(|| panic!("the quotes do not match: {line}"));
        if commands::help_topic(words.iter().skip(1).map(Into::into)).is_some() {
            continue;
        }
        if let Err(error) = program.clone().try_get_matches_from(words) {
            panic!("{}: {line}\n{error}", command.get_name());
        }
    }
}

#[test]
fn examples_in_help_texts_parse() {
    let program = Cli::command();
    check(&program, &program);
    for command in program.get_subcommands() {
        check(&program, command);
    }
}

#[test]
fn the_end_of_a_line_is_not_part_of_its_command() {
    let help = "Examples:\n  alti list --catalogue       what there is\n  cat a | alti tokenize -f - | cat > b\n\nalti is\n";
    assert_eq!(command_lines(help), ["alti list --catalogue", "alti tokenize -f -"]);
}
