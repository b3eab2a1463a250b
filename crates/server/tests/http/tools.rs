//! Tool calls over OpenAI's API.

use crate::support::{App, app, user};
use alti_engine::grammar::GrammarSource;
use axum::http::StatusCode;
use serde_json::{Value, json};

const CALLS: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 2}}\n</tool_call>";

fn add() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": { "a": { "enum": [1, 2] } },
        "required": ["a"],
        "additionalProperties": false,
    });
    json!([{ "type": "function", "function": { "name": "add", "parameters": parameters } }])
}

fn request(extra: Value) -> Value {
    let mut request = json!({ "model": "scripted", "messages": user("Add."), "tools": add() });
    for (name, value) in extra.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

#[tokio::test]
async fn calls_are_told_apart_from_text() {
    let app = app().says(&format!("Sure.\n{CALLS}"));
    let answer = app.post("/v1/chat/completions", request(json!({}))).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("Sure."))
    );
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    let arguments = |call: &Value| {
        serde_json::from_str::<Value>(call["function"]["arguments"].as_str().unwrap()).unwrap()
    };
    assert_eq!(calls.iter().map(arguments).collect::<Vec<_>>(), [json!({ "a": 1 }), json!({ "a": 2 })]);
    assert!(calls[0]["id"] != calls[1]["id"] && calls[0]["type"] == "function");
    let only = app.says(CALLS).post("/v1/chat/completions", request(json!({}))).await.ok();
    assert_eq!(only["choices"][0]["message"]["content"], Value::Null);
}

#[tokio::test]
async fn calls_stream_as_deltas() {
    let app = app().says(CALLS);
    let (events, _) = app.post("/v1/chat/completions", request(json!({ "stream": true }))).await.events();
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0)) {
        let index = delta["index"].as_u64().unwrap() as usize;
        if delta["id"].is_string() {
            assert_eq!(index, calls.len());
            calls.push((delta["function"]["name"].as_str().unwrap().to_owned(), String::new()));
        }
        calls[index].1.push_str(delta["function"]["arguments"].as_str().unwrap());
    }
    let arguments: Vec<Value> = calls.iter().map(|(_, json)| serde_json::from_str(json).unwrap()).collect();
    assert_eq!(arguments, [json!({ "a": 1 }), json!({ "a": 2 })]);
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text.trim(), "");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_choice_of_tools_is_made_sure_of() {
    let lark = |app: &App| match app.last_job().grammar {
        Some(GrammarSource::Lark(source)) => source,
        other => panic!("{other:?}"),
    };
    let app = app();
    app.post("/v1/chat/completions", request(json!({ "tool_choice": "required" }))).await.ok();
    assert!(lark(&app).contains("add"));
    app.post("/v1/chat/completions", request(json!({ "tool_choice": "none" }))).await.ok();
    assert_eq!(app.last_job().grammar, None);
    let named = json!({ "type": "function", "function": { "name": "add" } });
    app.post("/v1/chat/completions", request(json!({ "tool_choice": named }))).await.ok();
    assert!(lark(&app).contains("add"));
    let format = json!({ "type": "json_object" });
    app.post("/v1/chat/completions", request(json!({ "response_format": format }))).await.ok();
    assert!(lark(&app).contains("%json"));
    for wrong in [
        json!({ "tool_choice": { "type": "function", "function": { "name": "fly" } } }),
        json!({ "tools": [], "tool_choice": "required" }),
    ] {
        let answer = app.post("/v1/chat/completions", request(wrong)).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!("tool_choice"))
        );
    }
}

