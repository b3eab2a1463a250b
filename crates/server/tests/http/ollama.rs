//! Ollama's API.

use crate::support::{App, Script, app, tokenizer, user};
use alti_server::ServerSettings;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn a_prompt_is_answered_in_lines_or_at_once() {
    let app = app();
    let lines = app
        .post("/api/generate", json!({ "model": "scripted", "prompt": "Hi", "system": "Be brief." }))
        .await
        .lines();
    let text: String = lines.iter().map(|line| line["response"].as_str().unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (text.as_str(), &last["done"], &last["done_reason"]),
        ("Hello.", &json!(true), &json!("stop"))
    );
    assert!(
        lines[..lines.len() - 1].iter().all(|line| line["done"] == false && line["created_at"].is_string())
    );
    for field in [
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ] {
        assert!(last[field].is_u64(), "{field}: {last}");
    }
    let whole = app.post("/api/generate", json!({ "model": "scripted", "prompt": "Hi", "stream": false, "raw": true, "options": { "num_predict": 3, "stop": ["x"] } }));
    let whole = whole.await.ok();
    assert_eq!((&whole["response"], &whole["done_reason"]), (&json!("Hel"), &json!("length")));
    assert_eq!(app.last_job().prompt, b"Hi".map(u32::from));
    // The context of an answer is where the next one goes on.
    assert_eq!(whole["context"].as_array().unwrap().len(), 5);
    let next = json!({ "model": "scripted", "prompt": "!", "raw": true, "context": whole["context"], "stream": false });
    app.post("/api/generate", next).await.ok();
    assert_eq!(tokenizer().decode(&app.last_job().prompt), "HiHel!");
}

#[tokio::test]
async fn a_chat_is_answered() {
    let app = app();
    let lines = app.post("/api/chat", json!({ "model": "scripted", "messages": user("Hi") })).await.lines();
    let text: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!((text.as_str(), &lines.last().unwrap()["done"]), ("Hello.", &json!(true)));
    let whole = app
        .post("/api/chat", json!({ "model": "scripted", "messages": user("Hi"), "stream": false }))
        .await
        .ok();
    assert_eq!(whole["message"], json!({ "role": "assistant", "content": "Hello." }));
    let schema = json!({ "type": "object", "properties": { "x": { "enum": ["a"] } }, "required": ["x"], "additionalProperties": false });
    let obeyed = app
        .post(
            "/api/chat",
            json!({ "model": "tiny", "messages": user("Hi"), "format": schema, "stream": false, "options": { "num_predict": 400 } }),
        )
        .await
        .ok();
    assert_eq!(
        serde_json::from_str::<Value>(obeyed["message"]["content"].as_str().unwrap()).unwrap(),
        json!({ "x": "a" })
    );
    let failed = app
        .script(Script::Fail(1))
        .post("/api/chat", json!({ "model": "scripted", "messages": user("Hi") }))
        .await
        .lines();
    assert!(failed.last().unwrap()["error"].is_string());
}

#[tokio::test]
async fn tools_are_called_with_objects() {
    let app = app().says("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>");
    let tools =
        json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    let messages = json!([
        { "role": "user", "content": "f?" },
        { "role": "assistant", "content": "", "tool_calls": [{ "function": { "name": "f", "arguments": { "a": 7 } } }] },
        { "role": "tool", "content": "42", "tool_name": "f" },
    ]);
    let request = json!({ "model": "scripted", "messages": messages, "tools": tools, "stream": false });
    let answer = app.post("/api/chat", request.clone()).await.ok();
    let function = &answer["message"]["tool_calls"][0]["function"];
    assert_eq!((&function["name"], &function["arguments"]), (&json!("f"), &json!({ "a": 1 })));
    let mut streaming = request;
    streaming["stream"] = json!(true);
    let lines = app.post("/api/chat", streaming).await.lines();
    let call = lines.iter().find_map(|line| line["message"]["tool_calls"].get(0)).unwrap();
    assert_eq!(call["function"]["arguments"], json!({ "a": 1 }));
    let prompt = tokenizer().decode(&app.last_job().prompt);
    assert!(prompt.contains("\"a\":7") && prompt.contains("42"), "{prompt}");
}

