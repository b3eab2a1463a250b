//! Which models are in memory.

use crate::support::{App, Script, user};
use alti_server::models::KeepAlive;
use alti_server::{ErrorKind, ServerSettings};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn slow(settings: ServerSettings) -> App {
    App::with(settings, None, Duration::from_millis(50))
}

async fn loaded(app: &App) -> Vec<String> {
    // Unloading is a task of its own.
    tokio::time::sleep(Duration::from_millis(30)).await;
    app.state.models().loaded().iter().map(|it| it.model.facts.name.clone()).collect()
}

#[tokio::test]
async fn two_requests_share_one_load() {
    let app = slow(ServerSettings::default());
    let pool = app.state.models();
    let (first, second) =
        tokio::join!(pool.acquire(Some("scripted"), None), pool.acquire(Some("scripted"), None));
    assert_eq!((first.unwrap().requested.as_str(), app.shelf.loads.load(Ordering::Relaxed)), ("scripted", 1));
    drop(second);
    // A caller that went away takes the load with it for nobody.
    let gone = tokio::time::timeout(Duration::from_millis(5), pool.acquire(Some("tiny"), None)).await;
    assert!(gone.is_err());
    pool.acquire(Some("tiny"), None).await.unwrap();
    assert_eq!(app.shelf.loads.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn idle_models_go_and_pinned_ones_stay() {
    let settings = ServerSettings { pinned_models: vec!["tiny".into()], ..ServerSettings::default() };
    let app = App::new(settings);
    let pool = app.state.models();
    assert!(!pool.is_ready());
    pool.load_pinned().await.unwrap();
    assert!(pool.is_ready());
    let short = Some(KeepAlive::For(Duration::from_millis(60)));
    let lease = pool.acquire(Some("scripted"), short).await.unwrap();
    drop(pool.acquire(Some("tiny"), short).await.unwrap());
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert_eq!(loaded(&app).await, ["scripted", "tiny"], "what is used stays");
    drop(lease);
    assert_eq!(loaded(&app).await, ["scripted", "tiny"], "and for a while after that");
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert_eq!(loaded(&app).await, ["tiny"]);
    // It comes back when it is asked for.
    pool.acquire(Some("scripted"), None).await.unwrap();
    assert_eq!(loaded(&app).await, ["scripted", "tiny"]);
}

#[tokio::test]
async fn memory_goes_to_what_is_used() {
    let settings = ServerSettings { memory_bytes: Some(1300), ..ServerSettings::default() };
    let app = App::new(settings);
    let pool = app.state.models();
    drop(pool.acquire(Some("scripted"), None).await.unwrap());
    let tiny = pool.acquire(Some("tiny"), None).await.unwrap();
    // 600 bytes each: the third needs the place of the one that nobody uses.
    let other = pool.acquire(Some("owner/other:Q4_0"), None).await.unwrap();
    assert_eq!(loaded(&app).await, ["owner/other:Q4_0", "tiny"]);
    let full = pool.acquire(Some("scripted"), None).await.unwrap_err();
    assert_eq!((full.kind, full.retry_after), (ErrorKind::Unavailable, Some(5)));
    drop((tiny, other));
    pool.acquire(Some("scripted"), None).await.unwrap();
    let small = ServerSettings { memory_bytes: Some(100), ..ServerSettings::default() };
    let never = App::new(small).state.models().acquire(Some("tiny"), None).await.unwrap_err();
    assert_eq!(never.kind, ErrorKind::InvalidRequest);
    assert!(never.message.contains("600") && never.message.contains("100"));
}

#[tokio::test]
async fn a_model_that_takes_more_than_was_foreseen_needs_the_room_or_goes() {
    let app = App::new(ServerSettings { memory_bytes: Some(1300), ..ServerSettings::default() });
    let pool = app.state.models();
    drop(pool.acquire(Some("scripted"), None).await.unwrap());
    // 600 were foreseen, and fitted beside the first.
    app.shelf.taken.store(900, Ordering::Relaxed);
    let tiny = pool.acquire(Some("tiny"), None).await.unwrap();
    assert_eq!(loaded(&app).await, ["tiny"]);
    app.shelf.taken.store(1400, Ordering::Relaxed);
    drop(tiny);
    let refused = pool.acquire(Some("scripted"), None).await.unwrap_err();
    assert!(refused.message.contains("1400") && refused.message.contains("1300"), "{}", refused.message);
}

#[tokio::test]
async fn a_running_answer_keeps_its_model() {
    let app = App::new(ServerSettings { idle_unload_seconds: Some(0), ..ServerSettings::default() });
    let app = app.script(Script::Say("x".repeat(2000)));
    let answer = app
        .post("/v1/chat/completions", json!({ "model": "scripted", "messages": user("Hi"), "stream": true }))
        .await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(loaded(&app).await, [""; 0]);
}

/// To read a card is to build a whole tokenizer.
#[tokio::test]
async fn cards_are_read_one_at_a_time_once_and_not_of_loaded_models() {
    let app = slow(ServerSettings::default());
    let show = async |name: &str| app.post("/api/show", json!({ "model": name })).await.ok();
    let cards = || app.shelf.cards.load(Ordering::Relaxed);
    let names = ["scripted", "tiny", "scripted:latest", "owner/other:Q4_0", "tiny"];
    let shown = futures_util::future::join_all(names.iter().map(|name| show(name))).await;
    assert_eq!(cards(), 3);
    assert_eq!(
        (&shown[0]["template"], &shown[4]["template"]),
        (&json!("{# scripted #}"), &json!("{# tiny #}"))
    );
    drop(app.state.models().acquire(Some("owner/other:Q4_0"), None).await.unwrap());
    let loaded = show("owner/other:Q4_0").await;
    assert!(loaded["template"].as_str().unwrap().contains("im_start"), "{loaded}");
    assert_eq!((&loaded["model_info"]["llama.block_count"], cards()), (&json!(2), 3));
    assert_eq!(show("scripted").await["template"], "{# scripted #}");
}

#[tokio::test]
async fn an_alias_with_the_name_of_a_model_stands_in_front_of_it_once() {
    let app = slow(ServerSettings::default());
    let front = json!({ "model": "scripted", "from": "tiny", "stream": false });
    app.post("/api/create", front).await.ok();
    let behind = json!({ "model": "tiny", "from": "tiny", "system": "Be.", "stream": false });
    app.post("/api/create", behind).await.ok();
    // What `scripted` is made from is a model's name already: the alias of that name has no part in it.
    let shown = app.post("/api/show", json!({ "model": "scripted" })).await.ok();
    assert_eq!((&shown["template"], &shown["system"]), (&json!("{# tiny #}"), &json!("")));
    app.post("/api/create", json!({ "model": "tiny", "from": "owner/other:Q4_0", "stream": false }))
        .await
        .ok();
    let shown = app.post("/api/show", json!({ "model": "scripted" })).await.ok();
    assert_eq!(shown["template"], "{# tiny #}");
    app.post(
        "/api/create",
        json!({ "model": "owner/other:Q4_0", "from": "owner/other:Q4_0", "stream": false }),
    )
    .await
    .ok();
    drop(app.state.models().acquire(Some("owner/other:Q4_0"), None).await.unwrap());
    let told = app.get("/api/ps").await.ok();
    let names: Vec<&Value> = told["models"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["owner/other:Q4_0"], "one entry for one name");
}

#[tokio::test]
async fn an_alias_may_stay_and_is_ready_under_any_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("models.json");
    // As an older server wrote it: made from another alias, with a tag that says nothing.
    std::fs::write(
        &file,
        r#"{ "a": { "from": "b:latest" }, "b": { "from": "tiny:latest", "system": "Be." } }"#,
    )
    .unwrap();
    let settings = ServerSettings {
        pinned_models: vec!["a:latest".into()],
        aliases_file: Some(file),
        ..ServerSettings::default()
    };
    let app = App::new(settings);
    let pool = app.state.models();
    assert!(!pool.is_ready());
    pool.load_pinned().await.unwrap();
    assert!(pool.is_ready() && pool.loaded()[0].pinned);
    assert_eq!(pool.loaded()[0].aliases, ["a"]);
    let names: Vec<String> = pool.list().await.unwrap().into_iter().map(|facts| facts.name).collect();
    assert!(["a", "b"].iter().all(|name| names.iter().any(|it| it == name)), "{names:?}");
    let lease = pool.acquire(Some("a"), None).await.unwrap();
    assert_eq!(lease.alias.as_ref().unwrap().system.as_deref(), Some("Be."));
}
