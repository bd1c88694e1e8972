//! Deadlines of peers, most of which are put off long before they come.

use crate::model::ids::PeerKey;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A queue of deadlines, at most a few a peer. An entry says that the peer is to be looked at, not
/// that something is due: what has been put off is found out then, and costs nothing until then.
#[derive(Debug, Default)]
pub(crate) struct PeerTimers(pub(crate) BinaryHeap<Reverse<(Instant, PeerKey)>>);

impl PeerTimers {
    /// Asks for the peer to be looked at; `armed` remembers its earliest entry.
    pub(crate) fn arm(&mut self, armed: &mut Option<Instant>, at: Instant, key: PeerKey) {
        if armed.is_none_or(|earlier| at < earlier) {
            *armed = Some(at);
            self.0.push(Reverse((at, key)));
        }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// The next peer to look at, with the time of its entry.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, PeerKey)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }
}
