//! Anthropic's API.

use crate::support::{Script, app, tokenizer, user};
use axum::http::StatusCode;
use serde_json::{Value, json};

fn request(extra: Value) -> Value {
    let mut request = json!({ "model": "scripted", "max_tokens": 50, "messages": user("Hi") });
    for (name, value) in extra.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

#[tokio::test]
async fn a_chat_is_answered_as_anthropic_does() {
    let app = app();
    let answer = app.post("/v1/messages", request(json!({}))).await.ok();
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["model"]),
        (&json!("message"), &json!("assistant"), &json!("scripted"))
    );
    assert_eq!(answer["content"], json!([{ "type": "text", "text": "Hello." }]));
    assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    assert_eq!(answer["usage"]["output_tokens"], 6);
    let cut = app.post("/v1/messages", request(json!({ "max_tokens": 2 }))).await.ok();
    assert_eq!((&cut["content"][0]["text"], &cut["stop_reason"]), (&json!("He"), &json!("max_tokens")));
    let counted = app
        .post("/v1/messages/count_tokens", json!({ "model": "scripted", "messages": user("Hi") }))
        .await
        .ok();
    assert_eq!(counted["input_tokens"], answer["usage"]["input_tokens"]);
}

#[tokio::test]
async fn a_stream_has_anthropics_events_in_order() {
    let (events, _) = app().post("/v1/messages", request(json!({ "stream": true }))).await.events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert!(kinds[3..kinds.len() - 3].iter().all(|kind| *kind == "content_block_delta"));
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, "Hello.");
    assert_eq!(events[0]["message"]["content"], json!([]));
    let end = &events[events.len() - 2];
    assert_eq!(
        (&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]),
        (&json!("end_turn"), &json!(6))
    );
    let failed = app()
        .script(Script::Fail(1))
        .post("/v1/messages", request(json!({ "stream": true })))
        .await
        .events()
        .0;
    assert_eq!(failed.last().unwrap()["type"], "error");
}

#[tokio::test]
async fn stop_sequences_are_told() {
    let settings =
        json!({ "model": "tiny", "stop_sequences": ["\u{1}x"], "temperature": 0, "top_k": 3, "top_p": 0.9 });
    let answer = app().post("/v1/messages", request(settings)).await.ok();
    assert_eq!(answer["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn tools_go_both_ways() {
    let tools = json!([{ "name": "weather", "description": "d", "input_schema": { "type": "object", "properties": { "city": { "type": "string" } } } }]);
    let app =
        app().says("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Lima\"}}\n</tool_call>");
    let messages = json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": [
            { "type": "thinking", "thinking": "hm", "signature": "" },
            { "type": "text", "text": "I look." },
            { "type": "tool_use", "id": "toolu_1", "name": "weather", "input": { "city": "Rome" } },
        ] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "toolu_1", "content": [{ "type": "text", "text": "sunny" }] },
            { "type": "text", "text": "And Lima?" },
        ] },
    ]);
    let asked = json!({ "tools": tools, "messages": messages, "system": [{ "type": "text", "text": "Be kind." }], "max_tokens": 500 });
    let answer = app.post("/v1/messages", request(asked.clone())).await.ok();
    let call = &answer["content"][0];
    assert_eq!(
        (&call["type"], &call["name"], &call["input"]),
        (&json!("tool_use"), &json!("weather"), &json!({ "city": "Lima" }))
    );
    assert!(call["id"].as_str().unwrap().starts_with("toolu_"));
    assert_eq!(answer["stop_reason"], "tool_use");
    let prompt = tokenizer().decode_spelling_specials(&app.last_job().prompt);
    for part in ["Be kind.", "\"description\":\"d\"", "I look.", "Rome", "sunny", "And Lima?"] {
        assert!(prompt.contains(part), "{part} is not in {prompt}");
    }
    let mut streaming = request(asked);
    streaming["stream"] = json!(true);
    let (events, _) = app.post("/v1/messages", streaming).await.events();
    let start = events.iter().find(|event| event["type"] == "content_block_start").unwrap();
    assert_eq!(
        (&start["content_block"]["type"], &start["content_block"]["input"]),
        (&json!("tool_use"), &json!({}))
    );
    let json: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!({ "city": "Lima" }));
}

#[tokio::test]
async fn an_answer_obeys_the_schema_it_was_asked_for() {
    let format = json!({ "type": "json_schema", "schema": { "enum": ["yes", "no"] } });
    let app = app();
    for asked in [json!({ "output_config": { "format": format } }), json!({ "output_format": format })] {
        let mut request = request(asked);
        request["model"] = json!("tiny");
        let answer = app.post("/v1/messages", request).await.ok();
        let text = answer["content"][0]["text"].as_str().unwrap();
        assert!(["\"yes\"", "\"no\""].contains(&text), "{answer}");
    }
    let open = json!({ "output_config": { "effort": "low", "format": null } });
    assert_eq!(app.post("/v1/messages", request(open)).await.ok()["content"][0]["text"], "Hello.");
}

#[tokio::test]
async fn what_is_wrong_is_told_in_anthropics_words() {
    for extra in [
        json!({ "max_tokens": 0 }),
        json!({ "max_tokens": null }),
        json!({ "messages": [] }),
        json!({ "temperature": 2 }),
        json!({ "messages": [{ "role": "wizard", "content": "x" }] }),
        json!({ "messages": [{ "role": "user" }] }),
        json!({ "messages": [{ "role": "user", "content": [{ "type": "image", "source": {} }] }] }),
        json!({ "messages": [{ "role": "user", "content": [{ "type": "text" }] }] }),
        json!({ "tools": [{ "name": "x" }] }),
        json!({ "tools": [{ "type": "bash_20250124", "name": "bash" }] }),
        json!({ "tool_choice": { "type": "tool" } }),
        json!({ "tool_choice": { "type": "any" } }),
        json!({ "stop_sequences": "x" }),
        json!({ "output_config": { "format": { "type": "json_object" } } }),
        json!({ "output_format": { "type": "json_schema" } }),
    ] {
        let answer = app().post("/v1/messages", request(extra.clone())).await;
        let error = answer.json();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{extra}: {error}");
        assert_eq!(
            (&error["type"], &error["error"]["type"]),
            (&json!("error"), &json!("invalid_request_error"))
        );
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
    let missing = app().post("/v1/messages", request(json!({ "model": "none" }))).await;
    assert_eq!(
        (missing.status, &missing.json()["error"]["type"]),
        (StatusCode::NOT_FOUND, &json!("not_found_error"))
    );
}
