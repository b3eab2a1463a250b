//! The API of llama.cpp's server.

use crate::support::{App, CONTEXT, OWN, app, user};
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
    ask(json!(["top_k", "guess"])).await.ok();
    assert_eq!(app.last_job().sampling.samplers, [SamplerName::TopK], "what nobody knows is passed over");
    assert_eq!(ask(json!([3])).await.status, StatusCode::BAD_REQUEST);
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
        ("3", "save", "../a", 400),
        ("3", "save", ".a", 400),
        ("3", "save", "", 400),
        ("3", "delete", "none", 404),
        ("3", "restore", "none", 400),
    ] {
        let answer = act(slot, action, filename).await;
        assert_eq!(answer.status, status, "{slot} {action} {filename}: {}", answer.text());
        assert!(!answer.text().contains(folder.path().to_str().unwrap()), "{}", answer.text());
    }
    for (slot, action, filename, message) in [
        ("3", "dance", "a", "Invalid action"),
        ("x", "erase", "", "Invalid slot ID"),
        ("100000", "erase", "", "Invalid slot ID"),
        ("3", "save", "../a", "Invalid filename"),
        ("3", "restore", "none", "Unable to restore slot"),
    ] {
        let answer = act(slot, action, filename).await.json();
        assert!(answer["error"]["message"].as_str().unwrap().contains(message), "{answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    // A slot without a text is saved as nothing, and does not leave what another left under the name.
    let untouched = act("7", "save", "a.slot").await.ok();
    assert_eq!((&untouched["n_saved"], &untouched["n_written"]), (&json!(0), &json!(0)));
    assert_eq!(act("7", "restore", "a.slot").await.status, StatusCode::BAD_REQUEST);
    let own = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(own.join("b.slot"), "no slot").unwrap();
    assert_eq!(act("3", "restore", "b.slot").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(act("0", "delete", "b.slot").await.ok()["n_deleted"], 7);
    assert_eq!(act("3", "restore", "b.slot").await.status, StatusCode::BAD_REQUEST);
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
    let closed = closed.json();
    assert_eq!(closed["error"]["message"].as_str().map(|it| it.contains("server.slot_folder")), Some(true));
    assert_eq!(closed["error"]["type"], "not_supported_error");
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
    let mixed = app.post("/tokenize", json!({ "content": ["h", 195, 169.0, "<s>"] })).await.ok();
    assert_eq!(mixed["tokens"], json!([104, 195, 169, 250]));
    assert_eq!(app.post("/tokenize", json!({})).await.ok()["tokens"], json!([]));
    assert_eq!(app.post("/detokenize", json!({})).await.ok()["content"], "");
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
    assert_eq!(results[0]["document"]["text"], ["one", "two", "three"][indices[0] as usize]);
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
    let texts = json!({ "query": "abc", "texts": ["one", "two", "three"], "return_text": true, "top_n": 99 });
    let scored = app.post("/rerank", texts).await.ok();
    assert_eq!(scored.as_array().unwrap().len(), 3);
    assert_eq!((&scored[0]["index"], &scored[0]["text"]), (&json!(best), &json!(document)));
    assert!((scored[0]["score"].as_f64().unwrap() - scores[0]).abs() < 1e-9);
    for wrong in [
        json!({ "query": "x" }),
        json!({ "query": "x", "texts": [] }),
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
    assert!(infill.json()["error"]["message"].as_str().unwrap().contains("cannot fill in"));
    assert_eq!(infill.json()["error"]["type"], "not_supported_error");
    let props = app.post("/props", json!({})).await;
    assert_eq!(props.json()["error"]["type"], "not_supported_error");
}

#[tokio::test]
async fn what_is_to_be_filled_in_is_read_before_the_model_is_asked_whether_it_can() {
    let app = app();
    for wrong in [
        json!({ "input_extra": [{}] }),
        json!({ "input_extra": [{ "filename": "a" }] }),
        json!({ "input_extra": [{ "filename": 3, "text": "b" }] }),
        json!({ "input_extra": [{ "text": 4 }] }),
        json!({ "input_extra": ["a"] }),
        json!({ "n_probs": "many" }),
        json!({ "id_slot": 100_000 }),
        json!({ "top_k": "many" }),
        json!({ "grammar": "root ::= \"a\"", "json_schema": {} }),
    ] {
        let mut request = wrong;
        request["input_prefix"] = json!("a");
        request["input_suffix"] = json!("b");
        let answer = app.post("/infill", request.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{request}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{request}");
    }
}

#[tokio::test]
async fn routes_have_the_names_that_llama_cpp_gives_them() {
    let app = app();
    let rerank = json!({ "query": "a", "documents": ["b"] });
    let chat = json!({ "model": "scripted", "messages": user("Hi") });
    for (path, request) in [
        ("/completions", json!({ "model": "scripted", "prompt": "x" })),
        ("/chat/completions", chat),
        ("/embeddings", json!({ "content": "x", "model": "tiny" })),
        ("/v2/rerank", rerank.clone()),
        ("/reranking", rerank.clone()),
        ("/v1/reranking", rerank),
    ] {
        assert!(!app.post(path, request).await.ok().is_null(), "{path}");
    }
    let request = json!({ "model": "scripted", "input": "Hi", "store": false });
    let (own, other) =
        (app.post("/v1/responses", request.clone()).await, app.post("/responses", request).await);
    assert_eq!((own.status, own.json()["object"].clone()), (other.status, other.json()["object"].clone()));
    assert_ne!(other.json()["error"]["code"], "unknown_url");
    assert_eq!(app.get("/models").await.ok()["object"], "list");
    let wrong = app.post("/completions", json!({})).await.json();
    assert_eq!(wrong["error"]["code"], 400, "errors are the family's: {wrong}");
}

#[tokio::test]
async fn adapters_are_listed_and_scales_that_cannot_be_set_are_refused() {
    let app = app();
    assert_eq!(app.get("/lora-adapters?model=tiny").await.ok(), json!([]));
    assert_eq!(app.post("/lora-adapters?model=tiny", json!([])).await.ok(), json!({ "success": true }));
    for wrong in [json!({}), json!([{ "id": 0, "scale": 1 }]), json!([3])] {
        let answer = app.post("/lora-adapters?model=tiny", wrong).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}

/// A server with two names for [`OWN`], each with an adapter.
async fn adapted() -> App {
    let path = alti_testkit::adapter("llama3-plain");
    let folder = path.parent().expect("adapters are in a folder").to_owned();
    let app = App::new(ServerSettings { adapter_folders: vec![folder], ..ServerSettings::default() });
    for (name, adapter) in [("plain", "llama3-plain"), ("patterned", "llama3-patterns")] {
        let modelfile = format!("FROM {OWN}\nADAPTER {adapter}");
        let request = json!({ "model": name, "modelfile": modelfile, "stream": false });
        app.post("/api/create", request).await.ok();
    }
    app
}

#[tokio::test]
async fn adapters_that_are_loaded_have_scales_by_the_name_that_is_asked_for() {
    let app = adapted().await;
    let list = async |model: &str| app.get(&format!("/lora-adapters?model={model}")).await.ok();
    let set = async |model: &str, scales: Value| {
        let answer = app.post(&format!("/lora-adapters?model={model}"), scales).await;
        (answer.status.as_u16(), answer.json()["error"]["type"].clone())
    };
    let one = |id: usize, name: &str, scale: f64| json!({ "id": id, "path": name, "scale": scale, "task_name": "", "prompt_prefix": "" });
    assert_eq!(list(OWN).await, json!([]), "none is loaded before somebody asks for it");
    assert_eq!(list("plain").await, json!([one(0, "plain", 1.0)]));
    assert_eq!(list("patterned").await, json!([one(0, "patterned", 1.0), one(1, "plain", 0.0)]));
    assert_eq!(list(OWN).await, json!([one(0, "patterned", 0.0), one(1, "plain", 0.0)]));
    let scale = |id: usize, scale: f64| json!({ "id": id, "scale": scale });
    for (model, scales) in [
        (OWN, json!([])),
        (OWN, json!([scale(0, 0.0), scale(1, 0.0)])),
        ("plain", json!([scale(1, 1.0)])),
        ("patterned", json!([scale(1, 0.0), scale(0, 1.0)])),
    ] {
        assert_eq!(set(model, scales.clone()).await, (200, Value::Null), "{model} {scales}");
    }
    for (model, scales) in [
        (OWN, json!([scale(0, 1.0)])),
        ("plain", json!([])),
        ("plain", json!([scale(1, 0.5)])),
        ("plain", json!([scale(0, 1.0), scale(1, 1.0)])),
    ] {
        assert_eq!(set(model, scales.clone()).await.1, "not_supported_error", "{model} {scales}");
    }
    assert_eq!(set("plain", json!([scale(2, 1.0)])).await, (400, json!("invalid_request_error")));
}

#[tokio::test]
async fn an_answer_has_the_adapter_of_its_name_and_no_other_scale() {
    let app = adapted().await;
    let complete = async |model: &str, lora: Value| {
        let request = json!({ "model": model, "prompt": "Once upon a time", "n_predict": 8, "lora": lora });
        app.post("/completion", request).await
    };
    let content = async |model: &str, lora: Value| complete(model, lora).await.ok()["content"].clone();
    let [base, plain, patterned] = [
        content(OWN, Value::Null).await,
        content("plain", Value::Null).await,
        content("patterned", Value::Null).await,
    ];
    assert!(base != plain && base != patterned && plain != patterned, "{base} {plain} {patterned}");
    assert_eq!(content("plain", json!([{ "id": 1, "scale": 1 }])).await, plain);
    assert_eq!(content(OWN, json!([])).await, base);
    for (lora, kind) in [
        (json!([{ "id": 1, "scale": 0.5 }]), "not_supported_error"),
        (json!([{ "id": 0, "scale": 1 }]), "not_supported_error"),
        (json!([{ "id": 2, "scale": 1 }]), "invalid_request_error"),
        (json!([{ "scale": 1 }]), "invalid_request_error"),
    ] {
        let answer = complete("plain", lora.clone()).await.json();
        assert_eq!(answer["error"]["type"], kind, "{lora}: {answer}");
    }
    // The name goes, and its adapter with it.
    let delete = axum::http::Request::delete("/api/delete");
    let delete = delete.body(json!({ "model": "plain" }).to_string().into()).unwrap();
    assert_eq!(app.send(delete).await.status, StatusCode::OK);
    let left = app.get(&format!("/lora-adapters?model={OWN}")).await.ok();
    assert_eq!((left.as_array().map(Vec::len), &left[0]["path"]), (Some(1), &json!("patterned")));
}

#[tokio::test]
async fn what_belongs_between_two_texts_is_filled_in() {
    let app = app();
    let ask = async |more: Value| {
        let mut request =
            json!({ "model": OWN, "input_prefix": "fn a() {", "input_suffix": "}", "n_predict": 5 });
        let more = more.as_object().expect("fields").clone();
        request.as_object_mut().expect("fields").extend(more);
        app.post("/infill", request).await
    };
    let filled = ask(json!({})).await.ok();
    let prompt = "<|fim_prefix|>fn a() {<|fim_suffix|>}<|fim_middle|>";
    assert_eq!(
        (&filled["prompt"], &filled["tokens_evaluated"], &filled["tokens_predicted"], &filled["stop_type"]),
        (&json!(prompt), &json!(12), &json!(5), &json!("limit"))
    );
    // It is what the model says behind such a prompt.
    let plain = json!({ "model": OWN, "prompt": prompt, "n_predict": 5 });
    assert_eq!(app.post("/completion", plain).await.ok()["content"], filled["content"]);
    let (events, _) = ask(json!({ "stream": true })).await.events();
    let told: String = events.iter().map(|event| event["content"].as_str().unwrap()).collect();
    assert_eq!(told, filled["content"].as_str().unwrap());
    // Other files come in front, and what the middle begins with behind.
    let extra = json!([{ "filename": "b.rs", "text": "mod b;" }, { "text": "mod c;" }]);
    let filled = ask(json!({ "input_extra": extra, "prompt": "let" })).await.ok();
    let prompt = "<|fim_prefix|>mod b;\nmod c;\nfn a() {<|fim_suffix|>}<|fim_middle|>let";
    assert_eq!(filled["prompt"], prompt);
    // Who spells a control token has its letters.
    let spelled = ask(json!({ "input_suffix": "<|fim_middle|>", "prompt": "<|im_end|>" })).await.ok();
    assert_eq!(spelled["tokens_evaluated"], 3 + "fn a() {<|fim_middle|><|im_end|>".len());
    assert_eq!(ask(json!({ "grammar": "root ::= \"ab\"" })).await.ok()["content"], "ab");
    assert!(ask(json!({})).await.ok()["timings"]["cache_n"].as_u64() >= Some(8), "it was computed before");
    let long = ask(json!({ "input_prefix": "x".repeat(CONTEXT) })).await;
    assert_eq!(long.status, StatusCode::BAD_REQUEST);
    assert_eq!(long.json()["error"]["n_prompt_tokens"], CONTEXT + 4);
}

#[tokio::test]
async fn slots_that_are_idle_are_listed() {
    let app = app();
    app.post("/completion", json!({ "model": "scripted", "prompt": "x" })).await.ok();
    let slots = app.get("/slots?fail_on_no_slot=1").await.ok();
    let ids: Vec<u64> = slots.as_array().unwrap().iter().map(|slot| slot["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    assert_eq!((&slots[3]["is_processing"], &slots[3]["speculative"]), (&json!(false), &json!(false)));
}

#[tokio::test]
async fn an_answer_has_the_fields_that_are_asked_for_and_says_how_it_ended() {
    let app = app().says("a\nb");
    let fields = json!(["content", "generation_settings/n_predict", "prompt", "none"]);
    let mut request =
        json!({ "model": "scripted", "prompt": "<s>x", "n_predict": 32, "response_fields": fields });
    let expected = json!({ "content": "a\nb", "generation_settings/n_predict": 32, "prompt": "<s>x" });
    assert_eq!(app.post("/completion", request.clone()).await.ok(), expected);
    request["stream"] = json!(true);
    let (events, _) = app.post("/completion", request.clone()).await.events();
    assert_eq!(events.last().unwrap()["generation_settings/n_predict"], 32);
    assert_eq!((events.last().unwrap().as_object().unwrap().len(), &events[0]["stop"]), (3, &json!(false)));
    request["response_fields"] = json!([]);
    let (events, _) = app.post("/completion", request.clone()).await.events();
    let last = events.last().unwrap();
    assert_eq!((&last["has_new_line"], &last["truncated"]), (&json!(true), &json!(false)));
    assert_eq!(last["prompt"], "<s>x");
    // The prompt's two tokens and the answer's three, whose last is not computed.
    assert_eq!((&last["tokens_cached"], &last["timings"]["cache_n"]), (&json!(4), &json!(0)));
    request["stream"] = json!(false);
    let whole = app.post("/completion", request).await.ok();
    assert_eq!((&whole["has_new_line"], &whole["prompt"]), (&json!(true), &json!("<s>x")));
    let long = "x".repeat(crate::support::CONTEXT - 2);
    for stream in [false, true] {
        let request =
            json!({ "model": "tiny", "prompt": long, "n_predict": -2, "ignore_eos": true, "stream": stream });
        let answer = app.post("/completion", request).await;
        let last = if stream { answer.events().0.pop().unwrap() } else { answer.ok() };
        assert_eq!((&last["truncated"], &last["stop_type"]), (&json!(true), &json!("limit")));
    }
}

#[tokio::test]
async fn an_answer_ends_in_time_once_a_line_is_written() {
    let app = app();
    let ask = async |lines: &str| {
        let request = json!({
            "model": "tiny", "prompt": "Once", "grammar": lines, "n_predict": 200, "t_max_predict_ms": 1,
        });
        app.post("/completion", request).await.ok()
    };
    let in_time = ask(r#"root ::= "\n" "a"{900}"#).await;
    assert_eq!((&in_time["stop_type"], &in_time["truncated"]), (&json!("limit"), &json!(false)));
    assert!(in_time["tokens_predicted"].as_u64().unwrap() < 200, "{in_time}");
    assert_eq!(ask(r#"root ::= "a"{900}"#).await["tokens_predicted"], 200, "no line is written");
}

#[tokio::test]
async fn every_piece_of_a_stream_has_tokens() {
    let app = app();
    let request = |stop: Value, stream: bool| json!({ "model": "tiny", "prompt": "Once", "n_predict": 6, "stop": stop, "stream": stream });
    let whole = app.post("/completion", request(json!([]), false)).await.ok();
    let text = whole["content"].as_str().unwrap();
    // What may be the beginning of a stop string is held back, and comes behind the last token.
    let held = format!("{}and more", text.chars().last().unwrap());
    let (events, _) = app.post("/completion", request(json!([held]), true)).await.events();
    let (last, pieces) = events.split_last().unwrap();
    for piece in pieces {
        assert!(!piece["tokens"].as_array().unwrap().is_empty(), "{piece}");
    }
    let told: String = events.iter().map(|event| event["content"].as_str().unwrap()).collect();
    assert_eq!((told.as_str(), &last["stop"]), (text, &json!(true)));
    let tokens: usize = pieces.iter().map(|piece| piece["tokens"].as_array().unwrap().len()).sum();
    assert_eq!(tokens, 6);
}

#[tokio::test]
async fn probabilities_are_told_as_such_where_they_are_asked_for() {
    let app = app();
    let ask = async |temperature: f64, plain: bool| {
        let request = json!({
            "model": "tiny", "prompt": "Once", "n_predict": 1, "n_probs": 3, "seed": 5,
            "temperature": temperature, "post_sampling_probs": plain,
        });
        app.post("/completion", request).await.ok()["completion_probabilities"][0].clone()
    };
    let (logarithms, plain) = (ask(1.0, false).await, ask(1.0, true).await);
    assert_eq!((plain.get("logprob"), plain.get("top_logprobs")), (None, None));
    let close = |probability: &Value, logarithm: &Value| {
        (probability.as_f64().unwrap() - logarithm.as_f64().unwrap().exp()).abs() < 1e-5
    };
    assert!(close(&plain["prob"], &logarithms["logprob"]));
    assert!(close(&plain["top_probs"][2]["prob"], &logarithms["top_logprobs"][2]["logprob"]));
    let certain = ask(0.0, true).await;
    let top: Vec<&Value> = certain["top_probs"].as_array().unwrap().iter().map(|it| &it["prob"]).collect();
    assert_eq!((&certain["prob"], top), (&json!(1.0), vec![&json!(1.0), &json!(0.0), &json!(0.0)]));
}

#[tokio::test]
async fn settings_are_read_as_llama_cpp_reads_them() {
    let app = app();
    let ask = async |name: &str, value: Value| {
        let mut request = json!({ "model": "scripted", "prompt": "x" });
        request[name] = value;
        app.post("/completion", request).await.ok();
        app.last_job().sampling
    };
    for bias in [json!([["ab", -100], [99, false]]), json!({ "ab": -100, "99": false })] {
        let biases = ask("logit_bias", bias).await.logit_bias.0;
        assert_eq!((biases[&97], biases[&98], biases[&99]), (-100.0, -100.0, f32::NEG_INFINITY));
        assert_eq!(biases.len(), 3);
    }
    assert_eq!(ask("stop", json!(["", "END"])).await.stop, ["END"]);
    assert!(ask("stop", json!("")).await.stop.is_empty());
    assert_eq!(ask("n_predict", json!(-2)).await.max_tokens, -1);
    assert_eq!(ask("n_predict", json!(3.0)).await.max_tokens, 3);
    assert_eq!(ask("temperature", json!(-1.0)).await.temperature, 0.0);
    assert_eq!(ask("top_k", json!(7.0)).await.top_k, 7);
    for wrong in [
        json!({ "prompt": "x", "logit_bias": [["a"]] }),
        json!({ "prompt": "x", "logit_bias": [["a", "b"]] }),
        json!({ "prompt": "x", "grammar": "root ::= \"a\"", "json_schema": {} }),
        json!({ "prompt": { "prompt_string": "x", "multimodal_data": ["eA=="] } }),
        json!({ "prompt": { "text": "x" } }),
        json!({ "prompt": [] }),
    ] {
        assert_eq!(app.post("/completion", wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn vectors_are_made_of_text_tokens_and_both() {
    let app = app();
    let embed = async |path: &str, field: &str, input: Value| {
        let mut request = json!({ "model": "tiny" });
        request[field] = input;
        app.post(path, request).await
    };
    let parts = json!({ "content": [{ "type": "text", "text": "str" }, { "type": "text", "text": "ing" }] });
    for (input, count) in [
        (json!([12, 34, "string", 56]), 1),
        (json!([[12, "string", 34], "x"]), 2),
        (json!([12.0, 34]), 1),
        (json!([{ "prompt_string": "string" }, parts, "string"]), 3),
    ] {
        let own = embed("/embeddings", "content", input.clone()).await.ok();
        assert_eq!(own.as_array().unwrap().len(), count, "{input}");
        let other = embed("/v1/embeddings", "input", input.clone()).await.ok();
        assert_eq!(other["data"].as_array().unwrap().len(), count, "{input}");
        assert_eq!(own[0]["embedding"][0], other["data"][0]["embedding"], "{input}");
        if count == 3 {
            assert_eq!(
                (&own[0]["embedding"], &own[1]["embedding"]),
                (&own[2]["embedding"], &own[2]["embedding"])
            );
        }
    }
    for wrong in
        [json!({}), json!({ "content": "string" }), json!([[1.5]]), json!([true]), json!([""]), json!([])]
    {
        let answer = embed("/v1/embeddings", "input", wrong.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let scaled = json!({ "model": "tiny", "content": "string", "embd_normalize": 1 });
    let scaled = app.post("/embedding", scaled).await.ok();
    let values = scaled[0]["embedding"][0].as_array().unwrap();
    let sum: f64 = values.iter().map(|value| value.as_f64().unwrap().abs()).sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
}
