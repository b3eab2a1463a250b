//! The working list of a sampler chain: the tokens still in play with their logits. It exists so
//! that every sampler shares one buffer, one tie rule (lower token id first) and one way to take
//! the best few of a quarter of a million entries without sorting them all.
//!
//! Most chains cut the vocabulary down to a few dozen tokens at once. Until something does, the
//! list is the row of logits itself, whose passes compile to vector instructions; then it is one
//! of entries.
//!
//! Probabilities are never stored: a sampler that needs them takes [`Candidates::softmax`] and
//! asks it entry by entry.

use super::exponential::exponential;
use super::passes::{self, PIECE, reaches};
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

    /// Whether it can be drawn at all.
    fn is_in_play(&self) -> bool {
        self.logit != f32::NEG_INFINITY
    }
}

/// How the list is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Form {
    /// `logits` by token id; those at minus infinity are out of play.
    #[default]
    Row,
    /// `entries`, by [`Candidate::by_likelihood`].
    Sorted,
    /// `entries`, in an order that nobody relies on.
    Entries,
}

/// The tokens still in play. The buffers keep their capacity from one token to the next.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    logits: Vec<f32>,
    entries: Vec<Candidate>,
    form: Form,
    /// Those of one bin, while a nucleus is sought.
    bin: Vec<Candidate>,
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
        f64::from(exponential(logit - self.maximum))
    }

    pub(super) fn probability(self, logit: f32) -> f64 {
        self.weight(logit) / self.total
    }

    /// Natural logarithm of the probability; exact where the probability itself underflows.
    pub(super) fn log_probability(self, logit: f32) -> f64 {
        f64::from(logit) - f64::from(self.maximum) - self.log_total
    }
}

/// A mask that allows fewer than one in so many makes a list of entries at once.
const FEW: usize = 8;

impl Candidates {
    /// Takes in one row of logits, which must be free of NaN and plus infinity, without the tokens
    /// at minus infinity or whose bit in `mask` is off: 32 tokens a word, the lowest first, tokens
    /// beyond its end are forbidden.
    pub(super) fn load(&mut self, logits: &[f32], mask: Option<&[u32]>) {
        self.logits.clear();
        self.entries.clear();
        self.form = Form::Row;
        let Some(mask) = mask else { return self.logits.extend_from_slice(logits) };
        let allowed: usize = mask.iter().map(|word| word.count_ones() as usize).sum();
        if allowed > logits.len() / FEW {
            self.logits.extend_from_slice(logits);
            for (index, piece) in self.logits.chunks_mut(PIECE).enumerate() {
                forbid(piece, mask.get(index).copied().unwrap_or(0));
            }
            return;
        }
        self.form = Form::Entries;
        for ((first, piece), &word) in (0..).step_by(PIECE).zip(logits.chunks(PIECE)).zip(mask) {
            if word != 0 {
                let piece = (first..).zip(piece).map(|(token, &logit)| Candidate { token, logit });
                let is_allowed = |candidate: &Candidate| word >> (candidate.token - first) & 1 == 1;
                self.entries.extend(piece.filter(is_allowed).filter(Candidate::is_in_play));
            }
        }
    }

    /// The candidates, in the list's order.
    pub(super) fn entries(&mut self) -> &[Candidate] {
        self.list()
    }

    /// How many there may be: tokens at minus infinity can be counted in.
    pub(super) fn most(&self) -> usize {
        if self.form == Form::Row { self.logits.len() } else { self.entries.len() }
    }

    /// The most likely candidate, or none if the list is empty.
    pub(super) fn most_likely(&self) -> Option<Candidate> {
        match self.form {
            Form::Row => passes::largest(&self.logits)
                .map(|(token, logit)| Candidate { token: token as u32, logit })
                .filter(Candidate::is_in_play),
            Form::Sorted => self.entries.first().copied(),
            Form::Entries => self.entries.iter().copied().min_by(Candidate::by_likelihood),
        }
    }

    /// Maximum and normaliser over the whole list.
    pub(super) fn softmax(&self) -> Softmax {
        let maximum = self.most_likely().map_or(0.0, |best| best.logit);
        let mut softmax = Softmax { maximum, total: 0.0, log_total: 0.0 };
        softmax.total = match self.form {
            Form::Row => passes::total_weight(&self.logits, maximum),
            _ => sum(&self.entries, |candidate| softmax.weight(candidate.logit)),
        };
        softmax.log_total = softmax.total.ln();
        softmax
    }

    /// The list as entries.
    fn list(&mut self) -> &mut Vec<Candidate> {
        self.keep_from(f32::MIN);
        &mut self.entries
    }

