//! Which models are in memory. A model is loaded when it is asked for, once for all who ask; it stays while somebody
//! uses it and for its keep-alive after that, and goes earlier when another one needs its memory.

use super::adapters::{AdapterFile, Adapters, to_its_end};
use super::aliases::Aliases;
use super::cards::Cards;
use super::names::{check_name, check_new_name, untagged};
use super::{Alias, KeepAlive, LoadError, ModelCard, ModelFacts, ModelLoader, ServedModel};
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, ErrorKind, excerpt};
use crate::route::Family;
use crate::settings::ServerSettings;
use alti_engine::adapters::Lease as AdapterLease;
use alti_engine::sampling::SamplerSettings;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, watch};

/// The models of a server. Clones are the same pool.
#[derive(Clone)]
pub struct ModelPool {
    inner: Arc<Inner>,
}

struct Inner {
    loader: Arc<dyn ModelLoader>,
    aliases: Aliases,
    cards: Cards,
    budget: Option<u64>,
    keep_alive: KeepAlive,
    pinned: Vec<String>,
    default_model: Option<String>,
    drain: Duration,
    adapter_folders: Vec<PathBuf>,
    entries: Mutex<Entries>,
    /// Held while a model is loaded: what two would take together is then known to both.
    loading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Entries {
    /// By the name the model is loaded under.
    loaded: BTreeMap<String, Arc<Entry>>,
    /// From names that were asked for to names of `loaded`.
    names: HashMap<String, String>,
}

/// A name in `Entries::names` costs memory, and names come from requests.
const MOST_NAMES: usize = 4096;

type Outcome = Option<Result<Arc<ServedModel>, LoadError>>;

struct Entry {
    name: String,
    pinned: bool,
    outcome: watch::Sender<Outcome>,
    use_of: Mutex<Use>,
    changed: Notify,
    /// The aliases it was asked for by.
    aliases: Mutex<BTreeSet<String>>,
    adapters: Adapters,
}

#[derive(Clone, Copy)]
struct Use {
    users: usize,
    last: Instant,
    keep_alive: KeepAlive,
}

impl Use {
    /// When it may go: `None` is not yet known.
    fn expires(&self) -> Option<Instant> {
        match self.keep_alive {
            KeepAlive::For(time) if self.users == 0 => self.last.checked_add(time),
            _ => None,
        }
    }
}

impl Entry {
    /// Whether its engine ended though nobody asked it to.
    fn is_broken(&self) -> bool {
        self.model().is_some_and(|model| !model.inference.is_running())
    }

    fn use_of(&self) -> MutexGuard<'_, Use> {
        self.use_of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn aliases(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.aliases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn model(&self) -> Option<Arc<ServedModel>> {
        self.outcome.borrow().as_ref().and_then(|outcome| outcome.as_ref().ok().cloned())
    }
}

/// A model that somebody uses: it stays in memory until this is dropped.
pub struct Lease {
    model: Arc<ServedModel>,
    entry: Arc<Entry>,
    /// The name it was asked for by.
    pub requested: String,
    /// The alias it was asked for by, if it was one.
    pub alias: Option<Arc<Alias>>,
    /// The alias's adapter, whatever becomes of the name.
    adapter: Option<AdapterLease>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lease").field("requested", &self.requested).finish_non_exhaustive()
    }
}

impl Deref for Lease {
    type Target = ServedModel;

    fn deref(&self) -> &ServedModel {
        &self.model
    }
}

impl Lease {
    /// What is sampled with where a request does not say: the alias's parameters over the model's own, over the API's
    /// defaults.
    ///
    /// # Errors
    /// When the alias or the model has parameters that are none.
    pub fn base_sampling(&self, family: Family) -> ApiResult<SamplerSettings> {
        let alias = self.alias.iter().flat_map(|alias| &alias.parameters);
        let named = self.model.sampling.iter().chain(alias);
        let named = named.map(|(name, value)| (name.as_str(), value.clone()));
        crate::generate::sampling(&crate::generate::defaults(family)?, named)
    }

    /// The adapter that the model is used with.
    pub fn adapter(&self) -> Option<&AdapterLease> {
        self.adapter.as_ref()
    }
}

/// One use of an entry, from before the model is there.
struct Claim {
    entry: Arc<Entry>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut use_of = self.entry.use_of();
        use_of.users -= 1;
        use_of.last = Instant::now();
        drop(use_of);
        self.entry.changed.notify_one();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(Claim { entry: self.entry.clone() });
    }
}

