//! DRY ("don't repeat yourself"): a penalty for the token that would continue a sequence already
//! seen, growing with the length of the repetition:
//! `multiplier * base ^ (length - allowed_length)`. Sequence breakers (line ends, quotes, ...) end
//! a repetition, so that the format of a dialogue may repeat. Source: p-e-w,
//! <https://github.com/oobabooga/text-generation-webui/pull/5677>.

use super::breakers::SequenceBreakers;
use super::candidates::Candidates;
use super::history::History;
use std::collections::HashMap;
use std::sync::Arc;

/// Keeps `logit - penalty` well inside `f32`; far beyond any logit.
const LARGEST_PENALTY: f32 = 1e30;

/// The settings of DRY and the buffers it reuses from token to token.
#[derive(Clone, Debug)]
pub(super) struct Dry {
    pub(super) multiplier: f32,
    pub(super) base: f32,
    /// Repetitions shorter than this are free.
    pub(super) allowed_length: usize,
    /// How many of the latest tokens are searched.
    pub(super) window: usize,
    pub(super) breakers: Arc<SequenceBreakers>,
    scratch: Scratch,
}

#[derive(Clone, Debug, Default)]
struct Scratch {
    latest_first: Vec<u32>,
    repeats: Vec<usize>,
    /// Token to the length of the longest repetition it would continue.
    continuations: HashMap<u32, usize>,
}

impl Dry {
    pub(super) fn new(
        multiplier: f32,
        base: f32,
        allowed_length: usize,
        window: usize,
        breakers: Arc<SequenceBreakers>,
    ) -> Self {
        Self { multiplier, base, allowed_length, window, breakers, scratch: Scratch::default() }
    }

    pub(super) fn apply(&mut self, history: &History, candidates: &mut Candidates) {
        let Scratch { latest_first, repeats, continuations } = &mut self.scratch;
        latest_first.clear();
        latest_first.extend(history.latest_first().take(self.window));
        if latest_first.len() <= self.allowed_length {
            return;
        }
        let limit = self.breakers.tokens_since_last(latest_first);
        if limit < self.allowed_length {
            return;
        }
        repeat_lengths(latest_first, repeats);
        continuations.clear();
        for (age, &repeat) in repeats.iter().enumerate().skip(1) {
            let length = repeat.min(limit);
            // The repetition ends `age` tokens back; the token after it is the one before that.
            let next = latest_first[age - 1];
            if length >= self.allowed_length && !self.breakers.is_breaker(next) {
                let longest = continuations.entry(next).or_insert(length);
                *longest = length.max(*longest);
            }
        }
        candidates.adjust(continuations, |logit, &length| {
            let excess = (length - self.allowed_length) as f32;
            logit - (self.multiplier * self.base.powf(excess)).min(LARGEST_PENALTY)
        });
    }
}

/// For each offset the length of the longest common prefix of `tokens` and `tokens[offset..]` (the
/// Z function, in linear time; Gusfield, "Algorithms on strings, trees and sequences", 1997,
/// section 1.4). With the latest token first, that is how many of the latest tokens also occurred
/// `offset` tokens earlier. Entry 0 is not meaningful.
fn repeat_lengths(tokens: &[u32], lengths: &mut Vec<usize>) {
    lengths.clear();
    lengths.resize(tokens.len(), 0);
    // tokens[start..end] is the match found so far that reaches furthest.
    let (mut start, mut end) = (0, 0);
    for offset in 1..tokens.len() {
        let mut length = if offset < end { lengths[offset - start].min(end - offset) } else { 0 };
        while tokens.get(offset + length) == Some(&tokens[length]) {
            length += 1;
        }
        if offset + length > end {
            (start, end) = (offset, offset + length);
        }
        lengths[offset] = length;
    }
}

#[cfg(test)]
mod tests {
    use super::super::breakers::SequenceBreakers;
    use super::super::history::History;
    use super::super::testing::check;
    use super::{Dry, repeat_lengths};
    use proptest::prelude::*;
    use std::sync::Arc;

    struct Case<'a> {
        tokens: &'a [u32],
        multiplier: f32,
        allowed_length: usize,
        breakers: &'a [&'a [u32]],
    }

    impl Case<'_> {
        fn check(&self, probabilities: &[f32], expected: &[f32]) {
            let breakers = SequenceBreakers::from_tokens(self.breakers.iter().map(|tokens| tokens.to_vec()));
            let window = self.tokens.len();
            let mut dry = Dry::new(self.multiplier, 1.1, self.allowed_length, window, Arc::new(breakers));
            let mut history = History::new(dry.window);
            self.tokens.iter().for_each(|&token| history.push(token));
            check(probabilities, |list| dry.apply(&history, list), expected);
        }
    }

    #[test]
    fn vectors_of_llama_cpp() {
        let case = |tokens, multiplier, allowed_length, breakers| Case {
            tokens,
            multiplier,
            allowed_length,
            breakers,
        };
        case(&[0, 1], 1.0, 2, &[]).check(&[0.25; 4], &[0.25; 4]);
        case(&[0, 1, 2, 0, 1], 1.0, 2, &[]).check(&[0.25; 4], &[0.296923, 0.296923, 0.109232, 0.296923]);
        case(&[0, 1, 3, 4, 0, 1], 1.0, 2, &[&[3]]).check(&[0.2; 5], &[0.2; 5]);
        case(&[0, 1, 2, 0, 1], 2.0, 2, &[])
            .check(&[0.2; 5], &[0.241818, 0.241818, 0.032727, 0.241818, 0.241818]);
        case(&[0, 1, 2, 3, 4, 0, 1], 1.0, 4, &[]).check(&[0.2; 5], &[0.2; 5]);
    }

    #[test]
    fn a_repetition_does_not_reach_across_a_breaker() {
        let tokens = [0, 1, 2, 3, 0, 1, 2];
        let penalised = |length: i32| {
            let weight = (-(1.1f32.powi(length - 1))).exp();
            let total = 3.0 + weight;
            [1.0 / total, 1.0 / total, 1.0 / total, weight / total]
        };
        let case = |breakers| Case { tokens: &tokens, multiplier: 1.0, allowed_length: 1, breakers };
        case(&[]).check(&[0.25; 4], &penalised(3));
        case(&[&[0]]).check(&[0.25; 4], &penalised(2));
        case(&[&[0, 1]]).check(&[0.25; 4], &penalised(1));
        case(&[&[2]]).check(&[0.25; 4], &[0.25; 4]);
    }

    proptest! {
        #[test]
        fn repeat_lengths_are_the_common_prefixes(tokens in prop::collection::vec(0u32..3, 0..60)) {
            let mut lengths = Vec::new();
            repeat_lengths(&tokens, &mut lengths);
            for offset in 1..tokens.len() {
                let common = tokens.iter().zip(&tokens[offset..]).take_while(|(a, b)| a == b).count();
                prop_assert_eq!(lengths[offset], common);
            }
        }
    }
}
