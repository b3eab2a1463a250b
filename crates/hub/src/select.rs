//! Which files of a repository make the model that was asked for.
//!
//! A repository often holds a dozen quantisations of one model, or the same weights in three
//! formats. Nobody wants all of them, so the choice is made here, from file names alone:
//!
//! - file patterns, if given, decide alone;
//! - a quantisation tag picks the GGUF file (or split set) with that tag in its name;
//! - a repository with GGUF files gives the first of [`PREFERRED`] that it has;
//! - otherwise the safetensors weights with their configuration and tokenizer, and not the same
//!   weights again as `.bin`, `.pth` or in subfolders;
//! - a repository with nothing but Meta's own checkpoint gives that.
//!
//! Licence and notice files come along with any choice that a tag or the default made.

use crate::error::HubError;

/// Quantisations in the order of preference when none is asked for: the usual compromise first,
/// then what is close to it in size, then larger and smaller ones.
pub const PREFERRED: [&str; 22] = [
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4", "Q5_K_S", "Q5_1", "Q5_0",
    "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "Q2_K", "BF16", "F16", "F32", "IQ2_M",
];

/// Whether a file is model weights in GGUF (and not a vision projector or an importance matrix).
pub(crate) fn is_model_gguf(path: &str) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    name.ends_with(".gguf")
        && !name.contains("mmproj")
        && !name.starts_with("imatrix")
        && !name.contains("-imatrix")
}

/// The part of a name that all parts of a split GGUF share: `m-00001-of-00003.gguf` gives `m`.
pub(crate) fn split_stem(path: &str) -> &str {
    split_part(path).map_or(path, |(stem, _, _)| stem)
}

/// Stem, number and count of a part of a split GGUF.
fn split_part(path: &str) -> Option<(&str, u32, u32)> {
    let base = path.strip_suffix(".gguf")?;
    let (rest, count) = base.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !five_digits(number) || !five_digits(count) {
        return None;
    }
    Some((stem, number.parse().ok()?, count.parse().ok()?))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The quantisation that a GGUF file's name states, in upper case.
pub(crate) fn quantization_of(path: &str) -> Option<String> {
    if !is_model_gguf(path) {
        return None;
    }
    let stem = split_stem(path).trim_end_matches(".gguf");
    stem.rsplit(['-', '.', '/']).map(str::to_ascii_uppercase).find(|token| is_quantization(token))
}

fn is_quantization(token: &str) -> bool {
    if ["BF16", "F16", "F32", "FP16", "FP32", "MXFP4", "MXFP4_MOE"].contains(&token) {
        return true;
    }
    let digits = token.strip_prefix("IQ").or(token.strip_prefix("TQ")).or(token.strip_prefix('Q'));
    let Some((bits, kind)) = digits.and_then(|rest| rest.split_once('_')) else { return false };
    bits.len() == 1 && bits.bytes().all(|byte| byte.is_ascii_digit()) && !kind.is_empty()
}

/// Whether a path has the tag as a whole word, in any case: `Q4_K` is not in `x-Q4_K_M.gguf`,
/// `Q4_XS` not in `IQ4_XS`.
fn has_tag(path: &str, tag: &str) -> bool {
    let (path, tag) = (path.to_ascii_uppercase(), tag.to_ascii_uppercase());
    path.match_indices(&tag).any(|(at, _)| {
        let before = path[..at].bytes().next_back();
        let after = path[at + tag.len()..].bytes().next();
        before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'_')
            && after.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'_')
    })
}

/// The chosen files and, when they are one quantisation, its tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Paths in the repository, in name order.
    pub(crate) paths: Vec<String>,
    /// The tag that tells this choice from others of the same repository.
    pub(crate) tag: Option<String>,
}

/// Chooses among the files of `repo`; the module's head states the rules.
///
/// # Errors
/// [`HubError::Selection`] when nothing fits, or more than one thing does.
pub(crate) fn select(
    repo: &str,
    paths: &[String],
    tag: Option<&str>,
    patterns: &[String],
) -> Result<Selection, HubError> {
    let mut sorted: Vec<&str> = paths.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    if !patterns.is_empty() {
        return by_patterns(repo, &sorted, patterns);
    }
    let models: Vec<&str> = sorted.iter().copied().filter(|path| is_model_gguf(path)).collect();
    let weights = match tag {
        Some(tag) => gguf_set(repo, &models, tag)?,
        None if !models.is_empty() => preferred_gguf(repo, &models)?,
        None => {
            let paths = other_weights(repo, &sorted)?;
            return Ok(Selection { paths, tag: None });
        }
    };
    let tag = quantization_of(weights[0]).or(tag.map(str::to_ascii_uppercase));
    let mut chosen: Vec<String> = weights.into_iter().map(str::to_string).collect();
    chosen.extend(sorted.iter().filter(|path| is_notice(path)).map(|path| path.to_string()));
    chosen.sort();
    Ok(Selection { paths: chosen, tag })
}

