use super::scripted::Scripted;
use super::{Fixture, Loader, ids, served, tiny_engine};
use alti_server::{AppState, ServerSettings, Services};
use alti_store::{Store, StoreSettings};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
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
    let details = json!({ "cached_tokens": 0, "cache_write_tokens": 0 });
    assert_eq!(response["usage"]["input_tokens_details"], details);
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
    assert_eq!((status, &error["error"]["type"]), (400, &json!("invalid_request_error")));
    assert_eq!(error["error"]["param"], "previous_response_id");
    assert_eq!(error["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn an_item_is_referred_to_without_what_it_was_said_in() {
    let fixture = Fixture::scripted();
    let first = fixture.post("/v1/responses", json!({ "input": "say one" })).await;
    let path = format!("/v1/responses/{}/input_items", first["id"].as_str().expect("an id"));
    let asked = fixture.get(&path).await;
    let items = json!({ "items": [{ "role": "user", "content": "and then?" }] });
    let conversation = fixture.post("/v1/conversations", items).await;
    let path = format!("/v1/conversations/{}/items", conversation["id"].as_str().expect("an id"));
    let noted = fixture.get(&path).await;
    let reference = |id: &Value| json!({ "type": "item_reference", "id": id });
    let input = json!([
        reference(&asked["data"][0]["id"]),
        reference(&first["output"][0]["id"]),
        reference(&noted["data"][0]["id"]),
        { "role": "user", "content": "say two" },
    ]);
    let second = fixture.post("/v1/responses", json!({ "input": input })).await;
    assert_eq!(text(&second), "two");
    let read = "user: say one\nassistant: one\nuser: and then?\nuser: say two\nassistant:".len();
    assert_eq!(second["usage"]["input_tokens"], read);
    let (status, error) =
        fixture.call("POST", "/v1/responses", json!({ "input": [reference(&json!("msg_none"))] })).await;
    assert_eq!((status, &error["error"]["param"]), (404, &json!("input")), "{error}");
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
    // A response that is not kept is part of it, too.
    let request = json!({ "input": "say three", "conversation": id, "store": false });
    assert_eq!(text(&fixture.post("/v1/responses", request).await), "three");
    let items = fixture.get(&format!("/v1/conversations/{id}/items?limit=2")).await;
    assert_eq!(items["data"][0]["content"][0]["text"], "three");
    assert_eq!(items["data"][1]["content"][0]["text"], "say three");
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
    let early = json!({ "input": "say x", "previous_response_id": endless["id"] });
    let (status, error) = fixture.call("POST", "/v1/responses", early).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("previous_response_id")), "{error}");
    assert!(error["error"]["message"].as_str().is_some_and(|it| it.contains("still in progress")), "{error}");
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

/// A server whose database may not grow beyond so many bytes.
fn narrow(bytes: u64) -> Fixture {
    let folder = tempfile::tempdir().expect("a folder");
    let settings =
        StoreSettings { max_bytes: Some(bytes), survive_power_failure: false, ..StoreSettings::default() };
    let store = Store::open(&folder.path().join("alti.db"), settings).expect("the database opens");
    let loader = Arc::new(Loader { model: served(Arc::new(Scripted)) });
    let services = Services { store: Some(store.clone()), ..Services::default() };
    let state = AppState::with_services(ServerSettings::default(), loader, services);
    alti_server::resources::start(&state);
    Fixture { router: alti_server::router(state.clone()), state, store, folder }
}

