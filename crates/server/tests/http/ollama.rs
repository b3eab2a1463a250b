//! Ollama's API.

use crate::support::{Answer, App, CONTEXT, Script, Shelf, app, tokenizer, user};
use alti_server::models::ModelCard;
use alti_server::{
    AppState, LoadError, ModelFacts, ModelLoader, PullProgress, ServedModel, ServerSettings, router,
};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

async fn delete(app: &App, name: &str) -> Answer {
    let body = Body::from(json!({ "model": name }).to_string());
    app.send(Request::delete("/api/delete").body(body).unwrap()).await
}

/// What the scripted model was last given, control tokens spelled out.
fn last_prompt(app: &App) -> String {
    tokenizer().decode_spelling_specials(&app.last_job().prompt)
}

#[track_caller]
fn refused(answer: &Answer, words: &str) {
    let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{error}");
    assert!(error.contains(words), "{error}");
}

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
    assert_eq!(whole["context"], Value::Null, "a raw answer has none");
    // The context of an answer is where the next one goes on.
    let first = app.post("/api/generate", json!({ "model": "scripted", "prompt": "Hi", "stream": false }));
    let context = first.await.ok()["context"].clone();
    let next = json!({ "model": "scripted", "prompt": "!", "context": context, "stream": false });
    app.post("/api/generate", next).await.ok();
    let prompt = tokenizer().decode(&app.last_job().prompt);
    assert!(prompt.contains("Hi") && prompt.contains("Hello.") && prompt.contains('!'), "{prompt}");
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
        (&json!("tiny:latest"), &json!("135M"))
    );
    assert_eq!(app.get("/api/ps").await.ok()["models"], json!([]));
    let loaded =
        app.post("/api/generate", json!({ "model": "scripted:latest", "keep_alive": "1h" })).await.ok();
    assert_eq!((&loaded["done_reason"], &loaded["response"]), (&json!("load"), &json!("")));
    let running = app.get("/api/ps").await.ok();
    assert_eq!(
        (&running["models"][0]["name"], &running["models"][0]["context_length"]),
        (&json!("scripted:latest"), &json!(1024))
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
    delete(&app, "luigi").await.ok();
    assert!(!app.get("/api/tags").await.text().contains("luigi"));
    assert_eq!(delete(&app, "tiny").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_tag_latest_says_nothing_in_any_name() {
    let app = app();
    let chat = async |name: &str| {
        let asked = json!({ "model": name, "messages": user("Hi"), "stream": false });
        app.post("/api/chat", asked).await
    };
    let made =
        json!({ "model": "mario:latest", "from": "scripted:latest", "system": "Mario.", "stream": false });
    app.post("/api/create", made).await.ok();
    app.post(
        "/api/create",
        json!({ "model": "wario", "from": "mario:latest", "parameters": { "top_k": 3 }, "stream": false }),
    )
    .await
    .ok();
    app.post("/api/copy", json!({ "source": "mario:latest", "destination": "copy:latest" })).await.ok();
    for name in ["mario", "mario:latest", "wario", "wario:latest", "copy", "copy:latest"] {
        assert_eq!(chat(name).await.ok()["model"], name);
        assert!(last_prompt(&app).contains("Mario."), "{name}");
        app.post("/api/show", json!({ "model": name })).await.ok();
    }
    let listed = app.get("/api/tags").await.ok();
    let names: Vec<&str> =
        listed["models"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    let all =
        ["tiny:latest", "scripted:latest", "owner/other:Q4_0", "copy:latest", "mario:latest", "wario:latest"];
    assert_eq!(names, all);
    // Apps look for the names they asked for, and for the model's own.
    let running = app.get("/api/ps").await.ok();
    let running: Vec<&str> =
        running["models"].as_array().unwrap().iter().map(|it| it["model"].as_str().unwrap()).collect();
    assert_eq!(running, ["scripted:latest", "copy:latest", "mario:latest", "wario:latest"]);
    // What was made from it does not need it any more.
    delete(&app, "mario:latest").await.ok();
    assert_eq!(chat("mario").await.status, StatusCode::NOT_FOUND);
    chat("wario").await.ok();
    chat("copy").await.ok();
    assert!(last_prompt(&app).contains("Mario."));
    assert_eq!(delete(&app, "mario").await.status, StatusCode::NOT_FOUND);
    // The model itself, which this loader keeps: it is found.
    assert_eq!(delete(&app, "tiny:latest").await.status, StatusCode::BAD_REQUEST);
    let pulled = app.post("/api/pull", json!({ "model": "tiny:latest", "stream": false })).await.ok();
    assert_eq!(pulled["status"], "success");
    // A name may stand in front of its own model, and be made anew from itself.
    for system in ["One.", "Two."] {
        let again = json!({ "model": "scripted", "from": "scripted", "system": system, "stream": false });
        app.post("/api/create", again).await.ok();
        chat("scripted").await.ok();
        assert!(last_prompt(&app).contains(system));
    }
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let app = app();
    for name in ["a b", ":latest", "a\nb", &"x".repeat(300)] {
        let made = app.post("/api/create", json!({ "model": name, "from": "scripted" })).await;
        refused(&made, "cannot be a model's name");
    }
    for (source, destination, field) in [("", "x", "source"), ("scripted", "", "destination")] {
        let copied = app.post("/api/copy", json!({ "source": source, "destination": destination })).await;
        refused(&copied, field);
    }
    let files = json!({ "model": "x", "files": { "a.gguf": "sha256:0" } });
    refused(&app.post("/api/create", files).await, "alti pull");
    let adapters = json!({ "model": "x", "from": "scripted", "adapters": { "a.gguf": "sha256:0" } });
    refused(&app.post("/api/create", adapters).await, "ADAPTER");
    for (path, rest) in [
        ("/api/chat", json!({ "messages": user("Hi") })),
        ("/api/generate", json!({ "prompt": "Hi" })),
        ("/api/embed", json!({ "input": "Hi" })),
        ("/api/embeddings", json!({ "prompt": "Hi" })),
    ] {
        let mut asked = rest;
        asked["model"] = json!("");
        refused(&app.post(path, asked).await, "model is required");
    }
    for more in [json!({ "system": "x" }), json!({ "template": "x" }), json!({ "context": [1] })] {
        let mut asked = more;
        (asked["model"], asked["prompt"], asked["raw"]) = (json!("scripted"), json!("Hi"), json!(true));
        let answer = app.post("/api/generate", asked).await;
        refused(&answer, "raw mode does not support template, system, or context");
    }
}

#[tokio::test]
async fn long_conversations_lose_their_oldest_turns() {
    let app = app();
    let said = |letter: &str| letter.repeat(CONTEXT / 6);
    let mut messages = vec![json!({ "role": "SYSTEM", "content": "Be brief." })];
    for (role, letter) in ["user", "assistant"].iter().cycle().zip(["a", "b", "c", "d", "e", "f", "g"]) {
        messages.push(json!({ "role": role, "content": said(letter) }));
    }
    let chat = json!({ "model": "scripted", "messages": messages, "stream": false });
    app.post("/api/chat", chat.clone()).await.ok();
    let prompt = last_prompt(&app);
    assert!(app.last_job().prompt.len() <= CONTEXT && prompt.contains("Be brief."), "{prompt}");
    assert!(!prompt.contains(&said("d")), "an answer without its question: {prompt}");
    assert!(["e", "f", "g"].iter().all(|letter| prompt.contains(&said(letter))), "{prompt}");
    // One that refuses what is too long.
    let mut whole = chat;
    (whole["model"], whole["truncate"]) = (json!("tiny"), json!(false));
    refused(&app.post("/api/chat", whole).await, "context");
    let alone = json!({ "model": "tiny", "messages": user(&"x".repeat(2 * CONTEXT)), "stream": false });
    refused(&app.post("/api/chat", alone).await, "context");
    let context: Vec<u32> = std::iter::repeat_n(u32::from(b'a'), CONTEXT).collect();
    let mut on = json!({ "model": "scripted", "prompt": "Hi", "context": context, "stream": false });
    app.post("/api/generate", on.clone()).await.ok();
    assert_eq!(app.last_job().prompt.len(), CONTEXT / 4 * 3);
    assert!(last_prompt(&app).contains("Hi"));
    on["options"] = json!({ "num_predict": 8 });
    app.post("/api/generate", on.clone()).await.ok();
    assert_eq!(app.last_job().prompt.len(), CONTEXT - 8, "there is room for the answer");
    (on["model"], on["truncate"]) = (json!("tiny"), json!(false));
    refused(&app.post("/api/generate", on).await, "context");
}

#[tokio::test]
async fn turns_of_one_role_are_told_as_one() {
    let app = app();
    let messages = json!([
        { "role": "User", "content": "One." },
        { "role": "user", "content": "Two." },
    ]);
    app.post("/api/chat", json!({ "model": "scripted", "messages": messages, "stream": false })).await.ok();
    let prompt = last_prompt(&app);
    assert!(prompt.contains("One.\n\nTwo."), "{prompt}");
    assert_eq!(prompt.matches("<|im_start|>user").count(), 1, "{prompt}");
}

#[tokio::test]
async fn options_are_taken_as_ollama_takes_them() {
    let app = app();
    let options = json!({
        "top_k": 40.0, "num_predict": 128.0, "seed": 42.0, "temperature": -1, "top_p": 2, "repeat_penalty": 0,
        "stop": ["", "END"], "num_ctx": 4096, "min_p": 0.25,
    });
    let asked = json!({ "model": "scripted", "messages": user("Hi"), "options": options, "stream": false });
    app.post("/api/chat", asked).await.ok();
    let sampling = app.last_job().sampling;
    assert_eq!((sampling.top_k, sampling.max_tokens, sampling.seed), (40, 128, 42));
    assert_eq!((sampling.temperature, sampling.top_p, sampling.repeat_penalty), (0.0, 1.0, 1.0));
    assert_eq!((sampling.stop, sampling.min_p), (vec!["END".to_owned()], 0.25));
    let all = json!({ "model": "scripted", "prompt": "Hi", "options": { "top_k": -5, "stop": "" }, "stream": false });
    app.post("/api/generate", all).await.ok();
    assert_eq!((app.last_job().sampling.top_k, app.last_job().sampling.stop.len()), (-1, 0));
}

#[tokio::test]
async fn thoughts_are_told_apart_from_the_answer() {
    let app = app().says("<think>\nHm. \n</think>\n\nHello.");
    for think in [json!(true), json!("low"), json!("high")] {
        for (path, mut asked) in
            [("/api/chat", json!({ "messages": user("Hi") })), ("/api/generate", json!({ "prompt": "Hi" }))]
        {
            (asked["model"], asked["think"]) = (json!("scripted"), think.clone());
            refused(&app.post(path, asked).await, "\"scripted\" does not support thinking");
        }
    }
    for think in [Value::Null, json!(false)] {
        let asked = json!({ "model": "scripted", "messages": user("Hi"), "think": think, "stream": false });
        let answer = app.post("/api/chat", asked).await.ok();
        assert!(answer["message"]["content"].as_str().unwrap().starts_with("<think>"));
    }
    let template = "{{ messages[-1].content }}{% if enable_thinking is true %}!{% endif %}{# <think> #}";
    let made = json!({ "model": "sage", "from": "scripted", "template": template, "stream": false });
    app.post("/api/create", made).await.ok();
    let shown = app.post("/api/show", json!({ "model": "sage" })).await.ok();
    assert!(shown["capabilities"].as_array().unwrap().contains(&json!("thinking")));
    let wrong = json!({ "model": "sage", "messages": user("Hi"), "think": "deeply" });
    refused(&app.post("/api/chat", wrong).await, "invalid think value");
    let mut asked = json!({ "model": "sage", "messages": user("Hi"), "think": true, "stream": false });
    let answer = app.post("/api/chat", asked.clone()).await.ok();
    assert_eq!(answer["message"], json!({ "role": "assistant", "content": "Hello.", "thinking": "Hm." }));
    assert_eq!(last_prompt(&app), "Hi!");
    asked["stream"] = json!(true);
    let lines = app.post("/api/chat", asked.clone()).await.lines();
    let told = |field: &str| lines.iter().filter_map(|it| it["message"][field].as_str()).collect::<String>();
    assert_eq!((told("thinking").as_str(), told("content").as_str()), ("Hm.", "Hello."));
    asked["think"] = json!(false);
    let raw = app.post("/api/chat", asked).await.lines();
    assert!(raw.iter().all(|line| line["message"]["thinking"].is_null()));
    let lines = app.post("/api/generate", json!({ "model": "sage", "prompt": "Hi" })).await.lines();
    let told = |field: &str| lines.iter().filter_map(|line| line[field].as_str()).collect::<String>();
    assert_eq!((told("thinking").as_str(), told("response").as_str()), ("Hm.", "Hello."));
    assert_eq!(last_prompt(&app), "Hi");
    let raw = json!({ "model": "sage", "prompt": "Hi", "raw": true, "stream": false });
    let answer = app.post("/api/generate", raw).await.ok();
    assert!(answer["response"].as_str().unwrap().starts_with("<think>"), "{answer}");
    // Where the template opens the thoughts, the answer begins in them.
    let app = app.says("Hm.</think>Hello.");
    let opened = json!({ "model": "seer", "from": "scripted", "template": "{{ messages[-1].content }}<think>\n", "stream": false });
    app.post("/api/create", opened).await.ok();
    let asked = json!({ "model": "seer", "prompt": "Hi", "stream": false });
    let answer = app.post("/api/generate", asked).await.ok();
    assert_eq!((&answer["thinking"], &answer["response"]), (&json!("Hm."), &json!("Hello.")));
}

#[tokio::test]
async fn tokens_are_told_with_their_probabilities() {
    let app = app();
    let options = json!({ "num_predict": 4, "temperature": 0 });
    for (path, mut asked) in
        [("/api/chat", json!({ "messages": user("Hi") })), ("/api/generate", json!({ "prompt": "Hi" }))]
    {
        (asked["model"], asked["options"], asked["stream"]) = (json!("tiny"), options.clone(), json!(false));
        assert_eq!(app.post(path, asked.clone()).await.ok()["logprobs"], Value::Null);
        (asked["logprobs"], asked["top_logprobs"]) = (json!(true), json!(2));
        let whole = app.post(path, asked.clone()).await.ok()["logprobs"].clone();
        let tokens = whole.as_array().unwrap();
        assert_eq!(tokens.len(), 4, "{path}: {whole}");
        for token in tokens {
            assert!(token["logprob"].as_f64().unwrap() <= 0.0 && token["bytes"].is_array());
            assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
            assert_eq!(token["top_logprobs"][0]["token"], token["token"], "the most likely one is taken");
        }
        asked["stream"] = json!(true);
        let lines = app.post(path, asked.clone()).await.lines();
        let told = lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten();
        assert_eq!(&told.cloned().collect::<Vec<_>>(), tokens, "{path}");
        asked["top_logprobs"] = json!(21);
        refused(&app.post(path, asked).await, "between 0 and 20");
    }
}

/// A loader whose models say what is in their files, and whose downloads break.
struct Library(Arc<Shelf>);

impl ModelLoader for Library {
    fn list(&self) -> Result<Vec<ModelFacts>, LoadError> {
        self.0.list()
    }
    fn find(&self, name: &str) -> Result<ModelFacts, LoadError> {
        self.0.find(name)
    }
    fn card(&self, _name: &str) -> Result<ModelCard, LoadError> {
        let numbers = vec![("llama.block_count".to_owned(), 30), ("general.file_type".to_owned(), 15)];
        Ok(ModelCard { template: Some("{{ messages }}".into()), fills_in: true, numbers })
    }
    fn load(&self, name: &str) -> Result<ServedModel, LoadError> {
        self.0.load(name)
    }
    fn pull(
        &self,
        _name: &str,
        _progress: &mut (dyn FnMut(PullProgress) -> bool + Send),
    ) -> Result<(), LoadError> {
        panic!("a scripted panic")
    }
    fn remove(&self, name: &str) -> Result<(), LoadError> {
        self.0.remove(name)
    }
}

fn library() -> App {
    let shelf = app().shelf;
    let state = AppState::new(ServerSettings::default(), Arc::new(Library(shelf.clone())), None);
    App { router: router(state.clone()), state, shelf }
}

#[tokio::test]
async fn a_model_is_described_without_being_loaded() {
    let app = library();
    let shown = app.post("/api/show", json!({ "model": "scripted:latest" })).await.ok();
    assert_eq!(shown["template"], "{{ messages }}");
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "insert"]));
    let info = &shown["model_info"];
    assert_eq!((&info["llama.block_count"], &info["general.file_type"]), (&json!(30), &json!(15)));
    assert_eq!(info["general.parameter_count"], 134_515_008);
    assert_eq!(shown["messages"], Value::Null);
    let modelfile = "FROM scripted\nPARAMETER stop A\nPARAMETER stop B\nPARAMETER num_predict 7\nPARAMETER num_ctx 4096\n\
                     MESSAGE user Hi\nLICENSE open\nRENDERER x\nPARSER x\nREQUIRES 0.14.0";
    app.post("/api/create", json!({ "model": "made", "modelfile": modelfile, "stream": false })).await.ok();
    let shown = app.post("/api/show", json!({ "model": "made" })).await.ok();
    let parameters: Vec<Vec<&str>> =
        shown["parameters"].as_str().unwrap().lines().map(|it| it.split_whitespace().collect()).collect();
    for line in [["stop", "\"A\""], ["stop", "\"B\""], ["num_predict", "7"], ["num_ctx", "4096"]] {
        assert!(parameters.iter().any(|it| *it == line), "{parameters:?}");
    }
    assert_eq!(shown["messages"], json!([{ "role": "user", "content": "Hi" }]));
    let written = shown["modelfile"].as_str().unwrap();
    for part in ["MESSAGE user \"\"\"Hi\"\"\"", "LICENSE \"\"\"open\"\"\"", "PARAMETER num_predict 7"] {
        assert!(written.contains(part), "{written}");
    }
}

