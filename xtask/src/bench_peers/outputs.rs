//! What the engines print, and the one number in it that counts.

use super::workload::{Kind, Workload};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Tokens a second of the one test of `alti bench --json`.
///
/// # Errors
/// It holds anything but one sample of one test.
pub fn alti_bench(printed: &Value) -> Result<f64> {
    let results = printed["results"].as_array().context("`alti bench --json` must have `results`")?;
    let [result] = results.as_slice() else {
        anyhow::bail!("`alti bench --json` must have one test, not {}", results.len());
    };
    one_sample(&result["tokens_per_second"])
}

/// The part of the time of the one test of `alti bench --json --profile` that passed in products with weights.
///
/// # Errors
/// It holds no profile.
pub fn alti_products(printed: &Value) -> Result<f64> {
    let profile = &printed["results"][0]["profile"];
    let operations =
        profile["operations"].as_array().context("`alti bench --profile` must have `operations`")?;
    let products = operations.iter().filter(|operation| operation["product"] == true);
    let running: Option<f64> = products.map(|operation| operation["running_seconds"].as_f64()).sum();
    let whole = profile["seconds"].as_f64().filter(|seconds| *seconds > 0.0);
    Ok(running.context("a product without `running_seconds`")?
        / whole.context("a profile without `seconds`")?)
}

/// Tokens a second of the one test of `llama-bench -o json`.
///
/// # Errors
/// It holds anything but one sample of the work that was asked for.
pub fn llama_bench(printed: &Value, work: &Workload) -> Result<f64> {
    let results = printed.as_array().context("llama-bench must print an array")?;
    let [result] = results.as_slice() else {
        anyhow::bail!("llama-bench must print one test, not {}", results.len());
    };
    let number = |field: &str| result[field].as_u64().map(|number| number as usize);
    let (prompt, generated) = (number("n_prompt"), number("n_gen"));
    let as_asked = match work.kind {
        Kind::Prefill => prompt == Some(work.tokens) && generated == Some(0),
        // ik_llama.cpp reports the context as the prompt, llama.cpp as the depth.
        _ => {
            generated == Some(work.tokens)
                && (prompt == Some(work.depth) || number("n_depth") == Some(work.depth))
        }
    };
    ensure!(as_asked, "llama-bench ran {prompt:?} + {generated:?} tokens, not {work}");
    one_sample(&result["samples_ts"])
}

fn one_sample(samples: &Value) -> Result<f64> {
    let rate =
        samples.as_array().filter(|samples| samples.len() == 1).and_then(|samples| samples[0].as_f64());
    rate.with_context(|| format!("one rate was expected, not {samples}"))
}

/// Tokens a second of all sequences together, from the table that `llama-batched-bench` prints.
///
/// # Errors
/// There is no such table, or it has no row for the work.
pub fn batched_bench(printed: &str, work: &Workload) -> Result<f64> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = printed.lines().filter(|line| line.trim_start().starts_with('|')).map(cells);
    let header = rows.next().context("llama-batched-bench printed no table")?;
    let column = |name: &str| {
        let found = header.iter().position(|cell| cell == name);
        found.with_context(|| format!("llama-batched-bench's table has no column `{name}`"))
    };
    let (sequences, rate) = (column("B")?, column("S_TG t/s")?);
    let wanted = work.sequences.to_string();
    let row = rows.find(|row| row.get(sequences) == Some(&wanted));
    let row =
        row.with_context(|| format!("llama-batched-bench's table has no row for {wanted} sequences"))?;
    row.get(rate).and_then(|cell| cell.parse().ok()).context("a rate of llama-batched-bench is no number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn llama_bench_is_read_and_held_to_what_was_asked() {
        let llama = json!([{"n_prompt": 0, "n_gen": 128, "n_depth": 2048, "samples_ts": [41.5]}]);
        assert_eq!(llama_bench(&llama, &Workload::decode(128, 2048)).unwrap(), 41.5);
        assert!(llama_bench(&llama, &Workload::decode(128, 4096)).is_err());
        let ik = json!([{"n_prompt": 2048, "n_gen": 128, "samples_ts": [44.0]}]);
        assert_eq!(llama_bench(&ik, &Workload::decode(128, 2048)).unwrap(), 44.0);
        let prefill = json!([{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "samples_ts": [900.0]}]);
        assert_eq!(llama_bench(&prefill, &Workload::prefill(512)).unwrap(), 900.0);
        assert!(llama_bench(&prefill, &Workload::prefill(128)).is_err());
        assert!(llama_bench(&json!([]), &Workload::prefill(512)).is_err());
    }

    #[test]
    fn alti_bench_is_read() {
        let printed = json!({"results": [{"test": "tg128", "tokens_per_second": [60.5]}]});
        assert_eq!(alti_bench(&printed).unwrap(), 60.5);
        let two = json!({"results": [{"test": "tg128", "tokens_per_second": [60.5, 61.0]}]});
        assert!(alti_bench(&two).unwrap_err().to_string().contains("one rate"));
    }

    #[test]
    fn the_part_of_products_is_read_from_a_profile() {
        let product =
            |seconds: f64| json!({"product": true, "running_seconds": seconds, "waiting_seconds": 9.0});
        let other = json!({"product": false, "running_seconds": 0.5, "waiting_seconds": 0.0});
        let of = |operations: Vec<Value>| json!({"results": [{"profile": {"seconds": 2.0, "operations": operations}}]});
        assert_eq!(alti_products(&of(vec![product(1.0), other, product(0.5)])).unwrap(), 0.75);
        assert!(alti_products(&json!({"results": [{}]})).unwrap_err().to_string().contains("--profile"));
    }

    #[test]
    fn batched_bench_is_read_from_its_table() {
        for printed in
            [include_str!("samples/llama-batched-bench.txt"), include_str!("samples/ik-batched-bench.txt")]
        {
            assert!(batched_bench(printed, &Workload::batch(64, 8)).unwrap() > 0.0);
            let error = batched_bench(printed, &Workload::batch(64, 9)).unwrap_err();
            assert!(error.to_string().contains("no row for 9 sequences"), "{error}");
        }
        assert!(batched_bench("", &Workload::batch(64, 8)).is_err());
    }
}
