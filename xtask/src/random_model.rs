//! A model in the shape of Llama 3.2 1B with random weights: what it computes means nothing, and it computes it exactly
//! as fast as the real one, which may not be passed around freely.
//!
//! Weights are drawn from a seed, so that every machine makes the same file. The vocabulary has the real one's size and
//! is built like it (byte-level BPE with special tokens at the end), from merges of bytes in plain order.

use alti_formats::gguf::{TensorPlan, Value, WriteOptions, write_gguf};
use alti_formats::{Architecture, ModelConfig, Rope, RopeScaling, WeightName};
use alti_tensor::DType;
use anyhow::{Context as _, Result};
use std::borrow::Cow;
use std::path::Path;

/// Tokens made of bytes; special tokens fill the rest of the vocabulary, as in Llama 3.
const TEXT_TOKENS: usize = 128_000;
/// `<|begin_of_text|>` in Llama 3.
const BEGIN_OF_TEXT: u32 = 128_000;
/// `<|eot_id|>` in Llama 3.
const END_OF_TURN: u32 = 128_009;

/// Standard deviation of the weights: Llama's own initialisation.
const DEVIATION: f32 = 0.02;

/// Llama 3.2 1B's published configuration.
#[must_use]
pub fn llama_3_2_1b() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocabulary_size: 128_256,
        embedding_length: 2048,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        feed_forward_length: 8192,
        norm_epsilon: 1e-5,
        context_length: 131_072,
        tied_embeddings: true,
        rope: Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original_context: 8192 },
        },
        experts: None,
        no_rope: vec![false; 16],
        attention_chunk: None,
        qk_norm: false,
        temperature: None,
        bos: Some(BEGIN_OF_TEXT),
        eos: vec![END_OF_TURN],
    }
}

/// Writes the model as GGUF, matrices in BF16 and the rest in F32.
///
/// # Errors
/// Those of writing the file, which appears whole or not at all.
pub fn write(path: &Path, config: &ModelConfig) -> Result<()> {
    let divisors = config.rope.divisors(config.head_dim).context("the shape has Llama 3's rope scaling")?;
    let mut tensors: Vec<TensorPlan> = config.weight_shapes().into_iter().map(planned).collect();
    let weights = tensors.len();
    let name = "rope_freqs.weight".to_owned();
    tensors.push(TensorPlan { name, dtype: DType::F32, shape: vec![divisors.len()] });
    let metadata = [shape_metadata(config)?, vocabulary_metadata(config)].concat();
    let data = |index: usize| {
        let bytes = match tensors[index].dtype {
            DType::F32 if index == weights => divisors.iter().flat_map(|value| value.to_le_bytes()).collect(),
            DType::F32 => ones(&tensors[index].shape),
            _ => random(index as u64, tensors[index].shape.iter().product()),
        };
        Ok(Cow::Owned(bytes))
    };
    write_gguf(path, &metadata, &tensors, data, WriteOptions::default(), &mut |_| {})?;
    Ok(())
}

fn planned((name, shape): (WeightName, Vec<usize>)) -> TensorPlan {
    let dtype = if shape.len() == 1 { DType::F32 } else { DType::BF16 };
    TensorPlan { name: name.gguf(), dtype, shape }
}

fn ones(shape: &[usize]) -> Vec<u8> {
    1f32.to_le_bytes().repeat(shape.iter().product())
}

/// `count` values of BF16, nearly normal: sums of the four 16-bit parts of a random number.
fn random(seed: u64, count: usize) -> Vec<u8> {
    // A uniform number of 16 bits has a variance of 2^32 / 12; four of them have four times that.
    let scale = DEVIATION / (4.0 * 2f32.powi(32) / 12.0).sqrt();
    let mut bytes = Vec::with_capacity(2 * count);
    for index in 0..count as u64 {
        let bits = mixed((seed << 40) + index);
        let sum = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum::<u64>();
        let value = (sum as f32 - 2.0 * 65_535.0) * scale;
        // Truncation to the upper half is rounding enough for numbers that mean nothing.
        bytes.extend_from_slice(&value.to_bits().to_le_bytes()[2..]);
    }
    bytes
}

