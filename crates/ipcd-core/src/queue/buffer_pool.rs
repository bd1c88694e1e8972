//! Memory that is used again: so an idle peer has none, and a busy one does not allocate. What nobody
//! has needed for a while is given back.

use std::time::{Duration, Instant};

/// Buffers kept, and bytes of the smallest and the largest that are.
const SPARES: usize = 16;
const LEAST_BYTES: usize = 1024;
const MOST_BYTES: usize = 1024 * 1024;
/// How long one is kept that nobody needs.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Memory that outboxes take when they begin to fill, and give back when they are empty.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    buffers: Vec<Vec<u8>>,
    /// The fewest that there were since it was looked last: so many are not needed.
    fewest: usize,
    /// When that is, if there is something to be given back.
    look_at: Option<Instant>,
    /// The time of the last tick.
    now: Option<Instant>,
    /// Bytes that were given back to the allocator since.
    released: usize,
    /// And before, which the worker was not told of.
    untold: usize,
}

impl BufferPool {
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let taken = self.buffers.pop().unwrap_or_default();
        self.fewest = self.fewest.min(self.buffers.len());
        taken
    }

    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        let worth_keeping = (LEAST_BYTES..=MOST_BYTES).contains(&buffer.capacity());
        if worth_keeping && self.buffers.len() < SPARES {
            self.buffers.push(buffer);
        } else {
            self.released += buffer.capacity();
        }
        self.look_later();
    }

    /// Something is kept that may not be needed in a while.
    pub(crate) fn look_later(&mut self) {
        if self.look_at.is_none() {
            self.look_at = self.now.map(|now| now + KEPT_FOR);
        }
    }

    /// When to look what is not needed any more.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether it is time for that. The first buffers are those that were not taken.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        self.now = Some(now);
        if self.look_at.is_none() && !self.buffers.is_empty() {
            self.look_later();
        }
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        let dropped = self.buffers.drain(..self.fewest);
        self.released += dropped.map(|buffer| buffer.capacity()).sum::<usize>();
        self.fewest = self.buffers.len();
        self.look_at = (self.fewest > 0).then(|| now + KEPT_FOR);
        self.untold += std::mem::take(&mut self.released);
        true
    }

    /// So many bytes were given back besides.
    pub(crate) fn note_released(&mut self, bytes: usize) {
        self.untold += bytes;
    }

    /// Bytes that were given back since this was last asked, up to the last look.
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
        // One is in use all the time, and is not taken away.
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
        // Nobody uses it any more: it goes, and then nobody looks.
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
