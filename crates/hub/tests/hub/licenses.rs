//! Llama-licensed models ask once, and the store remembers who agreed.

use alti_hub::{HubError, ModelSpec, PullRequest, catalogue};
use serde_json::json;

use crate::fake_hub::FakeHub;
use crate::support::{REPO, TestStore, Watcher, noise, pull, pull_watched, request, settings};

fn hub_with_llama(repo: &str) -> FakeHub {
    let hub = FakeHub::start();
    hub.add_large(repo, "m-Q4_K_M.gguf", noise(4000, 1));
    hub.set_card(repo, json!({"license": "llama3.2"}));
    hub
}

#[test]
fn the_terms_come_before_the_download_and_are_accepted_once() {
    let hub = hub_with_llama(REPO);
    let test = TestStore::new();
    let Err(HubError::LicenseNotAccepted { license, terms, model }) = pull(&test.store, REPO, &hub) else {
        panic!("a Llama model came without consent")
    };
    assert_eq!((license.id, model.as_str()), ("llama3.2", "owner/model:Q4_K_M"));
    assert!(
        terms.contains("700 million") && terms.contains("Built with Llama") && terms.contains(license.link)
    );
    assert_eq!(hub.take_sent(), 0);

    let accepting = PullRequest { accept_license: Some("ada".to_string()), ..request(REPO) };
    pull_watched(&test.store, &accepting, &settings(&hub), &Watcher::default()).unwrap();
    let accepted = test.store.accepted_licenses().unwrap();
    assert_eq!(accepted.len(), 1);
    let entry = &accepted[0];
    assert_eq!(
        (entry.license.as_str(), entry.who.as_str(), entry.model.as_str()),
        ("llama3.2", "ada", model.as_str())
    );
    assert!(entry.when.ends_with('Z'));
    assert_eq!(entry.terms_sha256.as_str(), crate::fake_hub::sha256(terms.as_bytes()));

    test.store.remove(REPO).unwrap();
    pull(&test.store, REPO, &hub).unwrap();
    assert_eq!(test.store.accepted_licenses().unwrap(), accepted);
}

#[test]
fn a_repackaged_llama_without_a_licence_on_its_card_asks_too() {
    let hub = FakeHub::start();
    hub.add_large(REPO, "m.gguf", noise(4000, 1));
    hub.set_card(REPO, json!({"base_model": "meta-llama/Llama-3.1-8B-Instruct"}));
    let error = pull(&TestStore::new().store, REPO, &hub).unwrap_err();
    assert!(
        matches!(error, HubError::LicenseNotAccepted { license, .. } if license.id == "llama3.1"),
        "{error}"
    );
}

#[test]
fn a_catalogue_name_asks_without_any_request() {
    let hub = FakeHub::start();
    let entry = catalogue::find("llama3.3-70b-instruct").unwrap();
    let wanted = PullRequest::new(ModelSpec::Catalogue { entry, tag: None });
    let test = TestStore::new();
    let error = pull_watched(&test.store, &wanted, &settings(&hub), &Watcher::default()).unwrap_err();
    assert!(
        matches!(error, HubError::LicenseNotAccepted { license, .. } if license.id == "llama3.3"),
        "{error}"
    );
    assert!(hub.asked().is_empty());
}

#[test]
fn a_catalogue_name_with_a_tag_comes_from_its_gguf_repository() {
    let entry = catalogue::find("llama3.2-1b-instruct").unwrap();
    let hub = hub_with_llama(entry.gguf_repo.unwrap());
    let test = TestStore::new();
    let spec = ModelSpec::parse("llama3.2-1b-instruct:Q4_K_M").unwrap();
    let wanted = PullRequest { accept_license: Some("ada".to_string()), ..PullRequest::new(spec) };
    let pulled = pull_watched(&test.store, &wanted, &settings(&hub), &Watcher::default()).unwrap();
    assert_eq!(pulled.manifest.name, "llama3.2-1b-instruct:Q4_K_M");
    assert_eq!(pulled.manifest.parameters, Some(1_235_814_400));
    assert_eq!(test.store.resolve("llama3.2-1b-instruct").unwrap().path, pulled.path);
}
