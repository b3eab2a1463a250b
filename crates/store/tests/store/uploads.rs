use super::{Fixture, open};
use alti_store::{NewUpload, StoreError, UploadPart, UploadStatus, now};

fn announced(fixture: &Fixture, bytes: u64) -> String {
    let new = NewUpload {
        tenant: "t".to_owned(),
        name: "long.txt".to_owned(),
        purpose: "assistants".to_owned(),
        bytes,
        file_seconds: Some(3600),
    };
    fixture.store.uploads().create(&new).expect("announced").id
}

fn add(fixture: &Fixture, upload: &str, content: &str) -> alti_store::Result<UploadPart> {
    let mut writer = fixture.store.uploads().part_writer("t", upload)?;
    writer.write(content.as_bytes())?;
    writer.finish_part("t", upload, 100)
}

#[test]
fn parts_become_a_file_in_the_order_that_is_named() {
    let fixture = Fixture::new();
    let uploads = fixture.store.uploads();
    let id = announced(&fixture, 10);
    let world = add(&fixture, &id, "world").expect("added");
    let wrong = add(&fixture, &id, "wrong part").expect("added");
    let hello = add(&fixture, &id, "hello").expect("added");
    assert_eq!(fixture.contents().len(), 3);
    assert_eq!(uploads.get("t", &id).expect("found").status, UploadStatus::Pending);
    // The MD5 digest of "helloworld", by `md5sum`.
    let digest = "FC5E038D38A57032085441E7FE7010B0";
    let done =
        uploads.complete("t", &id, &[hello.id.clone(), world.id.clone()], Some(digest)).expect("completed");
    let file = done.file.clone().expect("a file");
    assert_eq!((done.status, file.name.as_str(), file.bytes), (UploadStatus::Completed, "long.txt", 10));
    assert!(file.expires_at.expect("an end") >= now() + 3590);
    assert_eq!(fixture.store.files().content("t", &file.id, 100).expect("content"), b"helloworld");
    assert_eq!(fixture.contents().len(), 1, "the parts are gone");
    assert_eq!(uploads.get("t", &id).expect("found"), done);
    for refused in [
        uploads.complete("t", &id, &[hello.id, wrong.id], None).map(|_| ()),
        uploads.cancel("t", &id).map(|_| ()),
        add(&fixture, &id, "more").map(|_| ()),
    ] {
        let error = refused.expect_err("it has ended").to_string();
        assert!(error.contains("is completed: begin another one"), "{error}");
    }
    fixture.store.files().delete("t", &file.id).expect("deleted");
    assert_eq!(uploads.get("t", &id).expect("found").file, None);
}

#[test]
fn what_does_not_make_the_file_changes_nothing() {
    let fixture = Fixture::new();
    let uploads = fixture.store.uploads();
    let (id, other) = (announced(&fixture, 10), announced(&fixture, 5));
    let hello = add(&fixture, &id, "hello").expect("added").id;
    let world = add(&fixture, &id, "world").expect("added").id;
    let foreign = add(&fixture, &other, "world").expect("added").id;
    let refused = |parts: &[&String], md5: Option<&str>| {
        let parts: Vec<String> = parts.iter().map(|part| (*part).clone()).collect();
        uploads.complete("t", &id, &parts, md5).expect_err("refused").to_string()
    };
    assert_eq!(refused(&[&hello], None), "part_ids: the parts have 5 bytes, and 10 were announced");
    assert!(refused(&[&hello, &hello], None).starts_with("no part left of this upload with the id"));
    assert!(refused(&[&hello, &foreign], None).starts_with("no part left of this upload with the id"));
    assert!(
        refused(&[&hello, &world], Some("00")).starts_with("md5: the parts together have the digest fc5e")
    );
    assert!(refused(&[], None).contains("have 0 bytes"));
    assert!(matches!(uploads.get("other", &id), Err(StoreError::NotFound { .. })));
    assert!(matches!(uploads.complete("other", &id, &[], None), Err(StoreError::NotFound { .. })));
    assert!(matches!(uploads.cancel("other", &id), Err(StoreError::NotFound { .. })));
    assert!(fixture.store.uploads().part_writer("other", &id).is_err());
    let error = add(&fixture, &id, &"x".repeat(91)).expect_err("too much").to_string();
    assert_eq!(error, "upload: its parts would have 101 bytes, and 100 are allowed");
    uploads.complete("t", &id, &[hello, world], None).expect("it still can be completed");
}

#[test]
fn an_upload_that_is_given_up_or_too_late_leaves_nothing() {
    let fixture = Fixture::new();
    let uploads = fixture.store.uploads();
    let (given_up, late) = (announced(&fixture, 5), announced(&fixture, 5));
    add(&fixture, &given_up, "hello").expect("added");
    add(&fixture, &late, "world").expect("added");
    assert_eq!(uploads.cancel("t", &given_up).expect("cancelled").status, UploadStatus::Cancelled);
    assert_eq!(fixture.contents().len(), 1);
    assert_eq!(uploads.expire(now()).expect("swept"), 0);
    assert_eq!(uploads.expire(now() + 3600).expect("swept"), 1);
    assert_eq!(uploads.get("t", &late).expect("found").status, UploadStatus::Expired);
    assert_eq!(fixture.contents(), Vec::<std::path::PathBuf>::new());
    assert!(add(&fixture, &late, "late").is_err());
    assert_eq!(uploads.expire(now() + 3600 + 7 * 24 * 3600).expect("swept"), 0);
    assert!(uploads.get("t", &late).is_err(), "it is told of for a week");
}

#[test]
fn parts_are_kept_by_sweeps_and_belong_to_backups() {
    let fixture = Fixture::new();
    let id = announced(&fixture, 5);
    let part = add(&fixture, &id, "hello").expect("added").id;
    // Opening sweeps.
    let second = open(fixture.database());
    assert_eq!(fixture.contents().len(), 1);
    let backup = fixture.folder.path().join("backup");
    assert_eq!(second.backup(&backup).expect("backed up").contents, 1);
    fixture.store.uploads().cancel("t", &id).expect("cancelled");
    assert_eq!(fixture.contents().len(), 0);
    fixture.store.restore(&backup).expect("restored");
    let done = fixture.store.uploads().complete("t", &id, &[part], None).expect("completed");
    let file = done.file.expect("a file");
    assert_eq!(fixture.store.files().content("t", &file.id, 100).expect("content"), b"hello");
}