#[tokio::test]
async fn only_the_tools_that_are_allowed_can_be_called() {
    let app = app();
    let mut tools = add();
    tools.as_array_mut().unwrap().push(json!({ "type": "function", "function": { "name": "subtract" } }));
    let ask = async |names: &[&str]| {
        let listed: Vec<Value> =
            names.iter().map(|name| json!({ "type": "function", "function": { "name": name } })).collect();
        let allowed = json!({ "mode": "required", "tools": listed });
        let choice = json!({ "type": "allowed_tools", "allowed_tools": allowed });
        let request = request(json!({ "tools": tools, "tool_choice": choice }));
        app.post("/v1/chat/completions", request).await
    };
    ask(&["subtract"]).await.ok();
    match app.last_job().grammar {
        Some(GrammarSource::Lark(source)) => {
            assert!(source.contains("subtract") && !source.contains("add"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    ask(&["subtract", "add"]).await.ok();
    for refused in [&["fly"][..], &[]] {
        let answer = ask(refused).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!("tool_choice"))
        );
    }
}

/// A request in the form that functions had before tools.
fn older(extra: Value) -> Value {
    let mut request =
        json!({ "model": "scripted", "messages": user("Add."), "functions": [add()[0]["function"]] });
    for (name, value) in extra.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

#[tokio::test]
async fn functions_are_called_in_the_form_they_were_given_in() {
    let call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";
    let app = app().says(call);
    let answer = app.post("/v1/chat/completions", older(json!({}))).await.ok();
    let (choice, message) = (&answer["choices"][0], &answer["choices"][0]["message"]);
    assert_eq!((&choice["finish_reason"], &message["content"]), (&json!("function_call"), &Value::Null));
    assert_eq!((&message["function_call"]["name"], message.get("tool_calls")), (&json!("add"), None));
    let arguments = message["function_call"]["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), json!({ "a": 1 }));
    let (events, _) = app.post("/v1/chat/completions", older(json!({ "stream": true }))).await.events();
    let deltas: Vec<&Value> =
        events.iter().filter_map(|it| it["choices"][0]["delta"].get("function_call")).collect();
    assert_eq!(deltas[0]["name"], "add");
    let streamed: String = deltas.iter().filter_map(|delta| delta["arguments"].as_str()).collect();
    assert_eq!(streamed, arguments);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "function_call");
    assert!(events.iter().all(|event| event["choices"][0]["delta"].get("tool_calls").is_none()));
}

#[tokio::test]
async fn turns_with_functions_are_told_to_the_model_and_a_choice_is_made_sure_of() {
    let app = app();
    let messages = json!([
        { "role": "user", "content": "Add." },
        { "role": "assistant", "content": null, "function_call": { "name": "add", "arguments": "{\"a\": 2}" } },
        { "role": "function", "name": "add", "content": "it is four" },
    ]);
    let request = older(json!({ "messages": messages, "function_call": { "name": "add" } }));
    app.post("/v1/chat/completions", request).await.ok();
    let job = app.last_job();
    let prompt = crate::support::tokenizer().decode_spelling_specials(&job.prompt);
    assert!(prompt.contains("{\"a\":2}") && prompt.contains("it is four"), "{prompt}");
    assert!(matches!(job.grammar, Some(GrammarSource::Lark(source)) if source.contains("add")));
    app.post("/v1/chat/completions", older(json!({ "function_call": "none" }))).await.ok();
    assert_eq!(app.last_job().grammar, None);
    for (wrong, param) in [
        (json!({ "function_call": { "name": "fly" } }), "function_call"),
        (json!({ "function_call": "perhaps" }), "function_call"),
        (json!({ "functions": null, "function_call": "auto" }), "function_call"),
        (json!({ "functions": [{}] }), "functions[0].name"),
        (json!({ "tools": add() }), "functions"),
        (
            json!({ "messages": [{ "role": "assistant", "function_call": "add" }] }),
            "messages[0].function_call",
        ),
    ] {
        let answer = app.post("/v1/chat/completions", older(wrong)).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["param"].as_str()),
            (StatusCode::BAD_REQUEST, Some(param))
        );
    }
}

#[tokio::test]
async fn a_real_model_that_must_call_calls() {
    for (extra, several) in [(json!({}), false), (json!({ "n": 2, "parallel_tool_calls": false }), true)] {
        let mut request = request(extra);
        request["model"] = json!("tiny");
        request["tool_choice"] = json!("required");
        request["temperature"] = json!(1);
        request["seed"] = json!(11);
        request["max_tokens"] = json!(400);
        let answer = app().post("/v1/chat/completions", request).await.ok();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 1 + usize::from(several));
        for choice in choices {
            let call = &choice["message"]["tool_calls"][0];
            assert_eq!(call["function"]["name"], "add", "{choice}");
            let arguments: Value =
                serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
            assert!([json!(1), json!(2)].contains(&arguments["a"]), "{choice}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_checked_of_arguments_is_refused_where_it_is_promised_and_passed_over_elsewhere() {
    let tags =
        json!({ "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 3, "uniqueItems": true });
    let parameters = json!({
        "type": "object", "properties": { "tags": tags }, "required": ["tags"], "additionalProperties": false,
    });
    let app = app();
    let ask = async |strict: Value| {
        let function = json!({ "name": "mark", "parameters": parameters, "strict": strict });
        let request = json!({
            "model": "tiny", "messages": user("Mark it."), "tools": [{ "type": "function", "function": function }],
            "tool_choice": "required", "temperature": 1, "max_tokens": 300,
        });
        app.post("/v1/chat/completions", request).await
    };
    let refused = ask(json!(true)).await;
    let error = &refused.json()["error"];
    let param = json!("tools[0].function.parameters");
    assert_eq!((refused.status, &error["param"]), (StatusCode::BAD_REQUEST, &param));
    let said = "Invalid schema for function 'mark': In context=('properties', 'tags'), 'uniqueItems' is not permitted";
    assert!(error["message"].as_str().unwrap().starts_with(said), "{error}");
    for strict in [json!(false), Value::Null] {
        let answer = ask(strict).await.ok();
        let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        let tags = arguments["tags"].as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(|tag| tag == "a" || tag == "b"), "{arguments}");
    }
}

#[tokio::test]
async fn a_format_beside_tools_is_obeyed_or_a_tool_is_called() {
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": { "enum": ["yes", "no"] } } });
    for seed in 0..4 {
        let extra = json!({ "response_format": format, "model": "tiny", "temperature": 1, "seed": seed, "max_tokens": 400 });
        let answer = app().post("/v1/chat/completions", request(extra)).await.ok();
        let message = &answer["choices"][0]["message"];
        let said = message["content"].as_str().unwrap_or_default();
        let called = message["tool_calls"].is_array();
        assert!(called || ["\"yes\"", "\"no\""].contains(&said), "{answer}");
    }
}

/// A server with `llama`, which writes and reads as Llama 3.2 does and says what a test wants.
async fn llama(says: &str) -> App {
    let app = app().says(says);
    let template = include_str!("../../../text/tests/fixtures/templates/Llama-3.2.jinja");
    let alias = json!({ "model": "llama", "from": "scripted", "template": template, "stream": false });
    app.post("/api/create", alias).await.ok();
    app
}

#[tokio::test]
async fn calls_are_written_as_the_template_has_them_that_is_used() {
    let app = llama("{\"name\": \"add\", \"parameters\": {\"a\": 1}}").await;
    let answer = app.post("/v1/chat/completions", request(json!({ "model": "llama" }))).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\": 1}");
}

#[tokio::test]
async fn turns_with_several_calls_are_told_to_a_model_that_makes_one_at_a_time() {
    let app = llama("Done.").await;
    let call = |id: &str, a: u8| {
        json!({
            "id": id, "type": "function", "function": { "name": "add", "arguments": format!("{{\"a\": {a}}}") },
        })
    };
    let messages = json!([
        { "role": "user", "content": "Add." },
        { "role": "assistant", "tool_calls": [call("x", 1), call("y", 2)] },
        { "role": "tool", "tool_call_id": "y", "content": "second" },
        { "role": "tool", "tool_call_id": "x", "content": "first" },
    ]);
    let uses = |id: &str, a: u8| json!({ "type": "tool_use", "id": id, "name": "add", "input": { "a": a } });
    let results = |id: &str, text: &str| json!({ "type": "tool_result", "tool_use_id": id, "content": text });
    let blocks = json!([
        { "role": "user", "content": "Add." },
        { "role": "assistant", "content": [uses("x", 1), uses("y", 2)] },
        { "role": "user", "content": [results("y", "second"), results("x", "first")] },
    ]);
    let items = json!([
        { "role": "user", "content": "Add." },
        { "type": "function_call", "call_id": "x", "name": "add", "arguments": "{\"a\": 1}" },
        { "type": "function_call", "call_id": "y", "name": "add", "arguments": "{\"a\": 2}" },
        { "type": "function_call_output", "call_id": "y", "output": "second" },
        { "type": "function_call_output", "call_id": "x", "output": "first" },
    ]);
    let bare = |a: u8| json!({ "function": { "name": "add", "arguments": { "a": a } } });
    let ollama = json!([
        { "role": "user", "content": "Add." },
        { "role": "assistant", "content": "", "tool_calls": [bare(1), bare(2)] },
        { "role": "tool", "content": "first" },
        { "role": "tool", "content": "second" },
    ]);
    for (path, said) in [
        ("/v1/chat/completions", json!({ "messages": messages })),
        ("/v1/messages", json!({ "messages": blocks, "max_tokens": 9 })),
        ("/v1/responses", json!({ "input": items })),
        ("/api/chat", json!({ "messages": ollama, "stream": false })),
    ] {
        let mut request = said;
        request["model"] = json!("llama");
        app.post(path, request).await.ok();
        let prompt = crate::support::tokenizer().decode_spelling_specials(&app.last_job().prompt);
        let places: Vec<Option<usize>> =
            ["{\"a\": 1}", "first", "{\"a\": 2}", "second"].map(|part| prompt.find(part)).into();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{path}: {prompt}");
    }
}

#[tokio::test]
async fn half_a_call_is_told_as_cut_and_what_is_none_as_text() {
    let app = app().says("Sure.<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1");
    let answer = app.post("/v1/chat/completions", request(json!({}))).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    let (events, _) = app.post("/v1/chat/completions", request(json!({ "stream": true }))).await.events();
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    let add = json!({ "type": "function", "name": "add" });
    let response = json!({ "model": "scripted", "input": "Add.", "tools": [add] });
    let response = app.post("/v1/responses", response).await.ok();
    assert_eq!(response["status"], "incomplete", "{response}");

    let wrong = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": }}</tool_call> Well.";
    let answer = app.says(wrong).post("/v1/chat/completions", request(json!({}))).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], wrong);
}
