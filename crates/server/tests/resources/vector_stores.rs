use super::{Fixture, ids};
use serde_json::{Value, json};

const SALT: &str =
    "The salt flats of Uyuni lie at 3656 metres above the sea.\n\nThey are white and very dry.";
const LLAMA: &str = "Llamas carry loads across high mountain passes.\n\nTheir wool is warm.";

/// A vector store with two files.
pub(crate) async fn library(fixture: &Fixture) -> (String, String, String) {
    let salt = fixture.upload("salt.txt", "assistants", SALT).await;
    let llama = fixture.upload("llama.txt", "assistants", LLAMA).await;
    let made = fixture.post("/v1/vector_stores", json!({ "name": "library", "file_ids": [salt] })).await;
    assert_eq!(made["object"], "vector_store");
    let path = format!("/v1/vector_stores/{}", made["id"].as_str().expect("an id"));
    let request = json!({ "file_id": llama, "attributes": { "kind": "animal" } });
    let added = fixture.post(&format!("{path}/files"), request).await;
    assert_eq!(
        (&added["object"], &added["attributes"]["kind"]),
        (&json!("vector_store.file"), &json!("animal"))
    );
    let done = fixture.until(&path, |store| store["status"] == "completed").await;
    let counts = json!({ "in_progress": 0, "completed": 2, "cancelled": 0, "failed": 0, "total": 2 });
    assert_eq!(done["file_counts"], counts);
    (path, salt, llama)
}

#[tokio::test]
async fn files_are_cut_and_found() {
    let fixture = Fixture::tiny();
    let (path, salt, llama) = library(&fixture).await;
    let found =
        fixture.post(&format!("{path}/search"), json!({ "query": "How high are the salt flats?" })).await;
    assert_eq!(found["object"], "vector_store.search_results.page");
    let best = &found["data"][0];
    assert_eq!((&best["file_id"], &best["filename"]), (&json!(salt), &json!("salt.txt")));
    assert!(best["content"][0]["text"].as_str().expect("a text").contains("3656 metres"));
    let filter = json!({ "type": "eq", "key": "kind", "value": "animal" });
    let found = fixture
        .post(&format!("{path}/search"), json!({ "query": ["salt", "flats"], "filters": filter }))
        .await;
    assert!(found["data"].as_array().expect("hits").iter().all(|hit| hit["file_id"] == llama.as_str()));
    let content = fixture.get(&format!("{path}/files/{salt}/content")).await;
    assert!(content["data"][0]["text"].as_str().expect("a text").starts_with("The salt flats"));
    let listed = fixture.get(&format!("{path}/files?filter=completed")).await;
    assert_eq!(ids(&listed), [llama.as_str(), salt.as_str()]);
}

