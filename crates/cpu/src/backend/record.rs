//! [`Cpu`]: model code's calls become operations of a list.
//!
//! The recorder decides what operations cannot know by themselves: where a result lies, whether the
//! threads must wait before an operation begins, and whether it also leaves its result as the next
//! product probably wants it ([`Ready`]).

use super::arena::{Arena, Matrix, Tensor};
use super::cache::CpuCache;
use super::fences::{Access, Fences};
use super::ops::Op;
use super::ops::attention::{Attend, Attention, Merge, part_len, scratch_len};
use super::ops::experts::{Combine, ExpertMatmul, Route, Routes};
use super::ops::gather::{CrossEntropy, Gather, Source};
use super::ops::linear::{Matmul, Norm, Prepare, Prepared, Then, prepared_width};
use super::ops::low_rank::{Down, Run, Up};
use super::ops::rows::RowOp;
use super::ops::store::Store;
use super::weight::CpuWeight;
use crate::kernels::ActivationKind;
use crate::pack::PackedMatrix;
use crate::pack::layout::BLOCK;
use crate::pool::{PoolOptions, Region};
use crate::{AlignedBytes, CpuError, Isa, Pool};
use alti_tensor::{
    AttentionShape, Backend, BackendError, CacheGroup, CacheLayer, CacheLayout, Experts, KvDType, LowRank,
    PAGE_TOKENS, Profile, RowPlan, Span, Updates, WeightData,
};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Up to this many values in all, every thread prepares activations for itself: that takes about as
/// long as waiting for one another once.
const PRIVATE_VALUES: usize = 4096;

/// Up to so many rows, an operation prepares its result for the product that follows as well. With more, a pass of its
/// own is quicker: blocks that are quantised one after the other overlap.
const READY_ROWS: usize = 64;

/// From so many pieces of memory for each thread on, threads have it granted together.
const FEWEST_SHARED: usize = 4;

/// The CPU as a backend.
pub struct Cpu {
    pub(super) isa: Isa,
    pub(super) pool: Pool,
    arena: Arena,
    steps: Vec<Recorded>,
    fences: Fences,
    /// Where in the list the last matrix product is.
    last_product: Option<usize>,
    /// What the last operation prepared beside its result.
    ready: Option<Ready>,
    /// What the operation being appended touches; kept to be used again.
    accesses: Vec<Access>,
    /// Pages that the list names: they must not be freed before it has run.
    pages: Vec<Rc<AlignedBytes>>,
    /// The first thing that went wrong while recording; `submit` reports it.
    failure: Option<CpuError>,
    /// Where time went, if somebody asked.
    pub(super) profile: Option<Profile>,
}

/// An operation, and whether all that came before must be done before it begins.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) fence: bool,
    pub(super) op: Op,
}

/// A result that its operation has prepared for a matrix product already, which saves a pass over it and the threads a
/// meeting.
struct Ready {
    /// How long the list is then: what comes later may change the result.
    steps: usize,
    values: Matrix,
    prepared: Prepared,
    memory: Tensor,
}

impl Cpu {
    /// A backend of `threads` threads, this one among them.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(isa: Isa, threads: usize) -> Result<Cpu, CpuError> {
        let pool = Pool::new(PoolOptions { threads, pin: true })?;
        Ok(Cpu {
            isa,
            pool,
            arena: Arena::default(),
            steps: Vec::new(),
            fences: Fences::default(),
            last_product: None,
            ready: None,
            accesses: Vec::new(),
            pages: Vec::new(),
            failure: None,
            profile: None,
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Appends an operation, behind a barrier where it needs one.
    fn append(&mut self, op: Op) {
        self.accesses.clear();
        op.accesses(&mut self.accesses);
        let fence = self.fences.needs_barrier(&self.accesses);
        self.steps.push(Recorded { fence, op });
    }

    fn tensor(&mut self, rows: usize, columns: usize) -> Tensor {
        self.arena.tensor(rows, columns).unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            // The step will fail before anything of it runs: its shape is all that matters.
            self.arena.nowhere(rows, columns)
        })
    }

