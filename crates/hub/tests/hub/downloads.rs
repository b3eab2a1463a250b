//! Downloads that go wrong half-way: they continue where they stopped, and nothing wrong is kept.

use std::fs;
use std::time::{Duration, Instant};

use alti_hub::{HubError, HubSettings, Verified};

use crate::fake_hub::{FakeHub, Faults, sha256};
use crate::support::{REPO, TestStore, Watcher, noise, pull, pull_watched, request, settings};

const SIZE: usize = 20 << 20;

/// A Hub with one large file.
fn hub_with_model() -> (FakeHub, Vec<u8>) {
    let hub = FakeHub::start();
    let contents = noise(SIZE, 1);
    hub.add_large(REPO, "model-Q4_K_M.gguf", contents.clone());
    (hub, contents)
}

#[test]
fn a_large_file_comes_over_several_connections_and_is_whole() {
    let (hub, contents) = hub_with_model();
    let test = TestStore::new();
    let pulled = pull(&test.store, REPO, &hub).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), contents);
    assert!(pulled.path.ends_with("files/model-Q4_K_M.gguf"));
    let file = &pulled.manifest.files[0];
    assert_eq!((file.sha256.as_str(), file.verified), (sha256(&contents).as_str(), Verified::Sha256));
    let ranges = hub.asked().iter().filter(|asked| asked.at_content_server && asked.range.is_some()).count();
    assert!(ranges >= 4, "{ranges} ranges");
    assert_eq!(hub.take_sent(), SIZE);
    assert!(test.names("partial").is_empty());
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_content_server() {
    let (hub, _) = hub_with_model();
    pull(&TestStore::new().store, REPO, &hub).unwrap();
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| asked.at_content_server));
    for asked in asked {
        let expected = (!asked.at_content_server).then(|| "Bearer secret-token".to_string());
        assert_eq!(asked.token, expected, "{asked:?}");
    }
}

#[test]
fn an_interrupted_download_asks_only_for_what_is_missing() {
    let (hub, contents) = hub_with_model();
    let test = TestStore::new();
    let stopping = Watcher { stop_at: Some(SIZE as u64 / 3), ..Watcher::default() };
    hub.set_faults(Faults { pause: Duration::from_millis(3), ..Faults::default() });
    let error = pull_watched(&test.store, &request(REPO), &settings(&hub), &stopping).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert!(test.store.list().unwrap().models.is_empty());

    hub.set_faults(Faults::default());
    hub.take_sent();
    let watcher = Watcher::default();
    let pulled = pull_watched(&test.store, &request(REPO), &settings(&hub), &watcher).unwrap();
    let present = watcher.present.lock().unwrap().unwrap() as usize;
    assert!(present >= SIZE / 3, "only {present} bytes survived");
    assert_eq!(hub.bytes_asked(SIZE), SIZE - present);
    assert_eq!(fs::read(&pulled.path).unwrap(), contents);
}

#[test]
fn stopping_does_not_wait_for_a_server_that_says_nothing() {
    let (hub, _) = hub_with_model();
    let test = TestStore::new();
    hub.set_faults(Faults { pause: Duration::from_secs(60), ..Faults::default() });
    let watcher = Watcher::default();
    let patient = HubSettings { idle_timeout: Duration::from_secs(300), ..settings(&hub) };
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull_watched(&test.store, &request(REPO), &patient, &watcher));
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        watcher.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(pulling.join().unwrap(), Err(HubError::Cancelled)));
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    });
}

#[test]
fn connections_that_break_off_are_taken_up_again_as_long_as_bytes_come() {
    let (hub, contents) = hub_with_model();
    hub.set_faults(Faults { cut_after: Some(1_000_003), ..Faults::default() });
    let pulled = pull(&TestStore::new().store, REPO, &hub).unwrap();
    assert_eq!(pulled.manifest.files[0].sha256.as_str(), sha256(&contents));
    assert_eq!(hub.take_sent(), SIZE);
}

#[test]
fn a_silent_server_counts_as_a_failure() {
    let (hub, _) = hub_with_model();
    hub.set_faults(Faults { pause: Duration::from_secs(60), ..Faults::default() });
    let hasty = HubSettings { idle_timeout: Duration::from_millis(100), retries: 1, ..settings(&hub) };
    let test = TestStore::new();
    let error = pull_watched(&test.store, &request(REPO), &hasty, &Watcher::default()).unwrap_err();
    assert!(matches!(error, HubError::Network { attempts: 2, .. }), "{error}");
}

