use super::{Fixture, contents, new_file, open};
use alti_store::{Group, SCHEMA, StoreError, UsageFilter, UsageRecord};
use std::sync::atomic::{AtomicBool, Ordering};

fn requests(store: &alti_store::Store) -> u64 {
    let rows = store.usage().summary(&UsageFilter::default(), Group::default()).expect("summary");
    rows.first().map_or(0, |row| row.totals.requests)
}

#[test]
fn a_backup_is_whole_while_others_write_and_comes_back_while_others_read() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let kept = store.files().create(&new_file("kept.txt"), b"kept").expect("made");
    store.usage().record(&vec![UsageRecord::default(); 50]).expect("recorded");
    let to = fixture.folder.path().join("backups/monday");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.usage().record(&[UsageRecord::default(), UsageRecord::default()]).expect("recorded");
                let file = store.files().create(&new_file("passing"), b"passing").expect("made");
                store.files().delete("t", &file.id).expect("deleted");
            }
        });
        let report = store.backup(&to).expect("a backup");
        stop.store(true, Ordering::Relaxed);
        assert!(report.contents >= 1 && report.database_bytes > 0);
    });
    let error = store.backup(&to).expect_err("it is there already");
    assert!(error.to_string().contains("exists already"), "{error}");

    store.files().delete("t", &kept.id).expect("deleted");
    let lost = store.files().create(&new_file("after"), b"after the backup").expect("made");
    let before = requests(store);
    let reader = open(fixture.database());
    assert_eq!(requests(&reader), before);
    let report = store.restore(&to).expect("restored");
    assert!(report.contents >= 1 && report.copied >= 1);
    assert_eq!(store.files().content("t", &kept.id, 10).expect("it is back"), b"kept");
    assert!(store.files().get("t", &lost.id).is_err());
    assert!(requests(store) <= before && requests(store) >= 50);
    assert_eq!(requests(store) % 2, 0, "no half of what was written together");
    assert_eq!(requests(&reader), requests(store), "whoever had it open sees it");
    store.check().expect("whole");
    store.usage().record(&[UsageRecord::default()]).expect("and it can be written");
    assert_eq!(requests(&reader), requests(store));
}

#[test]
fn a_backup_that_is_damaged_or_newer_changes_nothing() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let kept = store.files().create(&new_file("kept.txt"), b"kept").expect("made");
    let good = fixture.folder.path().join("good");
    store.backup(&good).expect("a backup");
    store.files().delete("t", &kept.id).expect("deleted");
    store.usage().record(&[UsageRecord::default()]).expect("recorded");
    let copy = |name: &str| {
        let to = fixture.folder.path().join(name);
        let content = contents(&good.join("alti.blobs")).remove(0);
        let target = to.join(content.strip_prefix(&good).expect("within"));
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        std::fs::copy(good.join("alti.db"), to.join("alti.db")).expect("copied");
        std::fs::copy(&content, &target).expect("copied");
        (to, target)
    };
    let (changed, content) = copy("changed");
    std::fs::write(content, "KEPT").expect("written");
    let (missing, content) = copy("missing");
    std::fs::remove_file(content).expect("removed");
    let (newer, _) = copy("newer");
    let connection = rusqlite::Connection::open(newer.join("alti.db")).expect("opens");
    connection.pragma_update(None, "user_version", SCHEMA + 1).expect("set");
    drop(connection);
    let (torn, _) = copy("torn");
    let bytes = std::fs::read(torn.join("alti.db")).expect("read");
    std::fs::write(torn.join("alti.db"), &bytes[..bytes.len() / 2]).expect("written");
    assert!(matches!(store.restore(&changed), Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.restore(&missing), Err(StoreError::Io { .. })));
    assert!(matches!(store.restore(&newer), Err(StoreError::Newer { .. })));
    assert!(store.restore(&torn).is_err());
    assert!(store.restore(&fixture.folder.path().join("nothing")).is_err());
    assert_eq!(requests(store), 1);
    store.check().expect("whole");
    store.restore(&good).expect("the good one comes back");
    assert_eq!(requests(store), 0);
}
