//! Storing keys and values in their pages, and attending to what is stored.

use super::Worker;
use crate::backend::arena::Matrix;
use crate::backend::cache::{CacheView, SCALE_GROUP};
use crate::backend::fences::{Access, Sharing};
use crate::isa::Kernel;
use crate::kernels::attention::{Block, Brain, Running, Scaled, Single, Stored, attend_page};
use crate::simd::Simd;
use alti_tensor::{AttentionShape, DType, KvDType, PAGE_TOKENS, Row, RowPlan, quant};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of a head that one unit of work takes.
const ROW_BLOCK: usize = 16;

/// Rows that share the loads of a page.
const SHARED_ROWS: usize = 4;

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
        // Key value `d` lies at `d * PAGE_TOKENS + token`, value `d` at `token * width + d`.
        let values = block.wrapping_add(head.values);
        let places = |d: usize| (d * PAGE_TOKENS + token, token * head.width + d);
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

/// Attention of all query heads over stored keys and values.
#[derive(Debug)]
pub(crate) struct Attend {
    pub(crate) query: Matrix,
    pub(crate) out: Matrix,
    pub(crate) cache: CacheView,
    pub(crate) shape: AttentionShape,
    pub(crate) rows: RowPlan,
    /// Whether nothing before the step is stored: rows see their own span alone.
    pub(crate) fresh: bool,
    /// `[threads, scratch_len]`.
    pub(crate) scratch: Matrix,
}

/// Floats of working memory that a thread needs, for heads of `width` values in whole vectors.
pub(crate) fn scratch_len(width: usize) -> usize {
    2 * SHARED_ROWS * width
}

impl Attend {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        list.extend([self.query, self.cache.place()].map(|matrix| Access::read(matrix, Sharing::Any)));
        list.extend([Access::write(self.out, Sharing::Any), Access::write(self.scratch, Sharing::Own)]);
    }

    pub(crate) fn run(&self, worker: &Worker) {
        match self.cache.head.dtype {
            KvDType::F32 => self.run_stored::<Single>(worker),
            KvDType::BF16 => self.run_stored::<Brain>(worker),
            KvDType::Q8_0 => self.run_stored::<Scaled>(worker),
        }
    }

    fn run_stored<K: Stored>(&self, worker: &Worker) {
        // SAFETY: each thread has a row of its own.
        let mut scratch = Scratch::new(unsafe { self.scratch.row_mut(worker.index) }, self.cache.head.width);
        let blocks = self.rows.len().div_ceil(ROW_BLOCK);
        // Later rows see more: dealing the units out in turn gives every thread of each.
        for unit in (worker.index..blocks * self.shape.heads).step_by(worker.count) {
            let (block, head) = (unit / self.shape.heads, unit % self.shape.heads);
            let rows = block * ROW_BLOCK..self.rows.len().min((block + 1) * ROW_BLOCK);
            worker.isa.run(AttendRows::<K> {
                attend: self,
                head,
                rows,
                scratch: &mut scratch,
                stored: PhantomData,
            });
        }
    }
}

/// What a thread needs to attend with up to `SHARED_ROWS` rows.
struct Scratch<'a> {
    running: [Running<'a>; SHARED_ROWS],
    queries: [&'a mut [f32]; SHARED_ROWS],
}

impl<'a> Scratch<'a> {
    fn new(memory: &'a mut [f32], width: usize) -> Scratch<'a> {
        let mut parts = memory.chunks_exact_mut(width);
        let mut part = || parts.next().expect("the scratch has `scratch_len` floats");
        Scratch {
            running: std::array::from_fn(|_| Running::new(part())),
            queries: std::array::from_fn(|_| part()),
        }
    }
}

/// One head of a run of rows.
struct AttendRows<'a, 'b, K> {
    attend: &'a Attend,
    head: usize,
    rows: Range<usize>,
    scratch: &'a mut Scratch<'b>,
    stored: PhantomData<K>,
}

impl<K: Stored> Kernel for AttendRows<'_, '_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut next = self.rows.start;
        while next < self.rows.end {
            let rows = next..self.rows.end.min(next + SHARED_ROWS);
            next = rows.end;
            self.attend.begin(self.head, rows.clone(), self.scratch);
            self.attend.shared_pages::<S, K>(simd, self.head, rows.clone(), self.scratch);
            self.attend.end(self.head, rows, self.scratch);
        }
    }
}

