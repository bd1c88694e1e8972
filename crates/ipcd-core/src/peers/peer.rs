//! The state of one peer, and its subscriptions. Only data and questions about it: the parts above
//! change it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::acl::rights::PeerRights;
use crate::model::counters::DropCounts;
use crate::model::ids::{PeerKey, Ticket};
use crate::model::interest::Interest;
use crate::model::waiting::WaitState;
use crate::peers::pacing::Pacing;
use crate::peers::quota::Quota;
use crate::queue::send_queue::SendQueue;
use crate::routing::index::QueueGroup;
use foldhash::fast::RandomState;
use ipcd_proto::Filter;
use ipcd_proto::auth::{Nonce, Proof};
use ipcd_proto::control::{DropReason, Hello, Origin, OverflowPolicy};

/// Open outcomes of a peer. The router does not read the peer at this number.
pub(crate) const MAX_OUTSTANDING: usize = 64 * 1024;
/// Senders that a peer has been told about. Beyond this the set starts over, and the peer is told
/// again.
const MAX_KNOWN: usize = 1024;

/// The state of one peer. There may be very many, so that rarely used parts are boxed.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) listener: u32,
    /// The largest payload that the peer was told when its session opened, in bytes. A raw peer is
    /// told nothing: here stands the largest limit that has applied to it.
    pub(crate) told: u32,
    pub(crate) origin: Origin,
    pub(crate) state: SessionState,
    /// The proofs that the peer has given, if any.
    pub(crate) proven: Option<Box<ProvenIdentity>>,
    /// The rights of the peer; `None` if it may do everything.
    pub(crate) rights: Option<Rc<PeerRights>>,
    /// Whether the log has a line that something was denied to the peer.
    pub(crate) was_denied: bool,
    /// The quota of the peer's principal, and the bytes of the send queue that it includes.
    pub(crate) quota: Rc<Quota>,
    pub(crate) charged: usize,
    /// Bytes that the peer has sent before its session was open.
    pub(crate) before_open: u32,
    /// Whether the peer does not speak the protocol.
    pub(crate) is_raw: bool,
    /// Whether the peer cannot send anything.
    pub(crate) is_mute: bool,
    /// 0 without a pending PING; otherwise one more than the unwritten bytes of the PING. Writing
    /// those bytes is not a sign of life from the peer.
    pub(crate) asked: u8,
    pub(crate) no_echo: bool,
    /// Whether the peer is disconnected soon after its send queue became full, so that publishers wait
    /// for it only for a moment.
    pub(crate) ends_when_slow: bool,
    /// Whether the peer may take its remaining bytes until the daemon ends.
    pub(crate) lingers: bool,
    /// The largest payload that the peer may receive in bytes, if that is below the general limit.
    pub(crate) largest: Option<u32>,
    pub(crate) queue: SendQueue,
    /// Whether the send queue is full: from reaching its limit until it has fallen to half. The gap
    /// keeps the state from changing with each message.
    pub(crate) full: bool,
    pub(crate) pace: Pacing,
    /// Whether the worker has been asked to write, and has not begun yet.
    pub(crate) dirty: bool,
    /// Publishers that wait for this peer's send queue.
    pub(crate) waiters: Vec<PeerKey>,
    /// Whether this peer waits for the send queue of another.
    pub(crate) waiting: bool,
    pub(crate) wait: WaitState,
    /// Whether the peer was deferred when it was last read, and so continues with a slice.
    pub(crate) was_deferred: bool,
    /// Whether the deferred work contains this peer.
    pub(crate) is_deferred: bool,
    /// Whether a message of this peer has not reached all receivers yet.
    pub(crate) fans_out: bool,
    /// Questions of this peer that are not answered yet.
    pub(crate) questions: u8,
    /// Whether former subscriptions are still to be removed.
    pub(crate) is_leaving: bool,
    /// Whether a subscription of this peer ends after a number of messages.
    pub(crate) has_ends: bool,
    /// Sorted by number.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Whether a subscription of this peer asks for the senders' identities.
    pub(crate) wants_origins: bool,
    /// The state of requests and receipts, if the peer has had any.
    pub(crate) requests: Option<Box<PeerRequests>>,
    /// Whether messages were dropped that the peer has not been told about.
    pub(crate) has_gaps: bool,
    /// Senders that the peer has been told about.
    #[expect(clippy::box_collection, reason = "most peers have none, and a pointer is less")]
    pub(crate) known: Option<Box<HashSet<u64, RandomState>>>,
    /// Workers that have been told about this peer.
    #[expect(clippy::box_collection, reason = "most peers have none, and a pointer is less")]
    pub(crate) introduced: Option<Box<Vec<u32>>>,
    pub(crate) counts: PeerCounts,
    /// The number of messages after which the peer is a member of groups no more; [`u64::MAX`] for
    /// never.
    pub(crate) group_limit: u64,
    pub(crate) deadlines: PeerDeadlines,
}

