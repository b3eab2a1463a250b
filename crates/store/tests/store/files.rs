use super::{Fixture, new_file, open};
use alti_store::{NewFile, Page};
use std::io::Read;

#[test]
fn a_content_is_kept_once_and_goes_with_its_last_file() {
    let fixture = Fixture::new();
    let files = fixture.store.files();
    let first = files.create(&new_file("a.txt"), b"the same").expect("made");
    let second = files.create(&new_file("b.txt"), b"the same").expect("made");
    let other = files.create(&new_file("c.txt"), b"").expect("an empty one");
    assert_eq!(fixture.contents().len(), 2);
    files.delete("t", &first.id).expect("deleted");
    assert_eq!(files.content("t", &second.id, 100).expect("content"), b"the same");
    let (_, mut reader) = files.open("t", &second.id).expect("open");
    files.delete("t", &second.id).expect("deleted");
    files.delete("t", &other.id).expect("deleted");
    assert_eq!(fixture.contents(), Vec::<std::path::PathBuf>::new());
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("what was opened can be read to its end");
    assert_eq!(text, "the same");
    assert!(files.delete("t", &second.id).is_err());
}

/// As a process does that is just being started: it has copies of all that the one that starts it has open.
#[test]
fn a_content_goes_though_the_lock_is_held_for_a_moment() {
    let fixture = Fixture::new();
    let file = fixture.store.files().create(&new_file("a.txt"), b"a").expect("made");
    let path = fixture.folder.path().join("alti.blobs/lock");
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(path);
    let lock = lock.expect("the lock of contents");
    lock.lock().expect("locked");
    let holder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(lock);
    });
    fixture.store.files().delete("t", &file.id).expect("deleted");
    assert_eq!(fixture.contents(), Vec::<std::path::PathBuf>::new());
    holder.join().expect("it let go");
}

#[test]
fn a_file_that_was_not_finished_leaves_nothing() {
    let fixture = Fixture::new();
    let mut writer = fixture.store.files().writer().expect("a writer");
    writer.write(b"half").expect("written");
    assert_eq!(writer.bytes(), 4);
    drop(writer);
    assert_eq!(fixture.contents(), Vec::<std::path::PathBuf>::new());
    assert_eq!(fixture.store.files().list("t", None, &Page::default()).expect("list").items, []);
}

#[test]
fn files_are_listed_by_purpose_and_read_within_bounds() {
    let fixture = Fixture::new();
    let files = fixture.store.files();
    let batch = NewFile { purpose: "batch".to_owned(), ..new_file("in.jsonl") };
    let batch = files.create(&batch, b"{}").expect("made");
    let other = files.create(&new_file("../../etc/passwd"), b"12345").expect("a name is only a name");
    let listed = |purpose| files.list("t", purpose, &Page::default()).expect("list").items;
    assert_eq!(listed(None), [other.clone(), batch.clone()]);
    assert_eq!(listed(Some("batch")), [batch]);
    assert_eq!(files.list("other", None, &Page::default()).expect("list").items, []);
    assert!(files.content("t", &other.id, 4).expect_err("too large").to_string().contains("has 5 bytes"));
    assert!(files.content("other", &other.id, 100).is_err());
}

#[test]
fn files_end_with_their_time() {
    let fixture = Fixture::new();
    let files = fixture.store.files();
    let short = files.create(&NewFile { expires_at: Some(1000), ..new_file("a") }, b"a").expect("made");
    let long = files.create(&NewFile { expires_at: Some(1001), ..new_file("b") }, b"b").expect("made");
    assert_eq!(files.expire(1000).expect("expired"), 1);
    assert!(files.get("t", &short.id).is_err());
    assert!(files.get("t", &long.id).is_ok());
    assert_eq!(fixture.contents().len(), 1);
}

#[test]
fn contents_that_nothing_names_go_when_the_database_is_opened() {
    let fixture = Fixture::new();
    let kept = fixture.store.files().create(&new_file("a"), b"a").expect("made");
    let stray = fixture.folder.path().join("alti.blobs/00").join("0".repeat(64));
    std::fs::create_dir_all(stray.parent().expect("a folder")).expect("made");
    std::fs::write(&stray, "nobody's").expect("written");
    let store = open(fixture.database());
    assert!(!stray.exists());
    assert_eq!(store.files().content("t", &kept.id, 10).expect("content"), b"a");
}
