//! The way of a message: from a publisher's bytes into its subscribers' outboxes.
//!
//! Consecutive messages of a batch that go to one subject form a run: the route is looked up once,
//! and the run is copied as one slice into each outbox.

use std::rc::Rc;
use std::time::Instant;

use crate::core::Router;
use crate::fanout::StampedBatch;
use crate::model::ids::{PeerKey, Ticket};
use crate::peer::Peer;
use crate::queue::chunk_pool::ChunkSlice;
use crate::queue::send_queue::drops::DropReport;
use crate::routing::routes::RouteTargets;
use crate::routing::trie::LocalSubscriber;
use crate::tracked::{DeliveryOutcome, MAX_OUTSTANDING, OutcomeTarget};
use ipcd_proto::control::{Code, Notice, Overflow, Reason, encode};
use ipcd_proto::limits::MAX_HEADERS;
use ipcd_proto::{Address, Decoded, Frame, FrameWriter, HEADER_BYTES, Header, Kind, decode};

/// Bytes of a run: what an outbox may hold beyond its limit.
pub(crate) const MAX_RUN: usize = 16 * 1024;
/// Messages of a full outbox that are looked at in a step.
const SHED_IN_STEP: usize = 8;

/// What came of the messages at the start of a batch.
pub(crate) struct PublishProgress {
    pub(crate) consumed: usize,
    pub(crate) waiting: bool,
}

impl PublishProgress {
    const WAITING: Self = Self { consumed: 0, waiting: true };

    fn of(consumed: usize) -> Self {
        Self { consumed, waiting: false }
    }
}

/// Who sent a run: a peer of this router, or of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageSender {
    pub(crate) key: Option<PeerKey>,
    pub(crate) id: u64,
}

/// Whom a message is for.
enum Destination {
    Peer(Address),
    Subscribers(Rc<RouteTargets>),
}

/// What is delivered: one message or a run of them.
#[derive(Clone, Copy)]
pub(crate) struct MessageBatch<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: u64,
    /// Where the fate of the copies is noted.
    pub(crate) ticket: Option<Ticket>,
    /// Where the bytes are kept for all who get them.
    pub(crate) shared: Option<ChunkSlice>,
}

