//! What workers tell the table, and what they are told.

use crate::directory::state::{DirectoryChange, GroupPart, Interest};
use crate::model::ids::PeerKey;
use crate::model::principal::{Principal, QuotaUsage};
use ipcd_proto::control::{Answer, Query};
use serde::{Deserialize, Serialize};

/// What a worker tells the table.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DirectoryRequest {
    /// It knows of the changes up to this epoch.
    Seen(u64),
    /// Its first subscription of an interest, or another number of members of a group.
    Interested {
        /// For the confirmation.
        ticket: u64,
        /// What it wants.
        interest: Interest,
        /// Its part in the group.
        share: Option<GroupPart>,
    },
    /// Its last subscription of an interest has gone.
    Uninterested(Interest),
    /// What peers of a source take up there.
    QuotaUsage {
        /// The source.
        source: Principal,
        /// How much.
        spent: QuotaUsage,
    },
    /// A peer asks for a name.
    ClaimName {
        /// Which one.
        by: RequestingPeer,
        /// The peer.
        peer: u64,
        /// The name.
        name: String,
    },
    /// A name is free again.
    ReleaseName(String),
    /// It serves no peer any more, nor will it.
    Leaving,
    /// It ends, and this is what it has counted. All that it had to say to others it has said.
    Counted(Vec<(String, u64)>),
    /// A question to all workers.
    Ask {
        /// Its number for the question.
        ticket: u64,
        /// The peer that asks.
        by: RequestingPeer,
        /// What.
        query: Query,
    },
    /// Part of its answer to such a question.
    Answer {
        /// The question.
        asker: QueryTicket,
        /// The part.
        part: Option<Answer>,
        /// Whether it has no more to say.
        last: bool,
    },
}

/// What a worker is told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DirectoryEvent {
    /// What has changed for all.
    Changes {
        /// Numbers these batches.
        epoch: u64,
        /// What has changed.
        changes: Vec<DirectoryChange>,
    },
    /// All workers know of its interests up to this ticket.
    Confirmed {
        /// The generation that asked.
        to: u32,
        /// The ticket.
        ticket: u64,
    },
    /// Whether a peer may have its name.
    Named {
        /// The generation that asked.
        to: u32,
        /// The peer's place there.
        key: PeerKey,
        /// The peer.
        peer: u64,
        /// The name.
        name: String,
        /// Whether it may.
        granted: bool,
    },
    /// A question that a worker asks of all.
    Question {
        /// Who asks.
        asker: QueryTicket,
        /// What.
        query: Query,
    },
    /// Part of the answer to its own question.
    Answer {
        /// The question.
        asker: QueryTicket,
        /// The part.
        part: Option<Answer>,
        /// Whether nothing more will come.
        last: bool,
    },
    /// The peer may not ask its question.
    Denied(QueryTicket),
}

/// A peer for which a worker asks something. Who it is the supervisor knows by itself, but for what
/// the peer has proved to the worker.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RequestingPeer {
    /// Its place in the worker.
    pub key: PeerKey,
    /// The name of the token that it has proved; empty for the daemon's own.
    pub token: Option<String>,
    /// The name in the certificate that it has shown.
    pub certificate: Option<String>,
}

impl DirectoryRequest {
    /// For which peer it is, if it is for one.
    pub fn principal(&self) -> Option<&RequestingPeer> {
        match self {
            Self::ClaimName { by, .. } | Self::Ask { by, .. } => Some(by),
            _ => None,
        }
    }
}

/// A question that a worker asks of all.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct QueryTicket {
    /// Who asks.
    pub slot: u32,
    /// In which life.
    pub generation: u32,
    /// Its number for the question.
    pub ticket: u64,
}

/// News, and the slot of the worker that they are for.
pub type AddressedEvent = (u32, DirectoryEvent);