/// A model in memory, for status pages.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// The model.
    pub model: Arc<ServedModel>,
    /// The aliases it was asked for by since it is in memory, as far as there still are such.
    pub aliases: Vec<String>,
    /// Requests that use it now.
    pub users: usize,
    /// When it will go if nobody asks for it; none stays.
    pub expires: Option<SystemTime>,
    /// Whether it stays whatever happens.
    pub pinned: bool,
}

impl ModelPool {
    /// A pool of the models that `loader` knows. The first request, or [`ModelPool::load_pinned`], loads one.
    pub fn new(loader: Arc<dyn ModelLoader>, settings: &ServerSettings) -> ModelPool {
        let keep_alive = settings.idle_unload_seconds.map(Duration::from_secs);
        ModelPool {
            inner: Arc::new(Inner {
                loader,
                aliases: Aliases::open(settings.aliases_file.clone()),
                cards: Cards::default(),
                budget: settings.memory_bytes,
                keep_alive: keep_alive.map_or(KeepAlive::Forever, KeepAlive::For),
                pinned: settings.pinned_models.iter().map(|name| untagged(name).to_owned()).collect(),
                default_model: settings.default_model.clone(),
                drain: Duration::from_secs(settings.drain_seconds),
                adapter_folders: settings.adapter_folders.clone(),
                entries: Mutex::default(),
                loading: tokio::sync::Mutex::default(),
            }),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the models that stay.
    ///
    /// # Errors
    /// When one cannot be loaded.
    pub async fn load_pinned(&self) -> ApiResult<()> {
        for name in &self.inner.pinned {
            self.acquire(Some(name), None).await?;
        }
        Ok(())
    }

    /// Whether all models that stay are there.
    pub fn is_ready(&self) -> bool {
        let entries = self.entries();
        self.inner.pinned.iter().all(|name| {
            let entry = entries.names.get(&self.target(name)).and_then(|name| entries.loaded.get(name));
            entry.is_some_and(|entry| entry.model().is_some_and(|model| model.inference.is_running()))
        })
    }

    /// The model of this name, or the default one, loaded if it is not.
    ///
    /// # Errors
    /// When there is none, it cannot be loaded, or there is no memory for it now.
    pub async fn acquire(&self, name: Option<&str>, keep_alive: Option<KeepAlive>) -> ApiResult<Lease> {
        let requested = match name.filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => self.default_name().await?,
        };
        loop {
            if let Some(lease) = self.acquire_as_named(&requested, keep_alive).await? {
                return Ok(lease);
            }
        }
    }

    /// The same; none if the name has another meaning meanwhile.
    async fn acquire_as_named(
        &self,
        requested: &str,
        keep_alive: Option<KeepAlive>,
    ) -> ApiResult<Option<Lease>> {
        let name = untagged(requested);
        let alias = self.inner.aliases.find(name);
        let claim = self.claim(alias.as_ref().map_or(name, |alias| &alias.from), keep_alive).await?;
        let mut outcome = claim.entry.outcome.subscribe();
        let loaded = outcome.wait_for(Option::is_some).await.map_err(ApiError::internal)?.clone();
        let model = match loaded {
            Some(Ok(model)) => model,
            Some(Err(error)) => return Err(load_error(error)),
            None => return Err(ApiError::internal("a load ended without an outcome")),
        };
        let mut adapter = None;
        if let Some(alias) = &alias
            && let Some(path) = &alias.adapter
        {
            let file = self.adapter_file(path).await?;
            adapter = self.ensure_adapter(&claim.entry, &model, (name, alias), file).await?;
            if adapter.is_none() {
                return Ok(None);
            }
        }
        if alias.is_some() {
            claim.entry.aliases().insert(name.to_owned());
        }
        // From here on the lease gives the use back.
        let entry = claim.entry.clone();
        entry.use_of().users += 1;
        drop(claim);
        Ok(Some(Lease { model, entry, requested: requested.to_owned(), alias, adapter }))
    }

    /// Has the model use an alias's adapter; none if the alias is another meanwhile.
    async fn ensure_adapter(
        &self,
        entry: &Arc<Entry>,
        model: &Arc<ServedModel>,
        (name, alias): (&str, &Arc<Alias>),
        file: AdapterFile,
    ) -> ApiResult<Option<AdapterLease>> {
        let (pool, entry, model) = (self.clone(), entry.clone(), model.clone());
        let (name, alias) = (name.to_owned(), alias.clone());
        to_its_end(async move {
            let is_same = || pool.inner.aliases.find(&name).is_some_and(|now| Arc::ptr_eq(&now, &alias));
            entry.adapters.ensure(&model, &name, file, is_same).await
        })
        .await
    }

    /// Drops the adapter of an alias that is gone, or another now.
    async fn forget_adapter(&self, name: &str) {
        let entries: Vec<_> = self.entries().loaded.values().cloned().collect();
        for entry in entries {
            if let Some(model) = entry.model() {
                entry.adapters.forget(&model, name).await;
            }
        }
    }

    /// One use of the model of this name; who claims it first has it loaded.
    async fn claim(&self, name: &str, keep_alive: Option<KeepAlive>) -> ApiResult<Claim> {
        if let Some(claim) = self.claim_known(name, keep_alive) {
            return Ok(claim);
        }
        let facts = self.find(name).await?;
        let mut entries = self.entries();
        if entries.names.len() >= MOST_NAMES {
            entries.names.retain(|name, _| self.is_pinned(name));
        }
        // An engine that broke is of no use to anybody: the model is loaded anew.
        if entries.loaded.get(&facts.name).is_some_and(|entry| entry.is_broken()) {
            entries.loaded.remove(&facts.name);
        }
        entries.names.insert(name.to_owned(), facts.name.clone());
        let entry = match entries.loaded.get(&facts.name) {
            Some(entry) => entry.clone(),
            None => {
                let entry = Arc::new(Entry {
                    pinned: self.is_pinned(name) || self.is_pinned(&facts.name),
                    name: facts.name.clone(),
                    outcome: watch::Sender::new(None),
                    use_of: Mutex::new(Use {
                        users: 0,
                        last: Instant::now(),
                        keep_alive: self.inner.keep_alive,
                    }),
                    changed: Notify::new(),
                    aliases: Mutex::default(),
                    adapters: Adapters::default(),
                });
                entries.loaded.insert(facts.name.clone(), entry.clone());
                // A task of its own: whoever asked may go away, others may wait for the same model.
                tokio::spawn(self.clone().load(entry.clone(), facts));
                entry
            }
        };
        Ok(claim(&entry, keep_alive))
    }

    /// Whether the model of this name stays, by its own name or an alias.
    fn is_pinned(&self, name: &str) -> bool {
        self.inner.pinned.iter().any(|pinned| pinned == name || self.target(pinned) == name)
    }

    fn claim_known(&self, name: &str, keep_alive: Option<KeepAlive>) -> Option<Claim> {
        let entries = self.entries();
        let entry = entries.names.get(name).and_then(|name| entries.loaded.get(name))?;
        if entry.is_broken() {
            return None;
        }
        // Under the lock: nobody takes the entry away in between.
        Some(claim(entry, keep_alive))
    }

    /// Loads a model and stays with it until it goes.
    async fn load(self, entry: Arc<Entry>, facts: ModelFacts) {
        let outcome = self.load_now(&entry, facts).await;
        let failed = outcome.is_err();
        if let Err(error) = &outcome {
            tracing::warn!(model = entry.name, %error, "a model was not loaded");
            self.entries().loaded.remove(&entry.name);
        }
        entry.outcome.send_replace(Some(outcome.map(Arc::new)));
        if !failed {
            tracing::info!(model = entry.name, "a model was loaded");
            self.unload_when_idle(entry).await;
        }
    }

    async fn load_now(&self, entry: &Arc<Entry>, facts: ModelFacts) -> Result<ServedModel, LoadError> {
        let _one_at_a_time = self.inner.loading.lock().await;
        self.make_room(entry, facts.memory_bytes).await?;
        let (loader, name) = (self.inner.loader.clone(), entry.name.clone());
        let loading = tokio::task::spawn_blocking(move || loader.load(&name));
        let model = loading
            .await
            .unwrap_or_else(|error| Err(LoadError::Failed(format!("loading it broke: {error}"))))?;
        // How many keys and values it keeps is decided when it is loaded: it may be more than was foreseen.
        self.make_room(entry, model.memory_bytes).await?;
        Ok(model)
    }

    /// Unloads models that nobody uses, the longest unused first, until `wanted` bytes fit into the budget.
    async fn make_room(&self, entry: &Arc<Entry>, wanted: u64) -> Result<(), LoadError> {
        let Some(budget) = self.inner.budget else { return Ok(()) };
        if wanted > budget {
            let message = format!(
                "the model `{}` takes {wanted} bytes of memory, more than the {budget} that all models may take",
                entry.name
            );
            return Err(LoadError::Refused(message));
        }
        loop {
            let victim = {
                let mut entries = self.entries();
                let others = || entries.loaded.values().filter(|other| !Arc::ptr_eq(other, entry));
                let taken: u64 =
                    others().filter_map(|other| other.model()).map(|model| model.memory_bytes).sum();
                if taken.saturating_add(wanted) <= budget {
                    return Ok(());
                }
                let idle = others()
                    .filter(|other| !other.pinned && other.use_of().users == 0 && other.model().is_some());
                let victim = idle.min_by_key(|other| other.use_of().last).cloned();
                let Some(victim) = victim else {
                    let message = format!(
                        "there is no memory for the model `{}` now: {taken} of {budget} bytes are taken by models in use",
                        entry.name
                    );
                    return Err(LoadError::Failed(message));
                };
                entries.loaded.remove(&victim.name);
                victim
            };
            self.unload_now(&victim).await;
        }
    }

    /// Waits until nobody has used the model for its keep-alive, and unloads it.
    async fn unload_when_idle(self, entry: Arc<Entry>) {
        if entry.pinned {
            return;
        }
        loop {
            let expires = entry.use_of().expires();
            match expires {
                None => entry.changed.notified().await,
                Some(expires) if Instant::now() < expires => {
                    tokio::select! {
                        () = tokio::time::sleep_until(expires.into()) => {}
                        () = entry.changed.notified() => {}
                    }
                }
                Some(_) if self.remove_if_idle(&entry) => return self.unload_now(&entry).await,
                Some(_) => {}
            }
            let gone = !self.entries().loaded.values().any(|other| Arc::ptr_eq(other, &entry));
            if gone {
                return;
            }
        }
    }

    fn remove_if_idle(&self, entry: &Arc<Entry>) -> bool {
        let mut entries = self.entries();
        let expired = entry.use_of().expires().is_some_and(|expires| expires <= Instant::now());
        let there = entries.loaded.get(&entry.name).is_some_and(|other| Arc::ptr_eq(other, entry));
        expired && there && entries.loaded.remove(&entry.name).is_some()
    }

    /// Unloads a model that is no longer in the list.
    async fn unload_now(&self, entry: &Arc<Entry>) {
        self.end(entry, Instant::now() + self.inner.drain).await;
    }

    /// Gives back what an entry that is no longer in the list holds.
    async fn end(&self, entry: &Arc<Entry>, deadline: Instant) {
        let Some(model) = entry.model() else { return };
        entry.outcome.send_replace(Some(Err(LoadError::NotFound(entry.name.clone()))));
        // Whoever waits for it to be gone hears of it.
        entry.changed.notify_one();
        let ended = off_the_runtime(move || {
            model.inference.shutdown(deadline.saturating_duration_since(Instant::now()));
            drop(model);
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::error!(model = entry.name, %error, "a model was not unloaded cleanly");
        }
        tracing::info!(model = entry.name, "a model was unloaded");
    }

    /// Unloads a model that nobody uses now, or as soon as nobody does. Whether it was loaded.
    pub async fn unload(&self, name: &str) -> ApiResult<bool> {
        let facts = self.find(&self.target(name)).await?;
        let entry = self.entries().loaded.get(&facts.name).cloned();
        let Some(entry) = entry.filter(|entry| !entry.pinned) else { return Ok(false) };
        drop(claim(&entry, Some(KeepAlive::For(Duration::ZERO))));
        Ok(true)
    }

    /// Ends all models; answers in the works get until `deadline`.
    pub async fn shutdown(&self, deadline: Instant) {
        let entries: Vec<_> = std::mem::take(&mut self.entries().loaded).into_values().collect();
        futures_util::future::join_all(entries.iter().map(|entry| self.end(entry, deadline))).await;
    }

    /// The models in memory.
    pub fn loaded(&self) -> Vec<LoadedModel> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let entries: Vec<_> = self.entries().loaded.values().cloned().collect();
        let model = |entry: &Arc<Entry>| {
            let use_of = *entry.use_of();
            let left = match use_of.keep_alive {
                _ if entry.pinned => None,
                KeepAlive::Forever => None,
                KeepAlive::For(time) if use_of.users > 0 => Some(time),
                KeepAlive::For(time) => Some((use_of.last + time).saturating_duration_since(now)),
            };
            Some(LoadedModel {
                model: entry.model()?,
                aliases: entry
                    .aliases()
                    .iter()
                    // An alias may have its model's own name.
                    .filter(|name| **name != entry.name && self.target(name) == entry.name)
                    .cloned()
                    .collect(),
                users: use_of.users,
                expires: left.map(|left| wall + left),
                pinned: entry.pinned,
            })
        };
        entries.iter().filter_map(model).collect()
    }

    /// What is known of the model of this name; an alias is known by its own name, and made from a name that its model is
    /// loaded under.
    ///
    /// # Errors
    /// When there is none.
    pub async fn facts(&self, name: &str) -> ApiResult<(ModelFacts, Option<Alias>)> {
        let name = untagged(name);
        match self.inner.aliases.find(name) {
            Some(alias) => {
                let facts = self.find(&alias.from).await?;
                let alias = Alias { from: facts.name, ..Alias::clone(&alias) };
                Ok((ModelFacts { name: name.to_owned(), created: alias.created, ..facts }, Some(alias)))
            }
            None => Ok((self.find(name).await?, None)),
        }
    }

    /// What the files of the model that is loaded under this name, and has this digest, say of it; nothing where they
    /// cannot be read.
    ///
    /// # Errors
    /// When there is no such model.
    pub async fn card(&self, name: &str, digest: &str) -> ApiResult<ModelCard> {
        let loaded = self.entries().loaded.get(name).and_then(|entry| entry.model());
        if let Some(model) = loaded {
            return Ok(model.card());
        }
        let (loader, owned) = (self.inner.loader.clone(), name.to_owned());
        let read = self.inner.cards.card(name, digest, move || loader.card(&owned).map_err(load_error)).await;
        match read {
            Err(error) if error.kind != ErrorKind::NotFound => {
                tracing::warn!(model = name, error = error.message, "the model's files cannot be read");
                Ok(ModelCard::default())
            }
            read => read,
        }
    }

    /// The name of the model that a name leads to, whether it is there or not.
    fn target(&self, name: &str) -> String {
        let name = untagged(name);
        self.inner.aliases.find(name).map_or_else(|| name.to_owned(), |alias| alias.from.clone())
    }

    async fn find(&self, name: &str) -> ApiResult<ModelFacts> {
        check_name(name)?;
        let (loader, name) = (self.inner.loader.clone(), name.to_owned());
        off_the_runtime(move || loader.find(&name).map_err(load_error)).await
    }

    /// All models that can be asked for, aliases among them.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn list(&self) -> ApiResult<Vec<ModelFacts>> {
        let (loader, aliases) = (self.inner.loader.clone(), self.inner.aliases.all());
        let list = move || {
            let mut models = loader.list().map_err(load_error)?;
            // What an alias is made from is looked for among models alone: an alias may have a model's name.
            let found: Vec<ModelFacts> = aliases
                .into_iter()
                .filter_map(|(name, alias)| {
                    let listed = models.iter().find(|model| model.name == alias.from).cloned();
                    let base = listed.or_else(|| loader.find(&alias.from).ok())?;
                    Some(ModelFacts { name, created: alias.created, ..base })
                })
                .collect();
            models.retain(|model| found.iter().all(|alias| alias.name != model.name));
            models.extend(found);
            Ok(models)
        };
        let mut models = off_the_runtime(list).await?;
        // Files that were named by their path are in no list, and can be asked for.
        for loaded in self.loaded() {
            if models.iter().all(|model| model.name != loaded.model.facts.name) {
                models.push(loaded.model.facts.clone());
            }
        }
        Ok(models)
    }

