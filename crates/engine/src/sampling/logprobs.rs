//! The model's own log-probabilities, before any sampler: what `logprobs` in an API reports. They
//! cost a pass over the vocabulary, so they are computed only for those who ask.

use super::candidates::Candidates;
use super::passes;

/// The log-softmax of one row of raw logits.
#[derive(Clone, Copy, Debug)]
pub struct LogProbabilities<'a> {
    logits: &'a [f32],
    /// Logarithm of the sum of the exponentials.
    normaliser: f64,
}

impl<'a> LogProbabilities<'a> {
    /// Takes a row of logits without NaN, such as a sampler has accepted.
    pub fn new(logits: &'a [f32]) -> Self {
        let maximum = passes::largest(logits).map_or(0.0, |(_, maximum)| maximum);
        let total = passes::total_weight(logits, maximum);
        Self { logits, normaliser: f64::from(maximum) + total.ln() }
    }

    /// Natural logarithm of the model's probability of `token`; `None` beyond the vocabulary.
    pub fn of(&self, token: u32) -> Option<f32> {
        self.logits.get(token as usize).map(|&logit| self.normalise(logit))
    }

    /// The `count` most likely tokens with their log-probabilities, best first, lower ids first
    /// among equals.
    pub fn top(&self, count: usize) -> Vec<(u32, f32)> {
        let mut candidates = Candidates::default();
        candidates.load(self.logits, None);
        let best = candidates.sort_front(count).iter();
        best.map(|candidate| (candidate.token, self.normalise(candidate.logit))).collect()
    }

    fn normalise(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.normaliser) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::LogProbabilities;

    #[test]
    fn log_probabilities_are_the_logarithm_of_the_softmax() {
        // Shifted far from 0: only differences count.
        let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.2, 0.1].map(|p| p.ln() + 300.0).to_vec();
        let log_probabilities = LogProbabilities::new(&logits);
        let close = |actual: f32, probability: f32| assert!((actual.exp() - probability).abs() < 1e-4);
        close(log_probabilities.of(1).unwrap(), 0.4);
        assert_eq!(log_probabilities.of(5), None);
        let top = log_probabilities.top(3);
        assert_eq!(top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [1, 2, 3]);
        close(top[2].1, 0.2);
        assert_eq!(log_probabilities.top(99).len(), 5);
    }

    #[test]
    fn a_forbidden_token_has_minus_infinity() {
        let logits = [0.0, f32::NEG_INFINITY];
        assert_eq!(LogProbabilities::new(&logits).of(1), Some(f32::NEG_INFINITY));
        assert_eq!(LogProbabilities::new(&logits).top(2), [(0, 0.0)]);
    }
}
