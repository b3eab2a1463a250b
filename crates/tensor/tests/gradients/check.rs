//! Central differences, coordinate by coordinate.

use alti_tensor::{Backend, DType, Reference, RowPlan, Tape, TapeTensor, TapeWeight, Trainable, WeightData};

pub(crate) type Inner = Reference<f64>;
pub(crate) type Tensor = TapeTensor<Inner>;
pub(crate) type Weight = TapeWeight<Inner>;

pub(crate) fn new_tape() -> Tape<Inner> {
    Tape::new(Inner::new(), Trainable::All)
}

/// `count` values in -1 .. 1 that depend on `seed` only (splitmix64).
pub(crate) fn random(seed: u64, count: usize) -> Vec<f32> {
    let value = |i: usize| {
        let mut z = (seed << 32).wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(value).collect()
}

/// A weight of random values, loaded through the tape.
pub(crate) fn random_weight(tape: &Tape<Inner>, seed: u64, shape: &[usize]) -> Weight {
    let values = random(seed, shape.iter().product());
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tape.load(WeightData::new(DType::F32, shape.to_vec(), bytes.into()).unwrap()).unwrap()
}

pub(crate) fn fetch(tape: &mut Tape<Inner>, x: &Tensor) -> Vec<f64> {
    let mut values = Vec::new();
    tape.fetch(x, &mut values).unwrap();
    values
}

/// The rows of a table of trainable values: activations whose gradient is checked.
pub(crate) fn activations(tape: &mut Tape<Inner>, table: &Weight, rows: usize) -> Tensor {
    let tokens: Vec<u32> = (0..rows as u32).collect();
    tape.embed(table, &tokens)
}

/// Makes a number of a result whose every column matters.
pub(crate) fn loss_of(tape: &mut Tape<Inner>, x: &Tensor, rows: usize) -> Tensor {
    let targets: Vec<u32> = (0..rows as u32).map(|row| row % 2).collect();
    tape.cross_entropy(x, &targets)
}

/// Checks the gradient of `loss` to every value of random weights of the given shapes.
pub(crate) fn check(name: &str, shapes: &[&[usize]], loss: impl Fn(&mut Tape<Inner>, &[Weight]) -> Tensor) {
    let mut tape = new_tape();
    let weights: Vec<Weight> =
        shapes.iter().zip(1..).map(|(shape, seed)| random_weight(&tape, seed, shape)).collect();
    let result = loss(&mut tape, &weights);
    tape.backward(&result).unwrap();
    let value_at = || {
        let mut tape = new_tape();
        let result = loss(&mut tape, &weights);
        fetch(&mut tape, &result)[0]
    };
    let step = 1e-5;
    for (index, weight) in weights.iter().enumerate() {
        let gradient = weight.gradient(tape.inner()).unwrap();
        let values = weight.values(tape.inner()).unwrap();
        let (mut error, mut norm) = (0.0, 0.0);
        for (i, &gradient) in gradient.iter().enumerate() {
            let mut moved = |by: f64| {
                let mut values = values.clone();
                values[i] += by;
                weight.set_values(tape.inner(), &values).unwrap();
                value_at()
            };
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            error += (gradient - difference).powi(2);
            norm += difference.powi(2);
        }
        weight.set_values(tape.inner(), &values).unwrap();
        let relative = (error / norm).sqrt();
        assert!(norm > 0.0, "{name}: weight {index} has no influence");
        assert!(relative < 1e-7, "{name}: the gradient of weight {index} is off by {relative:e}");
    }
}

/// A plan of one fresh sequence.
pub(crate) fn one_span(rows: usize) -> RowPlan {
    RowPlan::fresh(&[rows])
}
