//! What a user of the block formats can rely on: the bytes every other tool reads and writes, an
//! error never above llama.cpp's, and a clear refusal of what cannot be stored.
//!
//! The vectors are made by `fixtures/make_quant_vectors.py`.

use alti_tensor::DType;
use alti_tensor::quant::{self, QuantError};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde::Deserialize;

const VECTORS: &[u8] = include_bytes!("fixtures/quant_vectors.safetensors");

fn vector(name: &str) -> Vec<u8> {
    let file = SafeTensors::deserialize(VECTORS).expect("the committed vectors are a safetensors file");
    file.tensor(name).unwrap_or_else(|_| panic!("no vector {name}")).data().to_vec()
}

fn float_vector(name: &str) -> Vec<f32> {
    vector(name).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn encode(dtype: DType, weights: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>, QuantError> {
    let mut bytes = vec![0; dtype.bytes_for(weights.len()).expect("whole blocks")];
    quant::quantize(dtype, weights, importance, &mut bytes).map(|()| bytes)
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut weights = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    quant::dequantize(dtype, bytes, &mut weights).expect("whole blocks");
    weights
}

/// Bits, with every NaN the same.
fn bits(weight: f32) -> u32 {
    if weight.is_nan() { f32::NAN.to_bits() } else { weight.to_bits() }
}

#[test]
fn decoding_is_bit_exact_with_gguf() {
    for row in &DType::TABLE {
        let decoded = decode(row.dtype, &vector(&format!("decode.{}.bytes", row.name)));
        let expected = float_vector(&format!("decode.{}.weights", row.name));
        assert_eq!(decoded.len(), expected.len(), "{}", row.name);
        for (index, (decoded, expected)) in decoded.iter().zip(&expected).enumerate() {
            assert_eq!(bits(*decoded), bits(*expected), "{} weight {index}: {decoded} {expected}", row.name);
        }
    }
}

#[test]
fn encoding_is_byte_exact_with_gguf() {
    let weights = float_vector("encode.weights");
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::BF16, DType::F16] {
        let encoded = encode(dtype, &weights, None).expect("finite and in range");
        let expected = vector(&format!("encode.{dtype}.bytes"));
        let block_bytes = 32 / dtype.block_len() * dtype.block_bytes();
        let blocks = encoded.chunks(block_bytes).zip(expected.chunks(block_bytes));
        for (index, (encoded, expected)) in blocks.enumerate() {
            assert_eq!(encoded, expected, "{dtype} block {index}: {:?}", &weights[32 * index..][..32]);
        }
    }
}

#[test]
fn plain_floats_keep_what_is_not_finite() {
    let weights = float_vector("special.weights");
    assert_eq!(encode(DType::BF16, &weights, None).expect("in range"), vector("special.BF16.bytes"));
    let halves = encode(DType::F16, &weights, None).expect("in range");
    let expected = decode(DType::F16, &vector("special.F16.bytes"));
    assert!(decode(DType::F16, &halves).iter().zip(&expected).all(|(a, b)| bits(*a) == bits(*b)));
    let floats = encode(DType::F32, &weights, None).expect("any float");
    assert!(decode(DType::F32, &floats).iter().zip(&weights).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// The script's `made_up_weights`.
fn made_up_weights(kind: &str, count: usize) -> Vec<f32> {
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as i32
    };
    let weight = |_| {
        let total = next() + next() + next() + next();
        let x = (total - 131_070) as f32 / 131_072.0;
        match kind {
            "heavy" => x * x * x,
            "shifted" => x + 0.75,
            _ => x,
        }
    };
    (0..count).map(weight).collect()
}

fn squared_error(weights: &[f32], decoded: &[f32], importance: Option<&[f32]>) -> f64 {
    let squares = weights.iter().zip(decoded).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    match importance {
        Some(row) => {
            squares.zip(row.iter().cycle()).map(|(square, weight)| square * f64::from(*weight)).sum()
        }
        None => squares.sum(),
    }
}

#[test]
fn error_is_below_llama_cpps() {
    #[derive(Deserialize)]
    struct Row {
        weights: String,
        dtype: String,
        importance: bool,
        error: f64,
    }
    let rows: Vec<Row> = serde_json::from_str(include_str!("fixtures/quant_errors.json")).expect("JSON");
    let (columns, count) = (1024, 16 * 1024);
    let importance: Vec<f32> =
        (0..columns).map(|i| (1 + 7 * i % 13 + if i % 61 == 0 { 100 } else { 0 }) as f32).collect();
    for row in rows {
        let dtype = DType::from_name(&row.dtype).expect("a type of the table");
        let weights = made_up_weights(&row.weights, count);
        let importance = row.importance.then_some(&importance[..]);
        let rows = weights.chunks(columns).flat_map(|row| encode(dtype, row, importance).expect("in range"));
        let error = squared_error(&weights, &decode(dtype, &rows.collect::<Vec<_>>()), importance);
        assert!(
            error < row.error,
            "{dtype} on {} weights, importance {}: {error} against {}",
            row.weights,
            row.importance,
            row.error
        );
    }
}

#[test]
fn importance_moves_the_error_to_where_it_matters_less() {
    let weights = made_up_weights("normal", 256);
    let importance: Vec<f32> = (0..256).map(|i| if i % 8 == 0 { 1000.0 } else { 1.0 }).collect();
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q4_K, DType::Q5_K, DType::Q6_K] {
        let error = |given: Option<&[f32]>| {
            let bytes = encode(dtype, &weights, given).expect("in range");
            squared_error(&weights, &decode(dtype, &bytes), Some(&importance))
        };
        assert!(error(Some(&importance)) < error(None), "{dtype}");
    }
}

#[test]
fn importance_of_any_scale_or_none_at_all_is_sound() {
    let weights = made_up_weights("normal", 256);
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q4_K, DType::Q5_K, DType::Q6_K] {
        let reference = encode(dtype, &weights, Some(&[1.0; 256])).expect("in range");
        for scale in [0.0, 1e-38, 1e38] {
            let encoded = encode(dtype, &weights, Some(&[scale; 256])).expect("in range");
            assert_eq!(encoded, reference, "{dtype} with importance {scale}");
        }
    }
}

