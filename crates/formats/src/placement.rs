//! How a weight of the canonical layout sits in a tensor of a file. Canonical is GGUF's layout:
//! matrices `[out, in]`, query and key rows in interleaved-pair order, experts as three tensors.
//! Everything that Hugging Face and Meta do otherwise is one of the few [`Placement`]s here, each
//! usable in both directions and for any element type, so that files, gradients and tests share one
//! definition.

use alti_tensor::DType;
use std::borrow::Cow;
use std::ops::Range;

/// Where the elements of a canonical weight are in a tensor of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The same shape and order.
    Same,
    /// Hugging Face's query and key rows: per head, all first elements of the rotated pairs, then
    /// all second ones.
    HalfRotated {
        /// Rows of one head.
        head_dim: usize,
    },
    /// A run of rows of a taller matrix (Meta's fused `wqkv` and `fc1`).
    Rows {
        /// The first of them.
        first: usize,
    },
    /// `[.., in, width]` for a canonical `[.., out, in]`: transposed, in the columns from `first`
    /// on (Hugging Face's fused `gate_up_proj`, Meta's experts and router).
    Transposed {
        /// The first of the columns.
        first: usize,
        /// Columns of the file's tensor.
        width: usize,
    },
}

/// A canonical shape as experts x rows x columns.
fn as_3d(shape: &[usize]) -> (usize, usize, usize) {
    match *shape {
        [columns] => (1, 1, columns),
        [rows, columns] => (1, rows, columns),
        [experts, rows, columns] => (experts, rows, columns),
        _ => (0, 0, 0),
    }
}

/// Columns and rows of the square that a transposition moves at once: two of them fit in the L1
/// cache.
const TILE: usize = 32;

impl Placement {
    /// The canonical weight of shape `shape`, taken out of the file tensor `file`.
    ///
    /// # Panics
    /// When `file` is shorter than the placement reaches; callers check shapes first.
    pub fn gather<'a, T: Copy + Default>(&self, shape: &[usize], file: &'a [T]) -> Cow<'a, [T]> {
        if let Some(run) = self.run(shape) {
            return Cow::Borrowed(&file[run]);
        }
        let mut canonical = vec![T::default(); shape.iter().product()];
        self.for_each_pair(shape, |to, from, length, step| match step {
            1 => canonical[to..to + length].copy_from_slice(&file[from..from + length]),
            _ => (0..length).for_each(|i| canonical[to + i] = file[from + i * step]),
        });
        Cow::Owned(canonical)
    }

    /// Writes the canonical weight of shape `shape` into its place in the file tensor `file`.
    ///
    /// # Panics
    /// When `file` is shorter than the placement reaches, or `canonical` than `shape` says.
    pub fn scatter<T: Copy>(&self, shape: &[usize], canonical: &[T], file: &mut [T]) {
        if let Some(run) = self.run(shape) {
            file[run].copy_from_slice(canonical);
            return;
        }
        self.for_each_pair(shape, |from, to, length, step| match step {
            1 => file[to..to + length].copy_from_slice(&canonical[from..from + length]),
            _ => (0..length).for_each(|i| file[to + i * step] = canonical[from + i]),
        });
    }

    /// The elements of the file's tensor that are the weight, where that is one unchanged run.
    fn run(&self, shape: &[usize]) -> Option<Range<usize>> {
        let length: usize = shape.iter().product();
        match *self {
            Self::Same => Some(0..length),
            Self::Rows { first } => {
                let start = first * as_3d(shape).2;
                Some(start..start + length)
            }
            Self::HalfRotated { .. } | Self::Transposed { .. } => None,
        }
    }

    /// Calls `copy(canonical index, file index, length, file step)` for runs that cover the weight.
    fn for_each_pair(&self, shape: &[usize], mut copy: impl FnMut(usize, usize, usize, usize)) {
        let (experts, rows, columns) = as_3d(shape);
        match *self {
            Self::Same | Self::Rows { .. } => {}
            Self::HalfRotated { head_dim } => {
                for row in 0..rows {
                    let (head, within) = (row / head_dim, row % head_dim);
                    let source = head * head_dim + (within % 2) * (head_dim / 2) + within / 2;
                    copy(row * columns, source * columns, columns, 1);
                }
            }
            Self::Transposed { first, width } => {
                for expert in 0..experts {
                    let (to, from) = (expert * rows * columns, expert * columns * width + first);
                    for column in (0..columns).step_by(TILE) {
                        let length = TILE.min(columns - column);
                        for row in 0..rows {
                            copy(to + row * columns + column, from + column * width + row, length, width);
                        }
                    }
                }
            }
        }
    }
}

/// [`Placement::gather`] on the bytes of a plain float type.
pub(crate) fn gather_bytes<'a>(
    placement: &Placement,
    shape: &[usize],
    dtype: DType,
    file: &'a [u8],
) -> Cow<'a, [u8]> {
    fn gather<'a, const N: usize>(placement: &Placement, shape: &[usize], file: &'a [u8]) -> Cow<'a, [u8]>
    where
        [u8; N]: Default,
    {
        match placement.gather(shape, file.as_chunks::<N>().0) {
            Cow::Borrowed(same) => Cow::Borrowed(same.as_flattened()),
            Cow::Owned(moved) => Cow::Owned(moved.into_flattened()),
        }
    }
    match dtype.block_bytes() {
        2 => gather::<2>(placement, shape, file),
        _ => gather::<4>(placement, shape, file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(placement: Placement, shape: &[usize], file: &[u32], expected: &[u32]) {
        assert_eq!(placement.gather(shape, file).as_ref(), expected);
        let mut back = file.to_vec();
        placement.scatter(shape, expected, &mut back);
        assert_eq!(back, file);
    }

    #[test]
    fn half_rotated_rows_become_interleaved() {
        let placement = Placement::HalfRotated { head_dim: 4 };
        check(placement, &[8, 1], &[0, 1, 2, 3, 4, 5, 6, 7], &[0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn fused_experts_come_apart() {
        // [2 experts, 2 in, 2 gate + 2 up]
        let file: Vec<u32> = (0..16).collect();
        let up = Placement::Transposed { first: 2, width: 4 };
        check(up, &[2, 2, 2], &file, &[2, 6, 3, 7, 10, 14, 11, 15]);
    }

    #[test]
    fn rows_are_a_slice() {
        check(Placement::Rows { first: 1 }, &[2, 2], &[0, 1, 2, 3, 4, 5], &[2, 3, 4, 5]);
    }
}
