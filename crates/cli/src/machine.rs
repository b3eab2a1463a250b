//! What this machine is made of and how fast its memory is.

use alti_cpu::{CpuError, limits};
use serde::Serialize;
use std::path::Path;

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

/// Reads `bytes` of memory, more than caches hold, with each of the numbers of threads.
///
/// # Errors
/// When the system has no memory or no threads.
pub fn bandwidths(bytes: usize, threads: &[usize]) -> Result<Vec<Bandwidth>, CpuError> {
    let measure = |&threads: &usize| {
        Ok(Bandwidth { threads, bytes_per_second: limits::read_bandwidth(bytes, threads)? })
    };
    threads.iter().map(measure).collect()
}
