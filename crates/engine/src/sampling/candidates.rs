//! The working list of a sampler chain: the tokens still in play with their logits. It exists so
//! that every sampler shares one buffer, one tie rule (lower token id first) and one way to take
//! the best few of a quarter of a million entries without sorting them all.
//!
//! Probabilities are never stored: a sampler that needs them takes [`Candidates::softmax`] and
//! asks it entry by entry.

use std::cmp::Ordering;
use std::collections::HashMap;

/// One token still in play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: u32,
    /// Finite: tokens at minus infinity are dropped when they appear.
    pub(super) logit: f32,
}

impl Candidate {
    /// Most likely first; equal logits by token id, so that no result depends on how a partial
    /// sort happened to move entries.
    pub(super) fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
        b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
    }
}

/// What is known about the order of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Order {
    /// Ascending token id.
    #[default]
    Token,
    /// [`Candidate::by_likelihood`].
    Likelihood,
    Unknown,
}

/// The tokens still in play. The buffer keeps its capacity from one token to the next.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    entries: Vec<Candidate>,
    order: Order,
}

/// The softmax of a list at the time it was taken: `p(logit) = exp(logit - maximum) / total`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    pub(super) maximum: f32,
    /// Sum of `exp(logit - maximum)`; at least 1.
    pub(super) total: f64,
    log_total: f64,
}

impl Softmax {
    /// `exp(logit - maximum)`, 1 for the most likely token.
    pub(super) fn weight(self, logit: f32) -> f64 {
        f64::from((logit - self.maximum).exp())
    }

    pub(super) fn probability(self, logit: f32) -> f64 {
        self.weight(logit) / self.total
    }

    /// Natural logarithm of the probability; exact where the probability itself underflows.
    pub(super) fn log_probability(self, logit: f32) -> f64 {
        f64::from(logit) - f64::from(self.maximum) - self.log_total
    }
}

impl Candidates {
    /// Takes in one row of logits, which must be free of NaN and plus infinity, without the tokens
    /// that `mask` (see [`allows`]) forbids or that are at minus infinity.
    pub(super) fn load(&mut self, logits: &[f32], mask: Option<&[u32]>) {
        self.entries.clear();
        self.entries.extend((0u32..).zip(logits).map(|(token, &logit)| Candidate { token, logit }));
        self.order = Order::Token;
        if let Some(mask) = mask {
            self.retain(|candidate| allows(mask, candidate.token));
        }
        if logits.iter().fold(false, |seen, &logit| seen | (logit == f32::NEG_INFINITY)) {
            self.retain(|candidate| candidate.logit != f32::NEG_INFINITY);
        }
    }

    pub(super) fn entries(&self) -> &[Candidate] {
        &self.entries
    }

    /// The most likely candidate, or none if the list is empty.
    pub(super) fn most_likely(&self) -> Option<Candidate> {
        match self.order {
            Order::Likelihood => self.entries.first().copied(),
            _ => self.entries.iter().copied().min_by(Candidate::by_likelihood),
        }
    }

    /// Maximum and normaliser over the whole list.
    pub(super) fn softmax(&self) -> Softmax {
        let maximum = self.most_likely().map_or(0.0, |best| best.logit);
        let mut softmax = Softmax { maximum, total: 0.0, log_total: 0.0 };
        softmax.total = sum(&self.entries, |candidate| softmax.weight(candidate.logit));
        softmax.log_total = softmax.total.ln();
        softmax
    }

