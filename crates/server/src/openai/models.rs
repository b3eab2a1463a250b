//! `/v1/models`.

use crate::error::{ApiError, ApiResult, excerpt};
use crate::models::ModelFacts;
use crate::respond;
use crate::route::{Call, is_anthropics};
use crate::wire::Nullable;
use axum::body::Body;
use axum::http::Response;
use chrono::{DateTime, SecondsFormat};
use std::ops::Range;

crate::wire! {
    /// A model.
    pub struct Model {
        required {
            /// Its name.
            id: String,
            /// Always `model`.
            object: String,
            /// When it came, in seconds since 1970.
            created: u64,
            /// Who made it.
            owned_by: String,
        }
        optional {
            /// For Anthropic's clients: always `model`.
            r#type: String,
            /// For Anthropic's clients: its name.
            display_name: String,
            /// For Anthropic's clients: when it came (RFC 3339).
            created_at: String,
        }
    }
    /// The models there are.
    pub struct ModelList {
        required {
            /// Always `list`.
            object: String,
            /// The models.
            data: Vec<Model>,
        }
        optional {
            /// For Anthropic's clients: the first model's name.
            first_id: Nullable<String>,
            /// For Anthropic's clients: the last model's name.
            last_id: Nullable<String>,
            /// For Anthropic's clients: whether there are more in the direction that is asked for.
            has_more: bool,
        }
    }
    /// A model that was removed.
    pub struct DeletedModel {
        required {
            /// Its name.
            id: String,
            /// Always `model`.
            object: String,
            /// Always true.
            deleted: bool,
        }
    }
}

fn model(facts: ModelFacts, is_anthropics: bool) -> Model {
    let created = i64::try_from(facts.created).ok().and_then(|created| DateTime::from_timestamp(created, 0));
    let created_at = created.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
    Model {
        r#type: is_anthropics.then(|| "model".into()),
        display_name: is_anthropics.then(|| facts.name.clone()),
        created_at: is_anthropics.then_some(created_at),
        id: facts.name,
        object: "model".into(),
        created: facts.created,
        owned_by: facts.owner,
    }
}

/// Models of a page where Anthropic's client does not say how many.
const PAGE: usize = 20;

/// A part of a list, as Anthropic's clients ask for it.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    models: Range<usize>,
    has_more: bool,
}

/// The page of the models of these names that a query asks for.
///
/// # Errors
/// A `limit` out of range, a model that is not in the list.
fn page(names: &[&str], query: &[(String, String)]) -> ApiResult<Page> {
    let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let limit = value("limit").map(|text| text.parse().ok().filter(|limit| (1..=1000).contains(limit)));
    let Some(limit) = limit.unwrap_or(Some(PAGE)) else {
        return Err(ApiError::field("limit", "limit: it must be a whole number between 1 and 1000"));
    };
    let place = |field: &'static str, id: &str| {
        let missing =
            || ApiError::field(field, format!("{field}: there is no model `{}` in the list", excerpt(id)));
        names.iter().position(|name| *name == id).ok_or_else(missing)
    };
    match (value("after_id"), value("before_id")) {
        (Some(_), Some(_)) => Err(ApiError::field("before_id", "before_id: it excludes after_id")),
        (None, Some(id)) => {
            let end = place("before_id", id)?;
            let start = end.saturating_sub(limit);
            Ok(Page { models: start..end, has_more: start > 0 })
        }
        (after, None) => {
            let start = after.map(|id| place("after_id", id)).transpose()?.map_or(0, |place| place + 1);
            let end = (start + limit).min(names.len());
            Ok(Page { models: start..end, has_more: end < names.len() })
        }
    }
}

/// `GET /v1/models`.
pub(super) async fn list(call: Call) -> ApiResult<Response<Body>> {
    let mut models = call.state.models().list().await?;
    let is_anthropics = is_anthropics(call.headers());
    let mut has_more = None;
    if is_anthropics {
        let names: Vec<&str> = models.iter().map(|facts| facts.name.as_str()).collect();
        let page = page(&names, &call.query())?;
        models = models.drain(page.models).collect();
        has_more = Some(page.has_more);
    }
    let data: Vec<Model> = models.into_iter().map(|facts| model(facts, is_anthropics)).collect();
    let id = |model: Option<&Model>| Nullable(model.map(|model| model.id.clone()));
    Ok(respond::json(&ModelList {
        first_id: is_anthropics.then(|| id(data.first())),
        last_id: is_anthropics.then(|| id(data.last())),
        has_more,
        object: "list".into(),
        data,
    }))
}

/// `GET /v1/models/{model}`.
pub(super) async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (facts, _) = call.state.models().facts(call.path("model")).await?;
    Ok(respond::json(&model(facts, is_anthropics(call.headers()))))
}

/// `DELETE /v1/models/{model}`.
pub(super) async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let name = call.path("model");
    call.state.models().remove(name).await?;
    Ok(respond::json(&DeletedModel { id: name.to_owned(), object: "model".into(), deleted: true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_both_ways() {
        let names = ["a", "b", "c", "d"];
        let page = |query: &[(&str, &str)]| {
            let query: Vec<_> =
                query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            page(&names, &query).map(|page| (page.models, page.has_more)).ok()
        };
        assert_eq!(page(&[]), Some((0..4, false)));
        assert_eq!(page(&[("limit", "2")]), Some((0..2, true)));
        assert_eq!(page(&[("limit", "2"), ("after_id", "b")]), Some((2..4, false)));
        assert_eq!(page(&[("after_id", "d")]), Some((4..4, false)));
        assert_eq!(page(&[("limit", "2"), ("before_id", "d")]), Some((1..3, true)));
        assert_eq!(page(&[("limit", "3"), ("before_id", "b")]), Some((0..1, false)));
        for wrong in [("limit", "0"), ("limit", "1001"), ("limit", "x"), ("after_id", "z"), ("before_id", "")]
        {
            assert_eq!(page(&[wrong]), None, "{wrong:?}");
        }
        assert_eq!(page(&[("after_id", "a"), ("before_id", "d")]), None);
    }
}
