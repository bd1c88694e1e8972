//! Frames to a peer: they go into the send queue, which may become full. Nothing here waits: the
//! callers decide that before.

use crate::model::ids::PeerKey;
use crate::output::Output;
use crate::peers::Peers;
use crate::peers::peer::{SessionState, Subscription};
use crate::queue::message_batch::MessageBatch;
use crate::routing::index::LocalSubscriber;
use ipcd_proto::DecodedFrame;
use ipcd_proto::DirectAddress;
use ipcd_proto::Frame;
use ipcd_proto::FrameKind;
use ipcd_proto::FrameWriter;
use ipcd_proto::Header;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::Notice;
use ipcd_proto::control::Refusal;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::encode;
use ipcd_proto::decode;
use std::time::Instant;

/// The hard limit of a send queue for messages that do not wait, as a fraction of the limit that
/// makes it full.
const HARD_LIMIT: (usize, usize) = (5, 4);

impl Peers {
    /// Queues a control frame. Control frames never wait; the peer's next question does.
    pub(crate) fn send(&mut self, now: Instant, key: PeerKey, header: Header, body: &[u8]) {
        let peer = &mut self.table[key];
        // Nothing may follow BYE, but a worker or the directory may answer late.
        if matches!(peer.state, SessionState::Closing | SessionState::Gone) {
            return;
        }
        FrameWriter(peer.queue.append(now, &mut self.pool)).control(header, body);
        self.note_queued(now, key);
    }

    /// Queues a frame that has a subject as well as a body.
    pub(crate) fn send_frame(&mut self, now: Instant, key: PeerKey, frame: &Frame<'_>) {
        let peer = &mut self.table[key];
        FrameWriter(peer.queue.append(now, &mut self.pool)).write(frame);
        self.note_queued(now, key);
    }

    /// Refuses one frame. The session continues. A frame without a number gets no answer, because
    /// the client could not tell which frame is meant.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        key: PeerKey,
        correlation: u64,
        code: RefusalCode,
        why: impl Into<String>,
    ) {
        let message = why.into();
        self.counters.refused += 1;
        if code == RefusalCode::Denied {
            self.note_denied(key, &message);
        }
        if correlation == 0 {
            return;
        }
        let body = encode(&Refusal { code, message });
        self.send(now, key, Header::new(FrameKind::Error, correlation), &body);
    }

    /// Counts a denial. Only the first one of each peer is logged, so that a peer cannot fill the
    /// log.
    pub(crate) fn note_denied(&mut self, key: PeerKey, why: &str) {
        self.counters.denied += 1;
        if !std::mem::replace(&mut self.table[key].was_denied, true) {
            self.outputs.push_back(Output::Denied(key, why.to_owned()));
        }
    }

    /// Queues messages, and notes the outcomes that depend on them. Returns whether the peer has
    /// all the group messages now that it wants.
    pub(crate) fn enqueue(&mut self, now: Instant, key: PeerKey, batch: &MessageBatch<'_>) -> bool {
        let peer = &mut self.table[key];
        peer.queue.append_batch(now, batch, &mut self.pool);
        peer.counts.msgs_out += batch.count;
        let has_reached_limit = peer.has_reached_limit();
        if let Some(ticket) = batch.ticket
            && let Ok(DecodedFrame::Frame(Frame { header, .. }, _)) =
                decode(batch.bytes, usize::MAX)
        {
            match header.request {
                true => {
                    peer.queue.mark_request();
                    self.note_request(key, header.sender, header.correlation, ticket);
                }
                false => peer.queue.await_written(ticket),
            }
        }
        self.note_queued(now, key);
        has_reached_limit
    }

    /// Notes that a frame was queued for the peer.
    fn note_queued(&mut self, now: Instant, key: PeerKey) {
        let was_empty = self.update_quota(key) == 0;
        let (quota_limit, config) = (self.quota_limit(), &self.config);
        // Each lookup of a peer counts here, because this runs for each copy of a message.
        let peer = &mut self.table[key];
        let becomes_full = !peer.full
            && (peer.queue.len() >= config.queue_limit || peer.is_over_quota(quota_limit));
        // Later bytes need no timer of their own: there is one as long as the queue is not empty.
        let stalls_at = was_empty.then(|| now + config.stall_timeout);
        let paced_until = peer.begin_pacing(now, config);
        if !std::mem::replace(&mut peer.dirty, true) {
            // One output for each queue and turn, no matter how many frames follow.
            self.outputs.push_back(Output::Write(key));
        }
        if let Some(at) = stalls_at.into_iter().chain(paced_until).min() {
            self.arm(key, at);
        }
        if becomes_full {
            self.set_full(key, true);
        }
    }

    /// Notes whether a peer's send queue is full. Other workers that publish to the peer are told.
    pub(crate) fn set_full(&mut self, key: PeerKey, full: bool) {
        if !full {
            self.table[key].queue.reset_shedding();
        }
        if std::mem::replace(&mut self.table[key].full, full) != full {
            self.tell_flow(key, full);
            let peer = &self.table[key];
            if peer.is_soon_cut_off()
                && let Some(at) = peer.stalls_at(self.config.stall_timeout)
            {
                self.arm(key, at);
            }
        }
    }

    pub(crate) fn hears(&self, publisher: Option<PeerKey>, member: &LocalSubscriber) -> bool {
        let peer = &self.table[member.peer];
        peer.is_open() && (publisher != Some(member.peer) || !peer.no_echo)
    }

    pub(crate) fn note_dropped(
        &mut self,
        key: PeerKey,
        number: u32,
        reason: DropReason,
        count: u64,
    ) {
        self.counters.dropped.count(reason, count);
        let peer = &mut self.table[key];
        peer.counts.dropped += count;
        peer.has_gaps = true;
        if let Some(subscription) = peer.subscription(number) {
            subscription.drops.get_or_insert_default().count(reason, count);
        }
    }

    pub(crate) fn report_gaps(&mut self, now: Instant, key: PeerKey) {
        let subscriptions = self.table[key].subscriptions.iter_mut();
        let gaps: Vec<_> = subscriptions.flat_map(Subscription::take_gaps).collect();
        self.tell_gaps(now, key, gaps);
    }

    /// Tells a peer about drops of its subscriptions.
    pub(crate) fn tell_gaps(
        &mut self,
        now: Instant,
        key: PeerKey,
        gaps: impl IntoIterator<Item = (u32, DropReason, u64)>,
    ) {
        for (subscription, reason, dropped) in gaps {
            let notice = encode(&Notice::Gap { subscription, reason, dropped });
            self.send(now, key, Header::new(FrameKind::Notice, 0), &notice);
        }
    }

    pub(crate) fn count_undeliverable(&mut self, to: DirectAddress) {
        match to.request {
            Some(_) => self.counters.replies_late += 1,
            None => self.counters.direct_undeliverable += 1,
        }
    }

    /// Whether messages will be dropped from a peer's send queue if so many bytes are added. Without
    /// knowledge of the quota: a peer that is over it is full already.
    pub(crate) fn will_shed(&self, key: PeerKey, more: usize) -> bool {
        let peer = &self.table[key];
        (peer.full || peer.queue.len() + more >= self.config.queue_limit)
            && peer.queue.is_worth_shedding(more)
    }

    /// Whether a peer's send queue has reached the hard limit.
    pub(crate) fn is_at_hard_limit(&self, key: PeerKey) -> bool {
        let (parts, of) = HARD_LIMIT;
        self.table[key].queue.len() >= self.config.queue_limit / of * parts
    }
}