    /// Drops the candidates that `keep` refuses; the order of the others stays.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Candidate) -> bool) {
        self.list().retain(|&candidate| keep(candidate));
    }

    /// Drops the candidates whose logit is below `least`; the order of the others stays.
    pub(super) fn keep_from(&mut self, least: f32) {
        if self.form != Form::Row {
            return self.entries.retain(|candidate| candidate.logit >= least);
        }
        self.form = Form::Entries;
        for (first, piece) in (0..).step_by(PIECE).zip(self.logits.chunks(PIECE)) {
            if reaches(piece, least) {
                let piece = (first..).zip(piece).map(|(token, &logit)| Candidate { token, logit });
                self.entries.extend(piece.filter(|candidate| candidate.logit >= least));
            }
        }
    }

    /// Drops the tokens of which `tokens` says something that `is_ban` takes for a ban.
    pub(super) fn forbid<T>(&mut self, tokens: &HashMap<u32, T>, is_ban: impl Fn(&T) -> bool) {
        if self.form != Form::Row {
            return self.retain(|candidate| !tokens.get(&candidate.token).is_some_and(&is_ban));
        }
        for (&token, _) in tokens.iter().filter(|(_, said)| is_ban(said)) {
            if let Some(logit) = self.logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// Leaves only `candidate`.
    pub(super) fn keep_only(&mut self, candidate: Candidate) {
        self.entries.clear();
        self.entries.push(candidate);
        self.form = Form::Sorted;
    }

    /// Keeps the `count` most likely candidates, in order; nothing happens if there are no more.
    pub(super) fn keep_most_likely(&mut self, count: usize) {
        if count == 0 {
            self.form = Form::Sorted;
            return self.entries.clear();
        }
        if count >= self.most() {
            return;
        }
        if self.form == Form::Row {
            self.gather_most_likely(count);
        }
        if self.form != Form::Sorted {
            self.select(0, self.entries.len(), count, Candidate::by_likelihood);
            self.entries.truncate(count);
            self.entries.sort_unstable_by(Candidate::by_likelihood);
            self.form = Form::Sorted;
        }
        self.entries.truncate(count);
    }

    /// Makes entries of the part of the row that has the `count` most likely candidates.
    ///
    /// One pass: what is better than the worst of the best `count` so far is taken, and each time
    /// twice as many have been, the list is cut back to `count`. Most of a large vocabulary fails
    /// the one comparison of its piece and is never looked at again.
    fn gather_most_likely(&mut self, count: usize) {
        self.form = Form::Entries;
        let most = count.saturating_mul(2);
        let mut least = f32::MIN;
        for (first, piece) in (0..).step_by(PIECE).zip(self.logits.chunks(PIECE)) {
            if !reaches(piece, least) {
                continue;
            }
            let piece = (first..).zip(piece).map(|(token, &logit)| Candidate { token, logit });
            self.entries.extend(piece.filter(|candidate| candidate.logit >= least));
            if self.entries.len() >= most {
                self.entries.select_nth_unstable_by(count - 1, Candidate::by_likelihood);
                self.entries.truncate(count);
                least = self.entries[count - 1].logit;
            }
        }
    }

    /// Sorts the `count` most likely candidates to the front, drops none, and returns them.
    pub(super) fn sort_front(&mut self, count: usize) -> &[Candidate] {
        let count = count.min(self.list().len());
        if self.form != Form::Sorted {
            self.select(0, self.entries.len(), count, Candidate::by_likelihood);
            self.entries[..count].sort_unstable_by(Candidate::by_likelihood);
        }
        &self.entries[..count]
    }

    /// Keeps the nucleus: the most likely candidates whose probabilities add up to at least `mass`, at least one, and no
    /// more than it takes. Their order is the list's own, so that nothing is sorted.
    ///
    /// The probabilities are added up in bins of equal width over the logits; only the bin in which the sum reaches
    /// `mass` is looked at candidate by candidate.
    pub(super) fn keep_nucleus(&mut self, mass: f64) {
        const BINS: usize = 1024;
        let softmax = self.softmax();
        if self.form == Form::Sorted {
            return self.keep_mass(softmax, Candidate::by_likelihood, |sum| sum >= mass);
        }
        self.keep_mass_above(softmax, mass);
        let lowest = self.entries.iter().map(|candidate| candidate.logit).fold(softmax.maximum, f32::min);
        let scale = BINS as f32 / (softmax.maximum - lowest).max(f32::MIN_POSITIVE);
        let bin = |logit: f32| (((softmax.maximum - logit) * scale) as usize).min(BINS - 1);
        let mut weights = [0f64; BINS];
        for candidate in &self.entries {
            weights[bin(candidate.logit)] += softmax.weight(candidate.logit);
        }
        let wanted = mass * softmax.total;
        let mut before = 0.0;
        let reached = weights.iter().position(|weight| {
            before += weight;
            before >= wanted
        });
        let Some(reached) = reached else { return };
        before -= weights[reached];
        self.bin.clear();
        self.bin.extend(self.entries.iter().filter(|candidate| bin(candidate.logit) == reached));
        self.bin.sort_unstable_by(Candidate::by_likelihood);
        let last = self.bin.iter().find(|candidate| {
            before += softmax.weight(candidate.logit);
            before >= wanted
        });
        // Rounding can leave the sum just below the mass.
        let Some(last) = last.or(self.bin.last()).copied() else { return };
        self.entries.retain(|candidate| Candidate::by_likelihood(candidate, &last).is_le());
    }

    /// Drops candidates that are certainly not in the nucleus of `mass`.
    fn keep_mass_above(&mut self, softmax: Softmax, mass: f64) {
        /// More than the error of the pass that looks.
        const MARGIN: f64 = 1e-4;
        if self.form == Form::Row && mass + MARGIN <= 1.0 {
            let least = passes::DEPTHS.map(|depth| softmax.maximum - depth);
            let weights = passes::weights_from(&self.logits, softmax.maximum, least);
            let enough =
                weights.into_iter().zip(least).find(|(weight, _)| *weight >= (mass + MARGIN) * softmax.total);
            if let Some((_, least)) = enough {
                return self.keep_from(least);
            }
        }
        // Tokens below (1 - mass) / count hold less than 1 - mass together, so none of them is in the
        // nucleus. Half of that leaves room for rounding.
        let floor = (softmax.total * (1.0 - mass) / self.most() as f64 / 2.0).ln() as f32 + softmax.maximum;
        // A mass of 1 has no floor.
        self.keep_from(floor.max(f32::MIN));
    }

    /// The first candidate, in the list's order, up to and with which the weights of `softmax` add up to more than
    /// `target`.
    pub(super) fn find_weight(&self, softmax: Softmax, target: f64) -> Option<Candidate> {
        /// Candidates whose weights are added up before any is looked at.
        const STRETCH: usize = 512;
        let mut sum_before = 0.0;
        let mut is_reached = |weight: f64| {
            let is_within = sum_before + weight > target;
            sum_before += if is_within { 0.0 } else { weight };
            is_within
        };
        let weight = |logit: f32| softmax.weight(logit);
        if self.form != Form::Row {
            return self.entries.iter().copied().find(|candidate| is_reached(weight(candidate.logit)));
        }
        let stretch = self
            .logits
            .chunks(STRETCH)
            .position(|stretch| is_reached(sum(stretch, |&logit| weight(logit))))?;
        let within = (0u32..).zip(&self.logits).skip(stretch * STRETCH);
        let within = within.map(|(token, &logit)| Candidate { token, logit }).filter(Candidate::is_in_play);
        // Rounding can move the place a little behind the stretch.
        within.clone().find(|candidate| is_reached(weight(candidate.logit)))
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
        self.list();
        if self.form != Form::Sorted {
            self.form = Form::Entries;
        }
        while start < self.entries.len() {
            let end = (start + piece).min(self.entries.len());
            self.select(start, self.entries.len(), end - start, compare);
            self.entries[start..end].sort_unstable_by(compare);
            for index in start..end {
                weight += softmax.weight(self.entries[index].logit);
                if enough(weight / softmax.total) {
                    return self.entries.truncate(index + 1);
                }
            }
            (start, piece) = (end, piece * 4);
        }
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
        let apply = |logit: &mut f32, value: &T| *logit = change(*logit, value).clamp(f32::MIN, f32::MAX);
        if self.form == Form::Row {
            for (&token, value) in changes {
                let logit = self.logits.get_mut(token as usize);
                if let Some(logit) = logit.filter(|logit| **logit != f32::NEG_INFINITY) {
                    apply(logit, value);
                }
            }
            return;
        }
        for candidate in &mut self.entries {
            if let Some(value) = changes.get(&candidate.token) {
                apply(&mut candidate.logit, value);
            }
        }
        self.form = Form::Entries;
    }

    /// Divides every logit by `divisor`, which must be positive; the order stays.
    pub(super) fn divide(&mut self, divisor: f32) {
        if self.form == Form::Row {
            passes::divide(&mut self.logits, divisor);
        }
        for candidate in &mut self.entries {
            candidate.logit = (candidate.logit / divisor).clamp(f32::MIN, f32::MAX);
        }
    }
}

/// Puts the logits of a piece out of play whose bit in `word` is off.
fn forbid(piece: &mut [f32], word: u32) {
    match word {
        u32::MAX => {}
        0 => piece.fill(f32::NEG_INFINITY),
        _ => {
            for (bit, logit) in piece.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// The sum of `value` over `items` in eight interleaved parts, so that an addition need not wait
/// for the one before it. The parts are fixed: the same items always give the same sum.
fn sum<T>(items: &[T], value: impl Fn(&T) -> f64) -> f64 {
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
        let mut entries = loaded(logits).entries().to_vec();
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

        /// Ties, tokens out of play, flat and peaked rows; masses of nothing, of everything, and next to it.
        #[test]
        fn a_nucleus_is_that_of_a_full_sort(
            logits in prop::collection::vec(
                prop_oneof![4 => -4f32..4.0, 1 => Just(2.5f32), 1 => Just(f32::NEG_INFINITY)], 1..900
            ),
            sharpness in prop_oneof![Just(0.0f32), Just(1.0), Just(6.0)],
            mass in prop_oneof![Just(0.0), Just(1e-4), Just(0.9999), Just(0.99995), Just(1.0), 0f64..1.0]
        ) {
            let scaled = |&logit: &f32| if logit == f32::NEG_INFINITY { logit } else { logit * sharpness };
            let logits: Vec<f32> = logits.iter().map(scaled).collect();
            let mut candidates = loaded(&logits);
            let softmax = candidates.softmax();
            candidates.keep_nucleus(mass);
            let all = sorted(&logits);
            let kept = candidates.sort_front(usize::MAX).to_vec();
            prop_assert_eq!(&kept[..], &all[..kept.len()], "the most likely ones");
            prop_assert_eq!(kept.is_empty(), all.is_empty());
            let held = |list: &[Candidate]| list.iter().map(|one| softmax.probability(one.logit)).sum::<f64>();
            prop_assert!(kept.len() == all.len() || held(&kept) >= mass - 1e-9, "{} of {mass}", held(&kept));
            prop_assert!(kept.len() <= 1 || held(&kept[..kept.len() - 1]) < mass + 1e-9, "not the fewest");
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

    proptest! {
        /// Dense masks leave a row, sparse ones make entries; what is left is the same, whatever is done to it.
        #[test]
        fn a_mask_leaves_what_it_allows(
            logits in prop::collection::vec(-4f32..4.0, 1..300),
            words in prop::collection::vec(prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>()], 0..10),
            thin in any::<bool>()
        ) {
            let words: Vec<u32> = words.iter().map(|&word| if thin { word & 0x0010_0001 } else { word }).collect();
            let is_allowed = |token: usize| words.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
            let mut expected: Vec<Candidate> = sorted(&logits);
            expected.retain(|candidate| is_allowed(candidate.token as usize));
            let mut candidates = Candidates::default();
            candidates.load(&logits, Some(&words));
            prop_assert_eq!(candidates.most_likely(), expected.first().copied());
            let total = expected.iter().map(|c| f64::from(c.logit - expected[0].logit).exp()).sum::<f64>();
            prop_assert!(expected.is_empty() || (candidates.softmax().total / total - 1.0).abs() < 1e-6);
            candidates.divide(0.5);
            candidates.keep_from(-3.0);
            expected.retain(|candidate| candidate.logit >= -1.5);
            expected.iter_mut().for_each(|candidate| candidate.logit /= 0.5);
            prop_assert_eq!(candidates.sort_front(usize::MAX), &expected[..]);
        }
    }

    #[test]
    fn adjust_finds_tokens_in_every_form() {
        let changes = HashMap::from([(1, 10.0), (4, 20.0), (9, 30.0)]);
        for prepare in [
            |_: &mut Candidates| (),
            |list: &mut Candidates| list.retain(|candidate| candidate.token != 0),
            |list: &mut Candidates| list.keep_most_likely(4),
        ] {
            let mut candidates = loaded(&[1.0, 2.0, 3.0, 4.0, 5.0]);
            prepare(&mut candidates);
            candidates.adjust(&changes, |logit, change| logit + change);
            assert_eq!(candidates.most_likely().map(|best| best.token), Some(4));
            let mut logit = |token| candidates.entries().iter().find(|c| c.token == token).map(|c| c.logit);
            assert_eq!((logit(1), logit(2), logit(4)), (Some(12.0), Some(3.0), Some(25.0)));
        }
    }
}
