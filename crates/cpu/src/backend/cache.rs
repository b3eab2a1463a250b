//! Paged keys and values, as attention reads them.
//!
//! A page holds [`PAGE_TOKENS`] tokens in all layers of a group, one layer after the other: a short context
//! takes little memory, and the system grants it in few pieces. In a layer of it every key/value head has a
//! block of its own, so that the query heads that share it find it in the cache of their core:
//!
//! ```text
//! keys    head_dim x 64 tokens     a column per token: 16 scores at once, and no sums across lanes
//! scales  head_dim/32 x 64 tokens  f16, q8_0 only
//! values  64 tokens x width        a row per token; width is head_dim, rounded up to 16
//! scales  64 tokens x head_dim/32  f16, q8_0 only
//! ```
//!
//! In bf16 the two factors of a pair product are neighbours: keys are `head_dim/2 x 64 tokens x 2`,
//! values `32 pairs of tokens x width x 2`.

use super::arena::Matrix;
use crate::CpuError;
use crate::memory::{AlignedBytes, CACHE_LINE};
use crate::simd::LANES;
use alti_tensor::{AttentionShape, CacheGroup, CacheLayout, KvDType, PAGE_TOKENS, Span};
use std::ops::Range;
use std::rc::Rc;

/// Values that share a scale in q8_0.
pub(crate) const SCALE_GROUP: usize = 32;

/// Where things lie in one head's block of a page, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLayout {
    /// How keys and values are stored.
    pub(crate) dtype: KvDType,
    /// Values in a head.
    pub(crate) head_dim: usize,
    /// `head_dim`, rounded up to whole vectors: the stride of value rows, in elements.
    pub(crate) width: usize,
    /// Scales of one key or value.
    pub(crate) groups: usize,
    /// Start of the keys' scales.
    pub(crate) key_scales: usize,
    /// Start of the values.
    pub(crate) values: usize,
    /// Start of the values' scales.
    pub(crate) value_scales: usize,
    /// Size of the block: whole cache lines.
    pub(crate) bytes: usize,
}

impl HeadLayout {
    /// Where value `d` of the key of `token` lies, in elements.
    pub(crate) fn key_at(&self, token: usize, d: usize) -> usize {
        match self.dtype {
            KvDType::F32 | KvDType::Q8_0 => d * PAGE_TOKENS + token,
            KvDType::BF16 => 2 * (d / 2 * PAGE_TOKENS + token) + d % 2,
        }
    }

    /// Where value `d` of `token` lies, in elements from the start of the values.
    pub(crate) fn value_at(&self, token: usize, d: usize) -> usize {
        match self.dtype {
            KvDType::F32 | KvDType::Q8_0 => token * self.width + d,
            KvDType::BF16 => 2 * (token / 2 * self.width + d) + token % 2,
        }
    }

    /// Bytes of one element of keys and values.
    pub(crate) fn element(&self) -> usize {
        match self.dtype {
            KvDType::F32 => 4,
            KvDType::BF16 => 2,
            KvDType::Q8_0 => 1,
        }
    }

    /// Bytes from the start of the values in which the first `tokens` tokens have theirs.
    pub(crate) fn value_bytes(&self, tokens: usize) -> usize {
        tokens.next_multiple_of(2) * self.width * self.element()
    }

    pub(crate) fn new(dtype: KvDType, head_dim: usize) -> HeadLayout {
        let (element, groups) = match dtype {
            KvDType::F32 => (4, 0),
            KvDType::BF16 => (2, 0),
            KvDType::Q8_0 => (1, head_dim.div_ceil(SCALE_GROUP)),
        };
        let width = head_dim.next_multiple_of(LANES);
        let key_scales = head_dim.next_multiple_of(2) * PAGE_TOKENS * element;
        let values = key_scales + 2 * groups * PAGE_TOKENS;
        let value_scales = values + PAGE_TOKENS * width * element;
        let bytes = (value_scales + 2 * groups * PAGE_TOKENS).next_multiple_of(CACHE_LINE);
        HeadLayout { dtype, head_dim, width, groups, key_scales, values, value_scales, bytes }
    }
}

/// A pool of pages of keys and values. The operations of a step read and write it through
/// views.
#[derive(Debug)]
pub struct CpuCache {
    layout: CacheLayout,
    head: HeadLayout,
    /// Shared with the lists that name them, and never with another thread's backend.
    groups: Vec<Rc<AlignedBytes>>,
}

impl CpuCache {
    /// Zeroed pages; the system grants the memory as they are written, or before (`Backend::grant_pages`).
    pub(crate) fn new(layout: &CacheLayout) -> Result<CpuCache, CpuError> {
        let head = HeadLayout::new(layout.dtype, layout.head_dim);
        let groups = layout.groups.iter().map(|group| {
            let blocks = group.layers.checked_mul(group.pages).and_then(|n| n.checked_mul(layout.kv_heads));
            let bytes = blocks.and_then(|n| n.checked_mul(head.bytes));
            AlignedBytes::zeroed(bytes.ok_or(CpuError::OutOfMemory { bytes: usize::MAX })?).map(Rc::new)
        });
        Ok(CpuCache { layout: layout.clone(), head, groups: groups.collect::<Result<_, _>>()? })
    }

