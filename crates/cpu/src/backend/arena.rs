//! Memory for the values of a step.
//!
//! A tensor owns its buffer while a handle to it lives. Model code records operations in program
//! order, so a buffer given back when its last handle is dropped may be written by the operations
//! recorded after that, and by none before. Buffers are kept for the next step: once a step has
//! been run, the same step asks the system for no memory for its values.

use crate::kernels::OutputMatrix;
use crate::memory::AlignedBytes;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// A handle to a matrix `[rows, columns]` of f32 values of the current step, row-major.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Shared with its clones; nothing in a step that has failed, and in a tensor that is being dropped.
    buffer: Option<Rc<AlignedBytes>>,
    view: Matrix,
    home: Arena,
}

/// Where a tensor's values are: what an operation keeps of its operands. The arena keeps the memory
/// until the backend is dropped, so a view outlives the tensor; what it then shows is another
/// tensor's value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    /// The first value.
    pub(crate) start: *mut f32,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Values in a row.
    pub(crate) columns: usize,
}

// SAFETY: a view is an address; who reads or writes through it says why that is sound.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// Row `row`.
    ///
    /// # Safety
    /// The memory is alive, the row exists, and nobody writes it meanwhile.
    pub(crate) unsafe fn row<'a>(self, row: usize) -> &'a [f32] {
        debug_assert!(row < self.rows);
        // SAFETY: the caller's promise; a row has `columns` values.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.columns), self.columns) }
    }

    /// Row `row`, to write.
    ///
    /// # Safety
    /// As for `row`, and nobody else reads it meanwhile.
    pub(crate) unsafe fn row_mut<'a>(self, row: usize) -> &'a mut [f32] {
        debug_assert!(row < self.rows);
        // SAFETY: the caller's promise; a row has `columns` values.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.columns), self.columns) }
    }

    /// Whether it is the same place in the same shape.
    pub(crate) fn is_same(self, other: Matrix) -> bool {
        (self.start, self.rows, self.columns) == (other.start, other.rows, other.columns)
    }

    /// As where a product goes.
    ///
    /// # Safety
    /// The memory is alive, and nobody else touches what the product writes.
    pub(crate) unsafe fn output<'a>(self) -> OutputMatrix<'a> {
        // SAFETY: the caller's promise.
        unsafe { OutputMatrix::from_raw(self.start, self.rows, self.columns) }
    }

    /// The rows from `first` on, so many of them.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn rows_from(self, first: usize, rows: usize) -> Matrix {
        assert!(first + rows <= self.rows, "the rows are the matrix's");
        Matrix { start: self.start.wrapping_add(first * self.columns), rows, columns: self.columns }
    }

    /// Its values from `first` on as a matrix of another shape.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn values_from(self, first: usize, rows: usize, columns: usize) -> Matrix {
        assert!(first + rows * columns <= self.rows * self.columns, "the values are the matrix's");
        Matrix { start: self.start.wrapping_add(first), rows, columns }
    }

    /// Some columns of row `row`.
    ///
    /// # Safety
    /// As for `row`, of these columns alone.
    pub(crate) unsafe fn columns<'a>(self, row: usize, columns: Range<usize>) -> &'a [f32] {
        debug_assert!(row < self.rows && columns.end <= self.columns);
        let start = row * self.columns + columns.start;
        // SAFETY: the caller's promise; the columns are within the row.
        unsafe { std::slice::from_raw_parts(self.start.add(start), columns.len()) }
    }

    /// Some columns of row `row`, to write.
    ///
    /// # Safety
    /// As for `row_mut`, of these columns alone.
    pub(crate) unsafe fn columns_mut<'a>(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        debug_assert!(row < self.rows && columns.end <= self.columns);
        let start = row * self.columns + columns.start;
        // SAFETY: the caller's promise; the columns are within the row.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), columns.len()) }
    }
}

impl Tensor {
    /// Where its values are, for an operation of the backend whose arena this is.
    ///
    /// # Panics
    /// When the tensor is another backend's: its memory may not live as long as the list.
    pub(crate) fn view_in(&self, arena: &Arena) -> Matrix {
        assert!(Rc::ptr_eq(&self.home.0, &arena.0), "a tensor belongs to the backend that made it");
        self.view
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.view.rows
    }

    /// Values in a row.
    pub fn columns(&self) -> usize {
        self.view.columns
    }

    /// Its values, row-major; `None` where it has no memory, because the step failed. Called while
    /// no step runs.
    pub(crate) fn values(&self) -> Option<&[f32]> {
        let values = bytemuck::cast_slice(self.buffer.as_ref()?.as_slice());
        Some(&values[..self.rows() * self.columns()])
    }

    /// Whether this is the only handle, so that the value may be changed in place.
    pub(crate) fn is_unique(&self) -> bool {
        self.buffer.as_ref().is_none_or(|buffer| Rc::strong_count(buffer) == 1)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take()
            && Rc::strong_count(&buffer) == 1
        {
            self.home.give_back(buffer);
        }
    }
}

/// The buffers that no tensor owns, smallest first, and of one size the last one used first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arena(Rc<RefCell<Vec<Rc<AlignedBytes>>>>);

impl Arena {
    /// A tensor without memory, for a step that has failed already.
    pub(crate) fn nowhere(&self, rows: usize, columns: usize) -> Tensor {
        let view = Matrix { start: std::ptr::null_mut(), rows, columns };
        Tensor { buffer: None, view, home: self.clone() }
    }

    /// A tensor with undefined values: in the smallest free buffer that holds it without much
    /// waste, or else in a new one.
    ///
    /// # Errors
    /// When the system has no memory.
    pub(crate) fn tensor(&self, rows: usize, columns: usize) -> Result<Tensor, crate::CpuError> {
        let bytes = 4 * rows * columns;
        let mut free = self.0.borrow_mut();
        let best = free.partition_point(|buffer| buffer.as_slice().len() < bytes);
        let buffer = match free.get(best) {
            Some(buffer) if buffer.as_slice().len() <= 4 * bytes.max(4096) => free.remove(best),
            _ => Rc::new(AlignedBytes::zeroed(bytes)?),
        };
        let view = Matrix { start: buffer.start().cast(), rows, columns };
        Ok(Tensor { buffer: Some(buffer), view, home: self.clone() })
    }

    fn give_back(&self, buffer: Rc<AlignedBytes>) {
        let mut free = self.0.borrow_mut();
        let place = free.partition_point(|known| known.as_slice().len() < buffer.as_slice().len());
        free.insert(place, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_tensor_gives_its_memory_to_the_next() {
        let arena = Arena::default();
        let tensor = || arena.tensor(2, 576).expect("memory");
        let first = tensor();
        let address = first.view.start;
        let second = tensor();
        assert_ne!(second.view.start, address);
        let clone = first.clone();
        drop(first);
        assert_ne!(tensor().view.start, address, "a clone still holds it");
        drop(clone);
        let starts = [tensor(), tensor(), tensor()].map(|tensor| tensor.view.start);
        assert!(starts.contains(&address));
    }
}
