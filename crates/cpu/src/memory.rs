//! Memory for what kernels stream: aligned to cache lines, in huge pages where it is large.
//!
//! Large buffers come straight from the system, already zero, so that the threads that fill them are
//! the first to touch their pages.

use crate::CpuError;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a cache line: the alignment of every buffer.
pub(crate) const CACHE_LINE: usize = 64;

/// From here on, a buffer is aligned to, and asks for, huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// What the sizes of mappings are multiples of: no system's ordinary pages are larger.
const LARGEST_PAGE: usize = 64 << 10;

/// Bytes of a region whose huge pages several buffers share.
const REGION: usize = 16 << 20;

/// A zero-initialised buffer of fixed size.
#[derive(Debug)]
pub struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
    /// What it is a part of; alone, it is its own.
    region: Option<Arc<AlignedBytes>>,
}

// SAFETY: the buffer is plain owned memory; the usual borrow rules guard access to it.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `bytes` zeros, aligned to 64 bytes (2 MiB where large).
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn zeroed(bytes: usize) -> Result<Self, CpuError> {
        let out_of_memory = CpuError::OutOfMemory { bytes };
        let large = bytes >= 2 * HUGE_PAGE;
        let (unit, alignment) = if large { (LARGEST_PAGE, HUGE_PAGE) } else { (CACHE_LINE, CACHE_LINE) };
        // At least one unit, so that the layout is never empty.
        let size = bytes.max(1).checked_next_multiple_of(unit).ok_or(out_of_memory.clone())?;
        let layout = Layout::from_size_align(size, alignment).map_err(|_| out_of_memory.clone())?;
        let start = if alignment == HUGE_PAGE {
            map(layout).inspect(|&start| advise_huge(start, layout))
        } else {
            allocate(layout)
        };
        Ok(Self { start: start.ok_or(out_of_memory)?, layout, region: None })
    }

    /// As [`AlignedBytes::zeroed`] for buffers that come and go together, such as the weights of a model:
    /// small ones lie side by side in regions, which nobody clears before the threads that fill them do.
    /// A region goes back to the system with its last buffer.
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn zeroed_beside_others(bytes: usize) -> Result<Self, CpuError> {
        /// The region that is being filled, and how far.
        static FILLING: Mutex<(Weak<AlignedBytes>, usize)> = Mutex::new((Weak::new(), 0));
        if bytes >= 2 * HUGE_PAGE {
            return Self::zeroed(bytes);
        }
        let out_of_memory = CpuError::OutOfMemory { bytes };
        let size = bytes.max(1).next_multiple_of(CACHE_LINE);
        let layout = Layout::from_size_align(size, CACHE_LINE).map_err(|_| out_of_memory.clone())?;
        let mut filling = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
        let (region, used) = match filling.0.upgrade() {
            Some(region) if filling.1 + size <= REGION => (region, filling.1),
            _ => (Arc::new(Self::region().ok_or(out_of_memory.clone())?), 0),
        };
        *filling = (Arc::downgrade(&region), used + size);
        let start = NonNull::new(region.start().wrapping_add(used)).ok_or(out_of_memory)?;
        Ok(Self { start, layout, region: Some(region) })
    }

    fn region() -> Option<Self> {
        let layout = Layout::from_size_align(REGION, HUGE_PAGE).ok()?;
        let start = map(layout)?;
        advise_huge(start, layout);
        Some(Self { start, layout, region: None })
    }

    /// Has the system grant these bytes now and not when they are first written, where that is worth it and the system
    /// can. What they hold stays.
    ///
    /// # Panics
    /// When the buffer has no such bytes.
    pub(crate) fn grant(&self, bytes: Range<usize>) {
        assert!(bytes.start <= bytes.end && bytes.end <= self.layout.size(), "the bytes are the buffer's");
        #[cfg(target_os = "linux")]
        if self.layout.align() == HUGE_PAGE {
            let start = bytes.start / LARGEST_PAGE * LARGEST_PAGE;
            // SAFETY: the range lies in the mapping, whose pages are private; the advice changes no contents. Systems
            // that do not know it (Linux before 5.14) say so, and nothing happens.
            unsafe {
                let at = self.start().wrapping_add(start);
                libc::madvise(at.cast(), bytes.end - start, libc::MADV_POPULATE_WRITE);
            }
        }
    }

    /// Where the bytes begin; who writes through it says why nobody reads meanwhile.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` is valid and initialised for the layout's size, for as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

