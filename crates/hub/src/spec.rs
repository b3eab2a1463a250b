//! The names a user types for a model, and what they mean.

use std::path::{Path, PathBuf};

use crate::catalogue;
use crate::error::HubError;
use crate::paths;

/// Where a model should come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSpec {
    /// A short name of the catalogue, perhaps with a quantisation: `llama3.2-1b-instruct:Q4_K_M`.
    Catalogue {
        /// The catalogue's entry.
        entry: &'static catalogue::Entry,
        /// The quantisation asked for.
        tag: Option<String>,
    },
    /// A repository of the Hub: `hf:owner/repo@revision:Q4_K_M`.
    Hub {
        /// `owner/repo`.
        repo: String,
        /// Branch, tag or commit; the default branch if none.
        revision: Option<String>,
        /// The quantisation asked for.
        tag: Option<String>,
    },
    /// A Python package with a GGUF file in it: `pip:package==version`.
    PythonPackage {
        /// The package's name.
        package: String,
        /// Its exact version.
        version: String,
    },
    /// A file or folder of this machine.
    Local {
        /// Where it is.
        path: PathBuf,
    },
}

impl ModelSpec {
    /// Reads a model name. In this order:
    ///
    /// 1. `hf:`, `pip:` and `file:` say what follows;
    /// 2. a name that starts with `.` or is absolute is a path;
    /// 3. a short name of the catalogue is that model;
    /// 4. a path with a `/` or a `.gguf` at its end that exists on disk is that file or folder;
    /// 5. `owner/repo` is a repository of the Hub.
    ///
    /// # Errors
    /// [`HubError::BadSpec`], or [`HubError::NotInCatalogue`] with the names that come closest.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("hf:") {
            return parse_hub(text, rest.trim_start_matches('/'));
        }
        if let Some(rest) = text.strip_prefix("https://huggingface.co/") {
            return parse_hub(text, rest.trim_end_matches('/'));
        }
        if let Some(rest) = text.strip_prefix("pip:") {
            return parse_package(text, rest);
        }
        if let Some(rest) = text.strip_prefix("file:") {
            return Ok(ModelSpec::Local { path: PathBuf::from(rest) });
        }
        if text.starts_with('.') || Path::new(text).is_absolute() {
            return Ok(ModelSpec::Local { path: PathBuf::from(text) });
        }
        let (name, tag) =
            text.split_once(':').map_or((text, None), |(name, tag)| (name, Some(tag.to_string())));
        if let Some(entry) = catalogue::find(name) {
            return Ok(ModelSpec::Catalogue { entry, tag });
        }
        let is_file_name = text.to_ascii_lowercase().ends_with(".gguf");
        if (text.contains(['/', '\\']) && Path::new(text).exists()) || is_file_name {
            return Ok(ModelSpec::Local { path: PathBuf::from(text) });
        }
        if text.contains('/') {
            return parse_hub(text, text);
        }
        Err(HubError::NotInCatalogue { name: text.to_string(), suggestions: catalogue::similar_names(name) })
    }
}

fn bad(spec: &str, reason: &str) -> HubError {
    HubError::BadSpec { spec: spec.to_string(), reason: reason.to_string() }
}

fn parse_hub(spec: &str, rest: &str) -> Result<ModelSpec, HubError> {
    let (rest, tag) = match rest.rsplit_once(':') {
        Some((rest, tag)) => (rest, Some(tag.to_string())),
        None => (rest, None),
    };
    let (repo, revision) = match rest.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision.to_string())),
        None => (rest, None),
    };
    let parts: Vec<&str> = repo.split('/').collect();
    if parts.len() != 2 || !parts.iter().all(|part| paths::is_name_part(part)) {
        return Err(bad(
            spec,
            "a repository is `owner/repo`, with `@revision` and `:QUANTISATION` if wanted",
        ));
    }
    if tag.as_deref().is_some_and(|tag| !paths::is_name_part(tag)) {
        return Err(bad(spec, "after the colon comes a quantisation such as Q4_K_M"));
    }
    let plain =
        |revision: &str| revision.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    if let Some(revision) = &revision
        && (!plain(revision) || paths::safe_relative(revision).is_err())
    {
        return Err(bad(spec, "after the @ comes a branch, a tag or a commit"));
    }
    Ok(ModelSpec::Hub { repo: repo.to_string(), revision, tag })
}

fn parse_package(spec: &str, rest: &str) -> Result<ModelSpec, HubError> {
    match rest.split_once("==") {
        Some((package, version)) if paths::is_name_part(package) && paths::is_name_part(version) => {
            Ok(ModelSpec::PythonPackage { package: package.to_string(), version: version.to_string() })
        }
        _ => Err(bad(spec, "a Python package is named as `pip:package==version`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo: &str, revision: Option<&str>, tag: Option<&str>) -> ModelSpec {
        let own = |text: Option<&str>| text.map(str::to_string);
        ModelSpec::Hub { repo: repo.to_string(), revision: own(revision), tag: own(tag) }
    }

    #[test]
    fn every_spelling_of_a_repository() {
        let cases = [
            ("hf:o/r", hub("o/r", None, None)),
            ("o/r", hub("o/r", None, None)),
            ("hf:o/r@refs/pr/1", hub("o/r", Some("refs/pr/1"), None)),
            ("hf:o/r:Q4_K_M", hub("o/r", None, Some("Q4_K_M"))),
            ("o/r@v1.0:q8_0", hub("o/r", Some("v1.0"), Some("q8_0"))),
            ("https://huggingface.co/o/r/", hub("o/r", None, None)),
        ];
        for (text, expected) in cases {
            assert_eq!(ModelSpec::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn malformed_names_are_refused_with_a_reason() {
        for text in
            ["hf:o", "hf:o/r/x", "hf:../x", "o/r@../x", "o/r:", "o/r@", "pip:x", "hf:o/r@a b", "pip:a/b==1"]
        {
            let error = ModelSpec::parse(text).unwrap_err();
            assert!(matches!(error, HubError::BadSpec { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn short_names_come_from_the_catalogue_and_paths_stay_paths() {
        let spec = ModelSpec::parse("Llama3.2-1B-instruct:Q4_K_M").unwrap();
        assert!(
            matches!(spec, ModelSpec::Catalogue { entry, tag: Some(_) } if entry.name == "llama3.2-1b-instruct")
        );
        assert!(matches!(ModelSpec::parse("./x").unwrap(), ModelSpec::Local { .. }));
        assert!(matches!(ModelSpec::parse("model.gguf").unwrap(), ModelSpec::Local { .. }));
        let error = ModelSpec::parse("lama3.2-1b-instruct").unwrap_err().to_string();
        assert!(error.contains("did you mean llama3.2-1b-instruct"), "{error}");
    }
}
