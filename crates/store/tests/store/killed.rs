//! What is acknowledged survives `kill -9` at any moment, and nothing is ever half there.

use super::{Fixture, new_file, open};
use alti_store::{
    BatchResult, ChatCompletion, Group, LineInput, NewBatch, NewResponse, NewUpload, Page, Store,
    UploadStatus, UsageFilter, UsageRecord,
};
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Names the database of the process that writes until it is killed.
const DATABASE: &str = "ALTI_STORE_WRITE_UNTIL_KILLED";

const LINES: usize = 5000;

/// Not a test of its own: the process that the test below starts and kills. It says on its output what it was told is
/// written.
#[test]
#[ignore = "started by the test that kills it"]
fn writes_until_killed() {
    let path = std::env::var_os(DATABASE).expect("a test starts this");
    let store = open(PathBuf::from(path));
    let conversation = store.conversations().create("t", json!({}), &[]).expect("made").id;
    let batch = store.batches().unfinished().expect("batches").remove(0).id;
    let mut output = std::io::stdout();
    let mut say =
        |what: &str, id: &str| writeln!(output, "{what} {id}").and_then(|()| output.flush()).expect("said");
    say("conversation", &conversation);
    loop {
        let round = alti_store::new_id("").expect("an id");
        store
            .usage()
            .record(&[UsageRecord { request: round.clone(), prompt_tokens: 7, ..UsageRecord::default() }])
            .expect("usage");
        say("usage", &round);
        let content = round.repeat(50);
        let file = store.files().create(&new_file(&round), content.as_bytes()).expect("file").id;
        say("file", &file);
        store
            .conversations()
            .add_items("t", &conversation, &[json!({"id": round, "text": content})])
            .expect("item");
        say("item", &round);
        let response = NewResponse {
            id: round.clone(),
            status: "in_progress".to_owned(),
            background: false,
            previous: None,
            conversation: Some(conversation.clone()),
            body: json!({}),
            input: vec![json!({"id": "in"})],
        };
        store.responses().create("t", &response).expect("response");
        let said = [json!({"id": format!("said-{round}")})];
        store
            .responses()
            .update(&round, "completed", &json!({"output": said}), &[], &said)
            .expect("response");
        say("response", &round);
        let kept = ChatCompletion {
            id: round.clone(),
            model: "m".to_owned(),
            metadata: json!({}),
            body: json!({"id": round}),
        };
        store.chat_completions().create("t", &kept, &[json!({"id": round})]).expect("a chat completion");
        say("chat", &round);
        upload(&store, &round, &mut say);
        if let Some(line) = store.batches().waiting(&batch, 0, 1).expect("waiting").first() {
            let usage =
                UsageRecord { request: line.custom_id.clone(), prompt_tokens: 7, ..UsageRecord::default() };
            let result = BatchResult {
                line: line.line,
                failed: false,
                output: json!({"round": round}),
                usage: Some(usage),
            };
            store.batches().finish_line(&batch, &result).expect("line");
            say("line", &line.custom_id);
        }
        if round.starts_with('0') {
            say("deleting", &file);
            store.files().delete("t", &file).expect("deleted");
            say("deleted", &file);
        }
    }
}

/// A file in two parts, made whole.
fn upload(store: &Store, round: &str, say: &mut impl FnMut(&str, &str)) {
    let content = round.repeat(50);
    let new = NewUpload {
        tenant: "t".to_owned(),
        name: round.to_owned(),
        purpose: "assistants".to_owned(),
        bytes: content.len() as u64,
        file_seconds: None,
    };
    let upload = store.uploads().create(&new).expect("announced").id;
    let mut parts = Vec::new();
    for half in content.as_bytes().chunks(content.len().div_ceil(2)) {
        let mut writer = store.uploads().part_writer("t", &upload).expect("a part");
        writer.write(half).expect("written");
        let part = writer.finish_part("t", &upload, 1 << 20).expect("added").id;
        say("part", &format!("{upload} {part}"));
        parts.push(part);
    }
    store.uploads().complete("t", &upload, &parts, None).expect("completed");
    say("uploaded", &upload);
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let fixture = Fixture::new();
    let input = fixture.store.files().create(&new_file("in"), b"in").expect("a file").id;
    let new = NewBatch {
        tenant: "t".to_owned(),
        key: String::new(),
        endpoint: "/v1/chat/completions".to_owned(),
        input_file: input,
        completion_window: "24h".to_owned(),
        expires_at: i64::MAX,
        output_seconds: None,
        metadata: None,
    };
    let batch = fixture.store.batches().create(&new).expect("a batch").id;
    let lines: Vec<LineInput> =
        (0..LINES).map(|line| LineInput { custom_id: format!("l{line}"), request: json!({}) }).collect();
    fixture.store.batches().begin(&batch, None, &lines).expect("begun");
    let Fixture { folder, store } = fixture;
    drop(store);
    let path = folder.path().join("alti.db");
    let mut said: HashMap<String, Vec<String>> = HashMap::new();
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "killed::writes_until_killed", "--nocapture"])
            .env(DATABASE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let reader = BufReader::new(child.stdout.take().expect("its output"));
        let listener = std::thread::spawn(move || reader.lines().map_while(Result::ok).collect::<Vec<_>>());
        // No two rounds end at the same place of the loop.
        std::thread::sleep(Duration::from_micros(150_000 + round * 37_123));
        child.kill().expect("killed");
        child.wait().expect("gone");
        for line in listener.join().expect("heard") {
            if let Some((what, id)) = line.split_once(' ') {
                said.entry(what.to_owned()).or_default().push(id.to_owned());
            }
        }
        let store = open(path.clone());
        store.check().expect("the database is whole");
        check(&store, &batch, &said);
    }
    for what in ["usage", "file", "item", "response", "chat", "part", "uploaded", "line", "deleted"] {
        assert!(said.contains_key(what), "it was killed before it ever wrote a {what}");
    }
}

