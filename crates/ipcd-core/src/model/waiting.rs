//! The order in which blocked publishers continue.
//!
//! The publisher that has waited longest without progress continues first. A publisher that floods
//! has its next bytes ready at once, and would otherwise always be ahead of the publishers that it
//! delays.

use crate::model::ids::PeerKey;
use foldhash::fast::RandomState;
use std::collections::HashSet;
use std::time::Instant;

/// The waiting state of a publisher.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum WaitState {
    /// The publisher does not wait.
    #[default]
    No,
    /// The publisher waits, and has made no progress since this time.
    Since(Instant),
    /// The next message of the publisher has waited for `stall_timeout`, and waits no longer.
    Overdue,
}

impl WaitState {
    pub(crate) fn is_overdue(self) -> bool {
        matches!(self, Self::Overdue)
    }

    pub(crate) fn since(self) -> Option<Instant> {
        match self {
            Self::Since(at) => Some(at),
            Self::No | Self::Overdue => None,
        }
    }
}

/// Publishers in the order in which they began to wait. A publisher that is woken for another
/// reason and waits again keeps its position, so that the list has at most one entry for each peer.
#[derive(Debug, Default)]
pub(crate) struct WaitingList {
    order: Vec<PeerKey>,
    known: HashSet<PeerKey, RandomState>,
}

impl WaitingList {
    pub(crate) fn push(&mut self, publisher: PeerKey) {
        if self.known.insert(publisher) {
            self.order.push(publisher);
        }
    }

    /// Empties the list, and returns the publishers that waited.
    pub(crate) fn take(&mut self) -> Vec<PeerKey> {
        self.known.clear();
        std::mem::take(&mut self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_again_and_again_is_noted_once() {
        let mut list = WaitingList::default();
        for wait in 0..1000 {
            list.push(PeerKey(wait % 3));
        }
        assert_eq!(list.take(), [PeerKey(0), PeerKey(1), PeerKey(2)]);
        assert!(list.take().is_empty());
        list.push(PeerKey(1));
        assert_eq!(list.take(), [PeerKey(1)]);
    }
}
