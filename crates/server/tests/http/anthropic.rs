//! Anthropic's API.

use crate::support::{Script, app, tokenizer, user};
use axum::body::Body;
use axum::http::{Request, StatusCode};
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
        json!({ "model": "" }),
        json!({ "messages": [{ "role": "user", "content": "" }] }),
        json!({ "messages": [{ "role": "user", "content": [] }] }),
        json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "" }] }] }),
        json!({ "messages": [
            { "role": "user", "content": "x" }, { "role": "assistant", "content": [] }, { "role": "user", "content": "y" },
        ] }),
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

#[tokio::test]
async fn cached_tokens_are_told_apart_where_a_request_marks_them() {
    let app = app();
    let long = "A long text, read again and again. ".repeat(12);
    let asked = |content: Value, stream: bool| {
        let messages = json!([{ "role": "user", "content": content }]);
        json!({ "model": "tiny", "max_tokens": 2, "messages": messages, "stream": stream })
    };
    let plain = asked(json!(long), false);
    let counted = json!({ "model": "tiny", "messages": plain["messages"] });
    let counted = app.post("/v1/messages/count_tokens", counted).await.ok()["input_tokens"].clone();
    for _ in 0..2 {
        let usage = app.post("/v1/messages", plain.clone()).await.ok()["usage"].clone();
        assert_eq!((&usage["input_tokens"], &usage["cache_read_input_tokens"]), (&counted, &json!(0)));
    }
    let (events, _) = app.post("/v1/messages", asked(json!(long), true)).await.events();
    let end = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(
        (&events[0]["message"]["usage"]["input_tokens"], &end["usage"]["input_tokens"]),
        (&counted, &counted)
    );
    let block = json!([{ "type": "text", "text": long, "cache_control": { "type": "ephemeral" } }]);
    let usage = app.post("/v1/messages", asked(block, false)).await.ok()["usage"].clone();
    let [input, cached] =
        ["input_tokens", "cache_read_input_tokens"].map(|field| usage[field].as_u64().unwrap());
    assert!(cached > 0, "{usage}");
    assert_eq!(json!(input + cached), counted);
    let mut top = plain;
    top["cache_control"] = json!({ "type": "ephemeral" });
    assert!(app.post("/v1/messages", top).await.ok()["usage"]["cache_read_input_tokens"].as_u64() > Some(0));
}

#[tokio::test]
async fn documents_and_search_results_are_text() {
    let app = app();
    let document =
        |source: Value| json!({ "type": "document", "title": "Moon", "context": "Old.", "source": source });
    let found = json!({
        "type": "search_result", "source": "https://a.example", "title": "Sun",
        "content": [{ "type": "text", "text": "It shines." }],
    });
    let content = json!([
        { "type": "text", "text": "Read" },
        { "type": "text", "text": " this:" },
        document(json!({ "type": "text", "media_type": "text/plain", "data": "It is round." })),
        document(json!({ "type": "content", "content": [{ "type": "text", "text": "It is far." }] })),
        found,
        { "type": "text", "text": "Why?" },
    ]);
    let called = json!({ "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "f", "input": {} }] });
    let told = |content: Value| {
        json!({ "role": "user", "content": [
        { "type": "text", "text": "So:" },
        { "type": "tool_result", "tool_use_id": "t", "content": content },
    ] })
    };
    let messages = |result: Value| json!([{ "role": "user", "content": content }, called, told(result)]);
    let results = json!([found, document(json!({ "type": "text", "data": "It is cold." }))]);
    app.post("/v1/messages", request(json!({ "messages": messages(results) }))).await.ok();
    let prompt = tokenizer().decode_spelling_specials(&app.last_job().prompt);
    for part in [
        "<|im_start|>user\nRead this:\n\nMoon\nOld.\nIt is round.\n\nMoon\nOld.\nIt is far.\n\nSun\nhttps://a.example\nIt shines.\n\nWhy?",
        "<tool_response>\nSun\nhttps://a.example\nIt shines.\n\nMoon\nOld.\nIt is cold.\n</tool_response>",
    ] {
        assert!(prompt.contains(part), "{part} is not in {prompt}");
    }
    let refused = async |messages: Value, place: &str| {
        let answer = app.post("/v1/messages", request(json!({ "messages": messages }))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text());
        assert!(answer.text().contains(place), "{}", answer.text());
    };
    let pdf = document(json!({ "type": "base64", "media_type": "application/pdf", "data": "AA" }));
    refused(json!([{ "role": "user", "content": [pdf] }]), "messages.0.content.0.source.type").await;
    // The places are the client's own, whatever became of the turns before.
    refused(messages(json!([{ "type": "image", "source": {} }])), "messages.2.content.1.content.0.type")
        .await;
    refused(messages(json!([{ "type": "text", "text": "x" }, pdf])), "messages.2.content.1.content.1.source")
        .await;
    refused(messages(json!([{ "type": "text" }])), "messages.2.content.1.content.0.text").await;
}

#[tokio::test]
async fn turns_of_one_role_are_told_as_one() {
    let app = app();
    let messages = json!([
        { "role": "user", "content": "One." },
        { "role": "user", "content": [{ "type": "text", "text": "Two." }] },
        { "role": "assistant", "content": "" },
    ]);
    app.post("/v1/messages", request(json!({ "messages": messages }))).await.ok();
    let prompt = tokenizer().decode_spelling_specials(&app.last_job().prompt);
    assert!(prompt.contains("One.\n\nTwo."), "{prompt}");
    assert_eq!(prompt.matches("<|im_start|>user").count(), 1, "{prompt}");
}

#[tokio::test]
async fn models_are_listed_in_pages() {
    let app = app();
    let page = async |query: &str| {
        let request = Request::get(format!("/v1/models{query}")).header("anthropic-version", "2023-06-01");
        app.send(request.body(Body::empty()).unwrap()).await
    };
    let first = page("?limit=2").await.ok();
    assert_eq!(
        (&first["first_id"], &first["last_id"], &first["has_more"]),
        (&json!("tiny"), &json!("scripted"), &json!(true))
    );
    let rest = page("?limit=2&after_id=scripted").await.ok();
    assert_eq!((&rest["data"][0]["id"], &rest["has_more"]), (&json!("owner/other:Q4_0"), &json!(false)));
    let back = page("?limit=1&before_id=scripted").await.ok();
    assert_eq!((&back["data"][0]["id"], &back["has_more"]), (&json!("tiny"), &json!(false)));
    assert_eq!(page("").await.ok()["has_more"], false);
    for wrong in ["?limit=0", "?limit=1001", "?limit=many", "?after_id=none"] {
        assert_eq!(page(wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let none = page("/nope").await;
    let error = none.json();
    assert_eq!((none.status, &error["type"]), (StatusCode::NOT_FOUND, &json!("error")));
    assert_eq!(error["error"]["type"], "not_found_error");
    assert_eq!(error["request_id"].as_str(), none.headers["request-id"].to_str().ok());
    // OpenAI's clients get all of them, and errors of their own.
    assert_eq!(app.get("/v1/models/nope").await.json()["error"]["code"], "model_not_found");
    assert_eq!(app.get("/v1/models?limit=1").await.ok()["data"].as_array().unwrap().len(), 3);
}
