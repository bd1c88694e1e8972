//! The order in which blocked publishers go on.
//!
//! The publisher that has waited longest without progress goes on first. A publisher that floods has
//! its next bytes there at once, and would otherwise stand in front of those that it keeps waiting.

use crate::model::ids::PeerKey;
use foldhash::fast::RandomState;
use std::collections::HashSet;
use std::time::Instant;

/// How a publisher waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum WaitState {
    /// Not, as far as is known.
    #[default]
    No,
    /// Nothing of it was taken since then.
    Since(Instant),
    /// Its next message has waited as long as it may.
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

/// Publishers in the order in which they began to wait. One that was woken by something else and
/// waits anew stays where it is: a list that nobody empties for long has an entry a peer, not a wait.
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

    /// All of them, who wait no more.
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