    /// The memory of a group, for a list to keep.
    pub(crate) fn memory(&self, group: usize) -> Rc<AlignedBytes> {
        self.groups[group].clone()
    }

    /// Bytes of a page in all layers of a group.
    fn bytes_in(&self, group: usize) -> usize {
        self.layout.groups[group].layers * self.layout.kv_heads * self.head.bytes
    }

    /// Where a page's bytes lie in a group's memory.
    fn page(&self, group: usize, page: u32) -> Range<usize> {
        let (pages, bytes) = (self.layout.groups[group].pages, self.bytes_in(group));
        let page = page as usize;
        assert!(page < pages, "page {page} of a pool of {pages}");
        page * bytes..(page + 1) * bytes
    }

    /// Bytes of a page in all layers of all groups.
    pub(crate) fn page_len(&self) -> usize {
        (0..self.groups.len()).map(|group| self.bytes_in(group)).sum()
    }

    /// The memory of every group, and where in it a page lies.
    pub(crate) fn pieces(&self, page: u32) -> impl Iterator<Item = (&AlignedBytes, Range<usize>)> {
        self.groups.iter().enumerate().map(move |(group, memory)| (&**memory, self.page(group, page)))
    }

    /// Appends a page's bytes, in all layers of all groups. No list that names the cache runs meanwhile: lists run
    /// in `submit` alone, on this thread.
    pub(crate) fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        for (index, memory) in self.groups.iter().enumerate() {
            out.extend_from_slice(&memory.as_slice()[self.page(index, page)]);
        }
    }

    /// Replaces a page's bytes by what [`Self::read_page`] gave; under the same condition.
    pub(crate) fn write_page(&self, page: u32, mut bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_len(), "the bytes of a page");
        for (index, memory) in self.groups.iter().enumerate() {
            let range = self.page(index, page);
            let (group, rest) = bytes.split_at(range.len());
            assert!(range.end <= memory.as_slice().len(), "the page lies in its group's memory");
            // SAFETY: the range lies inside the memory, as just checked; `bytes` is other memory. Nobody reads or
            // writes it now: the cache and what views it stay on this thread, and no list is running.
            unsafe { memory.start().add(range.start).copy_from_nonoverlapping(group.as_ptr(), group.len()) };
            bytes = rest;
        }
    }

    /// One layer's pages.
    ///
    /// # Panics
    /// When there is no such layer, or its heads are not the attention's.
    pub(crate) fn view(&self, group: usize, layer: usize, shape: &AttentionShape) -> CacheView {
        let heads = (self.layout.kv_heads, self.layout.head_dim);
        assert_eq!(heads, (shape.kv_heads, shape.head_dim), "the cache is for other heads");
        let CacheGroup { layers, pages } = self.layout.groups[group];
        assert!(layer < layers, "there is no layer {layer} in the cache's group");
        let layer_bytes = self.layout.kv_heads * self.head.bytes;
        let start = self.groups[group].start().wrapping_add(layer * layer_bytes);
        CacheView { start, pages, layer_bytes, page_bytes: self.bytes_in(group), head: self.head, group }
    }
}

/// One layer's pages, as operations see them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheView {
    /// The layer in the first page.
    start: *mut u8,
    pages: usize,
    /// Bytes of a page in this layer.
    layer_bytes: usize,
    /// Bytes from one page to the next.
    page_bytes: usize,
    /// The layout of one head's block.
    pub(crate) head: HeadLayout,
    /// The layer group, by which spans keep their block tables.
    pub(crate) group: usize,
}

// SAFETY: a view is an address; who reads or writes through it says why that is sound.
unsafe impl Send for CacheView {}
// SAFETY: as above.
unsafe impl Sync for CacheView {}

impl CacheView {
    /// The layer in the first page, which stands for all pages where an operation says what it touches.
    pub(crate) fn place(&self) -> Matrix {
        Matrix { start: self.start.cast(), rows: 1, columns: self.layer_bytes / size_of::<f32>() }
    }

    /// The block of one head in the page that holds `position` of the span's sequence.
    ///
    /// # Panics
    /// When the span has no such page.
    pub(crate) fn block(&self, span: &Span, position: usize, kv_head: usize) -> *mut u8 {
        let page = span.pages[self.group][position / PAGE_TOKENS] as usize;
        assert!(page < self.pages, "page {page} of a pool of {}", self.pages);
        self.start.wrapping_add(page * self.page_bytes + kv_head * self.head.bytes)
    }
}