/// The proofs that a peer has given.
#[derive(Debug, Default)]
pub(crate) struct ProvenIdentity {
    /// The name of the proved token; empty for the daemon's own.
    pub(crate) token: Option<Box<str>>,
    /// The name in the certificate of the peer.
    pub(crate) certificate: Option<Box<str>>,
}

/// The state of a peer's requests and receipts.
#[derive(Debug, Default)]
pub(crate) struct PeerRequests {
    /// Messages of this peer whose outcome is open, by correlation.
    pub(crate) outstanding: HashMap<u64, Ticket, RandomState>,
    /// Requests that the peer has received and not answered, by requester and correlation.
    pub(crate) unanswered: HashMap<(u64, u64), ReceivedRequest, RandomState>,
}

/// The progress of a session.
#[derive(Debug)]
pub(crate) enum SessionState {
    /// Nothing was received yet. The nonce is for a peer that must prove a token.
    New { challenge: Option<Box<Nonce>> },
    /// A challenge was sent.
    Challenged(Box<ChallengedPeer>),
    /// Messages may flow.
    Open,
    /// The supervisor was asked for the peer's name.
    Naming(Box<PendingName>),
    /// The router reads no more, and writes the rest of the send queue.
    Closing,
    /// The peer is detached. Its key is kept until its subscriptions are removed.
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
    pub(crate) overflow: OverflowPolicy,
    pub(crate) group: Option<Rc<QueueGroup>>,
    /// The number of earlier subscriptions in this router. It tells this one from a former one of
    /// the same number.
    pub(crate) birth: u64,
    /// Messages that matched this subscription.
    pub(crate) matched: u64,
    /// The end of this subscription, if it ends after a number of messages.
    pub(crate) end: Option<SubscriptionEnd>,
    /// Drops, if there were any.
    pub(crate) drops: Option<Box<DropCounts>>,
}

/// The end of a subscription after a number of messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubscriptionEnd {
    /// Messages of the subscription, since it began.
    pub(crate) max: u64,
    /// The correlation of the UNSUBSCRIBE that waits for it.
    pub(crate) correlation: u64,
}

impl Subscription {
    /// Whether it has had all messages that the peer wants.
    pub(crate) fn is_over(&self) -> bool {
        let dropped = || self.drops.as_ref().map_or(0, |drops| drops.total());
        self.end.is_some_and(|end| self.matched.saturating_sub(dropped()) >= end.max)
    }

