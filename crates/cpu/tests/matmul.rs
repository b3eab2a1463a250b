//! What matmuls promise: the right product, the same bits on every instruction set, whatever the
//! batch and however panels are shared.

mod common;

use alti_cpu::kernels::{ActivationKind, Epilogue, Matmul, OutputMatrix, PreparedRows, matmul};
use alti_cpu::{AlignedBytes, Isa, PackedMatrix};
use alti_tensor::{DType, WeightData};
use bytes::Bytes;
use common::{Random, dequantised, random_weight, weight_of};
use proptest::prelude::*;

fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::TABLE.iter().map(|row| row.dtype).collect::<Vec<_>>())
}

/// The product of all panels and rows.
fn product(isa: Isa, weight: &PackedMatrix, x: &PreparedRows, rows: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * weight.rows()];
    let task = Matmul {
        weight,
        panels: 0..weight.panels(),
        activations: x.view(),
        rows: 0..rows,
        epilogue: Epilogue::Store,
        next: None,
    };
    matmul(isa, &task, &mut OutputMatrix::new(&mut out, weight.rows()));
    out
}

fn prepare(isa: Isa, weight: &PackedMatrix, x: &[f32]) -> PreparedRows {
    PreparedRows::new(isa, weight, x).expect("memory for a few rows")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A whole number of blocks; for floats any number of columns, or whole steps of a tile product.
fn columns_of(dtype: DType, units: usize) -> usize {
    match (dtype.is_quantised(), units % 2) {
        (true, _) => units * dtype.block_len(),
        (false, 0) => 32 * units,
        (false, _) => 7 * units,
    }
}

/// The product with BF16 as tile registers make it: in each step of 32 columns one sum over the even
/// and one over the odd ones, each rounded after every addition, then both together.
/// Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS.
fn tile_product(weight: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let (weights, columns) = (dequantised(weight), weight.columns());
    let rounded: Vec<f32> = x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    let dot = |x: &[f32], w: &[f32]| {
        x.chunks_exact(32).zip(w.chunks_exact(32)).fold(0f32, |sum, (x, w)| {
            let half = |first: usize| (first..32).step_by(2).fold(0f32, |sum, k| x[k].mul_add(w[k], sum));
            sum + (half(0) + half(1))
        })
    };
    rounded
        .chunks_exact(columns)
        .flat_map(|x| weights.chunks_exact(columns).map(move |w| dot(x, w)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_instruction_set_batch_and_share_gives_the_same_bits(
        dtype in dtypes(),
        outputs in 1..100_usize,
        units in 1..5_usize,
        // Tiles of all widths, and rows that pass by unpacked panels.
        rows in prop_oneof![1..14_usize, 30..42_usize],
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let columns = columns_of(dtype, units);
        let weight = random_weight(&mut random, dtype, outputs, columns);
        let packed = PackedMatrix::pack(&weight, 0..outputs, 1).unwrap();
        let x = random.floats(rows * columns);
        let expected = {
            let x = prepare(Isa::SCALAR, &packed, &x);
            product(Isa::SCALAR, &packed, &x, rows)
        };
        for isa in Isa::available() {
            let prepared = prepare(isa, &packed, &x);
            let whole = product(isa, &packed, &prepared, rows);
            let expected = match dtype == DType::BF16 && columns.is_multiple_of(32) && isa.name() == "amx" {
                true => tile_product(&packed, &x),
                false => expected.clone(),
            };
            prop_assert_eq!(bits(&whole), bits(&expected), "{} on {}", dtype, isa.name());
            for (row, x) in x.chunks_exact(columns).enumerate() {
                let alone = product(isa, &packed, &prepare(isa, &packed, x), 1);
                prop_assert_eq!(bits(&alone), bits(&whole[row * outputs..][..outputs]));
            }
        }
    }

    /// Products and sums around the smallest normal number, which the BF16 instructions of AVX-512 and tiles flush.
    #[test]
    fn a_row_of_tiny_numbers_has_the_bits_it_has_alone(
        outputs in 1..40_usize,
        units in 1..4_usize,
        exponent in -68..-60_i32,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let columns = 32 * units;
        let mut tiny = |count: usize| -> Vec<f32> {
            random.floats(count).into_iter().map(|value| value * 2f32.powi(exponent)).collect()
        };
        let bytes = tiny(outputs * columns).into_iter().flat_map(|value| half::bf16::from_f32(value).to_le_bytes());
        let weight = WeightData::new(DType::BF16, vec![outputs, columns], bytes.collect::<Vec<u8>>().into()).unwrap();
        let packed = PackedMatrix::pack(&weight, 0..outputs, 1).unwrap();
        let x = tiny(3 * columns);
        let expected = product(Isa::SCALAR, &packed, &prepare(Isa::SCALAR, &packed, &x), 3);
        for isa in Isa::available() {
            let whole = product(isa, &packed, &prepare(isa, &packed, &x), 3);
            if !["avx512", "amx"].contains(&isa.name()) {
                prop_assert_eq!(bits(&whole), bits(&expected), "{}", isa.name());
            }
            for (row, x) in x.chunks_exact(columns).enumerate() {
                let alone = product(isa, &packed, &prepare(isa, &packed, x), 1);
                prop_assert_eq!(bits(&alone), bits(&whole[row * outputs..][..outputs]), "{}", isa.name());
            }
        }
    }

    #[test]
    fn a_row_of_many_has_the_bits_it_has_alone(
        dtype in dtypes(),
        outputs in 1..300_usize,
        units in 1..5_usize,
        rows in prop::sample::select(vec![32_usize, 45, 128, 135, 143, 150]),
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let columns = columns_of(dtype, units);
        let [gate, up] = std::array::from_fn(|_| {
            let weight = random_weight(&mut random, dtype, outputs, columns);
            PackedMatrix::pack(&weight, 0..outputs, 1).unwrap()
        });
        let x = random.floats(rows * columns);
        let gated = |isa: Isa, x: &[f32]| {
            let prepared = prepare(isa, &gate, x);
            let rows = x.len() / columns;
            let mut out = vec![f32::NAN; rows * outputs];
            let task = Matmul {
                weight: &gate,
                panels: 0..gate.panels(),
                activations: prepared.view(),
                rows: 0..rows,
                epilogue: Epilogue::SwiGlu { up: &up },
                next: None,
            };
            matmul(isa, &task, &mut OutputMatrix::new(&mut out, outputs));
            [product(isa, &gate, &prepared, rows), out]
        };
        // Prompts on this machine's best instruction set, batches on all of them.
        let isas = if rows < 128 { Isa::available() } else { vec![Isa::detect()] };
        for isa in isas {
            let whole = gated(isa, &x);
            for row in [0, 15, 16, rows / 2, rows - 8, rows - 1] {
                let alone = gated(isa, &x[row * columns..][..columns]);
                for (whole, alone) in whole.iter().zip(&alone) {
                    let whole = &whole[row * outputs..][..outputs];
                    prop_assert_eq!(bits(whole), bits(alone), "{} row {} on {}", dtype, row, isa.name());
                }
            }
        }
    }

    #[test]
    fn products_are_right(
        dtype in dtypes(),
        outputs in 1..70_usize,
        units in 1..6_usize,
        rows in 1..4_usize,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let columns = columns_of(dtype, units);
        let weight = random_weight(&mut random, dtype, outputs, columns);
        let packed = PackedMatrix::pack(&weight, 0..outputs, 2).unwrap();
        let x = random.floats(rows * columns);
        let isa = Isa::detect();
        let prepared = prepare(isa, &packed, &x);
        let out = product(isa, &packed, &prepared, rows);
        let mut w = vec![0.0; outputs * columns];
        alti_tensor::quant::dequantize(dtype, &weight.bytes, &mut w).unwrap();
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (output, w) in w.chunks_exact(columns).enumerate() {
                let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let error = (f64::from(out[row * outputs + output]) - exact).abs();
                let bound = error_bound(packed.activation_kind(isa), w, x);
                prop_assert!(error <= bound, "{dtype}: error {error}, bound {bound}");
            }
        }
    }

    #[test]
    fn epilogues_are_the_plain_product_and_then_their_formula(
        dtype in dtypes(),
        outputs in 1..70_usize,
        rows in 1..9_usize,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let columns = columns_of(dtype, 1);
        let mut pack = || {
            let weight = random_weight(&mut random, dtype, outputs, columns);
            PackedMatrix::pack(&weight, 0..outputs, 1).unwrap()
        };
        let (gate, up) = (pack(), pack());
        let x = random.floats(rows * columns);
        let residual = random.floats(rows * outputs);
        let isa = Isa::detect();
        let prepared = prepare(isa, &gate, &x);
        let (g, u) = (product(isa, &gate, &prepared, rows), product(isa, &up, &prepared, rows));
        let run = |epilogue, out: &mut [f32]| {
            // Two shares, as two threads would have them.
            let middle = gate.panels() / 2;
            for panels in [0..middle, middle..gate.panels()] {
                let task = Matmul {
                    weight: &gate,
                    panels,
                    activations: prepared.view(),
                    rows: 0..rows,
                    epilogue,
                    next: None,
                };
                matmul(isa, &task, &mut OutputMatrix::new(out, outputs));
            }
        };
        let mut added = residual.clone();
        run(Epilogue::Add, &mut added);
        let sum: Vec<f32> = residual.iter().zip(&g).map(|(r, g)| r + g).collect();
        prop_assert_eq!(bits(&added), bits(&sum));
        let mut gated = vec![0.0; rows * outputs];
        run(Epilogue::SwiGlu { up: &up }, &mut gated);
        for ((out, g), u) in gated.iter().zip(&g).zip(&u) {
            let (g, u) = (f64::from(*g), f64::from(*u));
            let expected = g / (1.0 + (-g).exp()) * u;
            prop_assert!((f64::from(*out) - expected).abs() <= 1e-6 * expected.abs() + 1e-30);
        }
    }
}

/// What rounding the activations may cost, and adding in f32.
fn error_bound(kind: ActivationKind, w: &[f32], x: &[f32]) -> f64 {
    let sum_of = |values: &mut dyn Iterator<Item = f64>| -> f64 { values.sum() };
    let magnitude = sum_of(&mut w.iter().zip(x).map(|(w, x)| f64::from((w * x).abs())));
    let rounding = w.len() as f64 * 1.2e-7;
    match kind {
        ActivationKind::F32 => magnitude * rounding,
        ActivationKind::Brain | ActivationKind::BrainFloats => magnitude * (rounding + 1.0 / 256.0),
        ActivationKind::Int8 => {
            let mut bound = 0.0;
            for (w, x) in w.chunks(32).zip(x.chunks(32)) {
                let largest = x.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
                let step = f64::from(largest) / 127.0;
                let weights = sum_of(&mut w.iter().map(|w| f64::from(w.abs())));
                // The codes of a format with minima are larger than its weights.
                bound += weights * step * 0.51 + 64.0 * rounding * f64::from(largest);
            }
            bound
        }
    }
}

proptest! {
    #[test]
    fn rows_come_back_out_of_the_panels_as_the_file_has_them(
        dtype in dtypes(),
        rows in 1..80_usize,
        units in 1..5_usize,
        seed in any::<u64>(),
    ) {
        let columns = columns_of(dtype, units);
        let weight = random_weight(&mut Random(seed), dtype, rows, columns);
        let mut expected = vec![0.0; rows * columns];
        alti_tensor::quant::dequantize(dtype, &weight.bytes, &mut expected).unwrap();
        let packed = PackedMatrix::pack(&weight, 0..rows, 2).unwrap();
        prop_assert_eq!(bits(&dequantised(&packed)), bits(&expected), "{}", dtype);
    }
}

/// Sums of products are in 16 bits for a while on some instruction sets: the largest must fit.
#[test]
fn the_largest_codes_and_activations_have_the_same_bits_everywhere() {
    let mut random = Random(2);
    for dtype in DType::TABLE.iter().map(|row| row.dtype).filter(|dtype| dtype.is_quantised()) {
        for (byte, sign) in [(0xff, 1.0), (0xff, -1.0), (0x00, 1.0), (0x00, -1.0)] {
            let (outputs, columns, rows) = (40, 512, 33);
            let weight = weight_of(&mut random, dtype, outputs, columns, |_| byte);
            let packed = PackedMatrix::pack(&weight, 0..outputs, 1).unwrap();
            let x = vec![sign; rows * columns];
            for rows in [1, 3, rows] {
                let of = |isa| product(isa, &packed, &prepare(isa, &packed, &x[..rows * columns]), rows);
                let expected = bits(&of(Isa::SCALAR));
                for isa in Isa::available() {
                    assert_eq!(bits(&of(isa)), expected, "{dtype}, {byte:#x} on {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn an_activation_that_is_not_finite_shows_in_every_output() {
    let mut random = Random(1);
    for dtype in [DType::Q4_0, DType::Q6_K, DType::Q4_1, DType::BF16, DType::F32] {
        let columns = 256;
        let weight = random_weight(&mut random, dtype, 40, columns);
        let packed = PackedMatrix::pack(&weight, 0..40, 1).unwrap();
        for isa in Isa::available() {
            let mut x = random.floats(columns);
            x[77] = f32::NAN;
            let prepared = prepare(isa, &packed, &x);
            let out = product(isa, &packed, &prepared, 1);
            assert!(out.iter().all(|value| value.is_nan()), "{dtype} on {}", isa.name());
        }
    }
}

#[test]
fn rows_of_an_expert_are_packed_alone() {
    let mut random = Random(2);
    let weight = random_weight(&mut random, DType::Q4_K, 96, 256);
    let whole = PackedMatrix::pack(&weight, 0..96, 1).unwrap();
    let part = PackedMatrix::pack(&weight, 40..77, 3).unwrap();
    let expected = dequantised(&whole);
    assert_eq!(bits(&dequantised(&part)), bits(&expected[40 * 256..77 * 256]));
    assert!(PackedMatrix::pack(&weight, 90..97, 1).is_err());
}

#[test]
fn what_was_packed_before_is_the_same_matrix() {
    let mut random = Random(3);
    for dtype in DType::TABLE.iter().map(|row| row.dtype) {
        let columns = columns_of(dtype, 3);
        let matrix = PackedMatrix::pack(&random_weight(&mut random, dtype, 70, columns), 0..70, 1).unwrap();
        // As in a file: behind a page of something else.
        let mut memory = AlignedBytes::zeroed(64 + matrix.bytes()).unwrap();
        memory.as_mut_slice()[64..64 + matrix.bytes()].copy_from_slice(matrix.contents());
        let kept = Bytes::from_owner(Kept(memory)).slice(64..64 + matrix.bytes());
        let again = PackedMatrix::from_packed(dtype, 70, columns, kept.clone()).unwrap();
        assert_eq!(again.contents(), matrix.contents());
        let prepared = prepare(Isa::detect(), &matrix, &random.floats(2 * columns));
        let expected = product(Isa::detect(), &matrix, &prepared, 2);
        assert_eq!(bits(&product(Isa::detect(), &again, &prepared, 2)), bits(&expected), "{dtype}");
        // Anything else is refused.
        assert!(
            PackedMatrix::from_packed(dtype, 97, columns, kept.clone()).is_err(),
            "{dtype}: of another size"
        );
        assert!(PackedMatrix::from_packed(dtype, 0, columns, kept.clone()).is_err(), "{dtype}: of no rows");
        let short = kept.slice(..kept.len() - 1);
        assert!(PackedMatrix::from_packed(dtype, 70, columns, short).is_err(), "{dtype}: cut");
        let shifted = Bytes::from_owner(Kept(AlignedBytes::zeroed(matrix.bytes() + 4).unwrap()));
        let shifted = shifted.slice(4..4 + matrix.bytes());
        assert!(PackedMatrix::from_packed(dtype, 70, columns, shifted).is_err(), "{dtype}: not aligned");
    }
}

/// Memory that is shared.
struct Kept(AlignedBytes);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}
