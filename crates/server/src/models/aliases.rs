//! Names that an owner gives to a model with settings of its own: what Ollama makes from a Modelfile. They are kept in
//! one small file that is replaced as a whole.

use super::LoadError;
use super::names::untagged;
use alti_text::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A name for a model with settings of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alias {
    /// The model that it is made from, by the name it is loaded under where that was known.
    pub from: String,
    /// Whether `from` is a model's name for sure, and all settings are here: files of older servers name aliases there.
    pub resolved: bool,
    /// What the system's turn says where a conversation has none.
    pub system: Option<String>,
    /// A Jinja template that replaces the model's own.
    pub template: Option<String>,
    /// Sampler settings, by name.
    pub parameters: Map<String, Value>,
    /// Turns in front of every conversation.
    pub messages: Vec<Message>,
    /// A file or folder with an adapter.
    pub adapter: Option<PathBuf>,
    /// The licence, as given.
    pub license: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

impl Alias {
    /// The same made from what `base` is made from: `base`'s settings, replaced by its own. It lasts whatever becomes of
    /// `base`.
    pub(super) fn over(mut self, base: &Alias) -> Alias {
        self.from.clone_from(&base.from);
        self.resolved = base.resolved;
        self.system = self.system.or_else(|| base.system.clone());
        self.template = self.template.or_else(|| base.template.clone());
        self.adapter = self.adapter.or_else(|| base.adapter.clone());
        self.license = self.license.or_else(|| base.license.clone());
        for (name, value) in &base.parameters {
            self.parameters.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if self.messages.is_empty() {
            self.messages.clone_from(&base.messages);
        }
        self
    }
}

/// Aliases that lead to aliases are followed so far.
const LONGEST_CHAIN: usize = 8;
/// Most aliases; each is at most as long as a request's body.
const MOST: usize = 10_000;

/// All aliases.
#[derive(Debug)]
pub(super) struct Aliases {
    file: Option<PathBuf>,
    named: Mutex<Named>,
    /// Held while the file is written: requests, which look names up, do not wait for the disk.
    writing: Mutex<()>,
}

type Named = BTreeMap<String, Arc<Alias>>;

impl Aliases {
    /// The aliases in `file`; a file that is not there has none, one that cannot be read is told to the log and
    /// replaced only when something is created.
    pub(super) fn open(file: Option<PathBuf>) -> Aliases {
        let read = file.as_deref().map(read).transpose();
        let named = read.unwrap_or_else(|error| {
            tracing::error!(%error, "the file of model names cannot be read: it is left alone");
            None
        });
        let named = under_plain_names(named.unwrap_or_default());
        let followed = named.iter().filter_map(|(name, alias)| match follow(&named, name, alias) {
            Ok(followed) => Some((name.clone(), Arc::new(followed))),
            Err(endless) => {
                tracing::warn!(model = name, "{endless}: the alias is left out");
                None
            }
        });
        let followed = followed.collect();
        Aliases { file, named: Mutex::new(followed), writing: Mutex::default() }
    }

    /// The alias of this name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Alias>> {
        self.named().get(name).cloned()
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> Named {
        self.named().clone()
    }

    fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an alias.
    pub(super) fn insert(&self, name: &str, alias: Alias) -> Result<(), LoadError> {
        self.change(|named| {
            if named.len() >= MOST && !named.contains_key(name) {
                return Err(LoadError::Refused(format!("there are {MOST} models already: remove one first")));
            }
            named.insert(name.to_owned(), Arc::new(alias));
            Ok(())
        })
    }

    /// Forgets an alias; whether there was one.
    pub(super) fn remove(&self, name: &str) -> Result<bool, LoadError> {
        let mut was_there = false;
        self.change(|named| {
            was_there = named.remove(name).is_some();
            Ok(())
        })?;
        Ok(was_there)
    }

    fn change(&self, change: impl FnOnce(&mut Named) -> Result<(), LoadError>) -> Result<(), LoadError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.all();
        change(&mut changed)?;
        if let Some(file) = &self.file {
            write(file, &changed).map_err(|error| {
                LoadError::Failed(format!("{} cannot be written: {error}", file.display()))
            })?;
        }
        *self.named() = changed;
        Ok(())
    }
}

/// Aliases of an older server's file under the names that they are looked for by: it kept tags that say nothing. Where a
/// name is there with and without one, requests led to the one without.
fn under_plain_names(named: BTreeMap<String, Alias>) -> BTreeMap<String, Alias> {
    let (mut plain, tagged): (BTreeMap<_, _>, BTreeMap<_, _>) =
        named.into_iter().partition(|(name, _)| untagged(name) == name);
    for (name, alias) in tagged {
        plain.entry(untagged(&name).to_owned()).or_insert(alias);
    }
    plain
}

/// Why an alias leads to no model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Endless {
    #[error("what it is made from goes in a circle")]
    Circle,
    #[error(
        "it is made from an alias, that from another, and so on: more than {LONGEST_CHAIN} are not followed"
    )]
    LongChain,
}

