//! Which row of a step belongs to which sequence and position, and where that sequence's keys
//! and values lie.
//!
//! A step computes one matrix of rows. Prefill of one prompt, a batch of decoding sequences and a
//! mixture of both differ only in the [`RowPlan`] that goes with the rows, so every operation that
//! could care takes one. Sequences of one step may each use an adapter of their own.

use crate::{CacheLayout, PAGE_TOKENS};
use std::ops::Range;
use std::sync::Arc;

/// Consecutive positions of one sequence, as consecutive rows of the step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Position in the sequence of the span's first row.
    pub first_position: usize,
    /// Rows in the span.
    pub rows: usize,
    /// One block table per layer group of the cache: entry `n` is the page that holds positions
    /// `n * page_tokens ..`. Empty when keys and values are not cached (training).
    pub pages: Vec<Vec<u32>>,
    /// Index of the sequence's adapter among those of the step; `None` for the model as it is.
    pub adapter: Option<usize>,
}

impl Span {
    /// Positions of a sequence that owns the pages from `first_page` on, in order, in every group of
    /// a cache of this layout: what a program with one sequence, or with equal shares of the cache,
    /// needs of paging. The block tables reach as far as the positions and no further.
    pub fn in_order(layout: &CacheLayout, first_page: usize, positions: Range<usize>) -> Span {
        let pages = positions.end.div_ceil(PAGE_TOKENS);
        let table: Vec<u32> = (first_page..first_page + pages).map(|page| page as u32).collect();
        Span {
            first_position: positions.start,
            rows: positions.len(),
            pages: vec![table; layout.groups.len()],
            adapter: None,
        }
    }

    /// The span with an adapter of the step.
    #[must_use]
    pub fn with_adapter(self, adapter: Option<usize>) -> Span {
        Span { adapter, ..self }
    }
}

/// Where one row of a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index of the row's span in [`RowPlan::spans`].
    pub span: usize,
    /// Position in the span's sequence, from 0.
    pub position: usize,
}

/// The rows of one step. Cheap to clone: operations keep it until they run.
#[derive(Clone, Debug)]
pub struct RowPlan {
    spans: Arc<[Span]>,
    rows: Arc<[Row]>,
}

impl RowPlan {
    /// A plan whose rows are the spans' rows, in order.
    pub fn new(spans: Vec<Span>) -> RowPlan {
        let rows = spans
            .iter()
            .enumerate()
            .flat_map(|(span, s)| (0..s.rows).map(move |row| Row { span, position: s.first_position + row }))
            .collect();
        RowPlan { spans: spans.into(), rows }
    }

    /// Fresh sequences of the given lengths, each from position 0, with nothing cached.
    pub fn fresh(lengths: &[usize]) -> RowPlan {
        Self::new(lengths.iter().map(|&rows| Span { rows, ..Span::default() }).collect())
    }

    /// The spans, in row order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The rows, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the step has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The adapter of a row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn adapter(&self, row: usize) -> Option<usize> {
        self.spans[self.rows[row].span].adapter
    }

    /// The plan of a tensor that holds only the given rows of this one's.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn select(&self, rows: &[usize]) -> RowPlan {
        RowPlan { spans: self.spans.clone(), rows: rows.iter().map(|&row| self.rows[row]).collect() }
    }
}
