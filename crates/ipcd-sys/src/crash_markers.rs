//! Numbers that a process and its children can change: after the death of a child they still tell
//! its last task.

use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers, 0 at first, which later children see and change.
#[derive(Clone, Copy, Debug)]
pub struct CrashMarkers(&'static [AtomicU64]);

impl CrashMarkers {
    /// Makes this many numbers. They are never unmapped, because a daemon has them as long as it
    /// lives.
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
        // SAFETY: the mapping is page-aligned, long enough for `count` numbers, zeroed (which is a
        // valid value) and never unmapped. Other processes that have it use atomics, too.
        Ok(Self(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) }))
    }

    /// Returns the number in this place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn get(&self, place: usize) -> u64 {
        // The writer is dead, or the number is only a hint: no order with other memory is needed.
        self.0[place].load(Ordering::Relaxed)
    }

    /// Changes the number in this place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn set(&self, place: usize, number: u64) {
        self.0[place].store(number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_numbers_for_all_copies() {
        let crash_markers = CrashMarkers::new(3).unwrap();
        let other = crash_markers;
        other.set(2, u64::MAX);
        assert_eq!(
            [crash_markers.get(0), crash_markers.get(1), crash_markers.get(2)],
            [0, 0, u64::MAX]
        );
    }
}
