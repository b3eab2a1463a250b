use super::{Fixture, new_file, open};
use alti_store::{
    Batch, BatchResult, BatchStatus, Group, LineInput, NewBatch, Page, Store, StoreError, UsageFilter,
    UsageRecord,
};
use serde_json::json;

fn begun(store: &Store, lines: usize) -> Batch {
    let input = store.files().create(&new_file("in.jsonl"), b"...").expect("a file");
    let new = NewBatch {
        tenant: "t".to_owned(),
        key: "key_1".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        input_file: input.id,
        completion_window: "24h".to_owned(),
        expires_at: 99,
        output_seconds: None,
        metadata: Some(json!({"job": "nightly"})),
    };
    let made = store.batches().create(&new).expect("a batch");
    assert_eq!(made.status, BatchStatus::Validating);
    let lines: Vec<LineInput> = (0..lines)
        .map(|line| LineInput { custom_id: format!("line-{line}"), request: json!({"n": line}) })
        .collect();
    store.batches().begin(&made.id, Some("tiny"), &lines).expect("begun")
}

fn answer(line: u64, failed: bool) -> BatchResult {
    let usage = UsageRecord {
        key: "key_1".to_owned(),
        prompt_tokens: 10,
        generated_tokens: 3,
        ..UsageRecord::default()
    };
    BatchResult { line, failed, output: json!({"line": line}), usage: Some(usage) }
}

#[test]
fn a_batch_goes_on_where_it_was_when_the_database_is_opened_again() {
    let fixture = Fixture::new();
    let batch = begun(&fixture.store, 5);
    fixture.store.batches().finish_line(&batch.id, &answer(0, false)).expect("answered");
    fixture.store.batches().finish_line(&batch.id, &answer(3, true)).expect("answered");
    let store = open(fixture.database());
    let unfinished = store.batches().unfinished().expect("unfinished");
    assert_eq!(unfinished.len(), 1);
    assert_eq!(
        (unfinished[0].counts.total, unfinished[0].counts.completed, unfinished[0].counts.failed),
        (5, 1, 1)
    );
    let waiting: Vec<u64> =
        store.batches().waiting(&batch.id, 0, 10).expect("waiting").iter().map(|line| line.line).collect();
    assert_eq!(waiting, [1, 2, 4]);
    for line in waiting {
        store.batches().finish_line(&batch.id, &answer(line, false)).expect("answered");
    }
    let done =
        store.batches().finish(&batch.id, BatchStatus::Completed, None, |_| json!(null)).expect("finished");
    assert_eq!(done.status, BatchStatus::Completed);
    let content = |id: Option<String>| {
        let bytes = store.files().content("t", &id.expect("a file"), 1000).expect("content");
        String::from_utf8(bytes).expect("text")
    };
    assert_eq!(content(done.output_file), "{\"line\":0}\n{\"line\":1}\n{\"line\":2}\n{\"line\":4}\n");
    assert_eq!(content(done.error_file), "{\"line\":3}\n");
    assert_eq!((done.prompt_tokens, done.generated_tokens), (50, 15));
    assert_eq!(store.batches().unfinished().expect("unfinished"), []);
}

#[test]
fn a_line_is_answered_and_billed_once() {
    let fixture = Fixture::new();
    let batch = begun(&fixture.store, 1);
    assert!(fixture.store.batches().finish_line(&batch.id, &answer(0, false)).expect("answered"));
    assert!(!fixture.store.batches().finish_line(&batch.id, &answer(0, true)).expect("nothing to do"));
    assert!(!fixture.store.batches().finish_line(&batch.id, &answer(7, true)).expect("no such line"));
    let billed = fixture.store.usage().summary(&UsageFilter::default(), Group::default()).expect("summary");
    assert_eq!(billed[0].totals.requests, 1);
    let lines = fixture.store.batches().lines(&batch.id, 0, 10).expect("lines");
    assert_eq!((lines.len(), lines[0].failed, lines[0].custom_id.as_str()), (1, false, "line-0"));
}

#[test]
fn a_cancelled_batch_keeps_what_was_answered_and_tells_the_rest_as_errors() {
    let fixture = Fixture::new();
    let batches = fixture.store.batches();
    let batch = begun(&fixture.store, 3);
    batches.finish_line(&batch.id, &answer(1, false)).expect("answered");
    assert_eq!(batches.cancel("t", &batch.id).expect("cancelled").status, BatchStatus::Cancelling);
    assert_eq!(batches.cancel("t", &batch.id).expect("again").status, BatchStatus::Cancelling);
    let done = batches
        .finish(&batch.id, BatchStatus::Cancelled, None, |line| json!({"cancelled": line.custom_id}))
        .expect("finished");
    assert_eq!((done.counts.completed, done.counts.failed), (1, 2));
    assert!(done.times.iter().any(|(name, time)| *name == "cancelled_at" && time.is_some()));
    let errors =
        fixture.store.files().content("t", &done.error_file.expect("a file"), 1000).expect("content");
    assert_eq!(errors, b"{\"cancelled\":\"line-0\"}\n{\"cancelled\":\"line-2\"}\n");
    assert!(matches!(batches.cancel("t", &batch.id), Err(StoreError::Conflict { .. })));
    assert!(batches.finish(&batch.id, BatchStatus::Completed, None, |_| json!(null)).is_err());
}

#[test]
fn a_batch_whose_file_cannot_be_used_fails_with_the_reason() {
    let fixture = Fixture::new();
    let batches = fixture.store.batches();
    let input = fixture.store.files().create(&new_file("in.jsonl"), b"...").expect("a file");
    let new = NewBatch {
        tenant: "t".to_owned(),
        key: String::new(),
        endpoint: "/v1/embeddings".to_owned(),
        input_file: input.id,
        completion_window: "24h".to_owned(),
        expires_at: 99,
        output_seconds: None,
        metadata: None,
    };
    let made = batches.create(&new).expect("made");
    let failed = batches.fail(&made.id, &json!([{"line": 1}])).expect("failed");
    assert_eq!((failed.status, failed.errors), (BatchStatus::Failed, Some(json!([{"line": 1}]))));
    assert!(batches.fail(&made.id, &json!([])).is_err());
    let twice = [
        LineInput { custom_id: "a".to_owned(), request: json!({}) },
        LineInput { custom_id: "a".to_owned(), request: json!({}) },
    ];
    let second = batches.create(&new).expect("made");
    assert!(batches.begin(&second.id, None, &twice).is_err());
    assert_eq!(batches.get("t", &second.id).expect("there").status, BatchStatus::Validating);
    assert_eq!(batches.cancel("t", &second.id).expect("cancelled").status, BatchStatus::Cancelled);
    assert!(batches.create(&NewBatch { input_file: "file-none".to_owned(), ..new.clone() }).is_err());
    assert!(batches.create(&NewBatch { tenant: "other".to_owned(), ..new }).is_err());
    assert_eq!(batches.list("t", &Page::default()).expect("list").items.len(), 2);
    assert!(batches.get("other", &made.id).is_err());
}
