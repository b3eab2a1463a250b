//! `POST /embedding`.

use crate::error::{ApiError, ApiResult};
use crate::generate::{embed, normalized};
use crate::openai::embeddings::{inputs, pooling};
use crate::respond;
use crate::route::Call;
use crate::wire::TextOrTokens;
use axum::body::Body;
use axum::http::Response;

crate::wire! {
    /// A request for texts' vectors.
    pub struct LlamaEmbeddingRequest {
        optional {
            /// One or several texts, or their tokens.
            content: TextOrTokens,
            /// Another name of `content`.
            input: TextOrTokens,
            /// The model's name; the server's default model where none is given.
            model: String,
            /// How states become one vector: `mean`, `last` or `cls`.
            pooling: String,
            /// 2 (or nothing) gives vectors of length 1; a negative number gives them as they are.
            embd_normalize: i32,
        }
    }
    /// A text's vectors.
    pub struct LlamaEmbedding {
        required {
            /// Which text's, from 0.
            index: usize,
            /// Its one vector.
            embedding: Vec<Vec<f32>>,
        }
    }
}

/// `POST /embedding`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (LlamaEmbeddingRequest, _) = call.json(|_| false).await?;
    let content = request.content.or(request.input);
    let content = content.ok_or_else(|| ApiError::field("content", "`content` is missing"))?;
    let pooling = pooling(request.pooling.as_deref())?;
    let normalizes = match request.embd_normalize {
        None | Some(2) => true,
        Some(..0) => false,
        Some(_) => {
            return Err(ApiError::field(
                "embd_normalize",
                "`embd_normalize` must be 2, or negative for none",
            ));
        }
    };
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let texts = inputs(&call, &model, content.into_inputs())?;
    let (vectors, _) = embed(&call, &model, texts, pooling).await?;
    let told = vectors.into_iter().enumerate().map(|(index, values)| {
        let values = if normalizes { normalized(values, None) } else { values };
        LlamaEmbedding { index, embedding: vec![values] }
    });
    Ok(respond::json(&told.collect::<Vec<LlamaEmbedding>>()))
}
