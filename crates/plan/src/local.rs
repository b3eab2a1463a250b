//! What one machine can run, tune or train and how fast, from what was measured on it, and how a prediction compares with a
//! run.

use crate::error::{PlanError, positive};
use crate::model::ModelShape;
use serde::Serialize;

/// What was measured on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Threads that compute.
    pub threads: usize,
    /// Bytes of memory that are free.
    pub memory: f64,
    /// Bytes a second that all threads read together.
    pub bandwidth: f64,
    /// FLOP/s of all threads together on quantised weights.
    pub rate: f64,
    /// FLOP/s of all threads together in FP32, which training computes in.
    pub training_rate: f64,
}

/// Ways to keep weights: name, bytes a weight takes.
pub const WEIGHTS: [(&str, f64); 3] = [("Q4_K_M", 4.85 / 8.0), ("Q8_0", 8.5 / 8.0), ("bf16", 2.0)];

/// Part of the measured limits that this project's kernels reach: of bandwidth in decoding, of FLOP/s in prefill and
/// training (docs/performance.md shows what they reach on the machine of its tables).
pub const REACHED: (f64, f64) = (0.8, 0.6);

/// What a machine does with a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The model.
    pub model: String,
    /// How its weights are kept.
    pub weights: &'static str,
    /// Bytes to run it with the context.
    pub run_bytes: f64,
    /// Whether that fits.
    pub runs: bool,
    /// Tokens a second decoded, alone.
    pub decode: f64,
    /// Tokens a second of prompt.
    pub prefill: f64,
    /// Bytes to tune adapters (LoRA of rank 16) on frozen weights.
    pub tune_bytes: f64,
    /// Whether that fits.
    pub tunes: bool,
    /// Tokens a second when tuning.
    pub tune: f64,
    /// Bytes to train all weights in FP32 with AdamW.
    pub train_bytes: f64,
    /// Whether that fits.
    pub trains: bool,
    /// Tokens a second when training.
    pub train: f64,
    /// Days to train it on 20 tokens a parameter.
    pub train_days: f64,
}

/// What a machine does with a model, for every way to keep its weights.
///
/// # Errors
/// When a measured number is impossible.
pub fn fit(machine: &Machine, model: &ModelShape, context: f64) -> Result<Vec<Fit>, PlanError> {
    for (field, value) in [
        ("memory", machine.memory),
        ("bandwidth", machine.bandwidth),
        ("FLOP/s", machine.rate),
        ("FLOP/s of training", machine.training_rate),
        ("context", context),
    ] {
        positive(field, value)?;
    }
    let context = context.min(model.context as f64);
    let of = |&(weights, bytes): &(&'static str, f64)| {
        let stored = model.parameters() * bytes;
        let cache = model.cached_values() * 2.0 * context;
        let read = model.active_parameters() * bytes + cache / 2.0;
        let hidden = model.hidden as f64;
        // One sequence's activations with whole layers computed again, and its logits in FP32.
        let activations = context
            * (4.0 * hidden * f64::from(model.layers)
                + 34.0 * 2.0 * hidden
                + 8.0 * model.vocabulary as f64 / 8.0);
        let adapters = 16.0 * f64::from(model.layers) * 14.0 * hidden;
        let run_bytes = stored + cache + 2e8;
        let tune_bytes = stored + 16.0 * adapters + activations + 2e8;
        let train_bytes = 16.0 * model.parameters() + activations + 2e8;
        let forward = model.causal_forward_flops(context);
        let train = REACHED.1 * machine.training_rate / (3.0 * forward);
        Fit {
            model: model.name.clone(),
            weights,
            run_bytes,
            runs: run_bytes <= machine.memory,
            decode: REACHED.0 * machine.bandwidth / read,
            prefill: REACHED.1 * machine.rate / forward,
            tune_bytes,
            tunes: tune_bytes <= machine.memory,
            // Gradients of frozen weights are not computed: two passes of three, and one again.
            tune: REACHED.1 * machine.training_rate / (3.0 * forward),
            train_bytes,
            trains: train_bytes <= machine.memory,
            train,
            train_days: 20.0 * model.parameters() / train / 86_400.0,
        }
    };
    Ok(WEIGHTS.iter().map(of).collect())
}

/// A prediction beside what a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The test, as `alti bench` calls it: `pp512`, `tg128`.
    pub test: String,
    /// Tokens a second predicted.
    pub predicted: f64,
    /// Tokens a second measured, the median of its rounds.
    pub measured: f64,
    /// Relative error of the prediction, with its sign.
    pub error: f64,
}

/// Compares with the tests of an `alti bench --json` result; tests that are neither prefill nor decode are left out.
///
/// # Errors
/// When the text is no such result.
pub fn compare(file: &str, bench: &str, fit: &Fit) -> Result<Vec<Outcome>, PlanError> {
    let root: serde_json::Value =
        serde_json::from_str(bench).map_err(|error| PlanError::file(file, error))?;
    let missing = || PlanError::file(file, "has no `results`; write it with `alti bench --json`");
    let results = root.get("results").and_then(|it| it.as_array()).ok_or_else(missing)?;
    let outcome = |row: &serde_json::Value| {
        let test = row.get("test")?.as_str()?.to_owned();
        let rounds = row.get("tokens_per_second")?.as_array()?;
        let mut rounds: Vec<f64> = rounds.iter().filter_map(serde_json::Value::as_f64).collect();
        let measured = crate::random::quantile(&mut rounds, 0.5);
        let predicted = match test.get(..2)? {
            "pp" => fit.prefill,
            "tg" => fit.decode,
            _ => return None,
        };
        (measured > 0.0).then(|| Outcome { test, predicted, measured, error: predicted / measured - 1.0 })
    };
    Ok(results.iter().filter_map(outcome).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelCatalogue;

    #[test]
    fn a_laptop_runs_what_it_cannot_train() {
        let machine = Machine { threads: 8, memory: 16e9, bandwidth: 50e9, rate: 1e12, training_rate: 5e11 };
        let model = ModelCatalogue::built_in().find("Llama-3.1-8B").unwrap();
        let found = fit(&machine, &model, 4096.0).unwrap();
        assert!(found[0].runs && !found[0].trains && !found[2].runs, "{found:?}");
        assert!(found[0].decode > found[1].decode);
        let bench = r#"{"results": [{"test": "tg128", "tokens_per_second": [8.0, 9.0, 8.5]}]}"#;
        let outcomes = compare("bench.json", bench, &found[0]).unwrap();
        assert_eq!(outcomes[0].measured, 8.5);
        assert!(compare("bench.json", "{}", &found[0]).is_err());
        assert!(fit(&Machine { bandwidth: 0.0, ..machine }, &model, 512.0).is_err());
    }
}
