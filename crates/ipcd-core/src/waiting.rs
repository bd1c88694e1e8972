//! Publishers that wait for the same, each noted once.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use crate::peer::PeerKey;

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
