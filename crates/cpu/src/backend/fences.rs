//! Where threads must wait for one another.
//!
//! A barrier is needed between two operations when a thread may touch memory that another thread
//! touched before, and one of them writes. Each operation says what it touches and how it deals the
//! memory out; the rest follows. Operations that deal out the same matrix in the same way meet in
//! the same thread and need no barrier.

use super::arena::Matrix;

/// How threads share a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// In so many equal runs of values, dealt out by [`Worker::share`](super::ops::Worker::share).
    Units(usize),
    /// In so many panels of columns, dealt out in the same way.
    Panels(usize),
    /// In the 8-bit blocks of so many panels, dealt out in the same way.
    Blocks(usize),
    /// Each thread has rows of its own.
    Own,
    /// Any thread touches anything.
    Any,
}

/// Memory that an operation touches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    matrix: Matrix,
    sharing: Sharing,
    writes: bool,
}

impl Access {
    /// The operation reads it.
    pub(crate) fn read(matrix: Matrix, sharing: Sharing) -> Access {
        Access { matrix, sharing, writes: false }
    }

    /// The operation writes it, and may read it.
    pub(crate) fn write(matrix: Matrix, sharing: Sharing) -> Access {
        Access { matrix, sharing, writes: true }
    }

    fn conflicts(&self, other: &Access) -> bool {
        if !self.writes && !other.writes {
            return false;
        }
        let range = |matrix: &Matrix| {
            let start = matrix.start as usize;
            start..start + matrix.rows * matrix.columns * size_of::<f32>()
        };
        let (a, b) = (range(&self.matrix), range(&other.matrix));
        let overlap = a.start < b.end && b.start < a.end;
        let together = self.sharing == other.sharing
            && self.sharing != Sharing::Any
            && self.matrix.is_same(other.matrix);
        overlap && !together
    }
}

/// What was touched since the last barrier.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    since: Vec<Access>,
}

impl Fences {
    /// Whether a barrier must come before an operation that touches this.
    pub(crate) fn needs_barrier(&mut self, accesses: &[Access]) -> bool {
        let needed = accesses.iter().any(|access| self.since.iter().any(|before| access.conflicts(before)));
        if needed {
            self.since.clear();
        }
        self.since.extend_from_slice(accesses);
        needed
    }

    /// The list has run, which ends with all threads together.
    pub(crate) fn reset(&mut self) {
        self.since.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(start: usize) -> Matrix {
        Matrix { start: start as *mut f32, rows: 2, columns: 8 }
    }

    #[test]
    fn a_barrier_stands_between_a_write_and_a_read_in_other_shares() {
        let mut fences = Fences::default();
        let (x, y) = (matrix(64), matrix(256));
        assert!(!fences.needs_barrier(&[Access::write(x, Sharing::Panels(4))]));
        assert!(!fences.needs_barrier(&[Access::write(y, Sharing::Panels(4))]), "nothing in common");
        assert!(fences.needs_barrier(&[Access::write(x, Sharing::Units(2))]));
        assert!(!fences.needs_barrier(&[Access::read(x, Sharing::Units(2))]), "the same thread wrote it");
        assert!(fences.needs_barrier(&[Access::read(x, Sharing::Any)]));
        assert!(!fences.needs_barrier(&[Access::read(x, Sharing::Units(2))]), "two may read");
        assert!(fences.needs_barrier(&[Access::write(x, Sharing::Any)]), "a reader must be done");
    }

    #[test]
    fn panels_and_their_blocks_are_not_the_same_columns() {
        let mut fences = Fences::default();
        fences.needs_barrier(&[Access::write(matrix(64), Sharing::Blocks(2))]);
        assert!(fences.needs_barrier(&[Access::write(matrix(64), Sharing::Panels(2))]));
        assert!(!fences.needs_barrier(&[Access::write(matrix(64), Sharing::Panels(2))]));
    }

    #[test]
    fn memory_that_is_used_again_in_another_shape_is_the_same_memory() {
        let mut fences = Fences::default();
        let wide = Matrix { start: 64 as *mut f32, rows: 1, columns: 16 };
        fences.needs_barrier(&[Access::write(matrix(64), Sharing::Units(2))]);
        assert!(fences.needs_barrier(&[Access::write(wide, Sharing::Units(2))]));
    }
}
