//! What the router knows of one peer.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Instant;

use crate::acl::rights::PeerRights;
use crate::directory::state::Interest;
use crate::model::counters::DropCounts;
use crate::model::ids::{PeerKey, Ticket};
use crate::model::waiting::WaitState;
use crate::peers::pacing::Pacing;
use crate::peers::quota::Quota;
use crate::queue::send_queue::SendQueue;
use crate::routing::trie::QueueGroup;
use foldhash::fast::RandomState;
use ipcd_proto::Filter;
use ipcd_proto::auth::{Nonce, Proof};
use ipcd_proto::control::{Hello, Origin, Overflow, Reason};

/// Outcomes that a peer may wait for at once. It is not read while it waits for as many.
pub(crate) const MAX_OUTSTANDING: usize = 64 * 1024;
/// Senders that a peer is known to have heard of. When there are more, it is told again.
const MAX_KNOWN: usize = 1024;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) listener: u32,
    /// Bytes of the largest payload that it was told of when its session was opened. A bare peer is
    /// told nothing: what it may send has been so much at the most.
    pub(crate) told: u32,
    pub(crate) origin: Origin,
    pub(crate) state: SessionState,
    /// What it has proved, if it has.
    pub(crate) proven: Option<Box<ProvenIdentity>>,
    /// What it may do; `None` for everything.
    pub(crate) rights: Option<Rc<PeerRights>>,
    /// Whether it was told of in the log that something was denied to it.
    pub(crate) was_denied: bool,
    /// What its source is charged with, and how much of that is its outbox.
    pub(crate) quota: Rc<Quota>,
    pub(crate) charged: usize,
    /// Bytes that it has sent before its session was open.
    pub(crate) before_open: u32,
    /// Whether it does not speak the protocol.
    pub(crate) is_raw: bool,
    /// Whether it has no way to say anything.
    pub(crate) is_mute: bool,
    /// 0, or one more than the bytes that are not written yet of the PING that it was asked by for a sign
    /// of life: that they are is none.
    pub(crate) asked: u8,
    pub(crate) no_echo: bool,
    /// Whether it may take what is left for it until the daemon ends.
    pub(crate) lingers: bool,
    /// Bytes of the largest payload that it can be sent, where that is less than any may have.
    pub(crate) largest: Option<u32>,
    pub(crate) queue: SendQueue,
    /// Whether the outbox is full and has not fallen to half since.
    pub(crate) full: bool,
    pub(crate) pace: Pacing,
    /// Whether the worker has been asked to write and has not yet begun.
    pub(crate) dirty: bool,
    /// Publishers that wait for this peer's outbox.
    pub(crate) waiters: Vec<PeerKey>,
    /// Whether this peer waits for another's outbox.
    pub(crate) waiting: bool,
    pub(crate) wait: WaitState,
    /// Whether it was put off to a later turn when it was last heard.
    pub(crate) was_deferred: bool,
    /// Whether it is among what was put off.
    pub(crate) is_deferred: bool,
    /// Whether a message of its has not reached all its receivers yet.
    pub(crate) fans_out: bool,
    /// Questions of its that are not answered yet.
    pub(crate) questions: u8,
    /// Whether subscriptions that it had are still to be forgotten.
    pub(crate) is_leaving: bool,
    /// In the order of their numbers.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Whether a subscription of its wants to know who senders are.
    pub(crate) wants_origins: bool,
    /// Its part in requests and receipts, if it has had any.
    pub(crate) requests: Option<Box<PeerRequests>>,
    /// Whether a subscription has dropped messages that the peer was not told of.
    pub(crate) has_gaps: bool,
    /// Senders that it has heard of, if it wants to.
    #[expect(clippy::box_collection, reason = "most peers have none, and a pointer is less")]
    pub(crate) known: Option<Box<HashSet<u64, RandomState>>>,
    /// Workers that have heard of this peer.
    #[expect(clippy::box_collection, reason = "most peers have none, and a pointer is less")]
    pub(crate) introduced: Option<Box<Vec<u32>>>,
    pub(crate) counts: PeerCounts,
    /// After so many messages it is a member of groups no more; [`u64::MAX`] for never.
    pub(crate) group_limit: u64,
    pub(crate) deadlines: PeerDeadlines,
}

/// What a peer has proved.
#[derive(Debug, Default)]
pub(crate) struct ProvenIdentity {
    /// The token; empty for the daemon's own.
    pub(crate) token: Option<Box<str>>,
    /// The name in the certificate that it has shown.
    pub(crate) certificate: Option<Box<str>>,
}

/// A peer's part in requests and receipts.
#[derive(Debug, Default)]
pub(crate) struct PeerRequests {
    /// Messages of its whose outcome is open, by correlation.
    pub(crate) outstanding: HashMap<u64, Ticket, RandomState>,
    /// Requests that it has and has not answered, by requester and correlation.
    pub(crate) unanswered: HashMap<(u64, u64), ReceivedRequest, RandomState>,
}