    async fn default_name(&self) -> ApiResult<String> {
        if let Some(name) = self.inner.default_model.as_ref().or(self.inner.pinned.first()) {
            return Ok(name.clone());
        }
        if let Some(name) = self.entries().loaded.keys().next() {
            return Ok(name.clone());
        }
        let first = self.list().await?.into_iter().next();
        first.map(|model| model.name).ok_or_else(|| {
            ApiError::not_found("there is no model on this machine: pull one first").code("model_not_found")
        })
    }

    /// Where an adapter is: in one of the folders that the owner has named, however it is spelled, links followed.
    ///
    /// # Errors
    /// When it is not there. What is elsewhere is not there, too: a request must not learn what files this machine has.
    async fn adapter_file(&self, named: &Path) -> ApiResult<AdapterFile> {
        let (pool, named) = (self.clone(), named.to_owned());
        let find = move || {
            let folders = &pool.inner.adapter_folders;
            let found = folders.iter().filter_map(|folder| {
                let folder = folder.canonicalize().ok()?;
                folder.join(&named).canonicalize().ok().filter(|path| path.starts_with(&folder))
            });
            let shown = excerpt(&named.to_string_lossy());
            let message = format!(
                "there is no adapter `{shown}` in the store of models, nor in a folder of the setting \
                 server.adapter_folders"
            );
            found.into_iter().next().map(AdapterFile::at).ok_or_else(|| ApiError::field("adapter", message))
        };
        off_the_runtime(find).await
    }

