//! Requests of the router to its worker, and the progress of a read.

use crate::directory::messages::DirectoryRequest;
use crate::model::ids::PeerKey;

/// A task that the router has for its worker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Write the bytes of the peer's send queue.
    Write(PeerKey),
    /// Offer the peer's unconsumed bytes again, and continue to read from the peer.
    Resume(PeerKey),
    /// The session is open. The worker may log it.
    Opened(PeerKey),
    /// The router denied something to the peer for the first time. The text says what and why.
    Denied(PeerKey, String),
    /// Write the rest of the send queue, finish the channel, and detach the peer when the channel
    /// closes.
    Close(PeerKey, CloseReason),
    /// Detach the peer now. The text is the reason.
    Drop(PeerKey, String),
    /// Send the frames for another worker ([`crate::Router::outgoing`]).
    Forward(u32),
    /// Send a request to the directory ([`crate::Directory::handle`]).
    Tell(DirectoryRequest),
}

/// The reason for the end of a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CloseReason {
    /// The text for the log.
    pub why: String,
    /// Whether other peers had to wait for this one until their time was over. A peer that lost its
    /// session by its own overflow policy, or under a flood of direct messages, made none wait.
    pub has_stalled: bool,
}

impl CloseReason {
    /// A reason for which the peer's principal is not to blame.
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), has_stalled: false }
    }

    pub(crate) fn stalled(why: impl Into<String>) -> Self {
        Self { why: why.into(), has_stalled: true }
    }
}

impl Output {
    pub(crate) fn peer(&self) -> Option<PeerKey> {
        match *self {
            Self::Write(key)
            | Self::Resume(key)
            | Self::Opened(key)
            | Self::Denied(key, _)
            | Self::Close(key, _)
            | Self::Drop(key, _) => Some(key),
            Self::Forward(_) | Self::Tell(_) => None,
        }
    }
}

/// The result of offering received bytes to the router.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub struct ReceiveProgress {
    /// Bytes that the router has used. The caller offers the rest again, followed by newer bytes.
    pub consumed: usize,
    /// Whether the worker must not read from the peer until [`crate::Output::Resume`].
    pub waiting: bool,
}
