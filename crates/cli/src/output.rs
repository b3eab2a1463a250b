//! How results and progress are shown: results on stdout, as text or JSON; everything else on
//! stderr.

use crate::environment::Environment;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::Write;

/// Prints a command's result: as one JSON document, or as the text that `text` makes of it.
///
/// # Errors
/// When stdout cannot be written to (a closed pipe ends the program quietly elsewhere).
pub fn result<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
    } else {
        let text = text(value);
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Prints text to stdout.
///
/// # Errors
/// When stdout cannot be written to.
pub fn text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Whether the error is that nobody reads our output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = |error: &(dyn std::error::Error + 'static)| {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        kind.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io)
}

/// A bar of `total` steps on stderr, where a person reads it; invisible elsewhere.
pub fn bar(environment: &Environment, total: u64, what: &str, unit: Unit) -> ProgressBar {
    if !environment.progress {
        return ProgressBar::hidden();
    }
    let template = match unit {
        Unit::Bytes => "{msg:24!} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}",
        Unit::Items => "{msg:24!} {bar:30} {pos:>6}/{len:6} {eta:>4}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is valid").progress_chars("=> ");
    let bar =
        ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10)).with_style(style);
    bar.set_message(what.to_owned());
    bar
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, with speed.
    Bytes,
    /// Anything else.
    Items,
}

/// A number of bytes for people: `1.2 GiB`.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
