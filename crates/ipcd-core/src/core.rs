//! The router: peers come, send, receive and go.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use foldhash::fast::RandomState;
use ipcd_proto::control::{Code, Notice, Origin, Reason, Refusal, encode};
use ipcd_proto::{Decoded, FrameWriter, Header, Kind, decode, limits};
use slab::Slab;

use crate::access::Permissions;
use crate::charges::Charges;
use crate::config::{Config, PeerInfo};
use crate::fanout::Audience;
use crate::interest::{Interests, Member};
use crate::others::Others;
use crate::outbox::Outbox;
use crate::pacing::Pace;
use crate::peer::{Deadlines, Drops, Peer, PeerCounts, PeerKey, State, Subscription, id_of};
use crate::report::Questions;
use crate::route::Routes;
use crate::shared::Shared;
use crate::source::Source;
use crate::store::Store;
use crate::table::Request;
use crate::timers::Timers;
use crate::tracked::{Fate, Trackers};

/// A router of one worker.
///
/// The caller does what [`Core::poll_output`] says until there is nothing more, after every call
/// of [`Core::receive`], [`Core::wrote`], [`Core::detach`], [`Core::drain`] and [`Core::tick`].
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) peers: Slab<Peer>,
    pub(crate) interests: Interests<Member>,
    /// What is known of the other workers, if there are any.
    pub(crate) others: Option<Others>,
    pub(crate) routes: Routes,
    pub(crate) permissions: Permissions,
    pub(crate) charges: Charges,
    /// Peers by their ids.
    pub(crate) ids: HashMap<u64, PeerKey, RandomState>,
    pub(crate) trackers: Trackers,
    /// Publishers that wait for a group, until it has a member that can take more.
    pub(crate) group_waiters: Vec<PeerKey>,
    pub(crate) names: HashSet<String>,
    pub(crate) counters: Counters,
    pub(crate) store: Store,
    pub(crate) last_audience: Option<Audience>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) questions: Questions,
    pub(crate) timers: Timers,
    next_number: u32,
}

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
    /// Send what is on its way to another worker ([`Core::outgoing`]).
    Forward(u32),
    /// Tell the table ([`crate::Table::heed`]).
    Tell(Request),
}

impl Output {
    fn peer(&self) -> Option<PeerKey> {
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
pub struct Progress {
    /// How many were used. The rest must be offered again, with what comes behind it.
    pub consumed: usize,
    /// Whether to leave the peer unread until [`Output::Resume`].
    pub waiting: bool,
}

/// What is counted for the whole router.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: u64,
    pub(crate) matched: u64,
    pub(crate) dropped: Drops,
    /// Messages for a group here, of which no member was left anywhere.
    pub(crate) unclaimed: u64,
    /// Messages to one peer that was there.
    pub(crate) direct_matched: u64,
    pub(crate) direct_dropped: u64,
    pub(crate) direct_undeliverable: u64,
    pub(crate) replies_late: u64,
    pub(crate) refused: u64,
    pub(crate) denied: u64,
    pub(crate) cut_off: u64,
    pub(crate) peers: u64,
    pub(crate) lost_in_transit: u64,
    pub(crate) stale: u64,
}

impl Core {
    /// A router without peers; one of several, if it is given what they share.
    pub fn new(config: Config, shared: Option<Shared>) -> Self {
        let others = shared.map(|shared| Others::new(&config, shared));
        Self {
            others,
            questions: Questions::default(),
            config,
            peers: Slab::new(),
            interests: Interests::default(),
            routes: Routes::default(),
            permissions: Permissions::default(),
            charges: Charges::default(),
            ids: HashMap::default(),
            trackers: Trackers::default(),
            group_waiters: Vec::new(),
            names: HashSet::new(),
            counters: Counters::default(),
            store: Store::default(),
            last_audience: None,
            outputs: VecDeque::new(),
            timers: Timers::default(),
            next_number: 0,
        }
    }

    /// Changes the configuration while the router runs; what it is about to do is done by the new.
    pub fn configure(&mut self, now: Instant, change: impl FnOnce(&mut Config)) {
        let before = self.config.acl.clone();
        change(&mut self.config);
        if self.config.acl != before {
            self.recheck(now, &before);
        }
    }

