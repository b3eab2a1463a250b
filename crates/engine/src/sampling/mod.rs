//! From logits to the next token: a chain of samplers in an order that the user sets, each in a
//! file of its own. Meanings, names and defaults are llama.cpp's, so that known values behave as
//! known; the random numbers are not, see `random`.
//!
//! A [`Sampler`] belongs to one answer (a choice of a request). What it remembers changes only in
//! [`Sampler::accept`], and the random number of a token depends on nothing but the seed, the
//! choice and the token's position, so drawing again at a position gives the same token. The big
//! buffers are in a [`Workspace`], of which a worker thread needs one, however many sequences it
//! serves; nothing is allocated per token once they have grown.

mod breakers;
mod candidates;
mod chain;
mod draw;
mod dry;
mod exponential;
mod history;
mod logit_bias;
mod logprobs;
mod min_p;
mod mirostat;
mod order;
mod passes;
mod penalties;
mod random;
mod setting;
mod settings;
mod temperature;
#[cfg(test)]
mod testing;
mod top_k;
mod top_n_sigma;
mod top_p;
mod typical;
mod xtc;

pub use breakers::SequenceBreakers;
pub use draw::Sampled;
pub use logit_bias::LogitBias;
pub use logprobs::LogProbabilities;
pub use order::{SamplerInfo, SamplerName};
pub use setting::{Kind, Setting};
pub use settings::{PRESETS, Preset, SETTINGS, SamplerSettings};

use crate::error::EngineError;
use alti_text::{Specials, Tokenizer};
use candidates::Candidates;
use chain::Stage;
use history::History;
use mirostat::Mirostat;
use random::{Purpose, RandomNumbers};
use std::sync::Arc;

/// The token of the largest logit, the lowest among equals.
pub(crate) fn most_likely(logits: &[f32]) -> Option<u32> {
    passes::largest(logits).map(|(token, _)| token as u32)
}

/// The buffers of a sampling step, reused from token to token and from sequence to sequence.
#[derive(Debug, Default)]
pub struct Workspace {
    candidates: Candidates,
}

/// The sampler chain of one answer, with what it remembers of the text so far.
#[derive(Clone, Debug)]
pub struct Sampler {
    stages: Vec<Stage>,
    mirostat: Option<Mirostat>,
    logit_bias: LogitBias,
    history: History,
    numbers: RandomNumbers,
    vocabulary_size: usize,
}

