//! Publishers that wait for receivers: which of them goes on first, and how long it takes at most.
//!
//! When receivers can take more, the publisher goes on first that has waited longest without any of
//! its messages being taken. So one that floods, and has its next bytes there at once, is behind
//! those that it has kept waiting. What one message waits is bounded whatever receivers are full one
//! after the other: after `stall_timeout` it goes to all of them.

use std::collections::HashSet;
use std::time::Instant;

use crate::core::{Output, Router};
use crate::model::ids::PeerKey;
use crate::receiving::ReceiveProgress;
use foldhash::fast::RandomState;

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

    fn since(self) -> Option<Instant> {
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

impl Router {
    /// Leaves a peer unread until another's outbox has room.
    pub(crate) fn wait_for(&mut self, key: PeerKey, full: PeerKey) {
        self.peer(full).waiters.push(key);
        self.peer(key).waiting = true;
    }

    pub(crate) fn resume_waiters(&mut self, key: PeerKey) {
        let waiters = std::mem::take(&mut self.peer(key).waiters);
        self.resume(waiters);
    }

    /// Lets those go on that wait, the one first that has waited longest.
    pub(crate) fn resume(&mut self, mut waiters: Vec<PeerKey>) {
        if waiters.len() > 1 {
            let peers = &self.peers;
            waiters.sort_by_key(|key| peers.get(key.0 as usize).and_then(|peer| peer.wait.since()));
        }
        for waiter in waiters {
            if let Some(peer) = self.peers.get_mut(waiter.0 as usize)
                && std::mem::take(&mut peer.waiting)
            {
                self.outputs.push_back(Output::Resume(waiter));
            }
        }
    }

    /// Notes what has come of what a peer had sent. One that waits and of which something was taken
    /// begins to wait anew.
    pub(crate) fn note_wait(&mut self, now: Instant, key: PeerKey, progress: &ReceiveProgress) {
        let stall = self.config.stall_timeout;
        let peer = self.peer(key);
        let before = peer.wait.since().filter(|_| progress.consumed == 0);
        peer.wait = match progress.waiting {
            true => WaitState::Since(before.unwrap_or(now)),
            false => WaitState::No,
        };
        if let Some(since) = peer.wait.since() {
            self.arm(key, since + stall);
        }
    }

    /// When a peer's message has waited as long as it may.
    pub(crate) fn overdue_at(&self, key: PeerKey) -> Option<Instant> {
        let peer = &self.peers[key.0 as usize];
        let since = peer.wait.since().filter(|_| peer.waiting && peer.is_open())?;
        Some(since + self.config.stall_timeout)
    }

    /// Lets the next message of a peer through that has waited as long as it may.
    pub(crate) fn check_wait(&mut self, now: Instant, key: PeerKey) {
        if self.overdue_at(key).is_some_and(|at| at <= now) {
            self.peer(key).wait = WaitState::Overdue;
            self.resume(vec![key]);
        }
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
