//! What the samplers' unit tests share: probabilities in, one sampler, probabilities out, as in
//! llama.cpp's `tests/test-sampling.cpp`, from which the vectors come.

use super::candidates::Candidates;
use super::random::{Purpose, RandomNumbers};

/// Loads tokens 0, 1, ... with these probabilities, applies a sampler and compares the normalised
/// result with `expected`, where 0 stands for a token dropped or out of reach.
pub(super) fn check(probabilities: &[f32], apply: impl FnOnce(&mut Candidates), expected: &[f32]) {
    let mut candidates = after(probabilities, apply);
    let softmax = candidates.softmax();
    let mut actual = vec![0.0; probabilities.len()];
    for candidate in candidates.entries() {
        actual[candidate.token as usize] = softmax.probability(candidate.logit);
    }
    assert_eq!(actual.len(), expected.len());
    let close = actual.iter().zip(expected).all(|(a, &e)| (a - f64::from(e)).abs() < 1e-5);
    assert!(close, "{actual:?}, expected {expected:?}");
}

/// The tokens that a sampler keeps, in the list's order.
pub(super) fn tokens_left(probabilities: &[f32], apply: impl FnOnce(&mut Candidates)) -> Vec<u32> {
    after(probabilities, apply).entries().iter().map(|candidate| candidate.token).collect()
}

fn after(probabilities: &[f32], apply: impl FnOnce(&mut Candidates)) -> Candidates {
    let logits: Vec<f32> = probabilities.iter().map(|probability| probability.ln()).collect();
    let mut candidates = Candidates::default();
    candidates.load(&logits, None);
    apply(&mut candidates);
    candidates
}

/// Logits between 0 and `sharpness`, mostly small, in no order.
pub(super) fn skewed_logits(count: usize, sharpness: f32, seed: u64) -> Vec<f32> {
    let numbers = RandomNumbers { seed, choice: 0 };
    (0..count as u64)
        .map(|index| sharpness * (numbers.uniform(index, Purpose::Token) as f32).powi(3))
        .collect()
}