    /// The tensor itself where nobody else has it, else a copy.
    fn owned(&mut self, x: Tensor) -> Tensor {
        if x.is_unique() {
            return x;
        }
        let copy = self.tensor(x.rows(), x.columns());
        self.append(Op::Rows(RowOp::Copy { from: x.view_in(&self.arena), to: copy.view_in(&self.arena) }));
        copy
    }

    /// Makes activations ready for matrices of a kind. The tensors hold the memory while operations
    /// that read it are being recorded.
    fn prepare(
        &mut self,
        x: &Tensor,
        norm: Option<(&CpuWeight, f32)>,
        kind: ActivationKind,
    ) -> (Prepared, [Option<Tensor>; 2]) {
        let (rows, columns) = (x.rows(), x.columns());
        assert!(norm.is_none_or(|(gain, _)| gain.vector().len() == columns), "a gain for each column");
        let width = prepared_width(kind, columns);
        if norm.is_none() && kind == ActivationKind::F32 {
            let memory = x.view_in(&self.arena);
            return (Prepared { memory, rows, kind, private: false }, [Some(x.clone()), None]);
        }
        if norm.is_none()
            && let Some(Ready { prepared, memory, .. }) = self.ready_for(x, kind)
        {
            return (prepared, [Some(memory), None]);
        }
        let private = rows * columns <= PRIVATE_VALUES;
        let copies = if private { self.pool.threads() } else { 1 };
        let memory = self.tensor(copies * rows, width);
        let normed = norm.map(|_| self.tensor(copies * rows, columns));
        let norm = norm.zip(normed.as_ref()).map(|((gain, epsilon), rows)| Norm {
            gain: gain.vector().clone(),
            epsilon,
            rows: rows.view_in(&self.arena),
        });
        let prepared = Prepared { memory: memory.view_in(&self.arena), rows, kind, private };
        self.append(Op::Prepare(Prepare { x: x.view_in(&self.arena), norm, out: prepared }));
        (prepared, [Some(memory), normed])
    }

    /// Room for 8-bit blocks of a result, where its rows are whole blocks and `kind` is that of the
    /// product that will probably follow.
    fn room_for_blocks(
        &mut self,
        rows: usize,
        columns: usize,
        kind: ActivationKind,
    ) -> Option<(Prepared, Tensor)> {
        if kind != ActivationKind::Int8 || !columns.is_multiple_of(BLOCK) || rows > READY_ROWS {
            return None;
        }
        let width = prepared_width(kind, columns);
        let room = self.tensor(rows, width);
        let memory = room.view_in(&self.arena);
        Some((Prepared { memory, rows, kind, private: false }, room))
    }

    /// How the last product wanted its activations, as the projections of a layer do as a rule.
    fn last_kind(&self) -> Option<ActivationKind> {
        match &self.steps.get(self.last_product?)?.op {
            Op::Matmul(product) => Some(product.x.kind),
            _ => None,
        }
    }

    /// Says that the last operation has prepared its result.
    fn is_ready(&mut self, values: Matrix, room: Option<(Prepared, Tensor)>) {
        let steps = self.steps.len();
        self.ready = room.map(|(prepared, memory)| Ready { steps, values, prepared, memory });
    }

    /// What the last operation prepared, where that is what is wanted now.
    fn ready_for(&mut self, x: &Tensor, kind: ActivationKind) -> Option<Ready> {
        let x = x.view_in(&self.arena);
        let steps = self.steps.len();
        self.ready
            .take_if(|ready| ready.steps == steps && ready.prepared.kind == kind && ready.values.is_same(x))
    }

    fn product(
        &mut self,
        x: Prepared,
        weight: &Arc<PackedMatrix>,
        then: Then,
        out: Matrix,
        prepared: Option<Prepared>,
    ) {
        assert_eq!((x.rows, weight.rows()), (out.rows, out.columns), "the result has the product's shape");
        let before = self.last_product.and_then(|index| self.steps.get_mut(index));
        if let Some(Recorded { op: Op::Matmul(before), .. }) = before {
            before.next = Some(weight.clone());
        }
        let claims = Matmul::claims(x.rows, weight.panels(), self.pool.threads());
        let product = Matmul { weight: weight.clone(), x, then, out, prepared, next: None, claims };
        self.append(Op::Matmul(product));
        self.last_product = Some(self.steps.len() - 1);
    }