#[tokio::test]
async fn a_download_that_breaks_is_no_success() {
    let app = library();
    let lines = app.post("/api/pull", json!({ "model": "tiny" })).await.lines();
    assert_eq!(lines.len(), 1);
    assert!(lines[0]["error"].is_string() && lines[0]["status"].is_null(), "{lines:?}");
    let whole = app.post("/api/pull", json!({ "model": "tiny", "stream": false })).await;
    assert_eq!(whole.status, StatusCode::INTERNAL_SERVER_ERROR);
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
    assert_eq!(app.last_job().adapter.map(|adapter| adapter.name().to_owned()), Some("made".to_owned()));
    // What was named before, and is not there any more, is not read from elsewhere.
    std::fs::remove_file(&inside).unwrap();
    let gone = app.post("/api/chat", json!({ "model": "made", "messages": user("Hi") })).await;
    assert_eq!(gone.status, StatusCode::BAD_REQUEST, "{}", gone.text());
    let from =
        json!({ "model": "made", "modelfile": format!("FROM {}", outside.display()), "stream": false });
    assert_eq!(app.post("/api/create", from).await.status, StatusCode::NOT_FOUND);
}

/// A server whose owner's folder has one file, and a name with that file as its adapter.
struct Adapted {
    app: App,
    file: tempfile::TempDir,
}

