//! What a tape promises besides right formulas.

use crate::check::{
    Inner, Tensor, Weight, activations, fetch, loss_of, new_tape, one_span, random, random_weight,
};
use alti_tensor::{
    AdamW, AttentionShape, Backend, CacheGroup, CacheLayer, CacheLayout, DType, KvDType, Moments, RowPlan,
    Span, Tape, TrainBackend, Trainable, WeightData, quant,
};

const ROWS: usize = 4;

/// Embeddings, a gain, and the two matrices of two residual layers.
fn weights(tape: &Tape<Inner>) -> Vec<Weight> {
    let shapes: [&[usize]; 6] = [&[ROWS, 5], &[5], &[7, 5], &[7, 5], &[5, 7], &[5, 7]];
    shapes.iter().zip(1..).map(|(shape, seed)| random_weight(tape, seed, shape)).collect()
}

fn layer(tape: &mut Tape<Inner>, x: Tensor, w: &[Weight], down: &Weight) -> Tensor {
    let rows = one_span(ROWS);
    let hidden = tape.norm_swiglu(&x, &w[1], 1e-2, &w[2], &w[3], &rows);
    tape.linear_add(x, &hidden, down, &rows)
}

/// The gradients of two layers, each run as `run(tape, layer)` says, by a tape that recomputes.
fn gradients(run: impl Fn(&mut Tape<Inner>, &dyn Fn(&mut Tape<Inner>) -> Tensor) -> Tensor) -> Vec<Vec<f64>> {
    let mut tape = new_tape();
    tape.recompute = true;
    let w = weights(&tape);
    let mut x = activations(&mut tape, &w[0], ROWS);
    for down in &w[4..] {
        x = run(&mut tape, &|tape| layer(tape, x.clone(), &w, down));
    }
    let loss = loss_of(&mut tape, &x, ROWS);
    tape.backward(&loss).unwrap();
    w.iter().map(|weight| weight.gradient(tape.inner()).unwrap()).collect()
}

#[test]
fn checkpoints_change_no_bit_of_a_gradient() {
    let plain = gradients(|tape, layer| layer(tape));
    assert_eq!(plain, gradients(|tape, layer| tape.checkpoint(layer)));
    assert_eq!(plain, gradients(|tape, layer| tape.checkpoint(|tape| tape.checkpoint(layer))));
}

#[test]
fn gradients_add_up_until_an_update_and_start_again_after() {
    let mut tape = new_tape();
    let w = weights(&tape);
    let step = |tape: &mut Tape<Inner>| {
        let x = activations(tape, &w[0], ROWS);
        let x = layer(tape, x, &w, &w[4]);
        let loss = loss_of(tape, &x, ROWS);
        tape.backward(&loss).unwrap();
        w[2].gradient(tape.inner()).unwrap()
    };
    let once = step(&mut tape);
    let twice = step(&mut tape);
    assert!(once.iter().zip(&twice).all(|(once, twice)| (twice / once - 2.0).abs() < 1e-12));

    let mut updated = Vec::new();
    tape.optimise(&w, |_, index, _, _| updated.push(index)).unwrap();
    assert_eq!(updated, [0, 1, 2, 3, 4], "the last weight had no part in the loss");
    assert_eq!(w[2].gradient(tape.inner()), None);
    assert_eq!(step(&mut tape), once);
}

#[test]
fn frozen_quantised_weights_pass_gradients_on_and_receive_none() {
    let mut values = random(2, 6 * 32);
    let mut bytes = vec![0; DType::Q8_0.bytes_for(values.len()).unwrap()];
    quant::quantize(DType::Q8_0, &values, None, &mut bytes).unwrap();
    quant::dequantize(DType::Q8_0, &bytes, &mut values).unwrap();
    let quantised = WeightData::new(DType::Q8_0, vec![6, 32], bytes.into()).unwrap();
    let plain = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let plain = WeightData::new(DType::F32, vec![6, 32], plain.into()).unwrap();

    // The gradients of what comes before the matrix, and of the matrix.
    let gradients = |trainable, matrix: WeightData<'_>| {
        let mut tape = new_tape();
        let table = random_weight(&tape, 1, &[ROWS, 32]);
        tape.trainable = trainable;
        let matrix = tape.load(matrix).unwrap();
        let x = activations(&mut tape, &table, ROWS);
        let y = tape.linear(&x, &matrix, &one_span(ROWS));
        let loss = loss_of(&mut tape, &y, ROWS);
        tape.backward(&loss).unwrap();
        (table.gradient(tape.inner()).unwrap(), matrix.gradient(tape.inner()))
    };
    let (before, own) = gradients(Trainable::None, quantised);
    assert_eq!(own, None);
    let (expected, own) = gradients(Trainable::All, plain);
    assert_eq!(before, expected);
    assert!(own.is_some());
}

