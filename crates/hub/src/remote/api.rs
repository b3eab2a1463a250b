//! What a repository of the Hub has: its commit, its files with sizes and digests, its licence.
//!
//! Everything read here was written by strangers: numbers are only compared with, and whoever
//! makes a file name of a path passes it through [`paths::safe_relative`] first.

use std::collections::{BTreeMap, HashSet};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use ureq::http::header::{CONTENT_LENGTH, ETAG, HeaderMap, LINK};

use super::client::{Client, Subject, origin};
use crate::catalogue;
use crate::digest::Expected;
use crate::error::HubError;
use crate::license;
use crate::paths;
use crate::progress::Observer;

/// A repository with more files than this is not a model.
const MAX_FILES: usize = 100_000;
const MAX_PAGES: usize = 1000;

/// Everything but letters, digits and `-._~` is escaped in a part of a path.
const PATH_PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) commit: String,
    pub(crate) license: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) parameters: Option<u64>,
    pub(crate) files: BTreeMap<String, RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    pub(crate) path: String,
    pub(crate) size: Option<u64>,
    pub(crate) expected: Expected,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelInfo {
    sha: Option<String>,
    #[serde(default)]
    card_data: Value,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    config: Value,
    #[serde(default)]
    gguf: Value,
    #[serde(default)]
    safetensors: Value,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: Option<u64>,
}

/// Addresses of one repository.
pub(crate) struct Addresses<'a> {
    client: &'a Client,
    repo: &'a str,
    /// The repository's page.
    pub(crate) page: String,
}

impl<'a> Addresses<'a> {
    pub(crate) fn new(client: &'a Client, repo: &'a str) -> Self {
        Addresses { client, repo, page: format!("{}/{repo}", client.endpoint()) }
    }

    fn info(&self, revision: &str) -> String {
        format!("{}/api/models/{}/revision/{}", self.client.endpoint(), self.repo, escape(revision))
    }

    fn tree(&self, revision: &str) -> String {
        format!(
            "{}/api/models/{}/tree/{}?recursive=true",
            self.client.endpoint(),
            self.repo,
            escape(revision)
        )
    }

    /// Where a file's contents are.
    pub(crate) fn contents(&self, commit: &str, path: &str) -> String {
        let path: Vec<String> = path.split('/').map(escape).collect();
        format!("{}/resolve/{}/{}", self.page, escape(commit), path.join("/"))
    }
}

fn escape(part: &str) -> String {
    utf8_percent_encode(part, PATH_PART).to_string()
}

/// Asks what a repository has at a revision.
pub(crate) fn repository(
    client: &Client,
    repo: &str,
    revision: &str,
    observer: Observer<'_>,
) -> Result<Repository, HubError> {
    let addresses = Addresses::new(client, repo);
    let what = format!("repository `{repo}` with a revision `{revision}`");
    let subject = Subject { what: &what, page: &addresses.page };
    let (info, _): (ModelInfo, HeaderMap) = client.json(&addresses.info(revision), &subject, observer)?;
    let commit = info.sha.clone().unwrap_or_else(|| revision.to_string());
    paths::revision_folder(&commit)?;
    let files = match tree(client, &addresses, &commit, &subject, observer) {
        Err(HubError::NotFound { .. }) if !info.siblings.is_empty() => names_only(&info),
        tree => tree?,
    };
    let architecture = text_at(&info.gguf, "architecture").or_else(|| text_at(&info.config, "model_type"));
    let parameters =
        [&info.gguf, &info.safetensors].into_iter().find_map(|value| value.get("total")?.as_u64());
    Ok(Repository { commit, license: license_of(repo, &info), architecture, parameters, files })
}

/// The files of a commit, over as many pages as the Hub splits them into.
fn tree(
    client: &Client,
    addresses: &Addresses<'_>,
    commit: &str,
    subject: &Subject<'_>,
    observer: Observer<'_>,
) -> Result<BTreeMap<String, RemoteFile>, HubError> {
    let mut files = BTreeMap::new();
    let mut visited = HashSet::new();
    let mut next = Some(addresses.tree(commit));
    while let Some(url) = next {
        let endless = |reason: &str| HubError::Protocol { url: url.clone(), reason: reason.to_string() };
        if !visited.insert(url.clone()) || visited.len() > MAX_PAGES {
            return Err(endless("the list of files does not end"));
        }
        let (entries, headers): (Vec<TreeEntry>, HeaderMap) = client.json(&url, subject, observer)?;
        for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
            let file = remote_file(entry);
            files.insert(file.path.clone(), file);
        }
        if files.len() > MAX_FILES {
            return Err(endless("the repository has too many files"));
        }
        next = headers.get(LINK).and_then(|link| link.to_str().ok()).and_then(next_page);
        if next.as_deref().is_some_and(|next| origin(next) != origin(client.endpoint())) {
            return Err(endless("the list of files continues on another server"));
        }
    }
    Ok(files)
}