#[tokio::test]
async fn models_are_listed_described_and_kept_in_memory() {
    let app = app();
    let tags = app.get("/api/tags").await.ok();
    assert_eq!(
        (&tags["models"][0]["name"], &tags["models"][0]["details"]["parameter_size"]),
        (&json!("tiny"), &json!("135M"))
    );
    assert_eq!(app.get("/api/ps").await.ok()["models"], json!([]));
    let loaded =
        app.post("/api/generate", json!({ "model": "scripted:latest", "keep_alive": "1h" })).await.ok();
    assert_eq!((&loaded["done_reason"], &loaded["response"]), (&json!("load"), &json!("")));
    let running = app.get("/api/ps").await.ok();
    assert_eq!(
        (&running["models"][0]["name"], &running["models"][0]["context_length"]),
        (&json!("scripted"), &json!(1024))
    );
    let show = app.post("/api/show", json!({ "model": "scripted" })).await.ok();
    assert!(
        show["template"].as_str().unwrap().contains("im_start")
            && show["modelfile"].as_str().unwrap().starts_with("FROM scripted")
    );
    let unloaded = app.post("/api/chat", json!({ "model": "scripted", "keep_alive": 0 })).await.ok();
    assert_eq!(unloaded["done_reason"], "unload");
    for _ in 0..200 {
        if app.get("/api/ps").await.ok()["models"] == json!([]) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the model is still there");
}

#[tokio::test]
async fn models_are_fetched_with_progress() {
    let app = app();
    let lines = app.post("/api/pull", json!({ "model": "tiny" })).await.lines();
    assert_eq!((&lines[1]["completed"], &lines[1]["total"]), (&json!(500), &json!(1000)));
    assert_eq!(lines.last().unwrap(), &json!({ "status": "success" }));
    assert_eq!(
        app.post("/api/pull", json!({ "name": "tiny", "stream": false })).await.ok()["status"],
        "success"
    );
    let missing = app.post("/api/pull", json!({ "model": "none", "stream": false })).await;
    assert_eq!((missing.status, missing.json()["error"].is_string()), (StatusCode::NOT_FOUND, true));
    assert!(app.post("/api/pull", json!({ "model": "none" })).await.lines()[0]["error"].is_string());
}

#[tokio::test]
async fn a_modelfile_makes_a_model_that_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let settings = || ServerSettings {
        aliases_file: Some(folder.path().join("models.json")),
        ..ServerSettings::default()
    };
    let app = App::new(settings());
    let modelfile = "FROM scripted\nPARAMETER temperature 0.25\nPARAMETER stop STOP\nSYSTEM You are Mario.";
    let made = app.post("/api/create", json!({ "model": "mario", "modelfile": modelfile })).await.lines();
    assert_eq!(made.last().unwrap()["status"], "success");
    let app = App::new(settings());
    assert!(app.get("/v1/models").await.text().contains("mario"));
    let answer =
        app.post("/v1/chat/completions", json!({ "model": "mario", "messages": user("Hi") })).await.ok();
    assert_eq!(answer["model"], "mario");
    let job = app.last_job();
    assert_eq!((job.sampling.temperature, job.sampling.stop), (0.25, vec!["STOP".to_owned()]));
    assert!(tokenizer().decode(&job.prompt).contains("You are Mario."));
    let fields = json!({ "model": "luigi", "from": "mario", "system": "You are Luigi.", "parameters": { "top_k": 3 }, "stream": false });
    app.post("/api/create", fields).await.ok();
    app.post("/api/copy", json!({ "source": "luigi", "destination": "copy" })).await.ok();
    app.post("/api/chat", json!({ "model": "copy", "messages": user("Hi"), "stream": false })).await.ok();
    assert!(tokenizer().decode(&app.last_job().prompt).contains("You are Luigi."));
    assert_eq!((app.last_job().sampling.top_k, app.last_job().sampling.temperature), (3, 0.25));
    let wrong = app.post("/api/create", json!({ "model": "x", "modelfile": "FROM none" })).await;
    assert_eq!(wrong.status, StatusCode::NOT_FOUND);
    let delete = |name: &str| {
        Request::delete("/api/delete").body(Body::from(json!({ "model": name }).to_string())).unwrap()
    };
    app.send(delete("luigi")).await.ok();
    assert!(!app.get("/api/tags").await.text().contains("luigi"));
    assert_eq!(app.send(delete("tiny")).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn adapters_come_out_of_the_owners_folders_alone() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "secret").unwrap();
        path
    };
    let (inside, outside) = (write("open/adapter.gguf"), write("closed/secret.gguf"));
    #[cfg(unix)]
    std::os::unix::fs::symlink(&outside, folder.path().join("open/link.gguf")).unwrap();
    let create = async |app: &App, adapter: &str| {
        let modelfile = format!("FROM scripted\nADAPTER {adapter}");
        app.post("/api/create", json!({ "model": "made", "modelfile": modelfile, "stream": false })).await
    };
    let refused = async |app: &App, adapter: &str| {
        let answer = create(app, adapter).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{adapter}: {}", answer.text());
        assert!(answer.text().contains("server.adapter_folders"), "{}", answer.text());
    };
    refused(&app(), inside.to_str().unwrap()).await;
    let settings =
        ServerSettings { adapter_folders: vec![folder.path().join("open")], ..ServerSettings::default() };
    let app = App::new(settings);
    for path in [outside.to_str().unwrap(), "/etc/passwd", "../closed/secret.gguf", "none.gguf", "link.gguf"]
    {
        refused(&app, path).await;
    }
    create(&app, "adapter.gguf").await.ok();
    create(&app, inside.to_str().unwrap()).await.ok();
    app.post("/api/chat", json!({ "model": "made", "messages": user("Hi"), "stream": false })).await.ok();
    assert_eq!(app.last_job().domain.adapter.as_deref(), Some("made"));
    // What was named before, and is not there any more, is not read from elsewhere.
    std::fs::remove_file(&inside).unwrap();
    let gone = app.post("/api/chat", json!({ "model": "made", "messages": user("Hi") })).await;
    assert_eq!(gone.status, StatusCode::BAD_REQUEST, "{}", gone.text());
    let from =
        json!({ "model": "made", "modelfile": format!("FROM {}", outside.display()), "stream": false });
    assert_eq!(app.post("/api/create", from).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn vectors_and_errors() {
    let app = app();
    let vectors = app.post("/api/embed", json!({ "model": "tiny", "input": ["a", "b"] })).await.ok();
    assert_eq!(
        (vectors["embeddings"].as_array().unwrap().len(), &vectors["prompt_eval_count"]),
        (2, &json!(2))
    );
    let cut = app.post("/api/embed", json!({ "model": "tiny", "input": "long ".repeat(1000) })).await.ok();
    assert_eq!(cut["prompt_eval_count"], 1024);
    let long = app
        .post("/api/embed", json!({ "model": "tiny", "input": "long ".repeat(1000), "truncate": false }))
        .await;
    assert_eq!(long.status, StatusCode::BAD_REQUEST);
    let one = app.post("/api/embeddings", json!({ "model": "tiny", "prompt": "a" })).await.ok();
    assert_eq!(one["embedding"].as_array().unwrap().len(), 96);
    assert!(app.get("/api/version").await.ok()["version"].is_string());
    for (path, request) in [
        (
            "/api/chat",
            json!({ "model": "scripted", "messages": [{ "role": "user", "content": "x", "images": ["AA"] }] }),
        ),
        (
            "/api/chat",
            json!({ "model": "scripted", "messages": user("x"), "options": { "temperature": "hot" } }),
        ),
        ("/api/chat", json!({ "model": "scripted", "messages": user("x"), "format": 3 })),
        ("/api/generate", json!({ "model": "scripted", "prompt": "x", "keep_alive": "soon" })),
        ("/api/generate", json!({ "model": "scripted", "prompt": "x", "suffix": "y" })),
        ("/api/generate", json!({ "prompt": "x" })),
        ("/api/show", json!({})),
    ] {
        let answer = app.post(path, request.clone()).await;
        assert_eq!(
            (answer.status, answer.json()["error"].is_string()),
            (StatusCode::BAD_REQUEST, true),
            "{path} {request}"
        );
    }
    assert_eq!(
        app.post("/api/chat", json!({ "model": "none", "messages": user("x") })).await.status,
        StatusCode::NOT_FOUND
    );
}
