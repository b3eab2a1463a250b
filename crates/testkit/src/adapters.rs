//! What every backend must compute with LoRA adapters: what PEFT computes, what merged weights give, and for each
//! sequence of a step the same bits whichever adapters the others use.

use crate::conformance::{Random, weight};
use crate::parity::{Golden, assert_close};
use crate::{ADAPTERS, GOLDENS, adapter, golden};
use alti_formats::{Checkpoint, ModelConfig, Part, WeightName};
use alti_models::{Adapter, Llama, Step, memory};
use alti_tensor::{Backend, DType, KvDType, LowRank, RowPlan, Span, WeightData};
use std::collections::HashMap;
use std::sync::Arc;

/// The tiny adapter `name` in a backend, for a model of this shape.
///
/// # Panics
/// When it cannot be loaded.
pub fn load<B: Backend>(backend: &B, name: &str, model: &ModelConfig) -> Arc<Adapter<B::Weight>> {
    let stored = alti_formats::Adapter::open(&adapter(name), model).expect("the adapter opens");
    Arc::new(Adapter::load(backend, &stored).expect("the adapter loads"))
}

/// What PEFT computes with its own adapters, on a backend that computes in f32; the GGUF file that llama.cpp makes of
/// one gives the same bits.
///
/// # Panics
/// When the backend computes anything else.
pub fn check_peft<B: Backend<Element = f32>>(make: impl Fn() -> B) {
    for (name, base) in ADAPTERS {
        let mut backend = make();
        let checkpoint = Checkpoint::open(&golden(base)).expect("the golden model opens");
        let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
        let folder = adapter(name);
        let expected = Golden::read_in(&folder);
        let tokens = expected.tokens("input_ids");
        let mut run = |adapter| logits(&mut backend, &model, &tokens, &[adapter]);
        let found = run(load(&make(), name, &model.config));
        assert_close(&found, &expected.floats("logits"), expected.noise_floor, &format!("{name}: logits"));
        let file = folder.join("adapter-f32.gguf");
        if file.is_file() {
            let stored = alti_formats::Adapter::open(&file, &model.config).expect("the GGUF adapter opens");
            let same = run(Arc::new(Adapter::load(&make(), &stored).expect("the GGUF adapter loads")));
            assert_eq!(bits(&found), bits(&same), "{name}: the GGUF file");
        }
    }
}