impl Adapted {
    fn new() -> Adapted {
        let file = tempfile::tempdir().unwrap();
        let adapter_folders = vec![file.path().to_owned()];
        Adapted { app: App::new(ServerSettings { adapter_folders, ..ServerSettings::default() }), file }
    }

    /// Makes the name anew, with an adapter of this text in this file; or without one.
    async fn create(&self, adapter: Option<(&str, &str)>) {
        let mut modelfile = "FROM scripted".to_owned();
        if let Some((name, text)) = adapter {
            std::fs::write(self.file.path().join(name), text).unwrap();
            modelfile += &format!("\nADAPTER {name}");
        }
        let asked = json!({ "model": "made", "modelfile": modelfile, "stream": false });
        self.app.post("/api/create", asked).await.ok();
    }

    async fn chat(&self) -> StatusCode {
        let asked = json!({ "model": "made", "messages": user("Hi"), "stream": false });
        self.app.post("/api/chat", asked).await.status
    }

    /// What is in the adapters that the model has.
    fn loaded(&self) -> Vec<String> {
        self.app.shelf.scripted.adapters.lock().unwrap().values().cloned().collect()
    }
}

#[tokio::test]
async fn an_adapter_goes_with_its_name_and_comes_anew_with_a_new_one() {
    let made = Adapted::new();
    made.create(Some(("a.gguf", "old"))).await;
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["old".to_owned()]));
    // The same file with other contents.
    made.create(Some(("a.gguf", "new"))).await;
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["new".to_owned()]));
    made.create(None).await;
    assert_eq!(made.loaded(), [""; 0]);
    made.create(Some(("a.gguf", "again"))).await;
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["again".to_owned()]));
    assert_eq!(delete(&made.app, "made:latest").await.status, StatusCode::OK);
    assert_eq!(made.loaded(), [""; 0]);
    assert_eq!(made.app.get("/lora-adapters?model=scripted").await.ok(), json!([]));
}

