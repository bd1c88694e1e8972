//! The times at which channels with traffic of their own want to be called.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::worker::connection::EventToken;

/// Entries by time. An entry of a connection that is gone, or that has an earlier one, is ignored when
/// it is due: to search for it would cost more.
#[derive(Default)]
pub(super) struct TickQueue {
    entries: BinaryHeap<Reverse<(Instant, EventToken)>>,
}

impl TickQueue {
    pub(super) fn push(&mut self, at: Instant, token: EventToken) {
        self.entries.push(Reverse((at, token)));
    }

    /// The time of the first entry.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out an entry that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, EventToken)> {
        self.next().filter(|at| *at <= now)?;
        self.entries.pop().map(|Reverse(entry)| entry)
    }
}