fn by_patterns(repo: &str, paths: &[&str], patterns: &[String]) -> Result<Selection, HubError> {
    let mut globs = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        let glob = glob::Pattern::new(pattern).map_err(|error| HubError::BadSpec {
            spec: pattern.clone(),
            reason: format!("the file pattern is malformed: {error}"),
        })?;
        globs.push(glob);
    }
    let chosen: Vec<String> = paths
        .iter()
        .filter(|path| globs.iter().any(|glob| glob.matches(path)))
        .map(|path| path.to_string())
        .collect();
    if chosen.is_empty() {
        return Err(nothing(repo, format!("no file matches {}", patterns.join(" or ")), paths));
    }
    Ok(Selection { paths: chosen, tag: None })
}

/// The one GGUF file or complete split set with that tag.
fn gguf_set<'a>(repo: &str, models: &[&'a str], tag: &str) -> Result<Vec<&'a str>, HubError> {
    let fitting: Vec<&str> = models.iter().copied().filter(|path| has_tag(path, tag)).collect();
    let mut sets: Vec<&str> = fitting.iter().map(|path| split_stem(path)).collect();
    sets.dedup();
    match sets.as_slice() {
        [] => Err(nothing(repo, format!("no GGUF file with `{tag}` in its name"), &choices(models))),
        [stem] => {
            complete_set(repo, fitting.iter().copied().filter(|path| split_stem(path) == *stem).collect())
        }
        _ => Err(nothing(
            repo,
            format!("several GGUF files have `{tag}` in their names; give a file pattern"),
            &fitting,
        )),
    }
}

fn complete_set<'a>(repo: &str, parts: Vec<&'a str>) -> Result<Vec<&'a str>, HubError> {
    let Some((_, _, count)) = parts.first().and_then(|path| split_part(path)) else { return Ok(parts) };
    let numbers: Vec<u32> =
        parts.iter().filter_map(|path| split_part(path)).map(|(_, number, _)| number).collect();
    if numbers.len() == count as usize && numbers.iter().copied().eq(1..=count) {
        return Ok(parts);
    }
    Err(nothing(repo, format!("the split model has {} of its {count} parts", numbers.len()), &parts))
}

fn preferred_gguf<'a>(repo: &str, models: &[&'a str]) -> Result<Vec<&'a str>, HubError> {
    for tag in PREFERRED {
        if models.iter().any(|path| has_tag(path, tag)) {
            return gguf_set(repo, models, tag);
        }
    }
    let first = split_stem(models[0]);
    if models.iter().all(|path| split_stem(path) == first) {
        return complete_set(repo, models.to_vec());
    }
    Err(nothing(
        repo,
        "several GGUF files and no usual quantisation among them; give a file pattern".into(),
        models,
    ))
}

/// What a user may put after the colon: the tags, or the file names that have none.
fn choices(models: &[&str]) -> Vec<String> {
    let mut choices: Vec<String> =
        models.iter().map(|path| quantization_of(path).unwrap_or_else(|| path.to_string())).collect();
    choices.sort();
    choices.dedup();
    choices
}

/// Weights that are not GGUF, with what belongs to them.
fn other_weights(repo: &str, paths: &[&str]) -> Result<Vec<String>, HubError> {
    let top: Vec<&str> = paths.iter().copied().filter(|path| !path.contains('/')).collect();
    let safetensors: Vec<&str> = top.iter().copied().filter(|path| path.ends_with(".safetensors")).collect();
    let is_meta = |path: &str| path.starts_with("consolidated.");
    let has_meta_weights = top.iter().any(|path| is_meta(path) && path.ends_with(".pth"));
    let weights: Vec<&str> = if !safetensors.is_empty() {
        // The same weights once more under the publisher's own names.
        let duplicates = safetensors.iter().any(|path| !is_meta(path));
        safetensors.into_iter().filter(|path| !(duplicates && is_meta(path))).collect()
    } else if has_meta_weights && top.contains(&"params.json") {
        top.iter().copied().filter(|path| is_meta(path) && path.ends_with(".pth")).collect()
    } else {
        let reason = "neither GGUF nor safetensors weights at its top level; give a file pattern".to_string();
        return Err(nothing(repo, reason, paths));
    };
    let companions = top.iter().copied().filter(|path| is_companion(path));
    let mut chosen: Vec<String> = weights.into_iter().chain(companions).map(str::to_string).collect();
    chosen.sort();
    Ok(chosen)
}

/// Configuration, tokenizer and template files beside the weights.
fn is_companion(path: &str) -> bool {
    const EXTENSIONS: [&str; 4] = [".json", ".jinja", ".model", ".txt"];
    let name = path.to_ascii_lowercase();
    is_notice(path)
        || (EXTENSIONS.iter().any(|extension| name.ends_with(extension)) && !name.starts_with('.'))
}

