//! Mirostat, versions 1 and 2: cuts the distribution so that the surprise (`-log2 p`) of the
//! chosen tokens stays near a target, by feedback from each choice to the next cut (Basu et al.,
//! "Mirostat: a neural text decoding algorithm that directly controls perplexity", 2021,
//! <https://arxiv.org/abs/2007.14966>).
//!
//! The feedback happens when a token is accepted, not when it is drawn, so that drawing twice at
//! one position gives the same token.

use super::candidates::Candidates;
use super::draw::Sampled;

/// Tokens that version 1 estimates the slope of the distribution from.
const ESTIMATED_FROM: usize = 100;

/// Which of the two algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Estimates a Zipf exponent and from it a top-k.
    One,
    /// Drops tokens more surprising than the current limit.
    Two,
}

/// The controller: its target and its state.
#[derive(Clone, Debug)]
pub(super) struct Mirostat {
    version: Version,
    /// Target surprise in bits (tau).
    target: f32,
    /// Learning rate (eta).
    rate: f32,
    /// The limit on surprise (mu), in bits.
    limit: f32,
    /// The latest token drawn and its surprise, until it is accepted.
    drawn: Option<(u32, f32)>,
}

impl Mirostat {
    pub(super) fn new(version: Version, target: f32, rate: f32) -> Self {
        Self { version, target, rate, limit: 2.0 * target, drawn: None }
    }

    /// Cuts the list; the most likely candidate always stays.
    pub(super) fn apply(&self, candidates: &mut Candidates, vocabulary_size: usize) {
        match self.version {
            Version::One => {
                let count = self.count(candidates, vocabulary_size);
                candidates.keep_most_likely(count);
            }
            Version::Two => self.drop_surprising(candidates),
        }
    }

    /// Remembers what was drawn from the list after the cut.
    pub(super) fn note(&mut self, sampled: Sampled) {
        self.drawn = Some((sampled.token, -sampled.probability.log2()));
    }

    /// Learns from the surprise of `token` if it is the one drawn last. Prompt tokens and tokens
    /// forced from outside were not drawn, so they teach nothing.
    pub(super) fn accept(&mut self, token: u32) {
        if let Some((drawn, surprise)) = self.drawn.take()
            && drawn == token
        {
            self.limit -= self.rate * (surprise - self.target);
        }
    }

    /// Version 1: how many tokens to keep, from the Zipf exponent that the logits' slope suggests.
    fn count(&self, candidates: &mut Candidates, vocabulary_size: usize) -> usize {
        let best = candidates.sort_front(ESTIMATED_FROM);
        if best.len() < 2 {
            return 1;
        }
        let (mut products, mut squares) = (0.0, 0.0);
        for (rank, pair) in (1u8..).zip(best.windows(2)) {
            let rank = f32::from(rank);
            let step = ((rank + 1.0) / rank).ln();
            products += step * (pair[0].logit - pair[1].logit);
            squares += step * step;
        }
        let exponent = products / squares;
        let excess = exponent - 1.0;
        let base = excess * self.limit.exp2() / (1.0 - (vocabulary_size as f32).powf(-excess));
        // A degenerate estimate is NaN or infinite; the conversion makes it 0 or all tokens.
        (base.powf(1.0 / exponent) as usize).max(1)
    }

    /// Version 2: keeps tokens within the limit, or the most likely one if there are none.
    fn drop_surprising(&self, candidates: &mut Candidates) {
        let softmax = candidates.softmax();
        let Some(best) = candidates.most_likely() else { return };
        let least = -f64::from(self.limit) * std::f64::consts::LN_2;
        candidates.retain(|candidate| candidate == best || softmax.log_probability(candidate.logit) >= least);
    }
}
