//! What one machine can run, tune or train and how fast, from what was measured on it, and how a prediction compares with a
//! run.

use crate::error::{PlanError, positive};
use crate::model::ModelShape;
use serde::Serialize;

/// How fast a machine ran a stand-in of a model, its weights kept in one way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// The way, as recipes of quantisation are called: `Q4_K_M`.
    pub weights: String,
    /// Bytes a weight takes, the mean of all.
    pub bytes_per_weight: f64,
    /// Layers of the stand-in.
    pub layers: u32,
    /// Bytes of weights, keys and values that an answer reads in a second.
    pub read: f64,
    /// FLOP/s of a prompt.
    pub rate: f64,
}

/// What was measured on a machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Threads that compute.
    pub threads: usize,
    /// Bytes of memory that are free.
    pub memory: f64,
    /// Bytes a second that all threads could read together.
    pub bandwidth: f64,
    /// Operations a second that all threads together could do on weights of few bits.
    pub peak: f64,
    /// What a stand-in of the model reached.
    pub speeds: Vec<Speed>,
    /// FLOP/s that a stand-in's prompt reached in FP32, which training computes in.
    pub training_rate: f64,
}

/// FLOPs of a token of a prompt, one of `count` behind `first` others. Only the last one's logits are computed.
#[must_use]
pub fn prompt_flops(model: &ModelShape, first: f64, count: f64) -> f64 {
    let seen =
        model.attended_until(first + count) - if first > 0.0 { model.attended_until(first) } else { 0.0 };
    let output = (model.hidden * model.vocabulary) as f64;
    2.0 * (model.matrix_parameters() - output) + 4.0 * (model.heads * model.head_size) as f64 * seen / count
}

/// Bytes that a token of an answer reads behind `position` others, keys and values in BF16.
#[must_use]
pub fn answer_bytes(model: &ModelShape, bytes_per_weight: f64, position: f64) -> f64 {
    model.matrix_parameters() * bytes_per_weight + 2.0 * model.cached_values() * position
}

/// What a machine does with a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The model.
    pub model: String,
    /// How its weights are kept.
    pub weights: String,
    /// Bytes to run it with the context.
    pub run_bytes: f64,
    /// Whether that fits.
    pub runs: bool,
    /// Tokens a second decoded, alone, the context half full.
    pub decode: f64,
    /// Tokens a second of a prompt as long as the context.
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

/// What a machine does with a model, for every way of keeping its weights that was rehearsed.
///
/// # Errors
/// When a measured number is impossible.
pub fn fit(machine: &Machine, model: &ModelShape, context: f64) -> Result<Vec<Fit>, PlanError> {
    for (field, value) in
        [("memory", machine.memory), ("FLOP/s of training", machine.training_rate), ("context", context)]
    {
        positive(field, value)?;
    }
    let context = context.min(model.context as f64);
    machine.speeds.iter().map(|speed| fit_of(machine, model, context, speed)).collect()
}