/// Files that a licence wants passed on with the weights.
fn is_notice(path: &str) -> bool {
    let name = path.to_ascii_uppercase();
    ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"].iter().any(|prefix| name.starts_with(prefix))
}

/// A refusal that lists what there is, but not a thousand names.
fn nothing<S: AsRef<str>>(repo: &str, reason: String, available: &[S]) -> HubError {
    const SHOWN: usize = 40;
    let mut names: Vec<String> = available.iter().take(SHOWN).map(|name| name.as_ref().to_string()).collect();
    if available.len() > SHOWN {
        names.push(format!("and {} more", available.len() - SHOWN));
    }
    HubError::Selection { repo: repo.to_string(), reason, available: names }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn chosen(files: &[&str], tag: Option<&str>) -> Vec<String> {
        select("o/r", &names(files), tag, &[]).unwrap().paths
    }

    const MANY: [&str; 9] = [
        "README.md",
        "m-BF16.gguf",
        "m-IQ4_XS.gguf",
        "m-Q4_K_M.gguf",
        "m-Q4_K_S.gguf",
        "m-Q8_0.gguf",
        "m-f16.gguf",
        "mmproj-m-f16.gguf",
        "imatrix.gguf",
    ];

    #[test]
    fn a_tag_picks_its_file_in_any_case() {
        assert_eq!(chosen(&MANY, Some("q4_k_m")), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen(&MANY, Some("F16")), ["m-f16.gguf"]);
        assert_eq!(chosen(&["x.Q4_1.gguf", "x.Q4_0.gguf"], Some("Q4_1")), ["x.Q4_1.gguf"]);
    }

    #[test]
    fn a_tag_is_a_whole_word() {
        for tag in ["Q4_K", "Q4_XS", "4_K_M", "Q5_K_M"] {
            let error = select("o/r", &names(&MANY), Some(tag), &[]).unwrap_err().to_string();
            assert!(error.contains("Q4_K_S") && error.contains("IQ4_XS"), "{error}");
        }
    }

    #[test]
    fn split_sets_come_whole_or_not_at_all() {
        let files = ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf"];
        assert_eq!(chosen(&files, Some("Q8_0")), &files[..2]);
        let error = select("o/r", &names(&files[1..]), Some("q8_0"), &[]).unwrap_err().to_string();
        assert!(error.contains("1 of its 2 parts"), "{error}");
    }

    #[test]
    fn two_files_of_one_tag_are_ambiguous() {
        let files = ["UD-Q4_K_XL/m.gguf", "m-UD-Q4_K_XL.gguf"];
        let error = select("o/r", &names(&files), Some("Q4_K_XL"), &[]).unwrap_err().to_string();
        assert!(error.contains("several") && error.contains("UD-Q4_K_XL/m.gguf"), "{error}");
    }

    #[test]
    fn without_a_tag_the_usual_compromise_is_taken() {
        let selection = select("o/r", &names(&MANY), None, &[]).unwrap();
        assert_eq!((selection.paths, selection.tag.as_deref()), (names(&["m-Q4_K_M.gguf"]), Some("Q4_K_M")));
        assert_eq!(chosen(&["m.gguf", "LICENSE"], None), ["LICENSE", "m.gguf"]);
        assert_eq!(chosen(&["m-F16.gguf", "m-Q8_0.gguf"], None), ["m-Q8_0.gguf"]);
    }

    #[test]
    fn safetensors_come_with_their_configuration_and_without_duplicates() {
        let files = [
            ".gitattributes",
            "LICENSE.txt",
            "README.md",
            "USE_POLICY.md",
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "pytorch_model.bin",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
        ];
        let expected = [
            "LICENSE.txt",
            "USE_POLICY.md",
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
        ];
        assert_eq!(chosen(&files, None), expected);
    }

    #[test]
    fn a_repository_of_metas_own_files_gives_those() {
        let files =
            ["README.md", "consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"];
        assert_eq!(chosen(&files, None), &files[1..]);
    }

    #[test]
    fn patterns_decide_alone() {
        let files = names(&["original/params.json", "original/consolidated.00.pth", "config.json"]);
        let selection = select("o/r", &files, None, &names(&["original/*"])).unwrap();
        assert_eq!(selection.paths, ["original/consolidated.00.pth", "original/params.json"]);
        assert!(select("o/r", &files, None, &names(&["*.gguf"])).is_err());
        assert!(matches!(select("o/r", &files, None, &names(&["[a"])), Err(HubError::BadSpec { .. })));
    }

    #[test]
    fn quantisations_are_read_from_names() {
        for (path, tag) in [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("a/b-q5_k_m-00001-of-00002.gguf", Some("Q5_K_M")),
            ("m-bf16.gguf", Some("BF16")),
            ("QwQ.gguf", None),
            ("m-Q4_1.safetensors", None),
        ] {
            assert_eq!(quantization_of(path).as_deref(), tag, "{path}");
        }
    }
}