    fn linear_with(&mut self, x: &Tensor, weight: &CpuWeight, then: Then, out: Matrix) {
        let weight = weight.matrix();
        assert_eq!(x.columns(), weight.columns(), "a row is as long as the matrix wants");
        let (prepared, _memory) = self.prepare(x, None, weight.activation_kind(self.isa));
        self.product(prepared, weight, then, out, None);
    }

    /// `silu(gate x) * up x` as one operation, where both have the same form.
    fn gated(&mut self, x: Prepared, gate: &Arc<PackedMatrix>, up: &Arc<PackedMatrix>) -> Tensor {
        let out = self.tensor(x.rows, gate.rows());
        let values = out.view_in(&self.arena);
        let room = self.room_for_blocks(x.rows, gate.rows(), gate.activation_kind(self.isa));
        let prepared = room.as_ref().map(|(prepared, _)| *prepared);
        self.product(x, gate, Then::SwiGlu(up.clone()), values, prepared);
        self.is_ready(values, room);
        out
    }
}

fn same_shape(x: &Tensor, y: &Tensor) {
    assert_eq!((x.rows(), x.columns()), (y.rows(), y.columns()), "the operands have one shape");
}

/// Whether a pair of matrices can go through one gated product.
fn same_form(gate: &PackedMatrix, up: &PackedMatrix) -> bool {
    gate.dtype() == up.dtype() && gate.rows() == up.rows() && gate.columns() == up.columns()
}

impl From<CpuError> for BackendError {
    fn from(error: CpuError) -> Self {
        match error {
            CpuError::OutOfMemory { bytes } => BackendError::Memory { what: "the CPU backend", bytes },
            CpuError::NotAMatrix { .. } => BackendError::Weight { what: error.to_string() },
            _ => BackendError::Step { what: error.to_string() },
        }
    }
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Weight = CpuWeight;
    type Cache = CpuCache;
    type Element = f32;

    fn load(&self, weight: WeightData<'_>) -> Result<CpuWeight, BackendError> {
        Ok(CpuWeight::new(&weight, self.pool.threads())?)
    }

    fn cache(&self, layout: &CacheLayout) -> Result<CpuCache, BackendError> {
        Ok(CpuCache::new(layout)?)
    }

    fn input(&mut self, values: &[f32], columns: usize) -> Tensor {
        let out = self.tensor(values.len() / columns, columns);
        self.append(Op::Gather(Gather {
            from: Source::Host(values.to_vec()),
            out: out.view_in(&self.arena),
        }));
        out
    }

    fn embed(&mut self, table: &CpuWeight, tokens: &[u32]) -> Tensor {
        let table = table.matrix();
        assert!(
            tokens.iter().all(|&token| (token as usize) < table.rows()),
            "every token is a row of the table"
        );
        let out = self.tensor(tokens.len(), table.columns());
        let from = Source::Table(table.clone(), tokens.to_vec());
        self.append(Op::Gather(Gather { from, out: out.view_in(&self.arena) }));
        out
    }

    fn linear(&mut self, x: &Tensor, weight: &CpuWeight, _rows: &RowPlan) -> Tensor {
        let out = self.tensor(x.rows(), weight.matrix().rows());
        self.linear_with(x, weight, Then::Store, out.view_in(&self.arena));
        out
    }

    fn rms_norm(&mut self, x: &Tensor, gain: &CpuWeight, epsilon: f32) -> Tensor {
        let out = self.tensor(x.rows(), x.columns());
        let gain = gain.vector().clone();
        assert_eq!(gain.len(), x.columns(), "a gain for each column");
        self.append(Op::Rows(RowOp::RmsNorm {
            x: x.view_in(&self.arena),
            gain,
            epsilon,
            out: out.view_in(&self.arena),
        }));
        out
    }

    fn head_norm(&mut self, x: Tensor, head_dim: usize, epsilon: f32) -> Tensor {
        assert!(head_dim > 0 && x.columns().is_multiple_of(head_dim), "a row is whole heads");
        let x = self.owned(x);
        self.append(Op::Rows(RowOp::HeadNorm { x: x.view_in(&self.arena), head_dim, epsilon }));
        x
    }