/// SplitMix64's output function (Steele, Lea and Flood 2014) at a place of its sequence.
fn mixed(place: u64) -> u64 {
    let mut bits = place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn shape_metadata(config: &ModelConfig) -> Result<Vec<(String, Value)>> {
    let sizes = [
        ("block_count", config.layers),
        ("context_length", config.context_length),
        ("embedding_length", config.embedding_length),
        ("feed_forward_length", config.feed_forward_length),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocabulary_size),
    ];
    let mut pairs = vec![
        ("general.architecture".to_owned(), Value::String("llama".into())),
        ("general.name".to_owned(), Value::String("Random weights".into())),
        // llama.cpp's number for files whose matrices are BF16.
        ("general.file_type".to_owned(), Value::U32(32)),
        ("llama.rope.freq_base".to_owned(), Value::F32(config.rope.theta)),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(config.norm_epsilon)),
    ];
    for (key, size) in sizes {
        pairs.push((format!("llama.{key}"), Value::U32(u32::try_from(size)?)));
    }
    Ok(pairs)
}

fn vocabulary_metadata(config: &ModelConfig) -> Vec<(String, Value)> {
    /// llama.cpp's kinds of tokens.
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    let texts = TEXT_TOKENS.min(config.vocabulary_size);
    let (mut tokens, merges) = text_tokens(texts);
    let special = (texts..config.vocabulary_size).map(|id| match id as u32 {
        BEGIN_OF_TEXT => "<|begin_of_text|>".to_owned(),
        END_OF_TURN => "<|eot_id|>".to_owned(),
        id => format!("<|reserved_special_token_{id}|>"),
    });
    tokens.extend(special);
    let kinds = (0..tokens.len()).map(|id| if id < texts { NORMAL } else { CONTROL });
    let pairs = [
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String("llama-bpe".into())),
        ("token_type", Value::i32s(kinds)),
        ("tokens", Value::strings(tokens)),
        ("merges", Value::strings(merges)),
        ("bos_token_id", Value::U32(BEGIN_OF_TEXT)),
        ("eos_token_id", Value::U32(END_OF_TURN)),
        ("add_bos_token", Value::Bool(true)),
    ];
    pairs.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).to_vec()
}

/// `count` tokens (single bytes, then pairs, then triples) and the merges that make them.
fn text_tokens(count: usize) -> (Vec<String>, Vec<String>) {
    let mut tokens: Vec<String> = byte_letters().into_iter().map(String::from).collect();
    let mut merges = Vec::new();
    let mut index = 0;
    while tokens.len() < count {
        // Token 256 + i joins token i / 256 and byte i % 256.
        let (left, right) = (index / 256, index % 256);
        merges.push(format!("{} {}", tokens[left], tokens[right]));
        tokens.push(format!("{}{}", tokens[left], tokens[right]));
        index += 1;
    }
    (tokens, merges)
}

/// The letter that stands for each byte in byte-level BPE (GPT-2's `bytes_to_unicode`).
fn byte_letters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    let letter = |byte: u32| if printable(byte) { Some(byte) } else { others.next() };
    (0..=255).map(letter).filter_map(|code| char::from_u32(code?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alti_formats::Checkpoint;
    use std::collections::HashSet;

    #[test]
    fn vocabulary_has_distinct_tokens_and_a_merge_for_each_that_is_no_byte() {
        let (tokens, merges) = text_tokens(TEXT_TOKENS);
        assert_eq!((tokens.len(), merges.len()), (TEXT_TOKENS, TEXT_TOKENS - 256));
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len());
        assert_eq!((tokens[0x20].as_str(), tokens[0x41].as_str()), ("\u{120}", "A"));
    }

    #[test]
    fn random_weights_are_reproducible_and_nearly_normal() {
        let bytes = random(3, 100_000);
        assert_eq!(bytes, random(3, 100_000));
        assert_ne!(bytes, random(4, 100_000));
        let values = bytes.as_chunks::<2>().0.iter();
        let values: Vec<f32> =
            values.map(|&[low, high]| f32::from_bits(u32::from_le_bytes([0, 0, low, high]))).collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3 && (deviation / DEVIATION - 1.0).abs() < 0.02, "{mean} {deviation}");
    }

    #[test]
    fn a_small_one_is_read_back_with_its_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.gguf");
        let config = ModelConfig {
            embedding_length: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            feed_forward_length: 96,
            layers: 1,
            no_rope: vec![false],
            ..llama_3_2_1b()
        };
        write(&path, &config).unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap().config(), &config);
    }
}
