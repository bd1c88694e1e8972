//! Frames of other workers that a turn had no steps for. They keep their order: nothing overtakes
//! them.

use std::collections::VecDeque;

/// Bytes of deferred frames, beyond which the worker reads no more from other workers.
const MAX_INBOUND: usize = 512 * 1024;

/// Frames of other workers that a turn had no steps for.
#[derive(Debug, Default)]
pub(crate) struct InboundQueue {
    pub(crate) queue: VecDeque<InboundBatch>,
    bytes: usize,
    /// Whether a message of another worker has not reached all its receivers yet.
    pub(crate) is_held: bool,
    /// Whether the first frame is for a worker that this one has to meet first.
    pub(crate) is_meeting: bool,
    /// Whether the deferred work contains an entry for this queue.
    pub(crate) is_deferred: bool,
}

/// Frames that arrived together from one generation of a worker. Those before `at` are handled.
#[derive(Debug)]
pub(crate) struct InboundBatch {
    pub(crate) from: (u32, u32),
    pub(crate) frames: Vec<u8>,
    pub(crate) at: usize,
}

impl InboundQueue {
    /// Whether frames wait, so that frames which arrive now have to wait behind them.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_held || self.is_meeting || !self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, from: (u32, u32), frames: Vec<u8>) {
        self.bytes += frames.len();
        self.queue.push_back(InboundBatch { from, frames, at: 0 });
    }

    pub(crate) fn put_back(&mut self, arrival: InboundBatch) {
        // To the front, because these frames are older than all that are queued.
        self.bytes += arrival.frames.len();
        self.queue.push_front(arrival);
    }

    /// Whether so much waits that the worker must not read more from other workers.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MAX_INBOUND
    }

    pub(crate) fn pop(&mut self) -> Option<InboundBatch> {
        let first = self.queue.pop_front()?;
        self.bytes -= first.frames.len();
        Some(first)
    }
}