fn fit_of(machine: &Machine, model: &ModelShape, context: f64, speed: &Speed) -> Result<Fit, PlanError> {
    positive("bytes a second", speed.read)?;
    positive("FLOP/s", speed.rate)?;
    let stored = model.parameters() * speed.bytes_per_weight;
    let cache = model.cached_values() * 2.0 * context;
    let hidden = model.hidden as f64;
    // One sequence's activations with whole layers computed again, and its logits with their gradients in FP32, an
    // eighth of the rows at a time.
    let activations =
        context * (4.0 * hidden * f64::from(model.layers) + 34.0 * 2.0 * hidden + model.vocabulary as f64);
    let adapters = 16.0 * f64::from(model.layers) * 14.0 * hidden;
    let run_bytes = stored + cache + 2e8;
    let tune_bytes = stored + 16.0 * adapters + activations + 2e8;
    let train_bytes = 16.0 * model.parameters() + activations + 2e8;
    let forward = model.causal_forward_flops(context);
    let train = machine.training_rate / (3.0 * forward);
    Ok(Fit {
        model: model.name.clone(),
        weights: speed.weights.clone(),
        run_bytes,
        runs: run_bytes <= machine.memory,
        decode: speed.read / answer_bytes(model, speed.bytes_per_weight, context / 2.0),
        prefill: speed.rate / prompt_flops(model, 0.0, context),
        tune_bytes,
        tunes: tune_bytes <= machine.memory,
        // Gradients of frozen weights are not computed: two passes of three, and one again.
        tune: machine.training_rate / (3.0 * forward),
        train_bytes,
        trains: train_bytes <= machine.memory,
        train,
        train_days: 20.0 * model.parameters() / train / 86_400.0,
    })
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

/// Compares with the tests of an `alti bench --json` result.
///
/// # Errors
/// When the text is no such result, or that of several sequences or of another number of threads.
pub fn compare(
    file: &str,
    bench: &str,
    machine: &Machine,
    model: &ModelShape,
    speed: &Speed,
) -> Result<Vec<Outcome>, PlanError> {
    let run: Run = serde_json::from_str(bench).map_err(|error| {
        PlanError::file(file, format!("{error}; `alti bench --json` writes what is wanted here"))
    })?;
    if run.batch != 1 {
        let message = format!("is a run of {} sequences; this compares a run of one", run.batch);
        return Err(PlanError::file(file, message));
    }
    if run.threads != machine.threads {
        let message = format!(
            "is a run on {} threads; measure with `alti bench -t {} --json`, as predictions are for all cores",
            run.threads, machine.threads
        );
        return Err(PlanError::file(file, message));
    }
    let outcome = |mut row: Measured| {
        let (decodes, count) = match row.test.split_at_checked(2)? {
            ("pp", count) => (false, count),
            ("tg", count) => (true, count),
            _ => return None,
        };
        let count: f64 = count.split('@').next()?.parse().ok()?;
        let measured = crate::random::quantile(&mut row.tokens_per_second, 0.5);
        let predicted = if decodes {
            speed.read / answer_bytes(model, speed.bytes_per_weight, run.depth + count / 2.0)
        } else {
            speed.rate / prompt_flops(model, run.depth, count)
        };
        let error = predicted / measured - 1.0;
        (measured > 0.0).then_some(Outcome { test: row.test, predicted, measured, error })
    };
    Ok(run.results.into_iter().filter_map(outcome).collect())
}

/// What `alti bench --json` writes, as far as a comparison needs it.
#[derive(serde::Deserialize)]
struct Run {
    threads: usize,
    batch: u32,
    depth: f64,
    results: Vec<Measured>,
}

#[derive(serde::Deserialize)]
struct Measured {
    test: String,
    tokens_per_second: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelCatalogue;

    fn laptop() -> Machine {
        let speed = |weights: &str, bytes| Speed {
            weights: weights.to_owned(),
            bytes_per_weight: bytes,
            layers: 8,
            read: 40e9,
            rate: 6e11,
        };
        Machine {
            threads: 8,
            memory: 16e9,
            bandwidth: 50e9,
            peak: 1e12,
            speeds: vec![speed("Q4_K_M", 0.61), speed("Q8_0", 1.0625), speed("BF16", 2.0)],
            training_rate: 3e11,
        }
    }

    #[test]
    fn a_laptop_runs_what_it_cannot_train() {
        let model = ModelCatalogue::built_in().find("Llama-3.1-8B").unwrap();
        let found = fit(&laptop(), &model, 4096.0).unwrap();
        assert!(found[0].runs && !found[0].trains && !found[2].runs, "{found:?}");
        assert!(found[0].decode > found[1].decode);
        // 7.5 billion weights are read for a token (the embedding is looked up), and 2,048 tokens of keys and values.
        let bytes = 7.504e9 * 0.61 + 2048.0 * 131_072.0;
        assert!((found[0].decode / (40e9 / bytes) - 1.0).abs() < 0.01, "{found:?}");
        let slow = Machine { speeds: vec![Speed { read: 0.0, ..laptop().speeds[0].clone() }], ..laptop() };
        assert!(fit(&slow, &model, 512.0).is_err());
    }

    #[test]
    fn a_run_is_compared_at_its_own_depth() {
        let (model, machine) = (ModelCatalogue::built_in().find("Llama-3.1-8B").unwrap(), laptop());
        let outcomes = |bench: &str| compare("bench.json", bench, &machine, &model, &machine.speeds[0]);
        let bench = |threads: u32, batch: u32, depth: u32| {
            format!(
                r#"{{"threads": {threads}, "batch": {batch}, "depth": {depth}, "results": [
                    {{"test": "pp512@d9", "tokens_per_second": [40]}},
                    {{"test": "tg128", "tokens_per_second": [8, 9, 8.5]}}]}}"#
            )
        };
        let short = outcomes(&bench(8, 1, 0)).unwrap();
        assert_eq!((short.len(), short[1].measured), (2, 8.5));
        let long = outcomes(&bench(8, 1, 8192)).unwrap();
        assert!(long[0].predicted < short[0].predicted && long[1].predicted < short[1].predicted);
        for (bad, says) in [(bench(4, 1, 0), "-t 8"), (bench(8, 2, 0), "2 sequences"), ("{}".into(), "bench")]
        {
            assert!(outcomes(&bad).unwrap_err().to_string().contains(says), "{bad}");
        }
    }
}