    /// Takes a peer in.
    pub fn attach(&mut self, now: Instant, info: PeerInfo) -> PeerKey {
        let PeerInfo { listener, mut origin, challenge, bare } = info;
        self.next_number = self.next_number.wrapping_add(1);
        let id = id_of(self.config.slot, self.config.incarnation, self.next_number);
        (origin.peer, origin.name) = (id, None);
        let source = Source::of(origin.uid, origin.addr, self.config.prefixes);
        let charge = self.charge_of(source);
        let deadlines =
            Deadlines { armed: None, state: None, lingers: false, frame: None, heard: now };
        let peer = Peer {
            listener,
            origin,
            state: State::New { challenge },
            token: None,
            certificate: None,
            rights: None,
            was_denied: false,
            is_bare: false,
            before_open: 0,
            charge,
            charged: 0,
            no_echo: false,
            largest: None,
            outbox: Outbox::default(),
            full: false,
            pace: Pace::default(),
            dirty: false,
            waiters: Vec::new(),
            waiting: false,
            subscriptions: Vec::new(),
            wants_origins: false,
            calls: None,
            introduced: Vec::new(),
            has_gaps: false,
            known: HashSet::new(),
            counts: PeerCounts::default(),
            deadlines,
        };
        let key = PeerKey(self.peers.insert(peer) as u32);
        self.ids.insert(id, key);
        self.counters.peers += 1;
        let deadline = now + self.config.handshake_timeout;
        self.peer(key).deadlines.state = Some(deadline);
        self.arm(key, deadline);
        if let Some(bare) = bare {
            self.open_bare(key, bare);
        }
        key
    }

    /// Takes what a peer sent; `bytes` begin at the start of a frame, and messages in them are
    /// stamped with their sender.
    pub fn receive(&mut self, now: Instant, key: PeerKey, bytes: &mut [u8]) -> Progress {
        let mut consumed = 0;
        let progress = loop {
            let rest = &mut bytes[consumed..];
            if matches!(self.peer(key).state, State::Closing) {
                break Progress { consumed: consumed + rest.len(), waiting: false };
            }
            let largest = self.largest_frame(key);
            match decode(rest, largest) {
                Err(error) => self.fail(now, key, Code::Protocol, error.to_string()),
                Ok(Decoded::Incomplete(_)) => break Progress { consumed, waiting: false },
                Ok(Decoded::Frame(frame, length)) => {
                    if frame.header.kind != Kind::Message {
                        if self.exceeds_allowance(key, length) {
                            let why = "too many bytes before the session is open";
                            self.fail(now, key, Code::Limit, why);
                            continue;
                        }
                        if asks(frame.header.kind) && self.waits_for_itself(key) {
                            break Progress { consumed, waiting: true };
                        }
                        self.control(now, key, &frame);
                        consumed += length;
                    } else if self.peer(key).is_open() {
                        let run = self.publish(now, key, rest, largest);
                        consumed += run.consumed;
                        if run.waiting {
                            break Progress { consumed, waiting: true };
                        }
                    } else {
                        self.fail(now, key, Code::Protocol, "a message before the session is open");
                    }
                }
            }
        };
        self.note_heard(now, key, &progress, bytes.len());
        progress
    }

    /// Whether a peer whose session is not open has sent more than opening one takes.
    fn exceeds_allowance(&mut self, key: PeerKey, bytes: usize) -> bool {
        let peer = self.peer(key);
        if !peer.is_open() {
            peer.before_open += bytes;
        }
        !peer.is_open() && peer.before_open > limits::MAX_HANDSHAKE
    }

    /// Bytes of the largest frame that the peer may send now.
    pub fn largest_frame(&self, key: PeerKey) -> usize {
        if self.peers[key.0 as usize].is_open() {
            limits::largest_frame(self.config.max_payload)
        } else {
            limits::MAX_HANDSHAKE_FRAME
        }
    }

    /// Bytes of the largest payload.
    pub fn max_payload(&self) -> usize {
        self.config.max_payload
    }

    /// What is to be written to the peer next: whole frames, of which the first may have been begun.
    /// There is more if this is less than [`Core::queued`].
    pub fn outbox(&mut self, key: PeerKey) -> &[u8] {
        self.outbox_pieces(key).next().unwrap_or_default()
    }

