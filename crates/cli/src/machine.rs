//! What this machine is made of and how fast its memory is.

use serde::Serialize;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

/// A cache of the first core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheSize {
    /// 1 for the nearest.
    pub level: u32,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// As the system says: `2048K`.
    pub size: String,
}

/// The caches of the first core, where the system tells (Linux).
pub fn caches() -> Vec<CacheSize> {
    let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
    let read = |index: u32, file: &str| {
        let text = std::fs::read_to_string(folder.join(format!("index{index}")).join(file)).ok()?;
        Some(text.trim().to_owned())
    };
    let cache = |index| {
        let level = read(index, "level")?.parse().ok()?;
        Some(CacheSize { level, kind: read(index, "type")?, size: read(index, "size")? })
    };
    (0..).map_while(cache).collect()
}

/// How fast memory was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Threads that read at the same time.
    pub threads: usize,
    /// Bytes a second, of all together.
    pub bytes_per_second: f64,
}

/// Reads `bytes` of memory, more than caches hold, with each of the numbers of threads; the median
/// of several passes.
pub fn bandwidths(bytes: usize, threads: &[usize]) -> Vec<Bandwidth> {
    const PASSES: usize = 7;
    let words = vec![1u64; bytes / size_of::<u64>()];
    let measure = |&threads: &usize| {
        let mut rates: Vec<f64> = (0..PASSES).map(|_| pass(&words, threads)).collect();
        rates.sort_by(f64::total_cmp);
        Bandwidth { threads, bytes_per_second: rates[PASSES / 2] }
    };
    threads.iter().map(measure).collect()
}

/// Bytes a second of one reading of all words.
fn pass(words: &[u64], threads: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in words.chunks(words.len().div_ceil(threads).max(1)) {
            scope.spawn(move || black_box(sum(part)));
        }
    });
    size_of_val(words) as f64 / start.elapsed().as_secs_f64()
}

/// Sixteen sums side by side, so that the reading is not held up by the adding.
fn sum(words: &[u64]) -> [u64; 16] {
    words.as_chunks::<16>().0.iter().fold([0; 16], |mut sums, chunk| {
        sums.iter_mut().zip(chunk).for_each(|(sum, &word)| *sum = sum.wrapping_add(word));
        sums
    })
}
