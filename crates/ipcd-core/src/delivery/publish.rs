//! Publishing: from a publisher's bytes into the send queues of its subscribers.
//!
//! Consecutive messages of a read with the same subject form a batch: the route is looked up once,
//! and the batch is copied as one slice into each queue.

use crate::delivery::Delivery;
use crate::delivery::fan_out::StampedBatch;
use crate::model::failure::Failure;
use crate::model::frame_parts::FrameParts;
use crate::model::ids::PeerKey;
use crate::queue::message_batch::MAX_BATCH;
use crate::requests::OutcomeTarget;
use crate::routing::index::LocalSubscriber;
use crate::routing::routes::{FOUND_IN_STEP, RouteTargets};
use crate::sessions::work::MessageSender;
use ipcd_proto::DecodedFrame;
use ipcd_proto::DirectAddress;
use ipcd_proto::Frame;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::Subject;
use ipcd_proto::control::Refusal;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::encode;
use ipcd_proto::decode;
use ipcd_proto::limits::MAX_HEADERS;
use std::rc::Rc;
use std::time::Instant;

/// The result of publishing the messages at the start of a read.
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

/// The destination of a message.
enum Destination {
    Peer(DirectAddress),
    Subscribers(Rc<RouteTargets>),
}

impl Delivery {
    /// Accepts the message at the start of `bytes`, and following messages with the same subject.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        key: PeerKey,
        bytes: &mut [u8],
        message: FrameParts,
        largest: usize,
    ) -> PublishProgress {
        let FrameParts { header, length, .. } = message;
        self.sessions.work.budget.spend(2);
        let to = match self.check(key, bytes, &message) {
            Ok(to) => to,
            // A peer that does not read its refusals is not read either.
            Err(_) if self.peers_mut().waits_for_itself(key) => return PublishProgress::WAITING,
            Err((code, why)) => {
                self.peers_mut().refuse(now, key, header.correlation, code, why);
                return PublishProgress::of(length);
            }
        };
        if header.is_tracked() && self.peers_mut().waits_for_outcomes(key) {
            return PublishProgress::WAITING;
        }
        // The answer goes through the peer's own send queue.
        if header.interest && self.peers_mut().waits_for_itself(key) {
            return PublishProgress::WAITING;
        }
        let targets = match to {
            Destination::Peer(address) if self.peers_mut().must_wait_for_way(key, address) => {
                return PublishProgress::WAITING;
            }
            Destination::Peer(address) => {
                self.count_accepted(key, 1, length);
                self.publish_direct(now, key, &mut bytes[..length], message, address);
                return PublishProgress::of(length);
            }
            Destination::Subscribers(targets) => targets,
        };
        // All reasons to wait come first: a message that is accepted must be delivered.
        if self.must_wait(key, &targets) {
            return PublishProgress::WAITING;
        }
        if header.interest && !self.has_receiver(key, &targets) {
            self.count_accepted(key, 1, length);
            self.tell_no_receiver(now, key, &bytes[..length], message);
            return PublishProgress::of(length);
        }
        let from = MessageSender { key: Some(key), id: self.sessions.peers.table[key].origin.peer };
        if header.is_tracked() || !targets.groups.is_empty() {
            self.count_accepted(key, 1, length);
            self.publish_one(now, key, &mut bytes[..length], message, &targets);
            return PublishProgress::of(length);
        }
        // In a message to another worker, this number stands for a group, so it must be 0.
        let is_here = targets.remotes.is_empty();
        let stamp = if is_here {
            FrameStamp::new(from.id, &targets.members)
        } else {
            FrameStamp::to_others(from.id)
        };
        let (length, count) = self.stamp_batch(bytes, &message, largest, stamp, Some(key));
        let batch = &mut bytes[..length];
        self.count_accepted(key, count, length);
        // Other workers first: delivery here stamps other numbers into the same bytes.
        self.forward(key, &targets.remotes, batch);
        self.deliver_to_all(now, from, &targets, stamp.batch(batch, count));
        PublishProgress::of(length)
    }

    /// Publishes a message that cannot be batched: its outcome is awaited, or each message of a
    /// group goes to another member.
    fn publish_one(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &mut [u8],
        message: FrameParts,
        targets: &Rc<RouteTargets>,
    ) {
        let header = message.header;
        let from = MessageSender { key: Some(key), id: self.sessions.peers.table[key].origin.peer };
        let home = OutcomeTarget::Here(key, header.correlation);
        let ticket = header
            .is_tracked()
            .then(|| self.sessions.requests.track(&mut self.sessions.peers, now, home, &header));
        // Whatever a peer has written there: receivers rely on the sender that the daemon names.
        Frame::stamp_sender(frame, from.id);
        self.stamp_reply(Some(key), frame, &message);
        for group_route in &targets.groups {
            self.deliver_to_group(now, from, group_route, frame, ticket);
        }
        // The groups above have stamped their numbers.
        Frame::stamp_subscription(frame, 0);
        self.forward_one(key, &targets.remotes, frame, ticket);
        let batch = StampedBatch { bytes: frame, count: 1, subscription: 0, ticket };
        self.deliver_to_all(now, from, targets, batch);
    }

    /// Delivers messages that another worker has accepted to single subscriptions here. Returns the
    /// number of bytes.
    pub(crate) fn deliver_batch(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        message: FrameParts,
    ) -> usize {
        // The other worker has checked the subject, so only a compromised one gets here.
        let Ok(targets) = self.route(message.subject(bytes)) else { return message.length };
        let id = message.header.sender;
        let stamp = FrameStamp { of_sender: true, ..FrameStamp::new(id, &targets.members) };
        let (length, count) = self.stamp_batch(bytes, &message, usize::MAX, stamp, None);
        let (from, batch) = (MessageSender { key: None, id }, &mut bytes[..length]);
        self.deliver_to_all(now, from, &targets, stamp.batch(batch, count));
        length
    }

    /// Whether any subscription, here or on another worker, gets a message of this publisher.
    fn has_receiver(&self, publisher: PeerKey, targets: &RouteTargets) -> bool {
        let from = Some(publisher);
        !targets.remotes.is_empty()
            || targets.members.iter().any(|member| self.peers().hears(from, member))
            || targets.groups.iter().any(|group_route| self.has_member(from, group_route))
    }

    /// Tells a publisher that no subscription matches its message. The frame names its subjects, and
    /// the publisher's own subscription for the reply, so that it need not remember them.
    fn tell_no_receiver(&mut self, now: Instant, key: PeerKey, frame: &[u8], message: FrameParts) {
        let (subject, reply) = (message.subject(frame), message.reply(frame));
        let subscription = self.own_subscription_for(key, reply);
        let header =
            Header { subscription, ..Header::new(FrameKind::Error, message.header.correlation) };
        let code = RefusalCode::NoResponder;
        let body = encode(&Refusal { code, message: "no peer subscribes to this subject".into() });
        let frame = Frame { header, subject, reply, headers: &[], payload: &body };
        self.peers_mut().send_frame(now, key, &frame);
    }

    /// Returns the number of a subscription of the peer that matches; 0 for none.
    fn own_subscription_for(&mut self, key: PeerKey, subject: &[u8]) -> u32 {
        let Ok(subject) = Subject::parse(subject) else { return 0 };
        let (members, looked_at) = self.sessions.index.find_counted(subject);
        self.sessions.work.budget.spend(looked_at.div_ceil(FOUND_IN_STEP));
        let own = members.iter().filter(|member| member.peer == key);
        own.map(|member| member.subscription).min().unwrap_or(0)
    }

    /// Notes in a frame whether replies may be published to its reply subject. Other workers have
    /// noted it for their peers.
    pub(crate) fn stamp_reply(
        &self,
        publisher: Option<PeerKey>,
        frame: &mut [u8],
        message: &FrameParts,
    ) {
        let Some(key) = publisher else { return };
        let is_answerable =
            message.reply > 0 && self.peers().is_answerable(key, message.reply(frame));
        // Most frames have neither, and are not written to.
        if is_answerable || message.header.answerable {
            Frame::stamp_answerable(frame, is_answerable);
        }
    }

    /// Does the same for all messages of a batch.
    #[cold]
    fn stamp_replies(&self, publisher: Option<PeerKey>, mut batch: &mut [u8]) {
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(batch, usize::MAX) {
            let message = FrameParts::of(&frame);
            self.stamp_reply(publisher, batch, &message);
            batch = &mut batch[length..];
        }
    }

    fn count_accepted(&mut self, key: PeerKey, count: u64, bytes: usize) {
        let counts = &mut self.sessions.peers.table[key].counts;
        counts.msgs_in += count;
        counts.bytes_in += bytes as u64;
        self.sessions.peers.counters.accepted += count;
    }

    /// Makes the publisher wait if a receiver, here or on another worker, cannot take more.
    fn must_wait(&mut self, publisher: PeerKey, targets: &RouteTargets) -> bool {
        // Nothing can be sent to a worker that this one has not met.
        if self.meet_all(targets) {
            self.peers_mut().wait_for_others(publisher);
            return true;
        }
        // The message has waited for `stall_timeout`, and is delivered even to full receivers.
        if self.sessions.peers.table[publisher].wait.is_overdue() {
            return false;
        }
        if let Some(full) = self.peers().full_member(publisher, &targets.members) {
            self.peers_mut().wait_for(publisher, full);
            return true;
        }
        if self.sessions.peers.cluster.must_wait(&targets.remotes) {
            self.peers_mut().wait_for_others(publisher);
            return true;
        }
        targets.groups.iter().any(|group_route| self.must_wait_for_group(publisher, group_route))
    }

    /// Checks whether the message may be published, and returns its destination.
    fn check(
        &mut self,
        key: PeerKey,
        bytes: &[u8],
        message: &FrameParts,
    ) -> Result<Destination, Failure> {
        let limit = self.peers().config.max_payload;
        if message.payload > limit {
            let bytes = message.payload;
            let why =
                format!("payload of {bytes} bytes exceeds the limit of {limit} (max_message)");
            return Err((RefusalCode::TooLarge, why));
        }
        if message.headers > MAX_HEADERS {
            let bytes = message.headers;
            let why = format!("headers of {bytes} bytes exceed the limit of {MAX_HEADERS}");
            return Err((RefusalCode::TooLarge, why));
        }
        let correlation = message.header.correlation;
        if message.header.is_tracked() && self.peers().is_outstanding(key, correlation) {
            let why = "a request or a message with receipt needs a number that is not in use";
            return Err((RefusalCode::Protocol, why.into()));
        }
        if message.header.request {
            self.peers().check_reply_subject(key, correlation, message.reply(bytes))?;
        }
        let subject = message.subject(bytes);
        let address = DirectAddress::parse(subject);
        self.peers().check_right_to_publish(key, subject, address)?;
        if let Some(address) = address {
            return Ok(Destination::Peer(address));
        }
        let targets = self.route(subject);
        targets
            .map(Destination::Subscribers)
            .map_err(|error| (RefusalCode::BadSubject, error.to_string()))
    }

    /// Stamps the batch that begins with this frame while it searches for its end, so that each
    /// header is read once. Returns the batch's length in bytes and in messages.
    fn stamp_batch(
        &self,
        bytes: &mut [u8],
        first: &FrameParts,
        largest: usize,
        stamp: FrameStamp,
        publisher: Option<PeerKey>,
    ) -> (usize, u64) {
        let (head, mut rest) = bytes.split_at_mut(first.length);
        stamp.apply(head);
        let mut has_reply = first.reply > 0 || first.header.answerable;
        let subject = first.subject(head);
        let (mut length, mut count) = (first.length, 1);
        let largest_payload = self.peers().config.max_payload;
        // A message that may get an answer of its own ends a batch.
        while length < MAX_BATCH
            && let Ok(DecodedFrame::Frame(frame, more)) = decode(rest, largest)
            && frame.header.kind == FrameKind::Message
            && !frame.header.stands_alone()
            && (!stamp.of_sender || stamp.is_of(&frame.header))
            && frame.payload.len() <= largest_payload
            && frame.headers.len() <= MAX_HEADERS
            // The only call comes last, when no register is needed any more for the checks.
            && frame.subject == subject
        {
            has_reply |= has_reply_stamp(&frame);
            stamp.apply(rest);
            rest = &mut rest[more..];
            length += more;
            count += 1;
        }
        // A second pass, because most batches do not need it, and each message pays for the loop.
        if has_reply {
            self.stamp_replies(publisher, &mut bytes[..length]);
        }
        (length, count)
    }
}

