//! The bodies of the handshake, and refusals.

use serde::{Deserialize, Serialize};

use crate::auth::{Nonce, Proof};

/// The body of HELLO: opens a session.
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
    /// The name of the token that the peer will prove; `None` for the daemon's own token.
    pub token: Option<String>,
    /// Whether the peer's subscriptions leave out its own messages.
    pub no_echo: bool,
}

impl Hello {
    /// The first bytes of every HELLO.
    pub const MAGIC: [u8; 4] = *b"ipcd";
}

/// The body of CHALLENGE: asks for proof of a token.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Challenge {
    /// The daemon's random number.
    pub nonce: Nonce,
}

/// The body of AUTH: the proof of a token.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Auth {
    /// The peer's proof, see [`crate::auth`].
    pub proof: Proof,
}

/// The body of WELCOME: the session is open.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version of the protocol in this session.
    pub version: u16,
    /// The granted features, one bit each.
    pub features: u64,
    /// The peer's id.
    pub peer: u64,
    /// Bytes of the largest payload that the daemon accepts.
    pub max_payload: u32,
    /// The daemon's version, for people.
    pub server: String,
    /// The daemon's proof, if the peer had to prove a token.
    pub proof: Option<Proof>,
}

/// The body of ERROR: refuses a frame, or ends the session.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind of refusal.
    pub code: RefusalCode,
    /// The reason, for people.
    pub message: String,
}

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The frame is malformed, or not expected now.
    Protocol,
    /// Peer and daemon have no version in common.
    Version,
    /// The token is missing or wrong, or the peer may not do this.
    Denied,
    /// The message is too large.
    TooLarge,
    /// The subject, filter, group or name is invalid.
    BadSubject,
    /// Another peer has the name.
    NameTaken,
    /// A limit on peers or subscriptions is reached.
    Limit,
    /// The awaited frame did not come in time.
    TimedOut,
    /// The peer did not read fast enough.
    TooSlow,
    /// The daemon is ending.
    Ending,
    /// The daemon does not know this feature.
    Unsupported,
    /// An administrator has disconnected the peer.
    Kicked,
    /// No peer subscribes to the request's subject.
    NoResponder,
    /// The request will not be answered any more: every peer that had it has gone, or it was dropped.
    Unanswered,
}
