//! One answer in the works: its tokens, its pages, and what draws its next token.

use super::draft::{Drafting, Spare};
use super::job::{Job, Output, Pooling, Priority, Sink, SlotStatus, TokenOutput, Usage};
use super::prefix::NodeId;
use super::teller::Teller;
use crate::EngineError;
use crate::grammar::Grammar;
use crate::sampling::{LogProbabilities, Sampler, Workspace};
use crate::stop::FinishReason;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What the answers to one request share.
pub(super) struct Request {
    /// Ascending in order of submission.
    pub(super) id: u64,
    pub(super) job: Job,
    pub(super) submitted: Instant,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) sink: RefCell<Sink>,
    /// Whether the request has left the queue.
    pub(super) started: Cell<bool>,
}

impl Request {
    /// Tells the caller; one that listens no more has cancelled.
    pub(super) fn tell(&self, output: Output) {
        if !(self.sink.borrow_mut())(output) {
            self.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Why its answers are to end now, if they are.
    pub(super) fn ended(&self, now: Instant) -> Option<FinishReason> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Some(FinishReason::Cancelled);
        }
        self.job.deadline.filter(|&deadline| now >= deadline).map(|_| FinishReason::TimedOut)
    }
}

/// One sequence of the cache.
pub(super) struct Sequence {
    pub(super) request: Rc<Request>,
    pub(super) choice: u32,
    /// The prompt, and behind it what was generated.
    pub(super) tokens: Vec<u32>,
    /// Tokens whose keys and values are in the pages, from the first on.
    pub(super) computed: usize,
    /// The pages, in order of positions; not all of them need be full, or begun.
    pub(super) pages: Vec<u32>,
    /// Where in the prefix tree the sequence's full pages end, and how many they are; none without a prefix cache.
    pub(super) place: Option<(NodeId, usize)>,
    pub(super) task: Task,
    pub(super) usage: Usage,
    pub(super) first_step: Option<Instant>,
    pub(super) first_token: Option<Instant>,
}

/// What a sequence is for.
pub(super) enum Task {
    /// Text.
    Generate(Box<Generation>),
    /// The sum of its hidden states, or one of them.
    Embed(Pooling, Vec<f64>),
}

impl Task {
    /// The request's other answers that are still to come of it.
    pub(super) fn siblings(&self) -> usize {
        match self {
            Task::Generate(generation) => generation.siblings.len(),
            Task::Embed(..) => 0,
        }
    }
}

/// The state of an answer that is text.
pub(super) struct Generation {
    pub(super) drawing: Drawing,
    pub(super) teller: Teller,
    pub(super) drafting: Drafting,
    /// Tokens tried behind the last one in this step.
    pub(super) draft: Vec<u32>,
    /// Whether the draft model is still to say what they are.
    pub(super) is_guess: bool,
    /// Tokens that the draft model has computed.
    pub(super) followed: usize,
    /// The request's other answers, until the prompt is computed.
    pub(super) siblings: Vec<Sequence>,
    /// The prompt's log-probabilities so far.
    pub(super) prompt: Vec<TokenOutput>,
}

impl Sequence {
    /// Tokens that are known and not computed.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Who goes first: smaller is earlier.
    pub(super) fn rank(&self) -> (std::cmp::Reverse<Priority>, u64, u32) {
        (std::cmp::Reverse(self.request.job.priority), self.request.id, self.choice)
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.request.job.prompt.len()
    }

    /// How many answers come of it: all of the request's, until its prompt is computed.
    pub(super) fn answers(&self) -> usize {
        1 + self.task.siblings()
    }

    /// Takes note of a step that it is part of, which begins now.
    pub(super) fn note_step(&mut self, now: Instant) {
        if self.first_step.is_none() {
            self.first_step = Some(now);
            self.usage.queue_seconds = now.duration_since(self.request.submitted).as_secs_f64();
        }
        // What is there and was in none of its steps was cached.
        self.usage.cached_tokens += self.count_prompt();
    }

    /// Counts what is there of the prompt; returns how much of it was never counted. The prompt counts once: with the first
    /// of its answers, and not again where that made room for others and is computed anew.
    pub(super) fn count_prompt(&mut self) -> usize {
        if self.choice != 0 {
            return 0;
        }
        let before = self.usage.prompt_tokens;
        self.usage.prompt_tokens = before.max(self.computed.min(self.request.job.prompt.len()));
        self.usage.prompt_tokens - before
    }