/// Whether the flag for the reply subject may have to change.
fn has_reply_stamp(frame: &Frame<'_>) -> bool {
    !frame.reply.is_empty() || frame.header.answerable
}

/// The header fields that the router fills in.
#[derive(Clone, Copy)]
struct FrameStamp {
    sender: u64,
    subscription: u32,
    /// Whether another worker has stamped the senders. Then a batch contains one sender's messages
    /// only.
    of_sender: bool,
}

impl FrameStamp {
    /// Returns the stamp for the first of these members.
    fn new(sender: u64, members: &[LocalSubscriber]) -> Self {
        let subscription = members.first().map_or(0, |member| member.subscription);
        Self { sender, subscription, of_sender: false }
    }

    fn to_others(sender: u64) -> Self {
        Self { sender, subscription: 0, of_sender: false }
    }

    /// Returns the batch that was stamped with this.
    fn batch(self, bytes: &mut [u8], count: u64) -> StampedBatch<'_> {
        StampedBatch { bytes, count, subscription: self.subscription, ticket: None }
    }

    /// Whether a message of another worker has the same sender, and is for no group.
    fn is_of(self, header: &Header) -> bool {
        header.sender == self.sender && header.subscription == 0
    }

    fn apply(self, frame: &mut [u8]) {
        Frame::stamp_sender(frame, self.sender);
        Frame::stamp_subscription(frame, self.subscription);
    }
}

