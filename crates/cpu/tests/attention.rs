//! What attention promises over long contexts, where segments are merged and dealt out to threads:
//! the right mixture, and the same bits whole, in chunks, alone, in company and on any number of
//! threads.

#[path = "common/random.rs"]
mod random;

use alti_cpu::{Cpu, Isa};
use alti_tensor::{
    AttentionShape, Backend, CacheGroup, CacheLayer, CacheLayout, KvDType, PAGE_TOKENS, Reference, RowPlan,
    Span,
};
use random::Random;

/// Tokens of the sequence: three segments, the last one a part of a page.
const LENGTH: usize = 2 * 256 + PAGE_TOKENS + 21;

struct Case {
    shape: AttentionShape,
    layout: CacheLayout,
    /// Queries, keys and values of every token.
    values: [Vec<f32>; 3],
}

impl Case {
    fn new(heads: usize, kv_heads: usize, head_dim: usize, chunk: Option<usize>, dtype: KvDType) -> Case {
        let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.2, chunk };
        let groups = vec![CacheGroup { layers: 1, pages: 2 * LENGTH.div_ceil(PAGE_TOKENS) }];
        let layout = CacheLayout { groups, kv_heads, head_dim, dtype };
        let mut random = Random(7);
        let values = [heads, kv_heads, kv_heads].map(|heads| random.floats(LENGTH * heads * head_dim));
        Case { shape, layout, values }
    }

    /// Positions of the sequence whose pages begin at `page`, in one step.
    fn span(&self, page: usize, positions: std::ops::Range<usize>) -> Span {
        Span::in_order(&self.layout, page, positions)
    }

    /// One step of some spans.
    fn step<B: Backend<Element = f32>>(
        &self,
        backend: &mut B,
        cache: &B::Cache,
        spans: Vec<Span>,
    ) -> Vec<f32> {
        let plan = RowPlan::new(spans);
        let widths =
            [self.shape.heads, self.shape.kv_heads, self.shape.kv_heads].map(|h| h * self.shape.head_dim);
        let [query, key, value] = std::array::from_fn(|index| {
            let (values, width) = (&self.values[index], widths[index]);
            let rows = plan.rows().iter().flat_map(|row| &values[row.position * width..][..width]);
            backend.input(&rows.copied().collect::<Vec<_>>(), width)
        });
        let memory = CacheLayer { cache, group: 0, layer: 0 };
        let out = backend.attention(&query, &key, &value, &self.shape, Some(memory), &plan);
        let mut values = Vec::new();
        backend.fetch(&out, &mut values).expect("the step runs");
        values
    }
}

fn cases(dtype: KvDType) -> Vec<Case> {
    [
        (3, 1, 64, None),
        (6, 3, 64, Some(300)),
        (4, 1, 128, Some(257)),
        (2, 1, 24, None),
        (16, 2, 32, Some(500)),
    ]
    .map(|(heads, kv_heads, head_dim, chunk)| Case::new(heads, kv_heads, head_dim, chunk, dtype))
    .into()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn check_bits(isa: Isa, dtype: KvDType) {
    for case in cases(dtype) {
        let row = case.shape.heads * case.shape.head_dim;
        let whole = {
            let mut backend = Cpu::new(isa, 1).expect("a thread");
            let cache = backend.cache(&case.layout).expect("memory");
            case.step(&mut backend, &cache, vec![case.span(0, 0..LENGTH)])
        };
        for threads in [1, 2, 3, 5] {
            let mut backend = Cpu::new(isa, threads).expect("threads");
            let cache = backend.cache(&case.layout).expect("memory");
            let what = format!("{:?} {} on {threads} threads of {}", case.shape, dtype.name(), isa.name());
            // In chunks that end beside the ends of pages and segments, then alone.
            let mut chunks = Vec::new();
            for positions in [0..1, 1..255, 255..257, 257..LENGTH - 2, LENGTH - 2..LENGTH - 1] {
                chunks.extend(case.step(&mut backend, &cache, vec![case.span(0, positions)]));
            }
            chunks.extend(case.step(&mut backend, &cache, vec![case.span(0, LENGTH - 1..LENGTH)]));
            assert!(bits(&chunks) == bits(&whole), "chunks: {what}");
            // The last token again, beside another sequence.
            let other = case.span(LENGTH.div_ceil(PAGE_TOKENS), 0..5);
            let both = case.step(&mut backend, &cache, vec![other, case.span(0, LENGTH - 1..LENGTH)]);
            assert!(bits(&both[5 * row..]) == bits(&whole[(LENGTH - 1) * row..]), "company: {what}");
        }
    }
}

#[test]
fn long_contexts_keep_their_bits() {
    // The scalar instance is slow, and its code is that of the others.
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::SCALAR) {
        for (dtype, _) in KvDType::TABLE {
            check_bits(isa, dtype);
        }
    }
}

