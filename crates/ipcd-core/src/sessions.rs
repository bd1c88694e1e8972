//! Sessions: their start, their subscriptions, and their end. Delivery of messages is not in here.

pub(crate) mod ending;
pub(crate) mod handshake;
pub(crate) mod rights;
pub(crate) mod subscriptions;
pub(crate) mod work;

use crate::model::ids::{PeerKey, Ticket};
use crate::model::waiting::WaitingList;
use crate::output::Output;
use crate::peers::Peers;
use crate::requests::{DeliveryOutcome, Requests};
use crate::routing::index::SubscriptionIndex;
use crate::sessions::rights::RightsCache;
use crate::sessions::work::{DeferredWork, PEERS_IN_TURN, TurnWork};
use std::collections::HashSet;
use std::time::Instant;

/// The sessions of the attached peers.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) peers: Peers,
    pub(crate) index: SubscriptionIndex,
    pub(crate) requests: Requests,
    pub(crate) work: TurnWork,
    pub(crate) rights_cache: RightsCache,
    /// The names of peers, in a router without a directory.
    pub(crate) names: HashSet<String>,
    /// Publishers that wait until a queue group has a member that can take more.
    pub(crate) group_waiters: WaitingList,
    /// The number of detached peers with subscriptions that are still to be removed.
    pub(crate) gone: usize,
    /// The number of subscriptions since the start.
    pub(crate) births: u64,
}

impl Sessions {
    pub(crate) fn new(peers: Peers) -> Self {
        let mut sessions = Self {
            peers,
            index: SubscriptionIndex::default(),
            requests: Requests::default(),
            work: TurnWork::default(),
            rights_cache: RightsCache::default(),
            names: HashSet::new(),
            group_waiters: WaitingList::default(),
            gone: 0,
            births: 0,
        };
        sessions.end_turn();
        sessions
    }
}

impl Sessions {
    /// Notes the outcome of a copy of a message, for the publisher that waits for it.
    pub(crate) fn conclude(&mut self, now: Instant, ticket: Ticket, outcome: DeliveryOutcome) {
        self.requests.conclude_copy(&mut self.peers, now, ticket, outcome);
    }

    /// Notes that all copies of a message have been queued or sent.
    pub(crate) fn dealt_out(&mut self, now: Instant, ticket: Ticket) {
        self.requests.dealt_out(&mut self.peers, now, ticket);
    }

    /// Stops reading a peer until a later turn.
    pub(crate) fn defer(&mut self, key: PeerKey) {
        let peer = &mut self.peers.table[key];
        // `waiting` stops the worker from reading; `was_deferred` limits the next turn to a slice.
        (peer.waiting, peer.was_deferred) = (true, true);
        if !std::mem::replace(&mut peer.is_deferred, true) {
            let id = peer.origin.peer;
            self.work.queue.push_back(DeferredWork::Publisher(key, id));
        }
    }

    /// Lets a deferred peer continue, if it is still attached and still waits.
    pub(crate) fn resume_deferred(&mut self, key: PeerKey, id: u64) {
        // The key may belong to another peer by now; the id does not.
        let peer = self.peers.table.get_mut(key).filter(|peer| peer.origin.peer == id);
        let Some(peer) = peer else { return };
        peer.is_deferred = false;
        if std::mem::take(&mut peer.waiting) {
            self.peers.outputs.push_back(Output::Resume(key));
        }
    }

    /// Starts a peer's part of a turn. A peer that was deferred gets a slice only.
    pub(crate) fn grant_turn(&mut self, key: PeerKey) {
        let most = match std::mem::take(&mut self.peers.table[key].was_deferred) {
            true => self.peers.config.slice,
            false => self.peers.config.turn,
        };
        self.work.budget.grant(most);
    }

    /// Starts the other workers' part of a turn.
    pub(crate) fn grant_arrivals(&mut self) {
        self.work.budget.grant(self.peers.config.turn);
    }

    /// Ends a turn: the next one starts with a full budget.
    pub(crate) fn end_turn(&mut self) {
        self.work.budget.begin_turn(PEERS_IN_TURN * self.peers.config.turn);
    }

    /// Whether work was deferred for a later turn.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.work.queue.is_empty()
    }

    /// Wakes the publishers that wait for a group, because it may have a new member.
    pub(crate) fn resume_group_waiters(&mut self) {
        let waiters = self.group_waiters.take();
        self.peers.resume(waiters);
    }

    /// Frees the key of a detached peer, of which no subscription is left.
    pub(crate) fn vacate(&mut self, key: PeerKey) {
        self.peers.leave_quota(key);
        self.peers.table.remove(key);
        self.gone -= 1;
        debug_assert!(
            !self.peers.table.is_empty() || self.peers.pool.is_free(),
            "a chunk is held although no peer is left"
        );
    }
}
