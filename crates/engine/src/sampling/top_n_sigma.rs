//! Top-n-sigma: keeps tokens whose logit lies within `n` standard deviations (of all logits in
//! play) below the largest, so that the cut does not move with the temperature (Tang et al.,
//! "Top-nsigma: not all logits are you need", 2024, <https://arxiv.org/abs/2411.07641>).
//!
//! llama.cpp leaves the others in the list at minus infinity, where a typical sampler after it
//! meets `0 * ln 0`, NaN. Here they leave the list; otherwise the result is the same.

use super::candidates::Candidates;

/// Keeps logits of at least `maximum - n * standard deviation`; `n` positive.
pub(super) fn apply(n: f32, candidates: &mut Candidates) {
    let Some(best) = candidates.most_likely() else { return };
    let entries = candidates.entries();
    let count = entries.len() as f64;
    let mean = entries.iter().map(|candidate| f64::from(candidate.logit)).sum::<f64>() / count;
    let squares: f64 = entries.iter().map(|candidate| (f64::from(candidate.logit) - mean).powi(2)).sum();
    let least = f64::from(best.logit) - f64::from(n) * (squares / count).sqrt();
    candidates.retain(|candidate| f64::from(candidate.logit) >= least);
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn vectors_of_llama_cpp() {
        let probabilities = [0.1, 0.2, 0.3, 0.4];
        check(&probabilities, |list| super::apply(1.0, list), &[0.0, 0.0, 0.428571, 0.571429]);
        check(&probabilities, |list| super::apply(3.0, list), &probabilities);
    }

    #[test]
    fn equal_logits_all_stay() {
        check(&[0.25; 4], |list| super::apply(0.5, list), &[0.25; 4]);
    }
}
