//! Numbers in memory that a process shares with those it forks: what a child was about when it died
//! is still there.

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Some numbers, 0 at first, which children see and change that are forked later.
#[derive(Clone, Debug)]
pub struct CrashMarkers(Arc<MarkerMemory>);

#[derive(Debug)]
struct MarkerMemory {
    at: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: nothing in it belongs to a thread; all access is atomic.
unsafe impl Send for MarkerMemory {}
// SAFETY: the same.
unsafe impl Sync for MarkerMemory {}

impl CrashMarkers {
    /// So many numbers.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(count: usize) -> io::Result<Self> {
        let bytes = size_of::<AtomicU64>() * count.max(1);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping wherever the kernel likes touches no memory of ours.
        let at = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at =
            NonNull::new(at.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self(Arc::new(MarkerMemory { at, count })))
    }

    /// The number in this place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn get(&self, place: usize) -> u64 {
        // The writer is dead, or the number is only a hint: no order with other memory is needed.
        self.all()[place].load(Ordering::Relaxed)
    }

    /// Changes it.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn set(&self, place: usize, number: u64) {
        self.all()[place].store(number, Ordering::Relaxed);
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, long enough for `count` numbers, zeroed (which is a
        // valid value), and lives as long as `self`. Other processes that have it use atomics, too.
        unsafe { std::slice::from_raw_parts(self.0.at.as_ptr(), self.0.count) }
    }
}

impl Drop for MarkerMemory {
    fn drop(&mut self) {
        let bytes = size_of::<AtomicU64>() * self.count.max(1);
        // SAFETY: it was mapped with this length, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.at.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_numbers_for_all_clones() {
        let crash_markers = CrashMarkers::new(3).unwrap();
        let other = crash_markers.clone();
        other.set(2, u64::MAX);
        assert_eq!(
            [crash_markers.get(0), crash_markers.get(1), crash_markers.get(2)],
            [0, 0, u64::MAX]
        );
    }
}
