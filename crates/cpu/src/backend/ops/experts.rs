//! A routed mixture of experts. Which rows go where is decided inside the step, so shapes must not
//! depend on it: every row has `used` places in a list sorted by expert, and an expert's matrix
//! product takes the part of the list that is its own.

use super::Worker;
use super::linear::{Prepared, Then, product};
use crate::backend::arena::Matrix;
use crate::backend::fences::{Access, Sharing};
use crate::pack::PackedMatrix;
use std::sync::{Arc, Mutex, PoisonError};

/// Who serves whom, filled in while the step runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(Arc<Mutex<RouteTable>>);

#[derive(Debug, Default)]
struct RouteTable {
    /// Where each expert's part of the list begins; one more entry than experts.
    starts: Vec<usize>,
    /// The place in the list of each row's choices, `[rows, used]`, best choice first.
    places: Vec<usize>,
}

/// Chooses the experts and lists the rows they serve, each row times its share.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) x: Matrix,
    /// `[rows, experts]`.
    pub(crate) scores: Matrix,
    pub(crate) used: usize,
    pub(crate) routes: Routes,
    /// `[rows * used, dim]`: the experts' inputs, sorted by expert.
    pub(crate) out: Matrix,
}

impl Route {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        let reads = [self.x, self.scores].map(|matrix| Access::read(matrix, Sharing::Any));
        list.extend(reads);
        list.push(Access::write(self.out, Sharing::Any));
    }

    /// On the first thread: the work is a few comparisons and one copy of the rows.
    pub(crate) fn run(&self, worker: &Worker) {
        if worker.index > 0 {
            return;
        }
        let experts = self.scores.columns;
        let mut choices: Vec<(usize, usize, f32)> = Vec::with_capacity(self.out.rows);
        for row in 0..self.x.rows {
            // SAFETY: the scores were written behind a barrier.
            let scores = unsafe { self.scores.row(row) };
            let mut order: Vec<usize> = (0..experts).collect();
            // A stable sort: the lower index wins a tie.
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let chosen = order[..self.used].iter().map(|&e| (e, row, 1.0 / (1.0 + (-scores[e]).exp())));
            choices.extend(chosen);
        }
        let mut sorted: Vec<usize> = (0..choices.len()).collect();
        sorted.sort_by_key(|&choice| (choices[choice].0, choice));
        let mut table = self.routes.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.starts =
            (0..=experts).map(|e| sorted.partition_point(|&choice| choices[choice].0 < e)).collect();
        table.places = vec![0; choices.len()];
        for (place, choice) in sorted.into_iter().enumerate() {
            table.places[choice] = place;
            let (_, row, share) = choices[choice];
            // SAFETY: this thread alone writes the list; `x` was written behind a barrier.
            let (out, x) = unsafe { (self.out.row_mut(place), self.x.row(row)) };
            out.iter_mut().zip(x).for_each(|(out, x)| *out = share * x);
        }
    }
}

/// Every expert's matrix times its part of the list.
#[derive(Debug)]
pub(crate) struct ExpertMatmul {
    pub(crate) weights: Arc<[Arc<PackedMatrix>]>,
    /// The second matrices, for `silu(first) * second`.
    pub(crate) up: Option<Arc<[Arc<PackedMatrix>]>>,
    pub(crate) x: Prepared,
    pub(crate) routes: Routes,
    pub(crate) out: Matrix,
}

impl ExpertMatmul {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        list.extend([self.x.read(), Access::write(self.out, Sharing::Any)]);
    }

    pub(crate) fn run(&self, worker: &Worker) {
        // Only `Route` changes the table, behind a barrier.
        let starts = self.routes.0.lock().unwrap_or_else(PoisonError::into_inner).starts.clone();
        for (expert, weight) in self.weights.iter().enumerate() {
            let rows = starts[expert]..starts[expert + 1];
            let then = match &self.up {
                Some(up) => Then::SwiGlu(up[expert].clone()),
                None => Then::Store,
            };
            let panels = worker.share(weight.panels());
            // SAFETY: the activations were prepared behind a barrier; threads write different
            // panels and experts different rows.
            unsafe { product(worker, weight, &then, &self.x, panels, rows, self.out.output(), None) };
        }
    }
}

/// Each row's sum of what its experts made of it, best choice first.
#[derive(Debug)]
pub(crate) struct Combine {
    /// `[rows * used, dim]`, sorted by expert.
    pub(crate) x: Matrix,
    pub(crate) used: usize,
    pub(crate) routes: Routes,
    pub(crate) out: Matrix,
}

impl Combine {
    pub(crate) fn accesses(&self, list: &mut Vec<Access>) {
        let out = Access::write(self.out, Sharing::Units(self.out.rows));
        list.extend([Access::read(self.x, Sharing::Any), out]);
    }

    pub(crate) fn run(&self, worker: &Worker) {
        let places = self.routes.0.lock().unwrap_or_else(PoisonError::into_inner).places.clone();
        for row in worker.share(self.out.rows) {
            // SAFETY: this thread alone writes the row; the list was written behind a barrier.
            let out = unsafe { self.out.row_mut(row) };
            out.fill(0.0);
            for &place in &places[row * self.used..][..self.used] {
                // SAFETY: as above.
                let x = unsafe { self.x.row(place) };
                out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
            }
        }
    }
}
