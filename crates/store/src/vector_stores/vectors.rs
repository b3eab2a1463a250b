//! Vectors of unit length with a byte for each dimension: a quarter of the size, and all of the order that matters.

use crate::error::{Result, StoreError};

/// Most dimensions of a vector.
const MOST_DIMENSIONS: usize = 65_536;

/// A vector as it is stored: dimension `i` is `scale * bytes[i]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quantised {
    pub(crate) scale: f32,
    pub(crate) bytes: Vec<i8>,
}

/// Brings a vector to unit length and rounds each dimension to one of 255 steps. The error of a dimension is at most
/// half a step, `max |x| / 254`.
///
/// # Errors
/// When the vector is empty, too long, zero, or has values that are no numbers.
pub(crate) fn quantised(vector: &[f32]) -> Result<Quantised> {
    let unit = unit(vector)?;
    let largest = unit.iter().fold(0f32, |most, value| most.max(value.abs()));
    let scale = largest / 127.0;
    Ok(Quantised { scale, bytes: unit.iter().map(|value| (value / scale).round() as i8).collect() })
}

/// What a stored vector is, for tests of how near it is to the one that went in: its scale and its steps.
///
/// # Errors
/// When the vector is empty, too long, zero, or has values that are no numbers.
pub fn quantise(vector: &[f32]) -> Result<(f32, Vec<i8>)> {
    quantised(vector).map(|quantised| (quantised.scale, quantised.bytes))
}

/// A vector of unit length in the same direction.
pub(crate) fn unit(vector: &[f32]) -> Result<Vec<f32>> {
    if vector.is_empty() || vector.len() > MOST_DIMENSIONS {
        let reason = format!("it has {} dimensions; 1 to {MOST_DIMENSIONS} can be stored", vector.len());
        return Err(StoreError::invalid("vector", reason));
    }
    // In f64, whose range is wide enough for the squares of any f32.
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(StoreError::invalid(
            "vector",
            "it has no direction: it is zero or holds values that are no numbers",
        ));
    }
    Ok(vector.iter().map(|value| (f64::from(*value) / length) as f32).collect())
}

/// The cosine of the angle between a vector of unit length and a stored one.
pub(crate) fn similarity(query: &[f32], scale: f32, bytes: &[u8]) -> f32 {
    // Eight sums, so that the compiler may use as many lanes.
    let mut sums = [0f32; 8];
    let (queries, vectors) = (query.chunks_exact(8), bytes.chunks_exact(8));
    let rest: f32 =
        queries.remainder().iter().zip(vectors.remainder()).map(|(q, b)| q * f32::from(*b as i8)).sum();
    for (query, bytes) in queries.zip(vectors) {
        for lane in 0..8 {
            sums[lane] += query[lane] * f32::from(bytes[lane] as i8);
        }
    }
    scale * (sums.iter().sum::<f32>() + rest)
}
