//! The end of a chain: one token from the distribution that the samplers left.

use super::candidates::{Candidates, Softmax};

/// A token and how it was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// The token id.
    pub token: u32,
    /// Its probability in the distribution that was drawn from, after every sampler: 1 for greedy.
    /// For the model's own probability see [`super::LogProbabilities`].
    pub probability: f32,
}

/// Draws by inverting the cumulative distribution at `uniform` in [0, 1), in the list's order.
/// `None` if the list is empty.
pub(super) fn draw(candidates: &Candidates, softmax: Softmax, uniform: f64) -> Option<Sampled> {
    let target = uniform * softmax.total;
    let candidate = candidates.find_weight(softmax, target);
    // Rounding can leave the sum just below a target next to 1.
    let candidate = candidate.or_else(|| candidates.most_likely())?;
    let probability = softmax.probability(candidate.logit) as f32;
    Some(Sampled { token: candidate.token, probability })
}
