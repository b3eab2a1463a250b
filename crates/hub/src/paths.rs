//! Names that arrive from outside and become file names: which are allowed, and where they go.
//!
//! A repository decides its file names and a user decides model names. Neither may leave the
//! store's folder or mean something else on another operating system, so both pass through here.

use std::path::{Path, PathBuf};

use crate::error::HubError;

const MAX_COMPONENT: usize = 200;
const MAX_DEPTH: usize = 16;

/// Device names that Windows reserves whatever their extension.
const RESERVED: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9",
    "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// Turns a file name as a source gives it (with `/` between folders) into a relative path.
///
/// # Errors
/// [`HubError::UnsafePath`] for absolute names, `..`, and names that are not portable.
pub(crate) fn safe_relative(name: &str) -> Result<PathBuf, HubError> {
    let refuse = |reason| Err(HubError::UnsafePath { name: name.to_string(), reason });
    let components: Vec<&str> = name.split('/').collect();
    if components.len() > MAX_DEPTH {
        return refuse("it is nested too deeply");
    }
    for component in &components {
        if let Some(reason) = component_fault(component) {
            return refuse(reason);
        }
    }
    Ok(components.iter().collect())
}

fn component_fault(component: &str) -> Option<&'static str> {
    if component.is_empty() {
        return Some("it is absolute or has an empty part");
    }
    if component == "." || component == ".." {
        return Some("it leaves the model's folder");
    }
    if component.len() > MAX_COMPONENT {
        return Some("it is too long");
    }
    if component.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c)) {
        return Some("it has a character that file systems treat specially");
    }
    if component.ends_with(['.', ' ']) {
        return Some("it ends in a dot or a space");
    }
    let stem = component.split('.').next().unwrap_or_default().to_ascii_lowercase();
    RESERVED.contains(&stem.as_str()).then_some("it is a reserved device name")
}

/// Whether `text` may be one part of a model name: letters, digits, `.`, `_`, `-`.
pub(crate) fn is_name_part(text: &str) -> bool {
    component_fault(text).is_none()
        && !text.starts_with(['.', '-'])
        && !text.contains("--")
        && !text.contains("..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The folder of a model under `models/`: `owner/repo:TAG` becomes `owner--repo+tag`.
///
/// Lower case, so that names differing in case only are one model on every file system; the Hub
/// forbids `--` in names, which makes the mapping one to one.
///
/// # Errors
/// [`HubError::BadSpec`] if the name has other characters than the store allows.
pub(crate) fn model_folder(name: &str) -> Result<String, HubError> {
    let (base, tag) = name.split_once(':').map_or((name, None), |(base, tag)| (base, Some(tag)));
    let parts: Vec<&str> = base.split('/').collect();
    let valid = parts.len() <= 2 && parts.iter().chain(&tag).all(|part| is_name_part(part));
    if !valid {
        return Err(HubError::BadSpec {
            spec: name.to_string(),
            reason: "names are letters, digits, `.`, `_` and `-`, with at most one `/` and one `:`"
                .to_string(),
        });
    }
    let mut folder = parts.join("--");
    if let Some(tag) = tag {
        folder = format!("{folder}+{tag}");
    }
    Ok(folder.to_ascii_lowercase())
}

/// The folder of a revision under its model: branch names may contain `/`.
pub(crate) fn revision_folder(revision: &str) -> Result<String, HubError> {
    let folder = revision.replace('/', "--");
    safe_relative(&folder)?;
    Ok(folder)
}

/// A model name made from a file's or folder's own name.
pub(crate) fn name_from_path(path: &Path) -> String {
    let stem = match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("gguf") => path.file_stem(),
        _ => path.file_name(),
    };
    let text = stem.map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let mut name = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
        let doubles = (c == '-' || c == '.') && name.ends_with(['-', '.']);
        let begins = !name.is_empty() || c.is_ascii_alphanumeric();
        if begins && !doubles {
            name.push(c);
        }
    }
    name.truncate(MAX_COMPONENT / 2);
    let name = name.trim_end_matches(['-', '.']).to_string();
    if is_name_part(&name) { name } else { "model".to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["config.json", "Q4_K_M/model-00001-of-00002.gguf", "a b.txt", ".gitattributes"] {
            assert_eq!(safe_relative(name).unwrap(), PathBuf::from(name));
        }
    }

    #[test]
    fn names_that_escape_or_are_not_portable_are_refused() {
        let hostile = [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a\\..\\b",
            "C:/x",
            "a\0b",
            "nul",
            "x/COM1.txt",
            "dot.",
            "space ",
            "line\nbreak",
        ];
        for name in hostile {
            assert!(matches!(safe_relative(name), Err(HubError::UnsafePath { .. })), "{name:?}");
        }
        assert!(safe_relative(&"a/".repeat(40)).is_err());
        assert!(safe_relative(&"a".repeat(300)).is_err());
    }

    #[test]
    fn model_folders_are_one_to_one() {
        assert_eq!(model_folder("Owner/Repo:Q4_K_M").unwrap(), "owner--repo+q4_k_m");
        assert_eq!(model_folder("llama3.2-1b").unwrap(), "llama3.2-1b");
        for bad in ["", "a/b/c", "../x", "a--b", ".hidden", "a:", "a b"] {
            assert!(model_folder(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_name_becomes_a_model_name() {
        assert_eq!(name_from_path(Path::new("/x/My Model--v1..2.Q4_0.gguf")), "my-model-v1.2.q4_0");
        assert_eq!(name_from_path(Path::new("/x/Llama-3.2-1B/")), "llama-3.2-1b");
        assert_eq!(name_from_path(Path::new("/x/模型.gguf")), "model");
    }
}
