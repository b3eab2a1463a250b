//! The commands of README.md and docs/*.md do what the text promises: each is run as it stands there.
//!
//! Every line of a `sh` block, and every line of a `console` block that begins with `$ `, is a command. Those
//! that call `alti`, or `cargo run --release --`, are run by a shell in a folder that has the files of
//! [`FILES`], one after the other, so that a later one finds what an earlier one wrote. What would take long
//! is shortened by [`SHORTENED`]. Commands that reach the network, want a model that is not here or change the
//! store are not run: `--help` is appended, before which the command line's parser finds every wrong flag
//! and value.

use crate::store::{self, default_model, repository};
use std::path::{Path, PathBuf};
use std::process::Output;

/// Files that commands of the documentation name, besides `model.gguf`, the default model; an empty one is a book.
const FILES: [(&str, &str); 5] = [
    ("ids.json", "[1, 2, 3]"),
    ("letter.txt", "Dear Ada, the river is high this year. Yours, Charles"),
    ("requests.csv", "time,input,output\n0,800,200\n0.4,1200,100\n1.1,500,300\n"),
    ("text.txt", ""),
    ("wiki.test.raw", ""),
];

/// What makes long commands short: subcommand, flag, value.
const SHORTENED: [(&str, &str, &str); 6] = [
    ("run", "--max-tokens", "3"),
    ("bench", "-p", "8"),
    ("bench", "-n", "2"),
    ("bench", "-r", "1"),
    ("perplexity", "--chunks", "1"),
    ("perplexity", "--context", "64"),
];

/// Words of a command that is not run, and why.
const NOT_RUN: [(&str, &str); 11] = [
    ("hf:", "reaches the Hub"),
    ("--accept-license", "accepts terms in the name of whoever runs the tests"),
    ("llama", "is a model that is not here"),
    ("--adapter", "names an adapter that is not here"),
    ("alti rm", "changes the store"),
    ("alti serve", "goes on until it is stopped"),
    ("alti keys", "changes the database"),
    ("alti usage", "changes the database"),
    ("alti backup", "wants a database"),
    ("alti restore", "changes the database"),
    ("alti completions", "may write to a shell's own folder"),
];

/// One command and where it stands.
struct Example {
    place: String,
    command: String,
}

/// The commands of a Markdown text.
fn examples(name: &str, text: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut language: Option<&str> = None;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            language = if language.is_some() { None } else { Some(fence.trim()) };
            continue;
        }
        let command = match language {
            Some("sh") => Some(line),
            Some("console") => line.strip_prefix("$ "),
            _ => None,
        };
        let Some(mut command) = command.map(str::to_owned) else { continue };
        while let Some(begin) = command.strip_suffix('\\') {
            command = format!("{begin} {}", lines.next().map_or("", |(_, next)| next.trim()));
        }
        let command = command.replace("cargo run --release -- ", "alti ");
        if command.split_whitespace().any(|word| word == "alti") {
            found.push(Example { place: format!("{name}:{}", number + 1), command });
        }
    }
    found
}

fn documents() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(repository().join("docs")).expect("there is a docs folder");
    let pages = docs.map(|entry| entry.expect("the folder can be read").path());
    let mut found: Vec<PathBuf> =
        pages.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    found.sort();
    found.insert(0, repository().join("README.md"));
    found
}

/// What is run in place of a command.
fn shortened(command: &str) -> String {
    // What is behind a comment sign is for readers.
    let command = command.split(" #").next().unwrap_or(command).trim_end();
    if NOT_RUN.iter().any(|(word, _)| command.contains(word)) {
        return format!("{command} --help");
    }
    let mut words: Vec<&str> = command.split_whitespace().collect();
    let program = words.iter().position(|word| *word == "alti").expect("it calls alti");
    for (subcommand, flag, value) in SHORTENED {
        if words.get(program + 1) != Some(&subcommand) {
            continue;
        }
        match words.iter().position(|word| *word == flag) {
            Some(given) if given + 1 < words.len() => words[given + 1] = value,
            _ => words.splice(program + 2..program + 2, [flag, value]).for_each(drop),
        }
    }
    words.join(" ")
}

fn run(command: &str, folder: &Path) -> Output {
    let alti = Path::new(env!("CARGO_BIN_EXE_alti"));
    let bin = alti.parent().expect("it is in a folder").display().to_string();
    // Nothing of this machine's environment but where programs are.
    let search_path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).stdin(std::process::Stdio::null()).env_clear();
    shell.env("PATH", search_path).env("ALTI_HOME", store::folder()).output().expect("there is a shell")
}

#[test]
fn every_command_of_the_documentation_works() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink(default_model(), folder.path().join("model.gguf")).expect("a link");
    let book = std::fs::read_to_string(repository().join("benches/texts/eighty-days.txt")).expect("the book");
    for (name, contents) in FILES {
        let contents = if contents.is_empty() { &book } else { contents };
        std::fs::write(folder.path().join(name), contents).expect("the file can be written");
    }
    let mut failed = Vec::new();
    let mut count = 0;
    for document in documents() {
        let name = document.file_name().expect("a file").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&document).expect("the page can be read");
        for Example { place, command } in examples(&name, &text) {
            let done = run(&shortened(&command), folder.path());
            count += 1;
            if !done.status.success() {
                let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
                failed.push(format!("{place}: {command}\n{stderr}"));
            }
        }
    }
    assert!(count > 5, "only {count} commands were found");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_wrong_flag_in_a_command_that_is_not_run_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let right = shortened("alti pull hf:owner/repository:Q4_K_M --name short");
    let wrong = shortened("alti pull hf:owner/repository:Q4_K_M --nmae short");
    assert_eq!(run(&right, folder.path()).status.code(), Some(0));
    assert_eq!(run(&wrong, folder.path()).status.code(), Some(2));
}

#[test]
fn commands_are_found_in_blocks_and_nowhere_else() {
    let text = "alti text\n```console\n$ cargo run --release -- chat\nalti says\n```\n```sh\nalti run \\\n  hello\nls\n\
                cat x | alti run\n```\n`alti inline`\n";
    let found: Vec<(String, String)> =
        examples("page", text).into_iter().map(|example| (example.place, example.command)).collect();
    let expected = [("page:3", "alti chat"), ("page:7", "alti run  hello"), ("page:10", "cat x | alti run")];
    assert_eq!(found, expected.map(|(place, command)| (place.to_owned(), command.to_owned())));
}
