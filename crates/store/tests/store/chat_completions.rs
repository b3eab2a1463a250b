use super::Fixture;
use alti_store::{ChatCompletion, ChatCompletionFilter, Page};
use serde_json::{Value, json};

fn answer(id: &str, model: &str, metadata: Value) -> ChatCompletion {
    ChatCompletion { id: id.to_owned(), model: model.to_owned(), metadata, body: json!({ "id": id }) }
}

#[test]
fn an_answer_is_kept_with_its_turns_for_its_owner() {
    let fixture = Fixture::new();
    let answers = fixture.store.chat_completions();
    let made = answer("chatcmpl-1", "m", json!({ "topic": "salt" }));
    let turns = [json!({ "id": "chatcmpl-1-0", "role": "system" }), json!({ "id": "chatcmpl-1-1" })];
    answers.create("t", &made, &turns).expect("kept");
    assert_eq!(answers.get("t", "chatcmpl-1").expect("found"), made);
    let page = Page { ascending: true, limit: 1, ..Page::default() };
    let first = answers.messages("t", "chatcmpl-1", &page).expect("turns");
    assert_eq!((first.items.as_slice(), first.has_more), (&turns[..1], true));
    let page = Page { after: Some("chatcmpl-1-0".to_owned()), ..page };
    assert_eq!(answers.messages("t", "chatcmpl-1", &page).expect("turns").items, turns[1..]);
    let changed = answers.set_metadata("t", "chatcmpl-1", json!({})).expect("changed");
    assert_eq!(changed.metadata, json!({}));
    assert!(answers.get("other", "chatcmpl-1").is_err());
    assert!(answers.set_metadata("other", "chatcmpl-1", json!({})).is_err());
    assert!(answers.messages("other", "chatcmpl-1", &Page::default()).is_err());
    assert!(answers.delete("other", "chatcmpl-1").is_err());
    answers.delete("t", "chatcmpl-1").expect("deleted");
    assert!(answers.get("t", "chatcmpl-1").is_err());
    fixture.store.check().expect("no turn without an answer is left");
}

#[test]
fn an_answer_whose_turns_cannot_be_kept_is_not_kept() {
    let fixture = Fixture::new();
    let answers = fixture.store.chat_completions();
    let made = answer("chatcmpl-1", "m", json!({}));
    assert!(answers.create("t", &made, &[json!({ "role": "user" })]).is_err());
    assert!(answers.get("t", "chatcmpl-1").is_err());
}

#[test]
fn answers_are_listed_by_model_and_by_all_of_the_metadata_wanted() {
    let fixture = Fixture::new();
    let answers = fixture.store.chat_completions();
    for (id, model, metadata) in [
        ("a", "m", json!({})),
        ("b", "m", json!({ "topic": "salt", "it's \"odd\"": "yes" })),
        ("c", "n", json!({ "topic": "salt" })),
        ("d", "n", json!({ "topic": "rain" })),
    ] {
        answers.create("t", &answer(id, model, metadata), &[]).expect("kept");
    }
    let listed = |model: Option<&str>, metadata: Option<Value>| -> String {
        let filter = ChatCompletionFilter { model: model.map(str::to_owned), metadata };
        let page = Page { ascending: true, ..Page::default() };
        let found = answers.list("t", &filter, &page).expect("listed");
        found.items.iter().map(|it| it.id.as_str()).collect()
    };
    assert_eq!(listed(None, None), "abcd");
    assert_eq!(listed(Some("n"), None), "cd");
    assert_eq!(listed(None, Some(json!({ "topic": "salt" }))), "bc");
    assert_eq!(listed(Some("n"), Some(json!({ "topic": "salt" }))), "c");
    assert_eq!(listed(None, Some(json!({ "topic": "salt", "it's \"odd\"": "yes" }))), "b");
    assert_eq!(listed(None, Some(json!({ "topic": "salt", "other": "yes" }))), "");
}
