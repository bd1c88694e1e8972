//! The work of a turn: the steps that a peer may use at once, and the work that waits for later
//! turns.
//!
//! Work is counted in steps of some 50 ns: a copy of a message, a row of the index, or a frame that
//! is examined. A peer that has used up its steps is not read, and continues in a later turn. The
//! same applies to a message with more receivers than its publisher has steps. Each turn spends a
//! slice on the deferred work, one item after the other, so that a peer with little to do never
//! waits for peers with much.

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

/// Steps of all peers in a turn, as a multiple of those for one peer.
pub(crate) const PEERS_IN_TURN: usize = 2;

/// Steps that a peer gets even in a turn whose budget is used up: more than a request needs.
const LEAST: usize = 256;

/// The steps that are left.
#[derive(Debug, Default)]
pub(crate) struct StepBudget {
    /// For the peer or worker whose work is being done.
    left: usize,
    /// Used since the last grant, which may be more than was granted.
    used: usize,
    /// For all peers in this turn.
    in_turn: usize,
}

impl StepBudget {
    /// Counts work that was done.
    pub(crate) fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
        self.used = self.used.saturating_add(steps);
    }

    /// Whether the remaining work has to be deferred.
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Whether the steps of the turn are used up, so that work which may take as long as a turn has
    /// to be deferred.
    pub(crate) fn is_turn_spent(&self) -> bool {
        self.in_turn <= self.used
    }

    /// Gives steps to the next peer or worker of the turn.
    pub(crate) fn grant(&mut self, most: usize) {
        // The previous grant is charged only now, by the steps that were really used.
        self.in_turn = self.in_turn.saturating_sub(self.used);
        self.left = most.min(self.in_turn.max(LEAST));
        self.used = 0;
    }

    pub(crate) fn begin_turn(&mut self, steps: usize) {
        *self = Self { left: 0, used: 0, in_turn: steps };
    }
}

/// An item of deferred work.
#[derive(Debug)]
pub(crate) enum DeferredWork {
    /// The unread bytes of the publisher with this id.
    Publisher(PeerKey, u64),
    /// A message that has not reached all receivers.
    FanOut(Box<FanOut>),
    /// Frames of other workers.
    Inbound,
    /// A query about all peers.
    Query(Box<PendingQuery>),
    /// Subscriptions of a peer that leaves, and whether its send queue was full.
    Leaving { key: PeerKey, leaving: Vec<Subscription>, was_full: bool },
}

/// The work of the present turn, and the work for later turns.
#[derive(Debug, Default)]
pub(crate) struct TurnWork {
    pub(crate) budget: StepBudget,
    /// In the order in which the items continue.
    pub(crate) queue: VecDeque<DeferredWork>,
}

/// The sender of a batch: a peer of this router, or of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageSender {
    pub(crate) key: Option<PeerKey>,
    pub(crate) id: u64,
}

/// A batch that some members of its route have not received yet. They receive it in later turns,
/// and its publisher waits until then, so that the order of its messages is kept.
#[derive(Debug)]
pub(crate) struct FanOut {
    pub(crate) from: MessageSender,
    /// The identity of the sender, which may have gone when the last members receive the batch.
    pub(crate) origin: Option<Origin>,
    pub(crate) targets: Rc<RouteTargets>,
    /// The number of members that have received it.
    pub(crate) at: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: u64,
    pub(crate) subscription: u32,
    pub(crate) ticket: Option<Ticket>,
    /// The number of subscriptions when the batch was accepted. Later ones do not receive it.
    pub(crate) births: u64,
}

impl FanOut {
    /// Returns the peer of this router that has sent the batch.
    pub(crate) fn sender(&self) -> Option<(PeerKey, u64)> {
        self.from.key.map(|key| (key, self.from.id))
    }
}

/// A query, and the progress of its answer.
#[derive(Debug)]
pub(crate) struct PendingQuery {
    pub(crate) by: QueryOrigin,
    pub(crate) query: Query,
    /// The key of the next peer to report.
    pub(crate) next: u32,
    /// The status of earlier peers, which is still to be sent.
    pub(crate) peers: VecDeque<PeerStatus>,
    pub(crate) subscriptions: VecDeque<SubscriptionStatus>,
    pub(crate) parts: usize,
}

/// The origin of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QueryOrigin {
    /// A peer of this router, without a directory: the ticket.
    Here(u64),
    /// The directory, on behalf of another worker or this one.
    Directory(QueryTicket),
}