    fn rope(&mut self, x: Tensor, rotation: &Tensor) -> Tensor {
        assert_eq!(x.rows(), rotation.rows(), "a rotation for each row");
        assert!(x.columns().is_multiple_of(rotation.columns()), "a row is whole heads");
        let x = self.owned(x);
        self.append(Op::Rows(RowOp::Rope {
            x: x.view_in(&self.arena),
            rotation: rotation.view_in(&self.arena),
        }));
        x
    }

    fn scale_rows(&mut self, x: Tensor, factors: &Tensor) -> Tensor {
        assert_eq!((x.rows(), 1), (factors.rows(), factors.columns()), "a factor for each row");
        let x = self.owned(x);
        self.append(Op::Rows(RowOp::Scale {
            x: x.view_in(&self.arena),
            factors: factors.view_in(&self.arena),
        }));
        x
    }

    fn attention(
        &mut self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        shape: &AttentionShape,
        memory: Option<CacheLayer<'_, CpuCache>>,
        rows: &RowPlan,
    ) -> Tensor {
        match memory {
            Some(CacheLayer { cache, group, layer }) => {
                let place = (cache, group, layer);
                self.attend([query, key, value], shape, place, rows, false)
            }
            None => self.attend_fresh([query, key, value], shape, rows),
        }
    }

    fn swiglu(&mut self, gate: &Tensor, up: &Tensor) -> Tensor {
        same_shape(gate, up);
        let out = self.tensor(gate.rows(), gate.columns());
        let op = RowOp::SwiGlu {
            gate: gate.view_in(&self.arena),
            up: up.view_in(&self.arena),
            out: out.view_in(&self.arena),
        };
        self.append(Op::Rows(op));
        out
    }

    fn experts(&mut self, x: &Tensor, experts: &Experts<CpuWeight>, rows: &RowPlan) -> Tensor {
        let scores = self.linear(x, &experts.router, rows);
        let (used, routes) = (experts.used, Routes::default());
        let listed = self.tensor(x.rows() * used, x.columns());
        let route = Route {
            x: x.view_in(&self.arena),
            scores: scores.view_in(&self.arena),
            used,
            routes: routes.clone(),
            out: listed.view_in(&self.arena),
        };
        self.append(Op::Route(route));

        let [gate, up, down] =
            [&experts.gate, &experts.up, &experts.down].map(|weight| weight.experts().clone());
        assert!(
            [&gate, &up, &down].iter().all(|all| all.len() == scores.columns()),
            "a score for each expert"
        );
        assert!((1..=gate.len()).contains(&used), "as many experts are used as there are");
        let hidden = self.tensor(listed.rows(), gate[0].rows());
        let hidden = match same_form(&gate[0], &up[0]) {
            true => {
                self.expert_product(&listed, &gate, Some(up), &routes, &hidden);
                hidden
            }
            false => {
                let other = self.tensor(listed.rows(), up[0].rows());
                self.expert_product(&listed, &gate, None, &routes, &hidden);
                self.expert_product(&listed, &up, None, &routes, &other);
                self.swiglu(&hidden, &other)
            }
        };
        let results = self.tensor(listed.rows(), x.columns());
        self.expert_product(&hidden, &down, None, &routes, &results);

        let out = self.tensor(x.rows(), x.columns());
        self.append(Op::Combine(Combine {
            x: results.view_in(&self.arena),
            used,
            routes,
            out: out.view_in(&self.arena),
        }));
        out
    }

    fn add(&mut self, x: Tensor, y: &Tensor) -> Tensor {
        same_shape(&x, y);
        let x = self.owned(x);
        self.append(Op::Rows(RowOp::Add { x: x.view_in(&self.arena), y: y.view_in(&self.arena) }));
        x
    }

    fn select_rows(&mut self, x: &Tensor, rows: &[usize]) -> Tensor {
        assert!(rows.iter().all(|&row| row < x.rows()), "the rows are the tensor's");
        let out = self.tensor(rows.len(), x.columns());
        let from = Source::Rows(x.view_in(&self.arena), rows.to_vec());
        self.append(Op::Gather(Gather { from, out: out.view_in(&self.arena) }));
        out
    }

