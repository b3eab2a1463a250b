//! Attention of all query heads over what is stored.
//!
//! The context is cut into segments at fixed positions; each is attended to by itself, and the
//! results are merged in order. A step with work for all threads does both in one operation; one
//! with few rows deals the segments out to the threads, and [`Merge`] follows. The bits are the same.

use super::Worker;
use super::claims::Claims;
use super::linear::Prepared;
use crate::backend::arena::Matrix;
use crate::backend::cache::CacheView;
use crate::backend::fences::{Access, Sharing};
use crate::isa::Kernel;
use crate::kernels::attention::{Ahead, Block, MAX_LANES, Running, attend_page};
#[cfg(target_arch = "x86_64")]
use crate::kernels::attention_tiles::{attend_page_tiled, configure, tiles_fit};
use crate::kernels::stored::{Brain, Scaled, Single, Stored, Widened};
use crate::kernels::{ActivationBlock, quantise};
use crate::memory::CACHE_LINE;
use crate::pack::layout::BLOCK;
#[cfg(target_arch = "x86_64")]
use crate::simd::tiles::Tiles;
use crate::simd::{LANES, Simd};
use alti_tensor::{AttentionShape, KvDType, PAGE_TOKENS, RowPlan};
use std::marker::PhantomData;
use std::ops::Range;

/// Rows that one unit of work takes, with all query heads of a key/value head.
const ROW_BLOCK: usize = 16;

/// Tokens of a segment: whole pages.
const SEGMENT: usize = 4 * PAGE_TOKENS;

/// What attention reads and writes.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) query: Matrix,
    pub(crate) out: Matrix,
    /// The output's rows prepared for the projection that follows, if that wants them as 8-bit blocks.
    pub(crate) prepared: Option<Prepared>,
    pub(crate) cache: CacheView,
    pub(crate) shape: AttentionShape,
    pub(crate) rows: RowPlan,
    /// Whether nothing before the step is stored: rows see their own span alone.
    pub(crate) fresh: bool,
}

/// Attends, or leaves a part for each segment.
#[derive(Debug)]
pub(crate) struct Attend {
    pub(crate) attention: Attention,
    /// `[threads, scratch_len]`.
    pub(crate) scratch: Matrix,
    /// `[rows * heads * parts, part_len]`, where segments are dealt out.
    pub(crate) parts: Option<Matrix>,
    /// In a prefill, threads take units as they get to them.
    pub(crate) claims: Option<Claims>,
}

/// Merges the parts that [`Attend`] left.
#[derive(Debug)]
pub(crate) struct Merge {
    pub(crate) attention: Attention,
    pub(crate) parts: Matrix,
}

/// Floats of working memory that a thread needs, for heads of `width` values in whole vectors: a
/// query, a segment's mixture and the whole mixture of each lane.
pub(crate) fn scratch_len(width: usize) -> usize {
    3 * MAX_LANES * width
}

/// Floats of a part: the maximum in a vector of its own, and what [`Running::save`] writes.
pub(crate) fn part_len(width: usize) -> usize {
    LANES + Running::SAVED + width
}

/// Rows of one span that go together with one key/value head.
#[derive(Clone, Debug)]
struct Unit {
    span: usize,
    rows: Range<usize>,
    kv_head: usize,
}

impl Attention {
    /// What a result is written to.
    fn writes(&self, list: &mut Vec<Access>) {
        list.push(Access::write(self.out, Sharing::Any));
        list.extend(self.prepared.map(|prepared| Access::write(prepared.memory, Sharing::Any)));
    }

    /// The segments that any row sees something of.
    pub(crate) fn segments(&self) -> Range<usize> {
        let visible = (0..self.rows.len()).map(|row| self.visible(row));
        let first = visible.clone().map(|visible| visible.0).min().unwrap_or(0);
        let last = visible.map(|visible| visible.1).max().unwrap_or(0);
        first / SEGMENT..last / SEGMENT + 1
    }

    /// Parts that are set aside for each lane: a power of two, so that a context that grows does not
    /// ask for other memory at every segment.
    pub(crate) fn parts(&self) -> usize {
        self.segments().len().next_power_of_two()
    }

    /// Where a lane's part of a segment is.
    fn part(&self, lane: usize, segment: usize) -> usize {
        lane * self.parts() + segment - self.segments().start
    }

