//! Top-k: keeps the `k` most likely tokens (Fan, Lewis, Dauphin, "Hierarchical neural story
//! generation", 2018, <https://arxiv.org/abs/1805.04833>). It comes early in the default chain
//! because everything after it then works on a few dozen entries.

use super::candidates::Candidates;

/// Keeps the `k` most likely, at least 1.
pub(super) fn apply(k: usize, candidates: &mut Candidates) {
    candidates.keep_most_likely(k.max(1));
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn vectors_of_llama_cpp() {
        let probabilities = [0.1, 0.2, 0.3, 0.4];
        check(&probabilities, |list| super::apply(1, list), &[0.0, 0.0, 0.0, 1.0]);
        check(&probabilities, |list| super::apply(3, list), &[0.0, 0.22222, 0.33333, 0.44444]);
        check(&probabilities, |list| super::apply(4, list), &probabilities);
    }
}