    /// What it took, when it ends now. Of one that was in no step nothing was computed: it has waited, and that is all.
    pub(super) fn usage_at_the_end(&self) -> Usage {
        let Some(first_step) = self.first_step else {
            let queue_seconds = self.request.submitted.elapsed().as_secs_f64();
            return Usage { queue_seconds, ..Usage::default() };
        };
        let (prefill_seconds, decode_seconds) = match self.first_token {
            Some(at) => (self.usage.prefill_seconds, at.elapsed().as_secs_f64()),
            None => (first_step.elapsed().as_secs_f64(), 0.0),
        };
        Usage { prefill_seconds, decode_seconds, ..self.usage }
    }

    /// Whether the prompt's tokens are still to be told with their log-probabilities.
    pub(super) fn wants_prompt(&self) -> bool {
        self.request.job.prompt_logprobs && self.choice == 0 && self.generated() == 0
    }

    /// The tokens tried behind the last one.
    pub(super) fn draft(&self) -> &[u32] {
        match &self.task {
            Task::Generate(generation) => &generation.draft,
            Task::Embed(..) => &[],
        }
    }

    /// The answer in a status.
    pub(super) fn status(&self) -> SlotStatus {
        SlotStatus {
            job: self.request.id,
            choice: self.choice,
            prompt_tokens: self.request.job.prompt.len(),
            computed_tokens: self.computed,
            generated_tokens: self.generated(),
        }
    }

    /// Chooses what to try behind the last token, at most `room` tokens: what the grammar forces, or, where the machine
    /// has rows to spare, what followed the same words before, or what a draft model will say.
    pub(super) fn make_draft(&mut self, room: usize, spare: Spare, has_model: bool) {
        let left = self.request.job.sampling.max_tokens;
        let generated = self.generated();
        let is_decoding = self.pending() == 1;
        let Task::Generate(generation) = &mut self.task else { return };
        generation.draft.clear();
        generation.is_guess = false;
        // The draw behind the draft gives one token more.
        let left = usize::try_from(left).map_or(usize::MAX, |most| most.saturating_sub(generated + 1));
        let room = room.min(left);
        if room == 0 || !self.request.job.speculate {
            return;
        }
        if let Some(grammar) = &mut generation.drawing.grammar {
            generation.draft = grammar.forced();
            generation.draft.truncate(room);
        }
        if !generation.draft.is_empty() {
            return;
        }
        generation.draft = generation.drafting.draft(&self.tokens, room, spare);
        if generation.draft.is_empty() && spare == Spare::Rows && has_model && is_decoding {
            generation.draft = vec![0; generation.drafting.length(room)];
            generation.is_guess = !generation.draft.is_empty();
        }
    }
}

/// What draws an answer's tokens: all of it that other threads may touch.
pub(super) struct Drawing {
    pub(super) sampler: Sampler,
    pub(super) grammar: Option<Grammar>,
    /// Tokens that end the answer.
    pub(super) ends: Arc<[u32]>,
    pub(super) logprobs: Option<usize>,
    pub(super) seed: i64,
    /// What the last step drew.
    pub(super) drawn: Vec<TokenOutput>,
    pub(super) error: Option<EngineError>,
}

impl Drawing {
    /// Draws the tokens from absolute position `position` on, a row of `logits` for each: the first, and as long as what
    /// was drawn is what `draft` guessed, the next.
    pub(super) fn draw(&mut self, workspace: &mut Workspace, logits: &[f32], position: u64, draft: &[u32]) {
        self.drawn.clear();
        let columns = logits.len() / (draft.len() + 1);
        for (index, row) in logits.chunks_exact(columns).enumerate() {
            let token = match self.draw_one(workspace, row, position + index as u64) {
                Ok(token) => token,
                Err(error) => {
                    self.error = Some(error);
                    return;
                }
            };
            let is_end =
                self.ends.contains(&token) || self.grammar.as_ref().is_some_and(Grammar::is_finished);
            if is_end || draft.get(index) != Some(&token) {
                return;
            }
        }
    }

    fn draw_one(
        &mut self,
        workspace: &mut Workspace,
        logits: &[f32],
        position: u64,
    ) -> Result<u32, EngineError> {
        let mask = self.grammar.as_mut().map(Grammar::mask).transpose()?;
        let token = self.sampler.sample(workspace, logits, position, mask)?.token;
        self.drawn.push(token_output(logits, token, self.logprobs));
        if !self.ends.contains(&token) {
            self.sampler.accept(token);
            self.grammar.as_mut().map(|grammar| grammar.accept(token)).transpose()?;
        }
        Ok(token)
    }
}

/// A token with what was asked of log-probabilities: `None`, or so many of the most likely tokens.
pub(super) fn token_output(logits: &[f32], token: u32, logprobs: Option<usize>) -> TokenOutput {
    let Some(count) = logprobs else { return TokenOutput { token, logprob: None, top: Vec::new() } };
    let probabilities = LogProbabilities::new(logits);
    TokenOutput { token, logprob: probabilities.of(token), top: probabilities.top(count) }
}
