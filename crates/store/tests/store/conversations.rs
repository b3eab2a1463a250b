use super::Fixture;
use alti_store::{Page, StoreError};
use serde_json::{Value, json};

fn item(id: usize) -> Value {
    json!({"id": format!("msg_{id}"), "type": "message", "content": format!("text {id}")})
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["id"].as_str().expect("an id")).collect()
}

#[test]
fn items_come_a_page_at_a_time_in_either_order() {
    let fixture = Fixture::new();
    let conversations = fixture.store.conversations();
    let made = conversations.create("t", json!({"topic": "x"}), &[item(0), item(1)]).expect("made");
    conversations.add_items("t", &made.id, &[item(2), item(3), item(4)]).expect("added");
    let page = |limit, after: Option<&str>, before: Option<&str>, ascending| {
        let page =
            Page { limit, after: after.map(str::to_owned), before: before.map(str::to_owned), ascending };
        let listed = conversations.items("t", &made.id, &page).expect("a page");
        (ids(&listed.items).join(" "), listed.has_more)
    };
    assert_eq!(page(2, None, None, true), ("msg_0 msg_1".to_owned(), true));
    assert_eq!(page(2, Some("msg_1"), None, true), ("msg_2 msg_3".to_owned(), true));
    assert_eq!(page(2, Some("msg_3"), None, true), ("msg_4".to_owned(), false));
    assert_eq!(page(3, None, None, false), ("msg_4 msg_3 msg_2".to_owned(), true));
    assert_eq!(page(3, Some("msg_2"), None, false), ("msg_1 msg_0".to_owned(), false));
    assert_eq!(page(2, None, Some("msg_3"), true), ("msg_1 msg_2".to_owned(), true));
    assert_eq!(page(9, Some("msg_0"), Some("msg_3"), true), ("msg_1 msg_2".to_owned(), false));
    let nowhere = Page { after: Some("msg_9".to_owned()), ..Page::default() };
    assert!(matches!(conversations.items("t", &made.id, &nowhere), Err(StoreError::NotFound { .. })));
}

#[test]
fn items_are_added_all_or_none() {
    let fixture = Fixture::new();
    let conversations = fixture.store.conversations();
    let made = conversations.create("t", json!({}), &[item(0)]).expect("made");
    for second in [item(0), json!({"type": "message"})] {
        assert!(conversations.add_items("t", &made.id, &[item(1), second]).is_err());
    }
    assert_eq!(ids(&conversations.all_items("t", &made.id).expect("items")), ["msg_0"]);
    conversations.add_new_items("t", &made.id, &[item(1), item(0), item(2)]).expect("what is new is added");
    assert_eq!(ids(&conversations.all_items("t", &made.id).expect("items")), ["msg_0", "msg_1", "msg_2"]);
    assert!(conversations.add_new_items("other", &made.id, &[item(3)]).is_err());
}

#[test]
fn one_tenant_finds_nothing_of_anothers() {
    let fixture = Fixture::new();
    let conversations = fixture.store.conversations();
    let made = conversations.create("t", json!({}), &[item(0)]).expect("made");
    assert!(conversations.get("other", &made.id).is_err());
    assert!(conversations.item("other", &made.id, "msg_0").is_err());
    assert!(conversations.add_items("other", &made.id, &[item(1)]).is_err());
    assert!(conversations.delete("other", &made.id).is_err());
    assert_eq!(conversations.item("t", &made.id, "msg_0").expect("the item"), item(0));
}

#[test]
fn deleting_takes_the_items_along() {
    let fixture = Fixture::new();
    let conversations = fixture.store.conversations();
    let made = conversations.create("t", json!({}), &[item(0), item(1)]).expect("made");
    conversations.delete_item("t", &made.id, "msg_0").expect("one item");
    assert!(conversations.delete_item("t", &made.id, "msg_0").is_err());
    let changed = conversations.set_metadata("t", &made.id, json!({"a": "b"})).expect("changed");
    assert_eq!(conversations.get("t", &made.id).expect("there"), changed);
    conversations.delete("t", &made.id).expect("deleted");
    assert!(conversations.get("t", &made.id).is_err());
    fixture.store.check().expect("no item without its conversation");
}
