//! Calls to MCP servers that have to be approved: they are asked about, and made or refused by what is said to that.

use crate::Fixture;
use crate::mcp::{call, fixture, of_kind};
use serde_json::{Value, json};

fn tools() -> Value {
    json!([{ "type": "mcp", "server_label": "tiny", "require_approval": "always", "allowed_tools": ["greet", "fail"] }])
}

/// A request that calls a tool.
fn asking(name: &str) -> Value {
    json!({ "input": call(name), "tools": tools(), "max_output_tokens": 500 })
}

fn decision(request: &Value, approve: bool) -> Value {
    json!({ "type": "mcp_approval_response", "approval_request_id": request["id"], "approve": approve })
}

/// A request that goes on from a response with a decision, and has `done` said.
fn going_on(response: &Value, decision: Value) -> Value {
    let input = json!([decision, { "role": "user", "content": "say done" }]);
    json!({ "input": input, "previous_response_id": response["id"], "tools": tools(), "max_output_tokens": 500 })
}

/// What a response asks to be approved, which is the last that it says.
fn asked(response: &Value) -> Value {
    assert_eq!(response["status"], "completed", "{response}");
    assert!(of_kind(response, "mcp_call").is_empty(), "{response}");
    let last = response["output"].as_array().expect("output").last().expect("an item").clone();
    assert_eq!(last["type"], "mcp_approval_request", "{response}");
    last
}

fn kinds(response: &Value) -> Vec<&str> {
    response["output"].as_array().expect("output").iter().filter_map(|item| item["type"].as_str()).collect()
}

fn path(response: &Value) -> String {
    format!("/v1/responses/{}", response["id"].as_str().expect("an id"))
}

