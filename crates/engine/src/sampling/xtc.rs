//! XTC ("exclude top choices"): with a given probability, drops all tokens at or above a threshold
//! but the least likely of them, which makes the model take a road less travelled that it still
//! finds plausible. Source: p-e-w, <https://github.com/oobabooga/text-generation-webui/pull/6335>.

use super::candidates::{Candidate, Candidates};
use super::random::{Purpose, RandomNumbers};

/// No two tokens can both be above one half, so a higher threshold never drops any.
pub(super) const LARGEST_USEFUL_THRESHOLD: f32 = 0.5;

/// Excludes the top choices with `probability`; both it and `threshold` in [0, 1].
pub(super) fn apply(
    probability: f32,
    threshold: f32,
    numbers: RandomNumbers,
    position: u64,
    candidates: &mut Candidates,
) {
    if numbers.uniform(position, Purpose::ExcludeTopChoices) < f64::from(probability) {
        exclude(threshold, candidates);
    }
}

fn exclude(threshold: f32, candidates: &mut Candidates) {
    let softmax = candidates.softmax();
    let is_top = |candidate: &Candidate| softmax.probability(candidate.logit) >= f64::from(threshold);
    let least_likely_top =
        candidates.entries().iter().copied().filter(is_top).max_by(Candidate::by_likelihood);
    candidates.retain(|candidate| !is_top(&candidate) || Some(candidate) == least_likely_top);
}

#[cfg(test)]
mod tests {
    use super::super::random::RandomNumbers;
    use super::super::testing::{check, tokens_left};
    use super::exclude;

    /// llama.cpp's own vectors list the kept tokens before they are normalised again.
    #[test]
    fn vectors_of_llama_cpp() {
        let probabilities = [0.4, 0.3, 0.2, 0.1];
        let two = [0.0, 0.0, 0.2 / 0.3, 0.1 / 0.3];
        let three = [0.0, 0.3 / 0.6, 0.2 / 0.6, 0.1 / 0.6];
        check(&probabilities, |list| exclude(0.09, list), &[0.0, 0.0, 0.0, 1.0]);
        check(&probabilities, |list| exclude(0.19, list), &two);
        check(&probabilities, |list| exclude(0.29, list), &three);
        check(&probabilities, |list| exclude(0.39, list), &probabilities);
    }

    #[test]
    fn acts_as_often_as_asked() {
        let numbers = RandomNumbers { seed: 11, choice: 0 };
        let acted = (0..4000)
            .filter(|&position| {
                let apply = |list: &mut _| super::apply(0.3, 0.1, numbers, position, list);
                tokens_left(&[0.5, 0.3, 0.2], apply) == [2]
            })
            .count();
        assert!((1100..1300).contains(&acted), "{acted} of 4000 at probability 0.3");
    }
}