#[cfg(test)]
mod tests {
    use ipcd_proto::control::Origin;
    use ipcd_proto::{Filter, FrameWriter};

    use super::*;
    use crate::config::{Config, DaemonInfo, PeerInfo, RawPeer};
    use crate::router::Router;

    fn raw_peer(filter: Option<&str>) -> PeerInfo {
        let origin = Origin {
            peer: 0,
            name: None,
            transport: "test".into(),
            pid: None,
            uid: None,
            gid: None,
            addr: None,
        };
        let filters = filter.map(|text| Filter::parse(text.as_bytes()).unwrap());
        let filters = filters.into_iter().collect();
        let raw = Some(RawPeer { filters, echo: false, largest: None, speaks: true });
        PeerInfo { listener: 0, origin, challenge: None, raw }
    }

    #[test]
    fn each_message_of_a_batch_has_its_own_flag_for_its_reply_subject() {
        let now = Instant::now();
        let mut core = Router::new(Config::new(DaemonInfo::unknown(now)), None);
        let (publisher, reader) =
            (core.attach(now, raw_peer(None)), core.attach(now, raw_peer(Some("a"))));
        let mut bytes = Vec::new();
        for (reply, is_claimed) in
            [("", false), ("b", false), ("", true), ("@1", true), ("b.c", true)]
        {
            let header = Header { answerable: is_claimed, ..Header::new(FrameKind::Message, 0) };
            let frame = Frame {
                header,
                subject: b"a",
                reply: reply.as_bytes(),
                headers: b"",
                payload: b"",
            };
            FrameWriter(&mut bytes).write(&frame);
        }
        assert_eq!(core.receive(now, publisher, &mut bytes).consumed, bytes.len());
        let (mut rest, mut flags) = (core.send_queue(reader), Vec::new());
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            flags.push(frame.header.answerable);
            rest = &rest[length..];
        }
        assert_eq!(flags, [false, true, false, false, true]);
    }
}