/// Logits of both rows of a golden, both with the first of the adapters.
fn logits<B: Backend<Element = f32>>(
    backend: &mut B,
    model: &Llama<B::Weight>,
    tokens: &[u32],
    adapters: &[Arc<Adapter<B::Weight>>],
) -> Vec<f32> {
    let adapter = (!adapters.is_empty()).then_some(0);
    let span = || Span { rows: tokens.len() / 2, adapter, ..Span::default() };
    let rows = RowPlan::new(vec![span(), span()]);
    let wanted: Vec<usize> = (0..rows.len()).collect();
    let logits = model.logits(backend, &Step { tokens, rows: &rows, cache: None, adapters }, &wanted);
    let mut values = Vec::new();
    backend.fetch(&logits, &mut values).expect("the step runs");
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A and B of one matrix, with its shape and a scale.
struct Thin {
    shape: [usize; 2],
    rank: usize,
    down: Vec<f32>,
    up: Vec<f32>,
    scale: f32,
}

impl Thin {
    /// `scale B A`, row-major.
    fn product(&self) -> Vec<f64> {
        let [out, inputs] = self.shape;
        let mut product = vec![0f64; out * inputs];
        for (row, up) in product.chunks_exact_mut(inputs).zip(self.up.chunks_exact(self.rank)) {
            for (down, &up) in self.down.chunks_exact(inputs).zip(up) {
                row.iter_mut().zip(down).for_each(|(sum, &down)| *sum += f64::from(up) * f64::from(down));
            }
            row.iter_mut().for_each(|sum| *sum *= f64::from(self.scale));
        }
        product
    }
}

/// Random updates of every matrix that can have one, or of every second one.
fn random_updates(config: &ModelConfig, seed: u64, rank: usize, every: usize) -> HashMap<WeightName, Thin> {
    let mut random = Random(seed);
    let adaptable = |name: &WeightName| {
        !matches!(
            name.part,
            Part::TokenEmbedding | Part::Router | Part::ExpertsGate | Part::ExpertsUp | Part::ExpertsDown
        )
    };
    let matrices = config.weight_shapes().into_iter().filter(|(name, _)| adaptable(name));
    let matrices = matrices.filter_map(|(name, shape)| Some((name, <[usize; 2]>::try_from(shape).ok()?)));
    let mut updates = HashMap::new();
    for (name, [out, inputs]) in matrices.step_by(every) {
        // About as large as the weights themselves.
        let mut values = |count| random.values(count).into_iter().map(|x| 0.2 * x).collect();
        let (down, up) = (values(rank * inputs), values(out * rank));
        updates.insert(name, Thin { shape: [out, inputs], rank, down, up, scale: 1.5 });
    }
    updates
}

fn in_backend<B: Backend>(backend: &B, updates: &HashMap<WeightName, Thin>) -> Arc<Adapter<B::Weight>> {
    let load = |shape: &[usize], values: &[f32]| {
        backend.load(weight(DType::F32, shape, values)).expect("a thin matrix loads")
    };
    Arc::new(Adapter::new(updates.iter().map(|(&name, thin)| {
        let [out, inputs] = thin.shape;
        let down = load(&[thin.rank, inputs], &thin.down);
        (name, LowRank { down, up: load(&[out, thin.rank], &thin.up), scale: thin.scale })
    })))
}

/// On every golden model, an adapter of every matrix at run time beside the same model with `W + scale B A` for `W`:
/// equal to within rounding, on a backend that computes in f32.
///
/// # Panics
/// When they differ.
pub fn check_merged<B: Backend<Element = f32>>(make: impl Fn() -> B) {
    for name in GOLDENS {
        let mut backend = make();
        let checkpoint = Checkpoint::open(&golden(name)).expect("the golden model opens");
        let updates = random_updates(checkpoint.config(), 7, 5, 1);
        let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
        let merged = Llama::build(checkpoint.config(), |name| {
            let stored = checkpoint.load(&name).expect("the golden model reads");
            backend.load(match updates.get(&name) {
                Some(update) => plus(&stored, &update.product()),
                None => stored,
            })
        });
        let merged = merged.expect("the merged model loads");
        let adapter = in_backend(&backend, &updates);
        let recorded = Golden::read(name);
        let tokens = recorded.tokens("input_ids");
        let plain = logits(&mut backend, &model, &tokens, &[]);
        let adapted = logits(&mut backend, &model, &tokens, &[adapter]);
        let expected = logits(&mut backend, &merged, &tokens, &[]);
        assert_close(&adapted, &expected, recorded.noise_floor, &format!("{name}: adapted and merged"));
        let moved = plain.iter().zip(&adapted).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        let largest = plain.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(moved > 0.1 * largest, "{name}: the adapter does next to nothing, {moved} of {largest}");
    }
}

fn plus(stored: &WeightData<'_>, update: &[f64]) -> WeightData<'static> {
    let values = stored.bytes.as_chunks::<4>().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes)));
    let sums: Vec<f32> = values.zip(update).map(|(value, update)| (value + update) as f32).collect();
    weight(DType::F32, &stored.shape, &sums)
}

/// One sequence of a step: its adapter, and where its pages are.
#[derive(Clone, Copy)]
struct Sequence {
    adapter: Option<usize>,
    page: usize,
}