    /// All that is to be written to the peer: pieces of whole frames each, as [`Core::outbox`].
    pub fn outbox_pieces(&mut self, key: PeerKey) -> impl Iterator<Item = &[u8]> {
        let peer = &mut self.peers[key.0 as usize];
        peer.dirty = false;
        peer.outbox.unwritten(&self.store)
    }

    /// Says that the first bytes of the outbox, which are whole frames, are being written in another
    /// form: they stay there until they are.
    pub fn pin(&mut self, key: PeerKey, count: usize) {
        self.peer(key).outbox.pin(count);
    }

    /// Whether the peer's outbox is empty.
    pub fn is_flushed(&self, key: PeerKey) -> bool {
        self.peers[key.0 as usize].outbox.is_empty()
    }

    /// Bytes in the peer's outbox.
    pub fn queued(&self, key: PeerKey) -> usize {
        self.peers[key.0 as usize].outbox.len()
    }

    /// Says that the first bytes of the outbox were written.
    pub fn wrote(&mut self, now: Instant, key: PeerKey, count: usize) {
        let peer = &mut self.peers[key.0 as usize];
        peer.outbox.wrote(count, &mut self.store);
        self.recharge(key);
        while let Some(ticket) = self.peer(key).outbox.take_written() {
            self.concluded(now, ticket, Fate::Delivered);
        }
        self.keep_pace(key);
        let limit = self.config.outbox;
        let stays_overcharged = self.stays_overcharged(key);
        let peer = self.peer(key);
        if peer.outbox.len() > limit / 2 || stays_overcharged {
            return;
        }
        let has_gaps = std::mem::take(&mut peer.has_gaps);
        if peer.full {
            self.set_full(key, false);
            self.resume_waiters(key);
        }
        if has_gaps {
            self.report_gaps(now, key);
        }
    }

    /// Says that nobody is there to take what is in the outbox: it is dropped, and counted.
    pub fn unheard(&mut self, now: Instant, key: PeerKey) {
        self.drop_unheard(now, key);
        self.wrote(now, key, 0);
    }

    /// Ends a peer's session, as somebody who is no peer wants it. It gets what is left for it.
    pub fn dismiss(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.fail(now, key, Code::Ending, why);
    }

    /// Lets a peer go. What was in its outbox is lost, and counted.
    pub fn detach(&mut self, now: Instant, key: PeerKey) {
        self.forget_subscriptions(key);
        self.resume_waiters(key);
        self.drop_all(now, key, Reason::Departed);
        self.forget_tracked(now, key, Reason::Departed);
        self.discharge(key);
        let mut peer = self.peers.remove(key.0 as usize);
        peer.outbox.release(&mut self.store);
        debug_assert!(!self.peers.is_empty() || self.store.is_free(), "nobody is left to hold it");
        self.ids.remove(&peer.origin.peer);
        self.part(&peer.introduced, peer.origin.peer);
        // The place may be used again before the outputs are read.
        self.outputs.retain(|output| output.peer() != Some(key));
        if let Some(name) = peer.origin.name.take() {
            self.release_name(name);
        }
    }

    /// Adds to what transports have lost.
    pub fn count_lost(&mut self, frames: u64) {
        self.counters.lost_in_transit += frames;
    }

    /// Adds to what came from or for a life of a worker that is over, and was dropped.
    pub fn count_stale(&mut self, records: u64) {
        self.counters.stale += records;
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Peers that are attached.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Who the peer is.
    pub fn origin(&self, key: PeerKey) -> &Origin {
        &self.peers[key.0 as usize].origin
    }

    /// Refuses one frame; the session goes on. A frame without a number cannot be told of.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        key: PeerKey,
        correlation: u64,
        code: Code,
        why: impl Into<String>,
    ) {
        let message = why.into();
        self.counters.refused += 1;
        if code == Code::Denied {
            self.note_denied(key, &message);
        }
        if correlation == 0 {
            return;
        }
        let body = encode(&Refusal { code, message });
        self.send(now, key, Header::new(Kind::Error, correlation), &body);
    }

