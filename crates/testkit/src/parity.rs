//! What every backend must reproduce of the golden models: logits, hidden states, greedy texts, and
//! the same bits however the tokens arrive. A new backend is right when [`check_all`] passes.

use crate::conformance::weight;
use crate::{GOLDENS, golden};
use alti_formats::Checkpoint;
use alti_models::{Llama, Step, memory};
use alti_tensor::{Backend, DType, KvDType, PAGE_TOKENS, RowPlan, Span};
use safetensors::SafeTensors;
use std::path::Path;

/// A golden model's recorded inputs and outputs.
#[derive(Debug)]
pub struct Golden {
    bytes: Vec<u8>,
    /// `max |logits in f64 - logits in f32|` of the recording model.
    pub noise_floor: f64,
}

impl Golden {
    /// Reads `golden.safetensors` of model `name`.
    ///
    /// # Panics
    /// When it cannot be read: tests have nothing to compare with then.
    pub fn read(name: &str) -> Golden {
        Golden::read_in(&golden(name))
    }

    /// Reads `golden.safetensors` in a folder.
    ///
    /// # Panics
    /// As [`Golden::read`].
    pub fn read_in(folder: &Path) -> Golden {
        let bytes = std::fs::read(folder.join("golden.safetensors")).expect("the golden can be read");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("the golden is safetensors");
        let metadata = header.metadata().as_ref().expect("the golden has metadata");
        let noise_floor = metadata["fp64_noise_floor_logits"].parse().expect("the noise floor is a number");
        Golden { bytes, noise_floor }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.bytes).expect("the golden is safetensors");
        file.tensor(name).unwrap_or_else(|_| panic!("the golden has {name}")).data().to_vec()
    }

    /// The f32 values of a tensor.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks::<4>().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
    }

    /// The token ids of an i64 tensor.
    pub fn tokens(&self, name: &str) -> Vec<u32> {
        let bytes = self.bytes(name);
        bytes.as_chunks::<8>().0.iter().map(|&chunk| i64::from_le_bytes(chunk) as u32).collect()
    }

    /// The two rows of the input.
    pub fn sequences(&self) -> Vec<Vec<u32>> {
        let tokens = self.tokens("input_ids");
        tokens.chunks_exact(tokens.len() / 2).map(<[u32]>::to_vec).collect()
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).expect("the golden is safetensors");
        file.names().into_iter().map(str::to_owned).collect()
    }
}

/// A golden model in a backend.
struct Loaded<B: Backend> {
    backend: B,
    model: Llama<B::Weight>,
    golden: Golden,
}

impl<B: Backend<Element = f32>> Loaded<B> {
    /// The model as it is, or its matrices in another encoding (rows must be whole blocks of it).
    fn new(backend: B, name: &str, dtype: Option<DType>) -> Loaded<B> {
        let checkpoint = Checkpoint::open(&golden(name)).expect("the golden model opens");
        let model = Llama::build(checkpoint.config(), |name| {
            let stored = checkpoint.load(&name).expect("the golden model reads");
            let Some(dtype) = dtype.filter(|_| stored.shape.len() > 1) else { return backend.load(stored) };
            let values: Vec<f32> =
                stored.bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
            backend.load(weight(dtype, &stored.shape, &values))
        });
        let model = model.expect("the golden model loads");
        Loaded { backend, model, golden: Golden::read(name) }
    }

    fn cache(&self, dtype: KvDType) -> B::Cache {
        let layout = memory::cache_layout(&self.model.config, 2 * PAGE_TOKENS, dtype);
        self.backend.cache(&layout).expect("memory for a small cache")
    }

    /// The logits of the tokens' last row when they come in one step with another sequence, which has
    /// a few tokens of its own in the cache already.
    fn with_mate(&mut self, tokens: &[u32]) -> Vec<f32> {
        let cache = self.cache(KvDType::BF16);
        let groups = memory::cache_layout(&self.model.config, 1, KvDType::BF16).groups.len();
        let span = |first_position, rows, page| Span {
            first_position,
            rows,
            pages: vec![vec![page]; groups],
            adapter: None,
        };
        let steps = [vec![span(0, 3, 0)], vec![span(3, 4, 0), span(0, tokens.len(), 1), span(7, 1, 0)]];
        let mut values = Vec::new();
        for spans in steps {
            let rows = RowPlan::new(spans);
            let mates = rows.rows().iter().map(|row| match row.span {
                1 => tokens[row.position],
                _ => (5 * row.position + 1) as u32,
            });
            let mates: Vec<u32> = mates.collect();
            let step = Step { tokens: &mates, rows: &rows, cache: Some(&cache), adapters: &[] };
            let wanted = [(3 + tokens.len()).min(rows.len() - 1)];
            let logits = self.model.logits(&mut self.backend, &step, &wanted);
            self.backend.fetch(&logits, &mut values).expect("the step runs");
        }
        values
    }

    /// The logits of the tokens, which arrive in steps of the given lengths.
    fn in_steps(&mut self, tokens: &[u32], steps: &[usize], dtype: KvDType) -> Vec<f32> {
        let cache = self.cache(dtype);
        let (mut all, mut first) = (Vec::new(), 0);
        for &rows in steps {
            // Pages in an order that is not their own, as a pool hands them out.
            let span = Span { first_position: first, rows, pages: vec![vec![1, 0]; 2], adapter: None };
            let plan = RowPlan::new(vec![span]);
            let step = Step {
                tokens: &tokens[first..first + rows],
                rows: &plan,
                cache: Some(&cache),
                adapters: &[],
            };
            let wanted: Vec<usize> = (0..rows).collect();
            let logits = self.model.logits(&mut self.backend, &step, &wanted);
            let mut values = Vec::new();
            self.backend.fetch(&logits, &mut values).expect("the step runs");
            all.extend(values);
            first += rows;
        }
        all
    }
}

