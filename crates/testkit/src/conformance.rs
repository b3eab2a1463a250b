//! What every backend must compute, operation by operation: what the reference computes, to within
//! rounding; and the same bits for a row whoever else is in the step.

use alti_tensor::{
    AttentionShape, Backend, CacheGroup, CacheLayer, CacheLayout, DType, Experts, KvDType, LowRank,
    PAGE_TOKENS, Reference, RowPlan, Span, WeightData, quant,
};

/// Numbers at random, the same for the same seed (SplitMix64, Steele et al. 2014), in -1 to 1.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// So many values.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

/// A weight of these values in an encoding.
///
/// # Panics
/// When the values do not fit it.
pub fn weight(dtype: DType, shape: &[usize], values: &[f32]) -> WeightData<'static> {
    let columns = *shape.last().expect("a weight has a dimension");
    let row_bytes = dtype.bytes_for(columns).expect("rows are whole blocks");
    let mut bytes = vec![0; row_bytes * (values.len() / columns)];
    for (row, out) in values.chunks_exact(columns).zip(bytes.chunks_exact_mut(row_bytes)) {
        quant::quantize(dtype, row, None, out).expect("finite values");
    }
    WeightData::new(dtype, shape.to_vec(), bytes.into()).expect("the shape fits")
}

/// The backend under test beside the reference, given the same operands.
struct Pair<B: Backend> {
    tested: B,
    reference: Reference<f32>,
    random: Random,
}

impl<B: Backend<Element = f32>> Pair<B> {
    /// Both sides of an operation on the same tensors, compared.
    fn check(
        &mut self,
        what: &str,
        tolerance: f32,
        columns: &[usize],
        rows: usize,
        tested: impl FnOnce(&mut B, Vec<B::Tensor>) -> B::Tensor,
        reference: impl FnOnce(
            &mut Reference<f32>,
            Vec<<Reference<f32> as Backend>::Tensor>,
        ) -> <Reference<f32> as Backend>::Tensor,
    ) {
        let operands: Vec<Vec<f32>> =
            columns.iter().map(|&columns| self.random.values(rows * columns)).collect();
        let pairs = || operands.iter().zip(columns);
        let ours = pairs().map(|(values, &columns)| self.tested.input(values, columns)).collect();
        let ours = tested(&mut self.tested, ours);
        let theirs = pairs().map(|(values, &columns)| self.reference.input(values, columns)).collect();
        let theirs = reference(&mut self.reference, theirs);
        let mut found = Vec::new();
        self.tested.fetch(&ours, &mut found).expect("the step runs");
        assert_close(what, &found, &theirs.values, tolerance);
    }

    /// A weight in both.
    fn load(&mut self, dtype: DType, shape: &[usize]) -> (B::Weight, <Reference<f32> as Backend>::Weight) {
        let values = self.random.values(shape.iter().product());
        let data = weight(dtype, shape, &values);
        let reference = self.reference.load(data.clone()).expect("the weight loads");
        (self.tested.load(data).expect("the weight loads"), reference)
    }
}

/// To within a fraction of the largest value.
///
/// # Panics
/// When not.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: the number of values");
    let largest = expected.iter().fold(1e-6f32, |max, x| max.max(x.abs()));
    let error = found.iter().zip(expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(error <= tolerance * largest, "{what}: off by {error:.2e} of {largest:.2e}");
}

/// How far a product with weights of this encoding may be off because a machine rounds activations:
/// to 8 bits in runs of 32, or to bf16.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 | DType::F16 => 1e-5,
        DType::BF16 => 1e-2,
        _ => 3e-2,
    }
}

/// Every operation against the reference, over several shapes.
///
/// # Panics
/// When one differs.
pub fn check_operations<B: Backend<Element = f32>>(make: impl Fn() -> B) {
    let mut pair = Pair { tested: make(), reference: Reference::new(), random: Random(1) };
    for rows in [1, 2, 7, 33] {
        let plan = RowPlan::fresh(&[rows]);
        check_rows(&mut pair, rows);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q6_K]
        {
            check_products(&mut pair, dtype, rows, &plan);
        }
        check_experts(&mut pair, rows, &plan);
        for dtype in [DType::F32, DType::F16] {
            check_adapters(&mut pair, dtype, rows);
        }
    }
    // A prompt of which threads take blocks of rows.
    let prompt = RowPlan::fresh(&[401]);
    for dtype in [DType::BF16, DType::Q4_0, DType::Q8_0] {
        check_products(&mut pair, dtype, prompt.len(), &prompt);
    }
    // With bf16 keys and values a machine may round queries and weights to bf16: to 8 bits.
    let brain = 1.0 / 256.0;
    for (kv_dtype, tolerance) in [(KvDType::F32, 1e-5), (KvDType::BF16, brain), (KvDType::Q8_0, 1e-5)] {
        check_attention(&mut pair, kv_dtype, tolerance);
    }
}