    /// Whether `threads` threads have too little to do unless segments are dealt out: single rows,
    /// as decoding has them. A prefill has blocks enough.
    pub(crate) fn wants_parts(&self, threads: usize) -> bool {
        let blocks: usize = self.rows.spans().iter().map(|span| span.rows.div_ceil(ROW_BLOCK)).sum();
        let units = blocks * self.shape.kv_heads;
        let single = self.rows.len() == self.rows.spans().len();
        single && self.segments().len() > 1 && units < 4 * threads && !units.is_multiple_of(threads)
    }

    /// What units are taken from, where rows go together: single rows are dealt out, so that it is known which keys a
    /// thread reads next.
    pub(crate) fn claims(&self, threads: usize) -> Option<Claims> {
        let single = self.rows.len() == self.rows.spans().len();
        (!single && threads > 1).then(|| Claims::new(threads))
    }

    /// Calls `each` with every unit of work, in one order on all threads.
    fn for_units(&self, mut each: impl FnMut(Unit)) {
        let mut first = 0;
        for (index, span) in self.rows.spans().iter().enumerate() {
            for start in (first..first + span.rows).step_by(ROW_BLOCK) {
                let rows = start..(first + span.rows).min(start + ROW_BLOCK);
                (0..self.shape.kv_heads)
                    .for_each(|kv_head| each(Unit { span: index, rows: rows.clone(), kv_head }));
            }
            first += span.rows;
        }
    }

    /// The block of a page of a unit's sequence and key/value head.
    fn block(&self, unit: &Unit, page: usize) -> Block {
        let start = self.cache.block(&self.rows.spans()[unit.span], page * PAGE_TOKENS, unit.kv_head);
        Block { start, head: self.cache.head }
    }

    /// What a unit of one row reads of a page.
    fn ahead(&self, unit: &Unit, page: usize) -> Ahead {
        let position = self.rows.rows()[unit.rows.start].position;
        Ahead::block(self.block(unit, page), position + 1 - page * PAGE_TOKENS)
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// The first and the last position that a row sees.
    fn visible(&self, row: usize) -> (usize, usize) {
        let row = self.rows.rows()[row];
        let earliest = if self.fresh { self.rows.spans()[row.span].first_position } else { 0 };
        (self.shape.first_visible(row.position).max(earliest), row.position)
    }

    /// Writes a lane's result, and its blocks where the rows are prepared.
    ///
    /// # Safety
    /// This head of this row is the caller's alone, and nobody reads it before a barrier.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, (row, head): (usize, usize), whole: &Running<'_>) {
        // SAFETY: the caller's promise.
        let out = unsafe { self.out.columns_mut(row, self.columns(head)) };
        whole.finish(simd, out);
        let Some(prepared) = &self.prepared else { return };
        let (values, _) = out.as_chunks::<BLOCK>();
        let floats = values.len() * size_of::<ActivationBlock>() / size_of::<f32>();
        // SAFETY: the caller's promise, of the head's own blocks: prepared heads are whole blocks.
        let blocks = unsafe { prepared.memory.columns_mut(row, head * floats..(head + 1) * floats) };
        for (values, block) in values.iter().zip(bytemuck::cast_slice_mut(blocks)) {
            quantise(simd, values, block);
        }
    }

    /// A head's columns of queries and outputs.
    fn columns(&self, head: usize) -> Range<usize> {
        head * self.shape.head_dim..(head + 1) * self.shape.head_dim
    }
}

