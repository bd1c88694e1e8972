//! The bodies of control frames, in bincode 2 with fixed-size little-endian integers.
//!
//! So a field is its bytes, an `Option` a byte 0 or 1 and then the value, a string or a list a
//! `u64` length and then the items, an enum a `u32` index and then its fields.

use std::net::SocketAddr;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::auth::{Nonce, Proof};
use crate::limits::MAX_CONTROL;

/// What memory decoding may claim for each byte on the wire, at the most.
const CLAIM: usize = 8 * MAX_CONTROL;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<CLAIM>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<CLAIM>();

/// A body that cannot be understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a malformed body: {0}")]
pub struct BadBody(String);

/// The body of a control frame.
///
/// # Panics
/// If it is larger than a control body may be: what goes in is ours and bounded.
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(body, CONFIG).expect("our own control bodies are bounded")
}

/// Reads the body of a control frame, all of it.
///
/// # Errors
/// If the bytes are not exactly one body of this type.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadBody> {
    if body.len() > MAX_CONTROL {
        return Err(BadBody(format!("{} bytes, over {MAX_CONTROL}", body.len())));
    }
    let (value, used) = bincode::serde::decode_from_slice(body, CONFIG)
        .map_err(|error| BadBody(error.to_string()))?;
    if used < body.len() {
        return Err(BadBody(format!("{} bytes too many", body.len() - used)));
    }
    Ok(value)
}

/// Opens a session.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`Hello::MAGIC`].
    pub magic: [u8; 4],
    /// The oldest version that the peer speaks.
    pub oldest: u16,
    /// The newest version that the peer speaks.
    pub newest: u16,
    /// Optional features that the peer asks for, one bit each; none exist yet.
    pub features: u64,
    /// The peer's random number, for the proofs.
    pub nonce: Nonce,
    /// A name that no other peer may have.
    pub name: Option<String>,
    /// Which named token the peer will prove; `None` for the daemon's own.
    pub token: Option<String>,
    /// Whether the peer's own messages are kept from its own subscriptions.
    pub no_echo: bool,
}

impl Hello {
    /// What every HELLO begins with.
    pub const MAGIC: [u8; 4] = *b"ipcd";
}

/// Asks for proof of a token.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Challenge {
    /// The daemon's random number.
    pub nonce: Nonce,
}

/// The proof.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Auth {
    /// See [`crate::auth`].
    pub proof: Proof,
}

/// The session is open.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will speak.
    pub version: u16,
    /// The features granted.
    pub features: u64,
    /// The peer's id.
    pub peer: u64,
    /// Bytes of the largest payload.
    pub max_payload: u32,
    /// The daemon's version, for people.
    pub server: String,
    /// The daemon's proof, if the peer had to prove a token.
    pub proof: Option<Proof>,
}

/// Asks for messages.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The peer's number for the subscription.
    pub subscription: u32,
    /// Which messages.
    pub filter: String,
    /// Share the work with the other members of this group: each message goes to one of them.
    pub group: Option<String>,
    /// What happens when the peer does not take messages fast enough; `None` for the daemon's
    /// choice: `DropOldest` for a filter that ends in `>`, else `Block`.
    pub overflow: Option<Overflow>,
    /// Whether an ORIGIN notice tells who a sender is, before its first message.
    pub origin: bool,
}

/// What happens to messages for a subscriber whose outbox is full.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Overflow {
    /// Publishers wait.
    Block,
    /// The oldest messages of the subscription are dropped.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The subscriber is cut off.
    Disconnect,
}

/// Ends a subscription.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// The peer's number for it.
    pub subscription: u32,
}

