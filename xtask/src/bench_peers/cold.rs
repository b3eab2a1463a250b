//! A cold start: from the start of a process to its end, with one generated token between, and the memory it took. The
//! file is in the system's cache; what is cold is the process.

use super::engines::Sample;
use crate::{contestants, workspace};
use anyhow::{Context as _, Result};
use std::process::Command;

/// Four words.
pub const PROMPT: &str = "Why is it blue";

/// Context of every engine, so that none sets aside memory for more than another.
pub const CONTEXT: &str = "512";

/// The program that observes, from the root of the checkout.
///
/// It is another process because the system counts a child's peak from that of the parent it was copied from, and ours
/// has held whole models; it is Python because peers are fetched with it anyway and its library can ask.
const OBSERVER: &str = "xtask/src/bench_peers/observe.py";

/// Starts `command` once and observes it to its end.
///
/// # Errors
/// It fails; the error carries what it printed.
pub fn start(command: &Command) -> Result<Sample> {
    let mut observer = Command::new("python3");
    observer.arg(workspace::root().join(OBSERVER)).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        observer.current_dir(folder);
    }
    let seen = contestants::json(&mut observer)?;
    let number =
        |field: &str| seen[field].as_f64().with_context(|| format!("the observer must print `{field}`"));
    Ok(Sample {
        value: 1000.0 * number("seconds")?,
        memory: Some(number("peak_bytes")? / f64::from(1 << 20)),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_timed_and_weighed_and_a_failing_one_reported() {
        let mut command = Command::new("sh");
        let sample = start(command.args(["-c", "exit 0"])).unwrap();
        assert!(sample.value > 0.0 && sample.memory.unwrap() > 0.0);
        let mut failing = Command::new("sh");
        let error = start(failing.args(["-c", "echo no such model >&2; exit 3"])).unwrap_err();
        assert!(format!("{error:#}").contains("no such model"), "{error:#}");
    }
}
