//! Opening a session, and refusals.

use serde::{Deserialize, Serialize};

use crate::auth::{Nonce, Proof};

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
