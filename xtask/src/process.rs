//! Running other programs: every command is echoed before it runs and named when it fails, so that a log of a failed
//! run can be repeated by hand.

use anyhow::{Context as _, Result, bail};
use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The cargo that runs us (rustup's proxy has already chosen the pinned toolchain).
#[must_use]
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs `command` with our own output streams.
///
/// # Errors
/// The program is missing, or ends with anything but success.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = line(command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs `command` and returns what it printed: standard output, then standard error.
///
/// # Errors
/// The program is missing, ends with anything but success (the error then carries the end of its standard error),
/// or prints what is not UTF-8.
pub fn capture(command: &mut Command) -> Result<(String, String)> {
    let shown = line(command);
    eprintln!("$ {shown}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let from = errors.lines().count().saturating_sub(20);
        let last: Vec<&str> = errors.lines().skip(from).collect();
        bail!("`{shown}` failed ({}):\n{}", output.status, last.join("\n"));
    }
    let printed = String::from_utf8(output.stdout)
        .with_context(|| format!("`{shown}` printed bytes that are not UTF-8"))?;
    Ok((printed, errors))
}

/// Starts `command` and lets it run.
///
/// # Errors
/// The program is missing.
pub fn start(command: &mut Command) -> Result<Child> {
    let shown = line(command);
    eprintln!("$ {shown}");
    command.spawn().with_context(|| format!("cannot start `{shown}`"))
}

/// Where `program` is, if it is on the search path.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let name = format!("{program}{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(&name)).find(|path| path.is_file())
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("cargo");
        command.args(["test", "a b", "it's", ""]);
        assert_eq!(line(&command), r"cargo test 'a b' 'it'\''s' ''");
    }

    #[test]
    fn a_missing_program_and_a_failing_one_are_named() {
        let missing = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(format!("{missing:#}").contains("cannot start `no-such-program-here`"));
        let failing = capture(cargo().arg("no-such-subcommand-here")).unwrap_err();
        assert!(format!("{failing:#}").contains("no-such-subcommand-here"));
    }
}