#[test]
fn server_errors_are_retried_and_then_reported() {
    let (hub, _) = hub_with_model();
    let test = TestStore::new();
    hub.set_faults(Faults { failing: (u32::MAX, 503), ..Faults::default() });
    let error = pull(&test.store, REPO, &hub).unwrap_err().to_string();
    assert!(error.contains("after 3 attempts") && error.contains("HTTP 503"), "{error}");

    // Another server: a request that the failed pull had under way may still use up a fault.
    let (hub, _) = hub_with_model();
    hub.set_faults(Faults { failing: (2, 500), ..Faults::default() });
    let watcher = Watcher::default();
    pull_watched(&test.store, &request(REPO), &settings(&hub), &watcher).unwrap();
    assert_eq!(watcher.count("retrying HTTP 500"), 2);
}

#[test]
fn contents_with_the_wrong_hash_are_refused_and_dropped() {
    let (hub, contents) = hub_with_model();
    let test = TestStore::new();
    hub.set_faults(Faults { wrong_bytes: true, ..Faults::default() });
    let error = pull(&test.store, REPO, &hub).unwrap_err();
    assert!(
        matches!(&error, HubError::WrongHash { expected, .. } if *expected == sha256(&contents)),
        "{error}"
    );
    assert!(test.names("partial").is_empty() && test.names("blobs/sha256").is_empty());
    assert!(test.store.list().unwrap().models.is_empty());

    hub.set_faults(Faults::default());
    pull(&test.store, REPO, &hub).unwrap();
}

#[test]
fn small_files_are_checked_too() {
    let hub = FakeHub::start();
    hub.add_small(REPO, "config.json", "{\"model_type\":\"llama\"}");
    hub.add_large(REPO, "model.safetensors", noise(1000, 2));
    hub.set_faults(Faults { wrong_bytes: true, ..Faults::default() });
    let test = TestStore::new();
    let error = pull(&test.store, REPO, &hub).unwrap_err();
    assert!(matches!(error, HubError::WrongHash { algorithm: "git blob sha1", .. }), "{error}");
    hub.set_faults(Faults::default());
    let manifest = pull(&test.store, REPO, &hub).unwrap().manifest;
    assert_eq!(manifest.files[0].verified, Verified::GitBlob);
    assert_eq!(manifest.architecture.as_deref(), Some("llama"));
}

#[test]
fn a_partial_file_that_rotted_is_fetched_anew() {
    let (hub, contents) = hub_with_model();
    let test = TestStore::new();
    let stopping = Watcher { stop_at: Some(SIZE as u64 / 2), ..Watcher::default() };
    pull_watched(&test.store, &request(REPO), &settings(&hub), &stopping).unwrap_err();
    let part = test.folder.path().join("partial").join(format!("sha256-{}.part", sha256(&contents)));
    let mut bytes = fs::read(&part).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(&part, bytes).unwrap();
    let pulled = pull(&test.store, REPO, &hub).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), contents);
}

#[test]
fn a_server_without_ranges_still_delivers() {
    let (hub, contents) = hub_with_model();
    let test = TestStore::new();
    hub.set_faults(Faults { ignore_range: true, cut_after: Some(SIZE / 2), cuts: 1, ..Faults::default() });
    let pulled = pull(&test.store, REPO, &hub).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), contents);
}

#[test]
fn a_server_that_answers_another_range_is_refused() {
    let (hub, _) = hub_with_model();
    hub.set_faults(Faults { shift_range: true, ..Faults::default() });
    let error = pull(&TestStore::new().store, REPO, &hub).unwrap_err();
    assert!(matches!(error, HubError::Protocol { .. } | HubError::WrongHash { .. }), "{error}");
}

#[test]
fn without_digests_an_entity_tag_guards_the_continuation() {
    let (hub, _) = hub_with_model();
    let test = TestStore::new();
    let no_digests =
        |tag: &str| Faults { no_tree: true, plain_tag: Some(tag.to_string()), ..Faults::default() };
    hub.set_faults(Faults { pause: Duration::from_millis(3), ..no_digests("first") });
    let stopping = Watcher { stop_at: Some(SIZE as u64 / 2), ..Watcher::default() };
    pull_watched(&test.store, &request(REPO), &settings(&hub), &stopping).unwrap_err();

    let changed = noise(SIZE, 9);
    hub.add_large(REPO, "model-Q4_K_M.gguf", changed.clone());
    hub.set_faults(no_digests("second"));
    hub.take_sent();
    let pulled = pull(&test.store, REPO, &hub).unwrap();
    assert!(hub.asked().iter().any(|asked| asked.if_range.as_deref() == Some("\"first\"")));
    assert_eq!(fs::read(&pulled.path).unwrap(), changed, "halves of two files were joined");
    assert_eq!(pulled.manifest.files[0].verified, Verified::Computed);
}
