//! The way of a message: from a publisher's bytes into its subscribers' outboxes.
//!
//! Consecutive messages of a batch that go to one subject form a run: the route is looked up once,
//! and the run is copied as one slice into each outbox.

use std::rc::Rc;
use std::time::Instant;

use ipcd_proto::control::{Code, Notice, Overflow, encode};
use ipcd_proto::limits::MAX_HEADERS;
use ipcd_proto::{
    BadSubject, Decoded, Frame, FrameWriter, HEADER_BYTES, Header, Kind, decode, frame_len,
};

use crate::core::Core;
use crate::interest::{Member, Remote};
use crate::others::Others;
use crate::peer::PeerKey;

/// Bytes of a run: what an outbox may hold beyond its limit.
const MAX_RUN: usize = 16 * 1024;

/// What came of the messages at the start of a batch.
pub(crate) struct Run {
    pub(crate) consumed: usize,
    pub(crate) waiting: bool,
}

/// Who sent a run: a peer of this router, or of another.
#[derive(Clone, Copy)]
struct Sender {
    key: Option<PeerKey>,
    id: u64,
}

/// The route of the last subject, which is most often the next one's too.
#[derive(Debug, Default)]
pub(crate) struct LastRoute {
    subject: Vec<u8>,
    generation: u64,
    targets: Option<Targets>,
}

/// Whom a subject concerns: subscriptions here, and other workers.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    members: Rc<[Member]>,
    remotes: Rc<[Remote]>,
}

