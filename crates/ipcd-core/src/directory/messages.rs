//! The messages between workers and the directory. An enum for each direction, so that a message in
//! the wrong direction does not compile.

use crate::directory::state::DirectoryChange;
use crate::model::ids::PeerKey;
use crate::model::interest::{GroupPart, Interest};
use crate::model::principal::{Principal, QuotaUsage};
use ipcd_proto::control::{Answer, Query};
use serde::{Deserialize, Serialize};

/// A message of a worker to the directory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DirectoryRequest {
    /// The worker has applied all changes up to this epoch.
    Seen(u64),
    /// The worker has the first subscription of an interest, or a different number of group
    /// members.
    Interested {
        /// The number by which the directory confirms the interest.
        ticket: u64,
        /// The filter, and the group if there is one.
        interest: Interest,
        /// The worker's part in the group.
        share: Option<GroupPart>,
    },
    /// The worker has lost the last subscription of an interest.
    Uninterested(Interest),
    /// The worker has something for the worker in this slot.
    Meet(u32),
    /// Publishers wait for a group, and the worker has looked its members up in this version of the
    /// table of interests. It wants to know of new members.
    WatchGroups(u32),
    /// The resources that peers of a principal use at this worker.
    QuotaUsage {
        /// The principal.
        principal: Principal,
        /// The amount in use.
        usage: QuotaUsage,
    },
    /// A peer asks for a name.
    ClaimName {
        /// The peer's index and proven identity.
        by: RequestingPeer,
        /// The id of the peer.
        peer: u64,
        /// The name.
        name: String,
    },
    /// A name is free again.
    ReleaseName(String),
    /// The worker serves no peer any more, and will serve none.
    Leaving,
    /// The worker ends, and has sent everything to the other workers. These are its final counters.
    Counted(Vec<(String, u64)>),
    /// A question for all workers.
    Ask {
        /// The worker's number for the question.
        ticket: u64,
        /// The peer that asks.
        by: RequestingPeer,
        /// The query of the peer.
        query: Query,
    },
    /// A part of the worker's answer to a question.
    Answer {
        /// The ticket of the question.
        asker: QueryTicket,
        /// The part, if there is one.
        part: Option<Answer>,
        /// Whether this is the worker's last part.
        last: bool,
    },
}

/// A message of the directory to a worker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DirectoryEvent {
    /// Changes of the shared state.
    Changes {
        /// The number of this batch of changes.
        epoch: u64,
        /// The changes, in order.
        changes: Vec<DirectoryChange>,
    },
    /// A worker that this one has met, or meets now, has changed.
    WorkerChanged {
        /// The generation that the event is for.
        to: u32,
        /// The change.
        change: DirectoryChange,
    },
    /// A group may have new members since the worker asked for them.
    GroupsChanged {
        /// The generation that the event is for.
        to: u32,
    },
    /// In this slot is no worker that can be met.
    Absent {
        /// The generation that the event is for.
        to: u32,
        /// The slot.
        slot: u32,
    },
    /// This worker's interests up to the ticket are in force for all messages from now on.
    Confirmed {
        /// The generation that the event is for. A successor in the slot ignores it.
        to: u32,
        /// The last confirmed ticket.
        ticket: u64,
    },
    /// The answer to a request for a name.
    Named {
        /// The generation that the event is for.
        to: u32,
        /// The index of the peer in that worker.
        key: PeerKey,
        /// The id of the peer.
        peer: u64,
        /// The name.
        name: String,
        /// Whether the peer has the name now.
        granted: bool,
    },
    /// A question of another worker, to be answered.
    Question {
        /// The ticket of the question.
        asker: QueryTicket,
        /// The query.
        query: Query,
    },
    /// A part of the answer to the worker's own question.
    Answer {
        /// The ticket of the question.
        asker: QueryTicket,
        /// The part, if there is one.
        part: Option<Answer>,
        /// Whether the answer is complete.
        last: bool,
    },
    /// The peer has no right to ask this question.
    Denied(QueryTicket),
}

/// The peer for which a worker sends a request. The supervisor knows the peer's identity itself;
/// only the proofs that the peer gave the worker come from here.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RequestingPeer {
    /// The index of the peer in the worker.
    pub key: PeerKey,
    /// The name of the proved token; empty for the daemon's own.
    pub token: Option<String>,
    /// The name in the certificate of the peer.
    pub certificate: Option<String>,
}

impl DirectoryRequest {
    /// Returns the peer that the request is for, if there is one.
    pub fn requesting_peer(&self) -> Option<&RequestingPeer> {
        match self {
            Self::ClaimName { by, .. } | Self::Ask { by, .. } => Some(by),
            _ => None,
        }
    }
}

/// The identity of a question of a worker.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct QueryTicket {
    /// The slot of the asking worker.
    pub slot: u32,
    /// The generation of the asking worker.
    pub generation: u32,
    /// The worker's number for the question.
    pub ticket: u64,
}

/// An event, and the slot of the worker that receives it.
pub type AddressedEvent = (u32, DirectoryEvent);