    /// Drops the candidates that `keep` refuses; the order of the others stays.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Candidate) -> bool) {
        self.entries.retain(|&candidate| keep(candidate));
    }

    /// Leaves only `candidate`.
    pub(super) fn keep_only(&mut self, candidate: Candidate) {
        self.entries.clear();
        self.entries.push(candidate);
    }

    /// Keeps the `count` most likely candidates, in order; nothing happens if there are no more.
    ///
    /// One pass: entries better than the worst of the best `count` so far are packed to the front,
    /// and each time that front has doubled it is cut back to `count`. Most entries of a large
    /// vocabulary fail the one comparison and are never moved.
    pub(super) fn keep_most_likely(&mut self, count: usize) {
        if count >= self.entries.len() {
            return;
        }
        if count == 0 {
            return self.entries.clear();
        }
        if self.order != Order::Likelihood {
            let front = count.saturating_mul(2).min(self.entries.len());
            let mut kept = 0;
            let mut worst: Option<Candidate> = None;
            for read in 0..self.entries.len() {
                let candidate = self.entries[read];
                if worst.is_some_and(|worst| Candidate::by_likelihood(&candidate, &worst).is_gt()) {
                    continue;
                }
                self.entries[kept] = candidate;
                kept += 1;
                if kept == front {
                    self.select(0, kept, count, Candidate::by_likelihood);
                    worst = Some(self.entries[count - 1]);
                    kept = count;
                }
            }
            if kept > count {
                self.select(0, kept, count, Candidate::by_likelihood);
            }
            self.entries[..count].sort_unstable_by(Candidate::by_likelihood);
            self.order = Order::Likelihood;
        }
        self.entries.truncate(count);
    }

    /// Sorts the `count` most likely candidates to the front, drops none, and returns them.
    pub(super) fn sort_front(&mut self, count: usize) -> &[Candidate] {
        let count = count.min(self.entries.len());
        if self.order != Order::Likelihood {
            self.select(0, self.entries.len(), count, Candidate::by_likelihood);
            self.entries[..count].sort_unstable_by(Candidate::by_likelihood);
            self.order = Order::Unknown;
        }
        &self.entries[..count]
    }

    /// Keeps the shortest prefix, in the order of `compare`, whose probabilities satisfy `enough`,
    /// which gets the mass so far. Sorts in growing pieces, because the prefix is mostly short.
    pub(super) fn keep_mass(
        &mut self,
        softmax: Softmax,
        compare: impl Fn(&Candidate, &Candidate) -> Ordering + Copy,
        enough: impl Fn(f64) -> bool,
    ) {
        const FIRST_PIECE: usize = 128;
        let mut weight = 0.0;
        let (mut start, mut piece) = (0, FIRST_PIECE);
        while start < self.entries.len() {
            let end = (start + piece).min(self.entries.len());
            self.select(start, self.entries.len(), end - start, compare);
            self.entries[start..end].sort_unstable_by(compare);
            for index in start..end {
                weight += softmax.weight(self.entries[index].logit);
                if enough(weight / softmax.total) {
                    self.entries.truncate(index + 1);
                    self.order = Order::Unknown;
                    return;
                }
            }
            (start, piece) = (end, piece * 4);
        }
        self.order = Order::Unknown;
    }

    /// Brings the first `count` of `entries[start..end]` to its front, the last of them last and
    /// the others in no order.
    fn select(
        &mut self,
        start: usize,
        end: usize,
        count: usize,
        compare: impl FnMut(&Candidate, &Candidate) -> Ordering,
    ) {
        if 0 < count && count < end - start {
            self.entries[start..end].select_nth_unstable_by(count - 1, compare);
        }
    }

    /// Sets the logit of each candidate named in `changes` to what `change` makes of it. A result
    /// beyond the range of `f32` is clamped, so that logits stay finite.
    pub(super) fn adjust<T>(&mut self, changes: &HashMap<u32, T>, change: impl Fn(f32, &T) -> f32) {
        let apply = |candidate: &mut Candidate, value: &T| {
            candidate.logit = change(candidate.logit, value).clamp(f32::MIN, f32::MAX);
        };
        if self.order == Order::Token {
            for (&token, value) in changes {
                if let Some(index) = self.index_of(token) {
                    apply(&mut self.entries[index], value);
                }
            }
        } else {
            for candidate in &mut self.entries {
                if let Some(value) = changes.get(&candidate.token) {
                    apply(candidate, value);
                }
            }
            self.order = Order::Unknown;
        }
    }

    /// Where `token` is in a list ordered by token: at its own index unless some were dropped.
    fn index_of(&self, token: u32) -> Option<usize> {
        let own = token as usize;
        if self.entries.get(own).is_some_and(|candidate| candidate.token == token) {
            return Some(own);
        }
        self.entries.binary_search_by_key(&token, |candidate| candidate.token).ok()
    }

    /// Divides every logit by `divisor`, which must be positive; the order stays.
    pub(super) fn divide(&mut self, divisor: f32) {
        for candidate in &mut self.entries {
            candidate.logit = (candidate.logit / divisor).clamp(f32::MIN, f32::MAX);
        }
    }
}

/// The sum of `value` over `items` in eight interleaved parts, so that an addition need not wait
/// for the one before it. The parts are fixed: the same items always give the same sum.
pub(super) fn sum<T>(items: &[T], value: impl Fn(&T) -> f64) -> f64 {
    const PARTS: usize = 8;
    let mut parts = [0.0; PARTS];
    let chunks = items.chunks_exact(PARTS);
    let rest: f64 = chunks.remainder().iter().map(&value).sum();
    for chunk in chunks {
        for (part, item) in parts.iter_mut().zip(chunk) {
            *part += value(item);
        }
    }
    parts.iter().sum::<f64>() + rest
}