    /// Puts a control frame into the peer's outbox. They never wait: what asks for one does.
    pub(crate) fn send(&mut self, now: Instant, key: PeerKey, header: Header, body: &[u8]) {
        let peer = &mut self.peers[key.0 as usize];
        // What another worker or the table had still to say comes too late after BYE.
        if matches!(peer.state, State::Closing) {
            return;
        }
        FrameWriter(peer.outbox.append(now, &mut self.store)).control(header, body);
        self.filled(now, key);
    }

    /// Notes that something was put into the peer's outbox.
    pub(crate) fn filled(&mut self, now: Instant, key: PeerKey) {
        let (limit, stall) = (self.config.outbox, self.config.stall_timeout);
        self.recharge(key);
        let peer = &self.peers[key.0 as usize];
        if !peer.full && (peer.outbox.len() >= limit || self.is_overcharged(key)) {
            self.set_full(key, true);
        }
        self.hold_pace(now, key);
        let peer = &mut self.peers[key.0 as usize];
        if !peer.dirty {
            peer.dirty = true;
            self.outputs.push_back(Output::Write(key));
        }
        self.arm(key, now + stall);
    }

    /// Notes whether a peer's outbox is full; where other workers publish to it, they are told.
    pub(crate) fn set_full(&mut self, key: PeerKey, full: bool) {
        if std::mem::replace(&mut self.peer(key).full, full) != full {
            self.set_levels(key, full);
        }
    }

    pub(crate) fn peer(&mut self, key: PeerKey) -> &mut Peer {
        &mut self.peers[key.0 as usize]
    }

    pub(crate) fn keys(&self) -> Vec<PeerKey> {
        self.peers.iter().map(|(key, _)| PeerKey(key as u32)).collect()
    }

    pub(crate) fn opened(&mut self, key: PeerKey) {
        self.outputs.push_back(Output::Opened(key));
    }

    /// A peer that does not take its answers may not ask for more.
    pub(crate) fn waits_for_itself(&mut self, key: PeerKey) -> bool {
        let is_full = self.peer(key).full;
        if is_full {
            self.wait_for(key, key);
        }
        is_full
    }

    /// Leaves a peer unread until another's outbox has room.
    pub(crate) fn wait_for(&mut self, key: PeerKey, full: PeerKey) {
        self.peer(full).waiters.push(key);
        self.peer(key).waiting = true;
    }

    pub(crate) fn resume_waiters(&mut self, key: PeerKey) {
        let waiters = std::mem::take(&mut self.peer(key).waiters);
        self.resume(waiters);
    }

    pub(crate) fn resume(&mut self, waiters: Vec<PeerKey>) {
        for waiter in waiters {
            if let Some(peer) = self.peers.get_mut(waiter.0 as usize)
                && std::mem::take(&mut peer.waiting)
            {
                self.outputs.push_back(Output::Resume(waiter));
            }
        }
    }

    /// Its outbox is then nobody's concern but its own.
    pub(crate) fn forget_subscriptions(&mut self, key: PeerKey) {
        self.set_full(key, false);
        for subscription in std::mem::take(&mut self.peer(key).subscriptions) {
            self.forget(key, &subscription, false);
        }
    }

    pub(crate) fn forget(&mut self, key: PeerKey, gone: &Subscription, was_full: bool) {
        self.interests.remove(&gone.filter, |member| {
            (member.peer, member.subscription) == (key, gone.number)
        });
        self.unshare(gone, was_full);
        self.charge_subscription(key, false);
    }

    fn report_gaps(&mut self, now: Instant, key: PeerKey) {
        let subscriptions = self.peer(key).subscriptions.iter_mut();
        let gaps: Vec<_> = subscriptions.flat_map(Subscription::take_gaps).collect();
        self.tell_gaps(now, key, gaps);
    }

    /// Tells a peer what was dropped of its subscriptions.
    pub(crate) fn tell_gaps(
        &mut self,
        now: Instant,
        key: PeerKey,
        gaps: impl IntoIterator<Item = (u32, Reason, u64)>,
    ) {
        for (subscription, reason, dropped) in gaps {
            let notice = encode(&Notice::Gap { subscription, reason, dropped });
            self.send(now, key, Header::new(Kind::Notice, 0), &notice);
        }
    }
}

/// Whether a frame of this kind is answered.
fn asks(kind: Kind) -> bool {
    !matches!(kind, Kind::Message | Kind::Pong | Kind::Bye)
}