async fn refused(fixture: &Fixture, request: Value) -> String {
    let (status, answer) = fixture.call("POST", "/v1/responses", request).await;
    assert_eq!(status, 400, "{answer}");
    answer["error"]["param"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_call_is_asked_about_and_made_when_it_is_approved() {
    let fixture = fixture();
    let first = fixture.post("/v1/responses", asking("greet")).await;
    let request = asked(&first);
    assert_eq!((&request["server_label"], &request["name"]), (&json!("tiny"), &json!("greet")));
    let arguments = request["arguments"].as_str().expect("arguments");
    assert_eq!(serde_json::from_str::<Value>(arguments).expect("JSON"), json!({ "who": "Ada" }));
    assert_eq!(kinds(&first), ["mcp_list_tools", "mcp_approval_request"]);
    assert_eq!(fixture.get(&path(&first)).await, first);

    let second = fixture.post("/v1/responses", going_on(&first, decision(&request, true))).await;
    assert_eq!(second["status"], "completed", "{second}");
    assert_eq!(kinds(&second), ["mcp_list_tools", "mcp_call", "message"]);
    let made = of_kind(&second, "mcp_call")[0];
    assert_eq!((&made["output"], &made["status"]), (&json!("hello, Ada (hi)"), &json!("completed")));
    assert_eq!((&made["approval_request_id"], &made["arguments"]), (&request["id"], &request["arguments"]));
    // It says again what it was told last.
    let said = second["output"][2]["content"][0]["text"].as_str().expect("a text");
    assert!(said.contains("hello, Ada (hi)"), "{said}");
    assert_eq!(fixture.get(&path(&second)).await, second);
    let items = fixture.get(&format!("{}/input_items?order=asc", path(&second))).await;
    let kept = &items["data"][0];
    assert!(kept["id"].as_str().is_some_and(|id| id.starts_with("mcpa_")), "{items}");
    assert_eq!(
        (&kept["type"], &kept["approval_request_id"], &kept["approve"]),
        (&json!("mcp_approval_response"), &request["id"], &json!(true))
    );

    // What was decided is decided; who goes on without a word about it goes on all the same.
    let again = going_on(&second, decision(&request, true));
    assert_eq!(refused(&fixture, again).await, "input[0].approval_request_id");
    let next = json!({ "input": "say more", "previous_response_id": second["id"] });
    assert_eq!(kinds(&fixture.post("/v1/responses", next).await), ["message"]);
}

#[tokio::test]
async fn a_call_that_is_refused_is_not_made_and_the_model_is_told() {
    let fixture = fixture();
    let first = fixture.post("/v1/responses", asking("greet")).await;
    let request = asked(&first);
    let mut read = Vec::new();
    let mut reasoned = decision(&request, false);
    reasoned["reason"] = json!("too friendly");
    for decision in [decision(&request, true), decision(&request, false), reasoned] {
        let approves = decision["approve"] == true;
        let second = fixture.post("/v1/responses", going_on(&first, decision)).await;
        assert_eq!(of_kind(&second, "mcp_call").len(), usize::from(approves), "{second}");
        assert_eq!(second["output"].as_array().expect("output").last().expect("one")["type"], "message");
        read.push(second["usage"]["input_tokens"].as_u64().expect("tokens") as usize);
    }
    let refused = "error: the user did not approve this call: it was not made".len();
    assert_eq!(read[1] - read[0], refused - "hello, Ada (hi)".len());
    assert_eq!(read[2] - read[1], ". The reason is: too friendly".len());
}

#[tokio::test]
async fn every_tool_is_asked_about_unless_the_request_says_otherwise() {
    let fixture = fixture();
    let both = format!("{}{}", call("fail"), call("greet").trim_start_matches("say "));
    for (approval, made, left) in [
        (Value::Null, vec![], vec!["fail", "greet"]),
        (json!({ "always": { "tool_names": ["fail"] } }), vec![], vec!["fail", "greet"]),
        (json!({ "never": { "tool_names": ["greet"] } }), vec!["greet"], vec!["fail"]),
        (json!({ "never": { "read_only": true } }), vec!["greet"], vec!["fail"]),
        (json!({ "never": { "tool_names": ["fail"] } }), vec!["fail"], vec!["greet"]),
    ] {
        let tool = json!({ "type": "mcp", "server_label": "tiny", "require_approval": approval });
        let request = json!({ "input": both, "tools": [tool], "max_output_tokens": 500 });
        let response = fixture.post("/v1/responses", request).await;
        let names = |kind: &str| -> Vec<String> {
            of_kind(&response, kind)
                .iter()
                .map(|item| item["name"].as_str().unwrap_or_default().into())
                .collect()
        };
        assert_eq!(
            (names("mcp_call"), names("mcp_approval_request")),
            (owned(made), owned(left)),
            "{response}"
        );
        assert_eq!(kinds(&response).last(), Some(&"mcp_approval_request"));
    }
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn requests_and_calls_are_told_as_the_api_tells_them() {
    let fixture = fixture();
    let mut request = asking("greet");
    request["stream"] = json!(true);
    let events = fixture.events("POST", "/v1/responses", request).await;
    let about: Vec<&Value> =
        events.iter().filter(|event| event["item"]["type"] == "mcp_approval_request").collect();
    let kinds: Vec<&str> = about.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["response.output_item.added", "response.output_item.done"]);
    assert_eq!((&about[0]["output_index"], &about[1]["output_index"]), (&json!(1), &json!(1)));
    let last = events.last().expect("events");
    assert_eq!(last["type"], "response.completed");
    let item = asked(&last["response"]);
    assert_eq!((&about[0]["item"], &about[1]["item"]), (&item, &item));

    let mut request = going_on(&last["response"], decision(&item, true));
    request["stream"] = json!(true);
    let events = fixture.events("POST", "/v1/responses", request).await;
    let all: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(all[..2], ["response.created", "response.in_progress"]);
    let at = all.iter().position(|kind| *kind == "response.mcp_call.in_progress").expect("a call");
    assert_eq!(
        all[at - 1..at + 6],
        [
            "response.output_item.added",
            "response.mcp_call.in_progress",
            "response.mcp_call_arguments.delta",
            "response.mcp_call_arguments.done",
            "response.mcp_call.completed",
            "response.output_item.done",
            "response.output_item.added",
        ]
    );
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    // They are told again as they were.
    let response = &events.last().expect("events")["response"];
    let again = fixture.events("GET", &format!("{}?stream=true", path(response)), Value::Null).await;
    assert_eq!(again, events);
}

#[tokio::test]
async fn a_conversation_remembers_what_was_asked_and_decided() {
    let fixture = fixture();
    let conversation = fixture.post("/v1/conversations", json!({})).await;
    let items = format!("/v1/conversations/{}/items", conversation["id"].as_str().expect("an id"));
    let mut first = asking("greet");
    first["conversation"] = conversation["id"].clone();
    let request = asked(&fixture.post("/v1/responses", first).await);
    let input = json!([decision(&request, true), { "role": "user", "content": "say done" }]);
    let second = json!({ "input": input, "conversation": conversation["id"], "tools": tools() });
    assert_eq!(of_kind(&fixture.post("/v1/responses", second.clone()).await, "mcp_call").len(), 1);
    let listed = fixture.get(&format!("{items}?order=asc&limit=100")).await;
    let kinds: Vec<&str> =
        listed["data"].as_array().expect("items").iter().filter_map(|item| item["type"].as_str()).collect();
    let expected = [
        "message",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "message",
        "mcp_list_tools",
        "mcp_call",
        "message",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(refused(&fixture, second).await, "input[0].approval_request_id");

    // What was decided can also be noted in the conversation first.
    let mut third = asking("greet");
    third["conversation"] = conversation["id"].clone();
    let request = asked(&fixture.post("/v1/responses", third).await);
    let noted = [decision(&request, true), json!({ "role": "user", "content": "say done" })];
    fixture.post(&items, json!({ "items": noted })).await;
    let fourth = json!({ "conversation": conversation["id"], "tools": tools() });
    let fourth = fixture.post("/v1/responses", fourth).await;
    assert_eq!(of_kind(&fourth, "mcp_call")[0]["approval_request_id"], request["id"]);
}

#[tokio::test]
async fn clients_that_keep_everything_themselves_send_it_all_again() {
    let fixture = fixture();
    let mut first = asking("greet");
    first["store"] = json!(false);
    let response = fixture.post("/v1/responses", first).await;
    let mut input = vec![json!({ "role": "user", "content": call("greet") })];
    input.extend(response["output"].as_array().expect("output").iter().cloned());
    input.push(decision(&asked(&response), true));
    input.push(json!({ "role": "user", "content": "say done" }));
    let request = |input: &[Value]| json!({ "input": input, "tools": tools(), "store": false, "max_output_tokens": 500 });
    let second = fixture.post("/v1/responses", request(&input)).await;
    assert_eq!(of_kind(&second, "mcp_call").len(), 1, "{second}");
    input.extend(second["output"].as_array().expect("output").iter().cloned());
    input.push(json!({ "role": "user", "content": "say more" }));
    let third = fixture.post("/v1/responses", request(&input)).await;
    assert_eq!(kinds(&third), ["mcp_list_tools", "message"], "the call is made once");
}

#[tokio::test]
async fn approved_calls_count_and_are_made_in_the_background_too() {
    let fixture = fixture();
    let first = fixture.post("/v1/responses", asking("greet")).await;
    let request = asked(&first);
    // After the one call that may be made the model can call nothing more: what looks like a call is text.
    let input = [decision(&request, true)];
    let alone = json!({ "input": input, "previous_response_id": first["id"], "tools": tools(), "max_output_tokens": 500 });
    for (most, status) in [(1, "completed"), (0, "failed")] {
        let mut counted = alone.clone();
        counted["max_tool_calls"] = json!(most);
        let response = fixture.post("/v1/responses", counted).await;
        assert_eq!(kinds(&response).last(), Some(&"message"), "{response}");
        assert_eq!(of_kind(&response, "mcp_call")[0]["status"], status);
    }
    let mut background = going_on(&first, decision(&request, true));
    background["background"] = json!(true);
    let queued = fixture.post("/v1/responses", background).await;
    let done = fixture.until(&path(&queued), |response| response["status"] == "completed").await;
    assert_eq!(of_kind(&done, "mcp_call")[0]["output"], "hello, Ada (hi)");
    // What has to be called has been, so that a choice that is sent again does not ask again.
    let mut chosen = going_on(&first, decision(&request, true));
    chosen["tool_choice"] = json!("required");
    let response = fixture.post("/v1/responses", chosen).await;
    assert_eq!(response["output"].as_array().expect("output").last().expect("one")["type"], "message");
}

#[tokio::test]
async fn decisions_that_make_no_sense_are_refused_and_make_no_calls() {
    let fixture = fixture();
    let first = fixture.post("/v1/responses", asking("greet")).await;
    let request = asked(&first);
    let place = "input[0].approval_request_id";
    let unknown = decision(&json!({ "id": "mcpr_none" }), true);
    assert_eq!(refused(&fixture, going_on(&first, unknown)).await, place);
    let mut alone = going_on(&first, decision(&request, true));
    alone["previous_response_id"] = Value::Null;
    assert_eq!(refused(&fixture, alone).await, place);
    let mut vague = decision(&request, true);
    vague["approve"] = json!("yes");
    assert_eq!(refused(&fixture, going_on(&first, vague)).await, "input[0].approve");
    for tools in [json!([]), json!([{ "type": "mcp", "server_label": "tiny", "allowed_tools": ["fail"] }])] {
        let mut without = going_on(&first, decision(&request, true));
        without["tools"] = tools;
        assert_eq!(refused(&fixture, without).await, "tools");
    }
    // A refusal needs no tool.
    let mut without = going_on(&first, decision(&request, false));
    without["tools"] = json!([]);
    assert_eq!(kinds(&fixture.post("/v1/responses", without).await), ["message"]);
}