    fn add_rows(&mut self, x: Tensor, y: &Tensor, rows: &[usize]) -> Tensor {
        assert_eq!((y.rows(), y.columns()), (rows.len(), x.columns()), "a row to add for each that is named");
        let mut named = vec![false; x.rows()];
        rows.iter()
            .for_each(|&row| assert!(!std::mem::replace(&mut named[row], true), "no row is named twice"));
        let x = self.owned(x);
        let op = RowOp::AddAt { x: x.view_in(&self.arena), y: y.view_in(&self.arena), rows: rows.into() };
        self.append(Op::Rows(op));
        x
    }

    fn cross_entropy(&mut self, logits: &Tensor, targets: &[u32]) -> Tensor {
        assert_eq!(logits.rows(), targets.len(), "a target for each row");
        assert!(targets.iter().all(|&target| (target as usize) < logits.columns()), "targets have logits");
        let out = self.tensor(1, 1);
        let op = CrossEntropy {
            logits: logits.view_in(&self.arena),
            targets: targets.to_vec(),
            out: out.view_in(&self.arena),
        };
        self.append(Op::CrossEntropy(op));
        out
    }

    fn read_page(&self, cache: &CpuCache, page: u32, out: &mut Vec<u8>) {
        assert!(self.steps.is_empty(), "what was recorded has been submitted");
        cache.read_page(page, out);
    }

    fn write_page(&mut self, cache: &CpuCache, page: u32, bytes: &[u8]) -> Result<(), BackendError> {
        assert!(self.steps.is_empty(), "what was recorded has been submitted");
        BackendError::check_page(bytes.len(), cache.page_len())?;
        cache.write_page(page, bytes);
        Ok(())
    }

