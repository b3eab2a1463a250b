use super::Fixture;
use alti_store::{KeyState, Money, NewKey, Quotas, now};

fn new_key() -> NewKey {
    NewKey {
        name: "shop".to_owned(),
        tenant: "shop".to_owned(),
        scopes: ["inference", "data", "data"].map(str::to_owned).to_vec(),
        quotas: Quotas {
            requests_per_day: Some(1000),
            tokens_per_day: Some(u64::MAX),
            cost_per_day: Some(Money::from_nanos(5)),
            concurrency: Some(4),
        },
        expires_at: Some(now() + 100),
    }
}

#[test]
fn a_key_is_found_by_its_text_and_by_nothing_else() {
    let fixture = Fixture::new();
    let keys = fixture.store.keys();
    assert!(!keys.any().expect("any"));
    let (key, secret) = keys.create(new_key()).expect("a key");
    assert!(keys.any().expect("any"));
    let found = keys.find(&secret).expect("find").expect("the key");
    assert_eq!(found.id, key.id);
    assert_eq!(found.scopes, ["data", "inference"]);
    assert_eq!(found.quotas.requests_per_day, Some(1000));
    assert_eq!(found.quotas.tokens_per_day, Some(i64::MAX as u64), "the most that can be stored");
    assert!(secret.ends_with(&key.hint));
    for wrong in ["", "sk-alti-", &secret[..secret.len() - 1], &secret.to_uppercase(), &key.id] {
        assert_eq!(keys.find(wrong).expect("find"), None, "{wrong}");
    }
}

#[test]
fn the_file_does_not_hold_a_keys_text() {
    let fixture = Fixture::new();
    let (_, secret) = fixture.store.keys().create(new_key()).expect("a key");
    let random = &secret.as_bytes()["sk-alti-".len()..];
    for name in ["alti.db", "alti.db-wal"] {
        let bytes = std::fs::read(fixture.folder.path().join(name)).expect(name);
        assert!(!bytes.windows(random.len()).any(|window| window == random), "{name} holds the key");
    }
}

#[test]
fn a_key_ends_by_time_or_by_its_owner() {
    let fixture = Fixture::new();
    let (key, secret) = fixture.store.keys().create(new_key()).expect("a key");
    assert_eq!(key.state(now()), KeyState::Active);
    assert_eq!(key.state(key.expires_at.expect("an end")), KeyState::Expired);
    let revoked = fixture.store.keys().revoke(&key.id).expect("revoked");
    assert_eq!(revoked.state(now()), KeyState::Revoked);
    let found = fixture.store.keys().find(&secret).expect("find").expect("it is still known");
    assert_eq!(found.state(now()), KeyState::Revoked);
    let again = fixture.store.keys().revoke(&key.id).expect("again");
    assert_eq!(again.revoked_at, revoked.revoked_at);
    let error = fixture.store.keys().revoke("key_none").expect_err("there is none");
    assert_eq!(error.to_string(), "no key with the id `key_none`");
}

#[test]
fn a_key_needs_a_name_and_a_scope() {
    let fixture = Fixture::new();
    for (name, scopes) in [
        ("", vec!["data".to_owned()]),
        ("a\nb", vec!["data".to_owned()]),
        ("fine", vec![]),
        ("fine", vec!["a b".to_owned()]),
    ] {
        let new = NewKey { name: name.to_owned(), scopes, ..new_key() };
        assert!(fixture.store.keys().create(new).is_err(), "{name:?}");
    }
    assert_eq!(fixture.store.keys().list().expect("list"), []);
}
