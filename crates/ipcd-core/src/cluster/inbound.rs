//! Frames of other workers that a turn had no time for.

use std::collections::VecDeque;

/// Bytes of other workers that were put off, beyond which nothing more is taken of them.
const MAX_INBOUND: usize = 512 * 1024;

/// What other workers have sent, which a turn had no time for.
#[derive(Debug, Default)]
pub(crate) struct InboundQueue {
    pub(crate) queue: VecDeque<InboundBatch>,
    bytes: usize,
    /// Whether a message of theirs has not reached all its receivers yet.
    pub(crate) is_held: bool,
    /// Whether a later turn is to go on with it.
    pub(crate) is_deferred: bool,
}

/// What came at once from a life of a worker, which is taken from `at` on.
#[derive(Debug)]
pub(crate) struct InboundBatch {
    pub(crate) from: (u32, u32),
    pub(crate) frames: Vec<u8>,
    pub(crate) at: usize,
}

impl InboundQueue {
    /// Whether something waits, so that what comes now has to wait, too.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_held || !self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, from: (u32, u32), frames: Vec<u8>) {
        self.bytes += frames.len();
        self.queue.push_back(InboundBatch { from, frames, at: 0 });
    }

    pub(crate) fn put_back(&mut self, arrival: InboundBatch) {
        self.bytes += arrival.frames.len();
        self.queue.push_front(arrival);
    }

    /// Whether so much waits that the worker takes nothing more of other workers.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MAX_INBOUND
    }

    pub(crate) fn pop(&mut self) -> Option<InboundBatch> {
        let first = self.queue.pop_front()?;
        self.bytes -= first.frames.len();
        Some(first)
    }
}
