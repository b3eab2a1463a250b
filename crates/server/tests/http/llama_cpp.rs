//! The API of llama.cpp's server.

use crate::support::{App, app, user};
use alti_engine::sampling::SamplerName;
use alti_server::ServerSettings;
use axum::http::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn a_text_is_gone_on_with() {
    let app = app();
    let request =
        json!({ "model": "tiny", "prompt": "Once", "n_predict": 6, "n_probs": 2, "return_tokens": true });
    let answer = app.post("/completion", request.clone()).await.ok();
    assert_eq!(
        (&answer["stop"], &answer["stop_type"], &answer["index"]),
        (&json!(true), &json!("limit"), &json!(0))
    );
    assert_eq!((&answer["tokens_predicted"], &answer["tokens_evaluated"]), (&json!(6), &json!(4)));
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(answer["completion_probabilities"][0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(answer["generation_settings"]["n_predict"], 6);
    let mut streaming = request;
    streaming["stream"] = json!(true);
    let (events, last) = app.post("/completion", streaming).await.events();
    assert_eq!(last, None);
    let text: String = events.iter().map(|event| event["content"].as_str().unwrap()).collect();
    assert_eq!(text, answer["content"].as_str().unwrap());
    assert!(events[..events.len() - 1].iter().all(|event| event["stop"] == false));
    let several = app
        .post("/completion", json!({ "model": "tiny", "prompt": ["a", [98, "c"], [100]], "n_predict": 2 }))
        .await
        .ok();
    let counts: Vec<&Value> = several.as_array().unwrap().iter().map(|it| &it["tokens_evaluated"]).collect();
    assert_eq!(counts, [1, 2, 1]);
    let grammar =
        json!({ "model": "tiny", "prompt": "x", "grammar": "root ::= \"ab\" | \"cd\"", "n_predict": 9 });
    let obeyed = app.post("/completion", grammar).await.ok();
    assert!(["ab", "cd"].contains(&obeyed["content"].as_str().unwrap()));
}

#[tokio::test]
async fn samplers_are_named_as_editors_name_them() {
    let app = app();
    let ask = async |samplers: Value| {
        let request = json!({ "model": "scripted", "prompt": "x", "samplers": samplers });
        app.post("/completion", request).await
    };
    for samplers in [json!(["top_k", "top_p", "infill"]), json!("top_k;top_p"), json!("kpi")] {
        ask(samplers).await.ok();
        assert_eq!(app.last_job().sampling.samplers, [SamplerName::TopK, SamplerName::TopP]);
    }
    let refused = ask(json!(["top_k", "guess"])).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("no sampler `guess`"));
}

#[tokio::test]
async fn a_slots_text_is_saved_brought_back_and_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        ServerSettings { slot_folder: Some(folder.path().to_owned()), ..ServerSettings::default() };
    let app = App::new(settings);
    let text = "what a slot remembers ".repeat(7);
    let complete = async |slot: i64| {
        let request = json!({ "model": "tiny", "prompt": text, "n_predict": 4, "id_slot": slot });
        app.post("/completion", request).await.ok()
    };
    let act = async |slot: &str, action: &str, filename: &str| {
        let request = json!({ "model": "tiny", "filename": filename });
        app.post(&format!("/slots/{slot}?action={action}"), request).await
    };
    let first = complete(3).await;
    assert_eq!((&first["id_slot"], &first["timings"]["cache_n"]), (&json!(3), &json!(0)));
    let saved = act("3", "save", "a.slot").await.ok();
    // The prompt and the answer, but for its last token.
    let tokens = first["tokens_evaluated"].as_u64().unwrap() + 3;
    assert_eq!((&saved["id_slot"], &saved["n_saved"]), (&json!(3), &json!(tokens)));
    assert_eq!(act("3", "erase", "").await.ok(), json!({ "id_slot": 3, "n_erased": tokens }));
    assert_eq!(complete(3).await["timings"]["cache_n"], 0, "what was erased is computed again");
    act("3", "erase", "").await.ok();
    let restored = act("2", "restore", "a.slot").await.ok();
    assert_eq!((&restored["n_restored"], &restored["n_read"]), (&json!(tokens), &saved["n_written"]));
    let again = complete(-1).await;
    assert_eq!((&again["content"], &again["id_slot"]), (&first["content"], &json!(-1)));
    assert!(again["timings"]["cache_n"].as_u64().unwrap() > 100, "{again}");
    let chat = json!({ "model": "tiny", "messages": user(&text), "max_tokens": 2, "id_slot": 5 });
    app.post("/v1/chat/completions", chat).await.ok();
    assert!(act("5", "save", "b.slot").await.ok()["n_saved"].as_u64().unwrap() > 100);
    let continued = json!({ "model": "tiny", "prompt": text, "max_tokens": 2, "id_slot": 6 });
    app.post("/v1/completions", continued).await.ok();
    assert!(act("6", "erase", "").await.ok()["n_erased"].as_u64().unwrap() > 100);

    for (slot, action, filename, status) in [
        ("3", "dance", "a", 400),
        ("x", "erase", "", 400),
        ("-1", "erase", "", 400),
        ("100000", "erase", "", 400),
        ("3", "save", "a.slot", 400),
        ("3", "save", "../a", 400),
        ("3", "save", ".a", 400),
        ("3", "save", "", 400),
        ("3", "delete", "none", 404),
        ("3", "restore", "none", 404),
    ] {
        let answer = act(slot, action, filename).await;
        assert_eq!(answer.status, status, "{slot} {action} {filename}: {}", answer.text());
        assert!(!answer.text().contains(folder.path().to_str().unwrap()), "{}", answer.text());
    }
    let own = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(own.join("b.slot"), "no slot").unwrap();
    assert_eq!(act("3", "restore", "b.slot").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(act("0", "delete", "b.slot").await.ok()["n_deleted"], 7);
    assert_eq!(act("3", "restore", "b.slot").await.status, StatusCode::NOT_FOUND);
    // What cannot be written is not the client's fault, and its place is not told.
    std::fs::create_dir(own.join("folder")).unwrap();
    let fault = act("2", "save", "folder").await;
    assert_eq!(fault.status, StatusCode::INSUFFICIENT_STORAGE, "{}", fault.text());
    assert!(!fault.text().contains(folder.path().to_str().unwrap()), "{}", fault.text());
    let settings = ServerSettings {
        slot_folder: Some(folder.path().to_owned()),
        slot_bytes: 100,
        ..ServerSettings::default()
    };
    let full =
        App::new(settings).post("/slots/2?action=save", json!({ "model": "tiny", "filename": "c" })).await;
    assert_eq!(full.json()["error"]["message"].as_str().map(|it| it.contains("action=delete")), Some(true));
    let far = json!({ "model": "tiny", "prompt": "x", "id_slot": 100_000 });
    assert_eq!(app.post("/completion", far).await.status, StatusCode::BAD_REQUEST);
    let closed = crate::support::app().post("/slots/0?action=save", json!({ "filename": "a" })).await;
    assert_eq!(
        closed.json()["error"]["message"].as_str().map(|it| it.contains("server.slot_folder")),
        Some(true)
    );
}

#[tokio::test]
async fn text_and_tokens_are_turned_into_each_other() {
    let app = app();
    let tokens = app.post("/tokenize", json!({ "content": "hé<s>" })).await.ok();
    assert_eq!(tokens["tokens"], json!([104, 195, 169, 250]));
    let pieces = app.post("/tokenize", json!({ "content": "hé", "with_pieces": true })).await.ok();
    assert_eq!(pieces["tokens"][0], json!({ "id": 104, "piece": "h" }));
    assert_eq!(pieces["tokens"][1], json!({ "id": 195, "piece": [195] }));
    let literal = app.post("/tokenize", json!({ "content": "<s>", "parse_special": false })).await.ok();
    assert_eq!(literal["tokens"], json!([60, 115, 62]));
    let text = app.post("/detokenize", json!({ "tokens": [104, 195, 169, 250] })).await.ok();
    assert_eq!(text["content"], "hé<s>");
    let prompt = app.post("/apply-template", json!({ "messages": user("Hi") })).await.ok();
    assert!(prompt["prompt"].as_str().unwrap().contains("<|im_start|>user\nHi<|im_end|>"));
    let unknown = app.post("/detokenize", json!({ "tokens": [999] })).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn documents_are_ordered_by_how_likely_they_make_the_query() {
    let app = app();
    let request = json!({ "model": "tiny", "query": "abc", "documents": ["one", { "text": "two" }, "three"], "return_documents": true });
    let answer = app.post("/v1/rerank", request.clone()).await.ok();
    let results = answer["results"].as_array().unwrap();
    let scores: Vec<f64> = results.iter().map(|result| result["relevance_score"].as_f64().unwrap()).collect();
    assert!(scores.iter().all(|score| *score < 0.0) && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let mut indices: Vec<u64> = results.iter().map(|result| result["index"].as_u64().unwrap()).collect();
    assert_eq!(results[0]["document"], request["documents"][indices[0] as usize]);
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2]);
    // The definition: the mean log-probability of the query's tokens behind the document.
    let best = results[0]["index"].as_u64().unwrap() as usize;
    let document = [json!("one"), json!("two"), json!("three")][best].as_str().unwrap().to_owned();
    let prompt =
        format!("Passage: {document}\nPlease write a question based on this passage.\nQuestion: abc");
    let scored = json!({ "model": "tiny", "prompt": prompt, "echo": true, "logprobs": 0, "max_tokens": 0 });
    let scored = app.post("/v1/completions", scored).await.ok();
    let list = scored["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    let last: Vec<f64> = list[list.len() - 4..].iter().map(|it| it.as_f64().unwrap()).collect();
    assert!((last.iter().sum::<f64>() / 4.0 - scores[0]).abs() < 1e-5);
    let two = app
        .post("/rerank", json!({ "query": "abc", "documents": ["one", "two", "three"], "top_n": 2 }))
        .await
        .ok();
    assert_eq!(two["results"].as_array().unwrap().len(), 2);
    for wrong in [
        json!({ "query": "", "documents": ["x"] }),
        json!({ "query": "x", "documents": [] }),
        json!({ "query": "x", "documents": [3] }),
    ] {
        assert_eq!(app.post("/rerank", wrong).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn vectors_state_and_what_the_model_cannot() {
    let app = app();
    let vectors = app.post("/embedding", json!({ "content": ["a", "b"], "model": "tiny" })).await.ok();
    assert_eq!((&vectors[1]["index"], vectors[0]["embedding"][0].as_array().unwrap().len()), (&json!(1), 96));
    for value in vectors[0]["embedding"][0].as_array().unwrap() {
        assert!(crate::support::is_single(value), "{value} has digits that mean nothing");
    }
    let props = app.get("/props?model=tiny").await.ok();
    let params = &props["default_generation_settings"]["params"];
    assert_eq!((&params["top_p"], &params["min_p"]), (&json!(0.95), &json!(0.05)));
    assert_eq!((&props["eos_token"], &props["total_slots"]), (&json!("<|im_end|>"), &json!(16)));
    assert!(app.get("/slots").await.ok().is_array());
    let infill = app.post("/infill", json!({ "input_prefix": "a", "input_suffix": "b" })).await;
    assert_eq!(infill.status, StatusCode::BAD_REQUEST);
    assert!(infill.json()["error"]["message"].as_str().unwrap().contains("cannot fill in"));
    assert_eq!(infill.json()["error"]["code"], 400);
}
