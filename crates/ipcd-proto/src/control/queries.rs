//! The bodies of QUERY and ANSWER: questions about the daemon.

use serde::{Deserialize, Serialize};

use super::{DropReason, Origin, OverflowPolicy};

/// A question about the daemon.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Answered by one [`Answer::Status`].
    Status,
    /// Answered by one or more [`Answer::Peers`].
    Peers,
    /// Asks for the number of subscriptions that match a subject; answered by [`Answer::Matching`].
    Matching(String),
    /// Disconnects a peer; answered by [`Answer::Kicked`].
    Kick(u64),
    /// Asks for the peer of this name or id; answered by [`Answer::Found`].
    Find(String),
    /// Answered by one or more [`Answer::Subscriptions`].
    Subscriptions,
    /// Answered by one [`Answer::Sandbox`].
    Sandbox,
    /// Asks whether the access rules allow something; answered by [`Answer::Verdict`].
    Access {
        /// The peer, as access rules know it.
        who: PeerAttributes,
        /// The action.
        access: AccessRequest,
    },
}

/// The attributes by which access rules know a peer. An unknown one is `None`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerAttributes {
    /// Its user.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// A name of the listener that accepted it.
    pub listener: Option<String>,
    /// The name of the token that it has proved; empty for the daemon's own token.
    pub token: Option<String>,
    /// The name in its certificate.
    pub certificate: Option<String>,
}

/// An action that access rules allow or deny.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum AccessRequest {
    /// Publishing to a subject; with `@` at its beginning, to one peer.
    Publish(String),
    /// Subscribing.
    Subscribe {
        /// The filter.
        filter: String,
        /// Whether the peer subscribes as a member of a group.
        group: bool,
    },
    /// Listing other peers, and disconnecting them.
    Admin,
    /// Registering under this name.
    Name(String),
}

/// The decision of the access rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct AccessVerdict {
    /// Whether the action is allowed.
    pub allowed: bool,
    /// Whether only some of the messages that match the filter may be received.
    pub partly: bool,
    /// The rule that decides, counted from 1; `None` if none does.
    pub rule: Option<u32>,
    /// The line of the rule in the configuration.
    pub line: Option<u32>,
}

/// An answer, or a part of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The state of the daemon.
    Status(DaemonStatus),
    /// Some of the peers.
    Peers(Vec<PeerStatus>),
    /// The number of matching subscriptions.
    Matching(u64),
    /// Whether the peer existed.
    Kicked(bool),
    /// The id of the peer, if it exists.
    Found(Option<u64>),
    /// Some of the subscriptions.
    Subscriptions(Vec<SubscriptionStatus>),
    /// The confinement of workers, for people. The first word is `full`, `partial` or `off`.
    Sandbox(String),
    /// The decision of the access rules.
    Verdict(AccessVerdict),
}

/// The state of the daemon: its workers, listeners and counters.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// The process id of the supervisor.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Its workers.
    pub workers: Vec<WorkerStatus>,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Its counters, by name.
    pub counters: Vec<(String, u64)>,
}

/// The state of one worker.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its slot, which its successors keep.
    pub slot: u32,
    /// Its process id.
    pub pid: u32,
    /// The number of workers that have had the slot, this one included.
    pub generation: u32,
    /// Peers that it serves.
    pub peers: u64,
}

/// The state of one listener.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The real endpoint, with the port that the kernel chose.
    pub endpoint: String,
    /// The codec of its peers, such as `frame`.
    pub codec: String,
    /// Connected peers that it has accepted.
    pub peers: u64,
}

/// The state of one peer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its identity.
    pub origin: Origin,
    /// The slot of the worker that serves it.
    pub worker: u32,
    /// Its filters, as many as fit into the body.
    pub subscriptions: Vec<String>,
    /// Messages accepted from it.
    pub msgs_in: u64,
    /// Messages that its transport has taken. Messages in its send queue are not counted yet.
    pub msgs_out: u64,
    /// Bytes of frames accepted from it.
    pub bytes_in: u64,
    /// Bytes of frames that its transport has taken.
    pub bytes_out: u64,
    /// Messages for it that were dropped.
    pub dropped: u64,
    /// Bytes in its send queue.
    pub queued_bytes: u64,
}

/// The state of one subscription. `matched` is always the sum of `delivered`, `dropped` and `queued`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    /// The peer's id.
    pub peer: u64,
    /// The peer's name, if it has one.
    pub name: Option<String>,
    /// The slot of the worker that serves it.
    pub worker: u32,
    /// The peer's number for it.
    pub subscription: u32,
    /// The filter.
    pub filter: String,
    /// The group.
    pub group: Option<String>,
    /// The policy for a full send queue.
    pub overflow: OverflowPolicy,
    /// Messages that matched the filter.
    pub matched: u64,
    /// Messages that are in the peer's socket, pipe or FIFO.
    pub delivered: u64,
    /// Messages that were dropped, by reason.
    pub dropped: Vec<(DropReason, u64)>,
    /// Messages in the peer's send queue.
    pub queued: u64,
}