#[test]
fn an_adamw_step_moves_by_the_learning_rate_and_decays_apart() {
    let mut tape = new_tape();
    let weight = random_weight(&tape, 1, &[2, 3]);
    let before = weight.values(tape.inner()).unwrap();
    let x = tape.embed(&weight, &[0, 1]);
    let loss = loss_of(&mut tape, &x, 2);
    tape.backward(&loss).unwrap();
    let gradient = weight.gradient(tape.inner()).unwrap();
    let settings = AdamW { learning_rate: 1e-2, betas: (0.9, 0.95), epsilon: 0.0, weight_decay: 0.5 };
    let update = |inner: &mut Inner, _, param: &mut _, gradient: &_| {
        let zeros = || inner.zeros_like(gradient).unwrap();
        let mut moments = Moments { first: zeros(), second: zeros() };
        inner.adamw(param, gradient, &mut moments, &settings, 1);
    };
    tape.optimise([&weight], update).unwrap();
    let after = weight.values(tape.inner()).unwrap();
    for ((after, before), gradient) in after.iter().zip(before).zip(gradient) {
        // With ε = 0 the bias corrections of the first step leave the gradient's sign.
        let expected = before * (1.0 - 1e-2 * 0.5) - 1e-2 * gradient.signum();
        assert!((after - expected).abs() < 1e-15, "{after} is not {expected}");
    }
    let y = tape.embed(&weight, &[0, 1]);
    assert_eq!(fetch(&mut tape, &y), after, "the packed weight follows");
}

#[test]
#[should_panic(expected = "record is gone")]
fn a_tensor_of_an_earlier_step_is_refused() {
    let mut tape = new_tape();
    let w = weights(&tape);
    let x = activations(&mut tape, &w[0], ROWS);
    let loss = loss_of(&mut tape, &x, ROWS);
    tape.backward(&loss).unwrap();
    loss_of(&mut tape, &x, ROWS);
}

/// One attention step over a cache, its query the rows of `table`.
fn attend_with_memory(tape: &mut Tape<Inner>, table: &Weight) -> Vec<f64> {
    let layout = CacheLayout {
        groups: vec![CacheGroup { layers: 1, pages: 1 }],
        kv_heads: 1,
        head_dim: 5,
        dtype: KvDType::F32,
    };
    let cache = tape.cache(&layout).unwrap();
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 5, scale: 1.0, chunk: None };
    let rows = RowPlan::new(vec![Span { rows: ROWS, pages: vec![vec![0]], ..Span::default() }]);
    let query = activations(tape, table, ROWS);
    let key = tape.input(&random(2, ROWS * 5), 5);
    let value = tape.input(&random(3, ROWS * 5), 5);
    let memory = CacheLayer { cache: &cache, group: 0, layer: 0 };
    let cached = tape.attention(&query, &key, &value, &shape, Some(memory), &rows);
    let fresh = tape.attention(&query, &key, &value, &shape, None, &rows);
    assert_eq!(fetch(tape, &cached), fetch(tape, &fresh));
    fetch(tape, &cached)
}

#[test]
fn a_frozen_model_may_use_a_cache() {
    let mut tape = Tape::new(Inner::new(), Trainable::None);
    let table = random_weight(&tape, 1, &[ROWS, 5]);
    attend_with_memory(&mut tape, &table);
}

#[test]
#[should_panic(expected = "must not depend on a trainable weight")]
fn a_model_in_training_may_not() {
    let mut tape = new_tape();
    let table = random_weight(&tape, 1, &[ROWS, 5]);
    attend_with_memory(&mut tape, &table);
}