/// Every check on every golden model.
///
/// # Panics
/// When the backend does not reproduce one.
pub fn check_all<B: Backend<Element = f32>>(backend: impl Fn() -> B) {
    for name in GOLDENS {
        let mut loaded = Loaded::new(backend(), name, None);
        check_fresh(&mut loaded, name);
        check_greedy(&mut loaded, name);
        for dtype in [KvDType::F32, KvDType::BF16, KvDType::Q8_0] {
            check_arrival(&mut loaded, name, dtype);
        }
    }
}

/// The same bits however the tokens arrive and whoever else is in the step, with weights in encodings
/// for which a machine has kernels of their own.
///
/// # Panics
/// When they differ.
pub fn check_encodings<B: Backend<Element = f32>>(backend: impl Fn() -> B) {
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::BF16, DType::F16] {
        for name in ["llama3-gqa", "llama32-tied", "llama4-scout"] {
            let mut loaded = Loaded::new(backend(), name, Some(dtype));
            let what = format!("{name} in {dtype}");
            check_arrival(&mut loaded, &what, KvDType::BF16);
            let tokens: Vec<u32> = loaded.golden.tokens("greedy")[..40].to_vec();
            let alone = loaded.in_steps(&tokens, &[40], KvDType::BF16);
            let last = &alone[alone.len() - loaded.model.config.vocabulary_size..];
            let same = last.iter().zip(loaded.with_mate(&tokens)).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what}: another sequence in the step changes the result");
        }
    }
}

/// Logits and hidden states of both rows at once, attending within the step.
fn check_fresh<B: Backend<Element = f32>>(loaded: &mut Loaded<B>, name: &str) {
    let Loaded { backend, model, golden } = loaded;
    let tokens = golden.tokens("input_ids");
    let plan = RowPlan::fresh(&[tokens.len() / 2; 2]);
    let step = Step { tokens: &tokens, rows: &plan, cache: None, adapters: &[] };
    let mut inputs = Vec::new();
    let last = model.hidden(backend, &step, |_, x| inputs.push(x.clone()));
    inputs.push(backend.rms_norm(&last, &model.norm, model.config.norm_epsilon));
    let mut values = Vec::new();
    for (layer, input) in inputs.iter().enumerate() {
        backend.fetch(input, &mut values).expect("the step runs");
        let expected = golden.floats(&format!("hidden.{layer}"));
        // The yardstick is for logits; hidden states are of similar size.
        assert_close(&values, &expected, golden.noise_floor, &format!("{name}: hidden.{layer}"));
    }
    let logits = model.unembed(backend, &last, &plan, &[]);
    backend.fetch(&logits, &mut values).expect("the step runs");
    assert_close(&values, &golden.floats("logits"), golden.noise_floor, &format!("{name}: logits"));
}

/// 32 tokens, each the likeliest after the ones before.
fn check_greedy<B: Backend<Element = f32>>(loaded: &mut Loaded<B>, name: &str) {
    let expected = loaded.golden.tokens("greedy");
    let prompt = expected.len() - 32;
    let mut steps = vec![prompt];
    steps.resize(32, 1);
    let logits = loaded.in_steps(&expected[..expected.len() - 1], &steps, KvDType::F32);
    let vocabulary = loaded.model.config.vocabulary_size;
    for (row, logits) in logits.chunks_exact(vocabulary).enumerate().skip(prompt - 1) {
        let best = (0..vocabulary).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a vocabulary");
        assert_eq!(best as u32, expected[row + 1], "{name}: greedy token {}", row + 1);
    }
}

/// Whole, in chunks and token by token: the same bits; and across the borders of attention chunks.
fn check_arrival<B: Backend<Element = f32>>(loaded: &mut Loaded<B>, name: &str, dtype: KvDType) {
    let greedy = loaded.golden.tokens("greedy");
    // Longer than a page of the cache.
    let tokens: Vec<u32> = greedy.iter().chain(&greedy).copied().take(PAGE_TOKENS + 30).collect();
    let whole = loaded.in_steps(&tokens, &[tokens.len()], dtype);
    let singles = vec![1; tokens.len()];
    for steps in [&[7, 9, 60, 18][..], &[64, 30], &[1, 2, 3, 4, 84], &singles] {
        let parts = loaded.in_steps(&tokens, steps, dtype);
        let same = whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name}: {} keys and values, steps {steps:?} differ from one step", dtype.name());
    }
}

/// Within four noise floors, or 2e-5 of the largest.
///
/// # Panics
/// When not.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32], noise_floor: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: the number of values");
    let largest = expected.iter().fold(0f64, |max, &x| max.max(f64::from(x).abs()));
    let error =
        found.iter().zip(expected).fold(0f64, |max, (&a, &b)| max.max((f64::from(a) - f64::from(b)).abs()));
    let bound = (4.0 * noise_floor).max(2e-5 * largest);
    assert!(error <= bound, "{what}: off by {error:.2e}, allowed are {bound:.2e}");
}
