//! The vector of a text, by a served model.

use crate::error::{ApiError, ApiResult};
use crate::generate;
use crate::models::Lease;
use crate::route::Call;
use alti_engine::serving::Pooling;

/// The vector of a text's tokens. What does not fit into the model's context is left out.
///
/// # Errors
/// A full queue, or a failure of the model.
pub(super) async fn embed(call: &Call, model: &Lease, mut tokens: Vec<u32>) -> ApiResult<Vec<f32>> {
    tokens.truncate(model.inference.context().max(1));
    let (mut vectors, _) = generate::embed(call, model, vec![tokens], Pooling::Mean).await?;
    vectors.pop().ok_or_else(|| ApiError::internal("a text has no vector"))
}
