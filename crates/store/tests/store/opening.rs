use super::{Fixture, new_file, open};
use alti_store::{Group, Page, SCHEMA, Store, StoreError, StoreSettings, UsageFilter, UsageRecord};
use serde_json::json;
use std::sync::Barrier;

fn sql(path: &std::path::Path, sql: &str) {
    rusqlite::Connection::open(path).expect("opens").execute_batch(sql).expect("runs");
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alti.db");
    drop(open(path.clone()));
    sql(&path, &format!("PRAGMA user_version = {}", SCHEMA + 1));
    let error = Store::open(&path, StoreSettings::default()).expect_err("it is newer");
    assert!(error.to_string().contains("written by a newer `alti`; update the program"), "{error}");
    sql(&path, &format!("PRAGMA user_version = {SCHEMA}"));
    open(path).check().expect("nothing was changed");
}

#[test]
fn what_is_no_database_of_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("notes.db");
    let notes = "not a database, but somebody's notes. ".repeat(100);
    std::fs::write(&text, &notes).expect("written");
    let error = Store::open(&text, StoreSettings::default()).expect_err("no database");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&text).expect("read"), notes);
    let foreign = folder.path().join("other.db");
    sql(&foreign, "CREATE TABLE mine (a)");
    let before = std::fs::read(&foreign).expect("read");
    let error = Store::open(&foreign, StoreSettings::default()).expect_err("another program's");
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&foreign).expect("read"), before);
}

#[test]
fn a_full_disk_tears_nothing_and_hinders_no_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alti.db");
    let settings = StoreSettings { max_bytes: Some(600_000), ..StoreSettings::default() };
    let store = Store::open(&path, settings).expect("opens");
    let item = |number: usize| json!({"id": format!("msg_{number}"), "text": "x".repeat(9000)});
    let made = store.conversations().create("t", json!({}), &[]).expect("made");
    let mut stored = 0;
    let error = loop {
        match store.conversations().add_items("t", &made.id, &[item(stored), item(stored + 1)]) {
            Ok(()) => stored += 2,
            Err(error) => break error,
        }
        assert!(stored < 1000, "it never filled up");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert!(error.to_string().starts_with("the disk is full: nothing was written, what was there is intact"));
    assert_eq!(store.conversations().all_items("t", &made.id).expect("it can be read").len(), stored);
    store.check().expect("nothing is torn");
    store.conversations().delete_item("t", &made.id, "msg_0").expect("room can be made");
    store.conversations().add_items("t", &made.id, &[json!({"id": "small"})]).expect("and used");
}

#[cfg(unix)]
#[test]
fn a_read_only_database_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let file = fixture.store.files().create(&new_file("a"), b"content").expect("made");
    let Fixture { folder, store } = fixture;
    drop(store);
    let path = folder.path().join("alti.db");
    let permit = |mode, folder_mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("permissions");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(folder_mode))
            .expect("permissions");
    };
    permit(0o444, 0o555);
    // Permissions do not hold whoever may do anything; then there is nothing to see here.
    let held = std::fs::OpenOptions::new().write(true).open(&path).is_err();
    let store = Store::open(&path, StoreSettings::default()).expect("it opens");
    assert_eq!(store.files().content("t", &file.id, 100).expect("it can be read"), b"content");
    if held {
        let error = store.usage().record(&[UsageRecord::default()]).expect_err("it cannot be written");
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    }
    permit(0o644, 0o755);
}

#[test]
fn many_threads_and_two_handles_write_without_losing_a_row() {
    let fixture = Fixture::new();
    let second = open(fixture.database());
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = if thread % 2 == 0 { &fixture.store } else { &second };
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                for _ in 0..25 {
                    store.usage().record(&[UsageRecord::default()]).expect("recorded");
                    let totals =
                        store.usage().summary(&UsageFilter::default(), Group::default()).expect("summed");
                    assert!(totals[0].totals.requests > 0);
                }
            });
        }
    });
    let totals = second.usage().summary(&UsageFilter::default(), Group::default()).expect("summed");
    assert_eq!(totals[0].totals.requests, 200);
}

#[test]
fn settings_and_moderations_are_kept() {
    let fixture = Fixture::new();
    fixture.store.settings().set("currency", Some(&json!("EUR"))).expect("set");
    fixture.store.settings().set("gone", Some(&json!([1]))).expect("set");
    fixture.store.settings().set("gone", None).expect("forgotten");
    let judged = fixture
        .store
        .moderations()
        .create("t", "m", json!("text"), json!([{"flagged": true}]))
        .expect("kept");
    let store = open(fixture.database());
    assert_eq!(store.settings().get("currency").expect("get"), Some(json!("EUR")));
    assert_eq!(store.settings().get("gone").expect("get"), None);
    assert_eq!(store.moderations().get("t", &judged.id).expect("get"), judged);
    assert_eq!(
        store.moderations().list("t", &Page::default()).expect("list").items,
        std::slice::from_ref(&judged)
    );
    assert!(store.moderations().get("other", &judged.id).is_err());
}

#[test]
fn one_process_serves_a_database_and_others_look_into_it() {
    let fixture = Fixture::new();
    let lock = fixture.store.lock_for_serving().expect("nobody serves it");
    let second = open(fixture.database());
    let error = second.lock_for_serving().expect_err("the first one serves it");
    assert!(matches!(error, StoreError::Served { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("alti.db.serving") && told.contains("--database"), "{told}");
    second.usage().record(&[UsageRecord::default()]).expect("rows are written all the same");
    second.backup(&fixture.folder.path().join("backup")).expect("and backups");
    drop(lock);
    second.lock_for_serving().expect("it is free again");
}

#[test]
fn a_database_of_the_first_schema_is_brought_up_to_date_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alti.db");
    sql(&path, include_str!("../../src/schema/0001_first.sql"));
    sql(&path, "PRAGMA application_id = 0x414c5449; PRAGMA user_version = 1");
    sql(
        &path,
        "INSERT INTO conversations (id, tenant, created_at, metadata) VALUES ('conv_1', 't', 1, '{}')",
    );
    sql(
        &path,
        "INSERT INTO responses (id, tenant, created_at, status, background, body) VALUES \
         ('resp_1', 't', 1, 'completed', 0, '{\"output\": [{\"id\": \"msg_1\"}]}'), \
         ('resp_2', 't', 1, 'failed', 0, '{\"output\": null}')",
    );
    let store = open(path);
    let items = store.responses().find_items("t", &["msg_1".to_owned()].into()).expect("read");
    assert_eq!(items["msg_1"], json!({"id": "msg_1"}));
    assert_eq!(store.conversations().get("t", "conv_1").expect("it is there").id, "conv_1");
    assert_eq!(
        store.chat_completions().list("t", &Default::default(), &Page::default()).expect("a list").items,
        []
    );
    store.check().expect("it is whole");
}
