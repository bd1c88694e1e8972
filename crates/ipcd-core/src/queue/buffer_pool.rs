//! A pool of buffers. An idle peer has none, and a busy one does not allocate. Buffers that were
//! not needed for a while are given back to the allocator.

use std::time::{Duration, Instant};

/// Buffers in the pool, and the capacity of the smallest and largest ones in bytes.
const SPARES: usize = 16;
const LEAST_BYTES: usize = 1024;
const MOST_BYTES: usize = 1024 * 1024;
/// Time after which an unused buffer is given back.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Buffers that send queues take when they begin to fill, and give back when they are empty.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    buffers: Vec<Vec<u8>>,
    /// The lowest number of buffers since the last check: that many were not needed.
    fewest: usize,
    /// The time of the next check, if there may be something to give back.
    look_at: Option<Instant>,
    /// The time of the last tick.
    now: Option<Instant>,
    /// Bytes that were given back to the allocator since the last check.
    released: usize,
    /// Bytes that were given back before it, and are not reported to the worker yet.
    untold: usize,
}

impl BufferPool {
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let taken = self.buffers.pop().unwrap_or_default();
        self.fewest = self.fewest.min(self.buffers.len());
        taken
    }

    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        // A tiny buffer is not worth a place, and a huge one would keep the memory of one burst.
        let worth_keeping = (LEAST_BYTES..=MOST_BYTES).contains(&buffer.capacity());
        if worth_keeping && self.buffers.len() < SPARES {
            self.buffers.push(buffer);
        } else {
            self.released += buffer.capacity();
        }
        self.look_later();
    }

    /// Plans a check, because something is kept that may not be needed.
    pub(crate) fn look_later(&mut self) {
        if self.look_at.is_none() {
            self.look_at = self.now.map(|now| now + KEPT_FOR);
        }
    }

    /// Returns the time of the next check.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.look_at
    }

    /// Gives unused buffers back, if a check is due, and returns whether it was.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        self.now = Some(now);
        if self.look_at.is_none() && !self.buffers.is_empty() {
            self.look_later();
        }
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        // `take` pops from the end, so the first ones are those that were never taken.
        let dropped = self.buffers.drain(..self.fewest);
        self.released += dropped.map(|buffer| buffer.capacity()).sum::<usize>();
        self.fewest = self.buffers.len();
        self.look_at = (self.fewest > 0).then(|| now + KEPT_FOR);
        self.untold += std::mem::take(&mut self.released);
        true
    }

    /// Adds bytes that were given back elsewhere.
    pub(crate) fn note_released(&mut self, bytes: usize) {
        self.untold += bytes;
    }

    /// Returns the bytes that were given back since the last call, up to the last check.
    pub(crate) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = KEPT_FOR;

    fn bytes(spare: &BufferPool) -> usize {
        spare.buffers.iter().map(Vec::capacity).sum()
    }

    #[test]
    fn what_nobody_needs_is_given_back_after_a_while() {
        let (mut spare, mut now) = (BufferPool::default(), Instant::now());
        spare.look(now);
        let burst: Vec<_> = (0..8).map(|_| Vec::with_capacity(800_000)).collect();
        burst.into_iter().for_each(|buffer| spare.give(buffer));
        assert_eq!(bytes(&spare), 8 * 800_000);
        // One is in use all the time, and is kept.
        while spare.next_look().is_some_and(|at| at <= now + 10 * SECOND) && bytes(&spare) > 0 {
            now += SECOND / 4;
            let buffer = spare.take();
            assert!(buffer.capacity() > 0);
            spare.give(buffer);
            spare.look(now);
            if bytes(&spare) == 800_000 {
                break;
            }
        }
        assert_eq!((bytes(&spare), spare.untold), (800_000, 7 * 800_000));
        // Unused, it is given back, and no further check is planned.
        for _ in 0..2 {
            now += SECOND;
            spare.look(now);
        }
        assert_eq!((bytes(&spare), spare.next_look()), (0, None));
    }

    #[test]
    fn what_is_too_large_or_too_many_is_not_kept() {
        let mut spare = BufferPool::default();
        spare.give(Vec::with_capacity(MOST_BYTES + 1));
        spare.give(Vec::with_capacity(LEAST_BYTES - 1));
        assert_eq!(bytes(&spare), 0);
        (0..2 * SPARES).for_each(|_| spare.give(Vec::with_capacity(MOST_BYTES)));
        assert_eq!(bytes(&spare), SPARES * MOST_BYTES);
    }
}