/// Whether bit `token` of the set is on. Tokens beyond its end are forbidden.
pub(super) fn allows(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// The largest of `values` and the first index that has it, or none if there are none. Sixteen
/// running maxima let the compiler use vector instructions; NaN is the caller's to exclude.
pub(super) fn argmax(values: &[f32]) -> Option<(usize, f32)> {
    const LANES: usize = 16;
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (maximum, &value) in maxima.iter_mut().zip(chunk) {
            *maximum = if value > *maximum { value } else { *maximum };
        }
    }
    let best = maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|&value| value == best).map(|index| (index, best))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loaded(logits: &[f32]) -> Candidates {
        let mut candidates = Candidates::default();
        candidates.load(logits, None);
        candidates
    }

    fn sorted(logits: &[f32]) -> Vec<Candidate> {
        let mut entries = loaded(logits).entries;
        entries.sort_by(Candidate::by_likelihood);
        entries
    }

    proptest! {
        /// Few distinct values, so that ties are everywhere.
        #[test]
        fn the_best_few_are_those_of_a_full_sort(
            logits in prop::collection::vec((-6i8..6).prop_map(f32::from), 1..600), count in 1usize..300
        ) {
            let mut candidates = loaded(&logits);
            candidates.keep_most_likely(count);
            let mut expected = sorted(&logits);
            expected.truncate(count);
            if count < logits.len() {
                prop_assert_eq!(candidates.entries(), &expected[..]);
            } else {
                prop_assert_eq!(candidates.entries().len(), logits.len());
            }
        }

        #[test]
        fn mass_is_that_of_a_full_sort(
            logits in prop::collection::vec(-4f32..4.0, 1..900), wanted in 0f64..1.0
        ) {
            let mut candidates = loaded(&logits);
            let softmax = candidates.softmax();
            candidates.keep_mass(softmax, Candidate::by_likelihood, |mass| mass >= wanted);
            let all = sorted(&logits);
            let mut weight = 0.0;
            let count = all.iter().position(|candidate| {
                weight += softmax.weight(candidate.logit);
                weight / softmax.total >= wanted
            });
            prop_assert_eq!(candidates.entries(), &all[..count.map_or(all.len(), |index| index + 1)]);
        }

        #[test]
        fn argmax_is_the_first_largest(values in prop::collection::vec((-9i8..9).prop_map(f32::from), 0..80)) {
            let mut expected: Option<(usize, f32)> = None;
            for (index, &value) in values.iter().enumerate() {
                if expected.is_none_or(|(_, best)| value > best) {
                    expected = Some((index, value));
                }
            }
            prop_assert_eq!(argmax(&values), expected);
        }
    }

    #[test]
    fn mask_and_minus_infinity_drop_tokens() {
        let mut candidates = Candidates::default();
        candidates.load(&[1.0, 2.0, f32::NEG_INFINITY, 3.0], Some(&[0b1101]));
        let tokens: Vec<u32> = candidates.entries().iter().map(|candidate| candidate.token).collect();
        assert_eq!(tokens, [0, 3]);
        candidates.load(&[0.0; 40], Some(&[1 << 31, 0b10]));
        let tokens: Vec<u32> = candidates.entries().iter().map(|candidate| candidate.token).collect();
        assert_eq!(tokens, [31, 33]);
    }

    #[test]
    fn adjust_finds_tokens_in_every_order() {
        let changes = HashMap::from([(1, 10.0), (4, 20.0), (9, 30.0)]);
        for prepare in [
            |_: &mut Candidates| (),
            |list: &mut Candidates| list.retain(|candidate| candidate.token != 0),
            |list: &mut Candidates| list.keep_most_likely(4),
        ] {
            let mut candidates = loaded(&[1.0, 2.0, 3.0, 4.0, 5.0]);
            prepare(&mut candidates);
            candidates.adjust(&changes, |logit, change| logit + change);
            let logit = |token| candidates.entries().iter().find(|c| c.token == token).map(|c| c.logit);
            assert_eq!((logit(1), logit(2), logit(4)), (Some(12.0), Some(3.0), Some(25.0)));
            assert_eq!(candidates.most_likely().map(|best| best.token), Some(4));
        }
    }
}
