//! LoRA adapters of a running model: loaded and dropped by name, kept for as long as somebody uses them.
//!
//! Names are for every thread ([`AdapterNames`]); weights belong to the thread that owns the backend
//! ([`AdapterWeights`]). What ties them is a [`Lease`]: whoever uses an adapter holds one, the name holds one, and when
//! only the weights' own is left, they go.

use crate::EngineError;
use alti_formats::Adapter as AdapterFiles;
use alti_models::Adapter;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// A right to use an adapter. Clones are the same right.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Identity>);

#[derive(Debug)]
struct Identity {
    name: String,
    fingerprint: String,
}

impl Lease {
    /// A lease of an adapter to be.
    pub fn new(name: &str, fingerprint: String) -> Lease {
        Lease(Arc::new(Identity { name: name.to_owned(), fingerprint }))
    }

    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What tells its weights from others: keys and values of adapters with one fingerprint are the same.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// Whether both are of one adapter.
    pub fn is_same(&self, other: &Lease) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody else has one.
    fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// How long an adapter's files are and when they were written: what tells, without reading them, that they are others now.
/// A file that was changed within one tick of the file system's clock and has its old length is not told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(u64, Option<SystemTime>)>>);

impl Stamp {
    /// That of the adapter at `path`, as it is now.
    pub fn of(path: &Path) -> Stamp {
        let stamp = |file: &std::path::PathBuf| {
            let metadata = std::fs::metadata(file).ok()?;
            Some((metadata.len(), metadata.modified().ok()))
        };
        Stamp(AdapterFiles::files(path).iter().map(stamp).collect())
    }
}

/// The adapters that can be asked for, by name.
#[derive(Debug, Default)]
pub struct AdapterNames(Mutex<BTreeMap<String, Lease>>);

impl AdapterNames {
    /// The adapter of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<Lease, EngineError> {
        let found = self.names().get(name).cloned();
        found.ok_or_else(|| self.unknown(name))
    }

    /// What is said of an adapter that is not there.
    pub fn unknown(&self, name: &str) -> EngineError {
        let names = self.all();
        EngineError::UnknownAdapter {
            name: name.to_owned(),
            loaded: match names.is_empty() {
                true => "none is loaded".to_owned(),
                false => format!("loaded are {}", names.join(", ")),
            },
        }
    }

    /// Lets an adapter be found under its name.
    ///
    /// # Errors
    /// When another has the name.
    pub fn insert(&self, lease: Lease) -> Result<(), EngineError> {
        let mut names = self.names();
        if names.contains_key(lease.name()) {
            return Err(EngineError::AdapterExists { name: lease.name().to_owned() });
        }
        names.insert(lease.name().to_owned(), lease);
        Ok(())
    }

    /// Lets an adapter be found no more; whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        self.names().remove(name).is_some()
    }

    /// All names, in order.
    pub fn all(&self) -> Vec<String> {
        self.names().keys().cloned().collect()
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The adapters in a backend whose weights are `W`.
#[derive(Debug)]
pub struct AdapterWeights<W>(Vec<(Lease, Arc<Adapter<W>>)>);

impl<W> Default for AdapterWeights<W> {
    fn default() -> Self {
        AdapterWeights(Vec::new())
    }
}

impl<W> AdapterWeights<W> {
    /// Keeps an adapter for as long as there are other leases of it.
    pub fn keep(&mut self, lease: Lease, adapter: Arc<Adapter<W>>) {
        self.0.push((lease, adapter));
    }

    /// The adapter of a lease, while it is held.
    pub fn get(&self, lease: &Lease) -> Option<&Arc<Adapter<W>>> {
        self.0.iter().find(|(own, _)| own.is_same(lease)).map(|(_, adapter)| adapter)
    }

    /// How many there are, dropped ones that are still held among them.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Lets go of those that nobody can ask for and nobody uses; tells the fingerprints that are gone with them.
    pub fn release_unused(&mut self) -> Vec<String> {
        let (kept, unused) = std::mem::take(&mut self.0).into_iter().partition(|(lease, _)| !lease.is_last());
        self.0 = kept;
        let gone = |lease: &Lease| self.0.iter().all(|(kept, _)| kept.fingerprint() != lease.fingerprint());
        let unused: Vec<_> = unused;
        let unused = unused.iter().map(|(lease, _)| lease).filter(|lease| gone(lease));
        unused.map(|lease| lease.fingerprint().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Arc<Adapter<()>> {
        Arc::new(Adapter::new([]))
    }

    #[test]
    fn a_dropped_adapter_stays_until_its_users_are_done() {
        let (names, mut weights) = (AdapterNames::default(), AdapterWeights::default());
        let lease = Lease::new("tone", "1".to_owned());
        weights.keep(lease.clone(), adapter());
        names.insert(lease).unwrap();
        let user = names.find("tone").unwrap();
        assert!(weights.release_unused().is_empty());
        assert!(names.remove("tone") && !names.remove("tone"));
        assert!(names.find("tone").is_err(), "nobody new gets it");
        assert!(weights.release_unused().is_empty() && weights.get(&user).is_some(), "it is in use");
        drop(user);
        assert_eq!(weights.release_unused(), ["1"]);
        assert!(weights.0.is_empty());
    }

    #[test]
    fn another_adapter_of_a_dropped_name_is_another() {
        let (names, mut weights) = (AdapterNames::default(), AdapterWeights::default());
        let load = |weights: &mut AdapterWeights<()>, fingerprint: &str| {
            let lease = Lease::new("tone", fingerprint.to_owned());
            weights.keep(lease.clone(), adapter());
            names.insert(lease)
        };
        load(&mut weights, "1").unwrap();
        let old = names.find("tone").unwrap();
        let refused = load(&mut weights, "2").unwrap_err().to_string();
        assert!(refused.contains("tone"), "{refused}");
        assert_eq!(weights.release_unused(), ["2"], "what was refused is not kept");
        names.remove("tone");
        load(&mut weights, "1").unwrap();
        let new = names.find("tone").unwrap();
        assert!(!Arc::ptr_eq(weights.get(&old).unwrap(), weights.get(&new).unwrap()));
        drop(old);
        assert!(weights.release_unused().is_empty(), "its fingerprint lives on");
        assert_eq!(weights.0.len(), 1);
    }

    #[test]
    fn files_that_are_overwritten_have_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let (file, peft) = (folder.path().join("a.gguf"), folder.path());
        write("a.gguf", "one");
        let before = Stamp::of(&file);
        assert_eq!(before, Stamp::of(&file));
        write("a.gguf", "three");
        assert_ne!(before, Stamp::of(&file));
        // A folder's are those of the files that are read of it.
        let empty = Stamp::of(peft);
        write("README.md", "not read");
        assert_eq!(empty, Stamp::of(peft));
        write("adapter_config.json", "{}");
        let config = Stamp::of(peft);
        write("adapter_model.safetensors", "weights");
        assert!(config != empty && Stamp::of(peft) != config);
    }

    #[test]
    fn an_unknown_name_is_told_what_there_is() {
        let names = AdapterNames::default();
        assert!(names.find("x").unwrap_err().to_string().contains("none is loaded"));
        for name in ["b", "a"] {
            names.insert(Lease::new(name, String::new())).unwrap();
        }
        let message = names.find("x").unwrap_err().to_string();
        assert!(message.contains("`x`") && message.contains("a, b"), "{message}");
        assert_eq!(names.all(), ["a", "b"]);
    }
}
