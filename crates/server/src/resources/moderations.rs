//! `/v1/moderations`: the wire, the storage, and the place where a classifier is plugged in.

use super::{ask, tenant};
use crate::auth::off_the_runtime;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;

crate::wire! {
    /// Texts to be judged.
    pub struct ModerationRequest {
        required {
            /// A text, texts, or parts with a text.
            input: Value,
        }
        optional {
            /// The classifier.
            model: String,
        }
    }
}

/// The routes.
pub const ROUTES: &[Route] = &[Route::post(
    "/v1/moderations",
    Family::OpenAi,
    Scope::Inference,
    "Judges texts by a content policy.",
    |call| Box::pin(create(call)),
)
.takes(ModerationRequest::OBJECT)];

/// What judges texts.
pub trait Classifier: Send + Sync + 'static {
    /// The names it is asked for by; the first is the one it is shown as.
    fn names(&self) -> Vec<String>;

    /// Its categories, in OpenAI's spelling or its own.
    fn categories(&self) -> Vec<String>;

    /// Judges texts, in order. It may take long: it is called off the async threads.
    ///
    /// # Errors
    /// When it cannot.
    fn judge(&self, texts: &[String]) -> ApiResult<Vec<Judgement>>;
}

/// What a classifier says of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// How likely each category is, 0 to 1, in the order of [`Classifier::categories`].
    pub scores: Vec<f64>,
    /// From which score on a category is flagged, in the same order.
    pub thresholds: Vec<f64>,
}

/// Most texts that one request may bring.
const MOST_TEXTS: usize = 256;

async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<ModerationRequest>(|_| false).await?;
    let texts = texts(&request.input)?;
    let classifier = find(call.state.classifier(), request.model.as_deref())?;
    let (judged, model) = {
        let (classifier, texts) = (classifier.clone(), texts.clone());
        off_the_runtime(move || {
            Ok((classifier.judge(&texts)?, classifier.names().into_iter().next().unwrap_or_default()))
        })
        .await?
    };
    if judged.len() != texts.len() {
        return Err(ApiError::internal("a classifier judged another number of texts than it was given"));
    }
    let categories = classifier.categories();
    let results: Vec<Value> = judged.iter().map(|judgement| result(&categories, judgement)).collect();
    let mut answer = json!({ "id": crate::ids::new("modr-"), "model": model, "results": results });
    if call.state.store().is_ok() {
        let (tenant, results) = (tenant(&call), Value::Array(results));
        let kept =
            ask(&call.state, move |store| store.moderations().create(&tenant, &model, json!(texts), results));
        answer["id"] = json!(kept.await?.id);
    }
    Ok(respond::json(&answer))
}

fn find<'a>(
    classifier: Option<&'a Arc<dyn Classifier>>,
    name: Option<&str>,
) -> ApiResult<&'a Arc<dyn Classifier>> {
    let classifier = classifier.ok_or_else(|| {
        let message = "no classifier is installed on this server, so nothing can be moderated: none comes with this \
                       version";
        ApiError::new(ErrorKind::NotFound, message).param("model").code("model_not_found")
    })?;
    // OpenAI's own names mean whatever there is: apps send them without being asked.
    let known = |name: &str| name.contains("moderation-") || classifier.names().iter().any(|own| own == name);
    match name {
        Some(name) if !known(name) => Err(ApiError::model_not_found(name)),
        _ => Ok(classifier),
    }
}

/// The texts of `input`.
fn texts(input: &Value) -> ApiResult<Vec<String>> {
    let refuse = |message: &str| Err(ApiError::field("input", format!("`input` {message}")));
    let items = match input {
        Value::String(text) => return Ok(vec![text.clone()]),
        Value::Array(items) if !items.is_empty() => items,
        _ => return refuse("must be a string or a list of strings or parts"),
    };
    if items.len() > MOST_TEXTS {
        return refuse(&format!("has more than {MOST_TEXTS} entries"));
    }
    let mut texts = Vec::new();
    for item in items {
        match item {
            Value::String(text) => texts.push(text.clone()),
            Value::Object(part) if part.get("type") == Some(&json!("text")) => {
                match part.get("text").and_then(Value::as_str) {
                    Some(text) => texts.push(text.to_owned()),
                    None => return refuse("has a text part without a text"),
                }
            }
            Value::Object(_) => return refuse("has a part that is not text: images cannot be judged here"),
            _ => return refuse("must be a string or a list of strings or parts"),
        }
    }
    Ok(texts)
}

fn result(categories: &[String], judgement: &Judgement) -> Value {
    let (mut flags, mut scores, mut kinds) = (Map::new(), Map::new(), Map::new());
    for (index, category) in categories.iter().enumerate() {
        let score = judgement.scores.get(index).copied().unwrap_or(0.0);
        let flagged = judgement.thresholds.get(index).is_some_and(|threshold| score >= *threshold);
        flags.insert(category.clone(), json!(flagged));
        scores.insert(category.clone(), json!(score));
        kinds.insert(category.clone(), json!(["text"]));
    }
    let flagged = flags.values().any(|flag| *flag == json!(true));
    json!({
        "flagged": flagged,
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": kinds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_in_several_shapes() {
        assert_eq!(texts(&json!("a")).unwrap(), ["a"]);
        assert_eq!(texts(&json!(["a", { "type": "text", "text": "b" }])).unwrap(), ["a", "b"]);
        for wrong in
            [json!(3), json!([]), json!([3]), json!([{ "type": "image_url" }]), json!([{ "type": "text" }])]
        {
            assert_eq!(texts(&wrong).unwrap_err().param.as_deref(), Some("input"));
        }
    }

    #[test]
    fn a_text_is_flagged_by_any_category() {
        let categories = ["hate".to_owned(), "violence".to_owned()];
        let judgement = Judgement { scores: vec![0.2, 0.7], thresholds: vec![0.5, 0.7] };
        let result = result(&categories, &judgement);
        assert_eq!(result["flagged"], true);
        assert_eq!(result["categories"], json!({ "hate": false, "violence": true }));
    }
}
