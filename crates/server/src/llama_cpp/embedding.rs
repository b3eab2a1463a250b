//! `POST /embedding`.

use super::prompts::Prompts;
use crate::error::{ApiError, ApiResult};
use crate::generate::{embed, normalized};
use crate::openai::embeddings::{inputs, pooling};
use crate::respond;
use crate::route::Call;
use axum::body::Body;
use axum::http::Response;

crate::wire! {
    /// A request for texts' vectors.
    pub struct LlamaEmbeddingRequest {
        optional {
            /// One or several texts, or their tokens.
            content: Prompts,
            /// Another name of `content`.
            input: Prompts,
            /// The model's name; the server's default model where none is given.
            model: String,
            /// How states become one vector: `mean`, `last` or `cls`.
            pooling: String,
            /// How vectors are scaled: 2 (or nothing) gives them length 1 and 1 the sum 1 of what values are without their
            /// signs; greater numbers do the same with that power; 0 makes the greatest value 32760, and a negative number
            /// gives them as they are.
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
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let texts = inputs(&call, &model, content)?;
    let (vectors, _) = embed(&call, &model, texts, pooling).await?;
    let told = vectors.into_iter().enumerate().map(|(index, values)| LlamaEmbedding {
        index,
        embedding: vec![scaled(values, request.embd_normalize.unwrap_or(2))],
    });
    Ok(respond::json(&told.collect::<Vec<LlamaEmbedding>>()))
}

/// A vector scaled as llama.cpp's `embd_normalize` says.
fn scaled(mut values: Vec<f32>, by: i32) -> Vec<f32> {
    /// What 16 bits hold, with some room.
    const LARGEST: f64 = 32760.0;
    let absolute = values.iter().map(|&value| f64::from(value.abs()));
    let length = match by {
        ..0 => return values,
        2 => return normalized(values, None),
        0 => absolute.fold(0.0, f64::max) / LARGEST,
        power => absolute.map(|value| value.powi(power)).sum::<f64>().powf(f64::from(power).recip()),
    };
    if length > 0.0 && length.is_finite() {
        values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::scaled;

    #[test]
    fn vectors_are_scaled_as_they_are_asked_for() {
        for (by, expected) in [
            (-1, [3.0, -4.0]),
            (0, [24570.0, -32760.0]),
            (1, [3.0 / 7.0, -4.0 / 7.0]),
            (2, [0.6, -0.8]),
            (3, [3.0 / 91_f32.cbrt(), -4.0 / 91_f32.cbrt()]),
            (i32::MAX, [3.0, -4.0]),
        ] {
            let found = scaled(vec![3.0, -4.0], by);
            assert!(
                found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6 * b.abs()),
                "{by}: {found:?}"
            );
        }
        assert_eq!(scaled(vec![0.0, 0.0], 3), [0.0, 0.0]);
    }
}
