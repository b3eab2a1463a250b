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
use serde_json::{Value, json};
use std::sync::Arc;

crate::wire! {
    /// Documents to be ordered.
    pub struct RerankRequest {
        required {
            /// What is asked.
            query: String,
        }
        optional {
            /// Texts, or objects with a `text`.
            documents: Vec<Value>,
            /// The same in the form of Text Embeddings Inference, whose answer is a list of objects with `index` and `score`.
            texts: Vec<Value>,
            /// The model's name; the server's default model where none is given.
            model: String,
            /// Only so many of the best, as far as there are so many.
            top_n: i64,
            /// Whether `documents` come back with their scores, as objects with a `text`.
            return_documents: bool,
            /// Whether `texts` come back with their scores.
            return_text: bool,
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

/// A document's text; `place` is where it came from.
///
/// # Errors
/// When it is none.
fn text_of<'a>(document: &'a Value, place: &str) -> ApiResult<&'a str> {
    document.as_str().or_else(|| document["text"].as_str()).ok_or_else(|| {
        ApiError::field(place, format!("`{place}` must be a string, or an object with a `text`"))
    })
}

/// A document as it comes back: an object, whatever it came as.
fn as_object(document: &Value) -> Value {
    match document {
        Value::String(text) => json!({ "text": text }),
        document => document.clone(),
    }
}

/// `POST /rerank`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (RerankRequest, _) = call.json(|_| false).await?;
    if request.query.is_empty() {
        return Err(ApiError::field("query", "`query` is empty"));
    }
    let (field, documents) = match (&request.documents, &request.texts) {
        (Some(documents), _) => ("documents", documents),
        (None, Some(texts)) => ("texts", texts),
        (None, None) => return Err(ApiError::field("documents", "`documents` is missing")),
    };
    let most = call.state.settings().max_inputs;
    if documents.is_empty() || documents.len() > most {
        return Err(ApiError::field(field, format!("`{field}` must have between 1 and {most} texts")));
    }
    let model = Arc::new(call.state.models().acquire(request.model.as_deref(), None).await?);
    let prompts = documents.iter().enumerate().map(|(index, document)| {
        let text = text_of(document, &format!("{field}[{index}]"))?;
        Ok(prompt(&model.tokenizer, text, &request.query))
    });
    let bytes = documents.iter().map(|document| document.to_string().len()).sum();
    let prompts = with_text(bytes, || prompts.collect::<ApiResult<Vec<_>>>())?;
    let (scores, usage) = likelihoods(&call, &model, prompts).await?;
    let mut ranks: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
    ranks.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranks.truncate(request.top_n.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(0)));
    if field == "texts" {
        return Ok(respond::json(&scored(&ranks, documents, request.return_text == Some(true))));
    }
    let told = request.return_documents == Some(true);
    let results = ranks.into_iter().map(|(index, relevance_score)| RankedDocument {
        index,
        relevance_score,
        document: told.then(|| as_object(&documents[index])),
    });
    Ok(respond::json(&Reranked {
        object: "list".into(),
        model: model.requested.clone(),
        results: results.collect(),
        usage: RerankUsage { prompt_tokens: usage.prompt_tokens, total_tokens: usage.prompt_tokens },
    }))
}

/// Ranks as Text Embeddings Inference tells them.
fn scored(ranks: &[(usize, f64)], texts: &[Value], with_text: bool) -> Vec<Value> {
    let told = ranks.iter().map(|&(index, score)| match with_text {
        true => json!({ "index": index, "score": score, "text": as_object(&texts[index])["text"] }),
        false => json!({ "index": index, "score": score }),
    });
    told.collect()
}
