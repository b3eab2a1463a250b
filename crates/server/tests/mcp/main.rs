//! Tools of MCP servers: over a program's standard input and output and over HTTP, within limits, and round after round.

mod http;

use alti_server::mcp::{McpServerSettings, McpServers, Round, ToolRounds};
use alti_text::tools::ToolCall;
use serde_json::{Map, Value, json};

/// The tiny server, as the owner's settings name it.
fn tiny(name: &str) -> McpServerSettings {
    McpServerSettings {
        name: name.into(),
        command: Some("sh".into()),
        args: vec![concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.sh").into()],
        env: [("GREETING".to_owned(), "hi".to_owned())].into(),
        ..McpServerSettings::default()
    }
}

fn servers(settings: McpServerSettings) -> McpServers {
    McpServers::new(vec![settings]).unwrap()
}

fn arguments(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn call(id: &str, name: &str, arguments: &Value) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments: arguments.to_string() }
}

#[tokio::test]
async fn a_programs_tools_are_listed_and_called() {
    let servers = servers(tiny("tiny"));
    let tools = servers.tools("tiny").await.unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["greet", "fail", "sleep", "die", "long"]);
    assert_eq!(tools[0].description, "Greets");
    assert_eq!(tools[0].parameters["required"], json!(["who"]));
    assert_eq!((tools[0].is_read_only, tools[1].is_read_only), (true, false));
    let result = servers.call("tiny", "greet", arguments(&json!({"who": "Ada"}))).await.unwrap();
    assert_eq!((result.text.as_str(), result.is_error), ("hello, Ada (hi)", false));
    let result = servers.call("tiny", "fail", Map::new()).await.unwrap();
    assert_eq!((result.text.as_str(), result.is_error), ("no luck", true));
}

#[tokio::test]
async fn only_what_is_allowed_is_there() {
    let servers = servers(McpServerSettings { allowed_tools: Some(vec!["greet".into()]), ..tiny("tiny") });
    assert_eq!(servers.tools("tiny").await.unwrap().len(), 1);
    let result = servers.call("tiny", "fail", Map::new()).await.unwrap();
    assert!(result.is_error && result.text.contains("no tool `fail`"), "{}", result.text);
}

#[tokio::test]
async fn calls_have_a_time_and_results_a_length() {
    let limited = McpServerSettings { timeout_seconds: 1, max_result_bytes: 100, ..tiny("tiny") };
    let servers = servers(limited);
    let result = servers.call("tiny", "long", Map::new()).await.unwrap();
    assert_eq!(result.text, format!("{}\n[400 bytes left out]", "x".repeat(100)));
    let result = servers.call("tiny", "sleep", Map::new()).await.unwrap();
    assert!(result.is_error && result.text.contains("did not answer within 1 s"), "{}", result.text);
}

#[tokio::test]
async fn a_server_that_died_is_started_again() {
    let servers = servers(tiny("tiny"));
    assert!(servers.call("tiny", "die", Map::new()).await.unwrap().is_error);
    for _ in 0..2 {
        let result = servers.call("tiny", "greet", arguments(&json!({"who": "again"}))).await.unwrap();
        assert_eq!(result.text, "hello, again (hi)");
    }
}

#[tokio::test]
async fn servers_that_are_not_there_say_so() {
    let missing = McpServerSettings { command: Some("/nonexistent/program".into()), ..tiny("gone") };
    let error = servers(missing).tools("gone").await.unwrap_err().to_string();
    assert!(error.contains("MCP server `gone`") && error.contains("cannot be started"), "{error}");
    let ends = McpServerSettings {
        command: Some("true".into()),
        args: Vec::new(),
        timeout_seconds: 5,
        ..tiny("ends")
    };
    assert!(servers(ends).tools("ends").await.is_err());
    let silent = McpServerSettings {
        command: Some("sleep".into()),
        args: vec!["30".into()],
        timeout_seconds: 1,
        ..tiny("silent")
    };
    let error = servers(silent).tools("silent").await.unwrap_err().to_string();
    assert!(error.contains("within 1 s"), "{error}");
    let error = servers(tiny("tiny")).tools("other").await.unwrap_err().to_string();
    assert!(error.contains("`other`") && error.contains("tiny"), "{error}");
    let refused =
        McpServerSettings { command: None, url: Some("http://127.0.0.1:9/mcp".into()), ..tiny("refused") };
    assert!(servers(refused).tools("refused").await.is_err());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let wrong = [
        McpServerSettings { name: "a b".into(), ..tiny("x") },
        McpServerSettings { command: None, ..tiny("x") },
        McpServerSettings { url: Some("http://localhost".into()), ..tiny("x") },
        McpServerSettings { command: None, url: Some("ftp://localhost".into()), ..tiny("x") },
        McpServerSettings { timeout_seconds: 0, ..tiny("x") },
    ];
    for settings in wrong {
        assert!(McpServers::new(vec![settings.clone()]).is_err(), "{settings:?}");
    }
    assert!(McpServers::new(vec![tiny("x"), tiny("x")]).unwrap_err().contains("two of that name"));
}