/// An alias of an older server's file, which may be made from others: as it would be stored today.
///
/// # Errors
/// When it leads to no model.
fn follow(named: &BTreeMap<String, Alias>, name: &str, alias: &Alias) -> Result<Alias, Endless> {
    let mut alias = alias.clone();
    let mut seen = vec![name.to_owned()];
    while seen.len() <= LONGEST_CHAIN {
        let from = untagged(&alias.from).to_owned();
        // One that has the name of its model stands in front of it.
        let base = named.get(&from).filter(|_| !alias.resolved && seen.last() != Some(&from));
        let Some(base) = base else { return Ok(Alias { resolved: true, from, ..alias }) };
        if seen.contains(&from) {
            return Err(Endless::Circle);
        }
        alias = alias.over(base);
        seen.push(from);
    }
    Err(Endless::LongChain)
}

fn read(file: &Path) -> std::io::Result<BTreeMap<String, Alias>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// Replaces the file as a whole: a crash leaves the old one or the new one.
fn write(file: &Path, named: &Named) -> std::io::Result<()> {
    let named: BTreeMap<&str, &Alias> =
        named.iter().map(|(name, alias)| (name.as_str(), alias.as_ref())).collect();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let mut output = std::fs::File::create(&temporary)?;
    output.write_all(&serde_json::to_vec_pretty(&named)?)?;
    output.sync_all()?;
    std::fs::rename(&temporary, file)?;
    // So that the new name survives a power failure, too. Not every system can sync a folder.
    let _not_everywhere = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(from: &str) -> Alias {
        Alias { from: from.into(), ..Alias::default() }
    }

    #[test]
    fn names_survive_and_those_of_older_files_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/names.json");
        let aliases = Aliases::open(Some(file.clone()));
        let base = Alias { system: Some("Be brief.".into()), ..alias("model:latest") };
        aliases.insert("brief", base).unwrap();
        aliases.insert("briefer", alias("brief:latest")).unwrap();
        aliases.insert("a", alias("b")).unwrap();
        aliases.insert("b", alias("a")).unwrap();
        aliases.insert("model", alias("model")).unwrap();
        let again = Aliases::open(Some(file));
        let found = again.find("briefer").unwrap();
        assert_eq!((found.from.as_str(), found.system.as_deref()), ("model", Some("Be brief.")));
        assert_eq!(again.find("a"), None, "a circle leads nowhere");
        assert_eq!(again.find("model").unwrap().from, "model", "one may stand in front of its model");
        assert!(again.remove("brief").unwrap());
        assert!(!again.remove("brief").unwrap());
        assert_eq!(again.find("briefer").unwrap().system.as_deref(), Some("Be brief."));
    }

    #[test]
    fn who_looks_a_name_up_does_not_wait_for_the_disk() {
        let aliases = Aliases::open(None);
        aliases.insert("brief", alias("model")).unwrap();
        let _the_file_is_written = aliases.writing.lock().unwrap();
        assert_eq!(aliases.find("brief").unwrap().from, "model");
    }

    #[test]
    fn names_with_tags_of_older_files_are_found_without() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("names.json");
        let text = r#"{
            "mario:latest": { "from": "model", "system": "It is me." },
            "luigi": { "from": "mario:latest" },
            "peach": { "from": "model", "system": "Plain." },
            "peach:latest": { "from": "model", "system": "Tagged." },
            "toad:latest:latest": { "from": "model:latest" }
        }"#;
        std::fs::write(&file, text).unwrap();
        let aliases = Aliases::open(Some(file.clone()));
        let names: Vec<String> = aliases.all().into_keys().collect();
        assert_eq!(names, ["luigi", "mario", "peach", "toad"]);
        let luigi = aliases.find("luigi").unwrap();
        assert_eq!((luigi.from.as_str(), luigi.system.as_deref()), ("model", Some("It is me.")));
        assert_eq!(aliases.find("peach").unwrap().system.as_deref(), Some("Plain."));
        assert!(aliases.remove("mario").unwrap());
        assert_eq!(Aliases::open(Some(file)).find("mario"), None, "it is gone from the file, too");
    }

    #[test]
    fn a_circle_is_told_from_a_long_chain() {
        let mut named: BTreeMap<String, Alias> =
            (0..20).map(|number| (format!("a{number}"), alias(&format!("a{}", number + 1)))).collect();
        named.extend([
            ("b".to_owned(), alias("c")),
            ("c".to_owned(), alias("d")),
            ("d".to_owned(), alias("c")),
        ]);
        let outcome = |name: &str| follow(&named, name, &named[name]).map(|alias| alias.from);
        assert_eq!(outcome("a0"), Err(Endless::LongChain));
        assert_eq!(outcome("a19"), Ok("a20".to_owned()));
        assert_eq!(outcome(&format!("a{}", 20 - LONGEST_CHAIN)), Ok("a20".to_owned()));
        assert_eq!(outcome("b"), Err(Endless::Circle));
    }
}
