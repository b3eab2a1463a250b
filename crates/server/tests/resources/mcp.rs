//! Responses whose calls to MCP servers are made here: the model is told what came of them and goes on.

use crate::vector_stores::library;
use crate::{Fixture, scripted::Scripted};
use alti_server::ServerSettings;
use alti_server::mcp::{McpServerSettings, McpServers};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) fn tiny() -> McpServerSettings {
    McpServerSettings {
        name: "tiny".into(),
        command: Some("sh".into()),
        args: vec![concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.sh").into()],
        env: [("GREETING".to_owned(), "hi".to_owned())].into(),
        ..McpServerSettings::default()
    }
}

pub(crate) fn fixture() -> Fixture {
    let settings = ServerSettings { mcp_servers: vec![tiny()], ..ServerSettings::default() };
    settings.check().expect("settings that make sense");
    Fixture::with_settings(Arc::new(Scripted), tempfile::tempdir().expect("a folder"), None, settings)
}

fn tools() -> Value {
    json!([{ "type": "mcp", "server_label": "tiny", "require_approval": "never", "allowed_tools": ["greet", "fail"] }])
}

/// What has the model call a tool.
pub(crate) fn call(name: &str) -> String {
    format!("say <tool_call>{{\"name\": \"{name}\", \"arguments\": {{\"who\": \"Ada\"}}}}</tool_call>")
}

pub(crate) fn of_kind<'a>(response: &'a Value, kind: &str) -> Vec<&'a Value> {
    response["output"].as_array().expect("output").iter().filter(|item| item["type"] == kind).collect()
}

#[tokio::test]
async fn a_call_is_made_and_the_model_goes_on() {
    let fixture = fixture();
    let request = json!({ "input": call("greet"), "tools": tools(), "max_output_tokens": 500 });
    let response = fixture.post("/v1/responses", request).await;
    assert_eq!(response["status"], "completed", "{response}");
    let listed = of_kind(&response, "mcp_list_tools");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["tools"][0]["name"], "greet");
    let calls = of_kind(&response, "mcp_call");
    assert!((1..=8).contains(&calls.len()), "{response}");
    for made in &calls {
        assert_eq!(made["output"], "hello, Ada (hi)");
        assert_eq!((&made["error"], &made["status"]), (&Value::Null, &json!("completed")));
        assert_eq!((&made["server_label"], &made["name"]), (&json!("tiny"), &json!("greet")));
        assert_eq!(
            serde_json::from_str::<Value>(made["arguments"].as_str().unwrap()).unwrap(),
            json!({"who": "Ada"})
        );
    }
    assert!(of_kind(&response, "function_call").is_empty());
    assert_eq!(response["output"].as_array().unwrap().last().unwrap()["type"], "message");
    // The next response knows what was called.
    let next = json!({ "input": "say next", "previous_response_id": response["id"] });
    let next = fixture.post("/v1/responses", next).await;
    assert!(next["usage"]["input_tokens"].as_u64() > Some("hello, Ada (hi)".len() as u64));
}

#[tokio::test]
async fn what_went_wrong_is_told_to_the_model() {
    let request =
        json!({ "input": call("fail"), "tools": tools(), "max_output_tokens": 500, "max_tool_calls": 1 });
    let fixture = fixture();
    let response = fixture.post("/v1/responses", request).await;
    let calls = of_kind(&response, "mcp_call");
    assert_eq!(calls.len(), 1, "{response}");
    let error =
        json!({ "type": "mcp_tool_execution_error", "content": [{ "type": "text", "text": "no luck" }] });
    assert_eq!((&calls[0]["error"], &calls[0]["status"]), (&error, &json!("failed")));
    assert_eq!(response["status"], "completed");
    // Whoever sends the call again has the model told again.
    let (told, mut untold) = (calls[0].clone(), calls[0].clone());
    untold["error"] = Value::Null;
    let mut read = Vec::new();
    for item in [told, untold] {
        let request = json!({ "input": [item, { "role": "user", "content": "say next" }] });
        let next = fixture.post("/v1/responses", request).await;
        read.push(next["usage"]["input_tokens"].as_u64().expect("tokens"));
    }
    assert_eq!(read[0] - read[1], "no luck".len() as u64);
}