    fn grant_pages(&mut self, cache: &CpuCache, pages: Range<u32>) {
        let pieces: Vec<_> = pages.flat_map(|page| cache.pieces(page)).collect();
        if pieces.len() < FEWEST_SHARED * self.pool.threads() {
            // The other threads' cores may be another backend's.
            return pieces.into_iter().for_each(|(memory, bytes)| memory.grant(bytes));
        }
        let grant = |region: &Region<'_>| {
            for (memory, bytes) in &pieces[region.share(pieces.len())] {
                memory.grant(bytes.clone());
            }
            Ok(())
        };
        // A thread that failed here fails the next step, too, which says so.
        let _ = self.pool.run(grant);
    }

    fn start_profile(&mut self) {
        self.profile = Some(Profile::default());
    }

    fn end_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn for_each(
        &mut self,
        x: &Tensor,
        count: usize,
        task: &(dyn Fn(usize, &[f32]) + Sync),
    ) -> Result<(), BackendError> {
        self.submit()?;
        let values = fetched(x)?;
        if count == 0 {
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        let share = |_: &Region<'_>| {
            while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < count)
            {
                task(index, values);
            }
            Ok(())
        };
        Ok(self.pool.run(share)?)
    }

    fn submit(&mut self) -> Result<(), BackendError> {
        let steps = std::mem::take(&mut self.steps);
        let result = match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.run(&steps),
        };
        self.steps = steps;
        self.steps.clear();
        self.last_product = None;
        self.ready = None;
        self.pages.clear();
        self.fences.reset();
        Ok(result?)
    }

    fn fetch(&mut self, x: &Tensor, out: &mut Vec<f32>) -> Result<(), BackendError> {
        self.submit()?;
        out.clear();
        out.extend_from_slice(fetched(x)?);
        Ok(())
    }

    fn norm_linear<const N: usize>(
        &mut self,
        x: &Tensor,
        gain: &CpuWeight,
        epsilon: f32,
        weights: [&CpuWeight; N],
        rows: &RowPlan,
    ) -> [Tensor; N] {
        let kind = weights[0].matrix().activation_kind(self.isa);
        if weights.iter().any(|weight| weight.matrix().activation_kind(self.isa) != kind) {
            let normed = self.rms_norm(x, gain, epsilon);
            return weights.map(|weight| self.linear(&normed, weight, rows));
        }
        assert!(
            weights.iter().all(|weight| weight.matrix().columns() == x.columns()),
            "a row fits the matrices"
        );
        let (prepared, _memory) = self.prepare(x, Some((gain, epsilon)), kind);
        weights.map(|weight| {
            let out = self.tensor(x.rows(), weight.matrix().rows());
            self.product(prepared, weight.matrix(), Then::Store, out.view_in(&self.arena), None);
            out
        })
    }

    fn linear_swiglu(&mut self, x: &Tensor, gate: &CpuWeight, up: &CpuWeight, rows: &RowPlan) -> Tensor {
        if same_form(gate.matrix(), up.matrix()) {
            let (prepared, _memory) = self.prepare(x, None, gate.matrix().activation_kind(self.isa));
            return self.gated(prepared, gate.matrix(), up.matrix());
        }
        let gate = self.linear(x, gate, rows);
        let up = self.linear(x, up, rows);
        self.swiglu(&gate, &up)
    }

    fn norm_swiglu(
        &mut self,
        x: &Tensor,
        gain: &CpuWeight,
        epsilon: f32,
        gate: &CpuWeight,
        up: &CpuWeight,
        rows: &RowPlan,
    ) -> Tensor {
        if same_form(gate.matrix(), up.matrix()) {
            let (prepared, _memory) =
                self.prepare(x, Some((gain, epsilon)), gate.matrix().activation_kind(self.isa));
            return self.gated(prepared, gate.matrix(), up.matrix());
        }
        let [gate, up] = self.norm_linear(x, gain, epsilon, [gate, up], rows);
        self.swiglu(&gate, &up)
    }

    fn linear_add(&mut self, residual: Tensor, x: &Tensor, weight: &CpuWeight, _rows: &RowPlan) -> Tensor {
        let residual = self.owned(residual);
        self.linear_with(x, weight, Then::Add, residual.view_in(&self.arena));
        residual
    }

    fn low_rank_add<const N: usize>(
        &mut self,
        products: [Tensor; N],
        x: &Tensor,
        updates: &[Updates<'_, CpuWeight>; N],
        rows: &RowPlan,
    ) -> [Tensor; N] {
        assert_eq!(x.rows(), rows.len(), "the plan is that of the rows");
        let uses = adapter_uses(updates, rows);
        if uses.is_empty() {
            return products;
        }
        let products = products.map(|product| self.owned(product));
        let whole = products.each_ref().map(|product| product.view_in(&self.arena));
        let sizes = uses.iter().map(|(_, rows, update)| rows.len() * update.down.matrix().rows());
        let working = self.tensor(1, sizes.sum());
        let (x, low) = (x.view_in(&self.arena), working.view_in(&self.arena));
        let mut used = 0;
        let runs = uses.into_iter().map(|(product, rows, update)| {
            let (down, up) = (update.down.matrix().clone(), update.up.matrix().clone());
            let (x, out) =
                (x.rows_from(rows.start, rows.len()), whole[product].rows_from(rows.start, rows.len()));
            let low = low.values_from(used, rows.len(), down.rows());
            used += rows.len() * down.rows();
            let shapes = [(down.columns(), down.rows()), (up.columns(), up.rows())];
            assert_eq!(
                shapes,
                [(x.columns, low.columns), (low.columns, out.columns)],
                "A and B fit the product"
            );
            Run { x, low, out, down, up, scale: update.scale }
        });
        let runs: Arc<[Run]> = runs.collect();
        self.append(Op::LowRankDown(Down { runs: runs.clone(), x, low }));
        self.append(Op::LowRankUp(Up { runs, low, products: whole.to_vec() }));
        products
    }
}

/// The values of a tensor whose step has run.
fn fetched(x: &Tensor) -> Result<&[f32], BackendError> {
    x.values().ok_or_else(|| BackendError::Step { what: "the tensor is of a step that failed".to_owned() })
}

/// Runs of consecutive rows with one adapter that has an update of a product: which product, which rows, which update.
fn adapter_uses<'a, const N: usize>(
    updates: &[Updates<'a, CpuWeight>; N],
    rows: &RowPlan,
) -> Vec<(usize, Range<usize>, &'a LowRank<CpuWeight>)> {
    let adapters: Vec<Option<usize>> = (0..rows.len()).map(|row| rows.adapter(row)).collect();
    let mut uses = Vec::new();
    for (product, updates) in updates.iter().enumerate() {
        let mut first = 0;
        for run in adapters.chunk_by(|a, b| a == b) {
            let here = first..first + run.len();
            first = here.end;
            if let Some(update) = run[0].and_then(|adapter| updates[adapter]) {
                uses.push((product, here, update));
            }
        }
    }
    uses
}

