//! What one operation hands to the next has the bits that it has when it is fetched in between: a backend may pass
//! it on in another form, as the next product wants it.

use crate::conformance::{Random, weight};
use alti_tensor::{
    AttentionShape, Backend, CacheGroup, CacheLayer, CacheLayout, DType, KvDType, PAGE_TOKENS, RowPlan, Span,
};

const FORMATS: [DType; 4] = [DType::F32, DType::BF16, DType::Q4_0, DType::Q8_0];

fn load<B: Backend>(b: &B, random: &mut Random, dtype: DType, shape: [usize; 2]) -> B::Weight {
    let values = random.values(shape[0] * shape[1]);
    b.load(weight(dtype, &shape, &values)).expect("the weight loads")
}

fn ones<B: Backend>(b: &B, length: usize) -> B::Weight {
    b.load(weight(DType::F32, &[length], &vec![1.0; length])).expect("the weight loads")
}

fn fetched<B: Backend<Element = f32>>(b: &mut B, x: &B::Tensor) -> Vec<f32> {
    let mut out = Vec::new();
    b.fetch(x, &mut out).expect("the step runs");
    out
}

/// A gated product and the product behind it, of few rows and of many.
///
/// # Panics
/// When bits differ.
pub fn check_feed_forward<B: Backend<Element = f32>>(make: impl Fn() -> B) {
    let (width, hidden) = (256, 288);
    for dtype in FORMATS {
        let (mut b, mut random) = (make(), Random(7));
        let [gate, up] = [(); 2].map(|()| load(&b, &mut random, dtype, [hidden, width]));
        let (down, gain) = (load(&b, &mut random, dtype, [width, hidden]), ones(&b, width));
        let all = random.values(150 * width);
        // The values between, and the result, of the first rows.
        let mut run = |rows: usize, in_between: bool| {
            let (values, plan) = (&all[..rows * width], RowPlan::fresh(&[rows]));
            let x = b.input(values, width);
            let mut inner = b.norm_swiglu(&x, &gain, 1e-5, &gate, &up, &plan);
            if in_between {
                let values = fetched(&mut b, &inner);
                inner = b.input(&values, hidden);
            }
            let x = b.input(values, width);
            let sum = b.linear_add(x, &inner, &down, &plan);
            (fetched(&mut b, &inner), fetched(&mut b, &sum))
        };
        let (inner, sums) = run(150, true);
        for rows in [1, 7, 33, 150] {
            for in_between in [false, true] {
                let found = run(rows, in_between);
                assert_eq!(found.0, inner[..rows * hidden], "{dtype}, {rows} rows: between");
                assert_eq!(found.1, sums[..rows * width], "{dtype}, {rows} rows: behind");
            }
        }
    }
}

/// Attention and the product behind it: a long prompt, some rows, and a single one whose context is dealt out.
///
/// # Panics
/// When bits differ.
pub fn check_attention<B: Backend<Element = f32>>(make: impl Fn() -> B) {
    const LENGTHS: [usize; 3] = [300, 20, 1];
    let (heads, head_dim) = (3, 64);
    let width = heads * head_dim;
    let shape = AttentionShape { heads, kv_heads: 1, head_dim, scale: 0.125, chunk: None };
    let total: usize = LENGTHS.iter().sum();
    let groups = vec![CacheGroup { layers: 1, pages: total.div_ceil(PAGE_TOKENS) }];
    let layout = CacheLayout { groups, kv_heads: 1, head_dim, dtype: KvDType::BF16 };
    for dtype in FORMATS {
        let (mut b, mut random) = (make(), Random(11));
        let query = load(&b, &mut random, dtype, [width, width]);
        let [key, value] = [(); 2].map(|()| load(&b, &mut random, dtype, [head_dim, width]));
        let (out, gain) = (load(&b, &mut random, dtype, [width, width]), ones(&b, width));
        let all = random.values(total * width);
        let mut run = |in_between: bool| {
            let cache = b.cache(&layout).expect("memory");
            let (mut results, mut first) = (Vec::new(), 0);
            for rows in LENGTHS {
                let plan = RowPlan::new(vec![Span::in_order(&layout, 0, first..first + rows)]);
                let x = b.input(&all[first * width..][..rows * width], width);
                let [q, k, v] = b.norm_linear(&x, &gain, 1e-5, [&query, &key, &value], &plan);
                let memory = Some(CacheLayer { cache: &cache, group: 0, layer: 0 });
                let mut mixed = b.attention(&q, &k, &v, &shape, memory, &plan);
                if in_between {
                    let values = fetched(&mut b, &mixed);
                    mixed = b.input(&values, width);
                }
                let product = b.linear(&mixed, &out, &plan);
                results.push(fetched(&mut b, &product));
                first += rows;
            }
            results
        };
        let (straight, in_between) = (run(false), run(true));
        for (rows, (a, b)) in LENGTHS.iter().zip(straight.iter().zip(&in_between)) {
            assert_eq!(a, b, "{dtype}, {rows} rows");
        }
    }
}