#[tokio::test]
async fn calls_are_told_as_the_api_tells_them() {
    let request = json!({ "input": call("greet"), "tools": tools(), "max_output_tokens": 500, "max_tool_calls": 1, "stream": true });
    let events = fixture().events("POST", "/v1/responses", request).await;
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let at = kinds.iter().position(|kind| *kind == "response.mcp_call.in_progress").expect("a call");
    assert_eq!(
        kinds[at - 1..at + 5],
        [
            "response.output_item.added",
            "response.mcp_call.in_progress",
            "response.mcp_call_arguments.delta",
            "response.mcp_call_arguments.done",
            "response.mcp_call.completed",
            "response.output_item.done"
        ]
    );
    assert!(kinds.contains(&"response.mcp_list_tools.completed"));
    assert_eq!(kinds.last(), Some(&"response.completed"));
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn servers_that_are_not_set_up_are_refused() {
    let fixture = fixture();
    for tool in [
        json!({ "type": "mcp", "server_label": "other", "require_approval": "never" }),
        json!({ "type": "mcp", "server_label": "tiny", "require_approval": "sometimes" }),
        json!({ "type": "mcp", "server_label": "tiny", "require_approval": { "never": {} } }),
        json!({ "type": "mcp", "server_label": "tiny", "require_approval": "never", "server_url": "http://127.0.0.1:9/" }),
    ] {
        let request = json!({ "input": "say x", "tools": [tool] });
        let (status, answer) = fixture.call("POST", "/v1/responses", request).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("tools")), "{answer}");
    }
}

#[tokio::test]
async fn tools_of_servers_are_allowed_by_label_and_name() {
    let fixture = fixture();
    let mut request =
        json!({ "input": call("greet"), "tools": tools(), "max_output_tokens": 500, "max_tool_calls": 1 });
    let allowed = |tool: Value| json!({ "type": "allowed_tools", "mode": "auto", "tools": [tool] });
    for (tool, calls) in [
        (json!({ "type": "mcp", "server_label": "tiny" }), 1),
        (json!({ "type": "mcp", "server_label": "tiny", "name": "greet" }), 1),
        (json!({ "type": "mcp", "server_label": "tiny", "name": "fail" }), 0),
    ] {
        request["tool_choice"] = allowed(tool);
        let response = fixture.post("/v1/responses", request.clone()).await;
        assert_eq!(of_kind(&response, "mcp_call").len(), calls, "{response}");
    }
    request["tool_choice"] = allowed(json!({ "type": "mcp", "server_label": "other" }));
    let (status, answer) = fixture.call("POST", "/v1/responses", request).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("tool_choice")), "{answer}");
}

