//! Storing keys and values in their pages.

use super::{Pieces, Worker};
use crate::backend::arena::Matrix;
use crate::backend::cache::{CacheView, HeadLayout, SCALE_GROUP};
use crate::backend::fences::{Access, Sharing};
use crate::isa::Kernel;
use crate::memory::CACHE_LINE;
use crate::simd::{LANES, Simd};
use alti_tensor::{DType, KvDType, PAGE_TOKENS, RowPlan, quant};
use half::f16;
use std::ops::Range;

/// Writes the rows' keys and values, `[rows, kv_heads * head_dim]`, to their pages.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) key: Matrix,
    pub(crate) value: Matrix,
    pub(crate) cache: CacheView,
    pub(crate) rows: RowPlan,
}

impl Store {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        let pieces = self.pieces().sharing();
        list.extend([Access::read(self.key, pieces), Access::read(self.value, pieces)]);
        list.push(Access::write(self.cache.place(), Sharing::Any));
    }

    pub(crate) fn run(&self, worker: &Worker) {
        worker.isa.run(StorePieces { store: self, worker });
    }

    /// As rotated keys are dealt out.
    fn pieces(&self) -> Pieces {
        Pieces::new(self.rows.len(), self.key.columns, self.cache.head.head_dim)
    }

    /// Where a piece of a row goes.
    fn place(&self, (row, first): (usize, usize), width: usize) -> Place {
        let row = self.rows.rows()[row];
        let (kv_head, from) = (first / self.cache.head.head_dim, first % self.cache.head.head_dim);
        let block = self.cache.block(&self.rows.spans()[row.span], row.position, kv_head);
        Place { block, token: row.position % PAGE_TOKENS, values: from..from + width }
    }
}

/// Where a piece of a head is stored.
struct Place {
    /// The head's block of the page.
    block: *mut u8,
    /// Which token of the page.
    token: usize,
    /// Which values of the head: whole groups of scales.
    values: Range<usize>,
}

/// A thread's pieces of all rows.
struct StorePieces<'a> {
    store: &'a Store,
    worker: &'a Worker,
}

impl Kernel for StorePieces<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { store, worker } = self;
        let pieces = store.pieces();
        let mut all = pieces.of(worker).peekable();
        while let Some((row, first)) = all.next() {
            // A key is a column: as many lines as it has pairs of values, none of them in a cache.
            if let Some(next) = all.peek() {
                ask_for(simd, &store.cache.head, &store.place(*next, pieces.width));
            }
            let place = store.place((row, first), pieces.width);
            let columns = first..first + pieces.width;
            // SAFETY: this piece of this row was written by this thread, which deals it out in the same way, or behind
            // a barrier.
            let (key, value) =
                unsafe { (store.key.columns(row, columns.clone()), store.value.columns(row, columns)) };
            // SAFETY: each token's piece is one thread's, and no two write the same bytes.
            unsafe {
                match store.cache.head.dtype {
                    KvDType::F32 => store_floats(&store.cache.head, &place, key, value),
                    KvDType::BF16 => store_brains(simd, &store.cache.head, &place, key, value),
                    KvDType::Q8_0 => store_codes(&store.cache.head, &place, key, value),
                }
            }
        }
    }
}

/// Asks for what a piece of a token occupies.
#[inline(always)]
fn ask_for<S: Simd>(simd: S, head: &HeadLayout, place: &Place) {
    let element = head.element();
    for d in place.values.clone().step_by(2) {
        simd.prefetch(place.block.wrapping_add(head.key_at(place.token, d) * element));
    }
    let values = head.values + head.value_at(place.token, place.values.start) * element;
    // The values of two tokens lie together in bf16.
    let bytes = head.value_bytes(1) / head.width * place.values.len();
    for at in (0..bytes).step_by(CACHE_LINE) {
        simd.prefetch(place.block.wrapping_add(values + at));
    }
}

/// # Safety
/// `place` is in a page of one head stored so, and no other thread uses that token's piece.
unsafe fn store_floats(head: &HeadLayout, place: &Place, key: &[f32], value: &[f32]) {
    let values = place.block.wrapping_add(head.values);
    for ((&key, &value), d) in key.iter().zip(value).zip(place.values.clone()) {
        // SAFETY: both are within the block, by its layout.
        unsafe {
            place.block.cast::<f32>().add(head.key_at(place.token, d)).write(key);
            values.cast::<f32>().add(head.value_at(place.token, d)).write(value);
        }
    }
}

/// # Safety
/// As for [`store_floats`].
#[inline(always)]
unsafe fn store_brains<S: Simd>(simd: S, head: &HeadLayout, place: &Place, key: &[f32], value: &[f32]) {
    let values = place.block.wrapping_add(head.values).cast::<u16>();
    let keys = place.block.cast::<u16>();
    for (index, (key, value)) in key.chunks(LANES).zip(value.chunks(LANES)).enumerate() {
        let mut rounded = [[0u16; LANES]; 2];
        for (values, rounded) in [key, value].into_iter().zip(&mut rounded) {
            // SAFETY: a chunk has its length of floats; 16 bf16 go into the array.
            unsafe {
                simd.store_brain(rounded.as_mut_ptr(), simd.load_partial(values.as_ptr(), values.len(), 0.0));
            }
        }
        let [rounded_key, rounded_value] = rounded;
        for (d, (&key, &value)) in
            (place.values.start + index * LANES..).zip(rounded_key.iter().zip(&rounded_value)).take(key.len())
        {
            // SAFETY: both are within the block, by its layout.
            unsafe {
                keys.add(head.key_at(place.token, d)).write(key);
                values.add(head.value_at(place.token, d)).write(value);
            }
        }
    }
}

/// # Safety
/// As for [`store_floats`].
unsafe fn store_codes(head: &HeadLayout, place: &Place, key: &[f32], value: &[f32]) {
    let Place { block, token, .. } = *place;
    let values = block.wrapping_add(head.values);
    let (key_scales, value_scales) =
        (block.wrapping_add(head.key_scales), block.wrapping_add(head.value_scales));
    for (index, (key, value)) in key.chunks(SCALE_GROUP).zip(value.chunks(SCALE_GROUP)).enumerate() {
        let from = place.values.start + index * SCALE_GROUP;
        let group = from / SCALE_GROUP;
        let (key_scale, keys) = quantize(key);
        let (value_scale, codes) = quantize(value);
        // SAFETY: all places are within the block, by its layout.
        unsafe {
            key_scales.cast::<f16>().add(group * PAGE_TOKENS + token).write(key_scale);
            value_scales.cast::<f16>().add(token * head.groups + group).write(value_scale);
            for d in 0..key.len() {
                block.add(head.key_at(token, from + d)).write(keys[d]);
                values.add(head.value_at(token, from + d)).write(codes[d]);
            }
        }
    }
}

/// The scale and codes of up to 32 values, as the format Q8_0 has them. Values that it cannot hold
/// (NaN, infinity) get the scale NaN, so that they show.
fn quantize(values: &[f32]) -> (f16, [u8; SCALE_GROUP]) {
    let mut padded = [0f32; SCALE_GROUP];
    let count = values.len().min(SCALE_GROUP);
    padded[..count].copy_from_slice(&values[..count]);
    let mut block = [0u8; SCALE_GROUP + 2];
    let mut codes = [0u8; SCALE_GROUP];
    match quant::quantize(DType::Q8_0, &padded, None, &mut block) {
        Ok(()) => {
            codes.copy_from_slice(&block[2..]);
            (f16::from_le_bytes([block[0], block[1]]), codes)
        }
        Err(_) => (f16::NAN, codes),
    }
}
