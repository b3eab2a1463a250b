//! Bringing models in, with progress on stderr.

use crate::environment::Environment;
use crate::interrupt;
use crate::output::{Unit, bar};
use alti_hub::{Event, HubError, HubSettings, ModelSpec, Observer, Progress, PullRequest, Pulled, Store};
use indicatif::ProgressBar;
use std::sync::Mutex;

/// The store of this user.
///
/// # Errors
/// When its folder cannot be made.
pub fn store(environment: &Environment) -> anyhow::Result<Store> {
    Ok(Store::open(&environment.home)?)
}

/// How the Hub is reached, as the environment says.
pub fn settings(environment: &Environment) -> HubSettings {
    let mut settings = HubSettings { search_path: environment.search_path.clone(), ..HubSettings::default() };
    if let Some(endpoint) = &environment.hub_endpoint {
        settings.endpoint = endpoint.trim_end_matches('/').to_owned();
    }
    settings.token = environment.hub_token.clone();
    settings.proxy = environment.proxy.clone();
    settings.certificate_bundle = environment.certificate_bundle.clone();
    settings
}

/// Brings a model into the store, or finds it there.
///
/// # Errors
/// When the source fails, the disk is full, or the licence is not accepted; its terms are shown then.
pub fn pull(environment: &Environment, request: &PullRequest) -> anyhow::Result<Pulled> {
    let store = store(environment)?;
    let pulled = watched(environment, |observer| store.pull(request, &settings(environment), observer));
    if let Err(HubError::LicenseNotAccepted { terms, .. }) = &pulled {
        eprintln!("{terms}");
    }
    Ok(pulled?)
}

/// Does something with the store that shows its progress and ends on Ctrl-C.
pub fn watched<T>(environment: &Environment, work: impl FnOnce(Observer<'_>) -> T) -> T {
    let display = Display { environment: environment.clone(), bar: Mutex::new(ProgressBar::hidden()) };
    let cancel = interrupt::flag();
    let done = work(Observer::new(&display, &cancel));
    if let Ok(bar) = display.bar.lock() {
        bar.finish_and_clear();
    }
    done
}

/// Brings a model in by its name, with nothing special about it.
///
/// # Errors
/// As [`pull`].
pub fn pull_named(environment: &Environment, name: &str) -> anyhow::Result<Pulled> {
    pull(environment, &PullRequest::new(ModelSpec::parse(name)?))
}

/// Draws what a pull tells.
struct Display {
    environment: Environment,
    bar: Mutex<ProgressBar>,
}

impl Progress for Display {
    fn event(&self, event: Event<'_>) {
        let Ok(mut shown) = self.bar.lock() else { return };
        match event {
            Event::Resolving { source } => shown.suspend(|| eprintln!("asking {source}")),
            Event::Planned { model, files, total, present } => {
                let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                eprintln!("fetching {model}: {files}, {}", crate::output::bytes(total));
                *shown = bar(&self.environment, total, model, Unit::Bytes);
                shown.set_position(present);
                shown.reset_eta();
            }
            Event::Waiting { what } => eprintln!("waiting for another process that fetches {what}"),
            Event::Bytes { done, .. } => shown.set_position(done),
            Event::Verifying { file, .. } => shown.set_message(format!("verifying {file}")),
            Event::FileDone { .. } => (),
            Event::Retrying { what, reason, pause, .. } => {
                shown.suspend(|| eprintln!("{what}: {reason}; again in {:.0} s", pause.as_secs_f64()));
            }
            Event::SourceFailed { source, error } => {
                shown.suspend(|| eprintln!("{source} failed: {error}; trying the next source"));
            }
            _ => (),
        }
    }
}
