//! How far quantised execution moves the next-token distributions from those of the same weights in F32.
//!
//! The base is llama.cpp on the weights written out as F32, with F32 activations and an F32 K/V cache; llama.cpp and
//! `alti` then run the quantised file, each as it would for a user, and are compared with that base by the same
//! measure: the mean Kullback-Leibler divergence KL(base || quantised) in nats and the share of positions where the
//! most probable token differs. `alti` also runs the F32 file, which shows how much of its distance is arithmetic and
//! not the quantised activations.

use super::base_file::{BaseFile, Distribution, NEGLIGIBLE};
use super::{CONTEXT, Setting, number_after};
use crate::contestants;
use crate::peers::LLAMA_CPP;
use crate::process;
use alti_formats::gguf::GgufFile;
use anyhow::{Context as _, Result, ensure};
use safetensors::SafeTensors;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// One engine's distance from the base.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Divergence {
    /// Mean KL(base || engine) in nats.
    mean: f64,
    /// Share of positions whose most probable token is another, in percent.
    other_top_percent: f64,
}

/// The distances of both engines.
#[derive(Debug, Serialize)]
pub(super) struct Divergences {
    positions: usize,
    alti: Divergence,
    alti_f32: Divergence,
    llama: Divergence,
}

impl fmt::Display for Divergences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| against F32, {} positions | alti | llama.cpp | ratio | alti on the F32 file |",
            self.positions
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        let [alti, llama, exact] = [self.alti.mean, self.llama.mean, self.alti_f32.mean];
        writeln!(f, "| mean divergence, nats | {alti:.6} | {llama:.6} | {:.2} | {exact:.6} |", alti / llama)?;
        let [alti, llama, exact] =
            [self.alti, self.llama, self.alti_f32].map(|engine| engine.other_top_percent);
        write!(
            f,
            "| other most probable token | {alti:.2} % | {llama:.2} % | {:.2} | {exact:.2} % |",
            alti / llama
        )
    }
}

pub(super) fn compare(setting: &Setting<'_>, chunks: u32) -> Result<Divergences> {
    let exact = contestants::quantised(setting.programs, &setting.model, "F32")?;
    let base = setting.scratch.join("base.logits");
    let mut make_base = setting.programs.tool(&LLAMA_CPP, "llama-perplexity")?;
    make_base.arg("--model").arg(&exact).arg("--file").arg(&setting.text);
    make_base.args(["--ctx-size", &CONTEXT.to_string(), "--chunks", &chunks.to_string()]);
    make_base.args(["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]);
    process::capture(make_base.arg("--kl-divergence-base").arg(&base))?;

    let mut theirs = setting.programs.tool(&LLAMA_CPP, "llama-perplexity")?;
    theirs.arg("--model").arg(&setting.model).args(["--ctx-size", &CONTEXT.to_string(), "--kl-divergence"]);
    let (printed, logged) = process::capture(theirs.arg("--kl-divergence-base").arg(&base))?;
    let printed = printed + &logged;
    let llama = Divergence {
        mean: number_after(&printed, "Mean    KLD:")?,
        other_top_percent: 100.0 - number_after(&printed, "Same top p:")?,
    };
    let (alti, positions) = measure(setting, &setting.model, &base, &[])?;
    let (alti_f32, _) = measure(setting, &exact, &base, &["--kv-type", "f32"])?;
    Ok(Divergences { positions, alti, alti_f32, llama })
}

/// Runs `alti logits` on every chunk of the base and measures its distance.
fn measure(setting: &Setting<'_>, model: &Path, base: &Path, flags: &[&str]) -> Result<(Divergence, usize)> {
    let begin = beginning_of_text(&GgufFile::open(model)?)?;
    let mut base = BaseFile::open(base)?;
    let [tokens, logits] = ["tokens.json", "logits.safetensors"].map(|name| setting.scratch.join(name));
    let mut sums = Sums::default();
    for chunk in 0..base.chunks.len() {
        let mut row: Vec<i64> = base.chunks[chunk].iter().map(|token| i64::from(*token)).collect();
        if let Some(begin) = begin {
            row[0] = begin;
        }
        fs::write(&tokens, serde_json::to_string(&[row])?)?;
        let mut command = Command::new(&setting.alti);
        command.arg("logits").arg(model).arg("--tokens").arg(&tokens).args(["--backend", "cpu"]).args(flags);
        process::capture(command.arg("--out").arg(&logits))?;
        let bytes = fs::read(&logits)?;
        let rows = logits_of(&bytes, base.context, base.vocabulary)?;
        for position in base.first_scored()..base.context - 1 {
            let row = &rows[4 * position * base.vocabulary..4 * (position + 1) * base.vocabulary];
            let values =
                row.chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]));
            sums.add(&base.next()?, &values.collect::<Vec<f32>>());
        }
    }
    Ok((sums.divergence(), sums.positions))
}

