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
use crate::interest::Member;
use crate::peer::PeerKey;

/// Bytes of a run: what an outbox may hold beyond its limit.
const MAX_RUN: usize = 16 * 1024;

/// What came of the messages at the start of a batch.
pub(crate) struct Run {
    pub(crate) consumed: usize,
    pub(crate) waiting: bool,
}

/// The route of the last subject, which is most often the next one's too.
#[derive(Debug, Default)]
pub(crate) struct LastRoute {
    subject: Vec<u8>,
    generation: u64,
    members: Option<Rc<[Member]>>,
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
        let members = match self.check(&first) {
            Ok(members) => members,
            Err(_) if self.waits_for_itself(key) => {
                return Run { consumed: 0, waiting: true };
            }
            Err((code, why)) => {
                self.refuse(now, key, correlation, code, why);
                return Run { consumed: length, waiting: false };
            }
        };
        if let Some(full) = self.full_member(key, &members) {
            self.wait_for(key, full);
            return Run { consumed: 0, waiting: true };
        }
        let subject = first.subject.len();
        let mut stamped = members.first().map_or(0, |member| member.subscription);
        let stamp = Stamp { sender: self.peer(key).origin.peer, subscription: stamped };
        let (length, count) = self.stamp_run(bytes, length, subject, largest, stamp);
        let run = &mut bytes[..length];
        let counts = &mut self.peer(key).counts;
        counts.msgs_in += count;
        counts.bytes_in += length as u64;
        self.counters.accepted += count;
        for member in members.iter() {
            if std::mem::replace(&mut stamped, member.subscription) != member.subscription {
                stamp_subscription(run, stamped);
            }
            self.deliver(now, key, member, run, count);
        }
        Run { consumed: length, waiting: false }
    }

    /// Whether the message may be published at all, and to whom.
    fn check(&mut self, frame: &Frame<'_>) -> Result<Rc<[Member]>, (Code, String)> {
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

    fn route(&mut self, subject: &[u8]) -> Result<Rc<[Member]>, BadSubject> {
        let generation = self.interests.generation();
        let last = &mut self.last_route;
        if let Some(members) = &last.members
            && last.generation == generation
            && last.subject == subject
        {
            return Ok(Rc::clone(members));
        }
        let members = self.interests.route(subject)?;
        last.subject.clear();
        last.subject.extend_from_slice(subject);
        last.generation = generation;
        last.members = Some(Rc::clone(&members));
        Ok(members)
    }

    /// A receiver for whose sake the publisher has to wait.
    fn full_member(&self, publisher: PeerKey, members: &[Member]) -> Option<PeerKey> {
        let blocks = |member: &&Member| {
            let peer = &self.peers[member.peer.0 as usize];
            member.overflow == Overflow::Block && peer.full && self.hears(publisher, member)
        };
        members.iter().find(blocks).map(|member| member.peer)
    }

    fn hears(&self, publisher: PeerKey, member: &Member) -> bool {
        member.peer != publisher || !self.peers[publisher.0 as usize].no_echo
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

    fn deliver(&mut self, now: Instant, from: PeerKey, member: &Member, run: &[u8], count: u64) {
        if !self.hears(from, member) || !self.peer(member.peer).is_open() {
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
            // The publisher was let through before this peer's outbox filled up: a run's worth.
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
        peer.full = peer.outbox.len() > half;
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
    fn introduce(&mut self, now: Instant, from: PeerKey, to: PeerKey) {
        let sender = self.peer(from).origin.peer;
        if self.peer(to).learns_of(sender) {
            let notice = encode(&Notice::Origin(self.peer(from).origin.clone()));
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
}

impl Stamp {
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