fn remote_file(entry: TreeEntry) -> RemoteFile {
    let (expected, size) = match &entry.lfs {
        Some(large) => {
            let digest = large.oid.strip_prefix("sha256:").unwrap_or(&large.oid);
            (Expected::from_object_id(digest), large.size.or(entry.size))
        }
        None => (Expected::from_object_id(entry.oid.as_deref().unwrap_or_default()), entry.size),
    };
    RemoteFile { path: entry.path, size, expected }
}

/// For servers without the list of files: names, whose sizes and digests are asked one by one.
fn names_only(info: &ModelInfo) -> BTreeMap<String, RemoteFile> {
    let file = |path: &String| RemoteFile { path: path.clone(), size: None, expected: Expected::Unknown };
    info.siblings.iter().map(|sibling| (sibling.rfilename.clone(), file(&sibling.rfilename))).collect()
}

/// A file with its size; for one without, size and digest are asked for.
pub(crate) fn complete(
    client: &Client,
    addresses: &Addresses<'_>,
    commit: &str,
    mut file: RemoteFile,
    observer: Observer<'_>,
) -> Result<(RemoteFile, u64), HubError> {
    if let Some(size) = file.size {
        return Ok((file, size));
    }
    let url = addresses.contents(commit, &file.path);
    let what = format!("file `{}`", file.path);
    let subject = Subject { what: &what, page: &addresses.page };
    let answer = client.persist(&url, observer, || client.send("HEAD", &url, &[], &subject))?;
    let Some(size) = answer.linked_size.or_else(|| answer.header(CONTENT_LENGTH)?.parse().ok()) else {
        return Err(HubError::Protocol { url, reason: "the file's size is not announced".to_string() });
    };
    file.size = Some(size);
    let etag = answer.linked_etag.as_deref().or_else(|| answer.header(ETAG));
    file.expected = Expected::from_object_id(etag.unwrap_or_default());
    Ok((file, size))
}

/// The address in `<...>; rel="next"` of a Link header (RFC 8288).
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|part| {
        let (address, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim();
            parameter.eq_ignore_ascii_case("rel=\"next\"") || parameter.eq_ignore_ascii_case("rel=next")
        });
        is_next.then(|| address.to_string())
    })
}

fn text_at(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_string)
}

/// The licence as the model card states it (`license`, or `license_name` when that says `other`),
/// as a tag, or, when it states none, that of the catalogue model it is or derives from.
fn license_of(repo: &str, info: &ModelInfo) -> Option<String> {
    let card = &info.card_data;
    let first_text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => items.first()?.as_str().map(str::to_string),
        _ => None,
    };
    let stated = card.get("license").and_then(first_text);
    let named = card.get("license_name").and_then(first_text);
    let tagged = info.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_string);
    let specific = |id: &String| id != "other" && id != "unknown";
    let candidates = [stated.clone().filter(specific), named, tagged.clone().filter(specific)];
    let mut stated_ids = candidates.into_iter().flatten();
    if let Some(id) = stated_ids.next() {
        return Some(license::by_id(&id).map_or(id, |license| license.id.to_string()));
    }
    let base = card.get("base_model").and_then(first_text);
    let known = catalogue::license_of_repo(repo).or_else(|| catalogue::license_of_repo(base.as_deref()?));
    known.map(str::to_string).or(stated).or(tagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn license(repo: &str, json: &str) -> Option<String> {
        license_of(repo, &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_licence_is_found_wherever_the_card_has_it() {
        let cases = [
            ("x/y", r#"{"cardData":{"license":"llama3.2"}}"#, Some("llama3.2")),
            ("x/y", r#"{"cardData":{"license":"other","license_name":"llama4"}}"#, Some("llama4")),
            ("x/y", r#"{"cardData":{"license":["apache-2.0"]}}"#, Some("apache-2.0")),
            ("x/y", r#"{"tags":["gguf","license:llama3.1"]}"#, Some("llama3.1")),
            ("x/y", r#"{"cardData":{"base_model":["meta-llama/Llama-3.2-1B"]}}"#, Some("llama3.2")),
            ("meta-llama/Llama-2-7b-hf", r#"{"cardData":{"license":"other"}}"#, Some("llama2")),
            ("x/y", r#"{"cardData":{"license":"other"}}"#, Some("other")),
            ("x/y", "{}", None),
        ];
        for (repo, json, expected) in cases {
            assert_eq!(license(repo, json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn the_next_page_is_read_from_a_link_header() {
        let link = r#"<https://h/a?cursor=1>; rel="prev", <https://h/a?cursor=3>; rel="next""#;
        assert_eq!(next_page(link).as_deref(), Some("https://h/a?cursor=3"));
        assert_eq!(next_page(r#"<https://h/a>; rel="last""#), None);
        assert_eq!(next_page("garbage"), None);
    }
}