impl Attend {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        let attention = &self.attention;
        list.extend(
            [attention.query, attention.cache.place()].map(|matrix| Access::read(matrix, Sharing::Any)),
        );
        match self.parts {
            Some(parts) => list.push(Access::write(parts, Sharing::Any)),
            None => attention.writes(list),
        }
        list.push(Access::write(self.scratch, Sharing::Own));
    }

    pub(crate) fn run(&self, worker: &Worker) {
        match self.attention.cache.head.dtype {
            KvDType::F32 => self.run_stored::<Widened<Single>>(worker),
            KvDType::BF16 => self.run_stored::<Brain>(worker),
            KvDType::Q8_0 => self.run_stored::<Widened<Scaled>>(worker),
        }
    }

    /// Whether tile registers do it.
    #[cfg(target_arch = "x86_64")]
    fn tiled(&self, worker: &Worker) -> bool {
        worker.isa.tiles().is_some() && tiles_fit(&self.attention.cache.head)
    }

    fn run_stored<K: Stored>(&self, worker: &Worker) {
        // SAFETY: each thread has a row of its own.
        let mut scratch =
            Scratch::new(unsafe { self.scratch.row_mut(worker.index) }, self.attention.cache.head.width);
        if let Some(claims) = &self.claims {
            let mut units = Vec::new();
            self.attention.for_units(|unit| units.push(unit));
            // Later rows see more: the longest first.
            while let Some(index) = claims.next(units.len()) {
                let unit = units[units.len() - 1 - index].clone();
                self.run_unit::<K>(worker, (unit, 0), &mut scratch, Ahead::NOTHING);
            }
            return;
        }
        let segments = if self.parts.is_some() { self.attention.segments() } else { 0..1 };
        // Later rows see more: dealing the work out in turn gives every thread of each.
        let mut turn = 0;
        // A unit runs when it is known what the thread reads after it.
        let mut waiting: Option<(Unit, usize)> = None;
        self.attention.for_units(|unit| {
            for segment in segments.clone() {
                if turn % worker.count == worker.index {
                    let next = self.first_block(&unit, segment);
                    if let Some(before) = waiting.replace((unit.clone(), segment)) {
                        self.run_unit::<K>(worker, before, &mut scratch, next);
                    }
                }
                turn += 1;
            }
        });
        if let Some(last) = waiting {
            self.run_unit::<K>(worker, last, &mut scratch, Ahead::NOTHING);
        }
    }

    /// Runs a unit, or its part of a segment where segments are dealt out; the thread reads `next` after it.
    fn run_unit<K: Stored>(
        &self,
        worker: &Worker,
        (unit, segment): (Unit, usize),
        scratch: &mut Scratch<'_>,
        next: Ahead,
    ) {
        let only = self.parts.map(|parts| (parts, segment));
        let task = AttendUnit::<K> { attend: self, unit, only, scratch, next, stored: PhantomData };
        #[cfg(target_arch = "x86_64")]
        if self.tiled(worker) {
            worker.isa.run_tiled(|tiles| TiledUnit { tiles, task: task.stored_as::<Brain>() });
            return;
        }
        worker.isa.run(task);
    }

    /// The block that a unit, or its part of a segment, begins with, where that is worth asking for: a single row reads
    /// its keys and values once, from memory; those of a prefill are in a cache already.
    fn first_block(&self, unit: &Unit, segment: usize) -> Ahead {
        if unit.rows.len() != 1 {
            return Ahead::NOTHING;
        }
        let (first, last) = self.attention.visible(unit.rows.start);
        let first = if self.parts.is_some() { first.max(segment * SEGMENT) } else { first };
        if first > last {
            return Ahead::NOTHING;
        }
        self.attention.ahead(unit, first / PAGE_TOKENS)
    }
}

