//! Requests of many prompts: a few of them at a time are in the works, so that one request cannot fill the engine's queue
//! and have everybody else refused.

use super::run::{Origin, begin, most_tokens};
use super::{Answer, Generation, Meter, Options, collect};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::models::Lease;
use crate::route::Call;
use crate::telemetry::Operation;
use alti_engine::EngineError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How long a part waits before it looks again whether there is room for it.
const REST: Duration = Duration::from_millis(50);

/// How many parts of a request are in the works at once: half of what the engine runs at once, so that others find a place.
pub(super) fn at_once(model: &Lease, choices: u32) -> usize {
    (model.inference.max_running() / 2 / choices.max(1) as usize).max(1)
}

/// Tries again while there is no room, for parts of a request that has begun.
pub(super) async fn patiently<T>(first: bool, mut submit: impl FnMut() -> ApiResult<T>) -> ApiResult<T> {
    loop {
        match submit() {
            Err(error) if error.kind == ErrorKind::RateLimit && !first => tokio::time::sleep(REST).await,
            outcome => return outcome,
        }
    }
}

/// The answers to a request's prompts, in order. Dropping it cancels what is in the works.
#[derive(Debug)]
pub struct Parts {
    /// Parts in the works.
    running: VecDeque<Generation>,
    rest: Option<Rest>,
}

/// What has not begun.
#[derive(Debug)]
struct Rest {
    prompts: VecDeque<Vec<u32>>,
    origin: Origin,
    model: Arc<Lease>,
    meter: Meter,
    options: Options,
    at_once: usize,
}

/// A request of one part.
impl From<Generation> for Parts {
    fn from(generation: Generation) -> Parts {
        Parts { running: VecDeque::from([generation]), rest: None }
    }
}

impl Parts {
    /// Has prompts gone on with, the first of them at once.
    ///
    /// # Errors
    /// Options that make no sense, a prompt that is too long, a full queue, a quota that is used up.
    pub async fn start(
        call: &Call,
        model: Arc<Lease>,
        prompts: Vec<Vec<u32>>,
        options: Options,
    ) -> ApiResult<Parts> {
        // What cannot be is told before anything is done.
        prompts.iter().try_for_each(|prompt| check(prompt, model.inference.context()))?;
        let meter = Meter::new(call, Operation::TextCompletion, &model.facts.name);
        meter.reserve(call, most_tokens(&model, &options, prompts.iter().map(Vec::len))).await?;
        let at_once = at_once(&model, options.choices);
        let (origin, prompts) = (Origin::of(call), prompts.into());
        let rest = Some(Rest { prompts, origin, model, meter, options, at_once });
        let mut parts = Parts { running: VecDeque::new(), rest };
        parts.fill(true).await?;
        Ok(parts)
    }

    /// The part whose answer is told now; none behind the last.
    ///
    /// # Errors
    /// When another part cannot begin.
    pub(super) async fn front(&mut self) -> ApiResult<Option<&mut Generation>> {
        self.fill(false).await?;
        Ok(self.running.front_mut())
    }

    /// The part in front has been told.
    pub(super) fn pop(&mut self) {
        self.running.pop_front();
    }

    /// The next part's answer as a whole; none behind the last.
    ///
    /// # Errors
    /// When a part fails, or cannot begin.
    pub async fn answer(&mut self) -> ApiResult<Option<Answer>> {
        self.fill(false).await?;
        match self.running.pop_front() {
            Some(generation) => collect(generation).await.map(Some),
            None => Ok(None),
        }
    }

    /// Begins as many parts as there is room for. Whoever waits for this may give up and come again: a prompt is only taken
    /// out when its part has begun.
    async fn fill(&mut self, first: bool) -> ApiResult<()> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        loop {
            let Some(prompt) = rest.prompts.front() else {
                // The meter is done with the last part.
                self.rest = None;
                return Ok(());
            };
            // Asked for each piece of an answer: nothing is copied before there is room.
            if self.running.len() >= rest.at_once {
                return Ok(());
            }
            let (model, options) = (rest.model.clone(), rest.options.clone());
            match begin(&rest.origin, model, &rest.meter, prompt.clone(), options).await {
                Ok(generation) => {
                    rest.prompts.pop_front();
                    self.running.push_back(generation);
                }
                // The queue is full of others': what has begun goes on, and this part waits for its turn.
                Err(error) if error.kind == ErrorKind::RateLimit && !(first && self.running.is_empty()) => {
                    if !self.running.is_empty() {
                        return Ok(());
                    }
                    tokio::time::sleep(REST).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Refuses a prompt that can never be computed.
fn check(prompt: &[u32], context: usize) -> ApiResult<()> {
    match prompt.len() {
        0 => Err(ApiError::from(EngineError::EmptyPrompt)),
        tokens if tokens > context => Err(ApiError::from(EngineError::ContextFull { tokens, context })),
        _ => Ok(()),
    }
}
