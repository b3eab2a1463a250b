//! OpenAI's API.

use crate::support::{App, CONTEXT, Script, app, user};
use alti_engine::grammar::GrammarSource;
use alti_server::ServerSettings;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine;
use serde_json::{Value, json};

fn chat(extra: Value) -> Value {
    let mut request = json!({ "model": "tiny", "messages": user("Hi"), "max_tokens": 8 });
    for (name, value) in extra.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

/// The text that a stream's chunks add up to, by choice.
fn streamed(events: &[Value], choice: u64) -> String {
    let choices =
        events.iter().filter_map(|event| event["choices"].get(0)).filter(|it| it["index"] == choice);
    choices.filter_map(|it| it["delta"]["content"].as_str().or(it["text"].as_str())).collect()
}

#[tokio::test]
async fn models_are_listed_and_described() {
    let app = app();
    let list = app.get("/v1/models").await.ok();
    assert_eq!(list["object"], "list");
    assert_eq!(
        list["data"][0],
        json!({ "id": "tiny", "object": "model", "created": 1_700_000_000, "owned_by": "tests" })
    );
    assert_eq!(app.get("/v1/models/owner/other:Q4_0").await.ok()["id"], "owner/other:Q4_0");
    assert_eq!(app.get("/v1/models/owner%2Fother:Q4_0").await.ok()["id"], "owner/other:Q4_0");
    let missing = app.get("/v1/models/none").await;
    assert_eq!(
        (missing.status, &missing.json()["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("model_not_found"))
    );
}

#[tokio::test]
async fn models_are_listed_for_anthropics_client_too() {
    let app = app();
    let get = async |path: &str| {
        let request = Request::get(path).header("anthropic-version", "2023-06-01");
        app.send(request.body(Body::empty()).unwrap()).await.ok()
    };
    let list = get("/v1/models").await;
    let models = list["data"].as_array().unwrap();
    assert_eq!((&list["has_more"], &list["object"]), (&json!(false), &json!("list")));
    assert_eq!((&list["first_id"], &list["last_id"]), (&models[0]["id"], &models[models.len() - 1]["id"]));
    let expected = json!({
        "id": "tiny", "object": "model", "created": 1_700_000_000, "owned_by": "tests",
        "type": "model", "display_name": "tiny", "created_at": "2023-11-14T22:13:20Z",
    });
    assert_eq!((&models[0], &get("/v1/models/tiny").await), (&expected, &expected));
    assert_eq!(app.get("/v1/models").await.ok()["has_more"], Value::Null, "OpenAI's has no pages");
}

#[tokio::test]
async fn a_model_is_removed() {
    let app = app();
    let delete = |name: &str| Request::delete(format!("/v1/models/{name}")).body(Body::empty()).unwrap();
    app.post("/api/copy", json!({ "source": "tiny", "destination": "second" })).await.ok();
    assert_eq!(app.get("/v1/models/second").await.ok()["id"], "second");
    let removed = app.send(delete("second")).await.ok();
    assert_eq!(removed, json!({ "id": "second", "object": "model", "deleted": true }));
    assert_eq!(app.send(delete("second")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.send(delete("tiny")).await.status, StatusCode::BAD_REQUEST, "what its owner keeps stays");
}

#[tokio::test]
async fn a_chat_is_answered_as_openai_does() {
    let answer = app().post("/v1/chat/completions", chat(json!({}))).await.ok();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("tiny")));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("length"), &Value::Null));
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(choice["message"]["content"].is_string() && choice["message"]["refusal"].is_null());
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 8);
    let sum = usage["prompt_tokens"].as_u64().unwrap() + 8;
    assert_eq!(usage["total_tokens"], sum);
}

#[tokio::test]
async fn the_tier_that_an_answer_was_given_in_is_told() {
    let app = app();
    for (asked, given) in [(Value::Null, "default"), (json!("priority"), "default"), (json!("flex"), "flex")]
    {
        let request = |stream: bool| chat(json!({ "service_tier": asked, "stream": stream }));
        assert_eq!(app.post("/v1/chat/completions", request(false)).await.ok()["service_tier"], given);
        let (events, _) = app.post("/v1/chat/completions", request(true)).await.events();
        assert!(events.iter().all(|event| event["service_tier"] == given), "{events:?}");
    }
}

