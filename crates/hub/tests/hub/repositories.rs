//! Which files of a repository are taken, and what a user hears when there are none.

use alti_hub::{HubError, HubSettings, Source};
use serde_json::json;

use crate::fake_hub::{COMMIT, FakeHub, Faults};
use crate::support::{REPO, TestStore, Watcher, names, noise, pull, pull_watched, request, settings};

fn hub_with(paths: &[&str]) -> FakeHub {
    let hub = FakeHub::start();
    for (seed, path) in paths.iter().enumerate() {
        if path.ends_with(".json") || path.ends_with(".txt") {
            hub.add_small(REPO, path, &format!("{{\"seed\": {seed}}}"));
        } else {
            hub.add_large(REPO, path, noise(5000, seed as u32));
        }
    }
    hub
}

fn paths(manifest: &alti_hub::Manifest) -> Vec<&str> {
    manifest.files.iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn a_quantisation_is_chosen_by_its_tag() {
    let hub = hub_with(&["m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ4_XS.gguf"]);
    let test = TestStore::new();
    let pulled = pull(&test.store, "hf:owner/model:q8_0", &hub).unwrap();
    assert_eq!(paths(&pulled.manifest), ["m-Q8_0.gguf"]);
    assert_eq!(pulled.manifest.name, "owner/model:Q8_0");
    assert_eq!(pulled.manifest.quantization.as_deref(), Some("Q8_0"));
    let error = pull(&test.store, "hf:owner/model:Q6_K", &hub).unwrap_err().to_string();
    assert!(error.contains("Q4_K_M, Q8_0") && error.contains("IQ4_XS"), "{error}");

    pull(&test.store, REPO, &hub).unwrap();
    assert_eq!(test.store.list().unwrap().models.len(), 2);
    assert!(matches!(test.store.resolve(REPO), Err(HubError::AmbiguousName { .. })));
    assert!(test.store.resolve("hf:Owner/Model:q8_0").unwrap().path.ends_with("m-Q8_0.gguf"));
}

#[test]
fn a_split_model_comes_whole_and_is_loaded_by_its_first_part() {
    let hub =
        hub_with(&["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf"]);
    let test = TestStore::new();
    let pulled = pull(&test.store, "owner/model:Q8_0", &hub).unwrap();
    assert_eq!(pulled.manifest.files.len(), 2);
    assert!(pulled.path.ends_with("Q8_0/m-Q8_0-00001-of-00002.gguf"));
    assert_eq!(names(pulled.path.parent().unwrap()).len(), 2);
}

#[test]
fn a_safetensors_repository_becomes_a_folder_with_real_names() {
    let hub = hub_with(&[
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "original/consolidated.00.pth",
        "pytorch_model.bin",
        "tokenizer.json",
    ]);
    let test = TestStore::new();
    let pulled = pull(&test.store, "hf:owner/model@main", &hub).unwrap();
    assert_eq!(
        names(&pulled.path),
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    let Source::Hub { commit, requested, repo, .. } = &pulled.manifest.source else {
        panic!("not from the Hub")
    };
    assert_eq!((commit.as_str(), requested.as_str(), repo.as_str()), (COMMIT, "main", REPO));
    assert_eq!(test.store.resolve("owner/model@main").unwrap().path, pulled.path);
    assert_eq!(test.store.resolve(&format!("owner/model@{}", &COMMIT[..8])).unwrap().path, pulled.path);
}

#[test]
fn file_patterns_add_to_what_is_there() {
    let hub = hub_with(&[
        "config.json",
        "model.safetensors",
        "original/params.json",
        "original/consolidated.00.pth",
    ]);
    let test = TestStore::new();
    pull(&test.store, REPO, &hub).unwrap();
    let mut more = request(REPO);
    more.files = vec!["original/*".to_string()];
    let pulled = pull_watched(&test.store, &more, &settings(&hub), &Watcher::default()).unwrap();
    assert_eq!(
        paths(&pulled.manifest),
        ["config.json", "model.safetensors", "original/consolidated.00.pth", "original/params.json"]
    );
}

#[test]
fn a_second_pull_fetches_nothing() {
    let hub = hub_with(&["m-Q4_K_M.gguf"]);
    let test = TestStore::new();
    assert!(!pull(&test.store, REPO, &hub).unwrap().already_present);
    hub.take_sent();
    assert!(pull(&test.store, REPO, &hub).unwrap().already_present);
    assert_eq!(hub.take_sent(), 0);
}

#[test]
fn contents_that_another_model_has_are_not_fetched_again() {
    let hub = FakeHub::start();
    hub.add_large("a/one", "m-Q4_0.gguf", noise(50_000, 3));
    hub.add_large("b/two", "other-Q4_0.gguf", noise(50_000, 3));
    let test = TestStore::new();
    pull(&test.store, "a/one", &hub).unwrap();
    hub.take_sent();
    assert!(pull(&test.store, "b/two", &hub).unwrap().path.ends_with("other-Q4_0.gguf"));
    assert_eq!(hub.take_sent(), 0);
    assert_eq!(test.names("blobs/sha256").len(), 1);
}

#[test]
fn long_lists_of_files_are_read_to_the_end() {
    let many: Vec<String> = (0..25).map(|n| format!("part-{n:02}.safetensors")).collect();
    let hub = hub_with(&many.iter().map(String::as_str).collect::<Vec<_>>());
    hub.set_faults(Faults { page: 10, ..Faults::default() });
    let pulled = pull(&TestStore::new().store, REPO, &hub).unwrap();
    assert_eq!(pulled.manifest.files.len(), 25);
    assert_eq!(hub.asked().iter().filter(|asked| asked.path.contains("/tree/")).count(), 3);
}

#[test]
fn a_revision_with_a_slash_is_asked_for_as_one_name() {
    let hub = hub_with(&["m.gguf"]);
    pull(&TestStore::new().store, "owner/model@refs/pr/1", &hub).unwrap();
    assert!(hub.asked()[0].path.ends_with("/revision/refs%2Fpr%2F1"), "{:?}", hub.asked()[0]);
}

#[test]
fn what_does_not_exist_is_named() {
    let hub = hub_with(&["m.gguf"]);
    let test = TestStore::new();
    for spec in ["hf:owner/nothing", "hf:owner/model@nowhere"] {
        let error = pull(&test.store, spec, &hub).unwrap_err();
        assert!(matches!(error, HubError::NotFound { .. }), "{error}");
        let name = spec.trim_start_matches("hf:").split('@').next().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
    let unreachable = HubSettings { endpoint: "http://127.0.0.1:9".to_string(), ..settings(&hub) };
    let error = pull_watched(&test.store, &request(REPO), &unreachable, &Watcher::default()).unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error}");
}

#[test]
fn gated_files_say_what_to_do() {
    let hub = hub_with(&["m.gguf"]);
    hub.set_faults(Faults { gated: Some("right".to_string()), ..Faults::default() });
    let test = TestStore::new();
    let with_token = |token: Option<&str>| {
        let settings = HubSettings { token: token.map(str::to_string), ..settings(&hub) };
        pull_watched(&test.store, &request(REPO), &settings, &Watcher::default())
    };
    let error = with_token(None).unwrap_err().to_string();
    assert!(error.contains("HF_TOKEN") && error.contains("accept the licence at"), "{error}");
    assert!(error.contains("Access to model is restricted"), "{error}");
    let error = with_token(Some("wrong")).unwrap_err().to_string();
    assert!(error.contains(&format!("request access at {}/owner/model", hub.endpoint)), "{error}");
    assert!(!error.contains("wrong"), "the token must not be shown: {error}");
    with_token(Some("right")).unwrap();
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for hostile in ["../../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "C:\\evil.gguf", "nul.gguf"] {
        let hub = hub_with(&[hostile]);
        let test = TestStore::new();
        let error = pull(&test.store, REPO, &hub).unwrap_err();
        assert!(matches!(error, HubError::UnsafePath { .. }), "{hostile}: {error}");
        assert!(test.names("models").is_empty() && test.names("blobs/sha256").is_empty());
    }
}

#[test]
fn absurd_sizes_are_refused_without_being_believed() {
    let hub = hub_with(&["a.safetensors", "b.safetensors", "config.json"]);
    let test = TestStore::new();
    hub.set_faults(Faults { announced_size: Some(u64::MAX - 5), ..Faults::default() });
    let error = pull(&test.store, REPO, &hub).unwrap_err();
    assert!(matches!(error, HubError::NoSpace { .. }), "{error}");
    hub.set_faults(Faults { announced_size: Some(10), ..Faults::default() });
    let error = pull(&test.store, REPO, &hub).unwrap_err();
    assert!(matches!(error, HubError::WrongSize { expected: 10, .. }), "{error}");
    assert!(test.names("blobs/sha256").is_empty());
}

#[test]
fn the_licence_of_the_model_card_is_recorded() {
    let hub = hub_with(&["m.gguf"]);
    hub.set_card(REPO, json!({"license": "apache-2.0"}));
    let manifest = pull(&TestStore::new().store, REPO, &hub).unwrap().manifest;
    assert_eq!(manifest.license.as_deref(), Some("apache-2.0"));
}
