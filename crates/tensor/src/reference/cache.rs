//! Paged keys and values of the reference: values are kept as `T`, rounded as their dtype would.

use super::{Array, Real};
use crate::backend::PAGE_TOKENS;
use crate::plan::Span;
use crate::{BackendError, CacheLayout, DType, KvDType, RowPlan, quant};
use std::ops::Range;
use std::sync::Mutex;

/// Keys and values by `[group][layer, page, token, kv_head, head_dim]`.
#[derive(Debug)]
pub struct ReferenceCache<T> {
    layout: CacheLayout,
    groups: Vec<Mutex<Group<T>>>,
}

#[derive(Debug)]
struct Group<T> {
    keys: Vec<T>,
    values: Vec<T>,
}

impl<T: Real> ReferenceCache<T> {
    pub(super) fn new(layout: CacheLayout) -> Self {
        let row = layout.kv_heads * layout.head_dim;
        let group = |layers: usize, pages: usize| {
            // NaN, so that a read of what was never written shows.
            let empty = vec![T::nan(); layers * pages * PAGE_TOKENS * row];
            Mutex::new(Group { keys: empty.clone(), values: empty })
        };
        let groups = layout.groups.iter().map(|g| group(g.layers, g.pages)).collect();
        ReferenceCache { layout, groups }
    }

    /// Where row `position` of a sequence with these pages begins.
    fn offset(&self, group: usize, layer: usize, span: &Span, position: usize) -> usize {
        let pages = self.layout.groups[group].pages;
        let page = span.pages[group][position / PAGE_TOKENS] as usize;
        assert!(page < pages, "page {page} of a pool of {pages}");
        let row = (layer * pages + page) * PAGE_TOKENS + position % PAGE_TOKENS;
        row * self.layout.kv_heads * self.layout.head_dim
    }

    /// Stores the rows' keys and values.
    pub(super) fn store(
        &self,
        group: usize,
        layer: usize,
        rows: &RowPlan,
        keys: &Array<T>,
        values: &Array<T>,
    ) {
        let mut pool = self.groups[group].lock().expect("no panic while the lock is held");
        let Group { keys: stored_keys, values: stored_values } = &mut *pool;
        for (r, row) in rows.rows().iter().enumerate() {
            let at = self.offset(group, layer, &rows.spans()[row.span], row.position);
            for (pool, row) in [(&mut *stored_keys, keys.row(r)), (&mut *stored_values, values.row(r))] {
                let stored = &mut pool[at..][..row.len()];
                stored.copy_from_slice(row);
                stored.chunks_exact_mut(self.layout.head_dim).for_each(|head| self.round(head));
            }
        }
    }

    /// The sequence's first `length` keys and values, `[length, kv_heads * head_dim]` each.
    pub(super) fn read(&self, group: usize, layer: usize, span: &Span, length: usize) -> (Vec<T>, Vec<T>) {
        let pool = self.groups[group].lock().expect("no panic while the lock is held");
        let columns = self.layout.kv_heads * self.layout.head_dim;
        let gather = |pool: &[T]| {
            let rows = (0..length).map(|position| self.offset(group, layer, span, position));
            rows.flat_map(|at| &pool[at..][..columns]).copied().collect()
        };
        (gather(&pool.keys), gather(&pool.values))
    }

    /// Where the values of a page lie in a group's pool: one range for each layer.
    fn page(&self, group: usize, page: usize) -> impl Iterator<Item = Range<usize>> {
        let shape = self.layout.groups[group];
        assert!(page < shape.pages, "page {page} of a pool of {}", shape.pages);
        let values = PAGE_TOKENS * self.layout.kv_heads * self.layout.head_dim;
        (0..shape.layers)
            .map(move |layer| layer * shape.pages + page)
            .map(move |at| at * values..(at + 1) * values)
    }

    /// Appends a page's keys and values, as `f64`.
    pub(super) fn read_page(&self, page: usize, out: &mut Vec<u8>) {
        for (index, group) in self.groups.iter().enumerate() {
            let pool = group.lock().expect("no panic while the lock is held");
            for range in self.page(index, page) {
                let values = pool.keys[range.clone()].iter().chain(&pool.values[range]);
                out.extend(values.flat_map(|&value| Into::<f64>::into(value).to_le_bytes()));
            }
        }
    }

    /// Takes what [`Self::read_page`] gave.
    pub(super) fn write_page(&self, page: usize, bytes: &[u8]) -> Result<(), BackendError> {
        let lengths =
            (0..self.groups.len()).flat_map(|group| self.page(group, page)).map(|range| range.len());
        let expected = lengths.sum::<usize>() * 2 * size_of::<f64>();
        BackendError::check_page(bytes.len(), expected)?;
        let mut values = bytes.chunks_exact(size_of::<f64>()).map(|bytes| {
            T::from_f64(f64::from_le_bytes(bytes.try_into().expect("a chunk is as long as a value")))
        });
        for (index, group) in self.groups.iter().enumerate() {
            let mut pool = group.lock().expect("no panic while the lock is held");
            let Group { keys, values: stored } = &mut *pool;
            for range in self.page(index, page) {
                let places = keys[range.clone()].iter_mut().chain(&mut stored[range]);
                places.zip(&mut values).for_each(|(place, value)| *place = value);
            }
        }
        Ok(())
    }

    /// Rounds one head as storing and reading it would.
    fn round(&self, head: &mut [T]) {
        let dtype = match self.layout.dtype {
            KvDType::F32 => return,
            KvDType::BF16 => DType::BF16,
            KvDType::Q8_0 => DType::Q8_0,
        };
        let mut values: Vec<f32> = head.iter().map(|&x| Into::<f64>::into(x) as f32).collect();
        values.resize(head.len().next_multiple_of(dtype.block_len()), 0.0);
        let mut bytes = vec![0; dtype.bytes_for(values.len()).expect("whole blocks")];
        let stored = quant::quantize(dtype, &values, None, &mut bytes)
            .and_then(|()| quant::dequantize(dtype, &bytes, &mut values));
        // What cannot be stored (NaN, infinity) reads back as NaN.
        let read = |value: f32| if stored.is_ok() { value.into() } else { T::nan() };
        head.iter_mut().zip(values).for_each(|(head, value)| *head = read(value));
    }
}
