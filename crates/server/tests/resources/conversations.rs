use super::{Fixture, ids};
use serde_json::{Value, json};

#[tokio::test]
async fn a_conversation_is_made_changed_and_deleted() {
    let fixture = Fixture::scripted();
    let request = json!({
        "metadata": { "topic": "salt" },
        "items": [{ "type": "message", "role": "user", "content": "hello" }],
    });
    let made = fixture.post("/v1/conversations", request).await;
    assert_eq!((&made["object"], &made["metadata"]), (&json!("conversation"), &json!({ "topic": "salt" })));
    let path = format!("/v1/conversations/{}", made["id"].as_str().expect("an id"));
    assert_eq!(fixture.get(&path).await, made);
    let changed = fixture.post(&path, json!({ "metadata": { "topic": "rain" } })).await;
    assert_eq!(changed["metadata"]["topic"], "rain");
    for nothing in [json!({ "metadata": null }), json!({})] {
        fixture.post(&path, json!({ "metadata": { "topic": "rain" } })).await;
        assert_eq!(fixture.post(&path, nothing).await["metadata"], json!({}));
    }
    let gone = fixture.delete(&path).await;
    assert_eq!(gone, json!({ "id": made["id"], "object": "conversation.deleted", "deleted": true }));
    assert_eq!(fixture.call("GET", &path, Value::Null).await.0, 404);
    let empty = fixture.post("/v1/conversations", Value::Null).await;
    assert_eq!(empty["metadata"], json!({}), "no body is no error");
}

#[tokio::test]
async fn items_are_added_listed_and_deleted() {
    let fixture = Fixture::scripted();
    let made = fixture.post("/v1/conversations", json!({})).await;
    let path = format!("/v1/conversations/{}/items", made["id"].as_str().expect("an id"));
    let items = json!({ "items": [
        { "role": "user", "content": "one" },
        { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "2" },
    ] });
    let added = fixture.post(&path, items).await;
    let added = ids(&added);
    assert_eq!(added.len(), 3);
    let newest = fixture.get(&format!("{path}?limit=2")).await;
    assert_eq!((ids(&newest), &newest["has_more"]), (vec![added[2], added[1]], &json!(true)));
    assert_eq!((&newest["first_id"], &newest["last_id"]), (&json!(added[2]), &json!(added[1])));
    let rest = fixture.get(&format!("{path}?limit=2&after={}", added[1])).await;
    assert_eq!(ids(&rest), [added[0]]);
    let one = fixture.get(&format!("{path}/{}", added[0])).await;
    assert_eq!(one["content"], json!([{ "type": "input_text", "text": "one" }]));
    let left = fixture.delete(&format!("{path}/{}", added[0])).await;
    assert_eq!(left["object"], "conversation");
    assert_eq!(fixture.call("GET", &format!("{path}/{}", added[0]), Value::Null).await.0, 404);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let fixture = Fixture::scripted();
    let made = fixture.post("/v1/conversations", json!({})).await;
    let path = format!("/v1/conversations/{}", made["id"].as_str().expect("an id"));
    let items: Vec<Value> = (0..21).map(|_| json!({ "role": "user", "content": "x" })).collect();
    for (path, request, param) in [
        (path.clone(), json!({ "metadata": [] }), "metadata"),
        (format!("{path}/items"), json!({}), "items"),
        (format!("{path}/items"), json!({ "items": items }), "items"),
        (format!("{path}/items"), json!({ "items": [{ "type": "item_reference", "id": "x" }] }), "items"),
    ] {
        let (status, error) = fixture.call("POST", &path, request.clone()).await;
        assert_eq!((status, error["error"]["param"].as_str()), (400, Some(param)), "{path} {request}");
    }
    for query in ["limit=0", "limit=101", "limit=x", "order=up"] {
        assert_eq!(
            fixture.call("GET", &format!("{path}/items?{query}"), Value::Null).await.0,
            400,
            "{query}"
        );
    }
    assert_eq!(fixture.call("GET", &format!("{path}/items?after=msg_none"), Value::Null).await.0, 404);
}
