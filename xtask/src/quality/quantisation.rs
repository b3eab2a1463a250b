//! The error that a quantisation recipe leaves in each tensor, `alti quantize` against `llama-quantize`.
//!
//! The default model comes as Q4_1, so its weights lie on a grid of sixteen values per block, which no trained weight
//! does. The source here is that model in F32 with every weight moved, by a fixed seed, to somewhere within its own
//! step of that grid: weights as they may have been before they were rounded.

use super::Setting;
use crate::contestants;
use crate::peers::LLAMA_CPP;
use crate::process;
use alti_formats::gguf::{GgufFile, GgufTensor};
use alti_tensor::{DType, quant};
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Weights that share a grid in the source.
const BLOCK: usize = 32;
/// Steps of that grid from its lowest to its highest value.
const STEPS: f32 = 15.0;

/// One recipe: both engines' error in every tensor.
#[derive(Debug, Serialize)]
pub(super) struct Recipe {
    name: String,
    tensors: Vec<Tensor>,
}

/// One tensor's root-mean-square error against the source, as each engine quantised it.
#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    alti_type: &'static str,
    llama_type: &'static str,
    alti: f64,
    llama: f64,
}

impl Tensor {
    /// How much larger our error is; 1 where both are exact.
    fn ratio(&self) -> f64 {
        if self.alti == self.llama { 1.0 } else { self.alti / self.llama }
    }
}

pub(super) fn compare(setting: &Setting<'_>, recipes: &[String]) -> Result<Vec<Recipe>> {
    let source =
        unrounded(&contestants::quantised(setting.programs, &setting.model, "F32")?, &setting.scratch)?;
    let [ours, theirs] = ["alti.gguf", "llama.gguf"].map(|name| setting.scratch.join(name));
    let mut compared = Vec::new();
    for recipe in recipes {
        process::capture(
            Command::new(&setting.alti).args(["quantize", "--force"]).arg(&source).arg(&ours).arg(recipe),
        )?;
        process::capture(
            setting.programs.tool(&LLAMA_CPP, "llama-quantize")?.arg(&source).arg(&theirs).arg(recipe),
        )?;
        let files = [&source, &ours, &theirs].map(|path| GgufFile::open(path));
        let [source, ours, theirs] = files;
        compared.push(Recipe { name: recipe.clone(), tensors: errors(&source?, &ours?, &theirs?)? });
    }
    Ok(compared)
}

/// The error of every tensor that either engine quantised.
fn errors(source: &GgufFile, ours: &GgufFile, theirs: &GgufFile) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    for tensor in source.tensors() {
        let exact = values(source, tensor)?;
        let [alti, llama] = [ours, theirs].map(|file| find(file, &tensor.name));
        let [alti, llama] = [alti?, llama?];
        let [alti_type, llama_type] = [alti, llama].map(|tensor| tensor.dtype.map_or("unknown", DType::name));
        if [alti_type, llama_type] == [DType::F32.name(); 2] {
            continue;
        }
        tensors.push(Tensor {
            name: tensor.name.clone(),
            alti_type,
            llama_type,
            alti: root_mean_square(&exact, &values(ours, alti)?)?,
            llama: root_mean_square(&exact, &values(theirs, llama)?)?,
        });
    }
    Ok(tensors)
}

fn find<'a>(file: &'a GgufFile, name: &str) -> Result<&'a GgufTensor> {
    let found = file.tensors().iter().find(|tensor| tensor.name == name);
    found.with_context(|| format!("{} has no tensor {name}", file.path().display()))
}

fn values(file: &GgufFile, tensor: &GgufTensor) -> Result<Vec<f32>> {
    let dtype =
        tensor.dtype.with_context(|| format!("{}: type {} is unknown", tensor.name, tensor.type_id))?;
    let mut values = vec![0.0; tensor.shape.iter().product()];
    quant::dequantize(dtype, file.data(tensor), &mut values).with_context(|| tensor.name.clone())?;
    Ok(values)
}

fn root_mean_square(exact: &[f32], rounded: &[f32]) -> Result<f64> {
    ensure!(
        exact.len() == rounded.len(),
        "a tensor of {} weights became one of {}",
        exact.len(),
        rounded.len()
    );
    let squares: f64 = exact.iter().zip(rounded).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    Ok((squares / exact.len().max(1) as f64).sqrt())
}

/// A copy of an F32 file whose matrices are moved off the grid that they were rounded to.
fn unrounded(exact: &Path, scratch: &Path) -> Result<PathBuf> {
    let file = GgufFile::open(exact)?;
    let mut bytes = fs::read(exact)?;
    let mut random = Random(0x5EED);
    for tensor in file.tensors().iter().filter(|tensor| tensor.shape.len() > 1) {
        ensure!(tensor.dtype == Some(DType::F32), "{} is not F32", tensor.name);
        let start = usize::try_from(tensor.offset)?;
        let data = &mut bytes[start..start + usize::try_from(tensor.bytes)?];
        for block in data.chunks_mut(4 * BLOCK) {
            move_off_grid(block, &mut random);
        }
    }
    let path = scratch.join("source.gguf");
    fs::write(&path, bytes)?;
    Ok(path)
}

/// Adds to each weight of a block a random part of its grid's step, at most half of it either way.
fn move_off_grid(block: &mut [u8], random: &mut Random) {
    let weights: Vec<f32> =
        block.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
    let lowest = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = (highest - lowest) / STEPS;
    for (stored, weight) in block.chunks_exact_mut(4).zip(weights) {
        stored.copy_from_slice(&(weight + step * (random.uniform() - 0.5)).to_le_bytes());
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same moves on every machine.
struct Random(u64);

impl Random {
    /// A number in [0, 1).
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// A line per recipe: the spread of the ratios, and what is worst.
pub(super) fn markdown(recipes: &[Recipe]) -> String {
    let mut text = String::from(
        "| recipe | tensors | of another type | mean error ratio | worst ratio | worst tensor |\n|---|---|---|---|---|---|\n",
    );
    for recipe in recipes {
        let tensors = &recipe.tensors;
        let other = tensors.iter().filter(|tensor| tensor.alti_type != tensor.llama_type).count();
        let mean = tensors.iter().map(Tensor::ratio).sum::<f64>() / tensors.len().max(1) as f64;
        let Some(worst) = tensors.iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio())) else { continue };
        let cells = format!(
            "{} | {} | {other} | {mean:.4} | {:.4} | {}",
            recipe.name,
            tensors.len(),
            worst.ratio(),
            worst.name
        );
        writeln!(text, "| {cells} ({} for {}) |", worst.alti_type, worst.llama_type)
            .unwrap_or_else(|_| unreachable!("writing to a string cannot fail"));
    }
    text.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_within_half_a_step() {
        let exact: Vec<f32> = (0..BLOCK).map(|i| (i % 16) as f32).collect();
        let mut block: Vec<u8> = exact.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        move_off_grid(&mut block, &mut Random(1));
        let moved: Vec<f32> =
            block.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert!(exact.iter().zip(&moved).all(|(a, b)| (a - b).abs() <= 0.5));
        assert!(exact.iter().zip(&moved).any(|(a, b)| (a - b).abs() > 0.3));
        assert!(root_mean_square(&exact, &moved).unwrap() > 0.1);
        assert!(root_mean_square(&exact, &moved[1..]).is_err());
    }
}