fn check(store: &Store, batch: &str, said: &HashMap<String, Vec<String>>) {
    let of = |what: &str| said.get(what).map_or(&[][..], Vec::as_slice);
    let all = UsageFilter::default();
    let rows = store.usage().rows(&all, 0, u64::MAX).expect("rows");
    let known: std::collections::HashSet<&str> = rows.iter().map(|row| row.request.as_str()).collect();
    assert!(of("usage").iter().all(|id| known.contains(id.as_str())), "a request was forgotten");
    assert!(of("line").iter().all(|id| known.contains(id.as_str())), "a line was not billed");
    let sums = store.usage().summary(&all, Group::default()).expect("sums");
    assert_eq!(sums.first().map_or(0, |sum| sum.totals.prompt_tokens), 7 * rows.len() as u64);
    for id in of("file").iter().filter(|id| !of("deleted").contains(id)) {
        // One that was being deleted may be there or not, but never half.
        if let Ok(file) = store.files().get("t", id) {
            let content = store.files().content("t", id, 1 << 20).expect("its content");
            assert_eq!(content, file.name.repeat(50).as_bytes());
        } else {
            assert!(of("deleting").contains(id), "a file was lost");
        }
    }
    assert!(of("deleted").iter().all(|id| store.files().get("t", id).is_err()), "a deleted file came back");
    let mut items = Vec::new();
    for conversation in of("conversation") {
        items.extend(store.conversations().all_items("t", conversation).expect("items"));
    }
    let items: std::collections::HashSet<&str> =
        items.iter().map(|item| item["id"].as_str().expect("an id")).collect();
    assert!(of("item").iter().all(|id| items.contains(id.as_str())), "an item was forgotten");
    for id in of("response") {
        assert_eq!(store.responses().get("t", id).expect("the response").status, "completed");
        assert!(items.contains(format!("said-{id}").as_str()), "a response is not in its conversation");
    }
    for id in of("chat") {
        let messages = store.chat_completions().messages("t", id, &Page::default()).expect("its turns");
        assert_eq!(messages.items, [json!({"id": id})]);
    }
    check_uploads(store, of("part"), of("uploaded"));
    let answered: Vec<String> = store
        .batches()
        .lines(batch, 0, LINES)
        .expect("lines")
        .into_iter()
        .map(|line| line.custom_id)
        .collect();
    assert!(of("line").iter().all(|id| answered.contains(id)), "an answer was forgotten");
    let billed = rows.iter().filter(|row| row.request.starts_with('l')).count();
    assert_eq!(billed, answered.len(), "every answered line is billed once");
}

/// Uploads that were completed are whole files, and others go on with the parts that had come.
fn check_uploads(store: &Store, parts: &[String], uploaded: &[String]) {
    let mut parts_of: HashMap<&str, Vec<String>> = HashMap::new();
    for (upload, part) in parts.iter().filter_map(|it| it.split_once(' ')) {
        parts_of.entry(upload).or_default().push(part.to_owned());
    }
    for (id, parts) in parts_of {
        let mut upload = store.uploads().get("t", id).expect("the upload");
        if upload.status == UploadStatus::Pending {
            assert!(!uploaded.iter().any(|it| it == id), "a completed upload is pending again");
            if parts.len() < 2 {
                continue;
            }
            upload = store.uploads().complete("t", id, &parts, None).expect("it goes on");
        }
        let file = upload.file.expect("the file that was made of the parts");
        let content = store.files().content("t", &file.id, 1 << 20).expect("its content");
        assert_eq!(content, file.name.repeat(50).as_bytes());
    }
}