#[tokio::test]
async fn a_store_and_its_files_are_changed_and_deleted() {
    let fixture = Fixture::scripted();
    let (path, salt, llama) = library(&fixture).await;
    let change = json!({ "name": "shelf", "expires_after": { "anchor": "last_active_at", "days": 7 } });
    let changed = fixture.post(&path, change).await;
    assert_eq!((&changed["name"], &changed["expires_after"]["days"]), (&json!("shelf"), &json!(7)));
    let noted =
        fixture.post(&format!("{path}/files/{salt}"), json!({ "attributes": { "year": 2024 } })).await;
    assert_eq!(noted["attributes"], json!({ "year": 2024 }));
    let cleared = fixture.post(&format!("{path}/files/{salt}"), json!({ "attributes": null })).await;
    assert_eq!(cleared["attributes"], json!({}));
    let (status, missing) = fixture.call("POST", &format!("{path}/files/{salt}"), json!({})).await;
    assert_eq!((status, &missing["error"]["param"]), (400, &json!("attributes")), "{missing}");
    assert_eq!(missing["error"]["code"], "missing_required_parameter");
    let labelled = fixture.post(&path, json!({ "metadata": { "a": "b" } })).await;
    assert_eq!((&labelled["metadata"]["a"], &labelled["expires_after"]["days"]), (&json!("b"), &json!(7)));
    let cleared = fixture.post(&path, json!({ "name": null, "metadata": null, "expires_after": null })).await;
    assert_eq!((&cleared["name"], &cleared["metadata"]), (&json!("shelf"), &json!({})), "a name stays");
    assert_eq!((cleared.get("expires_after"), &cleared["expires_at"]), (None, &Value::Null));
    let gone = fixture.delete(&format!("{path}/files/{llama}")).await;
    assert_eq!(gone, json!({ "id": llama, "object": "vector_store.file.deleted", "deleted": true }));
    fixture.get(&format!("/v1/files/{llama}")).await;
    fixture.delete(&format!("/v1/files/{salt}")).await;
    assert_eq!(fixture.get(&path).await["file_counts"]["total"], 0);
    assert_eq!(ids(&fixture.get("/v1/vector_stores").await).len(), 1);
    assert_eq!(fixture.delete(&path).await["object"], "vector_store.deleted");
    assert_eq!(fixture.call("GET", &path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn files_are_added_together_and_one_that_is_no_text_fails_alone() {
    let fixture = Fixture::scripted();
    let good = fixture.upload("good.md", "assistants", SALT).await;
    let empty = fixture.upload("empty.txt", "assistants", "  ").await;
    let made = fixture.post("/v1/vector_stores", json!({})).await;
    let path = format!("/v1/vector_stores/{}", made["id"].as_str().expect("an id"));
    let request = json!({ "files": [{ "file_id": good, "attributes": { "a": 1 } }, { "file_id": empty }] });
    let batch = fixture.post(&format!("{path}/file_batches"), request).await;
    assert_eq!(
        (&batch["object"], &batch["file_counts"]["total"]),
        (&json!("vector_store.files_batch"), &json!(2))
    );
    let batch_path = format!("{path}/file_batches/{}", batch["id"].as_str().expect("an id"));
    let done = fixture.until(&batch_path, |batch| batch["status"] == "completed").await;
    assert_eq!((&done["file_counts"]["completed"], &done["file_counts"]["failed"]), (&json!(1), &json!(1)));
    let failed = fixture.get(&format!("{batch_path}/files?filter=failed")).await;
    assert_eq!(failed["data"][0]["last_error"]["code"], "invalid_file");
    let cancelled = fixture.post(&format!("{batch_path}/cancel"), Value::Null).await;
    assert_eq!(cancelled["status"], "completed", "what is done cannot be given up");
}

#[tokio::test]
async fn an_answer_cites_the_files_it_was_taken_from() {
    let fixture = Fixture::scripted();
    let (path, salt, _) = library(&fixture).await;
    let store = path.rsplit('/').next().expect("an id");
    let request = json!({
        "input": "say Uyuni lies at 3656 metres [1].",
        "tools": [{ "type": "file_search", "vector_store_ids": [store], "max_num_results": 2 }],
        "include": ["file_search_call.results"],
        "max_output_tokens": 100,
        "stream": true,
    });
    let events = fixture.events("POST", "/v1/responses", request.clone()).await;
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
    ];
    assert_eq!(kinds[..7], expected);
    let annotation = events.iter().find(|event| event["type"] == "response.output_text.annotation.added");
    assert_eq!(annotation.expect("an annotation")["annotation"]["file_id"], salt.as_str());
    let response = &events.last().expect("an event")["response"];
    assert_eq!(response["output"][0]["results"][0]["file_id"], salt.as_str());
    let cited = &response["output"][1]["content"][0]["annotations"];
    let index = "Uyuni lies at 3656 metres ".len();
    let expected =
        json!([{ "type": "file_citation", "index": index, "file_id": salt, "filename": "salt.txt" }]);
    assert_eq!(cited, &expected);
    let mut without = request.clone();
    (without["tool_choice"], without["stream"]) = (json!("none"), json!(false));
    let response = fixture.post("/v1/responses", without).await;
    assert_eq!(response["output"][0]["type"], "message", "nothing is searched where that is not wished");
    let mut unknown = request;
    (unknown["tools"][0]["vector_store_ids"], unknown["stream"]) = (json!(["vs_none"]), json!(false));
    assert_eq!(fixture.call("POST", "/v1/responses", unknown).await.0, 404);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let fixture = Fixture::scripted();
    let made = fixture.post("/v1/vector_stores", json!({})).await;
    let path = format!("/v1/vector_stores/{}", made["id"].as_str().expect("an id"));
    for (path, request, status) in [
        ("/v1/vector_stores".to_owned(), json!({ "file_ids": ["file-none"] }), 404),
        ("/v1/vector_stores".to_owned(), json!({ "expires_after": { "days": 1 } }), 400),
        (format!("{path}/files"), json!({}), 400),
        (format!("{path}/files"), json!({ "file_id": "file-none" }), 404),
        (format!("{path}/files"), json!({ "file_id": "x", "chunking_strategy": { "type": "x" } }), 400),
        (format!("{path}/file_batches"), json!({}), 400),
        (format!("{path}/file_batches"), json!({ "file_ids": ["x"], "files": [{ "file_id": "y" }] }), 400),
        (format!("{path}/search"), json!({}), 400),
        (format!("{path}/search"), json!({ "query": " " }), 400),
        (format!("{path}/search"), json!({ "query": "x", "filters": { "type": "x" } }), 400),
        (format!("{path}/search"), json!({ "query": "x", "max_num_results": 51 }), 400),
        (format!("{path}/search"), json!({ "query": "x", "ranking_options": { "score_threshold": 2 } }), 400),
    ] {
        assert_eq!(fixture.call("POST", &path, request.clone()).await.0, status, "{path} {request}");
    }
    assert_eq!(
        ids(&fixture.get("/v1/vector_stores").await).len(),
        1,
        "a store whose file is not there is not made"
    );
    let found = fixture.post(&format!("{path}/search"), json!({ "query": "anything" })).await;
    assert_eq!(found["data"], json!([]), "an empty store has no hits");
}