impl Attend {
    /// Loads the rows' queries, the factor on the scores in them.
    fn begin(&self, head: usize, rows: Range<usize>, scratch: &mut Scratch<'_>) {
        let columns = head * self.shape.head_dim..(head + 1) * self.shape.head_dim;
        for (slot, row) in rows.enumerate() {
            scratch.running[slot].reset();
            // SAFETY: the operation that wrote the queries is behind a barrier.
            let query = unsafe { self.query.columns(row, columns.clone()) };
            for (scaled, value) in scratch.queries[slot].iter_mut().zip(query) {
                *scaled = value * self.shape.scale;
            }
        }
    }

    /// Takes every page that the rows see: together where all see all of it, else row by row.
    #[inline(always)]
    fn shared_pages<S: Simd, K: Stored>(
        &self,
        simd: S,
        head: usize,
        rows: Range<usize>,
        scratch: &mut Scratch<'_>,
    ) {
        let plan = &self.rows.rows()[rows.clone()];
        let first_visible = |row: &Row| {
            let earliest = if self.fresh { self.rows.spans()[row.span].first_position } else { 0 };
            self.shape.first_visible(row.position).max(earliest)
        };
        let first = plan.iter().map(first_visible).min().unwrap_or(0);
        let last = plan.iter().map(|row| row.position).max().unwrap_or(0);
        let one_span = plan.iter().all(|row| row.span == plan[0].span);
        for page in first / PAGE_TOKENS..=last / PAGE_TOKENS {
            let seen = |row: &Row| {
                let page_start = page * PAGE_TOKENS;
                let from = first_visible(row).max(page_start) - page_start;
                let to = (row.position + 1).min(page_start + PAGE_TOKENS).saturating_sub(page_start);
                from..to
            };
            let Scratch { running, queries } = scratch;
            let whole = plan.iter().all(|row| seen(row) == (0..PAGE_TOKENS));
            if one_span && whole && plan.len() == SHARED_ROWS {
                let queries = queries.each_ref().map(|query| &query[..self.shape.head_dim]);
                let block = self.block(plan[0], page, head);
                let seen = std::array::from_fn(|_| 0..PAGE_TOKENS);
                // SAFETY: the rows' sequence has stored every token up to the rows' positions.
                unsafe { attend_page::<S, K, SHARED_ROWS>(simd, block, queries, seen, running.each_mut()) };
                continue;
            }
            for (slot, row) in plan.iter().enumerate().filter(|(_, row)| !seen(row).is_empty()) {
                let block = self.block(*row, page, head);
                // SAFETY: as above.
                unsafe {
                    attend_page::<S, K, 1>(
                        simd,
                        block,
                        [&queries[slot][..self.shape.head_dim]],
                        [seen(row)],
                        [&mut running[slot]],
                    );
                }
            }
        }
    }

    fn block(&self, row: Row, page: usize, head: usize) -> Block {
        let kv_head = head * self.shape.kv_heads / self.shape.heads;
        let span = &self.rows.spans()[row.span];
        Block { start: self.cache.block(span, page * PAGE_TOKENS, kv_head), head: self.cache.head }
    }

    fn end(&self, head: usize, rows: Range<usize>, scratch: &mut Scratch<'_>) {
        let columns = head * self.shape.head_dim..(head + 1) * self.shape.head_dim;
        for (slot, row) in rows.enumerate() {
            // SAFETY: this (row, head) is one unit of one thread, and nobody reads before a barrier.
            let out = unsafe { self.out.columns_mut(row, columns.clone()) };
            scratch.running[slot].finish(out);
        }
    }
}
