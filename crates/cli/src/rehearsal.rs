//! A rehearsal: how fast this machine runs a model that need not be here.
//!
//! A stand-in of the model's own shape, with weights that mean nothing, is run by the code that runs real models: a
//! prompt and some tokens behind it. What is kept are two rates, the bytes a second that an answer reads and the
//! FLOP/s that a prompt reaches, which carry over to the model's full number of layers. Small models are rehearsed
//! whole; of large ones as many layers as [`MOST_BYTES`] hold, narrower where not even one would fit.

use crate::environment::Environment;
use crate::model::{available_memory, cores, cpu_isa};
use crate::runner::Runner;
use alti_cpu::Cpu;
use alti_formats::recipes::{Recipe, RecipeContext};
use alti_formats::{Architecture, ModelConfig, Rope, RopeScaling};
use alti_models::{Llama, memory};
use alti_plan::local::{Speed, answer_bytes, prompt_flops};
use alti_plan::model::ModelShape;
use alti_tensor::quant::quantize;
use alti_tensor::{Backend, DType, KvDType, PAGE_TOKENS, WeightData};
use anyhow::Context as _;
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Weights that a stand-in may take: more than caches hold, and soon packed.
const MOST_BYTES: f64 = 768e6;
/// Tokens of the prompt.
const PROMPT: usize = 512;
/// Tokens decoded behind it in a round.
const ANSWER: usize = 32;
/// Time to give to repetitions of each kind of work; the fastest counts, because all that disturbs only slows.
const PATIENCE: Duration = Duration::from_millis(600);

/// Rehearses a model with its weights kept as `recipe` says.
///
/// # Errors
/// When there is not enough memory, or the machine lacks the instruction set that is asked for.
pub fn rehearse(environment: &Environment, shape: &ModelShape, recipe: &Recipe) -> anyhow::Result<Speed> {
    let most = MOST_BYTES.min(available_memory() as f64 / 6.0);
    let bytes_per_weight = bytes_per_weight(&config(shape), recipe);
    let stand_in = stand_in(shape, bytes_per_weight, most);
    let config = config(&stand_in);
    let mut backend = Cpu::new(cpu_isa(environment)?, cores())?;
    let mut patterns = HashMap::new();
    let context = RecipeContext::of(&config);
    let shapes: HashMap<_, _> = config.weight_shapes().into_iter().collect();
    let model = Llama::build(&config, |name| {
        let shape =
            shapes.get(&name).with_context(|| format!("{name:?} is no weight of this shape"))?.clone();
        let dtype = recipe.dtype_for(&context, &name.gguf(), &shape);
        let pattern = patterns.entry(dtype).or_insert_with(|| pattern(dtype));
        let pattern = pattern.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
        anyhow::Ok(backend.load(weight(dtype, shape, pattern))?)
    })?;
    let each = (PROMPT + ANSWER).div_ceil(PAGE_TOKENS);
    let layout = memory::cache_layout(&config, each * PAGE_TOKENS, KvDType::BF16);
    let cache = backend.cache(&layout)?;
    let mut runner = Runner::new(&mut backend, &model, &cache, &layout, each);
    let prompt = fastest(|| runner.prefill(0, 0, PROMPT, PROMPT))?;
    let answer = fastest(|| (PROMPT..PROMPT + ANSWER).try_for_each(|position| runner.decode(1, position)))?;
    let own = self::bytes_per_weight(&config, recipe);
    let behind = PROMPT as f64 + ANSWER as f64 / 2.0;
    Ok(Speed {
        weights: recipe.name.to_owned(),
        bytes_per_weight,
        layers: stand_in.layers,
        read: ANSWER as f64 * answer_bytes(&stand_in, own, behind) / answer,
        rate: PROMPT as f64 * prompt_flops(&stand_in, 0.0, PROMPT as f64) / prompt,
    })
}

