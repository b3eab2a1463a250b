use super::Fixture;
use super::scripted::Scripted;
use alti_server::resources::Judgement;
use alti_server::{ApiResult, Classifier};
use alti_store::Page;
use serde_json::json;
use std::sync::Arc;

/// Flags texts that speak of knives.
struct Knives;

impl Classifier for Knives {
    fn names(&self) -> Vec<String> {
        vec!["knives-1".to_owned()]
    }

    fn categories(&self) -> Vec<String> {
        vec!["violence".to_owned(), "hate".to_owned()]
    }

    fn judge(&self, texts: &[String]) -> ApiResult<Vec<Judgement>> {
        let judge = |text: &String| Judgement {
            scores: vec![if text.contains("knife") { 0.9 } else { 0.1 }, 0.0],
            thresholds: vec![0.5, 0.5],
        };
        Ok(texts.iter().map(judge).collect())
    }
}

#[tokio::test]
async fn without_a_classifier_there_is_no_model_and_the_reason_is_told() {
    let fixture = Fixture::scripted();
    let (status, error) = fixture.call("POST", "/v1/moderations", json!({ "input": "x" })).await;
    assert_eq!((status, error["error"]["code"].as_str()), (404, Some("model_not_found")));
    assert!(error["error"]["message"].as_str().expect("a message").contains("no classifier is installed"));
}

#[tokio::test]
async fn a_classifier_that_is_plugged_in_judges_and_its_judgements_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = Fixture::with(Arc::new(Scripted), folder, Some(Arc::new(Knives)));
    let request = json!({ "input": ["a knife", "a spoon"], "model": "omni-moderation-latest" });
    let answer = fixture.post("/v1/moderations", request).await;
    assert_eq!(answer["model"], "knives-1");
    let results = answer["results"].as_array().expect("results");
    assert_eq!((&results[0]["flagged"], &results[1]["flagged"]), (&json!(true), &json!(false)));
    assert_eq!(results[0]["categories"], json!({ "violence": true, "hate": false }));
    assert_eq!(results[0]["category_scores"]["violence"], 0.9);
    let kept = fixture.store.moderations().list("", &Page::default()).expect("list").items;
    assert_eq!((kept.len(), json!(kept[0].id)), (1, answer["id"].clone()));
    let (status, _) =
        fixture.call("POST", "/v1/moderations", json!({ "input": "x", "model": "other" })).await;
    assert_eq!(status, 404);
}