/// How far a session has come.
#[derive(Debug)]
pub(crate) enum SessionState {
    /// Nothing was heard yet; the nonce is for a peer that must prove a token.
    New { challenge: Option<Box<Nonce>> },
    /// A challenge was sent.
    Challenged(Box<ChallengedPeer>),
    /// Messages may flow.
    Open,
    /// The supervisor was asked for its name.
    Naming(Box<PendingName>),
    /// Nothing more is read; what is in the outbox is written.
    Closing,
    /// The peer is not here any more; its place is kept until its subscriptions are forgotten.
    Gone,
}

#[derive(Debug)]
pub(crate) struct ChallengedPeer {
    pub(crate) hello: Hello,
    pub(crate) nonce: Nonce,
}

#[derive(Debug)]
pub(crate) struct PendingName {
    pub(crate) hello: Hello,
    pub(crate) proof: Option<Proof>,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) number: u32,
    pub(crate) filter: Filter,
    pub(crate) overflow: Overflow,
    pub(crate) group: Option<Rc<QueueGroup>>,
    /// How many there had been before it: tells it from an earlier one of its number.
    pub(crate) birth: u64,
    /// Messages that were for it.
    pub(crate) matched: u64,
    /// Those that were dropped, if any were.
    pub(crate) drops: Option<Box<DropCounts>>,
}

impl Subscription {
    /// What was dropped that the peer was not told of; it will have been, after this.
    pub(crate) fn take_gaps(&mut self) -> Vec<(u32, Reason, u64)> {
        let untold = self.drops.iter_mut().flat_map(|drops| drops.take_untold());
        untold.map(|(reason, dropped)| (self.number, reason, dropped)).collect()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerCounts {
    pub(crate) msgs_in: u64,
    /// Put into its outbox, and not dropped from there: written by now, or queued.
    pub(crate) msgs_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) dropped: u64,
}

impl PeerCounts {
    /// So many were dropped out of the outbox.
    pub(crate) fn shed(&mut self, messages: u64) {
        self.msgs_out = self.msgs_out.saturating_sub(messages);
        self.dropped += messages;
    }
}

#[derive(Debug)]
pub(crate) struct PeerDeadlines {
    /// The peer's earliest entry in the timers.
    pub(crate) armed: Option<Instant>,
    /// Since when the handshake goes on, or the session is closing.
    pub(crate) state: Option<Instant>,
    /// Since when a frame is incomplete.
    pub(crate) frame: Option<Instant>,
    /// When the peer was last heard, took what was for it, or was asked for a sign of life.
    pub(crate) heard: Instant,
}

impl PeerDeadlines {
    /// Those of a peer that has just come.
    pub(crate) fn begin(now: Instant) -> Self {
        let (state, heard) = (Some(now), now);
        Self { armed: None, state, frame: None, heard }
    }
}

impl Peer {
    /// Notes that the peer has taken bytes.
    pub(crate) fn note_taken(&mut self, now: Instant, count: usize) {
        let of_ping = count.min(self.asked.saturating_sub(1).into());
        self.asked -= of_ping as u8;
        if count > of_ping {
            (self.deadlines.heard, self.asked) = (now, 0);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, SessionState::Open)
    }

    /// Whether it has as many messages as it wants of groups: what is in its outbox will be written.
    pub(crate) fn has_reached_limit(&self) -> bool {
        self.counts.msgs_out >= self.group_limit
    }

    /// Whether the peer has not heard of this sender; it will have, after this.
    pub(crate) fn learns_sender(&mut self, sender: u64) -> bool {
        let known = self.known.get_or_insert_default();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(sender)
    }

    pub(crate) fn requests(&mut self) -> &mut PeerRequests {
        self.requests.get_or_insert_default()
    }

    /// Messages of its whose outcome is open.
    pub(crate) fn outstanding(&self) -> usize {
        self.requests.as_ref().map_or(0, |requests| requests.outstanding.len())
    }

    pub(crate) fn subscription(&mut self, number: u32) -> Option<&mut Subscription> {
        let at = self.find(number).ok()?;
        self.subscriptions.get_mut(at)
    }

    pub(crate) fn subscription_at(&self, number: u32) -> Option<&Subscription> {
        self.find(number).ok().map(|at| &self.subscriptions[at])
    }

    /// Where the subscription of this number is, or would be.
    pub(crate) fn find(&self, number: u32) -> Result<usize, usize> {
        self.subscriptions.binary_search_by_key(&number, |known| known.number)
    }
}

impl Subscription {
    /// What all workers know of it.
    pub(crate) fn interest(&self) -> Interest {
        let group = self.group.as_ref().map(|group| group.name.clone());
        Interest { filter: self.filter.as_str().to_owned(), group }
    }

    pub(crate) fn blocks(&self) -> bool {
        self.overflow == Overflow::Block
    }
}

/// A request that a peer has and has not answered.
#[derive(Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) ticket: Ticket,
    /// Those of further copies: the peer has more than one subscription that matched.
    pub(crate) again: Vec<Ticket>,
}

impl ReceivedRequest {
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        [self.ticket].into_iter().chain(self.again.iter().copied())
    }
}
