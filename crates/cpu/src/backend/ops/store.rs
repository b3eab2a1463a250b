//! Storing keys and values in their pages.

use super::Worker;
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
        let heads = Sharing::Units(self.rows.len() * (self.key.columns / self.cache.head.head_dim));
        list.extend([Access::read(self.key, heads), Access::read(self.value, heads)]);
        list.push(Access::write(self.cache.place(), Sharing::Any));
    }

    pub(crate) fn run(&self, worker: &Worker) {
        let kv_heads = self.key.columns / self.cache.head.head_dim;
        let units = worker.share(self.rows.len() * kv_heads);
        worker.isa.run(StoreHeads { store: self, units });
    }

    /// Where a unit's head has its block, and which token of the page it is.
    fn place(&self, unit: usize) -> (*mut u8, usize) {
        let kv_heads = self.key.columns / self.cache.head.head_dim;
        let row = self.rows.rows()[unit / kv_heads];
        let block = self.cache.block(&self.rows.spans()[row.span], row.position, unit % kv_heads);
        (block, row.position % PAGE_TOKENS)
    }
}

/// A thread's share of the heads of all rows.
struct StoreHeads<'a> {
    store: &'a Store,
    units: Range<usize>,
}

impl Kernel for StoreHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { store, units } = self;
        let head_dim = store.cache.head.head_dim;
        let kv_heads = store.key.columns / head_dim;
        for unit in units.clone() {
            // A key is a column: as many lines as it has pairs of values, none of them in a cache.
            if unit + 1 < units.end {
                let (block, token) = store.place(unit + 1);
                ask_for(simd, &store.cache.head, block, token);
            }
            let (block, token) = store.place(unit);
            let (row, kv_head) = (unit / kv_heads, unit % kv_heads);
            let columns = kv_head * head_dim..(kv_head + 1) * head_dim;
            // SAFETY: these heads of this row were written by this thread, which deals them out in the
            // same way, or behind a barrier.
            let (key, value) =
                unsafe { (store.key.columns(row, columns.clone()), store.value.columns(row, columns)) };
            // SAFETY: each (token, head) has one unit, and no two write the same bytes.
            unsafe {
                match store.cache.head.dtype {
                    KvDType::F32 => store_floats(&store.cache.head, block, token, key, value),
                    KvDType::BF16 => store_brains(simd, &store.cache.head, block, token, key, value),
                    KvDType::Q8_0 => store_codes(&store.cache.head, block, token, key, value),
                }
            }
        }
    }
}

/// Asks for what a token of a head occupies.
#[inline(always)]
fn ask_for<S: Simd>(simd: S, head: &HeadLayout, block: *const u8, token: usize) {
    let element = head.element();
    for d in (0..head.head_dim).step_by(2) {
        simd.prefetch(block.wrapping_add(head.key_at(token, d) * element));
    }
    let values = head.values + head.value_at(token, 0) * element;
    for at in (0..head.value_bytes(1)).step_by(CACHE_LINE) {
        simd.prefetch(block.wrapping_add(values + at));
    }
}

/// # Safety
/// `block` is a page of one head stored so, `token` one of its tokens, and no other thread uses that token.
unsafe fn store_floats(head: &HeadLayout, block: *mut u8, token: usize, key: &[f32], value: &[f32]) {
    let values = block.wrapping_add(head.values);
    for (d, (&key, &value)) in key.iter().zip(value).enumerate() {
        // SAFETY: both are within the block, by its layout.
        unsafe {
            block.cast::<f32>().add(head.key_at(token, d)).write(key);
            values.cast::<f32>().add(head.value_at(token, d)).write(value);
        }
    }
}

/// # Safety
/// As for [`store_floats`].
#[inline(always)]
unsafe fn store_brains<S: Simd>(
    simd: S,
    head: &HeadLayout,
    block: *mut u8,
    token: usize,
    key: &[f32],
    value: &[f32],
) {
    let values = block.wrapping_add(head.values).cast::<u16>();
    let keys = block.cast::<u16>();
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
            (index * LANES..).zip(rounded_key.iter().zip(&rounded_value)).take(key.len())
        {
            // SAFETY: both are within the block, by its layout.
            unsafe {
                keys.add(head.key_at(token, d)).write(key);
                values.add(head.value_at(token, d)).write(value);
            }
        }
    }
}

/// # Safety
/// As for [`store_floats`].
unsafe fn store_codes(head: &HeadLayout, block: *mut u8, token: usize, key: &[f32], value: &[f32]) {
    let values = block.wrapping_add(head.values);
    let (key_scales, value_scales) =
        (block.wrapping_add(head.key_scales), block.wrapping_add(head.value_scales));
    for group in 0..head.groups {
        let from = group * SCALE_GROUP;
        let (key_scale, keys) = quantize(&key[from..]);
        let (value_scale, codes) = quantize(&value[from..]);
        // SAFETY: all places are within the block, by its layout.
        unsafe {
            key_scales.cast::<f16>().add(group * PAGE_TOKENS + token).write(key_scale);
            value_scales.cast::<f16>().add(token * head.groups + group).write(value_scale);
            for d in 0..SCALE_GROUP.min(head.head_dim - from) {
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
