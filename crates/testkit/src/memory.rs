//! The most memory that this process has had over a stretch of work, as Linux counts it, so that a
//! bound on memory can be tested. Other systems do not say; there nothing is measured.

use std::fs;

/// A measurement under way.
#[derive(Debug)]
pub struct Peak {
    before: u64,
}

impl Peak {
    /// Begins: what the process has now is not counted.
    #[must_use]
    pub fn start() -> Self {
        forget_peak();
        Self { before: peak() }
    }

    /// Begins another stretch, measured against the same start: memory that was freed and that the allocator kept, to
    /// use it again unseen, counts for it too.
    pub fn again(&self) {
        forget_peak();
    }

    /// Bytes by which the process was ever larger than at the start. Pages of mapped files count.
    #[must_use]
    pub fn grown(&self) -> u64 {
        peak().saturating_sub(self.before)
    }
}

/// Sets the recorded peak to the present size (proc(5)); without it the old one stays.
fn forget_peak() {
    let _kernel_may_lack_it = fs::write("/proc/self/clear_refs", "5");
}

/// The recorded peak in bytes; 0 where the system keeps none.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.map_or(0, |kibibytes| kibibytes << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_freed_again_counts() {
        let peak = Peak::start();
        drop(std::hint::black_box(vec![1u8; 100 << 20]));
        assert!(peak.grown() >= 99 << 20, "{}", peak.grown());
        let later = Peak::start();
        assert!(later.grown() < 50 << 20, "{}", later.grown());
        peak.again();
        assert!(peak.grown() < 50 << 20, "{}", peak.grown());
    }
}
