//! Temperature: divides the logits, so that below 1 the distribution sharpens and above 1 it
//! flattens. Zero means greedy: the most likely token, the lowest id among equals. (A chain
//! without this sampler leaves the model's own distribution, temperature 1, whatever the setting
//! says; so does llama.cpp's.)

use super::candidates::Candidates;

/// Divides by `temperature`, which must be positive.
pub(super) fn apply(temperature: f32, candidates: &mut Candidates) {
    candidates.divide(temperature);
}

/// What temperature 0 stands for.
pub(super) fn apply_greedy(candidates: &mut Candidates) {
    if let Some(best) = candidates.most_likely() {
        candidates.keep_only(best);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn vectors_of_llama_cpp() {
        let probabilities = [0.1, 0.2, 0.3, 0.4];
        check(&probabilities, |list| super::apply(1.0, list), &probabilities);
        check(&probabilities, super::apply_greedy, &[0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn half_the_temperature_squares_the_probabilities() {
        check(&[0.25, 0.75], |list| super::apply(0.5, list), &[0.1, 0.9]);
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        check(&[0.2, 0.4, 0.4], super::apply_greedy, &[0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_tiny_temperature_stays_finite() {
        check(&[0.1, 0.2, 0.3, 0.4], |list| super::apply(1e-30, list), &[0.0, 0.0, 0.0, 1.0]);
    }
}
