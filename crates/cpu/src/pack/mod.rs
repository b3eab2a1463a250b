//! Weights repacked at load into panels of 32 rows.
//!
//! A kernel computes 32 outputs at a time, each in its own vector lane, so it wants the same few
//! weights of 32 rows next to each other: then a matrix is one sequential stream, scales included,
//! and no sum ever crosses lanes. The packed form is the same for every instruction set, holds
//! every value of the file exactly, is about as large as the file (at most a fifth more, for the
//! 2-bit K-quant), and replaces it: `embed` reads its rows back out of the panels.
//!
//! ```text
//! matrix:  panels of 32 rows, the last one filled up with zeros
//! F32:     [columns][32 rows] f32
//! F16:     [columns][32 rows] f16
//! BF16:    [columns / 2, rounded up][32 rows][2] bf16
//! blocks:  [superblocks] of the form that `layout` draws
//! ```

mod blocks;
pub(crate) mod layout;
mod quantised;

use crate::CpuError;
use crate::isa::Isa;
use crate::kernels::ActivationKind;
use crate::memory::{AlignedBytes, CACHE_LINE};
use alti_tensor::{DType, WeightData};
use bytes::Bytes;
use half::{bf16, f16};
use layout::quant_layout;
use std::ops::Range;

/// Counts the ways in which panels have been laid out: what was packed in another is packed anew.
pub const LAYOUT_VERSION: u32 = 1;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 32;

/// Packed bytes that take longer than to start a thread for them, and to have threads fault pages in at
/// the same time.
const BYTES_WORTH_A_THREAD: usize = 2 << 20;

/// A matrix `[rows, columns]` in panels. It has cache lines of its own: what counts its owners, once a step and more often,
/// would otherwise be in the line that every thread reads.
#[derive(Debug)]
#[repr(align(64))]
pub struct PackedMatrix {
    dtype: DType,
    rows: usize,
    columns: usize,
    panel_bytes: usize,
    storage: Storage,
}

/// Where panels lie.
#[derive(Debug)]
enum Storage {
    Own(AlignedBytes),
    /// In a file, most likely, that they were written to when they were packed.
    Shared(Bytes),
}

impl PackedMatrix {
    /// Bytes of `rows` rows of `columns` columns in panels; none if no memory could hold them.
    pub fn packed_bytes(dtype: DType, rows: usize, columns: usize) -> Option<usize> {
        panel_bytes(dtype, columns)?.checked_mul(rows.div_ceil(PANEL_ROWS))
    }

    /// Takes panels as they were packed before: the [`contents`](Self::contents) of such a matrix.
    ///
    /// # Errors
    /// When they are not as many bytes as panels of this shape have, or do not begin at a cache line.
    pub fn from_packed(dtype: DType, rows: usize, columns: usize, packed: Bytes) -> Result<Self, CpuError> {
        let not_a_matrix = |reason| CpuError::NotAMatrix { dtype, shape: vec![rows, columns], reason };
        if rows == 0 || Self::packed_bytes(dtype, rows, columns) != Some(packed.len()) {
            return Err(not_a_matrix("packed before, it has another size"));
        }
        if packed.as_ptr().align_offset(CACHE_LINE) != 0 {
            return Err(not_a_matrix("packed before, it does not begin at a cache line"));
        }
        let panel_bytes = packed.len() / rows.div_ceil(PANEL_ROWS);
        Ok(Self { dtype, rows, columns, panel_bytes, storage: Storage::Shared(packed) })
    }

    /// All panels.
    pub fn contents(&self) -> &[u8] {
        let storage = match &self.storage {
            Storage::Own(storage) => storage.as_slice(),
            Storage::Shared(storage) => storage,
        };
        &storage[..self.bytes()]
    }

    /// Packs the given rows of a stored tensor, counted over all of its outer dimensions (all rows
    /// of a matrix; those of one expert), on `threads` threads.
    ///
    /// # Errors
    /// When there is no memory for it, or the tensor has no such rows.
    pub fn pack(weight: &WeightData<'_>, rows: Range<usize>, threads: usize) -> Result<Self, CpuError> {
        let not_a_matrix =
            |reason| CpuError::NotAMatrix { dtype: weight.dtype, shape: weight.shape.clone(), reason };
        if rows.is_empty() || rows.end > weight.rows() {
            return Err(not_a_matrix("it has no such rows"));
        }
        let (dtype, columns) = (weight.dtype, weight.columns());
        let panel_bytes = panel_bytes(dtype, columns).ok_or_else(|| not_a_matrix("its rows are too long"))?;
        let panels = rows.len().div_ceil(PANEL_ROWS);
        let bytes = panels.checked_mul(panel_bytes).ok_or(CpuError::OutOfMemory { bytes: usize::MAX })?;
        let mut storage = AlignedBytes::zeroed_beside_others(bytes)?;
        let pack = |first_panel: usize, out: &mut [u8]| {
            for (index, panel) in out.chunks_exact_mut(panel_bytes).enumerate() {
                let first = rows.start + (first_panel + index) * PANEL_ROWS;
                pack_panel(weight, first..rows.end.min(first + PANEL_ROWS), panel);
            }
        };
        let threads = threads.min(bytes / BYTES_WORTH_A_THREAD).max(1);
        let share = panels.div_ceil(threads);
        let shares = storage.as_mut_slice()[..bytes].chunks_mut(share * panel_bytes).enumerate();
        if threads == 1 {
            shares.for_each(|(index, out)| pack(index * share, out));
        } else {
            std::thread::scope(|scope| {
                for (index, out) in shares {
                    let pack = &pack;
                    scope.spawn(move || pack(index * share, out));
                }
            });
        }
        Ok(Self { dtype, rows: rows.len(), columns, panel_bytes, storage: Storage::Own(storage) })
    }

