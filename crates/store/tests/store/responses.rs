use super::Fixture;
use alti_store::{NewResponse, Page, Responses};
use serde_json::{Value, json};

fn message(id: &str) -> Value {
    json!({"id": id, "type": "message"})
}

fn new(id: &str, previous: Option<&str>) -> NewResponse {
    NewResponse {
        id: id.to_owned(),
        status: "in_progress".to_owned(),
        background: false,
        previous: previous.map(str::to_owned),
        conversation: None,
        body: json!({"id": id, "output": []}),
        input: vec![message(&format!("in_{id}"))],
    }
}

fn finish(responses: &Responses<'_>, id: &str) {
    let body = json!({"id": id, "output": [message(&format!("out_{id}"))]});
    assert!(responses.update(id, "completed", &body, &[], &[]).expect("updated"));
}

#[test]
fn the_history_of_a_response_is_all_that_was_said_before() {
    let fixture = Fixture::new();
    let responses = fixture.store.responses();
    for (id, previous) in [("a", None), ("b", Some("a")), ("c", Some("b")), ("d", Some("a"))] {
        responses.create("t", &new(id, previous)).expect("made");
        finish(&responses, id);
    }
    let history = |id| -> Vec<String> {
        let items = responses.history("t", id).expect("history");
        items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(history("c"), ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]);
    assert_eq!(history("d"), ["in_a", "out_a", "in_d", "out_d"]);
    assert!(responses.history("other", "c").is_err());
    responses.delete("t", "b").expect("deleted");
    assert_eq!(
        responses.history("t", "c").expect_err("it is broken").to_string(),
        "no response with the id `b`"
    );
}

#[test]
fn an_item_is_found_by_its_id_wherever_its_owner_has_it() {
    let fixture = Fixture::new();
    let (responses, conversations) = (fixture.store.responses(), fixture.store.conversations());
    responses.create("t", &new("a", None)).expect("made");
    finish(&responses, "a");
    responses.create("t", &new("unfinished", None)).expect("made");
    conversations.create("t", json!({}), &[message("said")]).expect("made");
    let find = |tenant: &str, ids: &[&str]| -> Vec<String> {
        let found =
            responses.find_items(tenant, &ids.iter().map(|id| (*id).to_owned()).collect()).expect("read");
        assert!(found.iter().all(|(id, item)| *item == message(id)));
        let mut found: Vec<String> = found.into_keys().collect();
        found.sort();
        found
    };
    assert_eq!(find("t", &["said", "in_a", "out_a", "nowhere"]), ["in_a", "out_a", "said"]);
    assert_eq!(find("t", &["in_unfinished"]), ["in_unfinished"]);
    assert_eq!(find("other", &["said", "in_a", "out_a"]), Vec::<String>::new());
    responses.delete("t", "a").expect("deleted");
    assert_eq!(find("t", &["in_a", "out_a"]), Vec::<String>::new());
}

#[test]
fn a_response_that_ended_does_not_change_again() {
    let fixture = Fixture::new();
    let responses = fixture.store.responses();
    responses.create("t", &new("a", None)).expect("made");
    assert_eq!(responses.unfinished().expect("unfinished").len(), 1);
    assert!(responses.update("a", "cancelled", &json!({"n": 1}), &[], &[]).expect("ended"));
    assert!(!responses.update("a", "completed", &json!({"n": 2}), &[], &[]).expect("too late"));
    assert_eq!(responses.get("t", "a").expect("there").body, json!({"n": 1}));
    assert_eq!(responses.unfinished().expect("unfinished"), []);
}

#[test]
fn events_are_replayed_from_any_number_on() {
    let fixture = Fixture::new();
    let responses = fixture.store.responses();
    responses.create("t", &new("a", None)).expect("made");
    let event = |number: u64| (number, json!({"sequence_number": number}));
    responses.add_events("a", &[event(0), event(1), event(2)]).expect("added");
    responses.update("a", "completed", &json!({}), &[event(3)], &[]).expect("updated");
    let numbers = |after| -> Vec<u64> {
        responses.events("t", "a", after).expect("events").iter().map(|(number, _)| *number).collect()
    };
    assert_eq!(numbers(None), [0, 1, 2, 3]);
    assert_eq!(numbers(Some(1)), [2, 3]);
    assert_eq!(numbers(Some(u64::MAX)), Vec::<u64>::new());
    assert!(responses.events("other", "a", None).is_err());
}

#[test]
fn what_a_response_says_enters_its_conversation_with_it() {
    let fixture = Fixture::new();
    let (responses, conversations) = (fixture.store.responses(), fixture.store.conversations());
    let made = conversations.create("t", json!({}), &[]).expect("made");
    let of = |id: &str| NewResponse { conversation: Some(made.id.clone()), ..new(id, None) };
    responses.create("t", &of("a")).expect("made");
    let said = [message("in_a"), message("out_a")];
    responses.update("a", "completed", &json!({}), &[], &said).expect("updated");
    assert_eq!(conversations.all_items("t", &made.id).expect("items"), said);
    // One that was asked for at the same time, with the same item.
    responses.create("t", &of("c")).expect("made");
    assert!(
        responses
            .update("c", "completed", &json!({}), &[], &[message("in_a"), message("out_c")])
            .expect("it is kept")
    );
    let all = [message("in_a"), message("out_a"), message("out_c")];
    assert_eq!(conversations.all_items("t", &made.id).expect("items"), all);
    responses.create("t", &of("b")).expect("made");
    conversations.delete("t", &made.id).expect("deleted");
    assert!(responses.update("b", "completed", &json!({}), &[], &said).expect("it is kept all the same"));
}

#[test]
fn input_items_are_listed_and_go_with_the_response() {
    let fixture = Fixture::new();
    let responses = fixture.store.responses();
    responses.create("t", &new("a", None)).expect("made");
    assert!(responses.create("t", &new("a", None)).is_err(), "one id, one response");
    assert_eq!(responses.input("t", "a", &Page::default()).expect("input").items, [message("in_a")]);
    responses.delete("t", "a").expect("deleted");
    assert!(responses.input("t", "a", &Page::default()).is_err());
    fixture.store.check().expect("no item without its response");
}