impl Router {
    /// Accepts the message at the start of `bytes`, and those behind it that go the same way.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        key: PeerKey,
        bytes: &mut [u8],
        largest: usize,
    ) -> PublishProgress {
        let Ok(Decoded::Frame(first, length)) = decode(bytes, largest) else {
            unreachable!("the caller found a whole frame here");
        };
        let (header, subject) = (first.header, first.subject.len());
        self.budget.spend(2);
        let to = match self.check(key, &first) {
            Ok(to) => to,
            Err(_) if self.waits_for_itself(key) => return PublishProgress::WAITING,
            Err((code, why)) => {
                self.refuse(now, key, header.correlation, code, why);
                return PublishProgress::of(length);
            }
        };
        if header.is_tracked() && self.waits_for_outcomes(key) {
            return PublishProgress::WAITING;
        }
        let targets = match to {
            Destination::Peer(address) if self.must_wait_for_way(key, address) => {
                return PublishProgress::WAITING;
            }
            Destination::Peer(address) => {
                self.count_accepted(key, 1, length);
                self.publish_direct(now, key, &mut bytes[..length], header, address);
                return PublishProgress::of(length);
            }
            Destination::Subscribers(targets) => targets,
        };
        if self.must_wait(key, &targets) {
            return PublishProgress::WAITING;
        }
        let from = MessageSender { key: Some(key), id: self.peer(key).origin.peer };
        if header.is_tracked() || !targets.groups.is_empty() {
            self.count_accepted(key, 1, length);
            self.publish_one(now, key, &mut bytes[..length], header, &targets);
            return PublishProgress::of(length);
        }
        // To other workers a number is one of their groups.
        let is_here = targets.remotes.is_empty();
        let stamp = if is_here {
            FrameStamp::new(from.id, &targets.members)
        } else {
            FrameStamp::to_others(from.id)
        };
        let (length, count) = self.stamp_run(bytes, length, subject, largest, stamp);
        let run = &mut bytes[..length];
        self.count_accepted(key, count, length);
        self.forward(key, &targets.remotes, run);
        self.deliver_to_all(now, from, &targets, stamp.run(run, count));
        PublishProgress::of(length)
    }

    /// Publishes a message that is dealt out one by one: its publisher waits for an outcome, or
    /// each member of a group gets another one.
    fn publish_one(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &mut [u8],
        header: Header,
        targets: &Rc<RouteTargets>,
    ) {
        let from = MessageSender { key: Some(key), id: self.peer(key).origin.peer };
        let home = OutcomeTarget::Here(key, header.correlation);
        let ticket = header.is_tracked().then(|| self.track(now, home, &header));
        Frame::stamp_sender(frame, from.id);
        for sharing in &targets.groups {
            self.deliver_to_group(now, from, sharing, frame, ticket);
        }
        Frame::stamp_subscription(frame, 0);
        self.forward_one(key, &targets.remotes, frame, ticket);
        let run = StampedBatch { bytes: frame, count: 1, subscription: 0, ticket };
        self.deliver_to_all(now, from, targets, run);
    }

    /// Delivers messages that another worker has accepted, to the subscriptions here that are in
    /// no group; says how many bytes they are.
    pub(crate) fn deliver_run(&mut self, now: Instant, bytes: &mut [u8], length: usize) -> usize {
        let Ok(Decoded::Frame(first, _)) = decode(bytes, usize::MAX) else { return length };
        // The other worker has checked the subject.
        let Ok(targets) = self.route(first.subject) else { return length };
        let (id, subject) = (first.header.sender, first.subject.len());
        let stamp = FrameStamp { of_sender: true, ..FrameStamp::new(id, &targets.members) };
        let (length, count) = self.stamp_run(bytes, length, subject, usize::MAX, stamp);
        let (from, run) = (MessageSender { key: None, id }, &mut bytes[..length]);
        self.deliver_to_all(now, from, &targets, stamp.run(run, count));
        length
    }

    fn count_accepted(&mut self, key: PeerKey, count: u64, bytes: usize) {
        let counts = &mut self.peer(key).counts;
        counts.msgs_in += count;
        counts.bytes_in += bytes as u64;
        self.counters.accepted += count;
    }

    /// A peer is not read while too many outcomes of its messages are open.
    fn waits_for_outcomes(&mut self, key: PeerKey) -> bool {
        // Its outcomes come through its own outbox.
        if self.waits_for_itself(key) {
            return true;
        }
        let is_at_limit = self.peer(key).outstanding() >= MAX_OUTSTANDING;
        if is_at_limit {
            self.wait_for(key, key);
        }
        is_at_limit
    }

    /// Makes the publisher wait if a receiver, here or elsewhere, cannot take more.
    fn must_wait(&mut self, publisher: PeerKey, targets: &RouteTargets) -> bool {
        if self.peer(publisher).wait.is_overdue() {
            return false;
        }
        if let Some(full) = self.full_member(publisher, &targets.members) {
            self.wait_for(publisher, full);
            return true;
        }
        if self.cluster.as_ref().is_some_and(|cluster| cluster.must_wait(&targets.remotes)) {
            self.wait_for_others(publisher);
            return true;
        }
        targets.groups.iter().any(|sharing| self.must_wait_for_group(publisher, sharing))
    }

    /// Whether the message may be published at all, and to whom.
    fn check(&mut self, key: PeerKey, frame: &Frame<'_>) -> Result<Destination, (Code, String)> {
        if frame.payload.len() > self.config.max_payload {
            let (bytes, limit) = (frame.payload.len(), self.config.max_payload);
            let why = format!(
                "a payload of {bytes} bytes, where at most {limit} are allowed (max_message)"
            );
            return Err((Code::TooLarge, why));
        }
        if frame.headers.len() > MAX_HEADERS {
            let bytes = frame.headers.len();
            let why = format!("headers of {bytes} bytes, where at most {MAX_HEADERS} are allowed");
            return Err((Code::TooLarge, why));
        }
        if frame.header.is_tracked() && self.is_outstanding(key, frame.header.correlation) {
            let why = "a message with this number is not concluded yet, or it has none";
            return Err((Code::Protocol, why.into()));
        }
        if frame.header.request {
            self.check_reply_subject(key, frame)?;
        }
        let address = Address::parse(frame.subject);
        self.check_right_to_publish(key, frame.subject, address)?;
        if let Some(address) = address {
            return Ok(Destination::Peer(address));
        }
        let targets = self.route(frame.subject);
        targets.map(Destination::Subscribers).map_err(|error| (Code::BadSubject, error.to_string()))
    }

    /// Whether replies to a request come to its own requester. Responders publish where it says, with
    /// rights that the requester may not have.
    fn check_reply_subject(&self, key: PeerKey, frame: &Frame<'_>) -> Result<(), (Code, String)> {
        let peer = self.peers[key.0 as usize].origin.peer;
        let own = Address { peer, request: Some(frame.header.correlation) };
        if Address::parse(frame.reply) == Some(own) {
            return Ok(());
        }
        let why = format!("the reply subject of this request has to be its own address, {own}");
        Err((Code::BadSubject, why))
    }

    fn is_outstanding(&self, key: PeerKey, correlation: u64) -> bool {
        let calls = self.peers[key.0 as usize].calls.as_ref();
        correlation == 0 || calls.is_some_and(|calls| calls.outstanding.contains_key(&correlation))
    }

    /// A receiver for whose sake the publisher has to wait.
    fn full_member(&self, publisher: PeerKey, members: &[LocalSubscriber]) -> Option<PeerKey> {
        let blocks = |member: &&LocalSubscriber| {
            let peer = &self.peers[member.peer.0 as usize];
            member.overflow == Overflow::Block
                && (peer.full || peer.pace.holds())
                && self.hears(Some(publisher), member)
        };
        members.iter().find(blocks).map(|member| member.peer)
    }

    pub(crate) fn hears(&self, publisher: Option<PeerKey>, member: &LocalSubscriber) -> bool {
        let peer = &self.peers[member.peer.0 as usize];
        peer.is_open() && (publisher != Some(member.peer) || !peer.no_echo)
    }

    /// Stamps the run that begins with a frame of this length, while it finds its end: each header
    /// is looked at once. Returns the run's bytes and messages.
    fn stamp_run(
        &self,
        bytes: &mut [u8],
        first: usize,
        subject: usize,
        largest: usize,
        stamp: FrameStamp,
    ) -> (usize, u64) {
        let (head, mut rest) = bytes.split_at_mut(first);
        stamp.apply(head);
        let subject = &head[HEADER_BYTES..HEADER_BYTES + subject];
        let (mut length, mut count) = (first, 1);
        while length < MAX_RUN
            && let Ok(Decoded::Frame(frame, more)) = decode(rest, largest)
            && frame.header.kind == Kind::Message
            && !frame.header.is_tracked()
            && frame.subject == subject
            && (!stamp.of_sender || stamp.is_of(&frame.header))
            && frame.payload.len() <= self.config.max_payload
            && frame.headers.len() <= MAX_HEADERS
        {
            stamp.apply(rest);
            rest = &mut rest[more..];
            length += more;
            count += 1;
        }
        (length, count)
    }

    /// Puts messages into a subscriber's outbox, or drops them as the subscription wants.
    pub(crate) fn deliver(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
        load: MessageBatch<'_>,
    ) {
        if !self.hears(from.key, member) || !self.peer(member.peer).is_open() {
            return;
        }
        if load.ticket.is_some() && self.has_no_room_for(member.peer, load.bytes) {
            self.note_matched(member, &load);
            return self.drop_copies(now, member, &load, Reason::Newest);
        }
        match self.peer(member.peer).largest {
            None => self.deliver_fitting(now, from, member, load),
            Some(largest) => self.deliver_each(now, from, member, load, largest as usize),
        }
    }

    /// Delivers messages one by one to a peer that cannot be sent any.
    fn deliver_each(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
        load: MessageBatch<'_>,
        largest: usize,
    ) {
        let mut rest = load.bytes;
        while let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX) {
            let (bytes, behind) = rest.split_at(length);
            let one = MessageBatch { bytes, count: 1, shared: None, ..load };
            match frame.payload.len() <= largest {
                true => self.deliver_fitting(now, from, member, one),
                false => {
                    self.note_matched(member, &one);
                    self.drop_copies(now, member, &one, Reason::TooLarge);
                }
            }
            rest = behind;
        }
    }

    fn note_matched(&mut self, member: &LocalSubscriber, load: &MessageBatch<'_>) {
        self.counters.matched += load.count;
        if let Some(subscription) = self.peer(member.peer).subscription(member.subscription) {
            subscription.matched += load.count;
        }
        if let Some(ticket) = load.ticket {
            self.opened_copy(ticket);
        }
    }

    fn drop_copies(
        &mut self,
        now: Instant,
        member: &LocalSubscriber,
        load: &MessageBatch<'_>,
        reason: Reason,
    ) {
        self.note_dropped(member.peer, member.subscription, reason, load.count);
        if let Some(ticket) = load.ticket {
            self.concluded(now, ticket, DeliveryOutcome::Dropped(reason));
        }
    }

    fn deliver_fitting(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
        load: MessageBatch<'_>,
    ) {
        let (to, count) = (member.peer, load.count);
        self.note_matched(member, &load);
        if self.peer(to).full
            && let Err(reason) = self.make_room(now, from, member)
        {
            return self.drop_copies(now, member, &load, reason);
        }
        if member.origin {
            self.introduce(now, from, to);
        }
        self.enqueue(now, to, &load);
        self.peer(to).counts.msgs_out += count;
        self.filled(now, to);
        if self.peer(to).has_its_fill() {
            self.leave_groups(now, to);
        }
        if member.overflow == Overflow::DropOldest && self.peer(to).full {
            self.shed(now, to);
        }
    }

    /// Puts messages into an outbox, and notes whose outcome depends on it.
    pub(crate) fn enqueue(&mut self, now: Instant, key: PeerKey, load: &MessageBatch<'_>) {
        let MessageBatch { bytes, ticket, shared, .. } = *load;
        let peer = &mut self.peers[key.0 as usize];
        match shared {
            Some(span) => peer.outbox.append_shared(now, span, &mut self.store),
            None => peer.outbox.append(now, &mut self.store).extend_from_slice(bytes),
        }
        if let Some(ticket) = ticket
            && let Ok(Decoded::Frame(Frame { header, .. }, _)) = decode(bytes, usize::MAX)
        {
            match header.request {
                true => self.is_asked(key, header.sender, header.correlation, ticket),
                false => peer.outbox.await_written(ticket),
            }
        }
    }

    /// What to do about a full outbox: whether the messages may go into it all the same.
    fn make_room(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
    ) -> Result<(), Reason> {
        match member.overflow {
            _ if from.key.is_none() && self.is_flooded(member.peer) => Err(Reason::Newest),
            // Publishers have waited as long as they may, one after the other.
            Overflow::Block if from.key.is_some() && self.is_at_hard_limit(member.peer) => {
                self.cut_off(now, member.peer, "publishers have waited for it for too long");
                Err(Reason::CutOff)
            }
            // The publisher was let through before this peer's outbox filled up, a run's worth, or
            // when it had waited long enough; or from another worker what was on its way.
            Overflow::Block | Overflow::DropOldest => Ok(()),
            Overflow::DropNewest => Err(Reason::Newest),
            Overflow::Disconnect => {
                self.cut_off(now, member.peer, "its outbox is full");
                Err(Reason::CutOff)
            }
        }
    }

    /// Drops the oldest messages of the subscriptions that want it so, down to half an outbox, so
    /// that it is not done again for each message.
    fn shed(&mut self, now: Instant, key: PeerKey) {
        let mut half = self.config.outbox / 2;
        if self.is_overcharged(key) {
            half = half.min(self.peer(key).outbox.len() / 2);
        }
        let Peer { outbox, subscriptions, .. } = &mut self.peers[key.0 as usize];
        if !outbox.is_worth_shedding() {
            return;
        }
        let shed = outbox.shed(half, &mut self.store, |number| {
            let known = subscriptions.binary_search_by_key(&number, |known| known.number);
            known.is_ok_and(|at| subscriptions[at].overflow == Overflow::DropOldest)
        });
        self.budget.spend(shed.looked_at / SHED_IN_STEP);
        self.recharge(key);
        let is_full = self.peer(key).outbox.len() > half;
        self.set_full(key, is_full);
        if !is_full {
            // They may wait for another subscription of this peer's, which blocks.
            self.resume_waiters(key);
        }
        for (number, dropped) in &shed.by_subscription {
            // They are noted as dropped as those are that never came into the outbox.
            let counts = &mut self.peer(key).counts;
            counts.msgs_out = counts.msgs_out.saturating_sub(*dropped);
            self.note_dropped(key, *number, Reason::Oldest, *dropped);
        }
        self.conclude_shed(now, key, &shed, Reason::Oldest);
    }

    /// The publishers of what was dropped of an outbox are told, if they want to know.
    pub(crate) fn conclude_shed(
        &mut self,
        now: Instant,
        key: PeerKey,
        shed: &DropReport,
        why: Reason,
    ) {
        for ticket in &shed.receipts {
            self.concluded(now, *ticket, DeliveryOutcome::Dropped(why));
        }
        for request in &shed.requests {
            self.has_answered(now, key, *request, DeliveryOutcome::Dropped(why));
        }
    }

    fn note_dropped(&mut self, key: PeerKey, number: u32, reason: Reason, count: u64) {
        self.counters.dropped.count(reason, count);
        let peer = self.peer(key);
        peer.counts.dropped += count;
        peer.has_gaps = true;
        if let Some(subscription) = peer.subscription(number) {
            subscription.drops.get_or_insert_default().count(reason, count);
        }
    }

    /// Tells a subscriber who the sender is, before its first message.
    pub(crate) fn introduce(&mut self, now: Instant, from: MessageSender, to: PeerKey) {
        if self.peer(to).learns_of(from.id) {
            let origin = match from.key {
                Some(key) => Some(&self.peers[key.0 as usize].origin),
                None if self.last_sender.is_some() => self.last_sender.as_ref(),
                None => self.cluster.as_ref().and_then(|cluster| cluster.origin(from.id)),
            };
            let Some(origin) = origin.cloned() else { return };
            let notice = encode(&Notice::Origin(origin));
            let peer = &mut self.peers[to.0 as usize];
            let buffer = peer.outbox.append(now, &mut self.store);
            FrameWriter(buffer).control(Header::new(Kind::Notice, 0), &notice);
        }
    }
}

/// What the daemon fills in.
#[derive(Clone, Copy)]
struct FrameStamp {
    sender: u64,
    subscription: u32,
    /// Whether another worker has stamped the messages with senders, and only this one's are meant.
    of_sender: bool,
}

impl FrameStamp {
    /// For the first of these members.
    fn new(sender: u64, members: &[LocalSubscriber]) -> Self {
        let subscription = members.first().map_or(0, |member| member.subscription);
        Self { sender, subscription, of_sender: false }
    }

    fn to_others(sender: u64) -> Self {
        Self { sender, subscription: 0, of_sender: false }
    }

    /// A run that has been stamped with it.
    fn run(self, bytes: &mut [u8], count: u64) -> StampedBatch<'_> {
        StampedBatch { bytes, count, subscription: self.subscription, ticket: None }
    }

    /// Whether this message of another worker's is by the same sender, and for no group.
    fn is_of(self, header: &Header) -> bool {
        header.sender == self.sender && header.subscription == 0
    }

    fn apply(self, frame: &mut [u8]) {
        Frame::stamp_sender(frame, self.sender);
        Frame::stamp_subscription(frame, self.subscription);
    }
}
