use super::{Fixture, new_file};
use alti_store::{
    Attributes, FileStatus, Filter, NewChunk, NewVectorStore, Page, SearchQuery, Store, StoreError,
    VectorStoreChange, fuse, now, quantise,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn attributes(value: Value) -> Attributes {
    value.as_object().cloned().expect("an object")
}

fn chunk(text: &str, vector: &[f32]) -> NewChunk {
    NewChunk { text: text.to_owned(), vector: vector.to_vec() }
}

/// Adds a file with its chunks and returns its id.
fn add(store: &Store, id: &str, name: &str, noted: Value, chunks: &[NewChunk]) -> String {
    let file = store.files().create(&new_file(name), name.as_bytes()).expect("a file").id;
    let addition = (file.clone(), attributes(noted), json!({"type": "static"}));
    store.vector_stores().add_files("t", "key_1", id, &[addition], false).expect("added");
    assert!(store.vector_stores().complete_file(id, &file, "tiny", chunks).expect("completed"));
    file
}

fn library(store: &Store) -> String {
    let new = NewVectorStore { name: "library".to_owned(), ..NewVectorStore::default() };
    let id = store.vector_stores().create("t", &new).expect("a vector store").id;
    let animals = [
        chunk("The vicuña lives in the high Andes.", &[1.0, 0.0, 0.1]),
        chunk("Llamas carry loads across mountain passes.", &[0.9, 0.1, 0.0]),
    ];
    add(store, &id, "animals.txt", json!({"year": 2024, "kind": "animal"}), &animals);
    let salt = [chunk("Salt flats lie at 3,656 metres.", &[0.0, 1.0, 0.0])];
    add(store, &id, "places.txt", json!({"year": 2020, "kind": "place"}), &salt);
    id
}

fn texts(store: &Store, id: &str, query: &SearchQuery) -> Vec<String> {
    store.vector_stores().search("t", id, query).expect("hits").into_iter().map(|hit| hit.text).collect()
}

#[test]
fn chunks_are_found_by_meaning_by_words_and_by_both() {
    let fixture = Fixture::new();
    let id = library(&fixture.store);
    let near = |vector| SearchQuery::new("", Some(vector), 1);
    assert!(texts(&fixture.store, &id, &near(vec![0.0, 5.0, 0.0]))[0].contains("Salt"));
    let words = |text| SearchQuery::new(text, None, 10);
    assert_eq!(texts(&fixture.store, &id, &words("loading a llama?")).len(), 1, "words are stemmed");
    assert_eq!(texts(&fixture.store, &id, &words("VICUNA")).len(), 1, "accents and case do not matter");
    assert_eq!(texts(&fixture.store, &id, &words("submarine")).len(), 0);
    let both = SearchQuery::new("salt", Some(vec![0.0, 1.0, 0.0]), 10);
    let hits = fixture.store.vector_stores().search("t", &id, &both).expect("hits");
    assert_eq!((hits[0].score, hits[0].file_name.as_str()), (1.0, "places.txt"), "first in both lists");
    assert!(hits[0].similarity.expect("it has one") > 0.999);
    assert!(hits[1].score < 0.5, "others are near in one list alone");
    let some = SearchQuery { score_threshold: 0.9, ..both.clone() };
    assert_eq!(texts(&fixture.store, &id, &some).len(), 1);
    let by_words = SearchQuery { vector_weight: 0.0, ..both };
    assert_eq!(texts(&fixture.store, &id, &by_words).len(), 1);
}

#[test]
fn operators_of_the_text_index_are_only_words() {
    let fixture = Fixture::new();
    let id = library(&fixture.store);
    for text in [
        "\"",
        "salt OR NOT flats\"",
        "text:salt",
        "NEAR(salt flats, 2)",
        "salt*",
        "-salt",
        "(",
        "^salt",
        "\0",
    ] {
        let query = SearchQuery::new(text, None, 10);
        let found = texts(&fixture.store, &id, &query);
        assert_eq!(found.len(), usize::from(text.contains("salt")), "{text:?} finds {found:?}");
    }
}

#[test]
fn filters_choose_files_by_what_is_noted_about_them() {
    let fixture = Fixture::new();
    let id = library(&fixture.store);
    let found = |filter: Value| {
        let filter = Some(Filter::parse(&filter).expect("a filter"));
        let query = SearchQuery { filter, ..SearchQuery::new("salt llamas", Some(vec![1.0, 1.0, 0.0]), 10) };
        texts(&fixture.store, &id, &query).len()
    };
    assert_eq!(found(json!({"type": "eq", "key": "kind", "value": "animal"})), 2);
    assert_eq!(found(json!({"type": "ne", "key": "kind", "value": "animal"})), 1);
    assert_eq!(found(json!({"type": "gte", "key": "year", "value": 2024.0})), 2);
    assert_eq!(found(json!({"type": "lt", "key": "year", "value": 2024})), 1);
    assert_eq!(found(json!({"type": "gt", "key": "nothing", "value": 0})), 0);
    assert_eq!(found(json!({"type": "in", "key": "year", "value": [2020, 2024]})), 3);
    assert_eq!(found(json!({"type": "nin", "key": "year", "value": [2020]})), 2);
    let place = json!({"type": "eq", "key": "kind", "value": "place"});
    let recent = json!({"type": "gt", "key": "year", "value": 2022});
    assert_eq!(found(json!({"type": "and", "filters": [place, recent]})), 0);
    assert_eq!(found(json!({"type": "or", "filters": [place, recent]})), 3);
}

#[test]
fn filters_that_are_none_are_refused() {
    let mut deep = json!({"type": "eq", "key": "a", "value": 1});
    for _ in 0..40 {
        deep = json!({"type": "and", "filters": [deep]});
    }
    for filter in [
        json!(null),
        json!({"type": "like", "key": "a", "value": "b"}),
        json!({"type": "eq", "key": 1, "value": "b"}),
        json!({"type": "eq", "key": "a"}),
        json!({"type": "eq", "key": "a", "value": {}}),
        json!({"type": "gt", "key": "a", "value": true}),
        json!({"type": "in", "key": "a", "value": "b"}),
        json!({"type": "and", "filters": {}}),
        deep,
    ] {
        assert!(matches!(Filter::parse(&filter), Err(StoreError::Invalid { .. })), "{filter}");
    }
}

#[test]
fn a_file_is_found_from_when_it_is_completed_until_it_is_taken_out() {
    let fixture = Fixture::new();
    let (store, stores) = (&fixture.store, fixture.store.vector_stores());
    let id = library(store);
    let file = store.files().create(&new_file("late.txt"), b"late").expect("a file").id;
    let addition = (file.clone(), Attributes::new(), json!({"type": "static"}));
    let batch = stores.add_files("t", "key_1", &id, &[addition], true).expect("added").expect("a batch");
    assert_eq!(batch.counts[0], (FileStatus::InProgress, 1));
    let waiting = stores.files_in_progress().expect("in progress");
    assert_eq!((waiting.len(), waiting[0].tenant.as_str()), (1, "t"));
    let query = SearchQuery::new("quinoa", None, 5);
    assert_eq!(texts(store, &id, &query).len(), 0);
    let chunks = [chunk("Quinoa grows late.", &[0.0, 0.0, 1.0])];
    assert!(stores.complete_file(&id, &file, "tiny", &chunks).expect("completed"));
    assert!(!stores.complete_file(&id, &file, "tiny", &chunks).expect("nothing to do"));
    assert_eq!(texts(store, &id, &query).len(), 1);
    assert_eq!(stores.chunks("t", &id, &file).expect("chunks")[0].text, "Quinoa grows late.");
    let listed = stores.files("t", &id, Some(&batch.id), Some(FileStatus::Completed), &Page::default());
    assert_eq!(listed.expect("listed").items.len(), 1);
    stores.set_attributes("t", &id, &file, &attributes(json!({"a": true}))).expect("noted");
    assert_eq!(stores.file("t", &id, &file).expect("the file").attributes["a"], true);
    store.files().delete("t", &file).expect("the file itself goes");
    assert_eq!(texts(store, &id, &query).len(), 0);
    assert!(stores.file("t", &id, &file).is_err());
    store.check().expect("nothing is left behind");
}

#[test]
fn vectors_of_another_model_or_length_are_refused() {
    let fixture = Fixture::new();
    let stores = fixture.store.vector_stores();
    let id = library(&fixture.store);
    let file = fixture.store.files().create(&new_file("x"), b"x").expect("a file").id;
    let addition = [(file.clone(), Attributes::new(), json!({}))];
    stores.add_files("t", "key_1", &id, &addition, false).expect("added");
    for (model, vector) in [
        ("other", vec![1.0; 3]),
        ("tiny", vec![1.0; 4]),
        ("tiny", vec![0.0; 3]),
        ("tiny", vec![f32::NAN; 3]),
        ("tiny", vec![]),
    ] {
        assert!(
            stores.complete_file(&id, &file, model, &[chunk("x", &vector)]).is_err(),
            "{model} {vector:?}"
        );
    }
    assert_eq!(stores.file("t", &id, &file).expect("the file").status, FileStatus::InProgress);
    stores.fail_file(&id, &file, &json!({"code": "invalid_file"})).expect("failed");
    assert_eq!(stores.get("t", &id).expect("the store").counts[3], (FileStatus::Failed, 1));
    assert!(stores.search("t", &id, &SearchQuery::new("", Some(vec![1.0; 4]), 5)).is_err());
}

#[test]
fn a_store_expires_when_nobody_uses_it() {
    let fixture = Fixture::new();
    let stores = fixture.store.vector_stores();
    let id = library(&fixture.store);
    let change = VectorStoreChange { expires_after_days: Some(Some(2)), ..VectorStoreChange::default() };
    let changed = stores.update("t", &id, &change).expect("changed");
    assert_eq!(changed.name, "library");
    let end = changed.expires_at().expect("an end");
    assert_eq!(stores.expire(end - 1).expect("not yet"), 0);
    assert_eq!(stores.expire(end).expect("now"), 1);
    assert!(matches!(
        stores.search("t", &id, &SearchQuery::new("salt", None, 5)),
        Err(StoreError::Conflict { .. })
    ));
    assert!(end > now());
    stores.delete("t", &id).expect("deleted");
    assert!(stores.get("t", &id).is_err());
}

#[test]
fn one_tenant_searches_nothing_of_anothers() {
    let fixture = Fixture::new();
    let id = library(&fixture.store);
    let stores = fixture.store.vector_stores();
    assert!(stores.search("other", &id, &SearchQuery::new("salt", None, 5)).is_err());
    assert!(stores.delete("other", &id).is_err());
    let theirs = stores.create("other", &NewVectorStore::default()).expect("made").id;
    let file = stores.files("t", &id, None, None, &Page::default()).expect("files").items.remove(0).id;
    assert!(
        stores.add_files("other", "key_1", &theirs, &[(file, Attributes::new(), json!({}))], false).is_err()
    );
}

fn list() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(0..30i64, 0..30)
}