#[tokio::test]
async fn an_adapter_that_does_not_fit_leaves_none_and_the_next_one_is_loaded() {
    let made = Adapted::new();
    for (name, text, status) in [
        ("a.gguf", "fits", StatusCode::OK),
        ("b.gguf", "misfit", StatusCode::BAD_REQUEST),
        ("a.gguf", "fits", StatusCode::OK),
    ] {
        made.create(Some((name, text))).await;
        assert_eq!(made.chat().await, status, "{text}");
    }
    assert_eq!(made.loaded(), ["fits"]);
}

#[tokio::test]
async fn a_request_keeps_the_adapter_that_its_name_had_when_it_came() {
    let made = Adapted::new();
    made.create(Some(("a.gguf", "old"))).await;
    let asked = made.app.state.models().acquire(Some("made"), None).await.unwrap();
    // Deleted and made anew before the request is submitted.
    delete(&made.app, "made").await;
    made.create(Some(("b.gguf", "new"))).await;
    let anew = made.app.state.models().acquire(Some("made"), None).await.unwrap();
    let of = |lease: &alti_server::models::Lease| lease.adapter().unwrap().fingerprint().to_owned();
    assert_eq!((of(&asked), of(&anew)), ("old".to_owned(), "new".to_owned()));
}

#[tokio::test]
async fn an_adapter_whose_file_is_overwritten_is_read_again_at_its_next_use() {
    let made = Adapted::new();
    let file = made.file.path().join("a.gguf");
    // A day apart, so that clocks that tick slowly tell them apart, too.
    let overwrite = |text: &str, day: u64| {
        std::fs::write(&file, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    };
    made.create(Some(("a.gguf", "one"))).await;
    overwrite("one", 1);
    made.chat().await;
    made.app.shelf.scripted.adapters.lock().unwrap().insert("made".into(), "as it was read".into());
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["as it was read".to_owned()]));
    overwrite("two", 2);
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["two".to_owned()]));
    overwrite("three", 2);
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["three".to_owned()]));
    assert_eq!(made.app.last_job().adapter.unwrap().fingerprint(), "three");
    overwrite("misfit", 3);
    let asked = json!({ "model": "made", "messages": user("Hi"), "stream": false });
    let refused = made.app.post("/api/chat", asked).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("the adapter of `made` was overwritten"), "{}", refused.text());
    overwrite("four", 4);
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["four".to_owned()]));
}

