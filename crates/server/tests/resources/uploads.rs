use super::Fixture;
use serde_json::{Value, json};

fn announcement(bytes: u64) -> Value {
    json!({ "filename": "folder/long.txt", "purpose": "assistants", "bytes": bytes, "mime_type": "text/plain" })
}

impl Fixture {
    async fn add_part(&self, upload: &str, content: &str) -> (u16, Value) {
        let field = format!("name=\"data\"; filename=\"upload\"\r\n\r\n{content}");
        self.send_form(&format!("/v1/uploads/{upload}/parts"), &[&field]).await
    }

    async fn announce(&self, bytes: u64) -> String {
        let upload = self.post("/v1/uploads", announcement(bytes)).await;
        assert_eq!((&upload["object"], &upload["status"]), (&json!("upload"), &json!("pending")));
        assert_eq!((&upload["filename"], &upload["file"]), (&json!("long.txt"), &Value::Null));
        assert_eq!(upload["expires_at"], upload["created_at"].as_i64().expect("a time") + 3600);
        upload["id"].as_str().expect("an id").to_owned()
    }
}

#[tokio::test]
async fn a_file_comes_in_parts() {
    let fixture = Fixture::scripted();
    let id = fixture.announce(11).await;
    let mut parts = Vec::new();
    for content in [" world", "hello"] {
        let (status, part) = fixture.add_part(&id, content).await;
        assert_eq!((status, &part["object"], &part["upload_id"]), (200, &json!("upload.part"), &json!(id)));
        parts.insert(0, part["id"].clone());
    }
    let path = format!("/v1/uploads/{id}");
    let wrong = fixture.call("POST", &format!("{path}/complete"), json!({ "part_ids": [parts[0]] })).await;
    assert_eq!(wrong.0, 400);
    assert!(wrong.1["error"]["message"].as_str().expect("a message").contains("11 were announced"));
    // The MD5 digest of "hello world", by `md5sum`.
    let request = json!({ "part_ids": parts, "md5": "5eb63bbbe01eeed093cb22bb8f5acdc3" });
    let done = fixture.post(&format!("{path}/complete"), request).await;
    assert_eq!((&done["status"], &done["file"]["bytes"]), (&json!("completed"), &json!(11)));
    let file = format!("/v1/files/{}/content", done["file"]["id"].as_str().expect("an id"));
    let response = fixture.send(Fixture::request("GET", &file, "")).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    assert_eq!(bytes, "hello world");
    assert_eq!(fixture.call("POST", &format!("{path}/cancel"), Value::Null).await.0, 400, "it has ended");
    assert_eq!(fixture.add_part(&id, "more").await.0, 400);
}

#[tokio::test]
async fn an_upload_is_given_up() {
    let fixture = Fixture::scripted();
    let id = fixture.announce(5).await;
    assert_eq!(fixture.add_part(&id, "hello").await.0, 200);
    let ended = fixture.post(&format!("/v1/uploads/{id}/cancel"), Value::Null).await;
    assert_eq!(ended["status"], "cancelled");
    assert_eq!(fixture.add_part(&id, "hello").await.0, 400);
}

#[tokio::test]
async fn what_makes_no_upload_is_refused() {
    let fixture = Fixture::scripted();
    let changed = |field: &str, value: Value| {
        let mut request = announcement(5);
        request[field] = value;
        request
    };
    for (request, status, param) in [
        (changed("purpose", json!("fun")), 400, "purpose"),
        (changed("filename", json!("/")), 400, "filename"),
        (changed("bytes", json!(-1)), 400, "bytes"),
        (changed("bytes", json!(u64::MAX)), 413, "bytes"),
        (changed("expires_after", json!({ "anchor": "now", "seconds": 3600 })), 400, "expires_after.anchor"),
        (changed("expires_after", json!({ "anchor": "created_at" })), 400, "expires_after.seconds"),
    ] {
        let (found, error) = fixture.call("POST", "/v1/uploads", request).await;
        assert_eq!((found, error["error"]["param"].as_str()), (status, Some(param)), "{error}");
    }
    let id = fixture.announce(5).await;
    let path = format!("/v1/uploads/{id}/parts");
    let field = "name=\"data\"; filename=\"upload\"\r\n\r\nhello";
    assert_eq!(fixture.send_form(&path, &["name=\"other\"\r\n\r\nx"]).await.0, 400);
    assert_eq!(fixture.send_form(&path, &[field, field]).await.0, 400);
    assert_eq!(fixture.call("POST", &path, json!({})).await.0, 400);
    assert_eq!(fixture.add_part("upload_x", "hello").await.0, 404);
}