/// A refusal.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// What, for people.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Code {
    /// The frame is not understood, or not expected now.
    Protocol,
    /// No common version.
    Version,
    /// The token is missing or wrong, or the peer may not do this.
    Denied,
    /// The message is too large.
    TooLarge,
    /// No subject, filter, group or name.
    BadSubject,
    /// The name is taken.
    NameTaken,
    /// A limit on peers or subscriptions is reached.
    Limit,
    /// Nothing came in time.
    TimedOut,
    /// The peer did not read fast enough.
    TooSlow,
    /// The daemon is ending.
    Ending,
    /// The daemon does not know this feature.
    Unsupported,
    /// An administrator wants the peer gone.
    Kicked,
    /// Nobody is there to answer the request.
    NoResponder,
    /// Nobody will answer the request any more: who had it has gone, or it was dropped.
    Unanswered,
}

/// What became of a message: the copies of it, by what happened to them.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Copies that receivers have in their sockets, pipes or FIFOs.
    pub delivered: u64,
    /// Copies that were dropped, by reason; a reason that did not occur is left out.
    pub dropped: Vec<(Reason, u64)>,
}

impl Receipt {
    /// Copies that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Counts copies that were dropped.
    pub fn drop_for(&mut self, reason: Reason, copies: u64) {
        match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(copies),
            None => self.dropped.push((reason, copies)),
        }
    }

    /// Adds what became of other copies of the message.
    pub fn add(&mut self, other: &Self) {
        self.delivered = self.delivered.saturating_add(other.delivered);
        other.dropped.iter().for_each(|&(reason, copies)| self.drop_for(reason, copies));
    }
}

/// Why a copy of a message was dropped.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Reason {
    /// It was the oldest, its receiver's outbox was full, and the subscription drops the oldest.
    Oldest,
    /// Its receiver's outbox was full, and the subscription drops new messages.
    Newest,
    /// Its receiver was cut off: it did not read, or an administrator wanted it gone.
    CutOff,
    /// Its receiver has gone.
    Departed,
    /// The worker that had it has died.
    WorkerDied,
    /// It is larger than its receiver can be sent.
    TooLarge,
    /// Nobody reads where its receiver has it from.
    NoReader,
}

impl Reason {
    /// All reasons, in order.
    pub const ALL: [Self; 7] = [
        Self::Oldest,
        Self::Newest,
        Self::CutOff,
        Self::Departed,
        Self::WorkerDied,
        Self::TooLarge,
        Self::NoReader,
    ];

    /// Its name in counters and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
            Self::CutOff => "cut_off",
            Self::Departed => "departed",
            Self::WorkerDied => "worker_died",
            Self::TooLarge => "too_large",
            Self::NoReader => "no_reader",
        }
    }
}

/// News that nobody asked for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// Who a sender is.
    Origin(Origin),
    /// Messages of a subscription were dropped.
    Gap {
        /// Which subscription.
        subscription: u32,
        /// Why.
        reason: Reason,
        /// How many since the last notice.
        dropped: u64,
    },
}

/// Who a sender is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Its id.
    pub peer: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The transport it uses.
    pub transport: String,
    /// Its process, if the kernel told.
    pub pid: Option<u32>,
    /// Its user, if the kernel told.
    pub uid: Option<u32>,
    /// Its group, if the kernel told.
    pub gid: Option<u32>,
    /// Its address and port, if it is on the network.
    pub addr: Option<SocketAddr>,
}

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
    pub incarnation: u32,
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
    /// Messages put into its outbox.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            magic: Hello::MAGIC,
            oldest: 1,
            newest: 1,
            features: 0,
            nonce: [3; 32],
            name: Some("me".into()),
            token: None,
            no_echo: false,
        }
    }

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let bytes = encode(&hello());
        assert_eq!(decode(&bytes), Ok(hello()));
        for cut in 0..bytes.len() {
            assert!(decode::<Hello>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode::<Hello>(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_claimed_length_claims_no_memory() {
        let mut bytes = encode(&Answer::Peers(Vec::new()));
        bytes[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Answer>(&bytes).is_err());
        bytes[4..12].copy_from_slice(&100_000_u64.to_le_bytes());
        assert!(decode::<Answer>(&bytes).is_err());
    }
}