#[tokio::test]
async fn who_waits_for_a_server_that_hangs_waits_together_with_others() {
    let (command, args) = (Some("sleep".into()), vec!["30".into()]);
    let hanging = McpServerSettings { command, args, timeout_seconds: 1, ..tiny() };
    let servers = McpServers::new(vec![hanging]).expect("settings that make sense");
    let began = Instant::now();
    for outcome in futures_util::future::join_all((0..10).map(|_| servers.tools("tiny"))).await {
        let message = outcome.expect_err("nothing answers").message;
        assert!(message.contains("did not answer within 1 s"), "{message}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_failure_to_connect_is_told_for_a_while_and_then_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("starts");
    let script = format!("echo x >> '{}'; exit 1", log.display());
    let failing = McpServerSettings { args: vec!["-c".into(), script], timeout_seconds: 5, ..tiny() };
    let servers = McpServers::new(vec![failing]).expect("settings that make sense");
    let starts = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    let first = servers.tools("tiny").await.expect_err("it ends at once");
    let second = servers.tools("tiny").await.expect_err("it ended just now");
    assert_eq!((first.message, starts()), (second.message, 1));
    tokio::time::sleep(Duration::from_millis(3100)).await;
    servers.tools("tiny").await.expect_err("it ends again");
    assert_eq!(starts(), 2);
}

#[tokio::test]
async fn a_server_that_hung_is_not_waited_for_again_as_long_as_it_hung() {
    let (command, args) = (Some("sleep".into()), vec!["30".into()]);
    let hanging = McpServerSettings { command, args, timeout_seconds: 5, ..tiny() };
    let servers = McpServers::new(vec![hanging]).expect("settings that make sense");
    servers.tools("tiny").await.expect_err("nothing answers");
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let began = Instant::now();
    servers.tools("tiny").await.expect_err("it hung just now");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_program_that_does_not_answer_is_started_again_for_the_next_call() {
    let limited = McpServerSettings { timeout_seconds: 1, ..tiny() };
    let servers = McpServers::new(vec![limited]).expect("settings that make sense");
    let slept = servers.call("tiny", "sleep", serde_json::Map::new()).await.expect("a result");
    assert!(slept.is_error && slept.text.contains("within 1 s"), "{}", slept.text);
    let who = serde_json::Map::from_iter([("who".to_owned(), json!("Ada"))]);
    let greeted = servers.call("tiny", "greet", who).await.expect("a result");
    assert_eq!((greeted.text.as_str(), greeted.is_error), ("hello, Ada (hi)", false));
}

#[tokio::test]
async fn calls_are_counted_and_not_answers() {
    let twice = format!("{}{}", call("greet"), call("greet").trim_start_matches("say "));
    let fixture = fixture();
    for (most, told, made) in [(1, 2, 1), (2, 2, 2), (3, 2, 2)] {
        let request =
            json!({ "input": twice, "tools": tools(), "max_output_tokens": 500, "max_tool_calls": most });
        let response = fixture.post("/v1/responses", request).await;
        let calls = of_kind(&response, "mcp_call");
        assert_eq!(calls.len(), told, "{response}");
        assert_eq!(calls.iter().filter(|call| call["status"] == "completed").count(), made, "{response}");
        assert_eq!(calls[made - 1]["status"], "completed", "the first ones are made");
        assert_eq!(response["output"].as_array().unwrap().last().unwrap()["type"], "message");
    }
}

#[tokio::test]
async fn a_search_is_a_call_like_others() {
    let fixture = fixture();
    let (path, ..) = library(&fixture).await;
    let mut tools = tools();
    let store = path.rsplit('/').next().expect("an id");
    let search = json!({ "type": "file_search", "vector_store_ids": [store], "max_num_results": 1 });
    tools.as_array_mut().expect("a list").push(search);
    for (most, searches, made) in [(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 1, 1)] {
        let request = json!({ "input": call("greet"), "tools": tools, "max_output_tokens": 500, "max_tool_calls": most });
        let response = fixture.post("/v1/responses", request).await;
        assert_eq!(of_kind(&response, "file_search_call").len(), searches, "{response}");
        assert_eq!(of_kind(&response, "mcp_call").len(), made, "{response}");
        assert_eq!(response["output"].as_array().unwrap().last().unwrap()["type"], "message");
    }
}

#[tokio::test]
async fn a_server_or_its_tool_can_be_what_has_to_be_called() {
    let fixture = fixture();
    let mut request =
        json!({ "input": call("greet"), "tools": tools(), "max_output_tokens": 500, "max_tool_calls": 1 });
    for choice in [
        json!({ "type": "mcp", "server_label": "tiny", "name": "greet" }),
        json!({ "type": "mcp", "server_label": "tiny" }),
        json!({ "type": "mcp", "server_label": "tiny", "name": null }),
    ] {
        request["tool_choice"] = choice.clone();
        let response = fixture.post("/v1/responses", request.clone()).await;
        assert_eq!(of_kind(&response, "mcp_call").len(), 1, "{response}");
        assert_eq!(response["tool_choice"], choice);
    }
    for choice in [
        json!({ "type": "mcp" }),
        json!({ "type": "mcp", "server_label": "other" }),
        json!({ "type": "mcp", "server_label": "tiny", "name": "dance" }),
    ] {
        request["tool_choice"] = choice;
        let (status, answer) = fixture.call("POST", "/v1/responses", request.clone()).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("tool_choice")), "{answer}");
    }
}