/// Zeroed memory of the allocator.
fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { alloc_zeroed(layout) })
}

/// Zero pages of the system, aligned to huge pages.
#[cfg(unix)]
fn map(layout: Layout) -> Option<NonNull<u8>> {
    let (size, alignment) = (layout.size(), layout.align());
    let mapped = size.checked_add(alignment)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
    // SAFETY: a new private mapping, at no particular address.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let base: *mut u8 = base.cast();
    let before = base.align_offset(alignment);
    let start = base.wrapping_add(before);
    let after = mapped - before - size;
    // SAFETY: both ranges lie inside the mapping just made and outside of the buffer.
    unsafe {
        if before > 0 {
            libc::munmap(base.cast(), before);
        }
        if after > 0 {
            libc::munmap(start.add(size).cast(), after);
        }
    }
    NonNull::new(start)
}

/// Asks for huge pages in memory of `map`.
fn advise_huge(start: NonNull<u8>, layout: Layout) {
    #[cfg(target_os = "linux")]
    // SAFETY: the advice changes no contents of these pages.
    unsafe {
        libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, layout);
}

#[cfg(not(unix))]
fn map(layout: Layout) -> Option<NonNull<u8>> {
    allocate(layout)
}

/// Gives memory of `map` back.
#[cfg(unix)]
fn unmap(start: NonNull<u8>, layout: Layout) {
    // SAFETY: `map` left exactly these pages mapped.
    unsafe { libc::munmap(start.as_ptr().cast(), layout.size()) };
}

#[cfg(not(unix))]
fn unmap(start: NonNull<u8>, layout: Layout) {
    // SAFETY: on these systems the memory is the allocator's, with this layout.
    unsafe { dealloc(start.as_ptr(), layout) }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.region.is_some() {
            // The memory is the region's.
        } else if self.layout.align() == HUGE_PAGE {
            unmap(self.start, self.layout);
        } else {
            // SAFETY: `allocate` made the memory with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_aligned_and_writable_to_the_end() {
        for bytes in [0, 1, 64, 4095, 4 << 20, (5 << 20) + 12_345] {
            let mut buffer = AlignedBytes::zeroed(bytes).unwrap();
            assert!(buffer.as_slice().len() >= bytes);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(CACHE_LINE), 0);
            assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
            buffer.as_mut_slice().fill(1);
        }
    }

    #[test]
    fn buffers_of_a_region_do_not_overlap_and_outlive_each_other() {
        let sizes = [1, 100, 70_000, 3 << 20, 64, 4_000_000, 2 << 20, 4_100_000, 5 << 20];
        let mut buffers: Vec<_> =
            sizes.iter().map(|&bytes| AlignedBytes::zeroed_beside_others(bytes).unwrap()).collect();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.as_slice().len() >= sizes[index]);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(CACHE_LINE), 0);
            assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
            buffer.as_mut_slice().fill(index as u8 + 1);
        }
        // Every other one goes; the rest keep what they hold.
        let mut index = 0;
        buffers.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        for (place, buffer) in buffers.iter().enumerate() {
            assert!(buffer.as_slice().iter().all(|&byte| byte == 2 * place as u8 + 2), "buffer {place}");
        }
    }

    #[test]
    fn granted_bytes_are_there_and_hold_what_they_held() {
        let mut buffer = AlignedBytes::zeroed(16 << 20).unwrap();
        buffer.as_mut_slice()[(5 << 20) + 7] = 3;
        buffer.grant((4 << 20) + 100..(12 << 20) + 100);
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        {
            let mut there = vec![0u8; (8 << 20) / 4096];
            // SAFETY: the first range lies in the buffer and has a byte for each of its pages; the second is empty.
            let (told, known) = unsafe {
                let at = buffer.start().add(4 << 20).cast();
                let known = libc::madvise(at, 0, libc::MADV_POPULATE_WRITE) == 0;
                (libc::mincore(at, 8 << 20, there.as_mut_ptr()) == 0, known)
            };
            assert!(told && (!known || there.iter().all(|page| page & 1 == 1)));
        }
        assert_eq!(buffer.as_slice()[(5 << 20) + 7], 3);
        assert_eq!(buffer.as_slice().iter().filter(|&&byte| byte != 0).count(), 1);
        buffer.grant(0..0);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(AlignedBytes::zeroed(usize::MAX - 10).is_err());
        assert!(AlignedBytes::zeroed(1 << 60).is_err());
    }
}