#[tokio::test]
async fn a_response_that_the_disk_has_no_room_for_fails_at_once_and_is_stored_when_it_has() {
    let fixture = narrow(800_000);
    let conversations = fixture.store.conversations();
    let ballast = conversations.create("", json!({}), &[]).expect("a conversation");
    let endless = fixture.post("/v1/responses", json!({ "input": "forever", "background": true })).await;
    let path = format!("/v1/responses/{}", endless["id"].as_str().expect("an id"));
    let mut number = 0;
    for size in [9000, 50] {
        let item = |number| json!({ "id": format!("msg_{number}"), "text": "x".repeat(size) });
        while conversations.add_items("", &ballast.id, &[item(number)]).is_ok() {
            number += 1;
        }
    }
    let failed = fixture.until(&path, |response| response["status"] == "failed").await;
    assert_eq!(failed["error"]["code"], "server_error");
    assert_eq!(fixture.post(&format!("{path}/cancel"), Value::Null).await, failed);
    assert_eq!(fixture.store.responses().unfinished().expect("unfinished").len(), 1);
    conversations.delete("", &ballast.id).expect("deleted");
    for _ in 0..200 {
        if fixture.store.responses().unfinished().expect("unfinished").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fixture.store.responses().unfinished().expect("unfinished"), []);
    assert_eq!(fixture.get(&path).await, failed);
    let events = fixture.events("GET", &format!("{path}?stream=true"), Value::Null).await;
    assert_eq!(kinds(&events).last(), Some(&"response.failed"));
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
        (json!({ "input": "x", "tools": [{ "type": "web_seek" }] }), "tools[0].type"),
        (json!({ "input": "x", "tools": [{ "type": "function" }] }), "tools[0].name"),
        (json!({ "input": "x", "tool_choice": "required" }), "tool_choice"),
        (json!({ "input": "x", "tools": [{ "type": "file_search" }] }), "tools[0].vector_store_ids"),
        (json!({ "input": "x", "metadata": { "a": 1 } }), "metadata"),
        (json!({ "input": "x", "text": { "format": { "type": "poem" } } }), "text.format"),
        (json!({ "input": "x", "text": "x" }), "text"),
        (json!({ "input": "x", "text": 3 }), "text"),
        (json!({ "input": "x", "text": true }), "text"),
        (json!({ "input": "x", "text": [] }), "text"),
        (json!({ "input": "x", "temperature": 2.1 }), "temperature"),
        (json!({ "input": "x", "temperature": 50 }), "temperature"),
        (json!({ "input": "x", "top_p": 1.5 }), "top_p"),
        (json!({ "input": "x", "presence_penalty": 100 }), "presence_penalty"),
        (json!({ "input": "x", "frequency_penalty": -100 }), "frequency_penalty"),
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
async fn a_format_that_is_null_is_none() {
    let request = json!({ "input": "say x", "text": { "format": null, "verbosity": null } });
    let response = Fixture::scripted().post("/v1/responses", request).await;
    assert_eq!(response["text"], json!({ "format": { "type": "text" } }));
}

#[tokio::test]
async fn a_format_that_is_no_schema_is_refused_with_its_field() {
    let fixture = Fixture::tiny();
    for background in [false, true] {
        let format = json!({ "type": "json_schema", "name": "x", "schema": { "type": "colour" } });
        let request = json!({ "input": "x", "text": { "format": format }, "background": background });
        let (status, error) = fixture.call("POST", "/v1/responses", request).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("text.format")), "{error}");
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
    assert_eq!(short["usage"]["input_tokens_details"]["cache_write_tokens"], 0);
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

/// A function without anything but its name.
fn tool(name: &str) -> Value {
    json!({ "type": "function", "name": name })
}

/// What makes the scripted model say something and call `weather` for each city.
fn calling(said: &str, cities: &[&str]) -> Value {
    let call = |city: &&str| {
        format!("<tool_call>{{\"name\": \"weather\", \"arguments\": {{\"city\": \"{city}\"}}}}</tool_call>")
    };
    let calls: Vec<String> = cities.iter().map(call).collect();
    let input = format!("say {said}{}", calls.join("\n"));
    json!({ "input": input, "tools": [tool("weather")], "max_output_tokens": 500 })
}

/// The cities that a response asks the weather of; everything in its calls must be whole.
fn cities(response: &Value) -> Vec<String> {
    let output = response["output"].as_array().expect("output");
    let calls = output.iter().filter(|item| item["type"] == "function_call");
    let city = |call: &Value| {
        assert_eq!((&call["name"], &call["status"]), (&json!("weather"), &json!("completed")));
        assert!(call["call_id"].as_str().is_some_and(|id| !id.is_empty()));
        let arguments: Value =
            serde_json::from_str(call["arguments"].as_str().expect("a text")).expect("whole arguments");
        arguments["city"].as_str().expect("a city").to_owned()
    };
    calls.map(city).collect()
}

/// The kinds of a response's items.
fn item_kinds(response: &Value) -> Vec<&str> {
    let output = response["output"].as_array().expect("output");
    output.iter().map(|item| item["type"].as_str().expect("a type")).collect()
}

#[tokio::test]
async fn a_call_is_one_item_with_its_whole_arguments() {
    let fixture = Fixture::scripted();
    let response = fixture.post("/v1/responses", calling("", &["Lima"])).await;
    assert_eq!(item_kinds(&response), ["function_call"], "{response}");
    assert_eq!((cities(&response), &response["status"]), (vec!["Lima".to_owned()], &json!("completed")));
    // The client calls, and the model goes on.
    let output = json!([
        { "type": "function_call_output", "call_id": response["output"][0]["call_id"], "output": "fog" },
        { "role": "user", "content": "say foggy" },
    ]);
    let next = json!({ "input": output, "previous_response_id": response["id"], "tools": [tool("weather")] });
    assert_eq!(text(&fixture.post("/v1/responses", next).await), "foggy");
}

#[tokio::test]
async fn text_comes_before_the_calls_and_nothing_between_them() {
    let fixture = Fixture::scripted();
    let response = fixture.post("/v1/responses", calling("I look it up.\n", &["Lima", "Cusco"])).await;
    assert_eq!(item_kinds(&response), ["message", "function_call", "function_call"], "{response}");
    assert_eq!((text(&response), cities(&response)), ("I look it up.", vec!["Lima".into(), "Cusco".into()]));
}

#[tokio::test]
async fn the_deltas_of_calls_are_their_arguments() {
    let fixture = Fixture::scripted();
    for (said, names) in [("", vec!["Lima"]), ("", vec!["Lima", "Cusco"]), ("I look.", vec!["Lima"])] {
        let mut request = calling(said, &names);
        request["stream"] = json!(true);
        let events = fixture.events("POST", "/v1/responses", request).await;
        let response = &events.last().expect("a last event")["response"];
        assert_eq!(cities(response), names);
        assert_eq!(item_kinds(response).len(), names.len() + usize::from(!said.is_empty()), "{response}");
        let of_item = |item: &Value, kind: &str| -> Vec<&Value> {
            let is_of = |event: &&Value| event["item_id"] == item["id"] && event["type"] == kind;
            events.iter().filter(is_of).collect()
        };
        for call in response["output"].as_array().expect("output") {
            if call["type"] != "function_call" {
                continue;
            }
            let deltas = of_item(call, "response.function_call_arguments.delta");
            let whole: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
            assert_eq!(call["arguments"], whole);
            let done = of_item(call, "response.function_call_arguments.done");
            assert_eq!((done.len(), &done[0]["arguments"]), (1, &call["arguments"]));
        }
        let opened = kinds(&events).iter().filter(|kind| **kind == "response.output_item.added").count();
        assert_eq!(opened, item_kinds(response).len(), "no item comes and goes");
    }
}

#[tokio::test]
async fn probabilities_are_those_of_the_text_and_not_of_calls() {
    let fixture = Fixture::scripted();
    let mut request = calling("I look it up.\n", &["Lima"]);
    request["include"] = json!(["message.output_text.logprobs"]);
    let response = fixture.post("/v1/responses", request.clone()).await;
    let tokens = |logprobs: &Value| -> String {
        let entries = logprobs.as_array().expect("logprobs");
        entries.iter().map(|entry| entry["token"].as_str().expect("a token")).collect()
    };
    assert_eq!(tokens(&response["output"][0]["content"][0]["logprobs"]), "I look it up.");
    request["stream"] = json!(true);
    let events = fixture.events("POST", "/v1/responses", request).await;
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    for event in deltas {
        assert_eq!(event["delta"], tokens(&event["logprobs"]), "each piece comes with its own tokens");
    }
}

#[tokio::test]
async fn probabilities_have_no_more_digits_than_were_computed() {
    let request = json!({ "input": "hi", "max_output_tokens": 8, "top_logprobs": 2 });
    let response = Fixture::tiny().post("/v1/responses", request).await;
    let logprobs = response["output"][0]["content"][0]["logprobs"].as_array().expect("logprobs");
    assert_eq!(logprobs.len(), 8);
    for entry in logprobs.iter().chain(logprobs.iter().flat_map(|it| it["top_logprobs"].as_array().unwrap()))
    {
        let logprob = entry["logprob"].as_f64().expect("a number");
        assert_eq!(logprob.to_string(), (logprob as f32).to_string());
    }
}

#[tokio::test]
async fn tools_that_are_not_here_are_left_out_and_told_as_they_were_sent() {
    let fixture = Fixture::scripted();
    let web = json!({ "type": "web_search", "search_context_size": "low" });
    let custom = json!({ "type": "custom", "name": "patch" });
    let mut request = calling("", &["Lima"]);
    request["tools"] = json!([web, custom, tool("weather"), { "type": "image_generation" }]);
    let response = fixture.post("/v1/responses", request.clone()).await;
    assert_eq!(cities(&response), ["Lima"]);
    assert_eq!((&response["tools"][0], &response["tools"][1]), (&web, &custom));
    for choice in [
        json!({ "type": "web_search_preview" }),
        json!({ "type": "custom", "name": "patch" }),
        json!({ "type": "dance" }),
    ] {
        request["tool_choice"] = choice;
        let (status, error) = fixture.call("POST", "/v1/responses", request.clone()).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("tool_choice")), "{error}");
    }
    let alone = json!({ "input": "x", "tools": [web], "tool_choice": "required" });
    let (status, error) = fixture.call("POST", "/v1/responses", alone).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("tool_choice")), "{error}");
}