#[tokio::test]
async fn a_stream_is_the_same_answer() {
    let app = app();
    for extra in [
        json!({}),
        json!({ "temperature": 1, "seed": 3, "n": 3 }),
        json!({ "logprobs": true, "top_logprobs": 2 }),
    ] {
        let whole = app.post("/v1/chat/completions", chat(extra.clone())).await.ok();
        let mut request = chat(extra);
        request["stream"] = json!(true);
        request["stream_options"] = json!({ "include_usage": true });
        let answer = app.post("/v1/chat/completions", request).await;
        let (events, last) = answer.events();
        assert_eq!(last.as_deref(), Some("[DONE]"));
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            assert_eq!(choice["message"]["content"], streamed(&events, index as u64));
            let logprobs = events.iter().filter(|it| it["choices"][0]["index"] == index);
            let logprobs =
                logprobs.filter_map(|it| it["choices"][0]["logprobs"]["content"].as_array()).flatten();
            let expected = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
            assert_eq!(logprobs.cloned().collect::<Vec<_>>(), expected);
            let finishes = events.iter().filter(|it| it["choices"][0]["index"] == index);
            let finishes = finishes.filter(|it| it["choices"][0]["finish_reason"].is_string());
            assert_eq!(finishes.count(), 1);
        }
        let usage = events.last().unwrap();
        assert_eq!(
            (&usage["choices"], &usage["usage"]["completion_tokens"]),
            (&json!([]), &whole["usage"]["completion_tokens"])
        );
        assert!(events[..events.len() - 1].iter().all(|event| event["usage"].is_null()));
        assert!(
            events
                .iter()
                .all(|event| event["id"] == events[0]["id"] && event["object"] == "chat.completion.chunk")
        );
    }
}

#[tokio::test]
async fn probabilities_are_those_of_the_model() {
    let request = chat(json!({ "logprobs": true, "top_logprobs": 3 }));
    let answer = app().post("/v1/chat/completions", request).await.ok();
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 8);
    for token in tokens {
        // Greedy: the token is the likeliest.
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
        assert_eq!(token["logprob"], token["top_logprobs"][0]["logprob"]);
        assert!(token["logprob"].as_f64().unwrap() <= 0.0 && token["bytes"].is_array());
    }
}

#[tokio::test]
async fn seeds_settings_and_stops_act() {
    let app = app();
    let text = |answer: Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let sampled =
        |seed| chat(json!({ "temperature": 1.5, "seed": seed, "max_tokens": 30, "top_k": 0, "min_p": 0 }));
    let first = text(app.post("/v1/chat/completions", sampled(1)).await.ok());
    assert_eq!(first, text(app.post("/v1/chat/completions", sampled(1)).await.ok()));
    assert_ne!(first, text(app.post("/v1/chat/completions", sampled(2)).await.ok()));
    let app = app.says("one END two");
    let request = |extra: Value| {
        let mut request = chat(extra);
        request["model"] = json!("scripted");
        request
    };
    let extra = json!({ "stop": "END", "frequency_penalty": 0.5, "logit_bias": { "65": -100 }, "max_completion_tokens": 99, "temperature": null, "dry_multiplier": 0.25 });
    app.post("/v1/chat/completions", request(extra)).await.ok();
    let sampling = app.last_job().sampling;
    assert_eq!(
        (sampling.stop, sampling.max_tokens, sampling.frequency_penalty),
        (vec!["END".to_owned()], 99, 0.5)
    );
    assert_eq!(
        (sampling.logit_bias.0[&65], sampling.temperature, sampling.dry_multiplier),
        (-100.0, 0.0, 0.25)
    );
}

