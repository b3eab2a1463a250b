//! What a caller asks of a serving engine, and what it hears back.

use crate::EngineError;
use crate::adapters::Lease;
use crate::grammar::GrammarSource;
use crate::sampling::SamplerSettings;
use crate::stop::FinishReason;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Who goes first where there is not enough for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Nobody waits for it: it takes what is left.
    Batch,
    /// Somebody waits.
    #[default]
    Interactive,
}

/// Whose keys and values a request may use again, and whose adapter changes them: requests share a cached prefix only
/// within one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CacheDomain {
    /// The tenant; requests of others never find its prefixes, not even by how long an answer takes.
    pub tenant: String,
    /// The fingerprint of the adapter in use, if any. Of a job it is the engine that says it.
    pub adapter: Option<String>,
}

impl CacheDomain {
    /// What a tenant computes with this adapter.
    pub fn of(tenant: &str, adapter: Option<&Lease>) -> CacheDomain {
        let adapter = adapter.map(|lease| lease.fingerprint().to_owned());
        CacheDomain { tenant: tenant.to_owned(), adapter }
    }
}

/// One request for text: a prompt, and one or several answers to it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// How tokens are drawn, and what ends an answer besides the model.
    pub sampling: SamplerSettings,
    /// Answers wanted; they share the prompt's keys and values.
    pub choices: u32,
    /// Whether the model's end-of-answer tokens are ignored.
    pub ignore_end: bool,
    /// How many of the most likely tokens are told with each token; `None` tells no log-probabilities.
    pub logprobs: Option<usize>,
    /// Whether the prompt's tokens are told with their log-probabilities first (`logprobs` says how many others).
    pub prompt_logprobs: bool,
    /// What the text has to obey.
    pub grammar: Option<GrammarSource>,
    /// Whether control tokens are spelled out in the text (to see tool calls of models that mark them so).
    pub spell_specials: bool,
    /// Who goes first.
    pub priority: Priority,
    /// When an answer that is not finished is given up.
    pub deadline: Option<Instant>,
    /// The adapter that changes the answer, whatever its name means by now.
    pub adapter: Option<Lease>,
    /// Whose cached prefixes may be used.
    pub domain: CacheDomain,
    /// Whether cached prefixes are used and left behind.
    pub cache_prompt: bool,
    /// Whether drafts may be tried (the answer is the same).
    pub speculate: bool,
    /// The slot that remembers the text, of this tenant's and with this adapter.
    pub slot: Option<u32>,
}

impl Job {
    /// One answer to a prompt, with nothing special about it.
    pub fn new(prompt: Vec<u32>, sampling: SamplerSettings) -> Job {
        Job {
            prompt,
            sampling,
            choices: 1,
            ignore_end: false,
            logprobs: None,
            prompt_logprobs: false,
            grammar: None,
            spell_specials: false,
            priority: Priority::default(),
            deadline: None,
            adapter: None,
            domain: CacheDomain::default(),
            cache_prompt: true,
            speculate: true,
            slot: None,
        }
    }
}

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over all tokens.
    #[default]
    Mean,
    /// The last token's.
    Last,
    /// The first token's.
    Cls,
}

/// A request for one vector.
#[derive(Clone, Debug)]
pub struct EmbeddingJob {
    /// The text's tokens.
    pub tokens: Vec<u32>,
    /// How states become one vector.
    pub pooling: Pooling,
    /// Who goes first.
    pub priority: Priority,
    /// When it is given up.
    pub deadline: Option<Instant>,
    /// The adapter that changes the states.
    pub adapter: Option<Lease>,
    /// Whose it is.
    pub domain: CacheDomain,
}

