//! Storing keys and values in their pages.

use super::Worker;
use crate::backend::arena::Matrix;
use crate::backend::cache::{CacheView, SCALE_GROUP};
use crate::backend::fences::{Access, Sharing};
use alti_tensor::{DType, KvDType, PAGE_TOKENS, RowPlan, quant};
use half::{bf16, f16};

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
        let head_dim = self.cache.head.head_dim;
        let kv_heads = self.key.columns / head_dim;
        for unit in worker.share(self.rows.len() * kv_heads) {
            let (r, kv_head) = (unit / kv_heads, unit % kv_heads);
            let row = self.rows.rows()[r];
            let block = self.cache.block(&self.rows.spans()[row.span], row.position, kv_head);
            let token = row.position % PAGE_TOKENS;
            let columns = kv_head * head_dim..(kv_head + 1) * head_dim;
            // SAFETY: these heads of this row were written by this thread, which deals them out in the
            // same way, or behind a barrier.
            let (key, value) =
                unsafe { (self.key.columns(r, columns.clone()), self.value.columns(r, columns)) };
            // SAFETY: each (token, head) has one unit, and no two write the same bytes.
            unsafe { self.store_head(block, token, key, value) };
        }
    }

    /// # Safety
    /// `block` is a page of one head of this cache, `token` one of its tokens, and no other thread uses that token.
    unsafe fn store_head(&self, block: *mut u8, token: usize, key: &[f32], value: &[f32]) {
        let head = &self.cache.head;
        let values = block.wrapping_add(head.values);
        let places = |d: usize| (head.key_at(token, d), head.value_at(token, d));
        for (d, (&key, &value)) in key.iter().zip(value).enumerate() {
            let (k, v) = places(d);
            // SAFETY: both are within the block, by its layout.
            unsafe {
                match head.dtype {
                    KvDType::F32 => {
                        block.cast::<f32>().add(k).write(key);
                        values.cast::<f32>().add(v).write(value);
                    }
                    KvDType::BF16 => {
                        block.cast::<bf16>().add(k).write(bf16::from_f32(key));
                        values.cast::<bf16>().add(v).write(bf16::from_f32(value));
                    }
                    KvDType::Q8_0 => break,
                }
            }
        }
        if head.dtype == KvDType::Q8_0 {
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
                        let (k, v) = places(from + d);
                        block.add(k).write(keys[d]);
                        values.add(v).write(codes[d]);
                    }
                }
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