#[tokio::test]
async fn a_request_of_many_prompts_leaves_room_for_others_and_keeps_their_order() {
    // The queue of the tiny model's engine has 64 places.
    let app = app();
    let texts: Vec<String> = (0..300).map(|number| format!("number {number} ")).collect();
    let request = |stream: bool| json!({ "model": "tiny", "prompt": texts, "max_tokens": 1, "echo": true, "stream": stream });
    let many = app.post("/v1/completions", request(false));
    let other = async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        app.post("/v1/chat/completions", chat(json!({}))).await
    };
    let (many, other) = tokio::join!(many, other);
    other.ok();
    let choices = many.ok()["choices"].as_array().unwrap().clone();
    assert_eq!(choices.len(), texts.len());
    for (choice, text) in choices.iter().zip(&texts) {
        assert!(choice["text"].as_str().unwrap().starts_with(text), "{choice} does not begin with {text}");
    }
    let (events, _) = app.post("/v1/completions", request(true)).await.events();
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(streamed(&events, index as u64), choice["text"].as_str().unwrap());
    }
    let llama = app.post("/completion", json!({ "model": "tiny", "prompt": texts, "n_predict": 1 })).await;
    assert_eq!(llama.ok().as_array().unwrap().len(), texts.len());
    // A prompt that can never be answered is told before anything is done.
    let long = "long ".repeat(CONTEXT);
    let refused = app.post("/v1/completions", json!({ "model": "tiny", "prompt": ["short", long] })).await;
    assert_eq!(refused.json()["error"]["code"], "context_length_exceeded");
    // They are counted before anything is made of them, or of the model.
    let vectors = json!({ "model": "none", "input": vec![""; 2049] });
    let refused = app.post("/v1/embeddings", vectors).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("input"))
    );
}

#[tokio::test]
async fn what_is_not_said_about_sampling_is_as_each_api_documents_it() {
    let app = app();
    for (path, request, expected) in [
        ("/v1/chat/completions", json!({ "messages": user("Hi") }), (0, 1.0, 0.0, 1.0, -1)),
        ("/v1/completions", json!({ "prompt": "Hi" }), (0, 1.0, 0.0, 1.0, -1)),
        ("/v1/messages", json!({ "messages": user("Hi"), "max_tokens": 9 }), (0, 1.0, 0.0, 1.0, 64)),
        ("/api/chat", json!({ "messages": user("Hi"), "stream": false }), (40, 0.9, 0.0, 1.1, 64)),
        ("/completion", json!({ "prompt": "Hi" }), (40, 0.95, 0.05, 1.0, 64)),
    ] {
        let mut request = request;
        request["model"] = json!("scripted");
        app.post(path, request).await.ok();
        let sampling = app.last_job().sampling;
        let (repeat, last) = (sampling.repeat_penalty, sampling.repeat_last_n);
        assert_eq!((sampling.top_k, sampling.top_p, sampling.min_p, repeat, last), expected, "{path}");
        // What the model says itself goes first.
        assert_eq!(sampling.temperature, 0.0, "{path}");
    }
}

#[tokio::test]
async fn no_token_is_told_or_counted_where_none_is_wanted() {
    let app = app();
    let request = json!({ "model": "tiny", "prompt": "Once", "max_tokens": 0, "echo": true, "logprobs": 0 });
    let answer = app.post("/v1/completions", request).await.ok();
    assert_eq!(answer["choices"][0]["text"], "Once");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert_eq!(answer["usage"]["total_tokens"], answer["usage"]["prompt_tokens"]);
    let metrics = app.state.metrics().prometheus(1.0, &[]);
    assert!(metrics.contains("alti_generated_tokens_total{model=\"tiny\"} 0\n"), "{metrics}");
    let llama = app.post("/completion", json!({ "model": "tiny", "prompt": "Once", "n_predict": 0 })).await;
    assert_eq!(llama.ok()["tokens_predicted"], 0);
    // A chat without an answer is none; under whichever name.
    let none = app.post("/v1/chat/completions", json!({ "messages": user("Hi"), "n_predict": 0 })).await;
    assert_eq!(
        (none.status, &none.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("max_tokens"))
    );
    // Ollama's 0 is no limit.
    let options = json!({ "num_predict": 0 });
    let open = json!({ "model": "scripted", "prompt": "Hi", "options": options, "stream": false });
    assert_eq!(app.post("/api/generate", open).await.ok()["eval_count"], 6);
    assert_eq!(app.last_job().sampling.max_tokens, -1);
}

