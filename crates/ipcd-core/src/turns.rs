//! Turns: what a peer may cost the worker at once, and what is put off until others had theirs.
//!
//! Work is counted in steps of some 50 ns each: a copy of a message, a node of the interest table,
//! a frame that is looked at. A peer that has used up its steps is not read, and goes on in a later
//! turn; so does a message with more receivers than its publisher has steps. Each turn spends a
//! slice on what was put off, one after the other, so a peer that has little to do never waits for
//! those that have much.

use crate::core::{Output, Router};
use crate::fanout::FanOut;
use crate::inquiry::PendingQuery;
use crate::model::ids::PeerKey;
use crate::peer::Subscription;
use std::collections::VecDeque;
use std::time::Instant;

/// Steps of all peers in a turn, in parts of what one may use.
const PEERS_IN_TURN: usize = 2;
/// Steps that a peer gets even in a turn that others have used up: more than a request takes.
const LEAST: usize = 256;

/// Steps that are left.
#[derive(Debug, Default)]
pub(crate) struct StepBudget {
    /// To the one whose work is being done.
    left: usize,
    granted: usize,
    /// To all in this turn.
    in_turn: usize,
}

impl StepBudget {
    /// Counts work that is done.
    pub(crate) fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }

    /// Whether what is left to do has to be put off.
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Gives somebody steps.
    fn grant(&mut self, most: usize) {
        self.in_turn = self.in_turn.saturating_sub(self.granted - self.left);
        self.granted = most.min(self.in_turn.max(LEAST));
        self.left = self.granted;
    }

    fn begin_turn(&mut self, steps: usize) {
        *self = Self { left: 0, granted: 0, in_turn: steps };
    }
}

/// What was put off.
#[derive(Debug)]
pub(crate) enum DeferredWork {
    /// The rest of what a publisher of this id has sent.
    Publisher(PeerKey, u64),
    /// A message that has not reached all its receivers.
    FanOut(Box<FanOut>),
    /// What other workers have sent.
    Inbound,
    /// A question about all peers.
    Query(Box<PendingQuery>),
    /// Subscriptions of a peer that goes; whether its outbox was full.
    Leaving { key: PeerKey, leaving: Vec<Subscription>, was_full: bool },
}

impl Router {
    /// Whether something was put off: [`Router::go_on`] has something to do at once.
    pub fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Whose work goes on next, if it is one of ours.
    pub fn next_deferred(&self) -> Option<PeerKey> {
        let (key, id) = match self.deferred.front()? {
            DeferredWork::Publisher(key, id) => (*key, *id),
            DeferredWork::FanOut(fan_out) => fan_out.sender()?,
            DeferredWork::Inbound | DeferredWork::Query(_) | DeferredWork::Leaving { .. } => {
                return None;
            }
        };
        self.peers.get(key.0 as usize).filter(|peer| peer.origin.peer == id).map(|_| key)
    }

    /// Does a slice of what was put off first; what is left of it goes to the end of the queue. To be
    /// called once a turn, when all else is done.
    pub fn go_on(&mut self, now: Instant) {
        self.budget.grant(self.config.slice);
        match self.deferred.pop_front() {
            // It takes its steps when it is resumed.
            Some(DeferredWork::Publisher(key, id)) => self.resume_deferred(key, id),
            Some(DeferredWork::FanOut(fan_out)) => self.go_on_with(now, fan_out),
            Some(DeferredWork::Inbound) => self.go_on_arriving(now),
            Some(DeferredWork::Query(inquiry)) => self.go_on_answering(now, inquiry),
            Some(DeferredWork::Leaving { key, leaving, was_full }) => {
                self.go_on_leaving(key, leaving, was_full);
            }
            None => {}
        }
    }

    /// Does all that was put off: there will be no later turn.
    pub(crate) fn finish_deferred(&mut self, now: Instant) {
        while self.has_deferred() {
            self.go_on(now);
        }
    }

    /// A peer begins its part of a turn.
    pub(crate) fn grant_turn(&mut self, key: PeerKey) {
        let most = match std::mem::take(&mut self.peer(key).was_deferred) {
            true => self.config.slice,
            false => self.config.turn,
        };
        self.budget.grant(most);
    }

    /// Other workers begin theirs.
    pub(crate) fn grant_arrivals(&mut self) {
        self.budget.grant(self.config.turn);
    }

    /// All have had their part of a turn.
    pub(crate) fn end_turn(&mut self) {
        self.budget.begin_turn(PEERS_IN_TURN * self.config.turn);
    }

    /// Leaves a peer unread until a later turn.
    pub(crate) fn put_off(&mut self, key: PeerKey) {
        let peer = self.peer(key);
        (peer.waiting, peer.was_deferred) = (true, true);
        if !std::mem::replace(&mut peer.is_deferred, true) {
            let id = peer.origin.peer;
            self.deferred.push_back(DeferredWork::Publisher(key, id));
        }
    }

    /// A peer goes on, if it is still there and nothing else has let it.
    pub(crate) fn resume_deferred(&mut self, key: PeerKey, id: u64) {
        let peer = self.peers.get_mut(key.0 as usize).filter(|peer| peer.origin.peer == id);
        let Some(peer) = peer else { return };
        peer.is_deferred = false;
        if std::mem::take(&mut peer.waiting) {
            self.outputs.push_back(Output::Resume(key));
        }
    }
}

/// All that was put off, in the order in which it goes on.
pub(crate) type DeferredQueue = VecDeque<DeferredWork>;