#[tokio::test]
async fn a_client_that_hangs_up_while_an_adapter_is_loaded_leaves_it_to_others() {
    let made = Adapted::new();
    made.create(Some(("a.gguf", "slow"))).await;
    *made.app.shelf.scripted.adapter_time.lock().unwrap() = Duration::from_millis(200);
    made.app.state.models().acquire(Some("scripted"), None).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_millis(50), made.chat()).await;
    assert!(gone.is_err());
    // Those who ask while it is loaded get it, too.
    assert_eq!((made.chat().await, made.loaded()), (StatusCode::OK, vec!["slow".to_owned()]));
    // One who deletes the name meanwhile has it deleted, and the adapter with it.
    made.create(Some(("a.gguf", "slower"))).await;
    let gone = tokio::time::timeout(Duration::from_millis(50), made.chat()).await;
    assert!(gone.is_err());
    let gone = tokio::time::timeout(Duration::from_millis(20), delete(&made.app, "made")).await;
    assert!(gone.is_err());
    assert_eq!(made.chat().await, StatusCode::NOT_FOUND);
    // Longer than what is in the works takes.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(made.loaded(), [""; 0]);
}

#[tokio::test]
async fn vectors_are_made_with_the_adapter_of_the_name() {
    let made = Adapted::new();
    made.create(Some(("a.gguf", "tone"))).await;
    for (model, adapter) in [("made", Some("made")), ("scripted", None)] {
        made.app.post("/api/embed", json!({ "model": model, "input": "Hi" })).await;
        let job = made.app.shelf.scripted.vectors.lock().unwrap().pop().expect("a job");
        assert_eq!(job.adapter.as_ref().map(|adapter| adapter.name()), adapter);
    }
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
    for nothing in [json!({ "input": "" }), json!({ "input": [] }), json!({})] {
        let mut asked = nothing;
        asked["model"] = json!("tiny");
        let vectors = app.post("/api/embed", asked).await.ok();
        assert_eq!((&vectors["model"], &vectors["embeddings"]), (&json!("tiny"), &json!([])));
    }
    for (dimensions, values) in [(0, 96), (32, 32), (4096, 96)] {
        let asked = json!({ "model": "tiny", "input": "a", "dimensions": dimensions });
        let vectors = app.post("/api/embed", asked).await.ok();
        assert_eq!(vectors["embeddings"][0].as_array().unwrap().len(), values, "{dimensions}");
    }
    let one = app.post("/api/embeddings", json!({ "model": "tiny", "prompt": "a" })).await.ok();
    assert_eq!(one["embedding"].as_array().unwrap().len(), 96);
    assert!(app.get("/api/version").await.ok()["version"].is_string());
    assert!(String::from_utf8_lossy(&app.get("/").await.bytes).contains("Ollama is running"));
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
