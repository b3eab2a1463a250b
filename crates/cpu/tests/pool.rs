//! What the thread pool promises: every thread runs, barriers order, panics end a region and nothing
//! ever hangs.

use alti_cpu::pool::{Poisoned, PoolOptions};
use alti_cpu::{CpuError, Pool};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn pool(threads: usize) -> Pool {
    Pool::new(PoolOptions { threads, pin: false }).unwrap()
}

#[test]
fn all_threads_run_and_their_shares_cover_everything_once() {
    for threads in [1, 2, 3, 7] {
        let mut pool = pool(threads);
        for count in [0, 1, 6, 100] {
            let done: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            pool.run(|region| {
                for index in region.share(count) {
                    done[index].fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
            .unwrap();
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
        }
    }
}

/// More threads than this machine has cores, and thousands of barriers: yields, not spins.
#[test]
fn a_barrier_lets_nobody_through_before_all_are_there_even_when_cores_are_few() {
    let threads = 2 * std::thread::available_parallelism().unwrap().get() + 1;
    let mut pool = pool(threads);
    let arrived = AtomicUsize::new(0);
    pool.run(|region| {
        for round in 1..=2_000 {
            arrived.fetch_add(1, Ordering::Relaxed);
            region.barrier()?;
            assert_eq!(arrived.load(Ordering::Relaxed), round * region.threads());
            region.barrier()?;
        }
        Ok(())
    })
    .unwrap();
}

/// The others come when the waiting thread has done something meanwhile, or after a minute.
#[test]
fn who_waits_may_do_something_meanwhile() {
    let idle = AtomicUsize::new(0);
    pool(3)
        .run(|region| {
            if region.thread() > 0 {
                let started = std::time::Instant::now();
                while idle.load(Ordering::Relaxed) < 5 && started.elapsed().as_secs() < 60 {
                    std::thread::yield_now();
                }
                return region.barrier();
            }
            region.barrier_while(|| {
                idle.fetch_add(1, Ordering::Relaxed);
            })
        })
        .unwrap();
    assert!(idle.into_inner() >= 5);
}

#[test]
fn a_panic_on_any_thread_ends_the_region_with_its_message_and_the_pool_lives_on() {
    let mut pool = pool(4);
    for victim in 0..4 {
        let error = pool
            .run(|region| {
                region.barrier()?;
                assert!(region.thread() != victim, "thread {victim} is the victim");
                region.barrier()?;
                region.barrier()
            })
            .unwrap_err();
        let CpuError::WorkerPanicked { thread, message } = error else { panic!("{error}") };
        assert_eq!(thread, victim);
        assert!(message.contains("is the victim"), "{message}");
        pool.run(|region| region.barrier()).unwrap();
    }
}

#[test]
fn who_left_because_of_another_thread_is_told_so() {
    let told = AtomicUsize::new(0);
    let result = pool(3).run(|region| {
        assert_ne!(region.thread(), 1);
        let left = region.barrier();
        if left == Err(Poisoned) {
            told.fetch_add(1, Ordering::Relaxed);
        }
        left
    });
    assert!(result.is_err());
    assert_eq!(told.load(Ordering::Relaxed), 2);
}

#[test]
fn sleeping_threads_wake_up_and_a_sleeping_pool_can_be_dropped() {
    let mut pool = pool(3);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(30));
        let ran = AtomicUsize::new(0);
        pool.run(|_| {
            ran.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 3);
    }
    std::thread::sleep(Duration::from_millis(30));
    drop(pool);
}