impl Cpu {
    /// Stores keys and values, and attends to all that is stored; in a fresh cache, to the spans'
    /// own.
    fn attend(
        &mut self,
        [query, key, value]: [&Tensor; 3],
        shape: &AttentionShape,
        (cache, group, layer): (&CpuCache, usize, usize),
        rows: &RowPlan,
        fresh: bool,
    ) -> Tensor {
        let [wide, narrow] = [shape.heads, shape.kv_heads].map(|heads| (rows.len(), heads * shape.head_dim));
        let shapes = [query, key, value].map(|x| (x.rows(), x.columns()));
        assert_eq!(shapes, [wide, narrow, narrow], "queries, keys and values are heads of the plan's rows");
        assert!(shape.heads.is_multiple_of(shape.kv_heads), "key/value heads are shared evenly");
        self.pages.push(cache.memory(group));
        let cache = cache.view(group, layer, shape);
        let out = self.tensor(query.rows(), query.columns());
        let values = out.view_in(&self.arena);
        let room = match self.last_kind() {
            Some(kind) if shape.head_dim.is_multiple_of(BLOCK) => {
                self.room_for_blocks(query.rows(), query.columns(), kind)
            }
            _ => None,
        };
        let prepared = room.as_ref().map(|(prepared, _)| *prepared);
        // Held until all is appended, so that the parts get other memory.
        let working = self.tensor(self.pool.threads(), scratch_len(cache.head.width));
        let scratch = working.view_in(&self.arena);
        let store = Store {
            key: key.view_in(&self.arena),
            value: value.view_in(&self.arena),
            cache,
            rows: rows.clone(),
        };
        self.append(Op::Store(store));
        let (query, shape, rows) = (query.view_in(&self.arena), *shape, rows.clone());
        let attention = Attention { query, out: values, prepared, cache, shape, rows, fresh };
        if !attention.wants_parts(self.pool.threads()) {
            let claims = attention.claims(self.pool.threads());
            self.append(Op::Attend(Attend { attention, scratch, parts: None, claims }));
            self.is_ready(values, room);
            return out;
        }
        let lanes = attention.rows.len() * attention.shape.heads;
        let parts = self.tensor(lanes * attention.parts(), part_len(cache.head.width));
        let parts = parts.view_in(&self.arena);
        let dealt_out = Attend { attention: attention.clone(), scratch, parts: Some(parts), claims: None };
        self.append(Op::Attend(dealt_out));
        self.append(Op::Merge(Merge { attention, parts }));
        self.is_ready(values, room);
        out
    }

    /// Attention within the step: exact keys and values, in pages that live as long as the list.
    fn attend_fresh(&mut self, operands: [&Tensor; 3], shape: &AttentionShape, rows: &RowPlan) -> Tensor {
        let mut pages = 0..;
        let spans = rows.spans().iter().map(|span| {
            let count = (span.first_position + span.rows).div_ceil(PAGE_TOKENS);
            Span { pages: vec![pages.by_ref().take(count).collect()], ..span.clone() }
        });
        let plan = RowPlan::new(spans.collect());
        let groups = vec![CacheGroup { layers: 1, pages: pages.start as usize }];
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        let layout = CacheLayout { groups, kv_heads, head_dim, dtype: KvDType::F32 };
        match CpuCache::new(&layout) {
            Ok(cache) => self.attend(operands, shape, (&cache, 0, 0), &plan, true),
            Err(error) => {
                self.failure.get_or_insert(error);
                self.arena.nowhere(operands[0].rows(), operands[0].columns())
            }
        }
    }

    fn expert_product(
        &mut self,
        x: &Tensor,
        weights: &Arc<[Arc<PackedMatrix>]>,
        up: Option<Arc<[Arc<PackedMatrix>]>>,
        routes: &Routes,
        out: &Tensor,
    ) {
        // Which experts come next is not known yet.
        self.last_product = None;
        let (prepared, _memory) = self.prepare(x, None, weights[0].activation_kind(self.isa));
        let op = ExpertMatmul {
            weights: weights.clone(),
            up,
            x: prepared,
            routes: routes.clone(),
            out: out.view_in(&self.arena),
        };
        self.append(Op::ExpertMatmul(op));
    }
}