#[tokio::test]
async fn functions_are_told_flat_and_with_every_field() {
    let nested = json!({ "type": "function", "function": { "name": "time", "strict": true } });
    let described = json!({ "type": "function", "name": "weather", "description": "Tells it.",
        "parameters": { "type": "object", "properties": {} }, "strict": false });
    let request = json!({ "input": "say x", "tools": [tool("plain"), nested, described] });
    let response = Fixture::scripted().post("/v1/responses", request).await;
    let plain = json!({ "type": "function", "name": "plain", "description": null, "parameters": null,
        "strict": null });
    let time = json!({ "type": "function", "name": "time", "description": null, "parameters": null,
        "strict": true });
    assert_eq!(response["tools"], json!([plain, time, described]));
}

#[tokio::test]
async fn only_the_tools_that_are_allowed_are_called() {
    let fixture = Fixture::scripted();
    let mut request = calling("", &["Lima"]);
    request["tools"] = json!([tool("weather"), tool("time"), { "type": "web_search" }]);
    let allowed = |names: &[&str], mode: &str| {
        let mut tools: Vec<Value> = names.iter().map(|name| tool(name)).collect();
        tools.push(json!({ "type": "web_search" }));
        json!({ "type": "allowed_tools", "mode": mode, "tools": tools })
    };
    for (names, kind) in [(vec!["weather"], "function_call"), (vec!["time"], "message")] {
        request["tool_choice"] = allowed(&names, "auto");
        let response = fixture.post("/v1/responses", request.clone()).await;
        assert_eq!(item_kinds(&response), [kind], "{response}");
        assert_eq!(response["tool_choice"], request["tool_choice"]);
        assert_eq!(response["tools"].as_array().map(Vec::len), Some(3), "they are told as they were sent");
    }
    request["tool_choice"] = allowed(&["weather"], "required");
    assert_eq!(cities(&fixture.post("/v1/responses", request.clone()).await), ["Lima"]);
    let untold = json!({ "type": "allowed_tools", "mode": "auto" });
    for choice in [allowed(&["dance"], "auto"), allowed(&[], "required"), allowed(&["time"], "none"), untold]
    {
        request["tool_choice"] = choice;
        let (status, error) = fixture.call("POST", "/v1/responses", request.clone()).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("tool_choice")), "{error}");
    }
}

