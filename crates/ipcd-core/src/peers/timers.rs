//! Deadlines of peers, most of which are postponed long before they are due.

use crate::model::ids::PeerKey;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A queue of deadlines, with a few entries for each peer. An entry only asks for a check of the
/// peer. A deadline that was postponed is noticed then, and costs nothing until then.
#[derive(Debug, Default)]
pub(crate) struct PeerTimers(pub(crate) BinaryHeap<Reverse<(Instant, PeerKey)>>);

impl PeerTimers {
    /// Adds an entry, if it is earlier than the peer's earliest one, which `armed` holds.
    pub(crate) fn arm(&mut self, armed: &mut Option<Instant>, at: Instant, key: PeerKey) {
        if armed.is_none_or(|earlier| at < earlier) {
            *armed = Some(at);
            self.0.push(Reverse((at, key)));
        }
    }

    /// Returns the time of the next check.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes the next entry that is due, and returns it.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, PeerKey)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }
}
