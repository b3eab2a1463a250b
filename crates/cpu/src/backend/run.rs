//! Running a list of operations as one parallel region.

use super::ops::{Op, Worker};
use super::record::{Cpu, Recorded};
use crate::CpuError;
use crate::memory::CACHE_LINE;
use crate::pool::{Poisoned, Region};
use crate::simd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Cache lines that a thread asks for between two looks at whether its waiting is over.
const LINES: usize = 16;

/// A thread on its way through a list.
struct Walk<'a> {
    region: &'a Region<'a>,
    worker: Worker,
    /// What the thread's next product reads, as far as nobody has asked for it: that is done while the thread waits, so
    /// that memory is not idle at the seams.
    upcoming: &'a [u8],
}

impl<'a> Walk<'a> {
    fn new(region: &'a Region<'a>, isa: crate::Isa) -> Self {
        let worker = Worker { index: region.thread(), count: region.threads(), isa };
        Self { region, worker, upcoming: &[] }
    }

    /// Waits for the other threads where the operation needs that.
    fn meet(&mut self, step: &Recorded) -> Result<(), Poisoned> {
        if !step.fence {
            return Ok(());
        }
        let upcoming = &mut self.upcoming;
        self.region.barrier_while(|| {
            let (now, later) = upcoming.split_at(upcoming.len().min(LINES * CACHE_LINE));
            now.chunks(CACHE_LINE).for_each(|line| simd::prefetch_second(line.as_ptr()));
            *upcoming = later;
        })
    }

    fn run(&mut self, step: &'a Recorded) {
        step.op.run(&self.worker);
        if let Op::Matmul(product) = &step.op {
            self.upcoming = product.upcoming(&self.worker);
        }
    }
}

impl Cpu {
    /// Runs a list as one parallel region.
    pub(super) fn run(&mut self, steps: &[Recorded]) -> Result<(), CpuError> {
        if self.profile.is_some() {
            return self.run_profiled(steps);
        }
        let isa = self.isa;
        self.pool.run(|region| {
            let mut walk = Walk::new(region, isa);
            for step in steps {
                walk.meet(step)?;
                walk.run(step);
            }
            Ok(())
        })
    }

    /// As `run`, with the clock of thread 0.
    fn run_profiled(&mut self, steps: &[Recorded]) -> Result<(), CpuError> {
        let isa = self.isa;
        let measured = Mutex::new(Vec::new());
        self.pool.run(|region| {
            let mut walk = Walk::new(region, isa);
            let mut times: Vec<(Duration, Duration)> = Vec::with_capacity(steps.len());
            for step in steps {
                let arrived = Instant::now();
                walk.meet(step)?;
                let begun = Instant::now();
                walk.run(step);
                times.push((begun - arrived, begun.elapsed()));
            }
            if walk.worker.index == 0 {
                *measured.lock().unwrap_or_else(PoisonError::into_inner) = times;
            }
            Ok(())
        })?;
        let profile = self.profile.get_or_insert_default();
        let measured = measured.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (step, (waiting, running)) in steps.iter().zip(measured) {
            profile.add(step.op.label(), step.op.is_product(), waiting, running);
        }
        Ok(())
    }
}