    /// Returns the drops that the peer has not been told, and marks them as told.
    pub(crate) fn take_gaps(&mut self) -> Vec<(u32, DropReason, u64)> {
        let untold = self.drops.iter_mut().flat_map(|drops| drops.take_untold());
        untold.map(|(reason, dropped)| (self.number, reason, dropped)).collect()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerCounts {
    pub(crate) msgs_in: u64,
    /// Messages that were queued and not dropped: written, or still in the queue.
    pub(crate) msgs_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) dropped: u64,
}

impl PeerCounts {
    /// Notes messages that were dropped from the send queue.
    pub(crate) fn shed(&mut self, messages: u64) {
        self.msgs_out = self.msgs_out.saturating_sub(messages);
        self.dropped += messages;
    }
}

#[derive(Debug)]
pub(crate) struct PeerDeadlines {
    /// The earliest timer entry of the peer.
    pub(crate) armed: Option<Instant>,
    /// The start of the handshake, or of closing.
    pub(crate) state: Option<Instant>,
    /// The time since which a frame is incomplete.
    pub(crate) frame: Option<Instant>,
    /// The time when the peer last sent or took bytes, or was sent a PING.
    pub(crate) heard: Instant,
}

impl PeerDeadlines {
    /// Returns the deadlines of a peer that is attached now.
    pub(crate) fn begin(now: Instant) -> Self {
        let (state, heard) = (Some(now), now);
        Self { armed: None, state, frame: None, heard }
    }
}

/// Age of the oldest byte in a full send queue from which on a peer with
/// [`Peer::ends_when_slow`] is disconnected.
const SLOW: Duration = Duration::from_secs(1);

impl Peer {
    /// Returns the time when the peer has not read fast enough.
    pub(crate) fn stalls_at(&self, stall_timeout: Duration) -> Option<Instant> {
        let patience = if self.is_soon_cut_off() { SLOW.min(stall_timeout) } else { stall_timeout };
        self.queue.oldest().map(|since| since + patience)
    }

    /// Whether the peer has less time than others to read.
    pub(crate) fn is_soon_cut_off(&self) -> bool {
        self.ends_when_slow && self.full
    }

    /// Notes that the peer has taken bytes.
    pub(crate) fn note_taken(&mut self, now: Instant, count: usize) {
        // The kernel takes a PING even for a peer that hangs, so its bytes prove nothing.
        let of_ping = count.min(self.asked.saturating_sub(1).into());
        self.asked -= of_ping as u8;
        if count > of_ping {
            (self.deadlines.heard, self.asked) = (now, 0);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, SessionState::Open)
    }

    /// Whether the peer has all the group messages that it wants. Queued messages count, because
    /// they will be written.
    pub(crate) fn has_reached_limit(&self) -> bool {
        self.counts.msgs_out >= self.group_limit
    }

    /// Whether the peer has not been told about this sender. From now on it counts as told.
    pub(crate) fn learns_sender(&mut self, sender: u64) -> bool {
        let known = self.known.get_or_insert_default();
        if known.len() >= MAX_KNOWN {
            // Telling a peer twice is harmless, and keeps the set bounded.
            known.clear();
        }
        known.insert(sender)
    }

    pub(crate) fn requests(&mut self) -> &mut PeerRequests {
        self.requests.get_or_insert_default()
    }

    /// Returns the number of open outcomes.
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

    /// Returns the index of the subscription of this number, or the index for inserting it.
    pub(crate) fn find(&self, number: u32) -> Result<usize, usize> {
        self.subscriptions.binary_search_by_key(&number, |known| known.number)
    }
}

impl Subscription {
    /// Returns the interest that other workers know for this subscription.
    pub(crate) fn interest(&self) -> Interest {
        let group = self.group.as_ref().map(|group| group.name.clone());
        Interest { filter: self.filter.as_str().to_owned(), group }
    }

    pub(crate) fn blocks(&self) -> bool {
        self.overflow == OverflowPolicy::Block
    }
}

/// A request that a peer has received and not answered.
#[derive(Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) ticket: Ticket,
    /// The tickets of further copies, if several subscriptions of the peer matched.
    pub(crate) again: Vec<Ticket>,
}

impl ReceivedRequest {
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        [self.ticket].into_iter().chain(self.again.iter().copied())
    }
}
