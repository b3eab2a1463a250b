//! The rotations of RoPE, by position: the `cos, sin` pairs that a step's rows need.
//!
//! How a checkpoint scales its frequencies is `alti_formats`' business; here they become angles.

use alti_formats::Rope;
use std::sync::RwLock;

/// `cos, sin` pairs by position, computed once for each position up to the highest asked for.
#[derive(Debug)]
pub struct RotationTable {
    /// Radians per position of each pair of a head. In f32, as checkpoints were trained.
    frequencies: Vec<f32>,
    /// Factor on cos and sin: 1 but for YaRN.
    magnitude: f32,
    /// `[positions, head_dim]`.
    rows: RwLock<Vec<f32>>,
}

impl RotationTable {
    /// The table of heads of `head_dim` values.
    pub fn new(rope: &Rope, head_dim: usize) -> RotationTable {
        let frequencies = rope.inverse_frequencies(head_dim);
        RotationTable { frequencies, magnitude: rope.attention_factor(), rows: RwLock::default() }
    }

    /// Values in a row: `cos, sin` for each pair of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// The rows of the given positions, `[positions, head_dim]`.
    pub fn rows(&self, positions: impl Iterator<Item = usize> + Clone) -> Vec<f32> {
        let head_dim = self.head_dim();
        let needed = positions.clone().max().map_or(0, |last| (last + 1) * head_dim);
        const UNHARMED: &str = "the table is never left half-written";
        if self.rows.read().expect(UNHARMED).len() < needed {
            let mut rows = self.rows.write().expect(UNHARMED);
            for position in rows.len() / head_dim..needed / head_dim {
                rows.extend(self.frequencies.iter().flat_map(|&f| rotation(position, f, self.magnitude)));
            }
        }
        let rows = self.rows.read().expect(UNHARMED);
        positions.flat_map(|position| &rows[position * head_dim..][..head_dim]).copied().collect()
    }
}

/// `cos, sin` of the angle in f32, as PyTorch computes it; the functions in f64, so that they are exact.
fn rotation(position: usize, frequency: f32, magnitude: f32) -> [f32; 2] {
    let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
    [cos as f32 * magnitude, sin as f32 * magnitude]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alti_formats::RopeScaling;

    #[test]
    fn rows_do_not_depend_on_what_was_asked_before() {
        let rope = Rope { theta: 1e4, scaling: RopeScaling::None };
        let table = RotationTable::new(&rope, 64);
        let both = table.rows([700, 3].into_iter());
        let alone = RotationTable::new(&rope, 64).rows([3].into_iter());
        assert_eq!(both[64..], alone);
        assert_eq!(alone[0], 3f64.cos() as f32);
    }
}