#[test]
fn long_contexts_are_right() {
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::SCALAR) {
        for (dtype, tolerance) in [(KvDType::F32, 1e-5), (KvDType::BF16, 1.0 / 256.0), (KvDType::Q8_0, 1e-5)]
        {
            for case in cases(dtype) {
                let mut reference = Reference::<f32>::new();
                let theirs = reference.cache(&case.layout).expect("memory");
                let expected = case.step(&mut reference, &theirs, vec![case.span(0, 0..LENGTH)]);
                let mut backend = Cpu::new(isa, 2).expect("threads");
                let ours = backend.cache(&case.layout).expect("memory");
                let found = case.step(&mut backend, &ours, vec![case.span(0, 0..LENGTH)]);
                let error = found.iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(error <= tolerance, "{:?} {} on {}: {error:e}", case.shape, dtype.name(), isa.name());
            }
        }
    }
}

#[test]
fn instruction_sets_give_the_same_bits() {
    for (dtype, _) in KvDType::TABLE {
        for (heads, head_dim) in [(1, 64), (2, 24), (2, 15), (3, 64), (4, 32), (7, 64)] {
            let case = Case::new(heads, 1, head_dim, None, dtype);
            let attend = |isa| {
                let mut backend = Cpu::new(isa, 1).expect("a thread");
                let cache = backend.cache(&case.layout).expect("memory");
                bits(&case.step(&mut backend, &cache, vec![case.span(0, 0..100)]))
            };
            let expected = attend(Isa::SCALAR);
            // Tile registers add products of bf16 in an order of their own.
            let tiles = |isa: &Isa| dtype == KvDType::BF16 && isa.name() == "amx";
            for isa in Isa::available().into_iter().filter(|isa| !tiles(isa)) {
                assert!(attend(isa) == expected, "{:?} {} on {}", case.shape, dtype.name(), isa.name());
            }
        }
    }
}

#[test]
fn a_value_that_is_no_number_reaches_only_those_who_see_it() {
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::SCALAR) {
        for dtype in [KvDType::F32, KvDType::BF16] {
            let mut case = Case::new(3, 1, 64, None, dtype);
            let mut backend = Cpu::new(isa, 1).expect("a thread");
            let cache = backend.cache(&case.layout).expect("memory");
            let clean = case.step(&mut backend, &cache, vec![case.span(0, 0..100)]);
            // The value of a token of which those before it must hear nothing: in each half of a page.
            for token in [40, 90] {
                let kept = case.values[2].clone();
                case.values[2][token * 64..(token + 1) * 64].fill(f32::INFINITY);
                let cache = backend.cache(&case.layout).expect("memory");
                let dirty = case.step(&mut backend, &cache, vec![case.span(0, 0..100)]);
                let row = 3 * 64;
                assert!(
                    bits(&dirty[..token * row]) == bits(&clean[..token * row]),
                    "{} on {}, token {token}",
                    dtype.name(),
                    isa.name()
                );
                assert!(dirty[token * row..].iter().all(|value| !value.is_finite()), "{}", isa.name());
                case.values[2] = kept;
            }
        }
    }
}