/// What a thread needs to attend with some lanes.
struct Scratch<'a> {
    queries: [&'a mut [f32]; MAX_LANES],
    segment: [Running<'a>; MAX_LANES],
    whole: [Running<'a>; MAX_LANES],
}

impl<'a> Scratch<'a> {
    fn new(memory: &'a mut [f32], width: usize) -> Scratch<'a> {
        let mut parts = memory.chunks_exact_mut(width);
        let mut part = || parts.next().expect("the scratch has `scratch_len` floats");
        Scratch {
            queries: std::array::from_fn(|_| part()),
            segment: std::array::from_fn(|_| Running::new(part())),
            whole: std::array::from_fn(|_| Running::new(part())),
        }
    }
}

/// One unit of work: all segments, or one whose results become parts.
struct AttendUnit<'a, 'b, K> {
    attend: &'a Attend,
    unit: Unit,
    only: Option<(Matrix, usize)>,
    scratch: &'a mut Scratch<'b>,
    /// What the thread reads after the unit.
    next: Ahead,
    stored: PhantomData<K>,
}

impl<K: Stored> Kernel for AttendUnit<'_, '_, K> {
    type Output = ();

    /// Lane `i` of a unit is query head `i % group` of row `i / group`.
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let lanes = self.unit.rows.len() * self.attend.attention.group();
        let mut first = 0;
        // Widths that the machine has no registers for are not even compiled.
        macro_rules! widths {
            ($($count:literal)*) => {
                $(if const { $count <= S::ATTENTION_LANES } {
                    while lanes - first >= $count {
                        self.lanes::<S, $count>(simd, first);
                        first += $count;
                    }
                })*
            };
        }
        widths!(6 4 3 2 1);
    }
}

#[cfg(target_arch = "x86_64")] // for tile registers
impl<'a, 'b, K> AttendUnit<'a, 'b, K> {
    /// The same unit, of pages that are stored so.
    fn stored_as<L>(self) -> AttendUnit<'a, 'b, L> {
        let AttendUnit { attend, unit, only, scratch, next, .. } = self;
        AttendUnit { attend, unit, only, scratch, next, stored: PhantomData }
    }
}

impl<K: Stored> AttendUnit<'_, '_, K> {
    /// Row and query head of a lane.
    fn lane(&self, lane: usize) -> (usize, usize) {
        let group = self.attend.attention.group();
        (self.unit.rows.start + lane / group, self.unit.kv_head * group + lane % group)
    }

    /// `R` lanes from `first` on.
    #[inline(always)]
    fn lanes<S: Simd, const R: usize>(&mut self, simd: S, first: usize) {
        let (visible, whole) = self.begin(simd, first, R);
        for segment in self.segments(&whole) {
            let positions = whole.start.max(segment * SEGMENT)..whole.end.min((segment + 1) * SEGMENT);
            self.scratch.segment[..R].iter_mut().for_each(Running::reset);
            for page in pages(&positions) {
                let seen: [Range<usize>; R] = std::array::from_fn(|r| seen(visible[r], page));
                let block = self.attend.attention.block(&self.unit, page);
                let ahead = self.ahead(page, &positions, &whole);
                let queries = std::array::from_fn(|r| self.scratch.queries[r].as_ptr());
                let mut running = self.scratch.segment.iter_mut();
                let running: [&mut Running<'_>; R] =
                    std::array::from_fn(|_| running.next().expect("as many as the most lanes"));
                // SAFETY: the rows' sequence has stored every token up to the rows' positions.
                unsafe { attend_page::<S, K, R>(simd, block, queries, seen, running, ahead) };
            }
            self.end_segment(simd, first, &visible[..R], segment);
        }
        self.end(simd, first, R);
    }

    /// Makes `count` lanes' queries ready; what each sees, and what they see together.
    #[inline(always)]
    fn begin<S: Simd>(
        &mut self,
        simd: S,
        first: usize,
        count: usize,
    ) -> ([(usize, usize); MAX_LANES], Range<usize>) {
        let attention = &self.attend.attention;
        let mut visible = [(0, 0); MAX_LANES];
        let (mut start, mut end) = (usize::MAX, 0);
        for (r, visible) in visible.iter_mut().enumerate().take(count) {
            let (row, head) = self.lane(first + r);
            *visible = attention.visible(row);
            (start, end) = (start.min(visible.0), end.max(visible.1 + 1));
            // SAFETY: the operation that wrote the queries is behind a barrier.
            let query = unsafe { attention.query.columns(row, attention.columns(head)) };
            K::query(simd, query, attention.shape.scale * std::f32::consts::LOG2_E, self.scratch.queries[r]);
        }
        // Another thread may have written the next ones: they take a while to come.
        for lane in first + count..(first + 2 * count).min(self.unit.rows.len() * attention.group()) {
            let (row, head) = self.lane(lane);
            // SAFETY: as above.
            let query = unsafe { attention.query.columns(row, attention.columns(head)) };
            for line in query.chunks(CACHE_LINE / size_of::<f32>()) {
                simd.prefetch(line.as_ptr().cast());
            }
        }
        (visible, start..end)
    }

    /// The segments that lanes which see these positions go through.
    fn segments(&self, positions: &Range<usize>) -> Range<usize> {
        match self.only {
            Some((_, segment)) => segment..segment + 1,
            None => positions.start / SEGMENT..positions.end.div_ceil(SEGMENT),
        }
    }

    /// What is read after this page, of these positions of a segment of these in all.
    #[inline(always)]
    fn ahead(&self, page: usize, positions: &Range<usize>, whole: &Range<usize>) -> Ahead {
        let end = if self.only.is_some() { positions.end } else { whole.end };
        match (page + 1) * PAGE_TOKENS < end {
            true if self.unit.rows.len() == 1 => self.attend.attention.ahead(&self.unit, page + 1),
            true => Ahead::NOTHING,
            false => self.next,
        }
    }

    /// Merges what lanes saw of a segment, or writes it down. A lane that sees nothing of it goes
    /// without, as it does where it is alone.
    #[inline(always)]
    fn end_segment<S: Simd>(&mut self, simd: S, first: usize, visible: &[(usize, usize)], segment: usize) {
        let attention = &self.attend.attention;
        for (r, &(start, end)) in visible.iter().enumerate() {
            if !(start / SEGMENT..=end / SEGMENT).contains(&segment) {
                continue;
            }
            match self.only {
                None if segment == start / SEGMENT => {
                    self.scratch.whole[r].copy_from(&self.scratch.segment[r])
                }
                None => self.scratch.whole[r].merge(simd, &self.scratch.segment[r]),
                Some((parts, _)) => {
                    let (row, head) = self.lane(first + r);
                    let lane = row * attention.shape.heads + head;
                    // SAFETY: this part is this unit's alone.
                    let part = unsafe { parts.row_mut(attention.part(lane, segment)) };
                    let (maximum, rest) = part.split_at_mut(LANES);
                    self.scratch.segment[r].save(&mut maximum[0], rest);
                }
            }
        }
    }

    /// Writes lanes' results, where they are whole.
    #[inline(always)]
    fn end<S: Simd>(&mut self, simd: S, first: usize, count: usize) {
        let attention = &self.attend.attention;
        for r in (0..count).filter(|_| self.only.is_none()) {
            // SAFETY: this head of this row is this unit's alone, and nobody reads before a barrier.
            unsafe { attention.finish(simd, self.lane(first + r), &self.scratch.whole[r]) };
        }
    }
}

/// Pages of these positions.
fn pages(positions: &Range<usize>) -> Range<usize> {
    match positions.is_empty() {
        true => 0..0,
        false => positions.start / PAGE_TOKENS..positions.end.div_ceil(PAGE_TOKENS),
    }
}

/// The tokens of a page that are among the first and last visible position and between them.
fn seen((first, last): (usize, usize), page: usize) -> Range<usize> {
    let start = page * PAGE_TOKENS;
    let from = first.max(start) - start;
    let to = (last + 1).min(start + PAGE_TOKENS).saturating_sub(start);
    if from < to { from..to } else { 0..0 }
}

/// A unit whose lanes go through tile registers.
#[cfg(target_arch = "x86_64")]
struct TiledUnit<'a, 'b> {
    tiles: Tiles,
    task: AttendUnit<'a, 'b, Brain>,
}

#[cfg(target_arch = "x86_64")]
impl Kernel for TiledUnit<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { tiles, mut task } = self;
        let lanes = task.unit.rows.len() * task.attend.attention.group();
        let mut first = 0;
        while first < lanes {
            let count = MAX_LANES.min(lanes - first);
            let _configured = configure(tiles, count);
            let (visible, whole) = task.begin(simd, first, count);
            for segment in task.segments(&whole) {
                let positions = whole.start.max(segment * SEGMENT)..whole.end.min((segment + 1) * SEGMENT);
                task.scratch.segment[..count].iter_mut().for_each(Running::reset);
                for page in pages(&positions) {
                    let mut tokens = [const { 0..0 }; MAX_LANES];
                    for r in 0..count {
                        tokens[r] = seen(visible[r], page);
                    }
                    let block = task.attend.attention.block(&task.unit, page);
                    let ahead = task.ahead(page, &positions, &whole);
                    let queries = task.scratch.queries[0].as_ptr();
                    let running = &mut task.scratch.segment[..count];
                    let mixtures = running[0].mixture();
                    // SAFETY: the rows' sequence has stored every token up to the rows' positions;
                    // the scratch has queries side by side, and so mixtures.
                    unsafe {
                        attend_page_tiled(simd, block, queries, &tokens[..count], running, mixtures, ahead)
                    };
                }
                task.end_segment(simd, first, &visible[..count], segment);
            }
            task.end(simd, first, count);
            first += count;
        }
    }
}

impl Merge {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        list.push(Access::write(self.parts, Sharing::Any));
        self.attention.writes(list);
    }

    pub(crate) fn run(&self, worker: &Worker) {
        for lane in worker.share(self.attention.rows.len() * self.attention.shape.heads) {
            worker.isa.run(MergeLane { merge: self, lane });
        }
    }
}

struct MergeLane<'a> {
    merge: &'a Merge,
    lane: usize,
}

impl Kernel for MergeLane<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Merge { attention, parts } = self.merge;
        let (row, head) = (self.lane / attention.shape.heads, self.lane % attention.shape.heads);
        let (first, last) = attention.visible(row);
        let part = |segment: usize| {
            // SAFETY: these parts are one lane's, and a lane is one thread's, which may use the first
            // as its memory; they were written behind a barrier.
            let part = unsafe { parts.row_mut(attention.part(self.lane, segment)) };
            let (maximum, rest) = part.split_at_mut(LANES);
            Running::restore(maximum[0], rest)
        };
        let mut whole = part(first / SEGMENT);
        for segment in first / SEGMENT + 1..=last / SEGMENT {
            whole.merge(simd, &part(segment));
        }
        // SAFETY: this head of this row is this thread's alone, and nobody reads before a barrier.
        unsafe { attention.finish(simd, (row, head), &whole) };
    }
}