impl Core {
    /// Accepts the message at the start of `bytes`, and those behind it that go the same way.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        key: PeerKey,
        bytes: &mut [u8],
        largest: usize,
    ) -> Run {
        let Ok(Decoded::Frame(first, length)) = decode(bytes, largest) else {
            unreachable!("the caller found a whole frame here");
        };
        let correlation = first.header.correlation;
        let targets = match self.check(&first) {
            Ok(targets) => targets,
            Err(_) if self.waits_for_itself(key) => {
                return Run { consumed: 0, waiting: true };
            }
            Err((code, why)) => {
                self.refuse(now, key, correlation, code, why);
                return Run { consumed: length, waiting: false };
            }
        };
        if self.must_wait(key, &targets) {
            return Run { consumed: 0, waiting: true };
        }
        let id = self.peer(key).origin.peer;
        let stamp = Stamp::new(id, &targets.members);
        let (length, count) = self.stamp_run(bytes, length, first.subject.len(), largest, stamp);
        let run = &mut bytes[..length];
        let counts = &mut self.peer(key).counts;
        counts.msgs_in += count;
        counts.bytes_in += length as u64;
        self.counters.accepted += count;
        self.deliver_to_all(now, Sender { key: Some(key), id }, &targets.members, run, count);
        if !targets.remotes.is_empty() {
            self.forward(key, &targets.remotes, run);
        }
        Run { consumed: length, waiting: false }
    }

    /// Delivers a message that another worker has accepted, and those behind it that go the same
    /// way; says how many bytes they are.
    pub(crate) fn deliver_run(&mut self, now: Instant, bytes: &mut [u8], length: usize) -> usize {
        let Ok(Decoded::Frame(first, _)) = decode(bytes, usize::MAX) else { return length };
        // The other worker has checked the subject.
        let Ok(Targets { members, .. }) = self.route(first.subject) else { return length };
        let (id, subject) = (first.header.sender, first.subject.len());
        let stamp = Stamp { of_sender: true, ..Stamp::new(id, &members) };
        let (length, count) = self.stamp_run(bytes, length, subject, usize::MAX, stamp);
        self.deliver_to_all(now, Sender { key: None, id }, &members, &mut bytes[..length], count);
        length
    }

    /// Delivers a run that is stamped for the first of the members.
    fn deliver_to_all(
        &mut self,
        now: Instant,
        from: Sender,
        members: &[Member],
        run: &mut [u8],
        count: u64,
    ) {
        let mut stamped = members.first().map_or(0, |member| member.subscription);
        for member in members {
            if std::mem::replace(&mut stamped, member.subscription) != member.subscription {
                stamp_subscription(run, stamped);
            }
            self.deliver(now, from, member, run, count);
        }
    }

    /// Makes the publisher wait if a receiver, here or elsewhere, cannot take more.
    fn must_wait(&mut self, publisher: PeerKey, targets: &Targets) -> bool {
        if let Some(full) = self.full_member(publisher, &targets.members) {
            self.wait_for(publisher, full);
            return true;
        }
        match &mut self.others {
            Some(others) if others.must_wait(&targets.remotes) => {
                others.wait(publisher);
                self.peer(publisher).waiting = true;
                true
            }
            _ => false,
        }
    }

    /// Whether the message may be published at all, and to whom.
    fn check(&mut self, frame: &Frame<'_>) -> Result<Targets, (Code, String)> {
        if frame.payload.len() > self.config.max_payload {
            let (bytes, limit) = (frame.payload.len(), self.config.max_payload);
            let why = format!("a payload of {bytes} bytes, where at most {limit} are allowed");
            return Err((Code::TooLarge, why));
        }
        if frame.headers.len() > MAX_HEADERS {
            let bytes = frame.headers.len();
            let why = format!("headers of {bytes} bytes, where at most {MAX_HEADERS} are allowed");
            return Err((Code::TooLarge, why));
        }
        self.route(frame.subject).map_err(|error| (Code::BadSubject, error.to_string()))
    }

    fn route(&mut self, subject: &[u8]) -> Result<Targets, BadSubject> {
        // Both only grow, so that their sum changes when either does.
        let others = self.others.as_ref().map_or(0, Others::generation);
        let generation = self.interests.generation() + others;
        let last = &mut self.last_route;
        if let Some(targets) = &last.targets
            && last.generation == generation
            && last.subject == subject
        {
            return Ok(targets.clone());
        }
        let members = self.interests.route(subject)?;
        let remotes = self.others.as_mut().map(|others| others.route(subject)).transpose()?;
        let targets = Targets { members, remotes: remotes.unwrap_or_default() };
        last.subject.clear();
        last.subject.extend_from_slice(subject);
        last.generation = generation;
        last.targets = Some(targets.clone());
        Ok(targets)
    }

    /// A receiver for whose sake the publisher has to wait.
    fn full_member(&self, publisher: PeerKey, members: &[Member]) -> Option<PeerKey> {
        let blocks = |member: &&Member| {
            let peer = &self.peers[member.peer.0 as usize];
            member.overflow == Overflow::Block && peer.full && self.hears(Some(publisher), member)
        };
        members.iter().find(blocks).map(|member| member.peer)
    }

    fn hears(&self, publisher: Option<PeerKey>, member: &Member) -> bool {
        publisher != Some(member.peer) || !self.peers[member.peer.0 as usize].no_echo
    }

    /// Stamps the run that begins with a frame of this length, while it finds its end: each header
    /// is looked at once. Returns the run's bytes and messages.
    fn stamp_run(
        &self,
        bytes: &mut [u8],
        first: usize,
        subject: usize,
        largest: usize,
        stamp: Stamp,
    ) -> (usize, u64) {
        let (head, mut rest) = bytes.split_at_mut(first);
        stamp.apply(head);
        let subject = &head[HEADER_BYTES..HEADER_BYTES + subject];
        let (mut length, mut count) = (first, 1);
        while length < MAX_RUN
            && let Ok(Decoded::Frame(frame, more)) = decode(rest, largest)
            && frame.header.kind == Kind::Message
            && frame.subject == subject
            && (!stamp.of_sender || frame.header.sender == stamp.sender)
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

    fn deliver(&mut self, now: Instant, from: Sender, member: &Member, run: &[u8], count: u64) {
        if !self.hears(from.key, member) || !self.peer(member.peer).is_open() {
            return;
        }
        self.counters.matched += count;
        let to = member.peer;
        if self.peer(to).full && !self.make_room(now, member, count) {
            return;
        }
        if member.origin {
            self.introduce(now, from, to);
        }
        let peer = &mut self.peers[to.0 as usize];
        let buffer = peer.outbox.append(now, &mut self.spare);
        buffer.extend_from_slice(run);
        peer.counts.msgs_out += count;
        self.counters.delivered += count;
        self.filled(now, to);
        if member.overflow == Overflow::DropOldest && self.peer(to).full {
            self.shed(to, member.subscription);
        }
    }

    /// What to do about a full outbox: whether the messages may go into it all the same.
    fn make_room(&mut self, now: Instant, member: &Member, count: u64) -> bool {
        match member.overflow {
            // The publisher was let through before this peer's outbox filled up: a run's worth, or
            // from another worker what was on its way.
            Overflow::Block | Overflow::DropOldest => true,
            Overflow::DropNewest => {
                self.counters.dropped_newest += count;
                self.note_dropped(member.peer, member.subscription, count);
                false
            }
            Overflow::Disconnect => {
                self.cut_off(now, member.peer, "its outbox is full");
                false
            }
        }
    }

    /// Drops the oldest messages of a subscription, down to half an outbox, so that it is not done
    /// again for each message.
    fn shed(&mut self, key: PeerKey, subscription: u32) {
        let half = self.config.outbox / 2;
        let peer = self.peer(key);
        let dropped = peer.outbox.shed(subscription, half);
        let is_full = peer.outbox.len() > half;
        self.set_full(key, is_full);
        if !is_full {
            // They may wait for another subscription of this peer's, which blocks.
            self.resume_waiters(key);
        }
        self.counters.dropped_oldest += dropped;
        self.counters.delivered -= dropped;
        self.note_dropped(key, subscription, dropped);
    }

    fn note_dropped(&mut self, key: PeerKey, subscription: u32, count: u64) {
        let peer = self.peer(key);
        peer.counts.dropped += count;
        peer.has_gaps = true;
        if let Some(subscription) = peer.subscription(subscription) {
            subscription.unreported += count;
        }
    }

    /// Tells a subscriber who the sender is, before its first message.
    fn introduce(&mut self, now: Instant, from: Sender, to: PeerKey) {
        if self.peer(to).learns_of(from.id) {
            let origin = match from.key {
                Some(key) => Some(&self.peers[key.0 as usize].origin),
                None => self.others.as_ref().and_then(|others| others.origin(from.id)),
            };
            let Some(origin) = origin.cloned() else { return };
            let notice = encode(&Notice::Origin(origin));
            let peer = &mut self.peers[to.0 as usize];
            let buffer = peer.outbox.append(now, &mut self.spare);
            FrameWriter(buffer).control(Header::new(Kind::Notice, 0), &notice);
        }
    }
}

/// What the daemon fills in.
#[derive(Clone, Copy)]
struct Stamp {
    sender: u64,
    subscription: u32,
    /// Whether the messages have been stamped with senders, and only this one's are meant.
    of_sender: bool,
}

impl Stamp {
    /// For the first of these members.
    fn new(sender: u64, members: &[Member]) -> Self {
        let subscription = members.first().map_or(0, |member| member.subscription);
        Self { sender, subscription, of_sender: false }
    }

    fn apply(self, frame: &mut [u8]) {
        Frame::stamp_sender(frame, self.sender);
        Frame::stamp_subscription(frame, self.subscription);
    }
}

fn stamp_subscription(mut run: &mut [u8], subscription: u32) {
    while let Some(length) = frame_len(run) {
        Frame::stamp_subscription(run, subscription);
        run = &mut run[length..];
    }
}