#[test]
fn weights_too_small_for_a_scale_become_the_nearest_storable() {
    // Half precision ends at 6e-8; the K-quants reach it with small multiples of the smallest scale.
    let weights: Vec<f32> = made_up_weights("normal", 256).iter().map(|x| x * 1e-5).collect();
    for dtype in [DType::Q4_K, DType::Q5_K, DType::Q6_K] {
        let decoded = decode(dtype, &encode(dtype, &weights, None).expect("in range"));
        let error = squared_error(&weights, &decoded, None) / squared_error(&weights, &[0.0; 256], None);
        assert!(error.sqrt() < 0.1, "{dtype}: {}", error.sqrt());
    }
}

#[test]
fn what_cannot_be_stored_is_refused_by_element() {
    for dtype in quant::WRITABLE.into_iter().filter(|dtype| dtype.is_quantised()) {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weights = [0.5; 512];
            weights[300] = value;
            let refused = encode(dtype, &weights, None).expect_err("not finite");
            assert!(matches!(refused, QuantError::NotFinite { element: 300, .. }), "{dtype}: {refused}");
        }
        for value in [1e10, -1e30, f32::MAX] {
            let mut weights = [0.5; 512];
            weights[300] = value;
            for importance in [None, Some(&[1.0; 512][..])] {
                let refused = encode(dtype, &weights, importance).expect_err("beyond half precision");
                let expected = QuantError::OutOfRange { dtype, element: 300, value };
                assert_eq!(refused, expected, "{dtype}");
            }
        }
    }
    for (dtype, value) in [(DType::F16, 65_520.0), (DType::BF16, f32::MAX)] {
        let refused = encode(dtype, &[0.0, value], None).expect_err("would become infinite");
        assert_eq!(refused, QuantError::OutOfRange { dtype, element: 1, value });
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let mut out = [0; 18];
    let mut quantize = |dtype, weights: &[f32], importance: Option<&[f32]>| {
        quant::quantize(dtype, weights, importance, &mut out).expect_err("refused").to_string()
    };
    insta::assert_snapshot!(quantize(DType::Q4_0, &[0.0; 31], None), @"18 bytes are not 31 Q4_0 weights (18 bytes hold 32)");
    insta::assert_snapshot!(quantize(DType::Q4_0, &[0.0; 32], Some(&[1.0; 33])), @"33 importance weights do not fit a row of 32 columns");
    insta::assert_snapshot!(quantize(DType::Q4_0, &[0.0; 32], Some(&[-1.0; 32])), @"the importance of column 0 is -1; it must be finite and not negative");
    insta::assert_snapshot!(quantize(DType::IQ4_NL, &[0.0; 32], None), @"IQ4_NL can be read but not written; choose one of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16, F16, F32");
    assert!(quant::dequantize(DType::Q4_0, &[0; 18], &mut [0.0; 64]).is_err());
}

