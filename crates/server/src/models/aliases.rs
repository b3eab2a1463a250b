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
use std::sync::{Mutex, PoisonError};

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
    named: Mutex<BTreeMap<String, Alias>>,
}

impl Aliases {
    /// The aliases in `file`; a file that is not there has none, one that cannot be read is told to the log and
    /// replaced only when something is created.
    pub(super) fn open(file: Option<PathBuf>) -> Aliases {
        let read = file.as_deref().map(read).transpose();
        let named = read.unwrap_or_else(|error| {
            tracing::error!(%error, "the file of model names cannot be read: it is left alone");
            None
        });
        let named = named.unwrap_or_default();
        let followed =
            named.iter().filter_map(|(name, alias)| Some((name.clone(), follow(&named, name, alias)?)));
        let followed = followed.collect();
        Aliases { file, named: Mutex::new(followed) }
    }

    /// The alias of this name.
    pub(super) fn find(&self, name: &str) -> Option<Alias> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> BTreeMap<String, Alias> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps an alias.
    pub(super) fn insert(&self, name: &str, alias: Alias) -> Result<(), LoadError> {
        self.change(|named| {
            if named.len() >= MOST && !named.contains_key(name) {
                return Err(LoadError::Refused(format!("there are {MOST} models already: remove one first")));
            }
            named.insert(name.to_owned(), alias);
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

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Alias>) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = named.clone();
        change(&mut changed)?;
        if let Some(file) = &self.file {
            write(file, &changed).map_err(|error| {
                LoadError::Failed(format!("{} cannot be written: {error}", file.display()))
            })?;
        }
        *named = changed;
        Ok(())
    }
}

/// An alias of an older server's file, which may be made from others: as it would be stored today. None where it goes in
/// circles.
fn follow(named: &BTreeMap<String, Alias>, name: &str, alias: &Alias) -> Option<Alias> {
    let (mut alias, mut name) = (alias.clone(), name.to_owned());
    for _ in 0..LONGEST_CHAIN {
        let from = untagged(&alias.from).to_owned();
        // One that has the name of its model stands in front of it.
        let base = named.get(&from).filter(|_| !alias.resolved && from != name);
        let Some(base) = base else { return Some(Alias { resolved: true, from, ..alias }) };
        alias = alias.over(base);
        name = from;
    }
    tracing::warn!(model = name, "the alias is made from itself: it is left out");
    None
}

fn read(file: &Path) -> std::io::Result<BTreeMap<String, Alias>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// Replaces the file as a whole: a crash leaves the old one or the new one.
fn write(file: &Path, named: &BTreeMap<String, Alias>) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let mut output = std::fs::File::create(&temporary)?;
    output.write_all(&serde_json::to_vec_pretty(named)?)?;
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
}
