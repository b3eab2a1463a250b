//! Min-p: drops tokens less likely than `p` times the most likely one, so that the cut follows
//! how sure the model is (Nguyen et al., "Turning up the heat", 2024,
//! <https://arxiv.org/abs/2407.01082>).

use super::candidates::Candidates;

/// Keeps tokens with at least `p` times the largest probability; `p` in (0, 1].
pub(super) fn apply(p: f32, candidates: &mut Candidates) {
    if let Some(best) = candidates.most_likely() {
        candidates.keep_from(best.logit + p.ln());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn vectors_of_llama_cpp() {
        let probabilities = [0.1, 0.2, 0.3, 0.4];
        let three = [0.0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9];
        let two = [0.0, 0.0, 0.3 / 0.7, 0.4 / 0.7];
        let one = [0.0, 0.0, 0.0, 1.0];
        for (p, expected) in [
            (0.24, probabilities),
            (0.26, three),
            (0.49, three),
            (0.51, two),
            (0.74, two),
            (0.76, one),
            (1.00, one),
        ] {
            check(&probabilities, |list| super::apply(p, list), &expected);
        }
    }
}
