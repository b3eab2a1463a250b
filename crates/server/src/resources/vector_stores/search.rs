//! `/v1/vector_stores/{store}/search`.

use super::{Ranking, named};
use crate::error::{ApiError, ApiResult};
use crate::generate::{Tally, encode_plain};
use crate::resources::embedding::embed;
use crate::resources::{ask, fields, tenant};
use crate::respond;
use crate::route::Call;
use alti_store::{Filter, Hit, SearchQuery};
use alti_text::Specials;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

crate::wire! {
    /// A search.
    pub struct SearchRequest {
        required {
            /// What is looked for: a text, or several that count as one.
            query: Value,
        }
        optional {
            /// Most hits, 1 to 50; 10, if it is not there.
            max_num_results: u32,
            /// Conditions on what is noted about files.
            filters: Value,
            /// How hits are ranked: `score_threshold`, `hybrid_search`.
            ranking_options: Value,
        }
        ignored {
            /// Whether the query is put into other words first.
            rewrite_query: bool,
        }
    }
}

/// Looks for a text in a vector store, best hits first: as a part of a request if there is a tally.
///
/// # Errors
/// When there is no such store, or its model cannot be loaded.
pub(in crate::resources) async fn search(
    call: &Call,
    tally: Option<&Tally>,
    id: &str,
    text: &str,
    limit: usize,
    ranking: &Ranking,
    filter: Option<Filter>,
) -> ApiResult<Vec<Hit>> {
    let (tenant, id) = (tenant(call), id.to_owned());
    let found = {
        let (tenant, id) = (tenant.clone(), id.clone());
        ask(&call.state, move |store| store.vector_stores().get(&tenant, &id)).await?
    };
    // A store without chunks has no model yet, and nothing to be near to.
    let vector = match &found.model {
        Some(model) if ranking.vector_weight > 0.0 => {
            let model = call.state.models().acquire(Some(model), None).await?;
            let tokens = encode_plain(&model.tokenizer, text, Specials::AsText);
            if tokens.is_empty() { None } else { Some(embed(call, tally, &model, tokens).await?) }
        }
        _ => None,
    };
    let query = SearchQuery {
        filter,
        vector_weight: ranking.vector_weight,
        text_weight: ranking.text_weight,
        score_threshold: ranking.score_threshold,
        ..SearchQuery::new(text, vector, limit)
    };
    ask(&call.state, move |store| store.vector_stores().search(&tenant, &id, &query)).await
}

/// `POST /v1/vector_stores/{store}/search`.
pub(super) async fn route(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<SearchRequest>(|_| false).await?;
    let queries = queries(&request.query)?;
    let limit = request.max_num_results.unwrap_or(10);
    if !(1..=50).contains(&limit) {
        return Err(ApiError::field("max_num_results", "`max_num_results` must be from 1 to 50"));
    }
    let ranking = Ranking::read(&request.ranking_options.unwrap_or_default(), "ranking_options")?;
    let filter = match request.filters {
        None => None,
        Some(filter) => {
            fields::check_depth(&filter, "filters")?;
            Some(Filter::parse(&filter).map_err(|error| ApiError::from(error).param("filters"))?)
        }
    };
    let (_, id) = named(&call);
    let hits = search(&call, None, &id, &queries.join("\n"), limit as usize, &ranking, filter).await?;
    let data: Vec<Value> = hits.iter().map(hit_object).collect();
    Ok(respond::json(&json!({
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": data,
        "has_more": false,
        "next_page": null,
    })))
}

fn queries(query: &Value) -> ApiResult<Vec<String>> {
    let texts = match query {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(texts) if (1..=16).contains(&texts.len()) => {
            texts.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    };
    let texts = texts.filter(|texts| texts.iter().any(|text| !text.trim().is_empty()));
    texts.ok_or_else(|| ApiError::field("query", "`query` must be a text, or 1 to 16 texts"))
}

fn hit_object(hit: &Hit) -> Value {
    json!({
        "file_id": hit.file,
        "filename": hit.file_name,
        "score": hit.score,
        "attributes": hit.attributes,
        "content": [{ "type": "text", "text": hit.text }],
    })
}
