//! Vectors of texts, and how likely a text is: what embeddings and reranking need of a model.

use super::parts::{at_once, patiently};
use super::{Meter, Most, Options, Parts, Tally};
use crate::error::{ApiError, ApiResult};
use crate::models::{Cancel, Lease};
use crate::route::Call;
use crate::telemetry::Operation;
use alti_engine::sampling::SamplerSettings;
use alti_engine::serving::{CacheDomain, EmbeddingJob, Output, Pooling, TokenOutput, Usage};
use futures_util::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A text that becomes a vector. If its caller goes away the job is cancelled, and what it took until then is kept all the
/// same.
struct Pending {
    cancel: Cancel,
    outputs: UnboundedReceiver<Output>,
    submitted: Instant,
    /// None when the end is heard.
    meter: Option<Meter>,
}

impl Pending {
    fn submit(model: &Lease, meter: &Meter, job: EmbeddingJob) -> ApiResult<Pending> {
        let (sender, outputs) = unbounded_channel();
        let sink = Box::new(move |output| sender.send(output).is_ok());
        let submitted = Instant::now();
        let cancel = model.inference.embed(job, sink)?;
        meter.ended("failed");
        Ok(Pending { cancel, outputs, submitted, meter: Some(meter.clone()) })
    }

    async fn vector(mut self) -> ApiResult<(Vec<f32>, Usage)> {
        let output = self.outputs.recv().await;
        let meter = self.meter.take();
        note(meter.as_ref(), self.submitted, output.as_ref());
        match output {
            Some(Output::Embedding { values, usage }) => Ok((values, usage)),
            Some(Output::Failed(error)) => Err(error.into()),
            _ => Err(ApiError::internal("the engine gave no vector")),
        }
    }
}

/// Adds what a job took to the request's sum.
fn note(meter: Option<&Meter>, submitted: Instant, end: Option<&Output>) {
    match (meter, end) {
        (Some(meter), Some(Output::Embedding { usage, .. })) => meter.add(submitted, 0, usage),
        (Some(meter), Some(Output::Failed(error))) => meter.add_failed(submitted, error),
        _ => {}
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(meter) = self.meter.take() else { return };
        (self.cancel)();
        meter.ended("cancelled");
        let (_, none) = unbounded_channel();
        let (mut outputs, submitted) = (std::mem::replace(&mut self.outputs, none), self.submitted);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { note(Some(&meter), submitted, outputs.recv().await.as_ref()) });
        }
    }
}

/// The vectors of texts, as the model gives them, in order, and what they took together.
///
/// # Errors
/// A text that is empty or too long, a full queue.
pub async fn embed(
    call: &Call,
    model: &Lease,
    texts: Vec<Vec<u32>>,
    pooling: Pooling,
) -> ApiResult<(Vec<Vec<f32>>, Usage)> {
    embed_part(call, None, model, texts, pooling).await
}

/// The same as a part of a request; as all of it, if there is no tally.
///
/// # Errors
/// As [`embed`].
pub(crate) async fn embed_part(
    call: &Call,
    tally: Option<&Tally>,
    model: &Lease,
    texts: Vec<Vec<u32>>,
    pooling: Pooling,
) -> ApiResult<(Vec<Vec<f32>>, Usage)> {
    let (operation, name) = (Operation::Embeddings, &model.facts.name);
    let meter = match tally {
        Some(tally) => tally.part(call, operation, name),
        None => Meter::new(call, operation, name),
    };
    let prompt = texts.iter().map(|tokens| tokens.len() as u64).sum();
    meter.reserve(call, Most { prompt, generated: 0 }).await?;
    let vectors = texts
        .into_iter()
        .enumerate()
        .map(|(index, tokens)| embed_one(call, model, &meter, tokens, pooling, index == 0));
    let mut results = futures_util::stream::iter(vectors).buffered(at_once(model, 1));
    let (mut vectors, mut sum) = (Vec::new(), Usage::default());
    loop {
        match results.try_next().await {
            Ok(Some((values, usage))) => {
                super::collect::add_usage(&mut sum, &usage);
                vectors.push(values);
            }
            Ok(None) => break,
            Err(error) => {
                // The other texts are cancelled with it, which is not how the request ended.
                drop(results);
                meter.failed();
                return Err(error);
            }
        }
    }
    drop(results);
    meter.ended("stop");
    meter.close().settled().await;
    Ok((vectors, sum))
}

async fn embed_one(
    call: &Call,
    model: &Lease,
    meter: &Meter,
    tokens: Vec<u32>,
    pooling: Pooling,
    first: bool,
) -> ApiResult<(Vec<f32>, Usage)> {
    let patience = call.state.settings().request_timeout_seconds.map(Duration::from_secs);
    let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
    let adapter = model.adapter();
    let job = EmbeddingJob {
        tokens,
        pooling,
        priority: call.errand.priority,
        deadline,
        adapter: adapter.cloned(),
        domain: CacheDomain::of(call.principal.tenant(), adapter),
    };
    patiently(first, || Pending::submit(model, meter, job.clone())).await?.vector().await
}

/// A vector of length 1 out of the first `dimensions` values.
pub fn normalized(mut values: Vec<f32>, dimensions: Option<usize>) -> Vec<f32> {
    values.truncate(dimensions.unwrap_or(usize::MAX));
    let square = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
    if square > 0.0 && square.is_finite() {
        let factor = square.sqrt().recip();
        values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
    }
    values
}

/// The mean log-probability of tokens; 0 of none.
pub fn likelihood(tokens: &[TokenOutput]) -> f64 {
    let sum: f64 = tokens.iter().filter_map(|token| token.logprob).map(f64::from).sum();
    sum / tokens.len().max(1) as f64
}

/// The mean log-probability of the last `scored` tokens of each prompt, and what that took.
///
/// # Errors
/// A prompt that is empty or too long, a full queue.
pub async fn likelihoods(
    call: &Call,
    model: &Arc<Lease>,
    prompts: Vec<(Vec<u32>, usize)>,
) -> ApiResult<(Vec<f64>, Usage)> {
    let sampling = SamplerSettings { max_tokens: 0, ..SamplerSettings::greedy() };
    let options = Options { prompt_logprobs: true, logprobs: Some(0), ..Options::new(sampling) };
    let (prompts, scored): (Vec<_>, Vec<usize>) = prompts.into_iter().unzip();
    let mut parts = Parts::start(call, model.clone(), prompts, options).await?;
    let (mut scores, mut sum) = (Vec::new(), Usage::default());
    for scored in scored {
        let Some(answer) = parts.answer().await? else { break };
        super::collect::add_usage(&mut sum, &answer.usage);
        scores.push(likelihood(&answer.prompt[answer.prompt.len().saturating_sub(scored)..]));
    }
    Ok((scores, sum))
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn vectors_are_cut_and_then_of_length_one() {
        assert_eq!(normalized(vec![3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(normalized(vec![0.0, 0.0], None), [0.0, 0.0]);
    }
}
