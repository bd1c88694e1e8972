//! Questions about the daemon, and the answers.

use serde::{Deserialize, Serialize};

use super::{Origin, Overflow, Reason};

/// A question about the daemon.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Answered by one [`Answer::Status`].
    Status,
    /// Answered by [`Answer::Peers`], as many as it takes.
    Peers,
    /// How many subscriptions match a subject; answered by [`Answer::Matching`].
    Matching(String),
    /// Cuts a peer off; answered by [`Answer::Kicked`].
    Kick(u64),
    /// The peer of this name or id; answered by [`Answer::Found`].
    Find(String),
    /// Answered by [`Answer::Subscriptions`], as many as it takes.
    Subscriptions,
    /// Answered by one [`Answer::Sandbox`].
    Sandbox,
    /// What the access rules say of somebody; answered by [`Answer::Verdict`].
    Access {
        /// Who.
        who: Who,
        /// Who does what.
        access: Access,
    },
}

/// What access rules know a peer by; what is unknown is `None`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Who {
    /// Its user.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// A name of the listener that it came in by.
    pub listener: Option<String>,
    /// The name of the token that it has proved; empty for the daemon's own.
    pub token: Option<String>,
    /// The name in the certificate that it has shown.
    pub certificate: Option<String>,
}

/// What access rules allow or deny.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Access {
    /// Publishing to a subject; with `@` at its beginning, to one peer.
    Publish(String),
    /// Subscribing.
    Subscribe {
        /// Which messages.
        filter: String,
        /// Whether as a member of a group.
        group: bool,
    },
    /// Seeing other peers, and cutting them off.
    Admin,
    /// Having this name.
    Name(String),
}

/// What access rules say.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Whether only some of what the filter matches may be heard.
    pub partly: bool,
    /// The rule that decides, counted from 1; `None` if none does.
    pub rule: Option<u32>,
    /// Its line in the configuration.
    pub line: Option<u32>,
}

/// An answer, or a part of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The daemon.
    Status(Status),
    /// Some of the peers.
    Peers(Vec<PeerStatus>),
    /// How many subscriptions match.
    Matching(u64),
    /// Whether there was such a peer.
    Kicked(bool),
    /// The id of the peer, if there is such a one.
    Found(Option<u64>),
    /// Some of the subscriptions.
    Subscriptions(Vec<SubscriptionStatus>),
    /// What workers are confined by, for people; the first word is `full`, `partial` or `off`.
    Sandbox(String),
    /// What the access rules say.
    Verdict(Verdict),
}

/// The daemon, its workers, listeners and counters.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor's process.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Its workers.
    pub workers: Vec<WorkerStatus>,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Its counters, by name.
    pub counters: Vec<(String, u64)>,
}

/// One worker.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its place.
    pub slot: u32,
    /// Its process.
    pub pid: u32,
    /// Which life of the place this is.
    pub generation: u32,
    /// Peers that it serves.
    pub peers: u64,
}

/// One listener.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Where it listens.
    pub endpoint: String,
    /// How bytes on it become messages.
    pub codec: String,
    /// Peers that came in by it.
    pub peers: u64,
}

/// One peer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who it is.
    pub origin: Origin,
    /// The slot of the worker that serves it.
    pub worker: u32,
    /// Its filters; those that did not fit are left out.
    pub subscriptions: Vec<String>,
    /// Messages accepted from it.
    pub msgs_in: u64,
    /// Messages handed to its transport: those that wait in its outbox are not counted yet.
    pub msgs_out: u64,
    /// Bytes of frames accepted from it.
    pub bytes_in: u64,
    /// Bytes of frames handed to its transport.
    pub bytes_out: u64,
    /// Messages for it that were dropped.
    pub dropped: u64,
    /// Bytes in its outbox.
    pub queued_bytes: u64,
}

/// One subscription. `matched` is always the sum of `delivered`, `dropped` and `queued`.
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
    /// Which messages.
    pub filter: String,
    /// The group that it shares them with.
    pub group: Option<String>,
    /// What happens when the peer's outbox is full.
    pub overflow: Overflow,
    /// Messages that were for it.
    pub matched: u64,
    /// Messages that the peer has in its socket, pipe or FIFO.
    pub delivered: u64,
    /// Messages that were dropped, by reason.
    pub dropped: Vec<(Reason, u64)>,
    /// Messages in the peer's outbox.
    pub queued: u64,
}
