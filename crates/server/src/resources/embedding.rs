//! The vector of a text, by a served model.

use crate::error::{ApiError, ApiResult};
use crate::generate::{Tally, embed_part};
use crate::models::Lease;
use crate::route::Call;
use alti_engine::serving::Pooling;

/// The vector of a text's tokens, as a part of a request if there is a tally. What does not fit into the model's context is
/// left out.
///
/// # Errors
/// A full queue, or a failure of the model.
pub(super) async fn embed(
    call: &Call,
    tally: Option<&Tally>,
    model: &Lease,
    tokens: Vec<u32>,
) -> ApiResult<Vec<f32>> {
    let mut vectors = vectors(call, tally, model, vec![tokens]).await?;
    vectors.pop().ok_or_else(|| ApiError::internal("a text has no vector"))
}

/// The vectors of several texts, which are one request to the key's quotas and in its usage.
///
/// # Errors
/// As [`embed`].
pub(super) async fn embed_all(call: &Call, model: &Lease, texts: Vec<Vec<u32>>) -> ApiResult<Vec<Vec<f32>>> {
    vectors(call, None, model, texts).await
}

async fn vectors(
    call: &Call,
    tally: Option<&Tally>,
    model: &Lease,
    mut texts: Vec<Vec<u32>>,
) -> ApiResult<Vec<Vec<f32>>> {
    texts.iter_mut().for_each(|tokens| tokens.truncate(model.inference.context().max(1)));
    let (vectors, _) = embed_part(call, tally, model, texts, Pooling::Mean).await?;
    Ok(vectors)
}