/// Seconds of the fastest run of `work`, which is not the first: that one warms up.
fn fastest(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    work()?;
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || begun.elapsed() < PATIENCE {
        let started = Instant::now();
        work()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// A dense model in the shape of this one that takes at most about `most` bytes: half of them for the vocabulary, the
/// others for layers. Of experts those stand in that one token visits.
fn stand_in(shape: &ModelShape, bytes_per_weight: f64, most: f64) -> ModelShape {
    let mut small = shape.clone();
    if let Some(experts) = small.experts.take()
        && shape.expert_layers() > 0
    {
        small.feed_forward = u64::from(experts.active) * experts.feed_forward + experts.shared_feed_forward;
    }
    small.attention_parameters = None;
    small.cached_values_per_layer = None;
    small.attention_layers = None;
    (small.attention_chunk, small.chunked_layers, small.learned_positions) = (None, 0, 0);
    // An untied embedding is only looked up.
    (small.tied_embeddings, small.gated) = (true, true);
    let weights = most / 2.0 / bytes_per_weight;
    let of_a_layer =
        |it: &ModelShape| it.attention_parameters_of_layer() + it.dense_feed_forward_parameters();
    let narrower = (of_a_layer(&small) / weights).sqrt().ceil().max(1.0) as u64;
    small.kv_heads = (small.kv_heads / narrower).max(1);
    small.heads = (small.heads / narrower / small.kv_heads).max(1) * small.kv_heads;
    small.head_size = small.head_size.next_multiple_of(2);
    if narrower > 1 {
        small.hidden = (small.hidden / narrower).next_multiple_of(256);
        small.feed_forward = (small.feed_forward / narrower).next_multiple_of(256);
    }
    small.vocabulary = small.vocabulary.min((weights / small.hidden as f64) as u64).max(256);
    small.layers = small.layers.min((weights / of_a_layer(&small)) as u32).max(1);
    small
}

fn config(shape: &ModelShape) -> ModelConfig {
    let size = |value: u64| value as usize;
    let layers = shape.layers as usize;
    ModelConfig {
        architecture: Architecture::Llama,
        vocabulary_size: size(shape.vocabulary),
        embedding_length: size(shape.hidden),
        layers,
        heads: size(shape.heads),
        kv_heads: size(shape.kv_heads),
        head_dim: size(shape.head_size),
        feed_forward_length: size(shape.feed_forward),
        norm_epsilon: 1e-5,
        context_length: size(shape.context),
        tied_embeddings: shape.tied_embeddings,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        experts: None,
        no_rope: vec![false; layers],
        attention_chunk: None,
        qk_norm: false,
        temperature: None,
        bos: None,
        eos: Vec::new(),
    }
}

/// Bytes that a weight takes in the mean of all matrices.
fn bytes_per_weight(config: &ModelConfig, recipe: &Recipe) -> f64 {
    let context = RecipeContext::of(config);
    let (mut bytes, mut weights) = (0.0, 0.0);
    for (name, shape) in config.weight_shapes() {
        let dtype = recipe.dtype_for(&context, &name.gguf(), &shape);
        let count = shape.iter().product::<usize>() as f64;
        bytes += count * dtype.block_bytes() as f64 / dtype.block_len() as f64;
        weights += count;
    }
    bytes / weights
}

/// Encoded weights, small and different, to be repeated.
fn pattern(dtype: DType) -> Result<Vec<u8>, alti_tensor::quant::QuantError> {
    const COUNT: usize = 8192;
    // Multiples of the golden ratio spread evenly (Weyl).
    let values: Vec<f32> = (0..COUNT).map(|i| 0.06 * ((i as f32 * 0.618_034).fract() - 0.5)).collect();
    let mut bytes = vec![0; COUNT / dtype.block_len() * dtype.block_bytes()];
    quantize(dtype, &values, None, &mut bytes)?;
    Ok(bytes)
}

fn weight(dtype: DType, shape: Vec<usize>, pattern: &[u8]) -> WeightData<'static> {
    let length = shape.iter().product::<usize>() / dtype.block_len() * dtype.block_bytes();
    let bytes = pattern.iter().copied().cycle().take(length).collect();
    WeightData { dtype, shape, bytes: Cow::Owned(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alti_plan::model::ModelCatalogue;

    #[test]
    fn a_stand_in_keeps_the_shape_and_fits() {
        let catalogue = ModelCatalogue::built_in();
        let recipe = Recipe::by_name("BF16").unwrap();
        for model in &catalogue.models {
            let small = stand_in(model, 2.0, MOST_BYTES);
            let bytes = bytes_per_weight(&config(&small), recipe) * small.parameters();
            assert!(bytes < 1.3 * MOST_BYTES, "{}: {bytes} bytes as {small:?}", model.name);
            assert!(small.heads.is_multiple_of(small.kv_heads) && small.layers <= model.layers, "{small:?}");
        }
        let small = catalogue.find("SmolLM2-135M").unwrap();
        let whole = stand_in(&small, 1.0, MOST_BYTES);
        assert_eq!((whole.layers, whole.hidden, whole.vocabulary), (30, 576, 49_152));
    }

    #[test]
    fn recipes_take_the_bytes_of_the_files_they_make() {
        let model = ModelCatalogue::built_in().find("Llama-3.2-1B").unwrap();
        let of = |name: &str| bytes_per_weight(&config(&model), Recipe::by_name(name).unwrap());
        assert!((of("BF16") - 2.0).abs() < 0.001);
        assert!((of("Q8_0") - 34.0 / 32.0).abs() < 0.001);
        // The size of the published Q4_K_M file of this model is 807 MB for 1,236 million weights.
        assert!((of("Q4_K_M") - 0.653).abs() < 0.01, "{}", of("Q4_K_M"));
    }
}