#[tokio::test]
async fn requests_choose_among_the_owners_servers() {
    let servers = McpServers::new(vec![tiny("a"), tiny("b")]).unwrap();
    let both = [
        json!({"type": "mcp", "server_label": "a", "require_approval": "never", "allowed_tools": ["greet"]}),
        json!({"type": "mcp", "server_label": "b", "require_approval": "never", "allowed_tools": {"tool_names": ["greet", "fail"]}}),
        json!({"type": "function", "name": "mine"}),
    ];
    let offered = servers.offer(&both, &["mine".into()]).await.unwrap();
    let names: Vec<&str> = offered.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["a_greet", "b_greet", "fail"]);
    assert_eq!(offered[0].to_value()["function"]["parameters"]["type"], "object");
    for tool in [
        json!({"type": "mcp"}),
        json!({"type": "mcp", "server_label": "c", "require_approval": "never"}),
        json!({"type": "mcp", "server_label": "a", "require_approval": "sometimes"}),
        json!({"type": "mcp", "server_label": "a", "server_url": "http://169.254.169.254/"}),
        json!({"type": "mcp", "server_label": "a", "require_approval": "never", "allowed_tools": 3}),
    ] {
        let error = servers.offer(std::slice::from_ref(&tool), &[]).await.unwrap_err();
        assert_eq!(error.param.as_deref(), Some("tools"), "{tool}");
    }
}

#[tokio::test]
async fn calls_that_have_to_be_approved_are_made_when_they_are() {
    let servers = servers(tiny("tiny"));
    let approval = json!({"never": {"read_only": true}});
    let tool = json!({"type": "mcp", "server_label": "tiny", "require_approval": approval});
    let offered = servers.offer(&[tool], &[]).await.unwrap();
    let needed: Vec<bool> = offered.iter().map(|tool| tool.needs_approval).collect();
    assert_eq!(needed, [false, true, true, true, true]);
    let mut rounds = ToolRounds::new(servers, offered, 4).most_calls(4);
    let broken = ToolCall { arguments: "{".into(), ..call("3", "fail", &json!({})) };
    let calls = [call("1", "fail", &json!({})), call("2", "greet", &json!({"who": "x"})), broken.clone()];
    let Round::Approval { made, asked } = rounds.next(&calls).await else { panic!("nothing is asked") };
    assert_eq!(asked, [calls[0].clone()]);
    let texts: Vec<&str> = made.iter().map(|made| made.result.text.as_str()).collect();
    assert_eq!(texts, ["hello, x (hi)", "error: the arguments are no JSON object"]);
    // Nobody is asked about what cannot be made anyway.
    assert!(matches!(rounds.clone().next(&[broken]).await, Round::Results(_)));
    let again = [calls[0].clone(), calls[0].clone()];
    let results = rounds.approved(&again).await;
    assert_eq!(results[0].result.text, "no luck");
    assert!(results[1].result.text.contains("as many calls as may be made"), "{:?}", results[1]);
    assert!(!rounds.is_open());
}

#[tokio::test]
async fn rounds_go_on_until_the_model_answers_or_there_were_enough() {
    let servers = servers(tiny("tiny"));
    let offered = servers
        .offer(&[json!({"type": "mcp", "server_label": "tiny", "require_approval": "never"})], &[])
        .await
        .unwrap();
    let mut rounds = ToolRounds::new(servers, offered, 2);
    let calls = [call("1", "greet", &json!({"who": "x"})), call("2", "greet", &json!({"who": "y"}))];
    let Round::Results(results) = rounds.next(&calls).await else { panic!("no results") };
    let messages: Vec<Value> = results.iter().map(|result| json!(result.to_message())).collect();
    assert_eq!(
        messages[0],
        json!({"role": "tool", "content": "hello, x (hi)", "tool_call_id": "1", "name": "greet"})
    );
    assert_eq!(messages[1]["content"], "hello, y (hi)");
    let turn = json!(ToolRounds::turn("", &calls));
    assert_eq!(turn["tool_calls"][1]["function"], json!({"name": "greet", "arguments": "{\"who\":\"y\"}"}));
    // Calls of the client's own tools are the client's; none of the others is made.
    assert_eq!(rounds.next(&[calls[0].clone(), call("3", "mine", &json!({}))]).await, Round::Client);
    let broken = ToolCall { arguments: "{\"who\"".into(), ..calls[0].clone() };
    let Round::Results(results) = rounds.next(&[broken]).await else { panic!("no results") };
    assert!(results[0].result.is_error && results[0].result.text.contains("no JSON object"));
    assert_eq!(rounds.next(&calls).await, Round::Exhausted);
}