    /// Makes an alias.
    ///
    /// # Errors
    /// When what it is made from is not there, or it cannot be kept.
    pub async fn create(&self, name: &str, mut alias: Alias) -> ApiResult<()> {
        let name = untagged(name);
        check_new_name(name)?;
        if let Some(base) = self.inner.aliases.find(untagged(&alias.from)) {
            alias = alias.over(&base);
        }
        alias.from = self.find(untagged(&alias.from)).await?.name;
        alias.resolved = true;
        if let Some(path) = &alias.adapter {
            alias.adapter = Some(self.adapter_file(path).await?.path);
        }
        let (pool, name) = (self.clone(), name.to_owned());
        to_its_end(async move {
            let (aliases, owned) = (pool.clone(), name.clone());
            off_the_runtime(move || aliases.inner.aliases.insert(&owned, alias).map_err(load_error)).await?;
            // One of that name may have had another adapter, or the same file with other contents.
            pool.forget_adapter(&name).await;
            Ok(())
        })
        .await
    }

    /// Removes an alias, or else a model, from this machine.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub async fn remove(&self, name: &str) -> ApiResult<()> {
        let name = untagged(name);
        check_name(name)?;
        if self.remove_alias(name).await? {
            return Ok(());
        }
        self.unload(name).await?;
        let (loader, owned) = (self.inner.loader.clone(), name.to_owned());
        off_the_runtime(move || loader.remove(&owned).map_err(load_error)).await
    }

    /// Removes an alias, and its adapter from memory. Whether there was one.
    async fn remove_alias(&self, name: &str) -> ApiResult<bool> {
        let (pool, name) = (self.clone(), name.to_owned());
        to_its_end(async move {
            let (aliases, owned) = (pool.clone(), name.clone());
            let remove = move || aliases.inner.aliases.remove(&owned).map_err(load_error);
            let was_there = off_the_runtime(remove).await?;
            pool.forget_adapter(&name).await;
            Ok(was_there)
        })
        .await
    }

    /// Fetches a model; blocking.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn pull(
        &self,
        name: &str,
        progress: &mut (dyn FnMut(super::PullProgress) -> bool + Send),
    ) -> Result<(), LoadError> {
        let name = untagged(name);
        check_name(name).map_err(|error| LoadError::Refused(error.message))?;
        self.inner.loader.pull(name, progress)
    }
}

fn claim(entry: &Arc<Entry>, keep_alive: Option<KeepAlive>) -> Claim {
    let mut use_of = entry.use_of();
    use_of.users += 1;
    use_of.last = Instant::now();
    if let Some(keep_alive) = keep_alive {
        use_of.keep_alive = keep_alive;
    }
    Claim { entry: entry.clone() }
}

/// What a failed load means for who asked.
pub(crate) fn load_error(error: LoadError) -> ApiError {
    match &error {
        LoadError::NotFound(name) => ApiError::model_not_found(name),
        LoadError::Refused(message) => ApiError::invalid(message.clone()).param("model"),
        LoadError::Failed(message) => ApiError::new(ErrorKind::Unavailable, message.clone()).retry_after(5),
        LoadError::Cancelled => ApiError::new(ErrorKind::Conflict, error.to_string()),
    }
}