fn check_rows<B: Backend<Element = f32>>(pair: &mut Pair<B>, rows: usize) {
    const WIDTH: usize = 96;
    let (gain, gain_reference) = pair.load(DType::F32, &[WIDTH]);
    pair.check(
        "rms_norm",
        1e-6,
        &[WIDTH],
        rows,
        |b, x| b.rms_norm(&x[0], &gain, 1e-5),
        |r, x| r.rms_norm(&x[0], &gain_reference, 1e-5),
    );
    macro_rules! check {
        ($name:literal, $columns:expr, |$b:ident, $x:ident| $body:expr) => {
            pair.check($name, 2e-6, &$columns, rows, |$b, $x| $body, |$b, $x| $body);
        };
    }
    check!("head_norm", [WIDTH], |b, x| b.head_norm(x[0].clone(), 24, 1e-5));
    check!("rope", [WIDTH, 24], |b, x| b.rope(x[0].clone(), &x[1]));
    check!("scale_rows", [WIDTH, 1], |b, x| b.scale_rows(x[0].clone(), &x[1]));
    check!("swiglu", [WIDTH, WIDTH], |b, x| b.swiglu(&x[0], &x[1]));
    check!("add", [WIDTH, WIDTH], |b, x| b.add(x[0].clone(), &x[1]));
    check!("add to itself", [WIDTH], |b, x| b.add(x[0].clone(), &x[0]));
    let some: Vec<usize> = (0..rows).rev().step_by(2).collect();
    check!("add_rows", [WIDTH, WIDTH], |b, x| {
        let y = b.select_rows(&x[1], &some);
        b.add_rows(x[0].clone(), &y, &some)
    });
    check!("select_rows", [WIDTH], |b, x| b.select_rows(&x[0], &[rows - 1, 0, rows - 1]));
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7 % WIDTH as u32).collect();
    check!("cross_entropy", [WIDTH], |b, x| b.cross_entropy(&x[0], &targets));
}

fn check_products<B: Backend<Element = f32>>(pair: &mut Pair<B>, dtype: DType, rows: usize, plan: &RowPlan) {
    // Outputs that fill no panel, inputs of whole blocks.
    let (outputs, inputs) = (45, 256);
    let [(w, w_reference), (v, v_reference)] = [(); 2].map(|()| pair.load(dtype, &[outputs, inputs]));
    let (gain, gain_reference) = pair.load(DType::F32, &[inputs]);
    let tolerance = tolerance(dtype);
    let name = |operation: &str| format!("{operation} {dtype}, {rows} rows");
    let tokens: Vec<u32> = (0..rows as u32).map(|row| row * 11 % outputs as u32).collect();
    pair.check(
        &name("embed"),
        0.0,
        &[],
        rows,
        |b, _| b.embed(&w, &tokens),
        |r, _| r.embed(&w_reference, &tokens),
    );
    pair.check(
        &name("linear"),
        tolerance,
        &[inputs],
        rows,
        |b, x| b.linear(&x[0], &w, plan),
        |r, x| r.linear(&x[0], &w_reference, plan),
    );
    pair.check(
        &name("linear_add"),
        tolerance,
        &[outputs, inputs],
        rows,
        |b, x| b.linear_add(x[0].clone(), &x[1], &w, plan),
        |r, x| r.linear_add(x[0].clone(), &x[1], &w_reference, plan),
    );
    pair.check(
        &name("norm_linear"),
        tolerance,
        &[inputs],
        rows,
        |b, x| {
            let [first, second] = b.norm_linear(&x[0], &gain, 1e-5, [&w, &v], plan);
            b.add(first, &second)
        },
        |r, x| {
            let weights = [&w_reference, &v_reference];
            let [first, second] = r.norm_linear(&x[0], &gain_reference, 1e-5, weights, plan);
            r.add(first, &second)
        },
    );
    // A product of two products: their errors add.
    pair.check(
        &name("norm_swiglu"),
        3.0 * tolerance,
        &[inputs],
        rows,
        |b, x| b.norm_swiglu(&x[0], &gain, 1e-5, &w, &v, plan),
        |r, x| r.norm_swiglu(&x[0], &gain_reference, 1e-5, &w_reference, &v_reference, plan),
    );
}

