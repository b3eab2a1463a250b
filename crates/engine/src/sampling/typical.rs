//! Locally typical sampling: keeps the tokens whose surprise is closest to the entropy of the
//! distribution, until they hold mass `p`; the most likely token can be among those dropped
//! (Meister et al., "Locally typical sampling", 2022, <https://arxiv.org/abs/2202.00666>).

use super::candidates::{Candidate, Candidates};

/// Keeps the most typical tokens of mass just above `p`, at least one; `p` in [0, 1).
pub(super) fn apply(p: f32, candidates: &mut Candidates) {
    let softmax = candidates.softmax();
    let entropy: f64 = candidates
        .entries()
        .iter()
        .map(|candidate| -softmax.probability(candidate.logit) * softmax.log_probability(candidate.logit))
        .sum();
    let distance = |candidate: &Candidate| (-softmax.log_probability(candidate.logit) - entropy).abs();
    let most_typical_first = |a: &Candidate, b: &Candidate| {
        distance(a).total_cmp(&distance(b)).then_with(|| Candidate::by_likelihood(a, b))
    };
    candidates.keep_mass(softmax, most_typical_first, |mass| mass > f64::from(p));
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    /// llama.cpp's own vectors list the kept tokens with their probabilities before they are
    /// normalised again: 0.97 alone, and three of 0.2.
    #[test]
    fn vectors_of_llama_cpp() {
        check(&[0.97, 0.01, 0.01, 0.01], |list| super::apply(0.5, list), &[1.0, 0.0, 0.0, 0.0]);
        let third = 1.0 / 3.0;
        check(&[0.4, 0.2, 0.2, 0.2], |list| super::apply(0.5, list), &[0.0, third, third, third]);
    }
}
