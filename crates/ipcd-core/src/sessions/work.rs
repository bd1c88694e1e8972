//! The work of a turn: what a peer may cost the worker at once, and what waits until others had theirs.
//!
//! Work is counted in steps of some 50 ns: a copy of a message, a node of the trie, a frame that is
//! looked at. A peer that has used up its steps is not read, and goes on in a later turn; so does a
//! message with more receivers than its publisher has steps. Each turn spends a slice on the work that
//! was put off, one piece after the other, so a peer with little to do never waits for those with much.

use crate::directory::messages::QueryTicket;
use crate::model::ids::{PeerKey, Ticket};
use crate::peers::peer::Subscription;
use crate::routing::routes::RouteTargets;
use ipcd_proto::control::Origin;
use ipcd_proto::control::PeerStatus;
use ipcd_proto::control::Query;
use ipcd_proto::control::SubscriptionStatus;
use std::collections::VecDeque;
use std::rc::Rc;

/// Steps of all peers in a turn, in parts of what one may use.
pub(crate) const PEERS_IN_TURN: usize = 2;

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
    pub(crate) fn grant(&mut self, most: usize) {
        self.in_turn = self.in_turn.saturating_sub(self.granted - self.left);
        self.granted = most.min(self.in_turn.max(LEAST));
        self.left = self.granted;
    }

    pub(crate) fn begin_turn(&mut self, steps: usize) {
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

/// The work of the present turn, and the work that later turns go on with.
#[derive(Debug, Default)]
pub(crate) struct TurnWork {
    pub(crate) budget: StepBudget,
    /// In the order in which it goes on.
    pub(crate) queue: VecDeque<DeferredWork>,
}

/// Who sent a run: a peer of this router, or of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageSender {
    pub(crate) key: Option<PeerKey>,
    pub(crate) id: u64,
}

/// A run on its way, which some members of its route have not got yet: they get it in later turns,
/// and its publisher goes on when they have.
#[derive(Debug)]
pub(crate) struct FanOut {
    pub(crate) from: MessageSender,
    /// Who that is, for it may have gone when the last members get it.
    pub(crate) origin: Option<Origin>,
    pub(crate) targets: Rc<RouteTargets>,
    /// How many members have had it.
    pub(crate) at: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: u64,
    pub(crate) subscription: u32,
    pub(crate) ticket: Option<Ticket>,
    /// Subscriptions that there had been when it was accepted: it is for no later one.
    pub(crate) births: u64,
}

impl FanOut {
    /// The peer here that has sent it.
    pub(crate) fn sender(&self) -> Option<(PeerKey, u64)> {
        self.from.key.map(|key| (key, self.from.id))
    }
}

/// A question, and how much of it is answered.
#[derive(Debug)]
pub(crate) struct PendingQuery {
    pub(crate) by: QueryOrigin,
    pub(crate) query: Query,
    /// The place of the next peer to tell of.
    pub(crate) next: u32,
    /// What is still to be told of the peers before that.
    pub(crate) peers: VecDeque<PeerStatus>,
    pub(crate) subscriptions: VecDeque<SubscriptionStatus>,
    pub(crate) parts: usize,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QueryOrigin {
    /// A peer of this router's, of which there is no other: by its ticket.
    Here(u64),
    /// Another worker, or this one by way of the table.
    Directory(QueryTicket),
}