/// The bytes of the tensor `logits`, f32 [1, context, vocabulary].
fn logits_of(bytes: &[u8], context: usize, vocabulary: usize) -> Result<&[u8]> {
    let tensor = SafeTensors::deserialize(bytes)
        .and_then(|file| file.tensor("logits"))
        .context("`alti logits` wrote no `logits`")?;
    let wanted = [1, context, vocabulary];
    ensure!(
        tensor.shape() == wanted && tensor.dtype() == safetensors::Dtype::F32,
        "`logits` is {:?} of shape {:?}, expected F32 {wanted:?}",
        tensor.dtype(),
        tensor.shape()
    );
    Ok(tensor.data())
}

/// The token that llama.cpp puts in place of a chunk's first, if the model wants one.
fn beginning_of_text(file: &GgufFile) -> Result<Option<i64>> {
    let metadata = file.metadata();
    let wanted = match metadata.boolean("tokenizer.ggml.add_bos_token")? {
        Some(wanted) => wanted,
        None => {
            let sentence_piece = metadata.string("tokenizer.ggml.model")? == Some("llama");
            sentence_piece || metadata.string("tokenizer.ggml.pre")? == Some("llama-bpe")
        }
    };
    if !wanted {
        return Ok(None);
    }
    let id = metadata
        .unsigned("tokenizer.ggml.bos_token_id")?
        .context("the model has no tokenizer.ggml.bos_token_id")?;
    Ok(Some(i64::try_from(id)?))
}

/// What is added up over the scored positions.
#[derive(Default)]
struct Sums {
    divergence: f64,
    other_top: usize,
    positions: usize,
}

impl Sums {
    fn add(&mut self, base: &Distribution, logits: &[f32]) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        let normaliser = f64::from(largest) + total.ln();
        for (&log_base, &logit) in base.log_probabilities.iter().zip(logits) {
            if log_base > NEGLIGIBLE {
                let log_base = f64::from(log_base);
                self.divergence += log_base.exp() * (log_base - (f64::from(logit) - normaliser));
            }
        }
        self.other_top += usize::from(first_largest(&base.log_probabilities) != first_largest(logits));
        self.positions += 1;
    }

    fn divergence(&self) -> Divergence {
        let positions = self.positions.max(1) as f64;
        Divergence {
            mean: self.divergence / positions,
            other_top_percent: 100.0 * self.other_top as f64 / positions,
        }
    }
}

/// The index of the largest value; of equals, the first.
fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(probabilities: &[f32]) -> Distribution {
        Distribution { log_probabilities: probabilities.iter().map(|p| p.ln()).collect() }
    }

    #[test]
    fn equal_distributions_have_no_distance() {
        let mut sums = Sums::default();
        // Logits are known up to a constant.
        sums.add(&base(&[0.5, 0.25, 0.25]), &[0.5f32.ln() + 3.0, 0.25f32.ln() + 3.0, 0.25f32.ln() + 3.0]);
        assert!(sums.divergence().mean.abs() < 1e-6);
        assert_eq!(sums.divergence().other_top_percent, 0.0);
    }

    #[test]
    fn the_distance_is_the_textbooks() {
        let mut sums = Sums::default();
        sums.add(&base(&[0.75, 0.25]), &[0.25f32.ln(), 0.75f32.ln()]);
        let expected = 0.75 * 3f64.ln() - 0.25 * 3f64.ln();
        assert!((sums.divergence().mean - expected).abs() < 1e-6);
        assert_eq!(sums.divergence().other_top_percent, 100.0);
    }
}
