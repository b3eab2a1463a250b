//! Top-p (nucleus) sampling: keeps the fewest tokens, most likely first, whose probabilities add
//! up to at least `p` (Holtzman et al., "The curious case of neural text degeneration", 2020,
//! <https://arxiv.org/abs/1904.09751>).

use super::candidates::Candidates;

/// Keeps the nucleus of mass `p`, at least one token.
pub(super) fn apply(p: f32, candidates: &mut Candidates) {
    candidates.keep_nucleus(f64::from(p));
}

#[cfg(test)]
mod tests {
    use super::super::candidates::{Candidate, Candidates};
    use super::super::testing::{check, skewed_logits};

    #[test]
    fn vectors_of_llama_cpp() {
        let probabilities = [0.1, 0.2, 0.3, 0.4];
        check(&probabilities, |list| super::apply(0.0, list), &[0.0, 0.0, 0.0, 1.0]);
        check(&probabilities, |list| super::apply(0.7, list), &[0.0, 0.0, 0.428571, 0.571429]);
        check(&probabilities, |list| super::apply(0.8, list), &[0.0, 0.22222, 0.33333, 0.44444]);
        check(&probabilities, |list| super::apply(1.0, list), &probabilities);
    }

    /// The list is long enough for the shortcut; flat and peaked distributions, small and large p.
    #[test]
    fn the_nucleus_is_the_shortest_prefix_with_the_mass() {
        for (sharpness, seed) in [(0.5, 1), (3.0, 2), (12.0, 3)] {
            let logits = skewed_logits(5000, sharpness, seed);
            for p in [0.1, 0.5, 0.9, 0.95, 0.999] {
                let mut candidates = Candidates::default();
                candidates.load(&logits, None);
                let softmax = candidates.softmax();
                let mut all = candidates.entries().to_vec();
                super::apply(p, &mut candidates);
                all.sort_by(Candidate::by_likelihood);
                let mut kept = candidates.entries().to_vec();
                kept.sort_by(Candidate::by_likelihood);
                assert_eq!(kept, &all[..kept.len()], "the most likely ones");
                let mass = |list: &[Candidate]| -> f64 {
                    list.iter().map(|candidate| softmax.probability(candidate.logit)).sum()
                };
                assert!(mass(&kept) >= f64::from(p) - 1e-9, "p {p}: {}", mass(&kept));
                assert!(mass(&kept[..kept.len() - 1]) < f64::from(p) + 1e-9, "p {p}: not minimal");
            }
        }
    }
}
