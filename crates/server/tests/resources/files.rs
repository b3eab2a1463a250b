use super::{Fixture, ids};
use alti_server::{AppState, ServerSettings, Services};
use http_body_util::BodyExt;
use serde_json::{Value, json};

#[tokio::test]
async fn a_file_is_uploaded_listed_read_and_deleted() {
    let fixture = Fixture::scripted();
    let id = fixture.upload("notes.txt", "assistants", "some notes\r\nand more").await;
    let other = fixture.upload("in.jsonl", "batch", "{}").await;
    let path = format!("/v1/files/{id}");
    let file = fixture.get(&path).await;
    assert_eq!(
        (&file["bytes"], &file["filename"], &file["purpose"]),
        (&json!(20), &json!("notes.txt"), &json!("assistants"))
    );
    assert_eq!(ids(&fixture.get("/v1/files").await), [other.as_str(), id.as_str()]);
    assert_eq!(ids(&fixture.get("/v1/files?purpose=batch").await), [other.as_str()]);
    let response = fixture.send(Fixture::request("GET", &format!("{path}/content"), "")).await;
    assert_eq!(response.headers()["content-length"], "20");
    assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "some notes\r\nand more");
    assert_eq!(fixture.delete(&path).await, json!({ "id": id, "object": "file", "deleted": true }));
    assert_eq!(fixture.call("GET", &format!("{path}/content"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn uploads_that_make_no_sense_leave_nothing() {
    let fixture = Fixture::scripted();
    let file = "name=\"file\"; filename=\"a.txt\"\r\n\r\ntext";
    let purpose = "name=\"purpose\"\r\n\r\nassistants";
    for fields in [
        &[purpose][..],
        &[file],
        &[file, "name=\"purpose\"\r\n\r\nfun"],
        &["name=\"file\"\r\n\r\nno name", purpose],
        &[file, file, purpose],
        &[file, purpose, "name=\"expires_after[anchor]\"\r\n\r\nnever"],
    ] {
        let (status, error) = fixture.upload_form(fields).await;
        assert_eq!(status, 400, "{fields:?}: {error}");
    }
    for body in ["", "{}", "--XX", "--XX\r\n\r\n"] {
        assert_eq!(fixture.send(Fixture::request("POST", "/v1/files", body)).await.status(), 400);
    }
    assert_eq!(fixture.get("/v1/files").await["data"], json!([]));
    assert!(fixture.upload_form(&[purpose, file]).await.0 == 200, "fields come in any order");
}

#[tokio::test]
async fn a_file_ends_when_it_was_said_to() {
    let fixture = Fixture::scripted();
    let (_, file) = fixture
        .upload_form(&[
            "name=\"file\"; filename=\"a.txt\"\r\n\r\ntext",
            "name=\"purpose\"\r\n\r\nuser_data",
            "name=\"expires_after[anchor]\"\r\n\r\ncreated_at",
            "name=\"expires_after[seconds]\"\r\n\r\n3600",
        ])
        .await;
    let end = file["created_at"].as_i64().expect("a time") + 3600;
    assert_eq!(file["expires_at"], end);
}

#[tokio::test]
async fn a_file_that_is_too_long_is_refused() {
    let fixture = Fixture::scripted();
    let settings = ServerSettings { max_upload_bytes: 10, ..ServerSettings::default() };
    let services = Services { store: Some(fixture.store.clone()), ..Services::default() };
    let loader = std::sync::Arc::new(super::Loader {
        model: super::served(std::sync::Arc::new(super::scripted::Scripted)),
    });
    let state = AppState::with_services(settings, loader, services);
    let small = Fixture { router: alti_server::router(state.clone()), state, ..fixture };
    let fields = |text: &str| format!("name=\"file\"; filename=\"a.txt\"\r\n\r\n{text}");
    let purpose = "name=\"purpose\"\r\n\r\nassistants";
    assert_eq!(small.upload_form(&[&fields("0123456789"), purpose]).await.0, 200);
    assert_eq!(small.upload_form(&[&fields("0123456789+"), purpose]).await.0, 413);
}

#[tokio::test]
async fn a_server_without_a_database_says_so_and_still_answers() {
    let loader = std::sync::Arc::new(super::Loader {
        model: super::served(std::sync::Arc::new(super::scripted::Scripted)),
    });
    let state = AppState::new(ServerSettings::default(), loader, None);
    let fixture = Fixture { router: alti_server::router(state.clone()), state, ..Fixture::scripted() };
    let (status, error) = fixture.call("GET", "/v1/files", Value::Null).await;
    assert_eq!((status, error["error"]["code"].as_str()), (404, Some("no_database")));
    let response = fixture.post("/v1/responses", json!({ "input": "say x" })).await;
    assert_eq!(response["store"], false);
}