proptest! {
    #[test]
    fn fusion_keeps_everything_once_in_falling_order(a in list(), b in list(), weights in (0.01..10f64, 0.01..10f64)) {
        let fused = fuse(&[(weights.0, &a), (weights.1, &b)]);
        let mut found: Vec<i64> = fused.iter().map(|(chunk, _)| *chunk).collect();
        prop_assert!(fused.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        prop_assert!(fused.iter().all(|(_, score)| *score > 0.0 && *score <= 1.0));
        let mut expected = [a.clone(), b.clone()].concat();
        expected.sort_unstable();
        expected.dedup();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
        let swapped = fuse(&[(weights.1, &b), (weights.0, &a)]);
        for (chunk, score) in &fused {
            let other = swapped.iter().find(|(other, _)| other == chunk).expect("it is there");
            prop_assert!((other.1 - score).abs() < 1e-12, "the order of lists does not matter");
        }
    }

    #[test]
    fn fusion_puts_first_what_is_first_everywhere(mut a in list(), mut b in list(), weight in 0.01..10f64) {
        a.insert(0, 99);
        b.insert(0, 99);
        let fused = fuse(&[(weight, &a), (1.0, &b)]);
        prop_assert_eq!(fused[0].0, 99);
        prop_assert!((fused[0].1 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn fusion_of_one_list_is_that_list(a in list(), weight in 0.01..10f64) {
        let mut seen = std::collections::HashSet::new();
        let once: Vec<i64> = a.iter().copied().filter(|chunk| seen.insert(*chunk)).collect();
        let order = |lists: &[(f64, &[i64])]| fuse(lists).into_iter().map(|(chunk, _)| chunk).collect::<Vec<_>>();
        prop_assert_eq!(order(&[(weight, &a)]), once.clone());
        prop_assert_eq!(order(&[(weight, &a), (0.0, &[1, 2]), (f64::NAN, &[3])]), once);
    }

    #[test]
    fn stored_vectors_are_within_half_a_step(vector in prop::collection::vec(-1e6..1e6f32, 1..64)) {
        prop_assume!(vector.iter().any(|value| value.abs() > 1e-3));
        let (scale, bytes) = quantise(&vector).expect("it has a direction");
        let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        for (value, byte) in vector.iter().zip(bytes) {
            let error = (f64::from(*value) / length - f64::from(scale) * f64::from(byte)).abs();
            prop_assert!(error <= f64::from(scale) * 0.5001);
        }
    }
}