/// 256 weights of one sign or two, some rows with outliers, around a magnitude that half precision
/// scales can hold without loss.
fn row() -> impl Strategy<Value = Vec<f32>> {
    let weight = prop_oneof![9 => -1.0f32..1.0, 1 => -20.0f32..20.0];
    (proptest::collection::vec(weight, 256), -6i32..10, -1.0f32..1.0)
        .prop_map(|(row, exponent, shift)| row.iter().map(|x| (x + shift) * 2f32.powi(exponent)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 4 * 256)) {
        for row in &DType::TABLE {
            let blocks = bytes.len() / row.block_bytes;
            decode(row.dtype, &bytes[..blocks * row.block_bytes]);
        }
    }

    #[test]
    fn rounding_stays_within_a_step(weights in row()) {
        // Steps between the block's extremes, and by how many a weight may be off: the formats with
        // an offset have one level fewer on one side.
        for (dtype, steps, off) in [
            (DType::Q4_0, 16.0, 1.0), (DType::Q5_0, 32.0, 1.0), (DType::Q8_0, 254.0, 0.5),
            (DType::Q4_1, 15.0, 0.5), (DType::Q5_1, 31.0, 0.5),
        ] {
            let decoded = decode(dtype, &encode(dtype, &weights, None).expect("in range"));
            for (weights, decoded) in weights.chunks(32).zip(decoded.chunks(32)) {
                let largest = weights.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                let step = 2.0 * largest / steps;
                // Half precision has 11 bits: scale and minimum are off by 2^-11 of themselves.
                let bound = off * step + 3.0 * largest / 2048.0;
                for (weight, decoded) in weights.iter().zip(decoded) {
                    prop_assert!((weight - decoded).abs() <= bound, "{dtype}: {weight} {decoded} {bound}");
                }
            }
        }
    }

    #[test]
    fn k_quants_beat_rounding_to_even_steps(weights in row()) {
        for (dtype, steps) in [(DType::Q4_K, 15.0), (DType::Q5_K, 31.0), (DType::Q6_K, 62.0)] {
            let decoded = decode(dtype, &encode(dtype, &weights, None).expect("in range"));
            let largest = weights.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            let half_step = f64::from(largest / steps);
            let error = squared_error(&weights, &decoded, None) / 256.0;
            prop_assert!(error.sqrt() <= half_step, "{dtype}: {} {half_step}", error.sqrt());
        }
    }

    #[test]
    fn encoding_what_was_decoded_changes_nothing(weights in row()) {
        for dtype in [DType::Q4_0, DType::Q5_0, DType::Q8_0, DType::F16, DType::BF16] {
            let once = encode(dtype, &weights, None).expect("in range");
            let twice = encode(dtype, &decode(dtype, &once), None).expect("in range");
            prop_assert_eq!(once, twice, "{}", dtype);
        }
    }
}