impl Sampler {
    /// Builds the chain for a model with `vocabulary_size` logits. `choice` is the index of the
    /// answer among those of a request: with one seed, each choice draws differently. `breakers`
    /// are the resolved `dry_sequence_breakers`; only DRY needs them
    /// ([`SamplerSettings::uses_dry`]). A seed of -1 becomes a fresh one here, another for each
    /// sampler; [`SamplerSettings::fix_seed`] before makes it one for all choices.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(
        settings: &SamplerSettings,
        vocabulary_size: usize,
        choice: u32,
        breakers: &Arc<SequenceBreakers>,
    ) -> Result<Self, EngineError> {
        settings.validate()?;
        let stages = chain::stages(settings, breakers);
        let history = stages.iter().map(Stage::history_needed).max().unwrap_or(0);
        Ok(Self {
            stages,
            mirostat: chain::mirostat(settings),
            logit_bias: settings.logit_bias.clone(),
            history: History::new(history),
            numbers: RandomNumbers { seed: settings.clone().fix_seed() as u64, choice },
            vocabulary_size,
        })
    }

    /// The sampler of the first answer to `prompt`, which is in its memory; DRY's sequence breakers are the tokenizer's tokens.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn for_text(
        settings: &SamplerSettings,
        tokenizer: &Tokenizer,
        vocabulary_size: usize,
        prompt: &[u32],
    ) -> Result<Self, EngineError> {
        // Before breakers are looked for that are too long or too many.
        settings.validate()?;
        let breakers = match settings.uses_dry() {
            true => {
                let known = tokenizer.vocabulary_size().min(vocabulary_size) as u32;
                let vocabulary = (0..known).map(|token| (token, tokenizer.token_bytes(token)));
                let encode = |text: &str| tokenizer.encode(text, Specials::AsText);
                SequenceBreakers::from_strings(&settings.dry_sequence_breakers, vocabulary, encode)
            }
            false => SequenceBreakers::default(),
        };
        let mut sampler = Self::new(settings, vocabulary_size, 0, &Arc::new(breakers))?;
        prompt.iter().for_each(|&token| sampler.accept(token));
        Ok(sampler)
    }

    /// The same for another answer of the request.
    #[must_use]
    pub fn for_choice(&self, choice: u32) -> Self {
        Self { numbers: RandomNumbers { choice, ..self.numbers }, ..self.clone() }
    }

    /// Takes note of a token that is now part of the sequence: the prompt's and every drawn one.
    pub fn accept(&mut self, token: u32) {
        self.history.push(token);
        for stage in &mut self.stages {
            stage.accept(&self.history);
        }
        if let Some(mirostat) = &mut self.mirostat {
            mirostat.accept(token);
        }
    }

    /// Draws the token for absolute `position` from `logits`. `mask`, if given, is a set of bits,
    /// 32 tokens a word and the lowest first: tokens whose bit is off are out of the question.
    ///
    /// # Errors
    /// If there are not as many logits as tokens, if one is NaN or plus infinity, or if every
    /// token is forbidden.
    pub fn sample(
        &mut self,
        workspace: &mut Workspace,
        logits: &[f32],
        position: u64,
        mask: Option<&[u32]>,
    ) -> Result<Sampled, EngineError> {
        self.check(logits, position)?;
        let forbidden = EngineError::NoTokenAllowed { position };
        if self.is_argmax() && mask.is_none() {
            let best = passes::largest(logits).filter(|&(_, logit)| logit != f32::NEG_INFINITY);
            let (token, _) = best.ok_or(forbidden)?;
            return Ok(Sampled { token: token as u32, probability: 1.0 });
        }
        let candidates = &mut workspace.candidates;
        self.shape(candidates, logits, position, mask);
        let uniform = self.numbers.uniform(position, Purpose::Token);
        let sampled = draw::draw(candidates, candidates.softmax(), uniform).ok_or(forbidden)?;
        if let Some(mirostat) = &mut self.mirostat {
            mirostat.note(sampled);
        }
        Ok(sampled)
    }

    /// Makes of the model's distribution the one to draw from.
    fn shape(&mut self, candidates: &mut Candidates, logits: &[f32], position: u64, mask: Option<&[u32]>) {
        candidates.load(logits, mask);
        logit_bias::apply(&self.logit_bias, candidates);
        for stage in &mut self.stages {
            stage.apply(candidates, &self.history, self.numbers, position);
        }
        if let Some(mirostat) = &self.mirostat {
            mirostat.apply(candidates, self.vocabulary_size);
        }
    }

    /// Whether the result is the largest logit and nothing has to be remembered.
    fn is_argmax(&self) -> bool {
        matches!(self.stages[..], [Stage::Greedy]) && self.logit_bias.0.is_empty()
    }

    fn check(&self, logits: &[f32], position: u64) -> Result<(), EngineError> {
        let (expected, actual) = (self.vocabulary_size, logits.len());
        if actual != expected {
            return Err(EngineError::LogitCount { expected, actual, position });
        }
        // The fold has no early exit, so that it compiles to vector instructions.
        let is_bad = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
        if logits.iter().fold(false, |bad, &logit| bad | is_bad(logit))
            && let Some(token) = logits.iter().position(|&logit| is_bad(logit))
        {
            return Err(EngineError::BadLogit { position, token, value: logits[token] });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// One case of `tests/fixtures/llama_cpp_chains.json`.
    #[derive(Deserialize)]
    struct Case {
        settings: SamplerSettings,
        /// DRY's sequence breakers as tokens.
        breakers: Vec<Vec<u32>>,
        history: Vec<u32>,
        logits: Vec<f32>,
        /// Token and probability of what llama.cpp's samplers leave, by token.
        left: Vec<(u32, f64)>,
    }

    /// Chains of random samplers in random orders, and both Mirostats, leave the distribution that
    /// llama.cpp's own samplers leave.
    #[test]
    fn chains_agree_with_llama_cpp() {
        let json = include_str!("../../tests/fixtures/llama_cpp_chains.json");
        let cases: Vec<Case> = serde_json::from_str(json).unwrap();
        for (index, case) in cases.iter().enumerate() {
            let breakers = Arc::new(SequenceBreakers::from_tokens(case.breakers.iter().cloned()));
            let mut sampler = Sampler::new(&case.settings, case.logits.len(), 0, &breakers).unwrap();
            case.history.iter().for_each(|&token| sampler.accept(token));
            let mut candidates = Candidates::default();
            sampler.shape(&mut candidates, &case.logits, 0, None);
            let softmax = candidates.softmax();
            let mut left: Vec<(u32, f64)> = candidates
                .entries()
                .iter()
                .map(|candidate| (candidate.token, softmax.probability(candidate.logit)))
                .collect();
            left.sort_by_key(|&(token, _)| token);
            let close = left.len() == case.left.len()
                && left.iter().zip(&case.left).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-5);
            assert!(close, "case {index}, {:?}:\n{left:?}\nllama.cpp: {:?}", case.settings, case.left);
        }
    }
}
