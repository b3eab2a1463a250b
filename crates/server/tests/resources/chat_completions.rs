use super::{Fixture, MODEL, ids};
use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

fn asking(question: &str, metadata: Value) -> Value {
    json!({
        "model": MODEL,
        "messages": [
            { "role": "system", "content": "be brief" },
            { "role": "user", "content": [{ "type": "text", "text": question }] },
        ],
        "store": true,
        "metadata": metadata,
        "temperature": 0.7,
    })
}

#[tokio::test]
async fn an_answer_is_kept_as_it_was_given() {
    let fixture = Fixture::scripted();
    let given = fixture.post(PATH, asking("say salt", json!({ "topic": "sea" }))).await;
    let id = given["id"].as_str().expect("an id");
    let kept = fixture.get(&format!("{PATH}/{id}")).await;
    for field in ["id", "object", "created", "model", "choices", "usage"] {
        assert_eq!(kept[field], given[field], "{field}");
    }
    assert_eq!(kept["choices"][0]["message"]["content"], "salt");
    assert_eq!((&kept["metadata"], &kept["temperature"]), (&json!({ "topic": "sea" }), &json!(0.7)));
    assert_eq!(
        (&kept["top_p"], &kept["presence_penalty"]),
        (&json!(1.0), &json!(0.0)),
        "those not asked for"
    );
    let turns = fixture.get(&format!("{PATH}/{id}/messages")).await;
    assert_eq!(ids(&turns), [format!("{id}-0"), format!("{id}-1")]);
    assert_eq!(turns["data"][0]["content"], "be brief");
    assert_eq!(turns["data"][1]["content"], "say salt");
    assert_eq!(turns["data"][1]["content_parts"], json!([{ "type": "text", "text": "say salt" }]));
    let one = fixture.get(&format!("{PATH}/{id}/messages?limit=1&order=desc")).await;
    assert_eq!((ids(&one), &one["has_more"]), (vec![format!("{id}-1").as_str()], &json!(true)));

    let changed = fixture.post(&format!("{PATH}/{id}"), json!({ "metadata": { "topic": "rain" } })).await;
    assert_eq!((&changed["metadata"], &changed["choices"]), (&json!({ "topic": "rain" }), &given["choices"]));
    let cleared = fixture.post(&format!("{PATH}/{id}"), json!({ "metadata": null })).await;
    assert_eq!((&cleared["metadata"], &cleared["choices"]), (&json!({}), &given["choices"]));
    let gone = fixture.delete(&format!("{PATH}/{id}")).await;
    assert_eq!(gone, json!({ "id": id, "object": "chat.completion.deleted", "deleted": true }));
    for path in [format!("{PATH}/{id}"), format!("{PATH}/{id}/messages")] {
        assert_eq!(fixture.call("GET", &path, Value::Null).await.0, 404);
    }
}

#[tokio::test]
async fn an_answer_that_was_streamed_is_there_when_its_stream_ends() {
    let fixture = Fixture::scripted();
    let mut request = asking("say streamed", json!({}));
    request["stream"] = json!(true);
    let response = fixture.send(Fixture::request("POST", PATH, Body::from(request.to_string()))).await;
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let first = text.split("\n\n").next().and_then(|chunk| chunk.strip_prefix("data: ")).expect("a chunk");
    let first: Value = serde_json::from_str(first).expect("JSON");
    let kept = fixture.get(&format!("{PATH}/{}", first["id"].as_str().expect("an id"))).await;
    assert_eq!((&kept["created"], &kept["object"]), (&first["created"], &json!("chat.completion")));
    assert_eq!(kept["choices"][0]["message"]["content"], "streamed");
    assert_eq!(kept["choices"][0]["finish_reason"], "stop");
    assert!(kept["usage"]["completion_tokens"].as_u64().is_some_and(|tokens| tokens == 8), "{kept}");
}

#[tokio::test]
async fn answers_are_listed_oldest_first_and_by_what_they_are() {
    let fixture = Fixture::scripted();
    let mut made = Vec::new();
    for (question, topic) in [("say a", "salt"), ("say b", "rain"), ("say c", "salt")] {
        let answer = fixture.post(PATH, asking(question, json!({ "topic": topic, "a[b]": "x y" }))).await;
        made.push(answer["id"].as_str().expect("an id").to_owned());
    }
    // Not asked to be kept, or asked not to be.
    fixture.post(PATH, json!({ "messages": [{ "role": "user", "content": "say d" }] })).await;
    fixture.post(PATH, json!({ "messages": [{ "role": "user", "content": "say e" }], "store": false })).await;
    assert_eq!(ids(&fixture.get(PATH).await), made);
    let newest = fixture.get(&format!("{PATH}?order=desc&limit=2")).await;
    assert_eq!((ids(&newest), &newest["has_more"]), (vec![made[2].as_str(), &made[1]], &json!(true)));
    assert_eq!(ids(&fixture.get(&format!("{PATH}?after={}", made[0])).await), made[1..]);
    assert_eq!(ids(&fixture.get(&format!("{PATH}?metadata%5Btopic%5D=rain")).await), [made[1].as_str()]);
    assert_eq!(ids(&fixture.get(&format!("{PATH}?metadata[topic]=salt&metadata[a[b]]=x+y")).await).len(), 2);
    assert_eq!(ids(&fixture.get(&format!("{PATH}?metadata[topic]=sun")).await).len(), 0);
    assert_eq!(ids(&fixture.get(&format!("{PATH}?model={MODEL}")).await).len(), 3);
    assert_eq!(ids(&fixture.get(&format!("{PATH}?model=other")).await).len(), 0);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_before_it_is_answered() {
    let fixture = Fixture::scripted();
    for metadata in [json!({ "a": 1 }), json!([]), json!("x")] {
        let request = asking("say x", metadata);
        let (status, error) = fixture.call("POST", PATH, request).await;
        assert_eq!((status, error["error"]["param"].as_str()), (400, Some("metadata")));
    }
    let deep = (0..70).fold(json!(1), |inner, _| json!({ "a": inner }));
    let mut request = asking("say x", json!({}));
    request["messages"][1]["content"] = json!([{ "type": "text", "text": "say x", "more": deep }]);
    let (status, error) = fixture.call("POST", PATH, request).await;
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("messages")));
    let mut request = asking("say x", json!({}));
    request["user"] = json!("u".repeat(2 << 20));
    assert_eq!(fixture.call("POST", PATH, request).await.0, 413);
    // What is not kept may be labelled as apps please.
    let mut request = asking("say x", json!({ "a": 1 }));
    request["store"] = json!(false);
    fixture.post(PATH, request).await;
    assert_eq!(ids(&fixture.get(PATH).await).len(), 0);
    assert_eq!(fixture.call("POST", PATH, asking("break", json!({}))).await.0, 503);
    assert_eq!(ids(&fixture.get(PATH).await).len(), 0, "an answer that failed is none");
}