/// One token with its log-probability under the model, before any sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenOutput {
    /// The token.
    pub token: u32,
    /// Its natural log-probability; `None` where it was not asked for, and for a prompt's first token.
    pub logprob: Option<f32>,
    /// The most likely tokens at its position with theirs, best first.
    pub top: Vec<(u32, f32)>,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt that were computed or cached: all of them, unless the job ended before.
    pub prompt_tokens: usize,
    /// Of these, tokens whose keys and values were cached.
    pub cached_tokens: usize,
    /// Tokens generated, one that ended the answer included.
    pub generated_tokens: usize,
    /// Tokens that were drafted.
    pub drafted_tokens: usize,
    /// Of these, tokens that were right.
    pub accepted_tokens: usize,
    /// Seconds from submission to the first step, or to an end before it.
    pub queue_seconds: f64,
    /// Seconds from there to the first token, the vector, or an end before it.
    pub prefill_seconds: f64,
    /// Seconds from the first token to the last.
    pub decode_seconds: f64,
    /// Seconds of all cores' time that were its share of the steps it took part in.
    pub cpu_seconds: f64,
}

/// Something that a job's caller hears of, in order.
#[derive(Debug)]
pub enum Output {
    /// The prompt with its log-probabilities, before anything else, where they were asked for.
    Prompt(Vec<TokenOutput>),
    /// A choice's next token, and the text that is certain with it: whole characters, perhaps none, perhaps some that
    /// were held back before.
    Token {
        /// Which answer, from 0.
        choice: u32,
        /// The token.
        token: TokenOutput,
        /// Text to append.
        text: String,
    },
    /// A choice is finished; nothing more comes of it. The job is done when all its choices are.
    Finished {
        /// Which answer.
        choice: u32,
        /// The rest of its text.
        text: String,
        /// Why it ended.
        reason: FinishReason,
        /// The seed its tokens were drawn with.
        seed: i64,
        /// What it took. The prompt counts with choice 0 alone.
        usage: Usage,
    },
    /// The vector of an [`EmbeddingJob`], not normalised. The job is done.
    Embedding {
        /// One value for each dimension of the model.
        values: Vec<f32>,
        /// What it took.
        usage: Usage,
    },
    /// The job as a whole failed, or ended before anything was computed; nothing more comes.
    Failed(EngineError),
}

/// Who hears of a job: called on the engine's thread, so it must not wait. Returns whether anybody still listens; if
/// not, the job is cancelled.
pub type Sink = Box<dyn FnMut(Output) -> bool + Send>;

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// There are too many already.
    #[error("{waiting} requests are waiting already: try again in {retry_after_seconds} s")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// A guess at when it is worth trying again.
        retry_after_seconds: u64,
    },
    /// It can never be done: too long, wrong settings, an adapter or grammar that is none.
    #[error(transparent)]
    Invalid(EngineError),
    /// The engine is going down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// What an engine is doing, for metrics, admission and status pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// Answers that wait for their first step, or to go on after they made room.
    pub waiting: usize,
    /// Answers in the works.
    pub running: usize,
    /// Pages of keys and values in all.
    pub pages: usize,
    /// Pages that running answers hold.
    pub used_pages: usize,
    /// Pages that hold prefixes nobody uses now: free when needed.
    pub cached_pages: usize,
    /// Tokens a page holds.
    pub page_tokens: usize,
    /// Adapters that are loaded.
    pub adapters: Vec<String>,
    /// Steps taken.
    pub steps: u64,
    /// Seconds spent in steps.
    pub step_seconds: f64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Prompt tokens that were cached.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens drafted.
    pub drafted_tokens: u64,
    /// Tokens drafted that were right.
    pub accepted_tokens: u64,
    /// Answers that made room for others and were computed again.
    pub preemptions: u64,
    /// Answers finished, cancelled ones included.
    pub finished: u64,
    /// The answers in the works.
    pub slots: Vec<SlotStatus>,
}

/// One answer in the works.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotStatus {
    /// Number of its job, ascending in order of submission.
    pub job: u64,
    /// Which of the job's answers.
    pub choice: u32,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens whose keys and values are there.
    pub computed_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
}
