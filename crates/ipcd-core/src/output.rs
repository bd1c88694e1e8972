//! Requests of the router to its worker, and the progress of a read.

use crate::directory::messages::DirectoryRequest;
use crate::model::ids::PeerKey;
/// What the worker is asked to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Write what is in the peer's outbox.
    Write(PeerKey),
    /// Offer the peer's bytes again, and read on.
    Resume(PeerKey),
    /// The session is open: worth a line in the log.
    Opened(PeerKey),
    /// Something was denied to the peer, for the first time.
    Denied(PeerKey, String),
    /// Write what is in the outbox, finish the channel, and detach the peer when it closes.
    Close(PeerKey, String),
    /// Detach the peer now.
    Drop(PeerKey, String),
    /// Send what is on its way to another worker ([`Router::outgoing`]).
    Forward(u32),
    /// Tell the table ([`crate::Directory::handle`]).
    Tell(DirectoryRequest),
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

/// What came of received bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub struct ReceiveProgress {
    /// How many were used. The rest must be offered again, with what comes behind it.
    pub consumed: usize,
    /// Whether to leave the peer unread until [`crate::Output::Resume`].
    pub waiting: bool,
}