/// Several sequences with adapters of different ranks and reach, and without, prefilled together in parts and decoded
/// together: each has the bits that it has alone, with only its own adapter in the step, or with none; with weights
/// in encodings for which a machine has kernels of their own.
///
/// # Panics
/// When one differs.
pub fn check_company<B: Backend<Element = f32>>(make: impl Fn() -> B) {
    for dtype in [None, Some(DType::Q4_0), Some(DType::Q8_0), Some(DType::BF16)] {
        for name in ["llama3-gqa", "llama32-tied", "llama4-scout"] {
            let mut backend = make();
            let checkpoint = Checkpoint::open(&golden(name)).expect("the golden model opens");
            let model = Llama::build(checkpoint.config(), |name| {
                let stored = checkpoint.load(&name).expect("the golden model reads");
                backend.load(match dtype.filter(|_| stored.shape.len() > 1) {
                    None => stored,
                    Some(dtype) => {
                        let values = stored.bytes.as_chunks::<4>().0.iter();
                        let values: Vec<f32> = values.map(|&bytes| f32::from_le_bytes(bytes)).collect();
                        weight(dtype, &stored.shape, &values)
                    }
                })
            });
            let model = model.expect("the golden model loads");
            let [every, half] = [(11, 3, 1), (13, 37, 2)]
                .map(|(seed, rank, every)| random_updates(&model.config, seed, rank, every));
            let adapters = [in_backend(&backend, &every), in_backend(&backend, &half)];
            let tokens: Vec<u32> = Golden::read(name).tokens("greedy")[..24].to_vec();
            let choices = [Some(0), None, Some(1), Some(0), None];
            let sequences: Vec<Sequence> =
                choices.iter().enumerate().map(|(page, &adapter)| Sequence { adapter, page }).collect();
            let together = run(&mut backend, &model, &sequences, &adapters, &tokens, &[9, 11, 1, 1, 1, 1]);
            for (sequence, found) in sequences.iter().zip(&together) {
                let own: Vec<_> = sequence.adapter.iter().map(|&adapter| adapters[adapter].clone()).collect();
                let alone = Sequence { adapter: sequence.adapter.map(|_| 0), page: 0 };
                let expected = &run(&mut backend, &model, &[alone], &own, &tokens, &[24])[0];
                let what = format!("{name} in {dtype:?}, sequence {}: {:?}", sequence.page, sequence.adapter);
                assert_eq!(bits(found), bits(expected), "{what}: others change it");
            }
            assert_ne!(bits(&together[0]), bits(&together[1]), "{name}: the first adapter does nothing");
            assert_ne!(bits(&together[2]), bits(&together[1]), "{name}: the second adapter does nothing");
        }
    }
}

/// The logits of each sequence's last token; all have the same tokens, which arrive in steps of so many of each.
fn run<B: Backend<Element = f32>>(
    backend: &mut B,
    model: &Llama<B::Weight>,
    sequences: &[Sequence],
    adapters: &[Arc<Adapter<B::Weight>>],
    tokens: &[u32],
    steps: &[usize],
) -> Vec<Vec<f32>> {
    let layout =
        memory::cache_layout(&model.config, sequences.len() * alti_tensor::PAGE_TOKENS, KvDType::BF16);
    let cache = backend.cache(&layout).expect("memory for a small cache");
    let (mut values, mut first) = (Vec::new(), 0);
    for &count in steps {
        let positions = first..first + count;
        let span = |sequence: &Sequence| {
            Span::in_order(&layout, sequence.page, positions.clone()).with_adapter(sequence.adapter)
        };
        let rows = RowPlan::new(sequences.iter().map(span).collect());
        let tokens: Vec<u32> = rows.rows().iter().map(|row| tokens[row.position]).collect();
        let step = Step { tokens: &tokens, rows: &rows, cache: Some(&cache), adapters };
        let last: Vec<usize> = (1..=sequences.len()).map(|sequence| sequence * count - 1).collect();
        let logits = model.logits(backend, &step, &last);
        backend.fetch(&logits, &mut values).expect("the step runs");
        first += count;
    }
    values.chunks_exact(model.config.vocabulary_size).map(<[f32]>::to_vec).collect()
}
