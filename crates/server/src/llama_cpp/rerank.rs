//! `POST /rerank`: documents in the order in which they go with a query.
//!
//! A document's score is the mean log-probability of the query's tokens where the model has just read the document and
//! was asked for a question about it: "Improving Passage Retrieval with Zero-Shot Question Generation" (Sachan et al.,
//! 2022). It needs no model that was trained for ranking. Scores are negative; nearer to 0 is better.

use crate::error::{ApiError, ApiResult};
use crate::generate::{encode_plain, encode_text, likelihoods, with_text};
use crate::respond;
use crate::route::Call;
use alti_text::{Specials, Tokenizer};
use axum::body::Body;
use axum::http::Response;
use serde_json::Value;
use std::sync::Arc;

crate::wire! {
    /// Documents to be ordered.
    pub struct RerankRequest {
        required {
            /// What is asked.
            query: String,
            /// Texts, or objects with a `text`.
            documents: Vec<Value>,
        }
        optional {
            /// The model's name; the server's default model where none is given.
            model: String,
            /// Only so many of the best.
            top_n: u32,
            /// Whether the documents come back with their scores.
            return_documents: bool,
        }
    }
    /// Documents in order.
    pub struct Reranked {
        required {
            /// Always `list`.
            object: String,
            /// The model, as it was asked for.
            model: String,
            /// The documents, the best first.
            results: Vec<RankedDocument>,
            /// What it took.
            usage: RerankUsage,
        }
    }
    /// A document's score.
    pub struct RankedDocument {
        required {
            /// Its place among the request's documents, from 0.
            index: usize,
            /// The mean log-probability of the query's tokens, given the document: nearer to 0 is better.
            relevance_score: f64,
        }
        optional {
            /// The document, where it was asked for.
            document: Value,
        }
    }
    /// What ranking took.
    pub struct RerankUsage {
        required {
            /// Tokens of documents and queries.
            prompt_tokens: usize,
            /// The same.
            total_tokens: usize,
        }
    }
}

/// A prompt that ends with the query, and how many of its tokens are the query's.
fn prompt(tokenizer: &Tokenizer, document: &str, query: &str) -> (Vec<u32>, usize) {
    // The paper's words.
    let before = format!("Passage: {document}\nPlease write a question based on this passage.\nQuestion:");
    let mut tokens = encode_text(tokenizer, &before, Specials::AsText);
    let query = encode_plain(tokenizer, &format!(" {query}"), Specials::AsText);
    tokens.extend(&query);
    (tokens, query.len())
}

/// `POST /rerank`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (RerankRequest, _) = call.json(|_| false).await?;
    if request.query.is_empty() {
        return Err(ApiError::field("query", "`query` is empty"));
    }
    let most = call.state.settings().max_inputs;
    if request.documents.is_empty() || request.documents.len() > most {
        return Err(ApiError::field(
            "documents",
            format!("`documents` must have between 1 and {most} texts"),
        ));
    }
    let model = Arc::new(call.state.models().acquire(request.model.as_deref(), None).await?);
    let prompts = request.documents.iter().enumerate().map(|(index, document)| {
        let text = document.as_str().or_else(|| document["text"].as_str()).ok_or_else(|| {
            let place = format!("documents[{index}]");
            ApiError::field(place.clone(), format!("`{place}` must be a string, or an object with a `text`"))
        })?;
        Ok(prompt(&model.tokenizer, text, &request.query))
    });
    let bytes = request.documents.iter().map(|document| document.to_string().len()).sum();
    let prompts = with_text(bytes, || prompts.collect::<ApiResult<Vec<_>>>())?;
    let (scores, usage) = likelihoods(&call, &model, prompts).await?;
    let mut results: Vec<RankedDocument> = scores
        .into_iter()
        .enumerate()
        .map(|(index, relevance_score)| RankedDocument {
            index,
            relevance_score,
            document: (request.return_documents == Some(true)).then(|| request.documents[index].clone()),
        })
        .collect();
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(request.top_n.map_or(usize::MAX, |count| count as usize));
    Ok(respond::json(&Reranked {
        object: "list".into(),
        model: model.requested.clone(),
        results,
        usage: RerankUsage { prompt_tokens: usage.prompt_tokens, total_tokens: usage.prompt_tokens },
    }))
}
