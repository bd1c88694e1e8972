//! What the router knows of one peer.

use std::collections::HashSet;
use std::time::Instant;

use ipcd_proto::Filter;
use ipcd_proto::auth::{Nonce, Proof};
use ipcd_proto::control::{Hello, Origin, Overflow};

use serde::{Deserialize, Serialize};

use crate::outbox::Outbox;

/// A peer's place in its router. Places are used again; [`Origin::peer`] never is.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct PeerKey(pub u32);

/// Senders that a peer is known to have heard of. When there are more, it is told again.
const MAX_KNOWN: usize = 1024;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) listener: usize,
    pub(crate) origin: Origin,
    pub(crate) state: State,
    pub(crate) no_echo: bool,
    pub(crate) outbox: Outbox,
    /// Whether the outbox is full and has not fallen to half since.
    pub(crate) full: bool,
    /// Whether the worker has been asked to write and has not yet begun.
    pub(crate) dirty: bool,
    /// Publishers that wait for this peer's outbox.
    pub(crate) waiters: Vec<PeerKey>,
    /// Whether this peer waits for another's outbox.
    pub(crate) waiting: bool,
    pub(crate) subscriptions: Vec<Subscription>,
    /// Whether a subscription has dropped messages that the peer was not told of.
    pub(crate) has_gaps: bool,
    pub(crate) known: HashSet<u64>,
    /// Workers that have heard of this peer.
    pub(crate) introduced: Vec<u32>,
    pub(crate) counts: PeerCounts,
    pub(crate) deadlines: Deadlines,
}

/// How far a session has come.
#[derive(Debug)]
pub(crate) enum State {
    /// Nothing was heard yet; the nonce is for a peer that must prove a token.
    New { challenge: Option<Nonce> },
    /// A challenge was sent.
    Challenged(Box<Challenged>),
    /// Messages may flow.
    Open,
    /// The supervisor was asked for its name.
    Naming(Box<Naming>),
    /// Nothing more is read; what is in the outbox is written.
    Closing,
}

#[derive(Debug)]
pub(crate) struct Challenged {
    pub(crate) hello: Hello,
    pub(crate) nonce: Nonce,
}

#[derive(Debug)]
pub(crate) struct Naming {
    pub(crate) hello: Hello,
    pub(crate) proof: Option<Proof>,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) number: u32,
    pub(crate) filter: Filter,
    pub(crate) overflow: Overflow,
    /// Messages dropped that the peer was not told of yet.
    pub(crate) unreported: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerCounts {
    pub(crate) msgs_in: u64,
    pub(crate) msgs_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) dropped: u64,
}

#[derive(Debug)]
pub(crate) struct Deadlines {
    /// The peer's earliest entry in the timers.
    pub(crate) armed: Option<Instant>,
    /// The end of the handshake, or of lingering when closing.
    pub(crate) state: Option<Instant>,
    /// Whether it may take what is left for it until the daemon ends.
    pub(crate) lingers: bool,
    /// When the frame that has begun must be whole.
    pub(crate) frame: Option<Instant>,
    /// When the peer was last heard.
    pub(crate) heard: Instant,
}

impl Peer {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether the peer has not heard of this sender; it will have, after this.
    pub(crate) fn learns_of(&mut self, sender: u64) -> bool {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(sender)
    }

    pub(crate) fn subscription(&mut self, number: u32) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.number == number)
    }
}