    /// The encoding of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: the length of an output.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: the length of an input.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Panels of [`PANEL_ROWS`] rows: what threads share the matrix by.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Bytes of a panel, a multiple of 64.
    pub fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes
    }

    /// What [`matmul`](crate::kernels::matmul) wants of its activations on this instruction set.
    pub fn activation_kind(&self, isa: Isa) -> ActivationKind {
        match self.dtype {
            DType::F32 | DType::F16 => ActivationKind::F32,
            DType::BF16 if isa.keeps_brain_floats() => ActivationKind::BrainFloats,
            DType::BF16 => ActivationKind::Brain,
            _ => ActivationKind::Int8,
        }
    }

    /// The bytes of panel `index`.
    ///
    /// # Panics
    /// When there is no such panel.
    pub fn panel_contents(&self, index: usize) -> &[u8] {
        &self.contents()[index * self.panel_bytes..][..self.panel_bytes]
    }

    /// The contents of some panels, one after the other.
    ///
    /// # Panics
    /// When there are no such panels.
    pub(crate) fn contents_of(&self, panels: Range<usize>) -> &[u8] {
        &self.contents()[panels.start * self.panel_bytes..panels.end * self.panel_bytes]
    }

    /// Writes row `row` as floats: bit by bit what `alti_tensor::quant` makes of the stored row.
    ///
    /// # Panics
    /// When there is no such row, or `out` is not [`Self::columns`] long.
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns, "row {row} of {}", self.rows);
        let (panel, lane) = (self.panel_contents(row / PANEL_ROWS), row % PANEL_ROWS);
        let half_word = |index: usize| u16::from_le_bytes([panel[2 * index], panel[2 * index + 1]]);
        match self.dtype {
            DType::F32 => {
                let (values, _) = panel.as_chunks::<4>();
                for (k, out) in out.iter_mut().enumerate() {
                    *out = f32::from_le_bytes(values[k * PANEL_ROWS + lane]);
                }
            }
            DType::F16 => {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = f16::from_bits(half_word(k * PANEL_ROWS + lane)).to_f32();
                }
            }
            DType::BF16 => {
                for (k, out) in out.iter_mut().enumerate() {
                    let at = 2 * (k / 2 * PANEL_ROWS + lane) + k % 2;
                    *out = bf16::from_bits(half_word(at)).to_f32();
                }
            }
            dtype => {
                let layout = quant_layout(dtype).expect("all other types are block formats");
                quantised::read_row(&layout, panel, lane, out);
            }
        }
    }
}

/// Bytes of a panel of `columns` columns.
fn panel_bytes(dtype: DType, columns: usize) -> Option<usize> {
    match quant_layout(dtype) {
        Some(layout) => (columns / dtype.block_len()).checked_mul(layout.super_bytes()),
        None if dtype == DType::BF16 => columns.div_ceil(2).checked_mul(4 * PANEL_ROWS),
        None => columns.checked_mul(dtype.block_bytes() * PANEL_ROWS),
    }
}

/// Packs at most [`PANEL_ROWS`] rows into a panel of zeros.
fn pack_panel(weight: &WeightData<'_>, rows: Range<usize>, panel: &mut [u8]) {
    for (lane, row) in rows.enumerate() {
        let stored = weight.row(row);
        match weight.dtype {
            DType::F32 => scatter::<4, 1>(stored, lane, panel),
            DType::F16 => scatter::<2, 1>(stored, lane, panel),
            DType::BF16 => scatter::<2, 2>(stored, lane, panel),
            dtype => quantised::write_row(dtype, stored, lane, panel),
        }
    }
}

/// Spreads elements of `SIZE` bytes over a panel in which each row has `RUN` at a time.
fn scatter<const SIZE: usize, const RUN: usize>(stored: &[u8], lane: usize, panel: &mut [u8]) {
    let (from, _) = stored.as_chunks::<SIZE>();
    let (to, _) = panel.as_chunks_mut::<SIZE>();
    for (k, element) in from.iter().enumerate() {
        to[(k / RUN * PANEL_ROWS + lane) * RUN + k % RUN] = *element;
    }
}