#[tokio::test]
async fn a_conversation_that_began_elsewhere_goes_on_here() {
    let items = json!([
        { "role": "user", "content": "patch it" },
        { "type": "web_search_call", "id": "ws_1", "status": "completed", "action": { "type": "search" } },
        { "type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "+ line" },
        { "type": "custom_tool_call_output", "call_id": "c1", "output": "done" },
        { "type": "mcp_approval_request", "id": "mcpr_1", "server_label": "x", "name": "y", "arguments": "{}" },
        { "type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": false },
        { "role": "user", "content": "say yes" },
    ]);
    let fixture = Fixture::scripted();
    let response = fixture.post("/v1/responses", json!({ "input": items })).await;
    assert_eq!(text(&response), "yes");
    let path = format!("/v1/responses/{}/input_items", response["id"].as_str().expect("an id"));
    assert_eq!(ids(&fixture.get(&path).await).len(), 7, "what the model does not see is kept");
}

#[tokio::test]
async fn what_a_search_found_is_told_to_whoever_asks_later() {
    let fixture = Fixture::scripted();
    let file = fixture.upload("salt.txt", "assistants", "The salt flat of Uyuni lies at 3656 metres.").await;
    let made = fixture.post("/v1/vector_stores", json!({ "file_ids": [file] })).await;
    let store = made["id"].as_str().expect("an id");
    fixture.until(&format!("/v1/vector_stores/{store}"), |store| store["status"] == "completed").await;
    let tools = json!([{ "type": "file_search", "vector_store_ids": [store] }]);
    let mut request = json!({ "input": "say salt", "tools": tools });
    let response = fixture.post("/v1/responses", request.clone()).await;
    assert_eq!(response["output"][0]["results"], Value::Null, "nobody asked");
    let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    assert_eq!(fixture.get(&path).await, response);
    for query in ["include=file_search_call.results", "include%5B%5D=file_search_call.results"] {
        let found = fixture.get(&format!("{path}?{query}")).await;
        assert_eq!(found["output"][0]["results"][0]["file_id"], file.as_str());
        assert_eq!(found["output"][1], response["output"][1]);
    }
    request["stream"] = json!(true);
    let events = fixture.events("POST", "/v1/responses", request.clone()).await;
    assert!(events.iter().all(|event| !event.to_string().contains("3656")), "no event tells what was found");
    (request["stream"], request["include"]) = (json!(false), json!(["file_search_call.results"]));
    let response = fixture.post("/v1/responses", request).await;
    assert_eq!(response["output"][0]["results"][0]["file_id"], file.as_str());
}