#[tokio::test]
async fn what_openai_refuses_is_refused_with_its_error() {
    let app = app();
    for (extra, param) in [
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": "hi" }), "messages"),
        (json!({ "messages": [{ "role": "wizard", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user", "content": 3 }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content[0].type",
        ),
        (json!({ "messages": [{ "content": "x" }] }), "messages[0].role"),
        (json!({ "temperature": 3 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "top_p": -0.5 }), "top_p"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 1000 }), "n"),
        (json!({ "n": -1 }), "n"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": 1.5 }), "max_tokens"),
        (json!({ "max_completion_tokens": 0 }), "max_completion_tokens"),
        (json!({ "logit_bias": { "65": 100.5 } }), "logit_bias"),
        (json!({ "logit_bias": { "65": -101 } }), "logit_bias"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias"),
        (json!({ "stop": [1] }), "stop"),
        (json!({ "seed": 1.5 }), "seed"),
        (json!({ "response_format": { "type": "xml" } }), "response_format"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema.schema"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0]"),
        (json!({ "tools": [3] }), "tools[0]"),
        (json!({ "tool_choice": "perhaps" }), "tool_choice"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
        (json!({ "top_k": 1.5 }), "top_k"),
        (json!({ "modalities": ["audio"] }), "modalities"),
    ] {
        let answer = app.post("/v1/chat/completions", chat(extra.clone())).await;
        let error = answer.json()["error"].clone();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{extra}: {error}");
        assert_eq!(
            (&error["type"], error["param"].as_str()),
            (&json!("invalid_request_error"), Some(param)),
            "{extra}: {error}"
        );
    }
    let missing = app.post("/v1/chat/completions", chat(json!({ "model": "none" }))).await;
    assert_eq!(
        (missing.status, &missing.json()["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("model_not_found"))
    );
    let long =
        app.post("/v1/chat/completions", chat(json!({ "messages": user(&"long ".repeat(CONTEXT)) }))).await;
    assert_eq!(
        (long.status, &long.json()["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("context_length_exceeded"))
    );
    assert!(long.json()["error"]["message"].as_str().unwrap().contains(&CONTEXT.to_string()));
}

#[tokio::test]
async fn a_full_queue_and_failures_are_told() {
    let request = |stream: bool| json!({ "model": "scripted", "messages": user("Hi"), "stream": stream });
    let full = app().script(Script::Full).post("/v1/chat/completions", request(true)).await;
    assert_eq!(full.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        (&full.headers["retry-after"], &full.json()["error"]["type"]),
        (&"7".parse().unwrap(), &json!("rate_limit_error"))
    );
    let (events, last) =
        app().script(Script::Fail(3)).post("/v1/chat/completions", request(true)).await.events();
    assert_eq!((streamed(&events, 0).as_str(), last), ("xxx", None));
    assert!(events.last().unwrap()["error"]["message"].is_string());
    let panicked = app().script(Script::Panic).post("/v1/chat/completions", request(false)).await;
    assert_eq!(
        (panicked.status, &panicked.json()["error"]["type"]),
        (StatusCode::INTERNAL_SERVER_ERROR, &json!("server_error"))
    );
}

#[tokio::test]
async fn answers_obey_their_schema() {
    let schema = json!({
        "type": "object",
        "properties": { "colour": { "enum": ["red", "green"] }, "count": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["colour", "count"],
        "additionalProperties": false,
    });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema, "strict": true } });
    let request = chat(json!({ "response_format": format, "temperature": 1, "seed": 5, "max_tokens": 300 }));
    let answer = app().post("/v1/chat/completions", request).await.ok();
    let value: Value =
        serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(["red", "green"].contains(&value["colour"].as_str().unwrap()) && value["count"].is_u64());
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let wrong =
        json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": { "type": "colour" } } });
    let add = json!({ "type": "function", "function": { "name": "add" } });
    for (path, extra, param) in [
        ("/v1/chat/completions", json!({ "response_format": wrong }), "response_format"),
        ("/v1/chat/completions", json!({ "response_format": wrong, "tools": [add] }), "response_format"),
        ("/v1/completions", json!({ "response_format": wrong, "prompt": "x" }), "response_format"),
        ("/v1/completions", json!({ "json_schema": { "type": "colour" }, "prompt": "x" }), "json_schema"),
        ("/v1/chat/completions", json!({ "regex": "(" }), "regex"),
        ("/v1/chat/completions", json!({ "grammar": "root ::= (" }), "grammar"),
    ] {
        let refused = app().post(path, chat(extra.clone())).await;
        let error = &refused.json()["error"];
        assert_eq!(
            (refused.status, &error["param"]),
            (StatusCode::BAD_REQUEST, &json!(param)),
            "{extra}: {error}"
        );
    }
    // A schema may be left out.
    let any = json!({ "type": "json_schema", "json_schema": { "name": "x" } });
    let request = chat(json!({ "response_format": any, "temperature": 1, "seed": 5, "model": "scripted" }));
    let app = app();
    app.post("/v1/chat/completions", request).await.ok();
    assert_eq!(app.last_job().grammar, Some(GrammarSource::JsonObject));
}

#[tokio::test]
async fn what_cannot_be_checked_is_refused_where_it_is_promised_and_passed_over_elsewhere() {
    let tags =
        json!({ "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 3, "uniqueItems": true });
    let schema = json!({
        "type": "object", "properties": { "tags": tags }, "required": ["tags"], "additionalProperties": false,
    });
    let format =
        |strict: Value| json!({ "type": "json_schema", "name": "x", "schema": schema, "strict": strict });
    let app = app();
    let nested = |strict: Value| json!({ "response_format": { "type": "json_schema", "json_schema": format(strict) } });
    let refused = app.post("/v1/chat/completions", chat(nested(json!(true)))).await;
    let error = &refused.json()["error"];
    assert_eq!((refused.status, &error["param"]), (StatusCode::BAD_REQUEST, &json!("response_format")));
    let message = error["message"].as_str().unwrap();
    let said = "Invalid schema for response_format 'x': In context=('properties', 'tags'), 'uniqueItems' is not permitted";
    assert!(message.starts_with(said) && message.contains("leave out `strict`"), "{message}");
    for strict in [json!(false), Value::Null] {
        let mut request = chat(nested(strict));
        (request["model"], request["temperature"], request["max_tokens"]) =
            (json!("tiny"), json!(1), json!(200));
        let answer = app.post("/v1/chat/completions", request).await.ok();
        let value: Value =
            serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
        assert!(value["tags"].is_array(), "{value}");
    }
}

#[tokio::test]
async fn texts_are_gone_on_with() {
    let app = app();
    let request =
        json!({ "model": "tiny", "prompt": "Once", "max_tokens": 5, "echo": true, "logprobs": 2, "n": 2 });
    let answer = app.post("/v1/completions", request.clone()).await.ok();
    assert_eq!(answer["object"], "text_completion");
    for choice in answer["choices"].as_array().unwrap() {
        assert!(choice["text"].as_str().unwrap().starts_with("Once"));
        let lists = &choice["logprobs"];
        assert_eq!(lists["tokens"].as_array().unwrap().len(), 4 + 5);
        assert_eq!(
            (&lists["tokens"][0], &lists["token_logprobs"][0], &lists["top_logprobs"][0]),
            (&json!("O"), &Value::Null, &Value::Null)
        );
        assert!(
            lists["token_logprobs"][1].is_f64() && lists["top_logprobs"][1].as_object().unwrap().len() >= 2
        );
        assert_eq!(
            lists["text_offset"].as_array().unwrap()[..5],
            [json!(0), json!(1), json!(2), json!(3), json!(4)]
        );
    }
    // Only the prompt's probabilities, as evaluation harnesses ask for them.
    let scored = app.post(
        "/v1/completions",
        json!({ "prompt": "Once", "model": "tiny", "max_tokens": 0, "echo": true, "logprobs": 0 }),
    );
    let scored = scored.await.ok();
    assert_eq!(scored["choices"][0]["text"], "Once");
    assert_eq!(scored["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 4);
    assert_eq!(
        scored["choices"][0]["logprobs"]["token_logprobs"][3],
        answer["choices"][0]["logprobs"]["token_logprobs"][3]
    );
    // Several prompts, as texts and as tokens; a stream is the same.
    let several = json!({ "model": "tiny", "prompt": ["ab", "cd"], "max_tokens": 4, "n": 2 });
    let answer = app.post("/v1/completions", several.clone()).await.ok();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4);
    let tokens = json!({ "model": "tiny", "prompt": [[97, 98], [99, 100]], "max_tokens": 4, "n": 2 });
    assert_eq!(app.post("/v1/completions", tokens).await.ok()["choices"], answer["choices"]);
    let mut streaming = several;
    streaming["stream"] = json!(true);
    let (events, last) = app.post("/v1/completions", streaming).await.events();
    assert_eq!(last.as_deref(), Some("[DONE]"));
    for index in 0..4 {
        assert_eq!(answer["choices"][index]["text"], streamed(&events, index as u64));
    }
    let (events, _) = {
        let mut request = request;
        request["stream"] = json!(true);
        app.post("/v1/completions", request).await.events()
    };
    assert!(streamed(&events, 1).starts_with("Once"));
}

/// A request for thirty letters at random, with their probabilities.
fn letters(extra: Value) -> Value {
    let mut request = json!({
        "model": "tiny", "regex": "[a-z]{30}", "max_tokens": 40, "temperature": 1, "seed": 4, "repeat_last_n": 0,
    });
    for (name, value) in extra.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

#[tokio::test]
async fn probabilities_end_where_the_text_does() {
    let app = app();
    let chat = |extra: Value| {
        let mut request = letters(extra);
        (request["messages"], request["logprobs"]) = (user("Hi"), json!(true));
        request
    };
    let join = |tokens: &Value, name: &str| -> String {
        let tokens = tokens.as_array().unwrap().iter();
        tokens.map(|token| token.get(name).unwrap_or(token).as_str().unwrap()).collect()
    };
    let whole = app.post("/v1/chat/completions", chat(json!({}))).await.ok();
    let whole = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let (before, stop) = (&whole[..11], &whole[11..15]);
    let answer = app.post("/v1/chat/completions", chat(json!({ "stop": stop }))).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(before), &json!("stop")));
    assert_eq!(join(&choice["logprobs"]["content"], "token"), before);
    let streaming = chat(json!({ "stop": stop, "stream": true }));
    let (events, _) = app.post("/v1/chat/completions", streaming).await.events();
    let pieces = events.iter().filter_map(|event| event["choices"][0]["logprobs"].get("content"));
    let streamed: String = pieces.map(|tokens| join(tokens, "token")).collect();
    assert_eq!(streamed, before);

    let text = |extra: Value| {
        let mut request = letters(extra);
        (request["prompt"], request["logprobs"]) = (json!("Hi"), json!(0));
        request
    };
    let whole = app.post("/v1/completions", text(json!({}))).await.ok();
    let whole = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    let (before, stop) = (&whole[..11], &whole[11..15]);
    // What may become a stop string and does not is told late.
    let stops = json!([stop, format!("{}?", &whole[3..6])]);
    let answer = app.post("/v1/completions", text(json!({ "stop": stops }))).await.ok();
    let lists = &answer["choices"][0]["logprobs"];
    assert_eq!(
        (join(&lists["tokens"], "token").as_str(), &answer["choices"][0]["text"]),
        (before, &json!(before))
    );
    assert_eq!(lists["text_offset"], json!((0..11).collect::<Vec<_>>()));
    let (events, _) =
        app.post("/v1/completions", text(json!({ "stop": stops, "stream": true }))).await.events();
    let lists = events.iter().filter_map(|event| event["choices"][0]["logprobs"].get("text_offset"));
    let offsets: Vec<&Value> = lists.filter_map(Value::as_array).flatten().collect();
    assert_eq!(json!(offsets), json!((0..11).collect::<Vec<_>>()));
}

#[tokio::test]
async fn tokens_are_found_where_they_begin_in_the_text() {
    let app = app();
    for (prompt, text, offsets) in [
        (json!("h\u{e9}y"), "h\u{e9}y", [0, 1, 1, 2].as_slice()),
        (json!("<s>hey"), "<s>hey", &[0, 3, 4, 5]),
        (json!([0xfa, b'h', 0xf8, b'e', b'y']), "hey", &[0, 0, 1, 1, 2]),
    ] {
        let request = letters(json!({ "prompt": prompt, "echo": true, "logprobs": 0 }));
        let answer = app.post("/v1/completions", request.clone()).await.ok();
        let choice = &answer["choices"][0];
        assert!(choice["text"].as_str().unwrap().starts_with(text), "{choice}");
        let length = text.chars().count();
        let expected: Vec<usize> = offsets.iter().copied().chain(length..length + 30).collect();
        assert_eq!(choice["logprobs"]["text_offset"], json!(expected), "{prompt}");
        let mut request = request;
        request["stream"] = json!(true);
        let (events, _) = app.post("/v1/completions", request).await.events();
        let lists = events.iter().filter_map(|event| event["choices"][0]["logprobs"].get("text_offset"));
        let streamed: Vec<&Value> = lists.filter_map(Value::as_array).flatten().collect();
        assert_eq!(json!(streamed), json!(expected), "{prompt}");
    }
}

#[tokio::test]
async fn as_many_answers_are_given_as_openai_gives_though_fewer_run_at_once() {
    let app = app();
    let all = chat(json!({ "n": 128, "max_tokens": 2, "temperature": 1, "seed": 1 }));
    let answer = app.post("/v1/chat/completions", all).await.ok();
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(128));
    assert_eq!(answer["usage"]["completion_tokens"], 256);
    for n in [128, 129] {
        let request =
            json!({ "model": "tiny", "prompt": ["one", "two"], "n": n, "max_tokens": 2, "ignore_eos": true });
        let answer = app.post("/v1/completions", request).await;
        match n {
            128 => assert_eq!(answer.ok()["choices"].as_array().map(Vec::len), Some(256)),
            _ => assert_eq!(answer.json()["error"]["param"], "n"),
        }
    }
}

#[tokio::test]
async fn a_summary_is_kept_from_going_round_in_circles() {
    let app = app().says("All was said.");
    app.post("/v1/responses/compact", json!({ "model": "scripted", "input": "Hi" })).await.ok();
    let sampling = app.last_job().sampling;
    assert_eq!((sampling.repeat_penalty, sampling.repeat_last_n, sampling.temperature), (1.1, 64, 0.0));
}

#[tokio::test]
async fn the_likeliest_of_several_texts_are_given() {
    let app = app();
    let ask = async |extra: Value| {
        let mut request = json!({ "model": "tiny", "prompt": ["Once", "Then"], "max_tokens": 6, "temperature": 1, "seed": 5 });
        for (name, value) in extra.as_object().unwrap() {
            request[name] = value.clone();
        }
        app.post("/v1/completions", request).await.ok()
    };
    let all = ask(json!({ "n": 5, "logprobs": 0 })).await;
    let best = ask(json!({ "n": 2, "best_of": 5 })).await;
    assert_eq!(
        best["usage"]["completion_tokens"], all["usage"]["completion_tokens"],
        "all that were written"
    );
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs.iter().map(|it| it.as_f64().unwrap()).sum::<f64>() / logprobs.len() as f64
    };
    let (all, best) = (all["choices"].as_array().unwrap(), best["choices"].as_array().unwrap());
    assert_eq!(best.len(), 4);
    for (prompt, given) in best.chunks(2).enumerate() {
        let mut written = all[prompt * 5..][..5].to_vec();
        written.sort_by(|one, other| mean(other).total_cmp(&mean(one)));
        for (place, choice) in given.iter().enumerate() {
            assert_eq!(choice["text"], written[place]["text"]);
            assert_eq!((&choice["index"], &choice["logprobs"]), (&json!(prompt * 2 + place), &Value::Null));
        }
    }
}

#[tokio::test]
async fn what_completions_cannot_do_is_refused() {
    for (request, param) in [
        (json!({ "prompt": "x", "best_of": 21 }), "best_of"),
        (json!({ "prompt": "x", "best_of": 2, "n": 3 }), "best_of"),
        (json!({ "prompt": "x", "best_of": 3, "stream": true }), "best_of"),
        (json!({ "prompt": "x", "best_of": 3, "n": 0 }), "n"),
        (json!({ "prompt": "x", "suffix": "y" }), "suffix"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": { "a": 1 } }), "prompt"),
        (json!({ "prompt": [[1.5]] }), "prompt"),
        (json!({ "prompt": "x", "logprobs": 99 }), "logprobs"),
        (json!({ "prompt": "x", "logit_bias": { "65": 1000 } }), "logit_bias"),
        (json!({ "max_tokens": 3 }), "prompt"),
    ] {
        let answer = app().post("/v1/completions", request.clone()).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["param"].as_str()),
            (StatusCode::BAD_REQUEST, Some(param)),
            "{request}"
        );
    }
    // As many answers as a server gives at most may be fewer.
    let few = App::new(ServerSettings { max_choices: 4, ..ServerSettings::default() });
    for (request, param) in
        [(json!({ "prompt": "x", "best_of": 5 }), "best_of"), (json!({ "prompt": "x", "n": 5 }), "n")]
    {
        let answer = few.post("/v1/completions", request).await;
        assert_eq!(answer.json()["error"]["param"], param);
    }
    // A token that the model does not have; an empty prompt.
    for prompt in [json!([1_000_000]), json!("")] {
        let answer = app().post("/v1/completions", json!({ "prompt": prompt })).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{prompt}");
    }
}

#[tokio::test]
async fn vectors_are_of_length_one_in_every_form() {
    let app = app();
    let embed = async |extra: Value| {
        let mut request = json!({ "model": "tiny", "input": "hello" });
        for (name, value) in extra.as_object().unwrap() {
            request[name] = value.clone();
        }
        app.post("/v1/embeddings", request).await.ok()
    };
    let floats = |value: &Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|it| it.as_f64().unwrap() as f32).collect()
    };
    let plain = embed(json!({})).await;
    let values = floats(&plain["data"][0]["embedding"]);
    for value in plain["data"][0]["embedding"].as_array().unwrap() {
        assert!(crate::support::is_single(value), "{value} has digits that mean nothing");
    }
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-5);
    assert_eq!(plain["usage"], json!({ "prompt_tokens": 5, "total_tokens": 5 }));
    let base64 = embed(json!({ "encoding_format": "base64" })).await;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(base64["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let decoded: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
    assert_eq!(decoded, values);
    let tokens = embed(json!({ "input": [[104, 101, 108, 108, 111], [104]] })).await;
    assert_eq!(tokens["data"][0]["embedding"], plain["data"][0]["embedding"]);
    assert_eq!(tokens["data"][1]["index"], 1);
    let cut = floats(&embed(json!({ "dimensions": 4 })).await["data"][0]["embedding"]);
    assert_eq!(cut.len(), 4);
    assert!((cut[0] / cut[1] - values[0] / values[1]).abs() < 1e-4);
    let many = embed(json!({ "input": vec!["text"; 100] })).await;
    assert_eq!(many["data"].as_array().unwrap().len(), 100);
    for (extra, param) in [
        (json!({ "input": [] }), "input"),
        (json!({ "input": "" }), "input[0]"),
        (json!({ "input": ["a", ""] }), "input[1]"),
        (json!({ "input": 3 }), "input"),
        (json!({ "input": "x", "dimensions": 0 }), "dimensions"),
        (json!({ "input": "x", "dimensions": 100_000 }), "dimensions"),
        (json!({ "input": "x", "encoding_format": "int4" }), "encoding_format"),
    ] {
        let answer = app.post("/v1/embeddings", extra.clone()).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["param"].as_str()),
            (StatusCode::BAD_REQUEST, Some(param)),
            "{extra}"
        );
    }
}

#[tokio::test]
async fn an_unfinished_turn_of_the_assistant_is_gone_on_with() {
    let app: App = app().says("four");
    let messages = json!([
        { "role": "developer", "content": [{ "type": "text", "text": "Be brief." }] },
        { "role": "user", "content": "2 + 2?" },
        { "role": "assistant", "content": "It is " },
    ]);
    app.post("/v1/chat/completions", json!({ "model": "scripted", "messages": messages })).await.ok();
    let prompt = crate::support::tokenizer().decode_spelling_specials(&app.last_job().prompt);
    assert!(
        prompt.contains("<|im_start|>system\nBe brief.") && prompt.ends_with("<|im_start|>assistant\nIt is "),
        "{prompt}"
    );
}
