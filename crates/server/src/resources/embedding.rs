//! Vectors of texts, by a served model.

use crate::error::{ApiError, ApiResult};
use crate::generate::Meter;
use crate::models::Lease;
use crate::route::Call;
use alti_engine::serving::{EmbeddingJob, Output, Pooling};
use tokio::sync::mpsc::unbounded_channel;

/// The vector of a text's tokens. What does not fit into the model's context is left out.
///
/// # Errors
/// A full queue, or a failure of the model.
pub(super) async fn embed(call: &Call, model: &Lease, mut tokens: Vec<u32>) -> ApiResult<Vec<f32>> {
    tokens.truncate(model.inference.context().max(1));
    if tokens.is_empty() {
        return Err(ApiError::invalid("an empty text has no vector"));
    }
    let mut meter = Meter::new(call, &model.facts.name);
    let (sender, mut outputs) = unbounded_channel();
    let sink = Box::new(move |output| sender.send(output).is_ok());
    let priority = call.errand.priority;
    let job = EmbeddingJob { tokens, pooling: Pooling::Mean, priority, deadline: None };
    let _cancel = model.inference.embed(job, sink)?;
    while let Some(output) = outputs.recv().await {
        match output {
            Output::Embedding { values, usage } => {
                meter.add(&usage);
                meter.ended("stop");
                return Ok(values);
            }
            Output::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
    Err(ApiError::internal("the engine stopped before it told a text's vector"))
}