fn check_experts<B: Backend<Element = f32>>(pair: &mut Pair<B>, rows: usize, plan: &RowPlan) {
    let (count, dim, hidden) = (5, 64, 96);
    for (gate, up) in [(DType::F32, DType::F32), (DType::Q8_0, DType::Q8_0), (DType::F32, DType::BF16)] {
        for used in [1, 2] {
            let router = pair.load(DType::F32, &[count, dim]);
            let gates = pair.load(gate, &[count, hidden, dim]);
            let ups = pair.load(up, &[count, hidden, dim]);
            let downs = pair.load(DType::F32, &[count, dim, hidden]);
            let ours = Experts { router: router.0, gate: gates.0, up: ups.0, down: downs.0, used };
            let theirs = Experts { router: router.1, gate: gates.1, up: ups.1, down: downs.1, used };
            let bound = 3.0 * tolerance(gate).max(tolerance(up));
            let name = format!("experts {gate} {up}, {used} of {count}, {rows} rows");
            pair.check(
                &name,
                bound,
                &[dim],
                rows,
                |b, x| b.experts(&x[0], &ours, plan),
                |r, x| r.experts(&x[0], &theirs, plan),
            );
        }
    }
}

/// Two products of one input, with two adapters of other ranks, one of which leaves a product alone.
fn check_adapters<B: Backend<Element = f32>>(pair: &mut Pair<B>, dtype: DType, rows: usize) {
    let (inputs, outputs) = (70, [45, 33]);
    let span = |rows, adapter| Span { rows, adapter, ..Span::default() };
    let adapters = [Some(1), None, Some(0), Some(1), Some(0), None];
    let spans = (0..rows).map(|row| span(1 + 29 * usize::from(row == 1), adapters[row % adapters.len()]));
    let plan = RowPlan::new(spans.collect());
    let mut update = |rank, output: usize, scale| {
        let (down, down_reference) = pair.load(dtype, &[rank, inputs]);
        let (up, up_reference) = pair.load(dtype, &[outputs[output], rank]);
        (LowRank { down, up, scale }, LowRank { down: down_reference, up: up_reference, scale })
    };
    let updates = [update(40, 0, 0.5), update(3, 0, -2.0), update(8, 1, 1.0)];
    let [first, second, third] = &updates;
    let ours = [vec![Some(&first.0), Some(&second.0)], vec![None, Some(&third.0)]];
    let theirs = [vec![Some(&first.1), Some(&second.1)], vec![None, Some(&third.1)]];
    let columns = [outputs[0], outputs[1], inputs];
    for product in [0, 1] {
        pair.check(
            &format!("low_rank_add {dtype}, product {product}, {rows} spans"),
            1e-5,
            &columns,
            plan.len(),
            |b, x| b.low_rank_add([x[0].clone(), x[1].clone()], &x[2], &ours, &plan)[product].clone(),
            |r, x| r.low_rank_add([x[0].clone(), x[1].clone()], &x[2], &theirs, &plan)[product].clone(),
        );
    }
}

fn check_attention<B: Backend<Element = f32>>(pair: &mut Pair<B>, dtype: KvDType, tolerance: f32) {
    let length = PAGE_TOKENS + 21;
    for (heads, kv_heads, head_dim, chunk) in
        [(4, 4, 16, None), (6, 2, 64, None), (3, 1, 24, Some(10)), (4, 2, 40, Some(70))]
    {
        let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.3, chunk };
        let groups = vec![CacheGroup { layers: 2, pages: 5 }];
        let layout = CacheLayout { groups, kv_heads, head_dim, dtype };
        let ours = pair.tested.cache(&layout).expect("memory");
        let theirs = pair.reference.cache(&layout).expect("memory");
        let columns = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
        let name = format!("attention {heads}/{kv_heads} x {head_dim} {chunk:?} {}", dtype.name());
        let span = |first_position, rows, pages: &[u32]| Span {
            first_position,
            rows,
            pages: vec![pages.to_vec()],
            adapter: None,
        };
        // A prefill of one sequence, then its next rows together with another's first.
        let plans = [vec![span(0, length, &[3, 1])], vec![span(length, 3, &[3, 1]), span(0, 5, &[4])]];
        for plan in plans.map(RowPlan::new) {
            let memory = |cache| Some(CacheLayer { cache, group: 0, layer: 1 });
            pair.check(
                &name,
                tolerance,
                &columns,
                plan.len(),
                |b, x| b.attention(&x[0], &x[1], &x[2], &shape, memory(&ours), &plan),
                |r, x| {
                    let memory = Some(CacheLayer { cache: &theirs, group: 0, layer: 1 });
                    r.attention(&x[0], &x[1], &x[2], &shape, memory, &plan)
                },
            );
        }
        let fresh = RowPlan::fresh(&[5, length]);
        pair.check(
            &format!("fresh {name}"),
            1e-5,
            &columns,
            fresh.len(),
            |b, x| b.attention(&x[0], &x[1], &x[2], &shape, None, &fresh),
            |r, x| r.attention(&x[0], &x[1], &x[2], &shape, None, &fresh),
        );
    }
}
