//! Scaling laws: which model, on how many tokens, for a budget of FLOPs or a loss to reach.

use crate::error::{PlanError, positive};
use serde::Serialize;

/// Chinchilla's loss: `E + A / N^α + B / D^β` nats (arXiv 2203.15556, equation 10).
const CHINCHILLA: (f64, f64, f64, f64, f64) = (1.69, 406.4, 410.7, 0.34, 0.28);

/// Llama 3's best number of tokens for C FLOPs: `A C^α` (arXiv 2407.21783, section 3.2.1). The paper prints (0.53, 0.29);
/// its extrapolation to 3.8e25 FLOPs is 402 B parameters on 16.55 T tokens. These digits give 16.3 T there, 1.5 % less, and
/// 6 N D of the two printed figures is 3.99e25, so that no digits give all three.
const LLAMA3: (f64, f64) = (0.299, 0.537);

/// Decay of what repeated tokens are worth, in epochs (arXiv 2305.16264, section 3: R* of 15.39).
const REPEATS: f64 = 15.39;

/// Which fit is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScalingLaw {
    /// Hoffmann et al., 2022.
    Chinchilla,
    /// Llama 3's.
    Llama3,
}

impl ScalingLaw {
    /// Names of the laws.
    pub const TABLE: [(&str, ScalingLaw); 2] =
        [("chinchilla", ScalingLaw::Chinchilla), ("llama3", ScalingLaw::Llama3)];
}

/// A model and a number of tokens that a law calls best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Optimum {
    /// Parameters.
    pub parameters: f64,
    /// Tokens.
    pub tokens: f64,
    /// FLOPs, 6 N D.
    pub flops: f64,
    /// Chinchilla's loss there, nats a token.
    pub loss: f64,
}

/// Chinchilla's loss of `parameters` trained on `tokens`, nats a token.
#[must_use]
pub fn loss(parameters: f64, tokens: f64) -> f64 {
    let (e, a, b, alpha, beta) = CHINCHILLA;
    e + a / parameters.powf(alpha) + b / tokens.powf(beta)
}

/// What `tokens` drawn from `unique` different ones are worth, in tokens that are all different (arXiv 2305.16264,
/// equation 5): `U + U R* (1 - e^(-R/R*))` for R repetitions.
#[must_use]
pub fn worth(tokens: f64, unique: f64) -> f64 {
    if tokens <= unique {
        return tokens;
    }
    let repetitions = tokens / unique - 1.0;
    unique + unique * REPEATS * -(-repetitions / REPEATS).exp_m1()
}

/// The best model and tokens for a budget of FLOPs.
///
/// # Errors
/// When the budget is no positive number.
pub fn for_flops(law: ScalingLaw, flops: f64) -> Result<Optimum, PlanError> {
    let flops = positive("FLOPs", flops)?;
    let (parameters, tokens) = match law {
        ScalingLaw::Chinchilla => {
            // The minimum of the loss under C = 6 N D (equation 4).
            let (_, a, b, alpha, beta) = CHINCHILLA;
            let g = (alpha * a / (beta * b)).powf(1.0 / (alpha + beta));
            let parameters = g * (flops / 6.0).powf(beta / (alpha + beta));
            (parameters, flops / 6.0 / parameters)
        }
        ScalingLaw::Llama3 => {
            let tokens = LLAMA3.0 * flops.powf(LLAMA3.1);
            (flops / 6.0 / tokens, tokens)
        }
    };
    Ok(Optimum { parameters, tokens, flops, loss: loss(parameters, tokens) })
}

/// The cheapest model and tokens that reach a loss, nats a token.
///
/// # Errors
/// When no amount of compute reaches it.
pub fn for_loss(law: ScalingLaw, target: f64) -> Result<Optimum, PlanError> {
    let least = CHINCHILLA.0;
    let (mut low, mut high) = (1e15_f64.ln(), 1e32_f64.ln());
    let reachable = for_flops(law, 1e32)?.loss;
    if !(target.is_finite() && target > reachable && target < 10.0) {
        let problem = format!("the law's floor is {least}, and 1e32 FLOPs reach {reachable:.3}");
        return Err(PlanError::value(
            "loss",
            target,
            problem,
            format!("write one from {reachable:.3} to 10"),
        ));
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if for_flops(law, middle.exp())?.loss > target { low = middle } else { high = middle }
    }
    for_flops(law, high.exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laws_give_the_points_of_their_papers() {
        let llama = for_flops(ScalingLaw::Llama3, 3.8e25).unwrap();
        assert!((llama.parameters / 402e9 - 1.0).abs() < 0.05, "{llama:?}");
        assert!((llama.tokens / 16.55e12 - 1.0).abs() < 0.05, "{llama:?}");
        let found = for_loss(ScalingLaw::Chinchilla, 2.0).unwrap();
        assert!((found.loss - 2.0).abs() < 1e-6);
        assert!(for_loss(ScalingLaw::Chinchilla, 1.0).is_err());
        assert!((worth(4e12, 1e12) / 3.7e12 - 1.0).abs() < 0.05, "four epochs are nearly as good as new");
        assert_eq!(worth(1e12, 2e12), 1e12);
    }
}
