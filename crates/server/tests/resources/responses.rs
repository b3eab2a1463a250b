use super::{Fixture, ids, tiny_engine};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;

fn text(response: &Value) -> &str {
    let message =
        response["output"].as_array().expect("output").iter().find(|item| item["type"] == "message");
    message.expect("a message")["content"][0]["text"].as_str().expect("a text")
}

fn kinds(events: &[Value]) -> Vec<&str> {
    for (number, event) in events.iter().enumerate() {
        assert_eq!(
            event["sequence_number"],
            events[0]["sequence_number"].as_u64().expect("a number") + number as u64
        );
    }
    events.iter().map(|event| event["type"].as_str().expect("a type")).collect()
}

#[tokio::test]
async fn a_response_has_every_field_of_the_specification() {
    let fixture = Fixture::tiny();
    let response = fixture
        .post("/v1/responses", json!({ "model": "tiny", "input": "hi", "max_output_tokens": 8 }))
        .await;
    // The required fields of a response in the Open Responses specification.
    for name in [
        "id",
        "object",
        "created_at",
        "completed_at",
        "status",
        "incomplete_details",
        "model",
        "previous_response_id",
        "instructions",
        "output",
        "error",
        "tools",
        "tool_choice",
        "truncation",
        "parallel_tool_calls",
        "text",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "top_logprobs",
        "temperature",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "store",
        "background",
        "service_tier",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
    ] {
        assert!(response.get(name).is_some(), "{name} is missing");
    }
    // A model of random weights seldom ends by itself.
    assert_eq!(
        (&response["status"], &response["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(response["usage"]["output_tokens"], 8);
    let id = response["id"].as_str().expect("an id");
    assert_eq!(fixture.get(&format!("/v1/responses/{id}")).await, response);
    let items = fixture.get(&format!("/v1/responses/{id}/input_items")).await;
    assert_eq!(items["data"][0]["content"], json!([{ "type": "input_text", "text": "hi" }]));
    assert_eq!(ids(&items).len(), 1);
}

#[tokio::test]
async fn a_streamed_response_is_the_same_as_one_that_is_not() {
    let fixture = Fixture::tiny();
    let request = json!({ "input": "hello there", "max_output_tokens": 12, "temperature": 0 });
    let whole = fixture.post("/v1/responses", request.clone()).await;
    let mut streamed = request;
    streamed["stream"] = json!(true);
    let events = fixture.events("POST", "/v1/responses", streamed).await;
    let kinds = kinds(&events);
    assert_eq!(
        kinds[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    assert_eq!(
        kinds[kinds.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete"
        ]
    );
    let deltas: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(deltas, text(&whole));
    let last = &events.last().expect("a last event")["response"];
    assert_eq!(text(last), text(&whole));
    let id = last["id"].as_str().expect("an id");
    let replayed = fixture.events("GET", &format!("/v1/responses/{id}?stream=true"), Value::Null).await;
    assert_eq!(replayed, events);
    let rest =
        fixture.events("GET", &format!("/v1/responses/{id}?stream=true&starting_after=3"), Value::Null).await;
    assert_eq!(rest, events[4..]);
    let id = whole["id"].as_str().expect("an id");
    assert_eq!(fixture.call("GET", &format!("/v1/responses/{id}?stream=true"), Value::Null).await.0, 400);
}

#[tokio::test]
async fn a_response_continues_another() {
    let fixture = Fixture::scripted();
    let first = fixture.post("/v1/responses", json!({ "input": "say one", "instructions": "Count." })).await;
    assert_eq!(text(&first), "one");
    let second = fixture
        .post("/v1/responses", json!({ "input": "say two", "previous_response_id": first["id"] }))
        .await;
    // user: say one, assistant: one, user: say two - and the instructions are not carried over.
    let expected = "user: say one\nassistant: one\nuser: say two\nassistant:".len();
    assert_eq!(second["usage"]["input_tokens"], expected);
    assert_eq!(second["previous_response_id"], first["id"]);
    let reference = json!({
        "input": [{ "type": "item_reference", "id": first["output"][0]["id"] }, { "role": "user", "content": "say three" }],
        "previous_response_id": first["id"],
    });
    assert_eq!(text(&fixture.post("/v1/responses", reference).await), "three");
    let gone = fixture.delete(&format!("/v1/responses/{}", first["id"].as_str().expect("an id"))).await;
    assert_eq!(gone, json!({ "id": first["id"], "object": "response", "deleted": true }));
    let (status, error) = fixture
        .call("POST", "/v1/responses", json!({ "input": "x", "previous_response_id": first["id"] }))
        .await;
    assert_eq!((status, error["error"]["param"].as_str()), (404, Some("previous_response_id")));
}

#[tokio::test]
async fn a_conversation_grows_by_its_responses() {
    let fixture = Fixture::scripted();
    let conversation = fixture.post("/v1/conversations", json!({})).await;
    let id = conversation["id"].as_str().expect("an id");
    for word in ["one", "two"] {
        let request = json!({ "input": format!("say {word}"), "conversation": id });
        let response = fixture.post("/v1/responses", request).await;
        assert_eq!((text(&response), &response["conversation"]["id"]), (word, &json!(id)));
    }
    let items = fixture.get(&format!("/v1/conversations/{id}/items?order=asc")).await;
    let said: Vec<&str> = items["data"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| item["content"][0]["text"].as_str().expect("a text"))
        .collect();
    assert_eq!(said, ["say one", "one", "say two", "two"]);
    let both = json!({ "input": "x", "conversation": { "id": id }, "previous_response_id": "resp_x" });
    assert_eq!(fixture.call("POST", "/v1/responses", both).await.0, 400);
}

#[tokio::test]
async fn a_response_in_the_background_goes_on_alone_and_can_be_cancelled() {
    let fixture = Fixture::scripted();
    let queued = fixture.post("/v1/responses", json!({ "input": "say done", "background": true })).await;
    assert!(["queued", "in_progress"].contains(&queued["status"].as_str().expect("a status")));
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    let done = fixture.until(&path, |response| response["status"] == "completed").await;
    assert_eq!(text(&done), "done");
    let replayed = fixture.events("GET", &format!("{path}?stream=true"), Value::Null).await;
    assert_eq!(kinds(&replayed)[..3], ["response.created", "response.queued", "response.in_progress"]);

    let endless = fixture.post("/v1/responses", json!({ "input": "forever", "background": true })).await;
    let path = format!("/v1/responses/{}", endless["id"].as_str().expect("an id"));
    fixture.until(&path, |response| response["status"] == "in_progress").await;
    let cancelled = fixture.post(&format!("{path}/cancel"), Value::Null).await;
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(fixture.post(&format!("{path}/cancel"), Value::Null).await, cancelled, "again is no error");
    let foreground = fixture.post("/v1/responses", json!({ "input": "say x" })).await;
    let path = format!("/v1/responses/{}/cancel", foreground["id"].as_str().expect("an id"));
    assert_eq!(fixture.call("POST", &path, Value::Null).await.0, 400);
    let unkept = json!({ "input": "x", "background": true, "store": false });
    assert_eq!(fixture.call("POST", "/v1/responses", unkept).await.0, 400);
}

#[tokio::test]
async fn a_response_in_the_background_shows_what_has_been_written_so_far() {
    let fixture = Fixture::scripted();
    let endless = fixture.post("/v1/responses", json!({ "input": "forever", "background": true })).await;
    let path = format!("/v1/responses/{}", endless["id"].as_str().expect("an id"));
    let written = |response: &Value| {
        response["output"][0]["content"][0]["text"].as_str().is_some_and(|text| text.len() > 8)
    };
    let partial = fixture.until(&path, written).await;
    assert!(text(&partial).starts_with("foreverf"), "{partial}");
    assert_eq!(
        (&partial["status"], &partial["output"][0]["status"]),
        (&json!("in_progress"), &json!("in_progress"))
    );
    // A listener who comes late hears what was told, from where they say, and what comes.
    let stream = format!("{path}?stream=true&starting_after=4");
    let mut body = fixture.send(Fixture::request("GET", &stream, "")).await.into_body();
    let mut heard = String::new();
    while heard.matches("response.output_text.delta").count() < 12 {
        let piece = body.frame().await.expect("it goes on").expect("a piece").into_data().expect("data");
        heard.push_str(std::str::from_utf8(&piece).expect("text"));
    }
    assert!(heard.starts_with("event: response.output_text.delta"), "{heard}");
    assert!(heard.contains("\"sequence_number\":5,"), "{heard}");
    fixture.post(&format!("{path}/cancel"), Value::Null).await;
}

#[tokio::test]
async fn a_listener_who_leaves_ends_a_response_in_the_foreground_alone() {
    let fixture = Fixture::scripted();
    for background in [false, true] {
        let request = json!({ "input": "forever", "stream": true, "background": background });
        let response = fixture.send(Fixture::request("POST", "/v1/responses", request.to_string())).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(response);
    }
    for _ in 0..100 {
        if fixture.store.responses().unfinished().expect("unfinished").len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = fixture.store.responses().unfinished().expect("unfinished");
    assert_eq!(left.len(), 1);
    assert!(left[0].background);
    fixture.delete(&format!("/v1/responses/{}", left[0].id)).await;
    assert_eq!(fixture.store.responses().unfinished().expect("unfinished"), []);
}

#[tokio::test]
async fn what_is_not_kept_cannot_be_found_again() {
    let fixture = Fixture::scripted();
    let response = fixture.post("/v1/responses", json!({ "input": "say x", "store": false })).await;
    assert_eq!(response["store"], false);
    let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    assert_eq!(fixture.call("GET", &path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_failure_is_told_to_whoever_waits_and_whoever_listens() {
    let fixture = Fixture::scripted();
    let (status, _) = fixture.call("POST", "/v1/responses", json!({ "input": "break" })).await;
    assert!(status >= 400);
    let events = fixture.events("POST", "/v1/responses", json!({ "input": "break", "stream": true })).await;
    let last = events.last().expect("a last event");
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert!(last["response"]["error"]["message"].is_string());
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_their_field() {
    let fixture = Fixture::scripted();
    for (request, param) in [
        (json!({}), "input"),
        (json!({ "input": 3 }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": "x", "model": "none" }), "model"),
        (json!({ "input": "x", "temperature": "hot" }), "temperature"),
        (json!({ "input": "x", "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "input": "x", "tools": [{ "type": "function" }] }), "tools[0].name"),
        (json!({ "input": "x", "tool_choice": "required" }), "tool_choice"),
        (json!({ "input": "x", "tools": [{ "type": "file_search" }] }), "tools[0].vector_store_ids"),
        (json!({ "input": "x", "metadata": { "a": 1 } }), "metadata"),
        (json!({ "input": "x", "text": { "format": { "type": "poem" } } }), "text.format"),
        (json!({ "input": "x", "truncation": "some" }), "truncation"),
        (json!({ "input": "x", "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "input": "x", "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "input": "x", "prompt": { "id": "pmpt_1" } }), "prompt"),
        (
            json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }),
            "input[0].content[0].type",
        ),
    ] {
        let (status, error) = fixture.call("POST", "/v1/responses", request.clone()).await;
        assert!((400..500).contains(&status), "{request}: {status} {error}");
        assert_eq!(error["error"]["param"], param, "{request}: {error}");
    }
}

#[tokio::test]
async fn tokens_are_counted_without_an_answer() {
    let fixture = Fixture::scripted();
    let count = fixture.post("/v1/responses/input_tokens", json!({ "input": "hello" })).await;
    let expected = "user: hello\nassistant:".len();
    assert_eq!(count, json!({ "object": "response.input_tokens", "input_tokens": expected }));
}

#[tokio::test]
async fn the_oldest_turns_are_left_out_where_that_is_wished() {
    let fixture = Fixture::tiny();
    let turns: Vec<Value> =
        (0..60).map(|turn| json!({ "role": "user", "content": format!("turn {turn} of many") })).collect();
    let request = json!({ "input": turns, "max_output_tokens": 4 });
    let (status, error) = fixture.call("POST", "/v1/responses", request.clone()).await;
    assert_eq!((status, error["error"]["code"].as_str()), (400, Some("context_length_exceeded")), "{error}");
    let mut shortened = request;
    shortened["truncation"] = json!("auto");
    let response = fixture.post("/v1/responses", shortened).await;
    assert!(response["usage"]["input_tokens"].as_u64().expect("a number") < 1024);
}

#[tokio::test]
async fn what_a_killed_server_left_has_failed_when_the_next_one_starts() {
    let fixture = Fixture::scripted();
    let request = json!({ "input": "forever", "background": true });
    let response = fixture.post("/v1/responses", request).await;
    let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    fixture.until(&path, |response| response["status"] == "in_progress").await;
    // Another server over the same database, as if the first had been killed.
    let Fixture { folder, .. } = fixture;
    let next = Fixture::with(tiny_engine(), folder, None);
    let failed = next.until(&path, |response| response["status"] == "failed").await;
    assert_eq!(failed["error"]["code"], "server_error");
    let events = next.events("GET", &format!("{path}?stream=true"), Value::Null).await;
    assert_eq!(events.last().expect("an event")["type"], "response.failed");
}

#[tokio::test]
async fn a_conversation_is_made_short_and_goes_on_from_there() {
    let fixture = Fixture::scripted();
    let path = "/v1/responses/compact";
    let first = fixture.post("/v1/responses", json!({ "input": "say salt" })).await;
    let short = fixture.post(path, json!({ "previous_response_id": first["id"] })).await;
    assert_eq!(short["object"], "response.compaction");
    // What the user said as it was, and a summary in the place of everything else.
    let mut items = short["output"].as_array().expect("items").clone();
    let kinds: Vec<&str> = items.iter().map(|item| item["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["message", "compaction"]);
    assert_eq!(items[0]["content"][0]["text"], "say salt");
    let summary = short["usage"]["output_tokens"].as_u64().expect("tokens");
    assert!(summary > 100, "{short}");
    items.push(json!({ "role": "user", "content": "say on" }));
    let next = fixture.post("/v1/responses", json!({ "input": items })).await;
    assert_eq!(text(&next), "on");
    assert!(next["usage"]["input_tokens"].as_u64().expect("tokens") > summary, "the summary is read");
    // What the system said stays, too, and templates see the user's turns as one.
    let turns = json!([
        { "role": "developer", "content": "be brief" },
        { "role": "user", "content": "one" },
        { "role": "assistant", "content": "1" },
        { "role": "user", "content": "two" },
    ]);
    let short = fixture.post(path, json!({ "input": turns })).await;
    let mut items = short["output"].as_array().expect("items").clone();
    let roles: Vec<&Value> = items.iter().map(|item| &item["role"]).collect();
    assert_eq!(roles, [&json!("developer"), &json!("user"), &json!("user"), &Value::Null]);
    // The summary is of what is left when the model's instruction is in the user's own turn.
    items.truncate(3);
    let again = fixture.post(path, json!({ "input": items })).await;
    assert_eq!(again["output"].as_array().map(Vec::len), Some(4));
    let items = json!([{ "type": "compaction", "encrypted_content": "gAAAAABpM0Yj" }]);
    for (request, param) in [
        (json!({ "input": items }), "input[0].encrypted_content"),
        (json!({}), "input"),
        (json!({ "previous_response_id": "resp_x" }), "previous_response_id"),
    ] {
        let (_, error) = fixture.call("POST", path, request).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
}
